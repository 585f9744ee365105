// Load tests against this broker, and what earlier ones found.
import { add, attempt, bytes, call, choice, count, every, field, fill, get, h, micros, table, time } from '/ui/kit.js';
import { state } from '/ui/app.js';
import { chart } from '/ui/chart.js';

const ns = (value) => micros((value || 0) / 1000);

export async function load(page) {
  const status = h('div', {});
  const history = h('div', {});
  const start = async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(event.target));
    const request = { acks: values.acks, compression: values.compression, idempotent: values.idempotent === 'on' };
    for (const name of ['rate', 'seconds', 'record_bytes', 'partitions', 'producers', 'consumers', 'batch_bytes'])
      request[name] = Number(values[name]);
    await attempt(() => call('POST', '/api/load', request), 'The load test began.');
    await attempt(update);
  };
  const number = (name, label, value, min, max) => field(name, label, { type: 'number', value, min, max });
  add(
    page,
    h('h1', {}, 'Load test'),
    h(
      'p',
      { class: 'muted' },
      'Runs ',
      h('code', {}, 'ringlog load'),
      ' on this machine against this broker: arrivals are planned, latency counts from the planned time, every record is checked. The generator shares the cores with the broker; for figures to publish run it elsewhere.',
    ),
    state.readOnly
      ? null
      : h(
          'form',
          { class: 'bar', submit: start },
          number('rate', 'Records a second (0: as many as go)', 1000, 0, 100000000),
          number('seconds', 'Seconds', 10, 1, 300),
          number('record_bytes', 'Record bytes', 1024, 64, 1000000),
          number('partitions', 'Partitions', 6, 1, 256),
          number('producers', 'Producers', 1, 1, 32),
          number('consumers', 'Consumers', 1, 0, 32),
          number('batch_bytes', 'Batch bytes', 16384, 1024, 1000000),
          choice('acks', 'Acks', [
            ['all', 'all'],
            ['1', '1'],
            ['0', '0'],
          ]),
          choice(
            'compression',
            'Compression',
            ['none', 'gzip', 'snappy', 'lz4', 'zstd'].map((word) => [word, word]),
          ),
          h('label', { class: 'row' }, h('input', { type: 'checkbox', name: 'idempotent' }), 'idempotent'),
          h('button', { class: 'main' }, 'Start'),
        ),
    status,
    history,
  );
  let drawn = '';
  const update = async () => {
    const found = await get('/api/load');
    const running = found.running;
    fill(
      status,
      ...(running
        ? [
            h(
              'div',
              { class: 'panel' },
              h(
                'p',
                {},
                `Running for ${Math.round((running.now_ms - running.began_ms) / 1000)} s `,
                h('progress', { max: running.asked.seconds || 10, value: (running.now_ms - running.began_ms) / 1000 }),
              ),
              state.readOnly ? null : h('button', { click: () => attempt(() => call('DELETE', '/api/load')) }, 'Stop'),
            ),
          ]
        : []),
    );
    const mark = JSON.stringify(found.history.map((one) => one.began_ms));
    if (mark !== drawn) {
      drawn = mark;
      draw(history, found.history);
    }
  };
  await update();
  every(1000, page, update);
}

function draw(place, runs) {
  const good = runs.filter((one) => one.report);
  const latency = (run, name, part) => (run.report.latency[name] || {})[part];
  const series = [...good].reverse();
  fill(
    place,
    good.length
      ? h(
          'div',
          { class: 'panels' },
          h(
            'section',
            { class: 'panel' },
            h('h2', {}, 'Acknowledgement, run by run'),
            chart(
              [
                { name: 'p50', points: series.map((run) => latency(run, 'ack', 'p50_ns') / 1000) },
                { name: 'p99', points: series.map((run) => latency(run, 'ack', 'p99_ns') / 1000) },
              ],
              micros,
              'Latency of all runs',
            ),
          ),
          h(
            'section',
            { class: 'panel' },
            h('h2', {}, 'Throughput, run by run'),
            chart(
              [{ name: 'records/s', points: series.map((run) => run.report.produced.records_per_second) }],
              (value) => count(Math.round(value)),
              'Throughput of all runs',
            ),
          ),
          h(
            'section',
            { class: 'panel' },
            h('h2', {}, 'The last run, second by second'),
            chart(
              [
                { name: 'p50', points: good[0].series.ack_p50_us },
                { name: 'p99', points: good[0].series.ack_p99_us },
                { name: 'max', points: good[0].series.ack_max_us },
              ],
              micros,
              'Latency of the last run',
            ),
          ),
        )
      : h('p', { class: 'muted' }, 'No runs yet.'),
    h('h2', {}, 'History'),
    table(
      [
        { name: 'When (UTC)', of: (run) => time(run.began_ms) },
        {
          name: 'Asked',
          of: asked,
        },
        {
          name: 'Verdict',
          of: (run) =>
            run.report
              ? h(
                  'span',
                  {
                    class: run.report.verdict === 'ok' ? 'good' : 'warm',
                    title: (run.report.reasons || []).join('; '),
                  },
                  run.report.verdict,
                )
              : h('span', { class: 'bad' }, run.failed),
        },
        {
          name: 'Records/s',
          number: true,
          of: (run) => (run.report ? count(Math.round(run.report.produced.records_per_second)) : '–'),
        },
        {
          name: 'MB/s',
          number: true,
          of: (run) => (run.report ? run.report.produced.megabytes_per_second.toFixed(2) : '–'),
        },
        ...[
          ['Ack p50', 'ack', 'p50_ns'],
          ['p99', 'ack', 'p99_ns'],
          ['p99.9', 'ack', 'p99_9_ns'],
          ['End to end p99', 'e2e', 'p99_ns'],
        ].map(([name, kind, part]) => ({
          name,
          number: true,
          of: (run) => (run.report ? ns(latency(run, kind, part)) : '–'),
        })),
      ],
      runs,
      'No runs yet.',
    ),
  );
}

function asked({ asked: form, report }) {
  const made = report ? report.asked : form;
  const rate = form.rate ? `${count(form.rate)}/s` : 'as many as go';
  return [rate, `${bytes(made.record_bytes)} records`, `acks=${made.acks}`, form.seconds ? `${form.seconds} s` : '']
    .filter(Boolean)
    .join(', ');
}
