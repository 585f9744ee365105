// Consumer groups: state, members, lag; resetting and deleting.
import { add, ask, attempt, call, card, choice, count, every, field, fill, get, h, part, table } from '/ui/kit.js';
import { state } from '/ui/app.js';

export async function groups(page) {
  const list = h('div', {});
  const search = h('input', {
    type: 'search',
    placeholder: 'Find a group',
    'aria-label': 'Find a group',
    input: () => show(),
  });
  let found = { groups: [], total: 0 };
  const show = () => {
    const text = search.value.toLowerCase();
    fill(
      list,
      table(
        [
          { name: 'Group', of: (one) => h('a', { href: `#/groups/${part(one.id)}` }, one.id) },
          { name: 'State', of: (one) => one.state },
          { name: 'Type', of: (one) => one.type || one.protocol_type },
          { name: 'Members', number: true, of: (one) => count(one.members) },
          { name: 'Topics', of: (one) => one.topics.slice(0, 5).join(', ') + (one.topics.length > 5 ? ' …' : '') },
          { name: 'Lag', number: true, of: (one) => h('span', { class: one.lag > 0 ? 'warm' : null }, count(one.lag)) },
        ],
        found.groups.filter((one) => one.id.toLowerCase().includes(text)),
        'No group.',
      ),
    );
  };
  const update = async () => {
    found = await get('/api/groups');
    show();
  };
  add(page, h('h1', {}, 'Consumer groups'), h('div', { class: 'bar' }, search), list);
  await update();
  every(4000, page, update);
}

export async function group(page, id) {
  const body = h('div', {});
  let refresh = null;
  const at = `/api/groups/${part(id)}`;
  const update = async () => {
    const found = await get(at);
    const lag = found.partitions.reduce((sum, one) => sum + (one.lag || 0), 0);
    fill(
      body,
      h(
        'div',
        { class: 'cards' },
        card('state', found.state),
        card('members', count(found.members.length)),
        card('lag', count(lag)),
        card('assignor', found.protocol || '–'),
      ),
      h('h2', {}, 'Members'),
      table(
        [
          { name: 'Member', of: (one) => one.id },
          { name: 'Client', of: (one) => one.client_id },
          { name: 'Host', of: (one) => one.host },
          { name: 'Instance', of: (one) => one.instance_id || '–' },
          {
            name: 'Partitions',
            of: (one) => one.assignment.map(([topic, partition]) => `${topic}-${partition}`).join(', '),
          },
        ],
        found.members,
        'No members.',
      ),
      h('h2', {}, 'Committed offsets'),
      table(
        [
          { name: 'Topic', of: (one) => h('a', { href: `#/topics/${part(one.topic)}` }, one.topic) },
          { name: 'Partition', number: true, of: (one) => one.partition },
          { name: 'Committed', number: true, of: (one) => count(one.offset) },
          { name: 'End', number: true, of: (one) => count(one.end) },
          { name: 'Lag', number: true, of: (one) => h('span', { class: one.lag > 0 ? 'warm' : null }, count(one.lag)) },
          { name: 'Member', of: (one) => one.member || '–' },
          { name: 'Metadata', of: (one) => one.metadata },
        ],
        found.partitions,
        'Nothing was committed.',
      ),
    );
  };
  const reset = async () => {
    const values = await ask(
      `Reset the offsets of ${id}`,
      [
        h('p', { class: 'muted' }, 'The group must have no members.'),
        field('topic', 'Topic (empty: all that it has committed)'),
        choice('to', 'To', [
          ['earliest', 'the earliest record'],
          ['latest', 'the end'],
          ['offset', 'an offset'],
          ['shift', 'so many further (or back)'],
          ['time', 'a time (ms since 1970)'],
        ]),
        field('value', 'Offset, number or time', { type: 'number', value: 0 }),
      ],
      { word: 'Preview' },
    );
    if (!values) return;
    const request = { ...values, value: Number(values.value) };
    const preview = await attempt(() => call('POST', `${at}/reset`, { ...request, dry_run: true }));
    if (!preview) return;
    const sure = await ask(
      'Set these offsets?',
      table(
        [
          { name: 'Partition', of: (one) => `${one.topic}-${one.partition}` },
          { name: 'From', number: true, of: (one) => count(one.from) },
          { name: 'To', number: true, of: (one) => count(one.to) },
        ],
        preview.changes,
      ),
      { word: 'Set' },
    );
    if (sure) await attempt(() => call('POST', `${at}/reset`, request), 'The offsets were set.');
    await attempt(update);
  };
  const remove = async () => {
    const sure = await ask(`Delete group ${id}?`, h('p', {}, 'Its committed offsets are forgotten.'), {
      word: 'Delete',
      danger: true,
    });
    if (!sure) return;
    await refresh.hold();
    if (await attempt(() => call('DELETE', at), `${id} was deleted.`)) location.hash = '#/groups';
    else refresh.release();
  };
  add(
    page,
    h('h1', {}, id),
    state.readOnly
      ? null
      : h(
          'div',
          { class: 'bar' },
          h('button', { click: reset }, 'Reset offsets'),
          h('button', { class: 'danger', click: remove }, 'Delete'),
        ),
    body,
  );
  await update();
  refresh = every(3000, page, update);
}
