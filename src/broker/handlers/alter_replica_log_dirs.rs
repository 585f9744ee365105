//! AlterReplicaLogDirs, versions 1 and 2. A partition stays in the directory it was made in: to ask for that one is fine, to
//! ask for another of this broker's is answered with UNSUPPORTED_VERSION, as by a broker that cannot move partitions.
//!
//! Of a partition that is named twice the last directory counts, as in Kafka.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use crate::broker::Broker;
use crate::broker::request::{Reply, Request, Response};
use crate::protocol::ErrorCode;
use crate::protocol::messages::alter_replica_log_dirs_request::AlterReplicaLogDirsRequest;
use crate::protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsResponse,
};

pub fn handle(broker: &Broker, request: Request<'_>) -> Reply {
    let message = match super::decode::<AlterReplicaLogDirsRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let mut topics: BTreeMap<Cow<'_, str>, BTreeMap<i32, ErrorCode>> = BTreeMap::new();
    for dir in &message.dirs {
        for topic in &dir.topics {
            for partition in &topic.partitions {
                let answer = stay(broker, &dir.path, &topic.name, partition);
                topics.entry(topic.name.clone()).or_default().insert(partition, answer);
            }
        }
    }
    let results = topics.into_iter().map(|(topic_name, partitions)| {
        let result = |(partition_index, error): (i32, ErrorCode)| AlterReplicaLogDirPartitionResult {
            partition_index,
            error_code: error.code(),
        };
        AlterReplicaLogDirTopicResult { topic_name, partitions: partitions.into_iter().map(result).collect() }
    });
    let response = AlterReplicaLogDirsResponse { results: results.collect(), ..Default::default() };
    Reply::Now(Response::of(&request.head, &response))
}

fn stay(broker: &Broker, path: &str, topic: &str, partition: i32) -> ErrorCode {
    let Some(dir) = broker.config.log_dirs.iter().position(|dir| dir == Path::new(path)) else {
        return ErrorCode::LogDirNotFound;
    };
    match broker.image.partition(topic, partition) {
        None => ErrorCode::UnknownTopicOrPartition,
        Some((_, placed)) if broker.dir_index(placed.directory) == dir => ErrorCode::None,
        Some(_) => ErrorCode::UnsupportedVersion,
    }
}
