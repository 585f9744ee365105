//! The order in which Java's hash maps hand out what they hold.
//!
//! Kafka's assignors walk over hash maps, so which member gets a partition more, and which partition it gives up, hangs on
//! that order. It is worked out here from the hashes alone: nothing in this crate iterates in the order of a hash map.

use crate::broker::group::java_hash;
use crate::protocol::Uuid;

const DEFAULT_CAPACITY: usize = 16;

/// The order of a `HashMap` that grew as the items went in, in this order.
pub fn grown_map<T>(items: Vec<T>, hash: impl Fn(&T) -> i32) -> Vec<T> {
    in_table(items, DEFAULT_CAPACITY, hash)
}

/// The order of a `HashSet` made of a collection that says it has `size` elements.
pub fn set_of<T>(items: Vec<T>, size: usize, hash: impl Fn(&T) -> i32) -> Vec<T> {
    let wanted = (size as f32 / 0.75) as usize + 1;
    in_table(items, wanted.max(DEFAULT_CAPACITY).next_power_of_two(), hash)
}

/// Within a bucket, what came first stays first, however often the table doubles.
fn in_table<T>(mut items: Vec<T>, capacity: usize, hash: impl Fn(&T) -> i32) -> Vec<T> {
    let mut buckets = capacity;
    while items.len() * 4 > buckets * 3 {
        buckets *= 2;
    }
    items.sort_by_key(|item| {
        let hash = hash(item) as u32;
        (hash ^ hash >> 16) as usize & (buckets - 1)
    });
    items
}

/// The order of the map in which Kafka's coordinator keeps the members of a group that never was larger.
pub fn timeline_map<T>(mut items: Vec<T>, hash: impl Fn(&T) -> i32) -> Vec<T> {
    let mut slots = 2;
    while items.len() * 3 > slots * 4 {
        slots *= 2;
    }
    let shift = 64 - slots.trailing_zeros();
    items.sort_by_key(|item| i64::from(hash(item)).wrapping_mul(-7_046_029_254_386_353_131) as u64 >> shift);
    items
}

pub fn hash_of_text(text: &str) -> i32 {
    java_hash(text)
}

pub fn hash_of_uuid(id: &Uuid) -> i32 {
    let (high, low) = halves(id);
    let both = high ^ low;
    (both >> 32) as i32 ^ both as i32
}

/// How Java compares UUIDs of Kafka's: as two signed numbers.
pub fn uuid_order(id: &Uuid) -> (i64, i64) {
    halves(id)
}

pub fn halves(id: &Uuid) -> (i64, i64) {
    let bits = u128::from_be_bytes(id.0);
    ((bits >> 64) as i64, bits as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `new HashSet<>(List.of(...))` and `new HashMap<>()` of OpenJDK 17 print them.
    #[test]
    fn as_java_has_it() {
        let numbers = |list: &[i32]| set_of(list.to_vec(), list.len(), |number| *number);
        assert_eq!(numbers(&[17, 3, 16, 0, 33]), vec![16, 0, 17, 33, 3]);
        let names = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"];
        let ordered = grown_map(names.to_vec(), |name| hash_of_text(name));
        assert_eq!(ordered, ["epsilon", "zeta", "eta", "alpha", "delta", "theta", "beta", "gamma"]);
    }
}
