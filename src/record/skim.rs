//! What validation needs of a record, without the record.
//!
//! [`skim`] finds what [`Record::parse`] finds, in the same bytes and with the same errors, but hands out no slices: making
//! and moving those was half of what validating records of 100 bytes took. Numbers of more than three bytes, and whatever
//! is wrong, are left to [`Record::parse`]. Called by `validate`, for each record that is produced.

use super::records::{Record, RecordError};
use super::varint::unzigzag32;

/// What validation looks at in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub has_key: bool,
}

/// Looks at the record at the front of `bytes`; the number is its encoded size, the length prefix included.
#[inline(always)]
pub fn skim(bytes: &[u8]) -> Result<(Seen, usize), RecordError> {
    match common(bytes) {
        Some(found) => Ok(found),
        None => uncommon(bytes),
    }
}

// Inlined, or what it finds goes through memory, written in eights and read in sixteens, which stalls.
#[inline(always)]
fn common(bytes: &[u8]) -> Option<(Seen, usize)> {
    let mut at = 0;
    let length = usize::try_from(number(bytes, &mut at)?).ok()?;
    let size = at + length;
    let record = bytes.get(..size)?;
    at += 1; // attributes
    let timestamp_delta = i64::from(number(record, &mut at)?);
    let offset_delta = number(record, &mut at)?;
    let key = number(record, &mut at)?;
    at += usize::try_from(key).unwrap_or(0);
    let value = number(record, &mut at)?;
    at += usize::try_from(value).unwrap_or(0);
    let headers = usize::try_from(number(record, &mut at)?).ok()?;
    // A header takes two bytes at least, so a false count ends with the bytes.
    for _ in 0..headers {
        at += usize::try_from(number(record, &mut at)?).ok()?;
        let value = number(record, &mut at)?;
        at += usize::try_from(value).unwrap_or(0);
    }
    (at == size).then_some((Seen { timestamp_delta, offset_delta, has_key: key >= 0 }, size))
}

#[cold]
fn uncommon(bytes: &[u8]) -> Result<(Seen, usize), RecordError> {
    let record = Record::parse(bytes)?;
    let seen = Seen {
        timestamp_delta: record.timestamp_delta,
        offset_delta: record.offset_delta,
        has_key: record.key.is_some(),
    };
    Ok((seen, record.size))
}

/// A zigzag number of at most three bytes at `at`, which moves behind it. By branches, as the processor foresees them: the
/// place of the next number is then known before this one is read.
#[inline(always)]
fn number(bytes: &[u8], at: &mut usize) -> Option<i32> {
    let first = u32::from(*bytes.get(*at)?);
    if first < 0x80 {
        *at += 1;
        return Some(unzigzag32(first));
    }
    let second = u32::from(*bytes.get(*at + 1)?);
    let low = first & 0x7f | (second & 0x7f) << 7;
    if second < 0x80 {
        *at += 2;
        return Some(unzigzag32(low));
    }
    let third = u32::from(*bytes.get(*at + 2)?);
    if third < 0x80 {
        *at += 3;
        return Some(unzigzag32(low | third << 14));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::varint::{write_varint, write_varlong};
    use proptest::prelude::*;

    fn decoded(bytes: &[u8]) -> Result<(Seen, usize), RecordError> {
        uncommon(bytes)
    }

    /// Numbers of each length, so that both ways are taken.
    fn deltas() -> impl Strategy<Value = i64> {
        prop_oneof![-70i64..70, -10_000i64..10_000, -3_000_000i64..3_000_000, any::<i64>()]
    }

    fn bytes(max: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..max))
    }

    fn nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
        write_varint(out, bytes.map_or(-1, |bytes| bytes.len() as i32));
        out.extend_from_slice(bytes.unwrap_or_default());
    }

    prop_compose! {
        fn record()(
            timestamp_delta in deltas(),
            offset_delta in deltas(),
            key in bytes(100),
            value in prop_oneof![bytes(20), bytes(300), bytes(20_000)],
            headers in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..80), bytes(80)), 0..4),
        ) -> Vec<u8> {
            let mut body = vec![0];
            write_varlong(&mut body, timestamp_delta);
            write_varint(&mut body, offset_delta as i32);
            nullable(&mut body, key.as_deref());
            nullable(&mut body, value.as_deref());
            write_varint(&mut body, headers.len() as i32);
            for (key, value) in &headers {
                nullable(&mut body, Some(key));
                nullable(&mut body, value.as_deref());
            }
            let mut record = Vec::new();
            write_varint(&mut record, body.len() as i32);
            record.extend(body);
            record
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_decoder(record in record(), behind in prop::collection::vec(any::<u8>(), 0..20)) {
            let bytes = [record.clone(), behind].concat();
            let seen = skim(&bytes);
            prop_assert_eq!(&seen, &decoded(&bytes));
            prop_assert_eq!(seen.unwrap().1, record.len());
        }

        #[test]
        fn agrees_on_damaged_records(
            mut record in record(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            // Most of the numbers are at the front.
            for (index, byte) in damage {
                let front = record.len().min(16);
                record[index.index(front)] = byte;
            }
            if let Some(cut) = cut {
                record.truncate(cut.index(record.len()));
            }
            prop_assert_eq!(skim(&record), decoded(&record));
        }

        #[test]
        fn agrees_on_any_bytes(bytes in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..60)) {
            prop_assert_eq!(skim(&bytes), decoded(&bytes));
        }
    }

    #[test]
    fn agrees_on_odd_forms() {
        let cases: [&[u8]; 7] = [
            &[],
            &[12, 0, 0, 0, 1, 1, 0],                  // the smallest record
            &[0x90, 0, 0, 0x80, 0, 0, 1, 1, 0x80, 0], // over-long numbers
            &[12, 0, 0, 0, 3, 5, 0],                  // negative lengths below -1
            &[14, 0, 0, 0, 1, 1, 2, 1],               // a header without a key
            &[12, 0, 0, 0, 1, 1, 1],                  // a negative count of headers
            &[14, 0, 0, 0, 1, 1, 0, 0],               // a byte too many
        ];
        for bytes in cases {
            assert_eq!(skim(bytes), decoded(bytes), "{bytes:?}");
        }
    }
}
