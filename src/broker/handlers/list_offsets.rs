//! ListOffsets, versions 0 to 11: the start, the end, the first record at or after a timestamp, the record with the largest
//! timestamp. Nothing is tiered, so "earliest local" is the start, and "latest tiered" does not exist. For readers of
//! committed data the log ends at its last stable offset.
//!
//! Version 0, which Kafka 4 has dropped and lag monitors still send, asks for the bases of segments; it gets one offset here, as exact
//! as the later versions', or none.

use std::borrow::Cow;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::gather::{Gather, Kind, Layout};
use crate::broker::mail::{Answer, Query, Task};
use crate::broker::request::{Reply, Request, Response};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::list_offsets_request::ListOffsetsRequest;
use crate::protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use crate::storage::{Lookup, ReadError};

const READ_COMMITTED: i8 = 1;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<ListOffsetsRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let mut layout = Layout::default();
    let mut queries = Vec::new();
    for topic in &message.topics {
        let found = broker.image.topic(&topic.name).cloned();
        let topic_id = found.as_ref().map_or_else(Default::default, |found| found.id);
        layout.push_topic(Arc::from(&*topic.name), topic_id);
        for partition in &topic.partitions {
            layout.push_partition(partition.partition_index);
            let query = Query::ListOffset {
                timestamp: partition.timestamp,
                current_leader_epoch: partition.current_leader_epoch,
                read_committed: message.isolation_level == READ_COMMITTED,
            };
            queries.push((topic_id, partition.partition_index, query));
        }
    }
    super::scatter(broker, io, head, layout, queries, Kind::Plain)
}

pub fn execute(broker: &mut Broker, io: &mut impl Io, task: Task<'_>) -> Option<Answer> {
    let Query::ListOffset { timestamp, current_leader_epoch, read_committed } = task.query else {
        return None;
    };
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Error(ErrorCode::UnknownTopicOrPartition));
    };
    if let Err(error) = super::check_leader_epoch(current_leader_epoch, partition.leader_epoch) {
        return Some(Answer::Error(error));
    }
    let (log, leader_epoch) = (partition.log, partition.leader_epoch);
    let storage = &mut broker.storage;
    let end_offset =
        if read_committed { storage.last_stable_offset(log) } else { storage.high_watermark(log) };
    let end_offset = end_offset.unwrap_or(0);
    let start_offset = storage.log_start_offset(log).unwrap_or(0);
    let none = Answer::Offset { offset: -1, timestamp: -1, leader_epoch: -1 };
    let found = match timestamp {
        LATEST => {
            return Some(Answer::Offset { offset: end_offset, timestamp: -1, leader_epoch });
        }
        EARLIEST | EARLIEST_LOCAL => {
            return Some(Answer::Offset { offset: start_offset, timestamp: -1, leader_epoch });
        }
        LATEST_TIERED | EARLIEST_PENDING_UPLOAD => return Some(none),
        MAX_TIMESTAMP => storage.max_timestamp_offset(io, log, end_offset),
        timestamp => storage.offset_for_timestamp(io, log, timestamp, end_offset),
    };
    match found {
        Ok(Lookup::Found { offset, timestamp, leader_epoch }) => {
            Some(Answer::Offset { offset, timestamp, leader_epoch })
        }
        Ok(Lookup::None) => Some(none),
        Ok(Lookup::Pending) => {
            partition.parked.push(task.into_owned());
            None
        }
        Err(ReadError::UnknownLog) => Some(Answer::Error(ErrorCode::UnknownTopicOrPartition)),
        Err(ReadError::OutOfRange) => Some(none),
        Err(_) => Some(Answer::Error(ErrorCode::KafkaStorageError)),
    }
}

pub fn finish(gather: Gather) -> Response {
    let mut answers = gather.answers.into_iter();
    let mut topics = Vec::new();
    for (topic, _, partitions) in gather.layout.topics() {
        let partitions = partitions.iter().zip(&mut answers).map(|(&partition_index, answer)| match answer {
            Some(Answer::Offset { offset, timestamp, leader_epoch }) => ListOffsetsPartitionResponse {
                partition_index,
                old_style_offsets: (offset >= 0).then_some(offset).into_iter().collect(),
                offset,
                timestamp,
                leader_epoch,
                ..Default::default()
            },
            answer => ListOffsetsPartitionResponse {
                partition_index,
                error_code: super::answer_error(answer).code(),
                ..Default::default()
            },
        });
        topics.push(ListOffsetsTopicResponse {
            name: Cow::Borrowed(&topic.name),
            partitions: partitions.collect(),
        });
    }
    Response::of(&gather.head, &ListOffsetsResponse { topics: topics.into(), ..Default::default() })
}
