//! Transactional ids as records of `__transaction_state`, in Kafka's format.
//!
//! A key is its type (2 bytes) and the message in version 0; a value is its version (2 bytes) and the message; a record
//! without a value deletes. Written in version 1, as Kafka does with transaction version 1 and above; read in both.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::TopicPartition;
use super::metadata::{Metadata, State};
use crate::protocol::messages::transaction_log_key::{self, TransactionLogKey};
use crate::protocol::messages::transaction_log_value::{PartitionsSchema, TransactionLogValue};
use crate::protocol::{Message, Reader, Writer};
use crate::record::batch::NO_PRODUCER_EPOCH;
use crate::record::{BatchBuilder, BatchOptions, Compressor};

const VALUE_VERSION: i16 = 1;

/// The records of one append.
pub struct BatchWriter {
    builder: BatchBuilder,
    timestamp_ms: i64,
}

impl BatchWriter {
    pub fn new(wall_ms: i64) -> BatchWriter {
        BatchWriter { builder: BatchBuilder::new(BatchOptions::default()), timestamp_ms: wall_ms }
    }

    pub fn put(&mut self, transactional_id: &str, metadata: &Metadata) {
        let value = value_bytes(metadata);
        self.builder.append(self.timestamp_ms, Some(&key_bytes(transactional_id)), Some(&value), &[]);
    }

    pub fn delete(&mut self, transactional_id: &str) {
        self.builder.append(self.timestamp_ms, Some(&key_bytes(transactional_id)), None, &[]);
    }

    /// The batch; none if it cannot be made.
    pub fn finish(self) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.builder.uncompressed_size());
        self.builder.finish(&mut Compressor::default(), &mut bytes).ok()?;
        Some(bytes)
    }
}

/// What a record of the topic says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionRecord<'a> {
    Id {
        transactional_id: Cow<'a, str>,
        metadata: Option<Box<Metadata>>,
    },
    /// Of a type or version that is not known here.
    Other,
}

impl<'a> TransactionRecord<'a> {
    /// None if the bytes are not what they should be.
    pub fn parse(key: Option<&'a [u8]>, value: Option<&[u8]>) -> Option<TransactionRecord<'a>> {
        let mut reader = Reader::new(key?);
        if reader.i16("type").ok()? != transaction_log_key::RECORD_TYPE {
            return Some(TransactionRecord::Other);
        }
        let transactional_id = TransactionLogKey::read(&mut reader, 0).ok()?.transactional_id;
        let Some(value) = value else {
            return Some(TransactionRecord::Id { transactional_id, metadata: None });
        };
        let mut reader = Reader::new(value);
        let version = reader.i16("version").ok()?;
        if !(TransactionLogValue::MIN_VERSION..=TransactionLogValue::MAX_VERSION).contains(&version) {
            return Some(TransactionRecord::Other);
        }
        let value = TransactionLogValue::read(&mut reader, version).ok()?;
        let metadata = Some(Box::new(metadata(&value)?));
        Some(TransactionRecord::Id { transactional_id, metadata })
    }
}

fn key_bytes(transactional_id: &str) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.put_i16(transaction_log_key::RECORD_TYPE);
    TransactionLogKey { transactional_id: Cow::Borrowed(transactional_id) }.write(&mut writer, 0);
    writer.buf
}

fn value_bytes(metadata: &Metadata) -> Vec<u8> {
    let partitions = (metadata.state != State::Empty).then(|| by_topic(&metadata.partitions));
    let topics = partitions.as_ref().map(|topics| {
        let topic = |(topic, partition_ids): &(&Arc<str>, Vec<i32>)| PartitionsSchema {
            topic: Cow::Owned(topic.to_string()),
            partition_ids: partition_ids.clone().into(),
        };
        topics.iter().map(topic).collect()
    });
    let value = TransactionLogValue {
        producer_id: metadata.producer_id,
        previous_producer_id: metadata.previous_producer_id,
        next_producer_id: metadata.next_producer_id,
        producer_epoch: metadata.producer_epoch,
        transaction_timeout_ms: metadata.timeout_ms,
        transaction_status: metadata.state as i8,
        transaction_partitions: topics,
        transaction_last_update_timestamp_ms: metadata.last_update_timestamp_ms,
        transaction_start_timestamp_ms: metadata.start_timestamp_ms,
        client_transaction_version: metadata.client_version,
        ..TransactionLogValue::default()
    };
    let mut writer = Writer::new();
    writer.put_i16(VALUE_VERSION);
    value.write(&mut writer, VALUE_VERSION);
    writer.buf
}

/// The partitions topic by topic, in order.
pub fn by_topic(partitions: &BTreeSet<TopicPartition>) -> Vec<(&Arc<str>, Vec<i32>)> {
    let mut topics: Vec<(&Arc<str>, Vec<i32>)> = Vec::new();
    for (topic, partition) in partitions {
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic => partitions.push(*partition),
            _ => topics.push((topic, vec![*partition])),
        }
    }
    topics
}

/// `None` for a state that does not exist.
fn metadata(value: &TransactionLogValue<'_>) -> Option<Metadata> {
    let state = State::from_code(value.transaction_status)?;
    let mut partitions = BTreeSet::new();
    for topic in value.transaction_partitions.iter().flat_map(|topics| topics.iter()) {
        let name: Arc<str> = topic.topic.as_ref().into();
        partitions.extend(topic.partition_ids.iter().map(|partition| (name.clone(), partition)));
    }
    if state == State::Empty {
        partitions.clear();
    }
    Some(Metadata {
        producer_id: value.producer_id,
        previous_producer_id: value.previous_producer_id,
        next_producer_id: value.next_producer_id,
        producer_epoch: value.producer_epoch,
        last_producer_epoch: NO_PRODUCER_EPOCH,
        timeout_ms: value.transaction_timeout_ms,
        state,
        partitions,
        start_timestamp_ms: value.transaction_start_timestamp_ms,
        last_update_timestamp_ms: value.transaction_last_update_timestamp_ms,
        client_version: value.client_transaction_version,
    })
}
