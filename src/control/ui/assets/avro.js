// Reads Avro's binary form with a schema given by hand. Nothing but what the schema says is read, and never beyond the end.

export function reader(text) {
  const names = new Map();
  const schema = JSON.parse(text);
  define(schema, names);
  return (bytes) => {
    // A message of a registry begins with a zero and the schema's number.
    const at = bytes[0] === 0 && bytes.length > 5 ? [5, 0] : [0, 5];
    let wrong;
    for (const start of at) {
      try {
        const input = {
          bytes,
          at: start,
          view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength),
          depth: 0,
        };
        const value = read(schema, input, names);
        if (input.at === bytes.length) return value;
        wrong = new Error('bytes are left over');
      } catch (error) {
        wrong = error;
      }
    }
    throw wrong;
  };
}

function define(schema, names, space = '') {
  if (Array.isArray(schema)) return schema.forEach((one) => define(one, names, space));
  if (typeof schema !== 'object' || schema === null) return undefined;
  const own = schema.namespace || space;
  if (schema.name && ['record', 'enum', 'fixed', 'error'].includes(schema.type)) {
    names.set(schema.name, schema);
    if (own) names.set(`${own}.${schema.name}`, schema);
  }
  (schema.fields || []).forEach((one) => define(one.type, names, own));
  [schema.items, schema.values, typeof schema.type === 'object' ? schema.type : null].forEach(
    (one) => one && define(one, names, own),
  );
  return undefined;
}

function take(input, length) {
  if (length < 0 || input.at + length > input.bytes.length) throw new Error('the bytes end too early');
  input.at += length;
  return input.bytes.subarray(input.at - length, input.at);
}

function long(input) {
  let value = 0n;
  for (let shift = 0n; shift < 70n; shift += 7n) {
    const [byte] = take(input, 1);
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) {
      const number = (value >> 1n) ^ -(value & 1n);
      return number >= BigInt(Number.MIN_SAFE_INTEGER) && number <= BigInt(Number.MAX_SAFE_INTEGER)
        ? Number(number)
        : String(number);
    }
  }
  throw new Error('a number is too long');
}

function blocks(input, each) {
  for (;;) {
    let number = long(input);
    if (number === 0) return;
    if (number < 0) {
      number = -number;
      long(input);
    }
    for (let index = 0; index < number; index += 1) each();
  }
}

const text = (input) => new TextDecoder('utf-8', { fatal: true }).decode(take(input, long(input)));
const hex = (some) => Array.from(some, (byte) => byte.toString(16).padStart(2, '0')).join('');

function read(schema, input, names) {
  input.depth += 1;
  if (input.depth > 100) throw new Error('too deep');
  try {
    return one(schema, input, names);
  } finally {
    input.depth -= 1;
  }
}

function one(schema, input, names) {
  if (Array.isArray(schema)) {
    const branch = schema[long(input)];
    if (branch === undefined) throw new Error('no such branch');
    return read(branch, input, names);
  }
  const type = typeof schema === 'string' ? schema : schema.type;
  switch (type) {
    case 'null':
      return null;
    case 'boolean':
      return take(input, 1)[0] !== 0;
    case 'int':
    case 'long':
      return long(input);
    case 'float':
      take(input, 4);
      return input.view.getFloat32(input.at - 4, true);
    case 'double':
      take(input, 8);
      return input.view.getFloat64(input.at - 8, true);
    case 'bytes':
      return hex(take(input, long(input)));
    case 'string':
      return text(input);
    case 'fixed':
      return hex(take(input, schema.size));
    case 'enum':
      return schema.symbols[long(input)];
    case 'array': {
      const list = [];
      blocks(input, () => list.push(read(schema.items, input, names)));
      return list;
    }
    case 'map': {
      const map = {};
      blocks(input, () => {
        map[text(input)] = read(schema.values, input, names);
      });
      return map;
    }
    case 'record':
    case 'error':
      return Object.fromEntries(schema.fields.map((field) => [field.name, read(field.type, input, names)]));
    default:
      if (typeof type === 'object') return read(type, input, names);
      if (names.has(type)) return read(names.get(type), input, names);
      throw new Error(`the schema knows no type ${type}`);
  }
}
