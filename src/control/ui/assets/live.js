// Each shard as it works: load, ring, mailboxes, journal, latency.
import { add, bytes, card, count, every, fill, get, h, micros, table } from '/ui/kit.js';
import { chart, quantile } from '/ui/chart.js';

const KEPT = 120;

export async function live(page) {
  const body = h('div', {});
  add(page, h('h1', {}, 'Live'), body);
  const samples = [];
  const update = async () => {
    samples.push(await get('/api/live'));
    if (samples.length > KEPT) samples.shift();
    draw(body, samples);
  };
  await update();
  every(1000, page, update);
}

function draw(body, samples) {
  const now = samples.at(-1);
  const pairs = samples
    .slice(1)
    .map((after, index) => [samples[index], after, Math.max((after.at_ms - samples[index].at_ms) / 1000, 0.001)]);
  const rate = (shard, name) =>
    pairs.map(
      ([before, after, seconds]) =>
        Math.max(0, after.shards[shard].counters[name] - before.shards[shard].counters[name]) / seconds,
    );
  const total = (name) =>
    pairs.map(
      ([before, after, seconds]) =>
        now.shards.reduce(
          (sum, _, shard) =>
            sum + Math.max(0, after.shards[shard].counters[name] - before.shards[shard].counters[name]),
          0,
        ) / seconds,
    );
  const each = (name, of) => now.shards.map((_, shard) => ({ name: `${name} ${shard}`, points: of(shard) }));
  const api = (name, part) => pairs.map(([before, after]) => quantile(before.apis[name], after.apis[name], part));
  const journal = (shard, kind, part) =>
    pairs.map(([before, after]) => quantile(before.shards[shard][kind], after.shards[shard][kind], part));
  const perSecond = (value) => `${count(Math.round(value))}/s`;
  const percent = (value) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;
  const panel = (title, series, show) =>
    h('section', { class: 'panel' }, h('h2', {}, title), chart(series, show, title));
  const sum = (of) => now.shards.reduce((all, shard) => all + of(shard), 0);
  const last = (list) => list.at(-1) || 0;
  fill(
    body,
    h(
      'div',
      { class: 'cards' },
      card('records in', perSecond(last(total('records_produced')))),
      card('in', `${bytes(last(total('bytes_produced')))}/s`),
      card('out', `${bytes(last(total('bytes_fetched')))}/s`),
      card('connections', count(sum((shard) => shard.connections))),
      card('mail waiting', count(sum((shard) => shard.mail_waiting + shard.mail_unsent))),
      card('appends that wait', bytes(sum((shard) => shard.stalled_bytes))),
    ),
    h('h2', {}, 'The last two minutes'),
    h(
      'div',
      { class: 'panels' },
      panel(
        'Busy',
        each('shard', (shard) =>
          pairs.map(([before, after, seconds]) =>
            Math.min(1, (after.shards[shard].counters.busy_ns - before.shards[shard].counters.busy_ns) / 1e9 / seconds),
          ),
        ),
        percent,
      ),
      panel(
        'Bytes',
        [
          { name: 'in', points: total('bytes_produced') },
          { name: 'out', points: total('bytes_fetched') },
        ],
        (value) => `${bytes(value)}/s`,
      ),
      panel(
        'Produce, time to the answer',
        [
          { name: 'p50', points: api('Produce', 0.5) },
          { name: 'p99', points: api('Produce', 0.99) },
        ],
        micros,
      ),
      panel(
        'Durable journal writes, p99',
        each('shard', (shard) => journal(shard, 'journal_durable', 0.99)),
        micros,
      ),
      panel(
        'Turns',
        each('shard', (shard) => rate(shard, 'turns')),
        perSecond,
      ),
      panel(
        'Turn, p99',
        each('shard', (shard) => journal(shard, 'turn', 0.99)),
        micros,
      ),
      panel(
        'Ring completions',
        each('shard', (shard) => rate(shard, 'completions')),
        perSecond,
      ),
      panel(
        'Requests',
        each('shard', (shard) => rate(shard, 'requests')),
        perSecond,
      ),
    ),
    h('h2', {}, 'Shards'),
    table(
      [
        { name: 'Shard', number: true, of: ([, index]) => index },
        { name: 'Connections', number: true, of: ([one]) => count(one.connections) },
        { name: 'Mail waiting', number: true, of: ([one]) => count(one.mail_waiting) },
        { name: 'Mail unsent', number: true, of: ([one]) => count(one.mail_unsent) },
        { name: 'Requests waiting', number: true, of: ([one]) => count(one.gathers) },
        { name: 'Journal in use', number: true, of: ([one]) => bytes(one.journal_used_bytes) },
        { name: 'Tail', number: true, of: ([one]) => bytes(one.tail_bytes) },
        {
          name: 'Memory',
          number: true,
          of: ([one]) => `${bytes(one.memory_used_bytes)} of ${bytes(one.memory_limit_bytes)}`,
        },
        {
          name: 'Ops a system call',
          number: true,
          of: ([one]) => (one.counters.submissions / Math.max(1, one.counters.system_calls)).toFixed(2),
        },
        { name: 'Fetches parked', number: true, of: ([one]) => count(one.counters.fetches_parked) },
      ],
      now.shards.map((one, index) => [one, index]),
    ),
    h('h2', {}, 'Requests since the start'),
    table(
      [
        { name: 'Request', of: ([name]) => name },
        { name: 'Number', number: true, of: ([, list]) => count(list.reduce((all, [, number]) => all + number, 0)) },
        ...[
          ['p50', 0.5],
          ['p99', 0.99],
          ['p99.9', 0.999],
        ].map(([word, part]) => ({ name: word, number: true, of: ([, list]) => micros(quantile([], list, part)) })),
      ],
      Object.entries(now.apis),
      'None yet.',
    ),
  );
}
