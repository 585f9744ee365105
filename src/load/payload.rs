//! What a record's value says: who sent it where, in which place, and when it was meant to go; then filler.
//!
//! Layout (big-endian): run 4, producer 2, slot 2, partition 4, sequence 8, intended time 8, send time 8, checksum of all
//! that 4, filler to the end. Times are monotonic nanoseconds, so they mean something on the machine of the run only.
//! Sequences count per producer and partition from 0. The filler is a piece of a text that the seed of the run gives, so
//! that a reader knows each byte; the slot (the place in its batch) says which piece.

use crate::record::crc32c;

/// The smallest value.
pub const IDENTITY_BYTES: usize = 40;
const INTENDED_AT: usize = 20;
const SENT_AT: usize = 28;
const CHECK_AT: usize = 36;
/// The text repeats after this many bytes.
const TEXT_BYTES: usize = 256 << 10;

/// Who a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub run: u32,
    pub producer: u16,
    pub slot: u16,
    pub partition: u32,
    pub sequence: u64,
    pub intended_ns: u64,
    pub sent_ns: u64,
}

/// Why a value is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOurs {
    TooShort,
    Checksum,
}

impl Identity {
    /// Writes all but the send time and the checksum, which [`seal`] adds.
    #[inline]
    pub fn write(&self, value: &mut [u8]) {
        value[..4].copy_from_slice(&self.run.to_be_bytes());
        value[4..6].copy_from_slice(&self.producer.to_be_bytes());
        value[6..8].copy_from_slice(&self.slot.to_be_bytes());
        value[8..12].copy_from_slice(&self.partition.to_be_bytes());
        value[12..20].copy_from_slice(&self.sequence.to_be_bytes());
        value[INTENDED_AT..SENT_AT].copy_from_slice(&self.intended_ns.to_be_bytes());
    }

    #[inline]
    pub fn read(value: &[u8]) -> Result<Identity, NotOurs> {
        let (head, _) = value.split_at_checked(IDENTITY_BYTES).ok_or(NotOurs::TooShort)?;
        if u32::from_be_bytes(array(head, CHECK_AT)) != crc32c::checksum(&head[..CHECK_AT]) {
            return Err(NotOurs::Checksum);
        }
        Ok(Identity {
            run: u32::from_be_bytes(array(head, 0)),
            producer: u16::from_be_bytes(array(head, 4)),
            slot: u16::from_be_bytes(array(head, 6)),
            partition: u32::from_be_bytes(array(head, 8)),
            sequence: u64::from_be_bytes(array(head, 12)),
            intended_ns: u64::from_be_bytes(array(head, INTENDED_AT)),
            sent_ns: u64::from_be_bytes(array(head, SENT_AT)),
        })
    }
}

/// Completes a value when it is sent.
#[inline]
pub fn seal(value: &mut [u8], sent_ns: u64) {
    value[SENT_AT..CHECK_AT].copy_from_slice(&sent_ns.to_be_bytes());
    let check = crc32c::checksum(&value[..CHECK_AT]);
    value[CHECK_AT..IDENTITY_BYTES].copy_from_slice(&check.to_be_bytes());
}

/// The intended time of a value that was written here.
#[inline]
pub fn intended_ns(value: &[u8]) -> u64 {
    u64::from_be_bytes(array(value, INTENDED_AT))
}

#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a range of N bytes")
}

/// The filler of a run: words that compress about as well as log lines do.
pub struct Filler {
    text: Vec<u8>,
    len: usize,
}

impl Filler {
    /// Filler for values of `value_bytes`.
    pub fn new(run: u32, value_bytes: usize) -> Filler {
        let len = value_bytes.saturating_sub(IDENTITY_BYTES);
        let mut random = Random::new(u64::from(run));
        let words: Vec<Vec<u8>> = (0..512)
            .map(|_| (0..3 + random.below(18)).map(|_| b'a' + random.below(26) as u8).collect())
            .collect();
        // Any piece of `len` bytes that begins within TEXT_BYTES lies in the text.
        let mut text = Vec::with_capacity(TEXT_BYTES + len + 32);
        while text.len() < TEXT_BYTES + len {
            text.extend_from_slice(&words[random.below(512) as usize]);
            text.push(b' ');
        }
        Filler { text, len }
    }

    /// The filler of the values in this slot.
    #[inline]
    pub fn piece(&self, slot: u16) -> &[u8] {
        let start = usize::from(slot) * self.len % TEXT_BYTES;
        &self.text[start..start + self.len]
    }
}

/// SplitMix64: repeatable, and good enough for keys and text.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `limit`, which is not 0.
    #[inline]
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }
}

/// Spreads a number over all 64 bits.
#[inline]
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            run: 7,
            producer: 2,
            slot: 3,
            partition: 4,
            sequence: 1 << 40,
            intended_ns: 123_456_789,
            sent_ns: 0,
        }
    }

    #[test]
    fn an_identity_comes_back_and_any_flipped_bit_shows() {
        let mut value = vec![9; 60];
        identity().write(&mut value);
        seal(&mut value, 55);
        assert_eq!(Identity::read(&value), Ok(Identity { sent_ns: 55, ..identity() }));
        assert_eq!(intended_ns(&value), 123_456_789);
        for bit in 0..IDENTITY_BYTES * 8 {
            value[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Identity::read(&value), Err(NotOurs::Checksum), "bit {bit}");
            value[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Identity::read(&value[..39]), Err(NotOurs::TooShort));
    }

    #[test]
    fn filler_is_the_same_for_the_same_run_and_slot_only() {
        let (one, two) = (Filler::new(1, 100), Filler::new(1, 100));
        assert_eq!(one.piece(5), two.piece(5));
        assert_eq!(one.piece(5).len(), 60);
        assert_ne!(one.piece(5), one.piece(6));
        assert_ne!(one.piece(5), Filler::new(2, 100).piece(5));
        assert_eq!(Filler::new(1, 40).piece(u16::MAX), b"");
        assert_eq!(Filler::new(1, 1 << 20).piece(u16::MAX).len(), (1 << 20) - 40);
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::new(3);
        let mut seen = [false; 5];
        (0..1000).for_each(|_| seen[random.below(5) as usize] = true);
        assert_eq!(seen, [true; 5]);
    }
}
