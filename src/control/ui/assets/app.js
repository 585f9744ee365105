// The page: which part of the address shows what.
import { attempt, get, h } from '/ui/kit.js';
import { overview, brokers, acls } from '/ui/overview.js';
import { topics, topic } from '/ui/topics.js';
import { groups, group } from '/ui/groups.js';
import { live } from '/ui/live.js';
import { load } from '/ui/load.js';
import { tuning } from '/ui/tuning.js';

const PAGES = [
  ['', 'Overview', overview],
  ['topics', 'Topics', topics],
  ['groups', 'Groups', groups],
  ['brokers', 'Brokers', brokers],
  ['live', 'Live', live],
  ['load', 'Load test', load],
  ['tuning', 'Tuning', tuning],
  ['acls', 'ACLs and users', acls],
];
const INNER = { topics: topic, groups: group };

export const state = { readOnly: false, cluster: '', node: 1 };

async function show() {
  const [name = '', ...rest] = location.hash.replace(/^#\/?/, '').split('/').map(decodeURIComponent);
  const found = PAGES.find(([path]) => path === name) || PAGES[0];
  document
    .getElementById('nav')
    .replaceChildren(
      ...PAGES.map(([path, word]) =>
        h('a', { href: `#/${path}`, 'aria-current': path === found[0] ? 'page' : null }, word),
      ),
    );
  const page = h('div', {});
  const main = document.getElementById('main');
  main.replaceChildren(page);
  document.title = `${rest[0] || found[1]} – Ringlog`;
  const make = rest[0] && INNER[name] ? INNER[name] : found[2];
  await attempt(() => make(page, ...rest));
  page.dataset.ready = 'yes';
}

async function begin() {
  const about = await attempt(() => get('/api/overview'));
  if (about) {
    state.readOnly = about.read_only;
    state.cluster = about.cluster_id;
    state.node = about.node_id;
    document.getElementById('badge').textContent =
      `${about.version} · broker ${about.node_id} · ${about.driver}${about.read_only ? ' · read-only' : ''}`;
  }
  window.addEventListener('hashchange', () => {
    show();
    document.getElementById('main').focus();
  });
  await show();
}
begin();
