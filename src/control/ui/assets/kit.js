// What every page uses: elements whose text is only ever text, requests, words for numbers.

/** An element. Attributes that are functions are listeners; children that are no nodes become text. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === 'function') element.addEventListener(key, value);
    else if (key === 'value') element.value = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
  return add(element, ...children);
}

/** Adds children: lists are taken apart, nothing is left out, what is no node becomes text. */
export function add(element, ...children) {
  const shown = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...shown.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return element;
}

// A click is a press and a release on the same element: what is pressed is not drawn anew.
let pressed = null;
window.addEventListener('pointerdown', (event) => (pressed = event.target), true);
for (const end of ['pointerup', 'pointercancel']) window.addEventListener(end, () => (pressed = null), true);

/** Shows children in place of what was there. What looks the same stays, and the focus stays where it was. */
export function fill(element, ...children) {
  const next = add(document.createElement(element.localName), ...children);
  const same = element.innerHTML === next.innerHTML && !element.querySelector('input, select, textarea');
  if (same || (pressed && element.contains(pressed))) return;
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const name = (one) =>
    `${one.localName} ${one.getAttribute('aria-label') || one.getAttribute('href') || one.textContent}`;
  element.replaceChildren(...next.childNodes);
  if (focused) [...element.querySelectorAll('a, button, summary')].find((one) => name(one) === name(focused))?.focus();
}

export const part = encodeURIComponent;

/** JSON in, JSON out; a refusal is an error with the server's words. */
export async function call(method, path, body, media = 'application/json') {
  const options = { method, headers: { accept: 'application/json, application/vnd.kafka.v2+json' } };
  if (body !== undefined) {
    options.headers['content-type'] = media;
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options).catch(() => {
    throw new Error('The broker does not answer.');
  });
  const text = await response.text();
  const answer = text ? JSON.parse(text) : {};
  if (!response.ok) throw new Error(answer.message || `${response.status} ${response.statusText}`);
  return answer;
}
export const get = (path) => call('GET', path);

export function toast(text, wrong = false) {
  const place = document.getElementById('toasts');
  if ([...place.children].some((note) => note.textContent === text)) return;
  const note = h('div', { class: wrong ? 'toast wrong' : 'toast' }, text);
  place.append(note);
  setTimeout(() => note.remove(), wrong ? 9000 : 4000);
}

/** Runs something and says what went wrong, if so. */
export async function attempt(work, done) {
  try {
    const result = await work();
    if (done) toast(done);
    return result;
  } catch (error) {
    toast(error.message, true);
    return undefined;
  }
}

export const count = (value) => (value === null || value === undefined ? '–' : Number(value).toLocaleString('en'));
export function bytes(value) {
  if (value === null || value === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}
export function micros(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} ms`;
  return `${Math.round(value)} µs`;
}
export const time = (ms) => (ms < 0 ? '–' : new Date(ms).toISOString().replace('T', ' ').replace('Z', ''));

export const card = (name, value, title) => h('div', { class: 'card', title }, h('b', {}, value), h('span', {}, name));

/** Columns: { name, of: row => child, number }. */
export function table(columns, rows, empty = 'Nothing here.') {
  const head = columns.map((column) =>
    h('th', { scope: 'col', class: column.number ? 'n' : null }, column.head || column.name),
  );
  const body = rows.map((row) =>
    h(
      'tr',
      {},
      columns.map((column) => h('td', { class: column.number ? 'n' : null }, column.of(row))),
    ),
  );
  if (!rows.length) body.push(h('tr', {}, h('td', { colspan: columns.length, class: 'muted' }, empty)));
  return h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, head)), h('tbody', {}, body)));
}

/** A modal form; resolves with the form's values, or nothing when it was given up. */
export function ask(title, fields, { word = 'OK', danger = false } = {}) {
  return new Promise((resolve) => {
    const form = h(
      'form',
      { method: 'dialog' },
      h('h2', {}, title),
      fields,
      h(
        'div',
        { class: 'ends' },
        h('button', { type: 'button', click: () => dialog.close() }, 'Cancel'),
        h('button', { class: danger ? 'danger' : 'main', value: 'ok' }, word),
      ),
    );
    const dialog = h('dialog', { 'aria-label': title }, form);
    dialog.addEventListener('close', () => {
      resolve(dialog.returnValue === 'ok' ? Object.fromEntries(new FormData(form)) : undefined);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
export const field = (name, label, attributes = {}) => h('label', {}, label, h('input', { name, ...attributes }));
export const choice = (name, label, options, chosen) =>
  h(
    'label',
    {},
    label,
    h(
      'select',
      { name },
      options.map(([value, word]) => h('option', { value, selected: value === chosen }, word)),
    ),
  );

/**
 * Runs at once and then every so often, as long as the page is shown. `hold` waits for the end of a run and lets none begin
 * until `release`: what is being deleted is not asked for.
 */
export function every(ms, page, work) {
  let running = null;
  let held = false;
  const tick = async () => {
    if (!page.isConnected) return;
    if (!document.hidden && !held) await (running = attempt(work));
    setTimeout(tick, ms);
  };
  setTimeout(tick, 0);
  return {
    hold: async () => {
      held = true;
      await running;
    },
    release: () => {
      held = false;
    },
  };
}
