//! The effective configuration of a topic: its own values over the broker's defaults.

use std::collections::BTreeMap;

use super::broker::BrokerConfig;
use super::key::Value;
use super::topic_keys::{TopicKey, find};

#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    pub cleanup_delete: bool,
    pub cleanup_compact: bool,
    pub compression: Compression,
    pub compression_gzip_level: i32,
    pub compression_zstd_level: i32,
    pub delete_retention_ms: i64,
    pub file_delete_delay_ms: i64,
    /// `i64::MAX`: no limit.
    pub flush_messages: i64,
    /// `i64::MAX`: no limit.
    pub flush_ms: i64,
    pub index_interval_bytes: i32,
    pub max_compaction_lag_ms: i64,
    pub max_message_bytes: i32,
    pub message_timestamp_after_max_ms: i64,
    pub message_timestamp_before_max_ms: i64,
    pub message_timestamp_type: TimestampType,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    pub min_insync_replicas: i32,
    /// -1: no limit.
    pub retention_bytes: i64,
    /// -1: no limit.
    pub retention_ms: i64,
    pub segment_bytes: i32,
    pub segment_index_bytes: i32,
    pub segment_jitter_ms: i64,
    pub segment_ms: i64,
}

/// `compression.type` of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Batches stay as they were sent.
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

impl TopicConfig {
    /// A value that its key does not take (from a data directory written by something else) counts as not set.
    pub fn effective(broker: &BrokerConfig, overrides: &BTreeMap<String, String>) -> TopicConfig {
        let values = Values { broker, overrides };
        let policies = values.list("cleanup.policy");
        TopicConfig {
            cleanup_delete: policies.iter().any(|policy| policy == "delete"),
            cleanup_compact: policies.iter().any(|policy| policy == "compact"),
            compression: match values.text("compression.type").as_str() {
                "uncompressed" => Compression::Uncompressed,
                "gzip" => Compression::Gzip,
                "snappy" => Compression::Snappy,
                "lz4" => Compression::Lz4,
                "zstd" => Compression::Zstd,
                _ => Compression::Producer,
            },
            compression_gzip_level: values.int("compression.gzip.level"),
            compression_zstd_level: values.int("compression.zstd.level"),
            delete_retention_ms: values.long("delete.retention.ms"),
            file_delete_delay_ms: values.long("file.delete.delay.ms"),
            flush_messages: values.long("flush.messages"),
            flush_ms: values.long("flush.ms"),
            index_interval_bytes: values.int("index.interval.bytes"),
            max_compaction_lag_ms: values.long("max.compaction.lag.ms"),
            max_message_bytes: values.int("max.message.bytes"),
            message_timestamp_after_max_ms: values.long("message.timestamp.after.max.ms"),
            message_timestamp_before_max_ms: values.long("message.timestamp.before.max.ms"),
            message_timestamp_type: match values.text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            min_cleanable_dirty_ratio: values.double("min.cleanable.dirty.ratio"),
            min_compaction_lag_ms: values.long("min.compaction.lag.ms"),
            min_insync_replicas: values.int("min.insync.replicas"),
            // Kafka takes any negative number for no limit.
            retention_bytes: values.long("retention.bytes").max(-1),
            retention_ms: values.long("retention.ms").max(-1),
            segment_bytes: values.int("segment.bytes"),
            segment_index_bytes: values.int("segment.index.bytes"),
            segment_jitter_ms: values.long("segment.jitter.ms"),
            segment_ms: values.long("segment.ms"),
        }
    }
}

/// What the broker gives `topic_key`, converted to its unit.
pub(super) fn inherited(broker: &BrokerConfig, topic_key: &TopicKey) -> Value {
    let from_broker = |synonym: &super::topic_keys::Synonym| match broker.value(synonym.name)? {
        Value::Long(number) => Some(Value::Long(synonym.unit.convert(number))),
        other => Some(other),
    };
    topic_key.synonyms.iter().find_map(from_broker).unwrap_or_else(|| own_default(topic_key))
}

fn own_default(topic_key: &TopicKey) -> Value {
    let text = topic_key.key.default.expect("every topic key has a default");
    topic_key.key.parse(text).expect("a default is a valid value")
}

struct Values<'a> {
    broker: &'a BrokerConfig,
    overrides: &'a BTreeMap<String, String>,
}

impl Values<'_> {
    fn value(&self, name: &str) -> Value {
        let topic_key = find(name).expect("a declared key");
        let own = self.overrides.get(name).and_then(|text| topic_key.key.parse(text).ok());
        own.unwrap_or_else(|| inherited(self.broker, topic_key))
    }

    fn long(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Long(number) => number,
            other => unreachable!("{name} is declared as a whole number, not {other:?}"),
        }
    }

    fn int(&self, name: &str) -> i32 {
        i32::try_from(self.long(name)).unwrap_or(i32::MAX)
    }

    fn double(&self, name: &str) -> f64 {
        match self.value(name) {
            Value::Double(number) => number,
            other => unreachable!("{name} is declared as a DOUBLE, not {other:?}"),
        }
    }

    fn text(&self, name: &str) -> String {
        match self.value(name) {
            Value::Text(text) => text,
            other => unreachable!("{name} is declared as a STRING, not {other:?}"),
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::List(words) => words,
            other => unreachable!("{name} is declared as a LIST, not {other:?}"),
        }
    }
}
