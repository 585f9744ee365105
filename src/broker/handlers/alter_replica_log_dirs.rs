//! AlterReplicaLogDirs, versions 1 and 2: has partitions move to another of the log directories while they serve; to the one they are in
//! ends a move. Answered when the moves have begun, or wait for others. A directory asked for a partition that does not exist is
//! remembered for its creation.
//!
//! Of a partition that is named twice the last directory counts, as in Kafka. A move that has come to its switch is not taken back: a
//! wish for another directory follows it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::gather::{Gather, Kind, Layout};
use crate::broker::mail::{Answer, Mail, MoveMail, PreferDir, Query, Task};
use crate::broker::request::{Reply, Request, Response};
use crate::broker::{Broker, CONTROL_SHARD};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::alter_replica_log_dirs_request::AlterReplicaLogDirsRequest;
use crate::protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsResponse,
};
use crate::storage::StorageError;

/// A directory's name has the topic's, the partition and `.<32 digits>-future`; a longer one cannot be made.
const DIRECTORY_NAME_BYTES_MAX: usize = 255;
const FUTURE_SUFFIX_BYTES: usize = 1 + 32 + "-future".len();

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<AlterReplicaLogDirsRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let mut topics: BTreeMap<Cow<'_, str>, BTreeMap<i32, Cow<'_, str>>> = BTreeMap::new();
    let mut count = 0;
    for dir in &message.dirs {
        for topic in &dir.topics {
            for partition in &topic.partitions {
                count += 1;
                topics.entry(topic.name.clone()).or_default().insert(partition, dir.path.clone());
            }
        }
    }
    if count > super::PARTITIONS_A_REQUEST_MAX {
        let max = super::PARTITIONS_A_REQUEST_MAX;
        return Reply::Close(format!("more than {max} partitions in one request"));
    }
    let mut layout = Layout::default();
    let mut asked = Vec::new();
    for (topic, partitions) in topics {
        let id = broker.image.topic(&topic).map_or_else(Default::default, |known| known.id);
        layout.push_topic(Arc::from(&*topic), id);
        for (partition, path) in partitions {
            let index = layout.push_partition(partition);
            asked.push((index, id, partition, check(broker, &topic, partition, &path)));
        }
    }
    let empty = layout.is_empty();
    let gather = broker.open_gather(head, layout, Kind::Plain, io.now() + super::QUERY_TIMEOUT_NS);
    if empty {
        broker.finish(io, gather);
    }
    for (index, topic_id, partition, checked) in asked {
        match checked {
            Ok(dir) => {
                let query = Query::Move { dir };
                broker.dispatch(io, Task { gather, index, topic_id, partition, query });
            }
            Err(error) => broker.answer(io, gather, index, Answer::Error(error)),
        }
    }
    Reply::Later
}

/// The index of the directory, or why the partition cannot go there; in Kafka's order.
fn check(broker: &mut Broker, topic: &str, partition: i32, path: &str) -> Result<usize, ErrorCode> {
    let name_bytes = crate::storage::names::directory_name(topic, partition).len() + FUTURE_SUFFIX_BYTES;
    if name_bytes > DIRECTORY_NAME_BYTES_MAX {
        return Err(ErrorCode::InvalidTopicException);
    }
    let is_named = |dir: &std::path::PathBuf| dir.as_os_str() == path;
    let dir = broker.config.log_dirs.iter().position(is_named).ok_or(ErrorCode::LogDirNotFound)?;
    if !broker.storage.is_online(dir) {
        return Err(ErrorCode::KafkaStorageError);
    }
    if broker.image.partition(topic, partition).is_none() {
        let prefer = PreferDir { topic: topic.to_owned(), partition, dir };
        if broker.shard == CONTROL_SHARD {
            broker.prefer_dir(prefer);
        } else {
            let mail = Mail::Move(MoveMail::Prefer(Box::new(prefer)));
            broker.post.mail.push_back((CONTROL_SHARD, mail));
        }
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    Ok(dir)
}

pub fn execute(broker: &mut Broker, io: &mut impl Io, task: Task<'_>) -> Option<Answer> {
    let Query::Move { dir } = task.query else { return None };
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Error(ErrorCode::UnknownTopicOrPartition));
    };
    let log = partition.log;
    let home = broker.storage.dir(log).unwrap_or(dir);
    if !broker.storage.is_online(home) {
        return Some(Answer::Error(ErrorCode::KafkaStorageError));
    }
    // As in Kafka: with a directory that cannot be looked into a copy might be begun twice.
    let all_online = (0..broker.config.log_dirs.len()).all(|dir| broker.storage.is_online(dir));
    if home != dir && !all_online {
        return Some(Answer::Error(ErrorCode::KafkaStorageError));
    }
    Some(Answer::Error(match broker.storage.move_log(io, log, dir) {
        Ok(()) => ErrorCode::None,
        Err(StorageError::UnknownLog) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::KafkaStorageError,
    }))
}

pub fn finish(gather: Gather) -> Response {
    let mut answers = gather.answers.into_iter();
    let mut results = Vec::new();
    for (topic, _, partitions) in gather.layout.topics() {
        let partitions = partitions.iter().zip(&mut answers).map(|(&partition_index, answer)| {
            AlterReplicaLogDirPartitionResult {
                partition_index,
                error_code: super::answer_error(answer).code(),
            }
        });
        results.push(AlterReplicaLogDirTopicResult {
            topic_name: Cow::Borrowed(&topic.name),
            partitions: partitions.collect(),
        });
    }
    Response::of(&gather.head, &AlterReplicaLogDirsResponse { results: results.into(), ..Default::default() })
}
