//! The latest offset of each key of the dirty part of a log, in memory fixed at the start.
//!
//! Keys are kept as 128-bit hashes, 24 bytes a key with its offset. Two keys with one hash would cost the older its record, so
//! the hash is keyed (SipHash, with a secret the caller draws) and wide enough that this does not happen by chance. When the
//! map is full, [`OffsetMap::put`] refuses: the cleaner then compacts what it has mapped, and goes on from there next time.

/// Three words a slot: the two of the hash, and the offset plus one, 0 for a free slot. One zeroed allocation, whose pages the
/// system hands out only as they fill.
const SLOT_WORDS: usize = 3;

/// The bytes a key takes.
pub const SLOT_BYTES: usize = SLOT_WORDS * 8;

/// See the module.
#[derive(Debug)]
pub struct OffsetMap {
    words: Vec<u64>,
    slots: usize,
    entries_max: usize,
    entries: usize,
    latest_offset: i64,
    secret: [u64; 2],
}

/// The map takes no further key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the offset map is full")]
pub struct Full;

impl OffsetMap {
    /// `memory_bytes` is `log.cleaner.dedupe.buffer.size` of one thread, `load_factor` is
    /// `log.cleaner.io.buffer.load.factor`: the part of the slots that may fill.
    pub fn new(memory_bytes: usize, load_factor: f64, secret: [u64; 2]) -> OffsetMap {
        let slots = (memory_bytes / SLOT_BYTES).max(2);
        // One slot stays free, so that a search ends.
        let entries_max = ((slots as f64 * load_factor.clamp(0.0, 1.0)) as usize).clamp(1, slots - 1);
        OffsetMap {
            words: vec![0; slots * SLOT_WORDS],
            slots,
            entries_max,
            entries: 0,
            latest_offset: -1,
            secret,
        }
    }

    /// Notes that `key` was written at `offset`. Offsets come in order, so the last one noted is the latest.
    pub fn put(&mut self, key: &[u8], offset: i64) -> Result<(), Full> {
        let hash = self.hash(key);
        let slot = self.find(hash);
        if self.words[slot + 2] == 0 {
            if self.entries == self.entries_max {
                return Err(Full);
            }
            self.entries += 1;
        }
        self.words[slot..slot + SLOT_WORDS].copy_from_slice(&[hash[0], hash[1], (offset + 1) as u64]);
        self.latest_offset = offset;
        Ok(())
    }

    /// The latest offset noted for `key`.
    pub fn get(&self, key: &[u8]) -> Option<i64> {
        let slot = self.find(self.hash(key));
        self.words[slot + 2].checked_sub(1).map(|offset| offset as i64)
    }

    /// The offset up to which the map knows the log. Records behind it are kept.
    pub fn latest_offset(&self) -> i64 {
        self.latest_offset
    }

    /// Moves [`OffsetMap::latest_offset`] over records that have no key.
    pub fn set_latest_offset(&mut self, offset: i64) {
        self.latest_offset = offset;
    }

    pub fn len(&self) -> usize {
        self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The keys that fit.
    pub fn capacity(&self) -> usize {
        self.entries_max
    }

    /// Forgets all keys, keeps the memory.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.entries = 0;
        self.latest_offset = -1;
    }

    /// The index of the slot that holds `hash`, or of the free one where it belongs.
    fn find(&self, hash: [u64; 2]) -> usize {
        let mut slot = ((u128::from(hash[0]) * self.slots as u128) >> 64) as usize;
        loop {
            let at = slot * SLOT_WORDS;
            let words = &self.words[at..at + SLOT_WORDS];
            if words[2] == 0 || words[..2] == hash {
                return at;
            }
            slot = if slot + 1 == self.slots { 0 } else { slot + 1 };
        }
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        siphash128(self.secret, key)
    }
}

/// SipHash-2-4 with 128 bits of output.
fn siphash128(key: [u64; 2], bytes: &[u8]) -> [u64; 2] {
    let mut state = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    for word in words.iter().chain([&last]) {
        let word = u64::from_le_bytes(*word);
        state[3] ^= word;
        rounds(&mut state, 2);
        state[0] ^= word;
    }
    state[2] ^= 0xee;
    rounds(&mut state, 4);
    let first = state[0] ^ state[1] ^ state[2] ^ state[3];
    state[1] ^= 0xdd;
    rounds(&mut state, 4);
    [first, state[0] ^ state[1] ^ state[2] ^ state[3]]
}

fn rounds(state: &mut [u64; 4], count: u32) {
    let [mut a, mut b, mut c, mut d] = *state;
    for _ in 0..count {
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
    }
    *state = [a, b, c, d];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn siphash_known_values() {
        // The reference's key and inputs: bytes counting up from 0.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let hash =
            |length: u8| siphash128(key, &(0..length).collect::<Vec<_>>()).map(u64::to_le_bytes).concat();
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(hash(0)), "a3817f04ba25a8e66df67214c7550293");
        assert_eq!(hex(hash(1)), "da87c1d86b99af44347659119b22fc45");
    }

    #[test]
    fn a_full_map_refuses_new_keys_and_takes_known_ones() {
        let mut map = OffsetMap::new(10 * SLOT_BYTES, 0.5, [1, 2]);
        assert_eq!(map.capacity(), 5);
        for index in 0..5i64 {
            assert_eq!(map.put(&index.to_be_bytes(), index), Ok(()));
        }
        assert_eq!(map.put(b"one more", 5), Err(Full));
        assert_eq!(map.get(b"one more"), None);
        assert_eq!(map.put(&3i64.to_be_bytes(), 6), Ok(()));
        assert_eq!((map.get(&3i64.to_be_bytes()), map.len(), map.latest_offset()), (Some(6), 5, 6));
        map.clear();
        assert_eq!((map.get(&3i64.to_be_bytes()), map.is_empty(), map.latest_offset()), (None, true, -1));
    }

    #[test]
    fn the_smallest_map_still_ends_its_searches() {
        let mut map = OffsetMap::new(0, 1.0, [0, 0]);
        assert_eq!(map.put(b"a", 0), Ok(()));
        assert_eq!((map.put(b"b", 1), map.get(b"b"), map.get(b"a")), (Err(Full), None, Some(0)));
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(keys in prop::collection::vec(0u16..500, 0..2000), secret in any::<[u64; 2]>()) {
            let mut map = OffsetMap::new(600 * SLOT_BYTES, 0.9, secret);
            let mut model = BTreeMap::new();
            for (offset, key) in keys.iter().enumerate() {
                prop_assert_eq!(map.put(&key.to_be_bytes(), offset as i64), Ok(()));
                model.insert(*key, offset as i64);
            }
            prop_assert_eq!(map.len(), model.len());
            for key in 0..500u16 {
                prop_assert_eq!(map.get(&key.to_be_bytes()), model.get(&key).copied());
            }
        }
    }
}
