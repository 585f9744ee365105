//! WriteTxnMarkers, versions 1 and 2, and the markers of this broker's own coordinator: the end of a transaction, written to a partition.
//!
//! By the API anybody who may (there is no authorizer yet) ends what a producer has open on a partition: `kafka-transactions abort`
//! does. From version 2 on a marker says with which transaction version its transaction was made (KIP-1228).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::gather::{Gather, Kind, Layout};
use crate::broker::group::OFFSETS_TOPIC;
use crate::broker::mail::{Answer, Query, Task};
use crate::broker::partition::{Waiter, WaiterTo};
use crate::broker::request::{Reply, Request, Response};
use crate::broker::transaction::Marker;
use crate::config::TimestampType;
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::write_txn_markers_request::WriteTxnMarkersRequest;
use crate::protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
    WriteTxnMarkersResponse,
};
use crate::record::control::EndTxnMarker;
use crate::record::{BatchBuilder, Compressor};
use crate::storage::{AppendError, AppendOptions};

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<WriteTxnMarkersRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let mut layout = Layout::default();
    let mut queries = Vec::new();
    let mut producers = Vec::new();
    for marker in &message.markers {
        let written = Marker {
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch,
            commit: marker.transaction_result,
            coordinator_epoch: marker.coordinator_epoch,
            transaction_version: i16::from(marker.transaction_version),
        };
        producers.push((marker.producer_id, marker.topics.len()));
        for topic in &marker.topics {
            let topic_id = broker.image.topic(&topic.name).map_or_else(Default::default, |topic| topic.id);
            layout.push_topic(Arc::from(&*topic.name), topic_id);
            for partition in &topic.partition_indexes {
                layout.push_partition(partition);
                queries.push((topic_id, partition, Query::WriteMarker(written)));
            }
        }
    }
    super::scatter(broker, io, head, layout, queries, Kind::WriteTxnMarkers(producers))
}

/// Writes one marker; `None` while the answer waits for the disk.
pub fn execute(broker: &mut Broker, io: &mut impl Io, task: Task<'_>) -> Option<Answer> {
    let Query::WriteMarker(marker) = task.query else { return None };
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Error(ErrorCode::UnknownTopicOrPartition));
    };
    if &*partition.topic == OFFSETS_TOPIC && broker.coordinator.is_some() {
        broker.mark_offsets(io, task.partition, marker, task.gather, task.index);
        return None;
    }
    let stamped = partition.config.message_timestamp_type == TimestampType::LogAppendTime;
    let options = AppendOptions {
        leader_epoch: partition.leader_epoch,
        // What was acknowledged as committed must not come undone.
        level: super::ack_level(&broker.config, -1),
        log_append_time_ms: stamped.then_some(broker.wall_ms),
        wall_ms: broker.wall_ms,
        coordinator: true,
        transaction_version: marker.transaction_version,
    };
    let Some(batch) = batch(&marker, broker.wall_ms) else {
        return Some(Answer::Error(ErrorCode::UnknownServerError));
    };
    match broker.storage.append(io, partition.log, &batch, options) {
        Ok(appended) => {
            let to = WaiterTo::Gather(task.gather, task.index);
            partition.wait(Waiter { last_offset: appended.last_offset, to, answer: Answer::Marked });
            None
        }
        Err(error) => Some(Answer::Error(error_of(error))),
    }
}

/// A control batch with the marker in it.
pub fn batch(marker: &Marker, wall_ms: i64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let end = EndTxnMarker { commit: marker.commit, coordinator_epoch: marker.coordinator_epoch };
    let (mut builder, mut compressor) = (BatchBuilder::default(), Compressor::new());
    end.write(marker.producer_id, marker.producer_epoch, wall_ms, &mut builder, &mut compressor, &mut bytes)
        .ok()?;
    Some(bytes)
}

fn error_of(error: AppendError) -> ErrorCode {
    match error {
        AppendError::UnknownLog => ErrorCode::UnknownTopicOrPartition,
        AppendError::InvalidProducerEpoch => ErrorCode::InvalidProducerEpoch,
        AppendError::CoordinatorFenced => ErrorCode::TransactionCoordinatorFenced,
        AppendError::Offline | AppendError::NoSpace => ErrorCode::KafkaStorageError,
        AppendError::Busy => ErrorCode::RequestTimedOut,
        _ => ErrorCode::NotLeaderOrFollower,
    }
}

/// A producer may be named by several markers: what they have in common is told once.
pub fn finish(gather: Gather, producers: &[(i64, usize)]) -> Response {
    let mut answers = gather.answers.into_iter();
    let mut topics = gather.layout.topics();
    let mut results: BTreeMap<i64, BTreeMap<Arc<str>, BTreeMap<i32, ErrorCode>>> = BTreeMap::new();
    for &(producer_id, count) in producers {
        let of_producer = results.entry(producer_id).or_default();
        for (topic, _, partitions) in topics.by_ref().take(count) {
            let of_topic = of_producer.entry(topic.name.clone()).or_default();
            for (&partition, answer) in partitions.iter().zip(&mut answers) {
                let error = match answer {
                    Some(Answer::Marked) => ErrorCode::None,
                    answer => super::answer_error(answer),
                };
                of_topic.insert(partition, error);
            }
        }
    }
    let markers = results.iter().map(|(producer_id, topics)| WritableTxnMarkerResult {
        producer_id: *producer_id,
        topics: topics
            .iter()
            .map(|(name, partitions)| WritableTxnMarkerTopicResult {
                name: Cow::Borrowed(name),
                partitions: partitions
                    .iter()
                    .map(|(partition_index, error)| WritableTxnMarkerPartitionResult {
                        partition_index: *partition_index,
                        error_code: error.code(),
                    })
                    .collect(),
            })
            .collect(),
    });
    Response::of(&gather.head, &WriteTxnMarkersResponse { markers: markers.collect() })
}
