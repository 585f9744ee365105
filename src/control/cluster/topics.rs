//! Topics and settings as an administrator changes them, and offsets by time.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::records::Failed;
use super::{Call, CallError, Caller, Cluster, WAIT};
use crate::protocol::ErrorCode;
use crate::protocol::messages::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use crate::protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use crate::protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use crate::protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use crate::protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use crate::protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use crate::protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use crate::protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};

/// What ListOffsets takes for the ends of a log.
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

/// Kafka's numbers for what has settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Topic = 2,
    Broker = 4,
}

#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    pub name: String,
    /// -1: the default.
    pub partitions: i32,
    pub replication_factor: i16,
    pub assignments: Vec<(i32, Vec<i32>)>,
    pub configs: Vec<(String, Option<String>)>,
    pub validate_only: bool,
}

#[derive(Clone, Debug)]
pub struct Setting {
    pub name: String,
    pub value: Option<String>,
    pub read_only: bool,
    pub sensitive: bool,
    pub source: i8,
    /// Name, value and source.
    pub synonyms: Vec<(String, Option<String>, i8)>,
    pub documentation: Option<String>,
}

/// `None` as a value takes the setting back.
pub type Changes = Vec<(String, Option<String>)>;

/// What the broker says to a change, beside the trouble of asking it.
type Outcome = Result<Result<(), Failed>, CallError>;

fn outcome(code: i16, message: Option<&str>) -> Result<(), Failed> {
    match ErrorCode::from_code(code) {
        Some(ErrorCode::None) => Ok(()),
        code => {
            let error = code.unwrap_or(ErrorCode::UnknownServerError);
            Err(Failed { error, message: message.unwrap_or(error.message()).to_owned() })
        }
    }
}

pub async fn create(cluster: &Cluster, caller: &Caller, new: &NewTopic) -> Outcome {
    let assignments = new.assignments.iter().map(|(partition_index, brokers)| CreatableReplicaAssignment {
        partition_index: *partition_index,
        broker_ids: brokers.clone().into(),
    });
    let configs = new.configs.iter().map(|(name, value)| CreatableTopicConfig {
        name: name.as_str().into(),
        value: value.as_deref().map(Cow::Borrowed),
    });
    let topic = CreatableTopic {
        name: new.name.as_str().into(),
        num_partitions: new.partitions,
        replication_factor: new.replication_factor,
        assignments: assignments.collect(),
        configs: configs.collect(),
    };
    let request = CreateTopicsRequest {
        topics: [topic].into(),
        validate_only: new.validate_only,
        ..CreateTopicsRequest::default()
    };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT * 2).await?;
    let response = answer.read::<CreateTopicsRequest<'_>>()?;
    let told = response.topics.iter().next();
    cluster.forget_image();
    Ok(told.map_or(Ok(()), |told| outcome(told.error_code, told.error_message.as_deref())))
}

pub async fn delete(cluster: &Cluster, caller: &Caller, topic: &str) -> Outcome {
    let state = DeleteTopicState { name: Some(topic.into()), ..DeleteTopicState::default() };
    let request = DeleteTopicsRequest {
        topics: [state].into(),
        timeout_ms: WAIT.as_millis() as i32,
        ..DeleteTopicsRequest::default()
    };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT * 2).await?;
    let response = answer.read::<DeleteTopicsRequest<'_>>()?;
    let told = response.responses.iter().next();
    cluster.forget_image();
    Ok(told.map_or(Ok(()), |told| outcome(told.error_code, told.error_message.as_deref())))
}

/// Raises a topic's partitions to `count`.
pub async fn add_partitions(cluster: &Cluster, caller: &Caller, topic: &str, count: i32) -> Outcome {
    let topic = CreatePartitionsTopic { name: topic.into(), count, assignments: None };
    let request = CreatePartitionsRequest {
        topics: [topic].into(),
        timeout_ms: WAIT.as_millis() as i32,
        validate_only: false,
    };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT * 2).await?;
    let response = answer.read::<CreatePartitionsRequest<'_>>()?;
    let told = response.results.iter().next();
    cluster.forget_image();
    Ok(told.map_or(Ok(()), |told| outcome(told.error_code, told.error_message.as_deref())))
}

/// Asks for the topic in a way that makes it where the broker makes topics that are asked for.
pub async fn wish_for(cluster: &Cluster, caller: &Caller, topic: &str) -> Outcome {
    let wanted = MetadataRequestTopic { name: Some(topic.into()), ..MetadataRequestTopic::default() };
    let request = MetadataRequest {
        topics: Some([wanted].into()),
        allow_auto_topic_creation: true,
        ..MetadataRequest::default()
    };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT).await?;
    let response = answer.read::<MetadataRequest<'_>>()?;
    let told = response.topics.iter().next();
    cluster.forget_image();
    Ok(told.map_or(Ok(()), |told| outcome(told.error_code, None)))
}

pub async fn settings(
    cluster: &Cluster,
    caller: &Caller,
    resource: Resource,
    name: &str,
    documentation: bool,
) -> Result<Result<Vec<Setting>, Failed>, CallError> {
    let wanted = DescribeConfigsResource {
        resource_type: resource as i8,
        resource_name: name.into(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest {
        resources: [wanted].into(),
        include_synonyms: true,
        include_documentation: documentation,
    };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT).await?;
    let response = answer.read::<DescribeConfigsRequest<'_>>()?;
    let Some(told) = response.results.iter().next() else { return Ok(Ok(Vec::new())) };
    if let Err(failed) = outcome(told.error_code, told.error_message.as_deref()) {
        return Ok(Err(failed));
    }
    let setting = told.configs.iter().map(|config| Setting {
        name: config.name.to_string(),
        value: config.value.as_deref().map(str::to_owned),
        read_only: config.read_only,
        sensitive: config.is_sensitive,
        source: config.config_source,
        synonyms: config
            .synonyms
            .iter()
            .map(|synonym| {
                (synonym.name.to_string(), synonym.value.as_deref().map(str::to_owned), synonym.source)
            })
            .collect(),
        documentation: config.documentation.as_deref().map(str::to_owned),
    });
    Ok(Ok(setting.collect()))
}

pub async fn change_settings(
    cluster: &Cluster,
    caller: &Caller,
    resource: Resource,
    name: &str,
    changes: &Changes,
    validate_only: bool,
) -> Outcome {
    let configs = changes.iter().map(|(name, value)| AlterableConfig {
        name: name.as_str().into(),
        config_operation: i8::from(value.is_none()),
        value: value.as_deref().map(Cow::Borrowed),
    });
    let resource = AlterConfigsResource {
        resource_type: resource as i8,
        resource_name: name.into(),
        configs: configs.collect(),
    };
    let request = IncrementalAlterConfigsRequest { resources: [resource].into(), validate_only };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT * 2).await?;
    let response = answer.read::<IncrementalAlterConfigsRequest<'_>>()?;
    let told = response.responses.iter().next();
    cluster.forget_image();
    Ok(told.map_or(Ok(()), |told| outcome(told.error_code, told.error_message.as_deref())))
}

/// The offsets at these times, or [`EARLIEST`] or [`LATEST`]; -1 behind the last record.
pub async fn offsets(
    cluster: &Cluster,
    caller: &Caller,
    wanted: &BTreeMap<(String, i32), i64>,
) -> Result<BTreeMap<(String, i32), i64>, CallError> {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for ((topic, partition), time) in wanted {
        topics.entry(topic).or_default().push(ListOffsetsPartition {
            partition_index: *partition,
            timestamp: *time,
            ..ListOffsetsPartition::default()
        });
    }
    let topics = topics
        .into_iter()
        .map(|(name, partitions)| ListOffsetsTopic { name: name.into(), partitions: partitions.into() });
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: topics.collect(),
        timeout_ms: WAIT.as_millis() as i32,
        ..ListOffsetsRequest::default()
    };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT).await?;
    let response = answer.read::<ListOffsetsRequest<'_>>()?;
    let mut found = BTreeMap::new();
    for topic in &response.topics {
        for partition in topic.partitions.iter().filter(|partition| partition.error_code == 0) {
            found.insert((topic.name.to_string(), partition.partition_index), partition.offset);
        }
    }
    Ok(found)
}

/// Gives up all records below an offset.
pub async fn delete_records(
    cluster: &Cluster,
    caller: &Caller,
    topic: &str,
    partition: i32,
    before: i64,
) -> Outcome {
    let partition = DeleteRecordsPartition { partition_index: partition, offset: before };
    let topic = DeleteRecordsTopic { name: topic.into(), partitions: [partition].into() };
    let request = DeleteRecordsRequest { topics: [topic].into(), timeout_ms: WAIT.as_millis() as i32 };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT * 2).await?;
    let response = answer.read::<DeleteRecordsRequest<'_>>()?;
    let told = response.topics.iter().next().and_then(|topic| topic.partitions.iter().next());
    Ok(told.map_or(Ok(()), |told| outcome(told.error_code, None)))
}
