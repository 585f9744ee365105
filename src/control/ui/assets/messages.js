// The message browser, and producing one.
import { add, ask, attempt, bytes, call, choice, count, field, fill, get, h, part, time } from '/ui/kit.js';
import { state } from '/ui/app.js';
import { FORMATS, decode, toBase64 } from '/ui/decode.js';

const BINARY = 'application/vnd.kafka.binary.v2+json';

export async function messages(page, topic) {
  const about = await get(`/api/topics/${part(topic)}`);
  const partition = h(
    'select',
    {},
    h('option', { value: '' }, 'all'),
    about.partitions.map((one) => h('option', { value: one.partition }, one.partition)),
  );
  const from = h(
    'select',
    { change: () => shape() },
    [
      ['end', 'the newest'],
      ['beginning', 'the beginning'],
      ['offset', 'an offset'],
      ['time', 'a time'],
    ].map(([value, word]) => h('option', { value }, word)),
  );
  const offset = h('input', { type: 'number', min: 0, value: 0 });
  const moment = h('input', { type: 'datetime-local', step: 1 });
  const filter = h('input', { type: 'search', placeholder: 'text in key, value or headers' });
  const limit = h(
    'select',
    {},
    [20, 50, 100, 500].map((value) => h('option', { value, selected: value === 50 }, value)),
  );
  const committed = h('input', { type: 'checkbox' });
  const keyFormat = h(
    'select',
    { change: () => draw() },
    FORMATS.map(([value, word]) => h('option', { value }, word)),
  );
  const valueFormat = h(
    'select',
    { change: () => draw() },
    FORMATS.map(([value, word]) => h('option', { value }, word)),
  );
  const schema = h('textarea', {
    placeholder: '{"type": "record", …}',
    'aria-label': 'Avro schema',
    input: () => draw(),
  });
  const schemaBox = h('label', {}, 'Avro schema', schema);
  const offsetBox = h('label', {}, 'Offset', offset);
  const timeBox = h('label', {}, 'Time', moment);
  const list = h('div', {});
  const foot = h('div', { class: 'bar' });
  let found = { records: [], next: {}, done: true };
  const shape = () => {
    offsetBox.hidden = from.value !== 'offset';
    timeBox.hidden = from.value !== 'time';
  };
  const label = (word, child) => h('label', {}, word, child);

  const load = async (next) => {
    const query = {
      from: next ? 'next' : from.value,
      limit: limit.value,
      filter: filter.value,
      committed: committed.checked,
    };
    if (partition.value !== '') query.partition = partition.value;
    if (next)
      query.positions = Object.entries(next)
        .map((pair) => pair.join(':'))
        .join(',');
    else if (from.value === 'offset') query.at = offset.value;
    else if (from.value === 'time') query.at = new Date(moment.value).getTime() || 0;
    found = await get(`/api/topics/${part(topic)}/messages?${new URLSearchParams(query)}`);
    draw();
  };
  const draw = () => {
    schemaBox.hidden = keyFormat.value !== 'avro' && valueFormat.value !== 'avro';
    const rows = found.records.flatMap((one) => row(one));
    fill(
      list,
      h(
        'div',
        { class: 'scroll' },
        h(
          'table',
          { class: 'messages' },
          h(
            'thead',
            {},
            h(
              'tr',
              {},
              ['', 'Partition', 'Offset', 'Time (UTC)', 'Key', 'Value', 'Size'].map((name) =>
                h('th', { scope: 'col', class: ['Partition', 'Offset', 'Size'].includes(name) ? 'n' : null }, name),
              ),
            ),
          ),
          h('tbody', {}, rows.length ? rows : h('tr', {}, h('td', { colspan: 7, class: 'muted' }, 'No records here.'))),
        ),
      ),
    );
    fill(
      foot,
      h('button', { disabled: found.done, click: () => attempt(() => load(found.next)) }, 'Next'),
      h(
        'span',
        { class: 'muted' },
        found.scanned_records === undefined
          ? ''
          : `${count(found.scanned_records)} records, ${bytes(found.scanned_bytes)} looked through${found.done ? ', up to the end' : ''}`,
      ),
    );
  };
  const row = (one) => {
    const key = decode(one.key, keyFormat.value, schema.value);
    const value = decode(one.value, valueFormat.value, schema.value);
    const detail = h(
      'tr',
      { hidden: true },
      h(
        'td',
        { colspan: 7 },
        section('Key', key, one.key_bytes),
        section('Value', value, one.value_bytes),
        one.headers.length
          ? [
              h('h2', {}, 'Headers'),
              one.headers.map((header) =>
                h('div', {}, h('code', {}, header.name), ' ', h('code', {}, decode(header.value, 'auto').text)),
              ),
            ]
          : null,
      ),
    );
    const toggle = h(
      'button',
      {
        'aria-expanded': 'false',
        'aria-label': `Show record ${one.offset} of partition ${one.partition}`,
        click: () => {
          detail.hidden = !detail.hidden;
          toggle.setAttribute('aria-expanded', String(!detail.hidden));
          toggle.textContent = detail.hidden ? '+' : '−';
        },
      },
      '+',
    );
    const short = (shown) =>
      h('div', { class: shown.kind === 'null' ? 'one muted' : 'one' }, shown.text.slice(0, 300).replace(/\s+/g, ' '));
    return [
      h(
        'tr',
        {},
        h('td', {}, toggle),
        h('td', { class: 'n' }, one.partition),
        h('td', { class: 'n' }, one.offset),
        h('td', {}, time(one.timestamp)),
        h('td', {}, short(key)),
        h('td', {}, short(value)),
        h('td', { class: 'n' }, bytes((one.key_bytes || 0) + (one.value_bytes || 0))),
      ),
      detail,
    ];
  };
  const section = (name, shown, size) => [
    h(
      'h2',
      {},
      `${name} `,
      h('span', { class: 'tag' }, shown.kind),
      size > 65536 ? h('span', { class: 'tag' }, `the first 64 KiB of ${bytes(size)}`) : null,
    ),
    h('pre', {}, shown.text),
  ];

  const produce = async () => {
    const values = await ask(
      `Produce to ${topic}`,
      [
        field('key', 'Key (empty: none)', { autofocus: true }),
        h('label', {}, 'Value', h('textarea', { name: 'value' })),
        h('label', { class: 'row' }, h('input', { type: 'checkbox', name: 'tombstone' }), 'no value: a tombstone'),
        h('label', {}, 'Headers, one name=value a line', h('textarea', { name: 'headers' })),
        choice('partition', 'Partition', [
          ['', 'by the key'],
          ...about.partitions.map((one) => [String(one.partition), String(one.partition)]),
        ]),
        choice('acks', 'Acknowledgement', [
          ['all', 'all'],
          ['1', '1'],
          ['0', '0'],
        ]),
      ],
      { word: 'Produce' },
    );
    if (!values) return;
    const record = {
      key: values.key ? toBase64(values.key) : null,
      value: values.tombstone ? null : toBase64(values.value),
      headers: values.headers
        .split('\n')
        .filter((line) => line.includes('='))
        .map((line) => ({
          name: line.slice(0, line.indexOf('=')),
          value: toBase64(line.slice(line.indexOf('=') + 1)),
        })),
    };
    if (values.partition !== '') record.partition = Number(values.partition);
    const answer = await attempt(() =>
      call('POST', `/topics/${part(topic)}?acks=${values.acks}`, { records: [record] }, BINARY),
    );
    if (!answer) return;
    const [told] = answer.offsets;
    await attempt(
      async () => {
        if (told.error) throw new Error(told.error);
      },
      told.error ? undefined : `Partition ${told.partition}, offset ${told.offset ?? 'not asked for'}.`,
    );
    await attempt(() => load());
  };

  add(
    page,
    h(
      'form',
      {
        class: 'bar',
        submit: (event) => {
          event.preventDefault();
          attempt(() => load());
        },
      },
      label('Partition', partition),
      label('From', from),
      offsetBox,
      timeBox,
      label('Filter', filter),
      label('At most', limit),
      h('label', { class: 'row' }, committed, 'committed only'),
      h('button', { class: 'main' }, 'Show'),
      state.readOnly ? null : h('button', { type: 'button', click: produce }, 'Produce a record'),
    ),
    h('div', { class: 'bar' }, label('Show keys as', keyFormat), label('Show values as', valueFormat)),
    schemaBox,
    list,
    foot,
  );
  shape();
  await load();
}
