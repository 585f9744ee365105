//! The versions that Kafka 4 dropped and older clients still send, byte by byte: no other code here knows them.

use ringlog::protocol::Message as _;
use ringlog::protocol::messages::*;

/// Numbers of 4, 2, 8 and 1 bytes, and strings with their length, one behind the other.
macro_rules! bytes {
    ($($kind:ident $value:expr),* $(,)?) => {
        [$(bytes!(@ $kind $value),)*].concat()
    };
    (@ i8 $value:expr) => { vec![$value as u8] };
    (@ i16 $value:expr) => { i16::to_be_bytes($value).to_vec() };
    (@ i32 $value:expr) => { i32::to_be_bytes($value).to_vec() };
    (@ i64 $value:expr) => { i64::to_be_bytes($value).to_vec() };
    (@ str $value:expr) => { [&($value.len() as i16).to_be_bytes(), $value.as_bytes()].concat() };
}

#[test]
fn create_topics_0() {
    use create_topics_request::*;
    use create_topics_response::{CreatableTopicResult, CreateTopicsResponse};
    let configs = [CreatableTopicConfig { name: "k".into(), value: Some("v".into()) }].into();
    let assignments = [CreatableReplicaAssignment { partition_index: 0, broker_ids: [1, 2].into() }].into();
    let topic =
        CreatableTopic { name: "t".into(), num_partitions: -1, replication_factor: -1, assignments, configs };
    let request = CreateTopicsRequest { topics: [topic].into(), timeout_ms: 9, ..Default::default() };
    let expected = bytes![
        i32 1, str "t", i32 -1, i16 -1, i32 1, i32 0, i32 2, i32 1, i32 2, i32 1, str "k", str "v", i32 9,
    ];
    assert_eq!(request.to_bytes(0), expected);
    assert_eq!(request.to_bytes(1), [expected, vec![0]].concat());
    let result = CreatableTopicResult { name: "t".into(), error_code: 36, ..Default::default() };
    let response = CreateTopicsResponse { topics: [result].into(), ..Default::default() };
    assert_eq!(response.to_bytes(0), bytes![i32 1, str "t", i16 36]);
    assert_eq!(response.to_bytes(1), bytes![i32 1, str "t", i16 36, str ""]);
}

#[test]
fn delete_topics_0() {
    use delete_topics_request::DeleteTopicsRequest;
    use delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};
    let request =
        DeleteTopicsRequest { topic_names: ["t".into()].into(), timeout_ms: 9, ..Default::default() };
    assert_eq!(request.to_bytes(0), bytes![i32 1, str "t", i32 9]);
    let result = DeletableTopicResult { name: Some("t".into()), error_code: 3, ..Default::default() };
    let response = DeleteTopicsResponse { responses: [result].into(), ..Default::default() };
    assert_eq!(response.to_bytes(0), bytes![i32 1, str "t", i16 3]);
}

#[test]
fn list_offsets_0() {
    use list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
    use list_offsets_response::*;
    let partition =
        ListOffsetsPartition { partition_index: 7, timestamp: -1, max_num_offsets: 3, ..Default::default() };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: [partition].into() };
    let request = ListOffsetsRequest { replica_id: -1, topics: [topic].into(), ..Default::default() };
    assert_eq!(request.to_bytes(0), bytes![i32 -1, i32 1, str "t", i32 1, i32 7, i64 -1, i32 3]);
    assert_eq!(request.to_bytes(1), bytes![i32 -1, i32 1, str "t", i32 1, i32 7, i64 -1]);
    let partition = ListOffsetsPartitionResponse {
        partition_index: 7,
        old_style_offsets: [5].into(),
        timestamp: 9,
        offset: 5,
        ..Default::default()
    };
    let topic = ListOffsetsTopicResponse { name: "t".into(), partitions: [partition].into() };
    let response = ListOffsetsResponse { topics: [topic].into(), ..Default::default() };
    assert_eq!(response.to_bytes(0), bytes![i32 1, str "t", i32 1, i32 7, i16 0, i32 1, i64 5]);
    assert_eq!(response.to_bytes(1), bytes![i32 1, str "t", i32 1, i32 7, i16 0, i64 9, i64 5]);
}

#[test]
fn describe_configs_0() {
    use describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
    use describe_configs_response::*;
    let resource =
        DescribeConfigsResource { resource_type: 2, resource_name: "t".into(), configuration_keys: None };
    let request = DescribeConfigsRequest { resources: [resource].into(), ..Default::default() };
    assert_eq!(request.to_bytes(0), bytes![i32 1, i8 2, str "t", i32 -1]);
    let config = DescribeConfigsResourceResult {
        name: "k".into(),
        value: None,
        read_only: false,
        is_default: true,
        is_sensitive: false,
        ..Default::default()
    };
    let result = DescribeConfigsResult {
        error_message: None,
        resource_type: 2,
        resource_name: "t".into(),
        configs: [config].into(),
        ..Default::default()
    };
    let response = DescribeConfigsResponse { results: [result].into(), ..Default::default() };
    let expected = bytes![
        i32 0, i32 1, i16 0, i16 -1, i8 2, str "t", i32 1, str "k", i16 -1, i8 0, i8 1, i8 0,
    ];
    assert_eq!(response.to_bytes(0), expected);
}

#[test]
fn describe_log_dirs_0() {
    use describe_log_dirs_request::DescribeLogDirsRequest;
    use describe_log_dirs_response::{DescribeLogDirsResponse, DescribeLogDirsResult};
    assert_eq!(DescribeLogDirsRequest { topics: None }.to_bytes(0), bytes![i32 - 1]);
    let result = DescribeLogDirsResult { log_dir: "/d".into(), ..Default::default() };
    let response = DescribeLogDirsResponse { results: [result].into(), ..Default::default() };
    assert_eq!(response.to_bytes(0), bytes![i32 0, i32 1, i16 0, str "/d", i32 0]);
}

#[test]
fn offset_for_leader_epoch_0_and_1() {
    use offset_for_leader_epoch_request::*;
    use offset_for_leader_epoch_response::*;
    let partition = OffsetForLeaderPartition { partition: 1, current_leader_epoch: 8, leader_epoch: 7 };
    let topic = OffsetForLeaderTopic { topic: "t".into(), partitions: [partition].into() };
    let request = OffsetForLeaderEpochRequest { topics: [topic].into(), ..Default::default() };
    let expected = bytes![i32 1, str "t", i32 1, i32 1, i32 7];
    assert_eq!((request.to_bytes(0), request.to_bytes(1)), (expected.clone(), expected));
    let result = EpochEndOffset { error_code: 0, partition: 1, leader_epoch: 7, end_offset: 55 };
    let topic = OffsetForLeaderTopicResult { topic: "t".into(), partitions: [result].into() };
    let response = OffsetForLeaderEpochResponse { topics: [topic].into(), ..Default::default() };
    assert_eq!(response.to_bytes(0), bytes![i32 1, str "t", i32 1, i16 0, i32 1, i64 55]);
    assert_eq!(response.to_bytes(1), bytes![i32 1, str "t", i32 1, i16 0, i32 1, i32 7, i64 55]);
}
