//! Messages made from the schema: first a tree of values, drawn from a source of choices, then their bytes.

use crate::schema::{Field, Message, Struct, Type, Versions};

/// Where values come from. Once used up it answers zeros, which stand for the smallest values, so that a shorter source
/// is a simpler message.
pub struct Choices<'c>(&'c [u8]);

impl<'c> Choices<'c> {
    pub fn new(bytes: &'c [u8]) -> Self {
        Choices(bytes)
    }

    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// Mostly short, now and then long enough for a length of two bytes.
    fn length(&mut self) -> usize {
        match self.byte() {
            byte @ 0..250 => usize::from(byte) % 5,
            byte => usize::from(byte) - 130,
        }
    }
}

/// Bytes that look random, the same for the same seed.
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Null,
    /// A number of so many bytes, a boolean or a UUID.
    Fixed(Vec<u8>),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
    /// One value a field of the version.
    Struct(Vec<Value>),
}

/// What stands at a place of the encoded message that a liar would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    Array,
    String,
    Bytes,
    Tags,
}

/// A length or count, `width` bytes at `position`.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub kind: MarkKind,
    pub position: usize,
    pub width: usize,
    pub flexible: bool,
    pub nullable: bool,
    /// Inside a tagged field, whose size says how far it reaches.
    pub tagged: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub bytes: Vec<u8>,
    pub marks: Vec<Mark>,
    /// The same message with tagged fields in it that nobody knows.
    pub with_unknown_tags: Vec<u8>,
}

pub fn sample(message: &Message, version: i16, choices: &mut Choices) -> Sample {
    let root = &message.structs[0];
    let value = draw_struct(message, root, version, choices);
    let mut plain = Encoder::new(message, version, false);
    plain.put_struct(root, &value);
    let mut unknown = Encoder::new(message, version, true);
    unknown.put_struct(root, &value);
    Sample { bytes: plain.out, marks: plain.marks, with_unknown_tags: unknown.out }
}

fn contains(versions: Versions, version: i16) -> bool {
    versions.min <= version && version <= versions.max
}

fn fields(s: &Struct, version: i16) -> impl Iterator<Item = &Field> {
    s.fields.iter().filter(move |f| contains(f.versions, version))
}

fn draw_struct(message: &Message, s: &Struct, version: i16, choices: &mut Choices) -> Value {
    Value::Struct(fields(s, version).map(|f| draw_field(message, f, version, choices)).collect())
}

fn draw_field(message: &Message, f: &Field, version: i16, choices: &mut Choices) -> Value {
    let nullable = f.nullable.is_some_and(|versions| contains(versions, version));
    if nullable && choices.byte().is_multiple_of(4) {
        return Value::Null;
    }
    // Tagged fields that are not sent have to be met, too.
    if f.tag.is_some() && choices.byte().is_multiple_of(3) {
        return default(message, f, version);
    }
    if f.array {
        let count = choices.length();
        return Value::Array((0..count).map(|_| draw(message, &f.ty, version, choices)).collect());
    }
    draw(message, &f.ty, version, choices)
}

fn draw(message: &Message, ty: &Type, version: i16, choices: &mut Choices) -> Value {
    match ty {
        Type::Bool => Value::Fixed(vec![choices.byte() % 2]),
        Type::F64 => Value::Fixed(f64::from(i32::from_be_bytes(choices.bytes())).to_be_bytes().to_vec()),
        Type::String => {
            let length = choices.length();
            Value::Text(
                (0..length)
                    .map(|_| ['a', 'Z', '-', '.', 'é', '\u{1f600}'][usize::from(choices.byte()) % 6])
                    .collect(),
            )
        }
        Type::Bytes | Type::Records => {
            let length = choices.length();
            Value::Bytes((0..length).map(|_| choices.byte()).collect())
        }
        Type::Struct(name) => draw_struct(message, find(message, name), version, choices),
        ty => Value::Fixed((0..width(ty)).map(|_| choices.byte()).collect()),
    }
}

fn find<'m>(message: &'m Message, name: &str) -> &'m Struct {
    message.find(name).expect("the schema names only structs it has")
}

fn width(ty: &Type) -> usize {
    match ty {
        Type::Bool | Type::I8 => 1,
        Type::I16 | Type::U16 => 2,
        Type::I32 | Type::U32 => 4,
        Type::I64 | Type::F64 => 8,
        Type::Uuid => 16,
        _ => unreachable!("{ty:?} has no fixed width"),
    }
}

/// The value that is not sent where the field is tagged.
fn default(message: &Message, f: &Field, version: i16) -> Value {
    if f.default.as_deref() == Some("null") {
        return Value::Null;
    }
    if f.array {
        return Value::Array(Vec::new());
    }
    match &f.ty {
        Type::String => Value::Text(f.default.clone().unwrap_or_default()),
        Type::Bytes => Value::Bytes(Vec::new()),
        Type::Records => Value::Null,
        Type::Struct(name) => Value::Struct(
            fields(find(message, name), version).map(|f| default(message, f, version)).collect(),
        ),
        Type::Bool => Value::Fixed(vec![u8::from(f.default.as_deref() == Some("true"))]),
        ty => {
            let number: i64 = f.default.as_deref().map_or(0, |text| text.parse().expect("a number"));
            let bytes = i128::from(number).to_be_bytes();
            Value::Fixed(bytes[16 - width(ty)..].to_vec())
        }
    }
}

struct Encoder<'m> {
    message: &'m Message,
    version: i16,
    flexible: bool,
    unknown_tags: bool,
    out: Vec<u8>,
    marks: Vec<Mark>,
    tagged: bool,
}

impl<'m> Encoder<'m> {
    fn new(message: &'m Message, version: i16, unknown_tags: bool) -> Self {
        let flexible = message.is_flexible(version);
        Encoder {
            message,
            version,
            flexible,
            unknown_tags,
            out: Vec::new(),
            marks: Vec::new(),
            tagged: false,
        }
    }

    fn put_struct(&mut self, s: &Struct, value: &Value) {
        let Value::Struct(values) = value else { unreachable!("a struct's value") };
        let (message, version) = (self.message, self.version);
        let all: Vec<_> = fields(s, version).zip(values).collect();
        for (f, value) in all.iter().filter(|(f, _)| f.tag.is_none()) {
            self.put_field(f, value);
        }
        if !self.flexible {
            return;
        }
        let mut tagged: Vec<_> = all
            .iter()
            .filter(|(f, value)| f.tag.is_some() && **value != default(message, f, version))
            .collect();
        tagged.sort_by_key(|(f, _)| f.tag);
        let unknown: &[(u32, &[u8])] =
            if self.unknown_tags { &[(100, b""), (101, b"\0"), (70_000, &[7; 200])] } else { &[] };
        self.mark(MarkKind::Tags, true, false, |out| varint(out, (tagged.len() + unknown.len()) as u32));
        for (f, value) in tagged {
            let mut inner = Encoder::new(message, version, self.unknown_tags);
            inner.put_field(f, value);
            varint(&mut self.out, f.tag.unwrap_or_default());
            varint(&mut self.out, inner.out.len() as u32);
            let moved = self.out.len();
            let marks = inner.marks.into_iter();
            self.marks.extend(marks.map(|m| Mark { position: m.position + moved, tagged: true, ..m }));
            self.out.extend(inner.out);
        }
        for (tag, bytes) in unknown {
            varint(&mut self.out, *tag);
            varint(&mut self.out, bytes.len() as u32);
            self.out.extend_from_slice(bytes);
        }
    }

    fn put_field(&mut self, f: &Field, value: &Value) {
        let nullable = f.nullable.is_some_and(|versions| contains(versions, self.version));
        if f.array {
            let count = match value {
                Value::Array(elements) => Some(elements.len()),
                _ => None,
            };
            self.put_length(MarkKind::Array, count, nullable, 4);
            if let Value::Array(elements) = value {
                elements.iter().for_each(|element| self.put(&f.ty, element, false));
            }
            return;
        }
        if let (Type::Struct(_), true) = (&f.ty, nullable) {
            let null = if f.tag.is_some() { 0 } else { 0xff };
            self.out.push(if *value == Value::Null { null } else { 1 });
            if *value == Value::Null {
                return;
            }
        }
        self.put(&f.ty, value, nullable);
    }

    fn put(&mut self, ty: &Type, value: &Value, nullable: bool) {
        match ty {
            Type::Struct(name) => return self.put_struct(find(self.message, name), value),
            Type::String => {
                let length = if let Value::Text(text) = value { Some(text.len()) } else { None };
                self.put_length(MarkKind::String, length, nullable, 2);
            }
            Type::Bytes | Type::Records => {
                let length = if let Value::Bytes(bytes) = value { Some(bytes.len()) } else { None };
                self.put_length(MarkKind::Bytes, length, nullable, 4);
            }
            _ => {}
        }
        match value {
            Value::Fixed(bytes) | Value::Bytes(bytes) => self.out.extend_from_slice(bytes),
            Value::Text(text) => self.out.extend_from_slice(text.as_bytes()),
            _ => {}
        }
    }

    fn put_length(&mut self, kind: MarkKind, length: Option<usize>, nullable: bool, width: usize) {
        let flexible = self.flexible;
        self.mark(kind, flexible, nullable, |out| put_length(out, length, flexible, width));
    }

    fn mark(&mut self, kind: MarkKind, flexible: bool, nullable: bool, put: impl FnOnce(&mut Vec<u8>)) {
        let position = self.out.len();
        put(&mut self.out);
        let width = self.out.len() - position;
        self.marks.push(Mark { kind, position, width, flexible, nullable, tagged: self.tagged });
    }
}

/// A length in either encoding; none is null.
pub fn put_length(out: &mut Vec<u8>, length: Option<usize>, flexible: bool, width: usize) {
    if flexible {
        varint(out, length.map_or(0, |length| length as u32 + 1));
    } else {
        let length = length.map_or(-1, |length| length as i32);
        out.extend_from_slice(&length.to_be_bytes()[4 - width..]);
    }
}

pub fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
