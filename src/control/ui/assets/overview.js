// The cluster in short, its brokers with their settings, and security as it is.
import { add, attempt, bytes, card, count, every, fill, get, h, part, table } from '/ui/kit.js';
import { settings } from '/ui/settings.js';

const span = (seconds) =>
  seconds < 3600
    ? `${Math.floor(seconds / 60)} min`
    : seconds < 172800
      ? `${Math.floor(seconds / 3600)} h`
      : `${Math.floor(seconds / 86400)} days`;

export async function overview(page) {
  const body = h('div', {});
  add(page, h('h1', {}, 'Overview'), body);
  const update = async () => {
    const found = await get('/api/overview');
    const offline = found.dirs.filter((dir) => !dir.online).length;
    fill(
      body,
      h(
        'div',
        { class: 'cards' },
        card('topics', count(found.topics)),
        card('partitions', count(found.partitions)),
        card('data', bytes(found.size_bytes)),
        card('connections', count(found.connections)),
        card('shards', found.shards),
        card('up', span(found.uptime_seconds)),
        card(`of ${bytes(found.memory_limit_bytes)} for data`, bytes(found.memory_used_bytes)),
        card('directories offline', offline),
      ),
      h('h2', {}, 'Log directories'),
      table(
        [
          { name: 'Directory', of: (dir) => dir.path },
          {
            name: 'State',
            of: (dir) => h('span', { class: dir.online ? 'good' : 'bad' }, dir.online ? 'online' : 'offline'),
          },
          { name: 'Partitions', number: true, of: (dir) => count(dir.partitions) },
          { name: 'Data', number: true, of: (dir) => bytes(dir.size_bytes) },
        ],
        found.dirs,
      ),
      h('h2', {}, 'What an acknowledgement promises'),
      table(
        [
          { name: 'Asked', of: ([name]) => h('code', {}, name) },
          { name: 'Level', of: ([, level]) => level },
        ],
        Object.entries(found.ack_levels),
      ),
      h('h2', {}, 'Largest topics'),
      table(
        [
          { name: 'Topic', of: (one) => h('a', { href: `#/topics/${part(one.name)}` }, one.name) },
          { name: 'Data', number: true, of: (one) => bytes(one.size_bytes) },
        ],
        found.largest,
        'No topics yet.',
      ),
      h(
        'p',
        { class: 'muted' },
        `Cluster ${found.cluster_id}, listening on ${found.listeners.join(', ')}. `,
        h('a', { href: '/metrics' }, 'Metrics'),
        ' · ',
        h('a', { href: '/openapi.json' }, 'REST description'),
      ),
    );
  };
  await update();
  every(3000, page, update);
}

export async function brokers(page) {
  const about = await get('/api/overview');
  const found = await get(`/v3/clusters/${part(about.cluster_id)}/brokers`);
  add(
    page,
    h('h1', {}, 'Brokers'),
    table(
      [
        { name: 'Id', of: (one) => one.broker_id },
        { name: 'Address', of: (one) => `${one.host}:${one.port}` },
        { name: 'Rack', of: (one) => one.rack || '–' },
        { name: 'Controller', of: (one) => (one.broker_id === about.node_id ? 'yes' : '') },
        { name: 'Runs on', of: () => about.driver },
      ],
      found.data,
    ),
    h('h2', {}, `Settings of broker ${about.node_id}`),
  );
  await settings(
    page,
    'broker',
    String(about.node_id),
    `/v3/clusters/${part(about.cluster_id)}/brokers/${about.node_id}`,
  );
}

export async function acls(page) {
  const about = await get('/api/overview');
  const found = await attempt(() => get(`/v3/clusters/${part(about.cluster_id)}/acls`));
  add(
    page,
    h('h1', {}, 'ACLs and users'),
    h(
      'div',
      { class: 'panel' },
      h(
        'p',
        {},
        'This broker has no security yet: everyone who reaches its listeners may do everything, there are no users, and ACLs cannot be made.',
      ),
      h(
        'p',
        { class: 'muted' },
        'Bind the listeners to addresses that only friends reach, and set ringlog.http.read.only=true where this page is for looking only.',
      ),
    ),
    h('h2', {}, 'ACLs'),
    table(
      [
        { name: 'Principal', of: (one) => one.principal },
        { name: 'Resource', of: (one) => one.resource_name },
        { name: 'Operation', of: (one) => one.operation },
        { name: 'Permission', of: (one) => one.permission },
      ],
      found ? found.data : [],
      'There are none.',
    ),
  );
}
