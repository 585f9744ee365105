// From bytes to what a person reads.
import { reader } from '/ui/avro.js';

export const FORMATS = [
  ['auto', 'Automatic'],
  ['text', 'Text'],
  ['json', 'JSON'],
  ['hex', 'Hex'],
  ['base64', 'Base64'],
  ['number', 'Number'],
  ['avro', 'Avro'],
];

export const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
export function toBase64(text) {
  let all = '';
  new TextEncoder().encode(text).forEach((byte) => {
    all += String.fromCharCode(byte);
  });
  return btoa(all);
}

function hex(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const some = Array.from(bytes.subarray(at, at + 16));
    const plain = some.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.')).join('');
    lines.push(
      `${at.toString(16).padStart(6, '0')}  ${some
        .map((byte) => byte.toString(16).padStart(2, '0'))
        .join(' ')
        .padEnd(48)} ${plain}`,
    );
  }
  return lines.join('\n');
}

const strict = (bytes) => new TextDecoder('utf-8', { fatal: true }).decode(bytes);
// Control characters have no place in a line of text.
const readable = (text) => !/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/.test(text);

function number(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length === 8) return `${view.getBigInt64(0)} (or ${view.getFloat64(0)})`;
  if (bytes.length === 4) return `${view.getInt32(0)} (or ${view.getFloat32(0)})`;
  if (bytes.length === 2) return String(view.getInt16(0));
  throw new Error('no number of 2, 4 or 8 bytes');
}

/** { text, kind }; what cannot be shown as wished is shown as hex, and says so. */
export function decode(base64, format, schema) {
  if (base64 === null) return { text: 'null', kind: 'null' };
  const bytes = fromBase64(base64);
  try {
    switch (format) {
      case 'text':
        return { text: new TextDecoder().decode(bytes), kind: 'text' };
      case 'json':
        return { text: JSON.stringify(JSON.parse(strict(bytes)), null, 2), kind: 'json' };
      case 'hex':
        return { text: hex(bytes), kind: 'hex' };
      case 'base64':
        return { text: base64, kind: 'base64' };
      case 'number':
        return { text: number(bytes), kind: 'number' };
      case 'avro':
        return { text: JSON.stringify(reader(schema)(bytes), null, 2), kind: 'avro' };
      default:
        break;
    }
    let plain;
    try {
      plain = strict(bytes);
    } catch {
      return { text: hex(bytes), kind: 'hex' };
    }
    if (!readable(plain)) return { text: hex(bytes), kind: 'hex' };
    if (/^\s*[[{]/.test(plain)) {
      try {
        return { text: JSON.stringify(JSON.parse(plain), null, 2), kind: 'json' };
      } catch {
        /* text, then */
      }
    }
    return { text: plain, kind: 'text' };
  } catch (error) {
    return { text: hex(bytes), kind: `not ${format}: ${error.message}` };
  }
}
