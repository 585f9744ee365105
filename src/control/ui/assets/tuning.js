// What the host's settings are and should be, and what the disks were measured to do.
import { add, attempt, bytes, card, count, fill, get, h, micros, table, time } from '/ui/kit.js';

export async function tuning(page) {
  const body = h('div', {}, h('p', { class: 'muted' }, 'Looking at the host …'));
  const again = h('button', { click: () => attempt(() => look(body)) }, 'Look again');
  add(
    page,
    h('h1', {}, 'Tuning'),
    h(
      'p',
      { class: 'muted' },
      'The findings of ',
      h('code', {}, 'ringlog tune check'),
      '. Nothing is changed from here: ',
      h('code', {}, 'ringlog tune plan'),
      ' shows what ',
      h('code', {}, 'ringlog tune apply'),
      ' would change, ',
      h('code', {}, 'ringlog tune undo'),
      ' puts it back.',
    ),
    h('div', { class: 'bar' }, again),
    body,
  );
  await look(body);
}

async function look(body) {
  const [reports, about] = [await get('/api/tuning'), await get('/api/overview')];
  const rows = reports.flatMap((report) => report.findings.map((finding) => ({ report, finding })));
  const of = (state) => rows.filter((row) => state === row.finding.state).length;
  const absent = reports.filter((report) => !report.findings.length).map((report) => report.title);
  fill(
    body,
    h(
      'div',
      { class: 'cards' },
      card('driver', about.driver),
      card('good', count(of('good'))),
      card('to change', count(of('change'))),
      card('to be done by a person', count(of('advice'))),
    ),
    h('h2', {}, 'Disks'),
    disks(about.dirs),
    h('h2', {}, 'Settings'),
    table(
      [
        { name: 'Item', of: (row) => explained(row.report) },
        { name: 'State', of: state },
        {
          name: 'Found',
          of: ({ finding }) => h('div', { class: 'broken' }, h('code', {}, finding.place), h('br'), finding.found),
        },
        { name: 'Wanted', of: (row) => h('div', { class: 'broken' }, wanted(row.finding)) },
      ],
      rows.sort((a, b) => (a.finding.state === 'good') - (b.finding.state === 'good')),
    ),
    absent.length ? h('p', { class: 'muted' }, `Not on this host: ${absent.join(', ')}.`) : null,
  );
}

function state({ report, finding }) {
  if (finding.state === 'good') return h('span', { class: 'good' }, 'good');
  const word = finding.state === 'change' ? 'to change' : finding.state;
  return h('span', { class: 'warm' }, report.belongs_to_host ? `${word}, on the container's host` : word);
}

function wanted(finding) {
  if (finding.state === 'advice') return finding.advice;
  if (finding.state !== 'change') return '';
  return finding.step === 'ballast' ? `a file of ${bytes(finding.bytes)} at ${finding.file}` : finding.value;
}

function explained(report) {
  const line = (name, text) => h('p', {}, h('b', {}, `${name}. `), text);
  return h(
    'details',
    {},
    h('summary', {}, report.title),
    line('What', report.what),
    line('Why', report.why),
    line('Undo', report.undo),
    line('Measured effect', report.effect),
    ...report.measured.map((text) => line('On this host', text)),
  );
}

function disks(dirs) {
  const rate = (value) => `${(value / 1e6).toFixed(0)} MB/s`;
  const shown = (name, value) => ({ name, number: true, of: (dir) => (dir.measured ? value(dir.measured) : '–') });
  return table(
    [
      { name: 'Directory', of: (dir) => dir.path },
      {
        name: 'Measured (UTC)',
        of: (dir) =>
          dir.measured ? time(dir.measured.at_ms) : h('code', {}, `ringlog tune measure --dir ${dir.path}`),
      },
      shown('Write', (of) => rate(of.write_bytes_per_second)),
      shown('Read', (of) => rate(of.read_bytes_per_second)),
      shown('Random reads', (of) => `${count(Math.round(of.reads_per_second))}/s`),
      shown('Random writes', (of) => `${count(Math.round(of.writes_per_second))}/s`),
      shown('Synced 4 KiB, p50', (of) => micros(of.synced_4k.p50_us)),
      shown('p99', (of) => micros(of.synced_4k.p99_us)),
      shown('Synced 128 KiB, p50', (of) => micros(of.synced_128k.p50_us)),
      shown('p99', (of) => micros(of.synced_128k.p99_us)),
    ],
    dirs,
  );
}
