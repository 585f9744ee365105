//! DescribeProducers, version 0: the producers that each partition remembers, with the transactions they have open there.

use std::borrow::Cow;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::gather::{Gather, Kind, Layout};
use crate::broker::mail::{ActiveProducer, Answer, Query, Task};
use crate::broker::request::{Reply, Request, Response};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::describe_producers_request::DescribeProducersRequest;
use crate::protocol::messages::describe_producers_response::{
    DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};

/// An answer names no more producers of a partition than this.
const PRODUCERS_MAX: usize = 100_000;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<DescribeProducersRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let mut layout = Layout::default();
    let mut queries = Vec::new();
    for topic in &message.topics {
        let topic_id = broker.image.topic(&topic.name).map_or_else(Default::default, |topic| topic.id);
        layout.push_topic(Arc::from(&*topic.name), topic_id);
        for partition in &topic.partition_indexes {
            layout.push_partition(partition);
            queries.push((topic_id, partition, Query::Producers));
        }
    }
    super::scatter(broker, io, head, layout, queries, Kind::Plain)
}

pub fn execute(broker: &mut Broker, task: Task<'_>) -> Option<Answer> {
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Error(ErrorCode::UnknownTopicOrPartition));
    };
    let Some(producers) = broker.storage.producers(partition.log) else {
        return Some(Answer::Error(ErrorCode::KafkaStorageError));
    };
    let active = producers.entries().take(PRODUCERS_MAX).map(|entry| ActiveProducer {
        producer_id: entry.producer_id,
        producer_epoch: entry.producer_epoch,
        last_sequence: entry.last_sequence(),
        last_timestamp: entry.last_timestamp,
        coordinator_epoch: entry.coordinator_epoch,
        current_txn_start_offset: entry.current_txn_first_offset.unwrap_or(-1),
    });
    Some(Answer::Producers(active.collect()))
}

pub fn finish(gather: Gather) -> Response {
    let mut answers = gather.answers.into_iter();
    let mut topics = Vec::new();
    for (topic, _, partitions) in gather.layout.topics() {
        let partitions = partitions.iter().zip(&mut answers).map(|(&partition, answer)| {
            let mut response = PartitionResponse { partition_index: partition, ..Default::default() };
            match answer {
                Some(Answer::Producers(active)) => {
                    response.active_producers = active.iter().map(producer_state).collect();
                }
                answer => {
                    let error = super::answer_error(answer);
                    response.error_code = error.code();
                    response.error_message = Some(Cow::Borrowed(error.message()));
                }
            }
            response
        });
        let partitions = partitions.collect();
        topics.push(TopicResponse { name: Cow::Borrowed(&topic.name), partitions });
    }
    Response::of(&gather.head, &DescribeProducersResponse { topics: topics.into(), ..Default::default() })
}

fn producer_state(active: &ActiveProducer) -> ProducerState {
    ProducerState {
        producer_id: active.producer_id,
        producer_epoch: i32::from(active.producer_epoch),
        last_sequence: active.last_sequence,
        last_timestamp: active.last_timestamp,
        coordinator_epoch: active.coordinator_epoch,
        current_txn_start_offset: active.current_txn_start_offset,
    }
}
