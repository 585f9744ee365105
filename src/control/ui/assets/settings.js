// Settings of a topic or a broker: found by name, changed one at a time.
import { add, ask, attempt, call, field, fill, get, h, part, table } from '/ui/kit.js';
import { state } from '/ui/app.js';

export async function settings(page, kind, name, path) {
  const list = h('div', {});
  const search = h('input', {
    type: 'search',
    placeholder: 'Find a setting',
    'aria-label': 'Find a setting',
    input: () => show(),
  });
  const changed = h('input', { type: 'checkbox', change: () => show() });
  add(
    page,
    h('div', { class: 'bar' }, search, h('label', { class: 'row' }, changed, 'only those that were set')),
    list,
  );
  let all = [];
  const load = async () => {
    all = (await get(`/api/settings/${kind}/${part(name)}`)).settings;
    show();
  };
  const edit = async (one) => {
    const values = await ask(
      one.name,
      [
        h('p', { class: 'muted' }, one.documentation || ''),
        field('value', 'Value', { value: one.value ?? '', autofocus: true }),
      ],
      { word: 'Set' },
    );
    if (!values) return;
    await attempt(
      () => call('PUT', `${path}/configs/${part(one.name)}`, { value: values.value }),
      `${one.name} was set.`,
    );
    await attempt(load);
  };
  const unset = async (one) => {
    await attempt(() => call('DELETE', `${path}/configs/${part(one.name)}`), `${one.name} has its default again.`);
    await attempt(load);
  };
  function show() {
    const text = search.value.toLowerCase();
    const rows = all.filter((one) => one.name.includes(text) && (!changed.checked || !one.default));
    fill(
      list,
      table(
        [
          {
            name: 'Name',
            of: (one) =>
              one.documentation
                ? h('details', {}, h('summary', {}, one.name), h('p', { class: 'muted' }, one.documentation))
                : one.name,
          },
          { name: 'Value', of: (one) => h('code', {}, one.sensitive ? '(hidden)' : (one.value ?? '–')) },
          { name: '', of: (one) => h('span', { class: 'tag' }, one.default ? 'default' : 'set') },
          {
            name: '',
            of: (one) =>
              one.read_only || state.readOnly
                ? null
                : [
                    h('button', { click: () => edit(one), 'aria-label': `Change ${one.name}` }, 'Change'),
                    one.default
                      ? null
                      : [' ', h('button', { click: () => unset(one), 'aria-label': `Unset ${one.name}` }, 'Unset')],
                  ],
          },
        ],
        rows,
      ),
    );
  }
  await load();
}
