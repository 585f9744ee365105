//! Reads Kafka's primitive types from received bytes, and borrows from them.
//!
//! Every read is checked against the bytes left and names the field it was for. Nothing is allocated: strings, bytes and
//! arrays are views. Used by the generated messages; handlers use it only through those.

use std::borrow::Cow;

use super::array::{Array, Element};
use super::error::{DecodeError, DecodeErrorKind as Kind};
use super::records::Records;
use super::uuid::Uuid;

/// The limit of Kafka 4.4 on the elements of one array.
pub const MAX_ARRAY_ELEMENTS: usize = 1_000_000;
/// The limit of Kafka 4.4 on the tagged fields of one struct.
pub const MAX_TAGGED_FIELDS: usize = 10_000;
/// Kafka's limit on the bytes of a string, in either encoding of its length.
pub const MAX_STRING_BYTES: usize = i16::MAX as usize;

pub type Result<T> = std::result::Result<T, DecodeError>;

#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

macro_rules! read_number {
    ($($name:ident -> $type:ident)*) => {
        $(#[inline]
        pub fn $name(&mut self, field: &'static str) -> Result<$type> {
            match self.bytes.split_first_chunk() {
                Some((chunk, rest)) => {
                    self.bytes = rest;
                    Ok($type::from_be_bytes(*chunk))
                }
                None => Err(self.truncated(field, size_of::<$type>())),
            }
        })*
    };
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes }
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// An error unless all bytes have been read.
    pub fn finish(&self, message: &'static str) -> Result<()> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(DecodeError::new(message, Kind::TrailingBytes(left))),
        }
    }

    read_number! { i8 -> i8 i16 -> i16 i32 -> i32 i64 -> i64 u16 -> u16 u32 -> u32 f64 -> f64 }

    /// As in Kafka, any byte but zero is true.
    #[inline]
    pub fn bool(&mut self, field: &'static str) -> Result<bool> {
        Ok(self.i8(field)? != 0)
    }

    #[inline]
    pub fn uuid(&mut self, field: &'static str) -> Result<Uuid> {
        match self.bytes.split_first_chunk() {
            Some((chunk, rest)) => {
                self.bytes = rest;
                Ok(Uuid(*chunk))
            }
            None => Err(self.truncated(field, 16)),
        }
    }

    #[inline]
    pub fn take(&mut self, field: &'static str, length: usize) -> Result<&'a [u8]> {
        match self.bytes.split_at_checked(length) {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(taken)
            }
            None => Err(self.truncated(field, length)),
        }
    }

    #[inline]
    pub fn unsigned_varint(&mut self, field: &'static str) -> Result<u32> {
        // Nearly all are lengths and counts below 127.
        if let [first, rest @ ..] = self.bytes
            && *first < 0x80
        {
            self.bytes = rest;
            return Ok(u32::from(*first));
        }
        let value = self.unsigned_varlong_of(field, 5)?;
        u32::try_from(value).map_err(|_| DecodeError::new(field, Kind::InvalidVarint))
    }

    pub fn unsigned_varlong(&mut self, field: &'static str) -> Result<u64> {
        self.unsigned_varlong_of(field, 10)
    }

    /// Zigzag-encoded.
    pub fn varint(&mut self, field: &'static str) -> Result<i32> {
        let value = self.unsigned_varint(field)?;
        Ok((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// Zigzag-encoded.
    pub fn varlong(&mut self, field: &'static str) -> Result<i64> {
        let value = self.unsigned_varlong(field)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn unsigned_varlong_of(&mut self, field: &'static str, bytes_max: usize) -> Result<u64> {
        let mut value = 0u64;
        for (index, byte) in self.bytes.iter().take(bytes_max).enumerate() {
            let part = u64::from(byte & 0x7f);
            // The tenth byte holds the last bit alone.
            if index == 9 && part > 1 {
                return Err(DecodeError::new(field, Kind::InvalidVarint));
            }
            value |= part << (7 * index);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[index + 1..];
                return Ok(value);
            }
        }
        if self.bytes.len() >= bytes_max {
            return Err(DecodeError::new(field, Kind::InvalidVarint));
        }
        Err(self.truncated(field, self.bytes.len() + 1))
    }

    /// A length or count in the compact encoding, where 0 is null and n + 1 is n.
    #[inline]
    fn compact_length(&mut self, field: &'static str) -> Result<Option<usize>> {
        Ok((self.unsigned_varint(field)? as usize).checked_sub(1))
    }

    /// A length or count as a signed number, where -1 is null.
    #[inline]
    fn signed_length(field: &'static str, length: i32) -> Result<Option<usize>> {
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length)
                .map(Some)
                .map_err(|_| DecodeError::new(field, Kind::NegativeLength(i64::from(length)))),
        }
    }

    pub fn nullable_string(&mut self, field: &'static str, flexible: bool) -> Result<Option<Cow<'a, str>>> {
        let length = if flexible {
            self.compact_length(field)?
        } else {
            Self::signed_length(field, i32::from(self.i16(field)?))?
        };
        let Some(length) = length else { return Ok(None) };
        if length > MAX_STRING_BYTES {
            return Err(DecodeError::new(field, Kind::StringTooLong(length)));
        }
        match std::str::from_utf8(self.take(field, length)?) {
            Ok(text) => Ok(Some(Cow::Borrowed(text))),
            Err(_) => Err(DecodeError::new(field, Kind::InvalidUtf8)),
        }
    }

    pub fn string(&mut self, field: &'static str, flexible: bool) -> Result<Cow<'a, str>> {
        self.nullable_string(field, flexible)?.ok_or(DecodeError::new(field, Kind::UnexpectedNull))
    }

    fn nullable_slice(&mut self, field: &'static str, flexible: bool) -> Result<Option<&'a [u8]>> {
        let length = if flexible {
            self.compact_length(field)?
        } else {
            Self::signed_length(field, self.i32(field)?)?
        };
        length.map(|length| self.take(field, length)).transpose()
    }

    pub fn nullable_bytes(&mut self, field: &'static str, flexible: bool) -> Result<Option<Cow<'a, [u8]>>> {
        Ok(self.nullable_slice(field, flexible)?.map(Cow::Borrowed))
    }

    pub fn bytes(&mut self, field: &'static str, flexible: bool) -> Result<Cow<'a, [u8]>> {
        self.nullable_bytes(field, flexible)?.ok_or(DecodeError::new(field, Kind::UnexpectedNull))
    }

    pub fn nullable_records(&mut self, field: &'static str, flexible: bool) -> Result<Option<Records<'a>>> {
        Ok(self.nullable_slice(field, flexible)?.map(Records::Bytes))
    }

    /// Checks every element now, so that going over the array later cannot fail, but keeps only its bytes.
    pub fn nullable_array<T: Element<'a>>(
        &mut self,
        field: &'static str,
        version: i16,
        flexible: bool,
    ) -> Result<Option<Array<'a, T>>> {
        let count = if flexible {
            self.compact_length(field)?
        } else {
            Self::signed_length(field, self.i32(field)?)?
        };
        let Some(count) = count else { return Ok(None) };
        // An element has one byte at least, so a count above the bytes left is a lie.
        let limit = MAX_ARRAY_ELEMENTS.min(self.left());
        if count > limit {
            return Err(DecodeError::new(field, Kind::TooManyElements { count, limit }));
        }
        let start = self.bytes;
        if T::FIXED_SIZE > 0 {
            self.take(field, count * T::FIXED_SIZE)?;
        } else {
            for _ in 0..count {
                T::read(self, field, version, flexible)?;
            }
        }
        let bytes = &start[..start.len() - self.left()];
        Ok(Some(Array::wire(bytes, count, version, flexible)))
    }

    pub fn array<T: Element<'a>>(
        &mut self,
        field: &'static str,
        version: i16,
        flexible: bool,
    ) -> Result<Array<'a, T>> {
        self.nullable_array(field, version, flexible)?.ok_or(DecodeError::new(field, Kind::UnexpectedNull))
    }

    /// A struct that may be null: one byte tells, -1 for null.
    pub fn nullable_struct<T: Element<'a>>(
        &mut self,
        field: &'static str,
        version: i16,
        flexible: bool,
    ) -> Result<Option<T>> {
        match self.i8(field)? {
            present if present < 0 => Ok(None),
            _ => T::read(self, field, version, flexible).map(Some),
        }
    }

    /// The same in a tagged field, where 0 stands for null.
    pub fn nullable_tagged_struct<T: Element<'a>>(
        &mut self,
        field: &'static str,
        version: i16,
        flexible: bool,
    ) -> Result<Option<T>> {
        match self.unsigned_varint(field)? {
            0 => Ok(None),
            _ => T::read(self, field, version, flexible).map(Some),
        }
    }

    /// The tagged fields of one struct. `known` reads the fields it knows from a reader of just their bytes and answers
    /// true; fields it does not know are skipped.
    pub fn tags(&mut self, mut known: impl FnMut(&mut Reader<'a>, u32) -> Result<bool>) -> Result<()> {
        let count = self.unsigned_varint("tagged fields")? as usize;
        if count > MAX_TAGGED_FIELDS {
            return Err(DecodeError::new("tagged fields", Kind::TooManyTags(count)));
        }
        for _ in 0..count {
            let tag = self.unsigned_varint("tag")?;
            let declared = self.unsigned_varint("tag size")? as usize;
            let mut value = Reader::new(self.take("tagged field", declared)?);
            if known(&mut value, tag)? && value.left() > 0 {
                let used = declared - value.left();
                return Err(DecodeError::new("tagged field", Kind::TagSize { declared, used }));
            }
        }
        Ok(())
    }

    #[inline]
    pub fn skip_tags(&mut self) -> Result<()> {
        if let [0, rest @ ..] = self.bytes {
            self.bytes = rest;
            return Ok(());
        }
        self.tags(|_, _| Ok(false))
    }

    #[cold]
    fn truncated(&self, field: &'static str, needed: usize) -> DecodeError {
        DecodeError::new(field, Kind::Truncated { needed, left: self.left() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<T>(result: Result<T>) -> Option<Kind> {
        result.err().map(|error| error.kind)
    }

    #[test]
    fn varints_end_in_time() {
        let read = |bytes: &[u8]| Reader::new(bytes).unsigned_varint("n");
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert_eq!(kind(read(&[0xff, 0xff, 0xff, 0xff, 0x1f])), Some(Kind::InvalidVarint));
        assert_eq!(kind(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0])), Some(Kind::InvalidVarint));
        assert_eq!(kind(read(&[0x80, 0x80])), Some(Kind::Truncated { needed: 3, left: 2 }));
        assert_eq!(kind(read(&[])), Some(Kind::Truncated { needed: 1, left: 0 }));
        let mut ten = [0xff; 10];
        ten[9] = 1;
        assert_eq!(Reader::new(&ten).unsigned_varlong("n"), Ok(u64::MAX));
        ten[9] = 2;
        assert_eq!(kind(Reader::new(&ten).unsigned_varlong("n")), Some(Kind::InvalidVarint));
    }

    #[test]
    fn errors_name_the_field_and_take_nothing() {
        let mut reader = Reader::new(&[0, 5, b'a']);
        let error = reader.string("topic", false).unwrap_err();
        assert_eq!(error.to_string(), "topic: needs 5 bytes, 1 are left");
        assert_eq!(kind(Reader::new(&[0, 1, 0xff]).string("topic", false)), Some(Kind::InvalidUtf8));
        let mut reader = Reader::new(&[1, 2, 3]);
        assert!(reader.i32("a").is_err() && reader.take("b", 4).is_err() && reader.uuid("c").is_err());
        assert_eq!(reader.left(), 3);
    }
}
