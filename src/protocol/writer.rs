//! Writes Kafka's primitive types into one growing buffer, and leaves records out of it.
//!
//! The bytes to send are `buf` with, at each splice's position, the bytes its slot stands for put in. Lengths already count
//! them. The caller may write several frames into one writer and must not cut `buf` without clearing it.

use super::array::{Array, Element};
use super::reader::MAX_STRING_BYTES;
use super::records::Records;
use super::uuid::Uuid;

/// Bytes kept elsewhere that belong at `position` of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice {
    pub position: usize,
    pub slot: u32,
    pub len: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Writer {
    pub buf: Vec<u8>,
    pub splices: Vec<Splice>,
}

macro_rules! put_number {
    ($($name:ident($type:ident))*) => {
        $(#[inline]
        pub fn $name(&mut self, value: $type) {
            self.buf.extend_from_slice(&value.to_be_bytes());
        })*
    };
}

impl Writer {
    pub fn new() -> Self {
        Writer::default()
    }

    pub fn with_capacity(bytes: usize) -> Self {
        Writer { buf: Vec::with_capacity(bytes), splices: Vec::new() }
    }

    pub fn clear(&mut self) {
        self.buf.clear();
        self.splices.clear();
    }

    /// The bytes written so far, without those left out.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    put_number! { put_i8(i8) put_i16(i16) put_i32(i32) put_i64(i64) put_u8(u8) put_u16(u16) put_u32(u32) put_f64(f64) }

    #[inline]
    pub fn put_bool(&mut self, value: bool) {
        self.buf.push(u8::from(value));
    }

    #[inline]
    pub fn put_uuid(&mut self, value: Uuid) {
        self.buf.extend_from_slice(&value.0);
    }

    /// Bytes as they are, with no length.
    #[inline]
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    #[inline]
    pub fn put_unsigned_varint(&mut self, value: u32) {
        self.put_unsigned_varlong(u64::from(value));
    }

    #[inline]
    pub fn put_unsigned_varlong(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buf.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buf.push(value as u8);
    }

    /// Zigzag-encoded.
    pub fn put_varint(&mut self, value: i32) {
        self.put_unsigned_varint((value << 1 ^ value >> 31) as u32);
    }

    /// Zigzag-encoded.
    pub fn put_varlong(&mut self, value: i64) {
        self.put_unsigned_varlong((value << 1 ^ value >> 63) as u64);
    }

    fn put_compact_length(&mut self, length: Option<usize>) {
        self.put_unsigned_varint(length.map_or(0, |length| length as u32 + 1));
    }

    /// The count in front of an array's elements, for whoever writes the elements one by one.
    pub fn put_array_len(&mut self, count: usize, flexible: bool) {
        self.put_nullable_array_len(Some(count), flexible);
    }

    pub fn put_nullable_array_len(&mut self, count: Option<usize>, flexible: bool) {
        if flexible {
            self.put_compact_length(count);
        } else {
            self.put_i32(count.map_or(-1, |count| count as i32));
        }
    }

    /// Longer strings than Kafka can carry are cut; those of a decoded message never are.
    pub fn put_nullable_string(&mut self, value: Option<&str>, flexible: bool) {
        let value = value.map(|text| &text[..text.floor_char_boundary(MAX_STRING_BYTES)]);
        if flexible {
            self.put_compact_length(value.map(str::len));
        } else {
            self.put_i16(value.map_or(-1, |text| text.len() as i16));
        }
        self.put_slice(value.unwrap_or_default().as_bytes());
    }

    pub fn put_string(&mut self, value: &str, flexible: bool) {
        self.put_nullable_string(Some(value), flexible);
    }

    pub fn put_compact_string(&mut self, value: &str) {
        self.put_string(value, true);
    }

    pub fn put_nullable_bytes(&mut self, value: Option<&[u8]>, flexible: bool) {
        self.put_nullable_array_len(value.map(<[u8]>::len), flexible);
        self.put_slice(value.unwrap_or_default());
    }

    pub fn put_bytes(&mut self, value: &[u8], flexible: bool) {
        self.put_nullable_bytes(Some(value), flexible);
    }

    pub fn put_nullable_records(&mut self, value: Option<&Records<'_>>, flexible: bool) {
        self.put_nullable_array_len(value.map(Records::len), flexible);
        match value {
            None => {}
            Some(Records::Bytes(bytes)) => self.put_slice(bytes),
            Some(&Records::External { slot, len }) => {
                self.splices.push(Splice { position: self.buf.len(), slot, len });
            }
        }
    }

    pub fn put_nullable_array<'a, T: Element<'a>>(
        &mut self,
        value: Option<&Array<'a, T>>,
        version: i16,
        flexible: bool,
    ) {
        self.put_nullable_array_len(value.map(Array::len), flexible);
        if let Some(array) = value {
            array.write_elements(self, version, flexible);
        }
    }

    /// Null is written only if this version knows it; else it becomes an empty array.
    pub fn put_array_or_null<'a, T: Element<'a>>(
        &mut self,
        value: Option<&Array<'a, T>>,
        null_allowed: bool,
        version: i16,
        flexible: bool,
    ) {
        match value {
            None if !null_allowed => self.put_array_len(0, flexible),
            _ => self.put_nullable_array(value, version, flexible),
        }
    }

    pub fn put_array<'a, T: Element<'a>>(&mut self, value: &Array<'a, T>, version: i16, flexible: bool) {
        self.put_nullable_array(Some(value), version, flexible);
    }

    /// A struct that may be null: one byte tells.
    pub fn put_nullable_struct<'a, T: Element<'a>>(
        &mut self,
        value: Option<&T>,
        version: i16,
        flexible: bool,
    ) {
        self.put_i8(if value.is_some() { 1 } else { -1 });
        if let Some(value) = value {
            value.write(self, version, flexible);
        }
    }

    /// The same in a tagged field, where 0 stands for null.
    pub fn put_nullable_tagged_struct<'a, T: Element<'a>>(
        &mut self,
        value: Option<&T>,
        version: i16,
        flexible: bool,
    ) {
        self.put_unsigned_varint(u32::from(value.is_some()));
        if let Some(value) = value {
            value.write(self, version, flexible);
        }
    }

    /// One tagged field: its tag, the size of the value, the value.
    pub fn put_tag(&mut self, tag: u32, value: impl FnOnce(&mut Writer)) {
        self.put_unsigned_varint(tag);
        // The size is mostly one byte. For a longer one the value moves up.
        let at = self.buf.len();
        self.buf.push(0);
        value(self);
        let size = self.buf.len() - at - 1;
        let mut varint = Writer::with_capacity(0);
        match u8::try_from(size) {
            Ok(size) if size < 0x80 => self.buf[at] = size,
            _ => {
                varint.put_unsigned_varint(size as u32);
                self.buf.splice(at..=at, varint.buf);
            }
        }
    }

    /// The end of a flexible struct that has no tagged fields.
    #[inline]
    pub fn put_no_tags(&mut self) {
        self.buf.push(0);
    }

    /// Room for an i32 to be patched in later; answers its position.
    pub fn reserve_i32(&mut self) -> usize {
        let position = self.buf.len();
        self.put_i32(0);
        position
    }

    pub fn patch_i32(&mut self, position: usize, value: i32) {
        self.buf[position..position + 4].copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::Reader;
    use super::*;

    #[test]
    fn variable_length_numbers_come_back() {
        let edges = [0, 1, -1, 63, -64, 64, 8191, 1 << 20, i64::from(i32::MAX), i64::from(i32::MIN)];
        for value in edges {
            let mut writer = Writer::new();
            writer.put_varint(value as i32);
            writer.put_varlong(value);
            writer.put_unsigned_varint(value as u32);
            writer.put_unsigned_varlong(value as u64);
            let mut reader = Reader::new(&writer.buf);
            assert_eq!(reader.varint("a"), Ok(value as i32));
            assert_eq!(reader.varlong("b"), Ok(value));
            assert_eq!(reader.unsigned_varint("c"), Ok(value as u32));
            assert_eq!(reader.unsigned_varlong("d"), Ok(value as u64));
            assert_eq!(reader.left(), 0);
        }
        for value in [i64::MAX, i64::MIN] {
            let mut writer = Writer::new();
            writer.put_varlong(value);
            assert_eq!(Reader::new(&writer.buf).varlong("a"), Ok(value));
        }
    }

    #[test]
    fn a_tag_longer_than_127_bytes_moves_up() {
        for size in [0, 127, 128, 20_000] {
            let mut writer = Writer::new();
            writer.put_tag(5, |writer| writer.put_slice(&vec![7; size]));
            writer.put_u8(9);
            let mut reader = Reader::new(&writer.buf);
            assert_eq!(reader.unsigned_varint("tag"), Ok(5));
            assert_eq!(reader.unsigned_varint("size"), Ok(size as u32));
            assert_eq!(reader.take("value", size).map(|bytes| bytes.iter().all(|byte| *byte == 7)), Ok(true));
            assert_eq!(reader.rest(), [9]);
        }
    }

    #[test]
    fn records_elsewhere_are_counted_but_not_copied() {
        for flexible in [false, true] {
            let mut inline = Writer::new();
            inline.put_nullable_records(Some(&Records::Bytes(&[1; 300])), flexible);
            inline.put_i32(-1);
            let mut spliced = Writer::new();
            spliced.put_nullable_records(Some(&Records::External { slot: 4, len: 300 }), flexible);
            spliced.put_i32(-1);
            let [Splice { position, slot: 4, len: 300 }] = spliced.splices[..] else { panic!("one splice") };
            spliced.buf.splice(position..position, [1; 300]);
            assert_eq!(spliced.buf, inline.buf);
        }
    }

    #[test]
    fn a_string_too_long_is_cut_between_characters() {
        let text = "é".repeat(20_000);
        for flexible in [false, true] {
            let mut writer = Writer::new();
            writer.put_string(&text, flexible);
            let read = Reader::new(&writer.buf).string("text", flexible).unwrap();
            assert_eq!(read.len(), 32_766);
        }
    }
}
