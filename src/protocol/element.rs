//! The elements of arrays that are not structs.

use std::borrow::Cow;

use super::array::Element;
use super::reader::{Reader, Result};
use super::uuid::Uuid;
use super::writer::Writer;

macro_rules! fixed_size_elements {
    ($($type:ident: $read:ident $put:ident)*) => {
        $(impl<'a> Element<'a> for $type {
            const FIXED_SIZE: usize = size_of::<$type>();

            #[inline]
            fn read(reader: &mut Reader<'a>, field: &'static str, _: i16, _: bool) -> Result<Self> {
                reader.$read(field)
            }

            #[inline]
            fn write(&self, writer: &mut Writer, _: i16, _: bool) {
                writer.$put(*self);
            }
        })*
    };
}

fixed_size_elements! {
    bool: bool put_bool
    i8: i8 put_i8
    i16: i16 put_i16
    i32: i32 put_i32
    i64: i64 put_i64
    Uuid: uuid put_uuid
}

impl<'a> Element<'a> for Cow<'a, str> {
    fn read(reader: &mut Reader<'a>, field: &'static str, _: i16, flexible: bool) -> Result<Self> {
        reader.string(field, flexible)
    }

    fn write(&self, writer: &mut Writer, _: i16, flexible: bool) {
        writer.put_string(self, flexible);
    }
}

impl<'a> Element<'a> for Cow<'a, [u8]> {
    fn read(reader: &mut Reader<'a>, field: &'static str, _: i16, flexible: bool) -> Result<Self> {
        reader.bytes(field, flexible)
    }

    fn write(&self, writer: &mut Writer, _: i16, flexible: bool) {
        writer.put_bytes(self, flexible);
    }
}
