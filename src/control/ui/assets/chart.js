// Lines over time as SVG, made node by node.
import { h } from '/ui/kit.js';

const SPACE = 'http://www.w3.org/2000/svg';
const s = (name, attributes, text) => {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

/** series: [{ name, points: [number] }], all of one length; show: number => text. */
export function chart(series, show, label) {
  const [width, height, left, top] = [480, 160, 60, 8];
  const all = series.flatMap((one) => one.points).filter(Number.isFinite);
  const highest = Math.max(...all, 0) || 1;
  const length = Math.max(...series.map((one) => one.points.length), 2);
  const x = (index) => left + (index * (width - left - 4)) / (length - 1);
  const y = (value) => top + (height - 2 * top) * (1 - value / highest);
  const svg = s('svg', {
    class: 'chart',
    viewBox: `0 0 ${width} ${height}`,
    preserveAspectRatio: 'none',
    role: 'img',
    'aria-label': label,
  });
  const parts = Math.max(...all, 0) > 0 ? [0, 0.5, 1] : [0];
  for (const part of parts) {
    svg.append(s('line', { class: 'grid', x1: left, x2: width, y1: y(highest * part), y2: y(highest * part) }));
    svg.append(s('text', { x: left - 4, y: y(highest * part) + 3, 'text-anchor': 'end' }, show(highest * part)));
  }
  series.forEach((one, index) => {
    // A single point is a line across.
    const points = one.points.length === 1 ? [one.points[0], one.points[0]] : one.points;
    const path = points.map((value, at) => `${at ? 'L' : 'M'}${x(at).toFixed(1)} ${y(value || 0).toFixed(1)}`).join('');
    svg.append(s('path', { class: `s${index % 4}`, d: path || 'M0 0' }));
  });
  const legend = series.map((one, index) => {
    const last = one.points.at(-1);
    return h(
      'span',
      {},
      h('i', { class: `s${index % 4}` }),
      `${one.name}${last === undefined ? '' : ` ${show(last)}`}`,
    );
  });
  return h('div', {}, svg, h('div', { class: 'legend' }, legend));
}

/** A quantile of what came between two lists of [end_us, count]. */
export function quantile(before, after, part) {
  const had = new Map(before || []);
  const fresh = (after || [])
    .map(([end, number]) => [end, number - (had.get(end) || 0)])
    .filter(([, number]) => number > 0);
  const total = fresh.reduce((sum, [, number]) => sum + number, 0);
  let seen = 0;
  for (const [end, number] of fresh) {
    seen += number;
    if (seen >= total * part) return end;
  }
  return 0;
}
