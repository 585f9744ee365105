//! DeleteRecords, versions 0 to 2: moves the log start offset; answered when that is on disk. Offset -1 is the high watermark.

use std::borrow::Cow;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::gather::{Gather, Kind, Layout};
use crate::broker::mail::{Answer, Query, Task};
use crate::broker::request::{Reply, Request, Response};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::delete_records_request::DeleteRecordsRequest;
use crate::protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use crate::storage::ReadError;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<DeleteRecordsRequest>(request.body, head.version) {
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
            let query = Query::DeleteRecords { before: partition.offset };
            queries.push((topic_id, partition.partition_index, query));
        }
    }
    super::scatter(broker, io, head, layout, queries, Kind::Plain)
}

pub fn execute(broker: &mut Broker, io: &mut impl Io, task: Task<'_>) -> Option<Answer> {
    let Query::DeleteRecords { before } = task.query else { return None };
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Error(ErrorCode::UnknownTopicOrPartition));
    };
    if !partition.config.cleanup_delete {
        return Some(Answer::Error(ErrorCode::PolicyViolation));
    }
    let log = partition.log;
    let high_watermark = broker.storage.high_watermark(log).unwrap_or(0);
    let before = if before == -1 { high_watermark } else { before };
    if before < 0 || before > high_watermark {
        return Some(Answer::Error(ErrorCode::OffsetOutOfRange));
    }
    if broker.storage.log_start_offset(log).is_some_and(|start| start >= before) {
        let low_watermark = broker.storage.log_start_offset(log).unwrap_or(before);
        return Some(Answer::Deleted { low_watermark });
    }
    if broker.storage.is_held(log) || broker.storage.delete_waits(log, before) {
        // Told when it goes on.
        let query = Query::DeleteRecords { before };
        partition.parked.push(Task { query, ..task }.into_owned());
        return None;
    }
    match broker.storage.delete_records(io, log, before) {
        // Asked again once the new start is safe, it finds nothing left to do.
        Ok(_) => {
            let query = Query::DeleteRecords { before };
            partition.parked.push(Task { query, ..task }.into_owned());
            None
        }
        Err(ReadError::UnknownLog) => Some(Answer::Error(ErrorCode::UnknownTopicOrPartition)),
        Err(ReadError::OutOfRange) => Some(Answer::Error(ErrorCode::OffsetOutOfRange)),
        Err(_) => Some(Answer::Error(ErrorCode::KafkaStorageError)),
    }
}

pub fn finish(gather: Gather) -> Response {
    let mut answers = gather.answers.into_iter();
    let mut topics = Vec::new();
    for (topic, _, partitions) in gather.layout.topics() {
        let partitions = partitions.iter().zip(&mut answers).map(|(&partition_index, answer)| match answer {
            Some(Answer::Deleted { low_watermark }) => {
                DeleteRecordsPartitionResult { partition_index, low_watermark, error_code: 0 }
            }
            answer => DeleteRecordsPartitionResult {
                partition_index,
                low_watermark: -1,
                error_code: super::answer_error(answer).code(),
            },
        });
        topics.push(DeleteRecordsTopicResult {
            name: Cow::Borrowed(&topic.name),
            partitions: partitions.collect(),
        });
    }
    Response::of(&gather.head, &DeleteRecordsResponse { topics: topics.into(), ..Default::default() })
}
