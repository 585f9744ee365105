//! The hash of the topics a group is subscribed to, as Kafka writes it into the group's record: it tells after a restart, or
//! under the other broker, whether a topic has changed since the last assignment.

use twox_hash::XxHash3_64;

use super::java_order::halves;
use crate::broker::group::TopicLookup;

/// The version of the way a topic is hashed.
const MAGIC: u8 = 0;

/// Of the topics that exist; `names` in their order. 0 for none.
pub fn metadata_hash<'n>(names: impl Iterator<Item = &'n str>, topics: &dyn TopicLookup) -> i64 {
    let mut hashes = Vec::new();
    for name in names {
        if let Some(hash) = topic_hash(name, topics) {
            hashes.extend(hash.to_le_bytes());
        }
    }
    if hashes.is_empty() { 0 } else { XxHash3_64::oneshot(&hashes) as i64 }
}

fn topic_hash(name: &str, topics: &dyn TopicLookup) -> Option<u64> {
    let (id, count) = (topics.topic_id(name)?, topics.partition_count(name)?);
    let (high, low) = halves(&id);
    let mut bytes = vec![MAGIC];
    bytes.extend(high.to_le_bytes());
    bytes.extend(low.to_le_bytes());
    put_text(&mut bytes, name);
    bytes.extend(count.to_le_bytes());
    for index in 0..count {
        bytes.extend(index.to_le_bytes());
        for rack in topics.racks(name, index) {
            bytes.extend((rack.encode_utf16().count() as i32).to_le_bytes());
            put_text(&mut bytes, &rack);
        }
    }
    Some(XxHash3_64::oneshot(&bytes))
}

/// UTF-16 units, then their number.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let before = bytes.len();
    text.encode_utf16().for_each(|unit| bytes.extend(unit.to_le_bytes()));
    let units = (bytes.len() - before) / 2;
    bytes.extend((units as i32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::Uuid;

    struct Two;

    impl TopicLookup for Two {
        fn topic_id(&self, name: &str) -> Option<Uuid> {
            match name {
                "orders" => Some(Uuid([1, 2, 3, 4, 5, 6, 7, 8, 17, 18, 19, 20, 21, 22, 23, 24])),
                "p" => Some(Uuid([255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 5])),
                _ => None,
            }
        }

        fn topic_name(&self, _: Uuid) -> Option<Arc<str>> {
            None
        }

        fn partition_count(&self, name: &str) -> Option<i32> {
            Some(if name == "p" { 100 } else { 3 })
        }

        fn names(&self) -> Vec<Arc<str>> {
            Vec::new()
        }

        fn racks(&self, name: &str, partition: i32) -> Vec<String> {
            match (name, partition) {
                ("orders", 1) => vec!["a".into(), "b".into()],
                ("orders", 2) => vec!["räck".into()],
                _ => Vec::new(),
            }
        }
    }

    /// What `Utils.computeTopicHash` and `computeGroupHash` of Kafka 4.3.1 say of these topics.
    #[test]
    fn as_kafka_hashes() {
        assert_eq!(topic_hash("orders", &Two).map(|hash| hash as i64), Some(5_107_380_904_549_174_272));
        assert_eq!(topic_hash("p", &Two).map(|hash| hash as i64), Some(7_895_105_034_746_259_033));
        let both = ["missing", "orders", "p"].into_iter();
        assert_eq!(metadata_hash(both, &Two), 8_650_262_252_752_872_133);
        assert_eq!(metadata_hash(std::iter::once("missing"), &Two), 0);
    }
}
