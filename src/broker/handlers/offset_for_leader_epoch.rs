//! OffsetForLeaderEpoch, versions 0 to 4: where an epoch ended, so that a client finds out that it was cut back.

use std::borrow::Cow;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::gather::{Gather, Kind, Layout};
use crate::broker::mail::{Answer, Query, Task};
use crate::broker::request::{Reply, Request, Response};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderEpochRequest;
use crate::protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<OffsetForLeaderEpochRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let mut layout = Layout::default();
    let mut queries = Vec::new();
    for topic in &message.topics {
        let found = broker.image.topic(&topic.topic).cloned();
        let topic_id = found.as_ref().map_or_else(Default::default, |found| found.id);
        layout.push_topic(Arc::from(&*topic.topic), topic_id);
        for partition in &topic.partitions {
            layout.push_partition(partition.partition);
            let query = Query::EpochEnd {
                current_leader_epoch: partition.current_leader_epoch,
                leader_epoch: partition.leader_epoch,
            };
            queries.push((topic_id, partition.partition, query));
        }
    }
    super::scatter(broker, io, head, layout, queries, Kind::Plain)
}

pub fn execute(broker: &mut Broker, task: Task<'_>) -> Option<Answer> {
    let Query::EpochEnd { current_leader_epoch, leader_epoch } = task.query else { return None };
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Error(ErrorCode::UnknownTopicOrPartition));
    };
    if let Err(error) = super::check_leader_epoch(current_leader_epoch, partition.leader_epoch) {
        return Some(Answer::Error(error));
    }
    // The current epoch ends where the log does, be it that nothing was written in it yet.
    if leader_epoch == partition.leader_epoch {
        let end_offset = broker.storage.log_end_offset(partition.log).unwrap_or(-1);
        return Some(Answer::EpochEnd { leader_epoch, end_offset });
    }
    let (leader_epoch, end_offset) = broker.storage.end_offset_for_epoch(partition.log, leader_epoch);
    Some(Answer::EpochEnd { leader_epoch, end_offset })
}

pub fn finish(gather: Gather) -> Response {
    let mut answers = gather.answers.into_iter();
    let mut topics = Vec::new();
    for (topic, _, partitions) in gather.layout.topics() {
        let partitions = partitions.iter().zip(&mut answers).map(|(&partition, answer)| match answer {
            Some(Answer::EpochEnd { leader_epoch, end_offset }) => {
                EpochEndOffset { partition, leader_epoch, end_offset, ..Default::default() }
            }
            answer => EpochEndOffset {
                partition,
                error_code: super::answer_error(answer).code(),
                ..Default::default()
            },
        });
        topics.push(OffsetForLeaderTopicResult {
            topic: Cow::Borrowed(&topic.name),
            partitions: partitions.collect(),
        });
    }
    Response::of(&gather.head, &OffsetForLeaderEpochResponse { topics: topics.into(), ..Default::default() })
}
