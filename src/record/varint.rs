//! Zigzag variable-length integers as the record format uses them: at most 5 bytes for 32 bits, 10 for 64.
//!
//! Called by `records`, `builder` and `skim`. Like Kafka, a reader takes an over-long but terminated form of a small number
//! and refuses one that runs past its longest length.

/// The longest encoding of a 32-bit value.
pub const VARINT_BYTES_MAX: usize = 5;
/// The longest encoding of a 64-bit value.
pub const VARLONG_BYTES_MAX: usize = 10;

/// Reads a 32-bit value from the front of `bytes`: the value and its length, or `None` when cut off or too long.
#[inline]
pub fn read_varint(bytes: &[u8]) -> Option<(i32, usize)> {
    // Most deltas and lengths fit one byte.
    if let Some(&first) = bytes.first()
        && first < 0x80
    {
        return Some((unzigzag32(u32::from(first)), 1));
    }
    let mut value = 0u32;
    for (index, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((unzigzag32(value), index + 1));
        }
    }
    None
}

/// Reads a 64-bit value from the front of `bytes`: the value and its length, or `None` when cut off or too long.
#[inline]
pub fn read_varlong(bytes: &[u8]) -> Option<(i64, usize)> {
    if let Some(&first) = bytes.first()
        && first < 0x80
    {
        return Some((unzigzag64(u64::from(first)), 1));
    }
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(VARLONG_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((unzigzag64(value), index + 1));
        }
    }
    None
}

/// Appends a 32-bit value.
#[inline]
pub fn write_varint(out: &mut Vec<u8>, value: i32) {
    write_unsigned(out, u64::from(zigzag32(value)));
}

/// Appends a 64-bit value.
#[inline]
pub fn write_varlong(out: &mut Vec<u8>, value: i64) {
    write_unsigned(out, zigzag64(value));
}

/// The encoded length of a 32-bit value.
#[inline]
pub fn varint_size(value: i32) -> usize {
    unsigned_size(u64::from(zigzag32(value)))
}

/// The encoded length of a 64-bit value.
#[inline]
pub fn varlong_size(value: i64) -> usize {
    unsigned_size(zigzag64(value))
}

#[inline]
fn write_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn unsigned_size(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[inline]
fn zigzag32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

#[inline]
fn zigzag64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The signed value of a number's bits.
#[inline]
pub(super) fn unzigzag32(value: u32) -> i32 {
    ((value >> 1) as i32) ^ -((value & 1) as i32)
}

#[inline]
fn unzigzag64(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        for (value, bytes) in [
            (0, &[0u8][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 1]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(read_varint(bytes), Some((value, bytes.len())));
        }
    }

    #[test]
    fn a_run_without_an_end_is_refused() {
        assert_eq!(read_varint(&[0x80; 5]), None);
        assert_eq!(read_varint(&[0x80; 100]), None);
        assert_eq!(read_varlong(&[0xff; 10]), None);
        assert_eq!(read_varlong(&[]), None);
    }

    proptest! {
        #[test]
        fn round_trip(small in any::<i32>(), large in any::<i64>()) {
            let mut out = Vec::new();
            write_varint(&mut out, small);
            prop_assert_eq!(varint_size(small), out.len());
            prop_assert_eq!(read_varint(&out), Some((small, out.len())));
            prop_assert_eq!(read_varint(&out[..out.len() - 1]), None);
            out.clear();
            write_varlong(&mut out, large);
            prop_assert_eq!(varlong_size(large), out.len());
            prop_assert_eq!(read_varlong(&out), Some((large, out.len())));
            prop_assert_eq!(read_varlong(&out[..out.len() - 1]), None);
        }
    }
}
