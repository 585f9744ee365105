//! The keys of a topic, by name. A key with synonyms takes its default from the broker: the first synonym that is set
//! there wins, converted to the topic key's unit.

use super::key::{Effect, Key, Reason, Update, Valid, ValueType};

use ValueType::{Boolean, Double, Int, List, Long, String};

/// A topic's key and where its default comes from.
#[derive(Clone, Copy, Debug)]
pub struct TopicKey {
    pub key: Key,
    /// Broker keys, the strongest first.
    pub synonyms: &'static [Synonym],
}

/// A broker key that gives a topic key its default.
#[derive(Clone, Copy, Debug)]
pub struct Synonym {
    pub name: &'static str,
    pub unit: Unit,
}

/// How a broker key's number becomes the topic key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Same,
    MinutesToMs,
    HoursToMs,
}

impl Unit {
    /// Negative numbers mean "no limit" and stay -1.
    pub fn convert(self, number: i64) -> i64 {
        let factor = match self {
            Unit::Same => return number,
            Unit::MinutesToMs => 60_000,
            Unit::HoursToMs => 3_600_000,
        };
        if number < 0 { -1 } else { number.saturating_mul(factor) }
    }
}

const fn same(name: &'static str) -> Synonym {
    Synonym { name, unit: Unit::Same }
}

const fn key(
    name: &'static str,
    value_type: ValueType,
    default: &'static str,
    valid: Valid,
    synonyms: &'static [Synonym],
    doc: &'static str,
) -> TopicKey {
    let effect = Effect::Used;
    TopicKey {
        key: Key { name, value_type, default: Some(default), valid, update: Update::Topic, effect, doc },
        synonyms,
    }
}

const fn ignored(mut key: TopicKey, reason: Reason) -> TopicKey {
    key.key.effect = Effect::Ignored(reason);
    key
}

const MAX_LONG: &str = "9223372036854775807";

pub const TOPIC_KEYS: &[TopicKey] = &[
    key(
        "cleanup.policy",
        List,
        "delete",
        Valid::Elements(&["compact", "delete"]),
        &[same("log.cleanup.policy")],
        "What happens to old segments: `delete` drops them by age and size, `compact` keeps the newest record of each \
         key, both together do both. Empty keeps everything.",
    ),
    key(
        "compression.gzip.level",
        Int,
        "-1",
        Valid::RangeOr(1, 9, -1),
        &[same("compression.gzip.level")],
        "The level when `compression.type` is `gzip`; -1 is the codec's default.",
    ),
    ignored(
        key(
            "compression.lz4.level",
            Int,
            "9",
            Valid::Range(1, 17),
            &[same("compression.lz4.level")],
            Reason::Encoder.doc(),
        ),
        Reason::Encoder,
    ),
    key(
        "compression.type",
        String,
        "producer",
        Valid::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        &[same("compression.type")],
        "The codec that batches are stored with. `producer` keeps them byte for byte as they were sent; any other \
         recompresses batches that come in another codec.",
    ),
    key(
        "compression.zstd.level",
        Int,
        "3",
        Valid::Range(-131_072, 22),
        &[same("compression.zstd.level")],
        "The level when `compression.type` is `zstd`.",
    ),
    key(
        "delete.retention.ms",
        Long,
        "86400000",
        Valid::Min(0),
        &[same("log.cleaner.delete.retention.ms")],
        "How long compaction keeps a tombstone, so that a consumer reading from the start still sees the deletion.",
    ),
    key(
        "file.delete.delay.ms",
        Long,
        "60000",
        Valid::Min(0),
        &[same("log.segment.delete.delay.ms")],
        "How long the files of a dropped segment stay on disk.",
    ),
    key(
        "flush.messages",
        Long,
        MAX_LONG,
        Valid::Min(1),
        &[same("log.flush.interval.messages")],
        "Data is synced to stable media at least every so many records; with 1 every acknowledgement waits for that.",
    ),
    key(
        "flush.ms",
        Long,
        MAX_LONG,
        Valid::Min(0),
        &[same("log.flush.interval.ms"), same("log.flush.scheduler.interval.ms")],
        "Data is synced to stable media at least this often.",
    ),
    ignored(
        key(
            "follower.replication.throttled.replicas",
            List,
            "",
            Valid::ThrottledReplicas,
            &[],
            "Replicas whose follower traffic is throttled, as partition:broker pairs, or * for all.",
        ),
        Reason::Replication,
    ),
    key(
        "index.interval.bytes",
        Int,
        "4096",
        Valid::Min(0),
        &[same("log.index.interval.bytes")],
        "The offset index gets an entry about every so many bytes of log.",
    ),
    ignored(
        key(
            "leader.replication.throttled.replicas",
            List,
            "",
            Valid::ThrottledReplicas,
            &[],
            "Replicas whose leader traffic is throttled, as partition:broker pairs, or * for all.",
        ),
        Reason::Replication,
    ),
    ignored(
        key(
            "local.retention.bytes",
            Long,
            "-2",
            Valid::Min(-2),
            &[same("log.local.retention.bytes")],
            "With tiered storage, the size kept on local disks.",
        ),
        Reason::Tiered,
    ),
    ignored(
        key(
            "local.retention.ms",
            Long,
            "-2",
            Valid::Min(-2),
            &[same("log.local.retention.ms")],
            "With tiered storage, the time kept on local disks.",
        ),
        Reason::Tiered,
    ),
    key(
        "max.compaction.lag.ms",
        Long,
        MAX_LONG,
        Valid::Min(1),
        &[same("log.cleaner.max.compaction.lag.ms")],
        "A record is compacted at the latest after this time, however clean the log is.",
    ),
    key(
        "max.message.bytes",
        Int,
        "1048588",
        Valid::Min(0),
        &[same("message.max.bytes")],
        "The largest record batch taken, compressed as it is sent.",
    ),
    key(
        "message.timestamp.after.max.ms",
        Long,
        "3600000",
        Valid::Min(0),
        &[same("log.message.timestamp.after.max.ms")],
        "How far a record's timestamp may lie ahead of the broker's clock, when it is the producer's.",
    ),
    key(
        "message.timestamp.before.max.ms",
        Long,
        MAX_LONG,
        Valid::Min(0),
        &[same("log.message.timestamp.before.max.ms")],
        "How far a record's timestamp may lie behind the broker's clock, when it is the producer's.",
    ),
    key(
        "message.timestamp.type",
        String,
        "CreateTime",
        Valid::OneOf(&["CreateTime", "LogAppendTime"]),
        &[same("log.message.timestamp.type")],
        "Whether a record carries the producer's time or the time of its append.",
    ),
    key(
        "min.cleanable.dirty.ratio",
        Double,
        "0.5",
        Valid::Fraction(0.0, 1.0),
        &[same("log.cleaner.min.cleanable.ratio")],
        "A log is compacted when this share of it has not been compacted yet.",
    ),
    key(
        "min.compaction.lag.ms",
        Long,
        "0",
        Valid::Min(0),
        &[same("log.cleaner.min.compaction.lag.ms")],
        "A record stays uncompacted at least this long.",
    ),
    key(
        "min.insync.replicas",
        Int,
        "1",
        Valid::Min(1),
        &[same("min.insync.replicas")],
        "How many replicas must be in sync for a write with acks=all to be taken.",
    ),
    ignored(
        key(
            "preallocate",
            Boolean,
            "false",
            Valid::Any,
            &[same("log.preallocate")],
            "Whether a new segment's file is allocated at once.",
        ),
        Reason::Mechanism,
    ),
    ignored(
        key(
            "remote.log.copy.disable",
            Boolean,
            "false",
            Valid::Any,
            &[],
            "With tiered storage, stops copying to it.",
        ),
        Reason::Tiered,
    ),
    ignored(
        key(
            "remote.log.delete.on.disable",
            Boolean,
            "false",
            Valid::Any,
            &[],
            "With tiered storage, deletes what is there once it is switched off.",
        ),
        Reason::Tiered,
    ),
    ignored(
        key("remote.storage.enable", Boolean, "false", Valid::Any, &[], "Tiered storage for the topic."),
        Reason::Tiered,
    ),
    key(
        "retention.bytes",
        Long,
        "-1",
        Valid::Any,
        &[same("log.retention.bytes")],
        "With the `delete` policy, the size a partition is cut back to by dropping its oldest segments; -1: no limit.",
    ),
    key(
        "retention.ms",
        Long,
        "604800000",
        Valid::Min(-1),
        &[
            same("log.retention.ms"),
            Synonym { name: "log.retention.minutes", unit: Unit::MinutesToMs },
            Synonym { name: "log.retention.hours", unit: Unit::HoursToMs },
        ],
        "With the `delete` policy, the age after which a segment is dropped; -1: no limit.",
    ),
    key(
        "segment.bytes",
        Int,
        "1073741824",
        Valid::Min(1_048_576),
        &[same("log.segment.bytes")],
        "The size at which a segment is closed and the next one begun.",
    ),
    key(
        "segment.index.bytes",
        Int,
        "10485760",
        Valid::Min(4),
        &[same("log.index.size.max.bytes")],
        "The largest size of a segment's offset index; a full index closes the segment.",
    ),
    key(
        "segment.jitter.ms",
        Long,
        "0",
        Valid::Min(0),
        &[same("log.roll.jitter.ms"), Synonym { name: "log.roll.jitter.hours", unit: Unit::HoursToMs }],
        "The most that is taken off `segment.ms` at random, so that segments do not all close at once.",
    ),
    key(
        "segment.ms",
        Long,
        "604800000",
        Valid::Min(1),
        &[same("log.roll.ms"), Synonym { name: "log.roll.hours", unit: Unit::HoursToMs }],
        "The age at which a segment is closed even if it is not full.",
    ),
    ignored(
        key(
            "unclean.leader.election.enable",
            Boolean,
            "false",
            Valid::Any,
            &[same("unclean.leader.election.enable")],
            "Whether a replica that is not in sync may become leader, losing data.",
        ),
        Reason::Replication,
    ),
];

/// The topic key of this name.
pub fn find(name: &str) -> Option<&'static TopicKey> {
    let index = TOPIC_KEYS.binary_search_by(|entry| entry.key.name.cmp(name)).ok()?;
    TOPIC_KEYS.get(index)
}
