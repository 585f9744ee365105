//! DescribeLogDirs, versions 0 to 5: the directories, and what each partition takes there; one that moves is also shown where it
//! moves to.

use std::borrow::Cow;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::gather::{Gather, Kind, Layout};
use crate::broker::mail::{Answer, Query, Task};
use crate::broker::request::{Reply, Request, Response};
use crate::io::{DiskSpace, Io};
use crate::metadata::placement::shard_of;
use crate::protocol::ErrorCode;
use crate::protocol::messages::describe_log_dirs_request::DescribeLogDirsRequest;
use crate::protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<DescribeLogDirsRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let image = broker.image.clone();
    let mut layout = Layout::default();
    let mut queries = Vec::new();
    let mut add =
        |layout: &mut Layout, topic: &crate::metadata::Topic, partitions: &mut dyn Iterator<Item = i32>| {
            layout.push_topic(Arc::clone(&topic.name), topic.id);
            let known = partitions.filter(|&p| p >= 0 && (p as usize) < topic.partitions.len());
            for partition in known.filter(|&p| !broker.is_elsewhere(shard_of(topic, p, broker.shards))) {
                layout.push_partition(partition);
                queries.push((topic.id, partition, Query::Size));
            }
        };
    match &message.topics {
        None => {
            for topic in image.topics() {
                add(&mut layout, topic, &mut (0..topic.partitions.len() as i32));
            }
        }
        Some(wanted) => {
            for wanted in wanted {
                if let Some(topic) = image.topic(&wanted.topic) {
                    add(&mut layout, topic, &mut wanted.partitions.iter());
                }
            }
        }
    }
    let space = broker.config.log_dirs.iter().map(|dir| io.disk_space(dir)).collect();
    super::scatter(broker, io, head, layout, queries, Kind::LogDirs(space))
}

pub fn execute(broker: &mut Broker, task: Task<'_>) -> Option<Answer> {
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Error(ErrorCode::UnknownTopicOrPartition));
    };
    let log = partition.log;
    let dir = broker.storage.dir(log).unwrap_or(0);
    let bytes = broker.storage.size_bytes(log).unwrap_or(0);
    Some(Answer::Size { dir, bytes, future: broker.storage.future_log(log) })
}

pub fn finish(broker: &mut Broker, gather: Gather) -> Response {
    let dirs = broker.config.log_dirs.clone();
    let mut found: Vec<Vec<DescribeLogDirsTopic<'_>>> = dirs.iter().map(|_| Vec::new()).collect();
    let Kind::LogDirs(space) = gather.kind else {
        return Response::of(&gather.head, &DescribeLogDirsResponse::default());
    };
    let mut answers = gather.answers.into_iter();
    for (topic, _, partitions) in gather.layout.topics() {
        let mut by_dir: Vec<Vec<DescribeLogDirsPartition>> = dirs.iter().map(|_| Vec::new()).collect();
        for (&partition_index, answer) in partitions.iter().zip(&mut answers) {
            let Some(Answer::Size { dir, bytes, future }) = answer else { continue };
            if let Some(list) = by_dir.get_mut(dir) {
                let partition_size = bytes as i64;
                list.push(DescribeLogDirsPartition { partition_index, partition_size, ..Default::default() });
            }
            if let Some(future) = future
                && let Some(list) = by_dir.get_mut(future.dir)
            {
                list.push(DescribeLogDirsPartition {
                    partition_index,
                    partition_size: future.size_bytes as i64,
                    offset_lag: future.offset_lag,
                    is_future_key: true,
                });
            }
        }
        for (list, topics) in by_dir.into_iter().zip(&mut found) {
            if !list.is_empty() {
                topics
                    .push(DescribeLogDirsTopic { name: Cow::Borrowed(&topic.name), partitions: list.into() });
            }
        }
    }
    let results = dirs.iter().zip(found).enumerate().map(|(index, (dir, topics))| {
        let online = broker.storage.is_online(index);
        // -1: not known.
        let bytes = |of: fn(&DiskSpace) -> u64| {
            let known = space.get(index).and_then(Option::as_ref).map(of);
            known.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
        };
        DescribeLogDirsResult {
            error_code: if online { 0 } else { ErrorCode::KafkaStorageError.code() },
            log_dir: Cow::Owned(dir.display().to_string()),
            topics: topics.into(),
            total_bytes: bytes(|space| space.total_bytes),
            usable_bytes: bytes(|space| space.usable_bytes),
            ..Default::default()
        }
    });
    Response::of(&gather.head, &DescribeLogDirsResponse { results: results.collect(), ..Default::default() })
}
