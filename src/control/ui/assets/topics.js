// Topics: the list, one with its partitions, records and settings.
import {
  add,
  ask,
  attempt,
  bytes,
  call,
  card,
  choice,
  count,
  every,
  field,
  fill,
  get,
  h,
  part,
  table,
} from '/ui/kit.js';
import { state } from '/ui/app.js';
import { settings } from '/ui/settings.js';
import { messages } from '/ui/messages.js';

const PAGE = 100;

export async function topics(page) {
  const view = { search: '', offset: 0, sort: 'name', descending: false, internal: false };
  const list = h('div', {});
  const foot = h('div', { class: 'bar' });
  let asked = 0;
  const update = async () => {
    asked += 1;
    const mine = asked;
    const found = await get(`/api/topics?${new URLSearchParams({ ...view, limit: PAGE })}`);
    if (mine !== asked) return;
    const head = (name, sort) =>
      h(
        'button',
        {
          click: () => {
            view.descending = view.sort === sort ? !view.descending : sort !== 'name';
            view.sort = sort;
            view.offset = 0;
            attempt(update);
          },
        },
        name,
        view.sort === sort ? (view.descending ? ' ▾' : ' ▴') : '',
      );
    fill(
      list,
      table(
        [
          {
            head: head('Name', 'name'),
            of: (one) => [
              h('a', { href: `#/topics/${part(one.name)}` }, one.name),
              one.internal ? [' ', h('span', { class: 'tag' }, 'internal')] : null,
              one.compacted ? [' ', h('span', { class: 'tag' }, 'compacted')] : null,
            ],
          },
          { head: head('Partitions', 'partitions'), number: true, of: (one) => count(one.partitions) },
          { head: head('Records', 'records'), number: true, of: (one) => count(one.records) },
          { head: head('Size', 'size'), number: true, of: (one) => bytes(one.size_bytes) },
          { head: head('In', 'in'), number: true, of: (one) => bytes(one.bytes_in) },
          { head: head('Out', 'out'), number: true, of: (one) => bytes(one.bytes_out) },
        ],
        found.topics,
        'No topic fits.',
      ),
    );
    const last = Math.min(view.offset + PAGE, found.total);
    fill(
      foot,
      h(
        'span',
        { class: 'muted' },
        found.total ? `${count(view.offset + 1)} to ${count(last)} of ${count(found.total)}` : '',
      ),
      h(
        'button',
        {
          disabled: view.offset === 0,
          click: () => {
            view.offset -= PAGE;
            attempt(update);
          },
        },
        'Previous',
      ),
      h(
        'button',
        {
          disabled: last >= found.total,
          click: () => {
            view.offset += PAGE;
            attempt(update);
          },
        },
        'Next',
      ),
    );
  };
  const create = async () => {
    const values = await ask(
      'Create a topic',
      [
        field('name', 'Name', { required: true, autofocus: true, maxlength: 249, pattern: '[a-zA-Z0-9._\\-]+' }),
        field('partitions', 'Partitions', { type: 'number', min: 1, value: 1 }),
        choice('policy', 'When it is full', [
          ['delete', 'Delete old records'],
          ['compact', 'Keep the last of each key (compact)'],
          ['compact,delete', 'Both'],
        ]),
        h('label', {}, 'Further settings, one name=value a line', h('textarea', { name: 'configs' })),
      ],
      { word: 'Create' },
    );
    if (!values) return;
    const configs = values.configs
      .split('\n')
      .filter((line) => line.includes('='))
      .map((line) => ({
        name: line.slice(0, line.indexOf('=')).trim(),
        value: line.slice(line.indexOf('=') + 1).trim(),
      }));
    if (values.policy !== 'delete') configs.push({ name: 'cleanup.policy', value: values.policy });
    const body = { topic_name: values.name, partitions_count: Number(values.partitions), configs };
    await attempt(
      () => call('POST', `/v3/clusters/${part(state.cluster)}/topics`, body),
      `${values.name} was created.`,
    );
    await attempt(update);
  };
  let wait;
  const search = h('input', {
    type: 'search',
    placeholder: 'Find a topic',
    'aria-label': 'Find a topic',
    input: () => {
      clearTimeout(wait);
      wait = setTimeout(() => {
        view.search = search.value;
        view.offset = 0;
        attempt(update);
      }, 150);
    },
  });
  const internal = h('input', {
    type: 'checkbox',
    change: () => {
      view.internal = internal.checked;
      view.offset = 0;
      attempt(update);
    },
  });
  add(
    page,
    h('h1', {}, 'Topics'),
    h(
      'div',
      { class: 'bar' },
      search,
      h('label', { class: 'row' }, internal, 'internal ones'),
      state.readOnly ? null : h('button', { class: 'main', click: create }, 'Create a topic'),
    ),
    list,
    foot,
  );
  await update();
  every(5000, page, update);
}

export async function topic(page, name, tab = 'partitions') {
  const here = `#/topics/${part(name)}`;
  const tabs = [
    ['partitions', 'Partitions'],
    ['messages', 'Messages'],
    ['settings', 'Settings'],
  ];
  const rest = `/v3/clusters/${part(state.cluster)}/topics/${part(name)}`;
  const body = h('div', {});
  let refresh = null;
  const remove = async () => {
    const values = await ask(
      `Delete ${name}?`,
      [
        h('p', {}, 'Its records are lost for good. Write its name to go on.'),
        field('name', 'Name', { required: true, autofocus: true }),
      ],
      { word: 'Delete', danger: true },
    );
    if (!values) return;
    if (values.name !== name) {
      await attempt(() => Promise.reject(new Error('That is not its name.')));
      return;
    }
    await refresh?.hold();
    if (await attempt(() => call('DELETE', rest), `${name} was deleted.`)) location.hash = '#/topics';
    else refresh?.release();
  };
  const grow = async () => {
    const found = await get(`/api/topics/${part(name)}`);
    const values = await ask(
      'Add partitions',
      [
        h('p', { class: 'muted' }, 'Keys may go to other partitions afterwards, and there is no way back.'),
        field('partitions', 'Partitions in all', {
          type: 'number',
          min: found.partitions.length + 1,
          value: found.partitions.length + 1,
          autofocus: true,
        }),
      ],
      { word: 'Add' },
    );
    if (values)
      await attempt(
        () => call('PATCH', rest, { partitions_count: Number(values.partitions) }),
        'Partitions were added.',
      );
    if (values && tab === 'partitions') await attempt(() => partitions(body, name));
  };
  add(
    page,
    h('h1', {}, name),
    h(
      'div',
      { class: 'tabs' },
      tabs.map(([path, word]) =>
        h('a', { href: `${here}/${path}`, 'aria-current': path === tab ? 'page' : null }, word),
      ),
    ),
    state.readOnly
      ? null
      : h(
          'div',
          { class: 'bar' },
          h('button', { click: grow }, 'Add partitions'),
          h('button', { class: 'danger', click: remove }, 'Delete'),
        ),
    body,
  );
  if (tab === 'messages') await messages(body, name);
  else if (tab === 'settings') await settings(body, 'topic', name, rest);
  else {
    await partitions(body, name);
    refresh = every(3000, body, () => partitions(body, name));
  }
}

async function partitions(body, name) {
  const found = await get(`/api/topics/${part(name)}`);
  const sum = (of) => found.partitions.reduce((all, one) => all + (of(one) || 0), 0);
  const empty = async (one) => {
    const values = await ask(
      `Delete records of partition ${one.partition}`,
      [
        field('before', 'Those before offset', {
          type: 'number',
          min: one.start_offset,
          max: one.high_watermark,
          value: one.high_watermark,
        }),
      ],
      { word: 'Delete', danger: true },
    );
    if (values)
      await attempt(
        () =>
          call('POST', `/api/topics/${part(name)}/truncate`, {
            partition: one.partition,
            before: Number(values.before),
          }),
        'The records are gone.',
      );
    await attempt(() => partitions(body, name));
  };
  fill(
    body,
    h(
      'div',
      { class: 'cards' },
      card('partitions', count(found.partitions.length)),
      card('records', count(sum((one) => one.high_watermark - one.start_offset))),
      card('size', bytes(sum((one) => one.size_bytes))),
    ),
    h('p', { class: 'muted' }, 'Topic id ', h('code', {}, found.id)),
    h('h2', {}, 'Partitions'),
    table(
      [
        { name: 'Partition', number: true, of: (one) => one.partition },
        { name: 'Leader', number: true, of: (one) => one.leader },
        { name: 'Replicas', of: (one) => one.replicas.join(', ') },
        {
          name: 'In sync',
          of: (one) => h('span', { class: one.isr.length < one.replicas.length ? 'bad' : null }, one.isr.join(', ')),
        },
        { name: 'Start', number: true, of: (one) => count(one.start_offset) },
        { name: 'High watermark', number: true, of: (one) => count(one.high_watermark) },
        { name: 'End', number: true, of: (one) => count(one.end_offset) },
        { name: 'Size', number: true, of: (one) => bytes(one.size_bytes) },
        { name: 'Segments', number: true, of: (one) => count(one.segments) },
        { name: 'Shard', number: true, of: (one) => one.shard },
        { name: 'Directory', of: (one) => one.dir || '–' },
        {
          name: '',
          of: (one) =>
            state.readOnly || !one.high_watermark
              ? null
              : h(
                  'button',
                  { click: () => empty(one), 'aria-label': `Delete records of partition ${one.partition}` },
                  'Delete records',
                ),
        },
      ],
      found.partitions,
    ),
  );
}
