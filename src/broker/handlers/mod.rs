//! One file an API, under its Kafka name; this is the table of which is which.
//!
//! A handler decodes the request and either answers, or scatters [`Query`]s over the shards that own the partitions
//! (`execute` does one, `finish` makes the answer of all), or has it forwarded to the shard that can answer alone.

mod acls;
mod alter_replica_log_dirs;
mod api_versions;
mod client_quotas;
mod configs;
mod create_partitions;
mod create_topics;
mod delegation_tokens;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod describe_user_scram_credentials;
mod elect_leaders;
pub mod fetch;
mod find_coordinator;
mod get_telemetry_subscriptions;
pub mod init_producer_id;
mod list_config_resources;
mod list_offsets;
mod metadata;
mod offset_for_leader_epoch;
pub mod produce;
mod push_telemetry;
mod reassignments;
pub mod txn_offset_commit;
mod unregister_broker;
mod update_features;
pub mod write_txn_markers;

use super::gather::{Gather, Kind, Layout};
use super::mail::{Answer, Query, Task};
use super::request::{Forwarded, Head, Reply, Request, Response};
use super::{Broker, CONTROL_SHARD};
use crate::config::{self, BrokerConfig, TopicConfig};
use crate::io::Io;
use crate::protocol::messages::list_groups_response::ListGroupsResponse;
use crate::protocol::messages::list_transactions_response::ListTransactionsResponse;
use crate::protocol::{ApiKey, DecodeError, ErrorCode, Message, Reader, Uuid};
use crate::storage::{AckLevel, LogConfig};

/// A gather of plain queries may take this long.
const QUERY_TIMEOUT_NS: u64 = 30_000_000_000;

/// Answers ListOffsets and its like may hold; a request with more partitions is refused.
pub const PARTITIONS_A_REQUEST_MAX: usize = 200_000;

/// Whether the API is served: what ApiVersions announces.
pub fn is_handled(api_key: ApiKey) -> bool {
    !matches!(api_key, ApiKey::SaslHandshake)
}

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let api_key = request.head.api_key;
    if api_key == ApiKey::ApiVersions {
        return api_versions::handle(broker, request);
    }
    if !is_handled(api_key) || !api_key.is_served(request.head.version) {
        return Reply::Close(format!("{api_key} version {} is not served", request.head.version));
    }
    match api_key {
        ApiKey::Produce => produce::handle(broker, io, request),
        ApiKey::Fetch => fetch::handle(broker, io, request),
        ApiKey::ListOffsets => list_offsets::handle(broker, io, request),
        ApiKey::OffsetForLeaderEpoch => offset_for_leader_epoch::handle(broker, io, request),
        ApiKey::DeleteRecords => delete_records::handle(broker, io, request),
        ApiKey::DescribeLogDirs => describe_log_dirs::handle(broker, io, request),
        ApiKey::Metadata => metadata::handle(broker, io, request),
        ApiKey::DescribeCluster => describe_cluster::handle(broker, request),
        ApiKey::DescribeTopicPartitions => describe_topic_partitions::handle(broker, request),
        ApiKey::DescribeConfigs => configs::describe(broker, request),
        ApiKey::FindCoordinator => find_coordinator::handle(broker, io, request),
        ApiKey::WriteTxnMarkers => write_txn_markers::handle(broker, io, request),
        ApiKey::DescribeProducers => describe_producers::handle(broker, io, request),
        ApiKey::DescribeAcls => acls::describe(request),
        ApiKey::CreateAcls => acls::create(request),
        ApiKey::DeleteAcls => acls::delete(request),
        ApiKey::CreateDelegationToken
        | ApiKey::RenewDelegationToken
        | ApiKey::ExpireDelegationToken
        | ApiKey::DescribeDelegationToken => delegation_tokens::handle(request),
        ApiKey::AlterReplicaLogDirs => alter_replica_log_dirs::handle(broker, io, request),
        ApiKey::ElectLeaders => elect_leaders::handle(broker, request),
        ApiKey::AlterPartitionReassignments => reassignments::alter(broker, request),
        ApiKey::ListPartitionReassignments => reassignments::list(request),
        ApiKey::DescribeClientQuotas => client_quotas::describe(broker, request),
        ApiKey::DescribeUserScramCredentials => describe_user_scram_credentials::handle(request),
        ApiKey::DescribeQuorum => describe_quorum::handle(broker, request),
        ApiKey::UnregisterBroker => unregister_broker::handle(broker, request),
        ApiKey::ListConfigResources => list_config_resources::handle(broker, request),
        // Who asks all brokers must not be told the same twice.
        ApiKey::ListGroups if broker.is_elsewhere(CONTROL_SHARD) => {
            Reply::Now(Response::of(&request.head, &ListGroupsResponse::default()))
        }
        ApiKey::ListTransactions if broker.is_elsewhere(CONTROL_SHARD) => {
            Reply::Now(Response::of(&request.head, &ListTransactionsResponse::default()))
        }
        // Groups, transactions and the cluster's changes live on one shard.
        _ => broker.forward(io, &request, CONTROL_SHARD),
    }
}

/// A request that came whole from another shard, or from this one to itself.
pub fn handle_forwarded(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    match request.head.api_key {
        ApiKey::Metadata => metadata::create_missing(broker, io, request),
        ApiKey::FindCoordinator => find_coordinator::create_topic(broker, io, request),
        ApiKey::CreateTopics => create_topics::handle(broker, io, request),
        ApiKey::DeleteTopics => delete_topics::handle(broker, io, request),
        ApiKey::CreatePartitions => create_partitions::handle(broker, io, request),
        ApiKey::AlterConfigs => configs::alter(broker, io, request),
        ApiKey::IncrementalAlterConfigs => configs::incremental_alter(broker, io, request),
        ApiKey::AlterClientQuotas => client_quotas::alter(broker, io, request),
        ApiKey::UpdateFeatures => update_features::handle(broker, io, request),
        ApiKey::InitProducerId => init_producer_id::handle(broker, io, request),
        ApiKey::AddPartitionsToTxn
        | ApiKey::AddOffsetsToTxn
        | ApiKey::EndTxn
        | ApiKey::DescribeTransactions
        | ApiKey::ListTransactions => broker.transaction_request(io, request),
        ApiKey::TxnOffsetCommit => txn_offset_commit::handle(broker, io, request),
        ApiKey::GetTelemetrySubscriptions => get_telemetry_subscriptions::handle(broker, io, request),
        ApiKey::PushTelemetry => push_telemetry::handle(broker, request),
        _ => broker.group_request(io, request, Ok(())),
    }
}

/// Does one partition's part here, where the partition is owned; `None` while the answer waits for the disk.
pub fn execute(broker: &mut Broker, io: &mut impl Io, task: Task<'_>) -> Option<Answer> {
    match task.query {
        Query::Produce(_) => produce::execute(broker, io, task),
        Query::Read(_) => fetch::execute(broker, io, task),
        Query::ListOffset { .. } => list_offsets::execute(broker, io, task),
        Query::EpochEnd { .. } => offset_for_leader_epoch::execute(broker, task),
        Query::DeleteRecords { .. } => delete_records::execute(broker, io, task),
        Query::Size => describe_log_dirs::execute(broker, task),
        Query::Move { .. } => alter_replica_log_dirs::execute(broker, io, task),
        Query::WriteMarker(_) => write_txn_markers::execute(broker, io, task),
        Query::Producers => describe_producers::execute(broker, task),
    }
}

/// The answer of a gather whose parts are all there.
pub fn finish(broker: &mut Broker, gather: Gather) -> Option<Response> {
    if let Kind::WriteTxnMarkers(producers) = &gather.kind {
        let producers = producers.clone();
        return Some(write_txn_markers::finish(gather, &producers));
    }
    Some(match gather.head.api_key {
        ApiKey::Produce => produce::finish(broker, gather),
        ApiKey::Fetch => fetch::finish(broker, gather),
        ApiKey::ListOffsets => list_offsets::finish(gather),
        ApiKey::OffsetForLeaderEpoch => offset_for_leader_epoch::finish(gather),
        ApiKey::DeleteRecords => delete_records::finish(gather),
        ApiKey::DescribeLogDirs => describe_log_dirs::finish(broker, gather),
        ApiKey::AlterReplicaLogDirs => alter_replica_log_dirs::finish(gather),
        ApiKey::DescribeProducers => describe_producers::finish(gather),
        _ => return None,
    })
}

/// Kafka takes requests with bytes behind their end; so do we.
fn decode<'a, M: Message<'a>>(body: &'a [u8], version: i16) -> Result<M, DecodeError> {
    M::decode_prefix(&mut Reader::new(body), version)
}

/// Sends each query to the shard that owns its partition.
fn scatter(
    broker: &mut Broker,
    io: &mut impl Io,
    head: Head,
    layout: Layout,
    queries: Vec<(Uuid, i32, Query<'_>)>,
    kind: Kind,
) -> Reply {
    if queries.len() > PARTITIONS_A_REQUEST_MAX {
        return Reply::Close(format!("more than {PARTITIONS_A_REQUEST_MAX} partitions in one request"));
    }
    let empty = layout.is_empty();
    let gather = broker.open_gather(head, layout, kind, io.now() + QUERY_TIMEOUT_NS);
    if empty {
        broker.finish(io, gather);
    }
    for (index, (topic_id, partition, query)) in (0..).zip(queries) {
        broker.dispatch(io, Task { gather, index, topic_id, partition, query });
    }
    Reply::Later
}

/// What a client that knows an epoch must be told before anything else (KIP-320).
fn check_leader_epoch(claimed: i32, current: i32) -> Result<(), ErrorCode> {
    match claimed {
        -1 => Ok(()),
        claimed if claimed < current => Err(ErrorCode::FencedLeaderEpoch),
        claimed if claimed > current => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

fn answer_error(answer: Option<Answer>) -> ErrorCode {
    match answer {
        Some(Answer::Error(error)) => error,
        _ => ErrorCode::UnknownServerError,
    }
}

/// What an acknowledgement of a produce request with these acks promises.
fn ack_level(config: &BrokerConfig, acks: i16) -> AckLevel {
    let levels = &config.ack_levels;
    let level = match acks {
        0 => levels.acks0,
        1 => levels.acks1,
        _ => levels.all,
    };
    match level {
        config::AckLevel::Memory => AckLevel::Memory,
        config::AckLevel::Written => AckLevel::Written,
        config::AckLevel::Durable => AckLevel::Durable,
    }
}

/// What storage needs to know of a topic's settings.
pub fn log_config(config: &TopicConfig) -> LogConfig {
    LogConfig {
        segment_bytes: config.segment_bytes.max(0) as u32,
        segment_ms: config.segment_ms,
        segment_jitter_ms: config.segment_jitter_ms,
        segment_index_bytes: config.segment_index_bytes.max(0) as u32,
        index_interval_bytes: config.index_interval_bytes.max(0) as u32,
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes,
        delete: config.cleanup_delete,
        compact: config.cleanup_compact,
        delete_retention_ms: config.delete_retention_ms,
        min_compaction_lag_ms: config.min_compaction_lag_ms,
        max_compaction_lag_ms: config.max_compaction_lag_ms,
        min_cleanable_dirty_ratio: config.min_cleanable_dirty_ratio,
        file_delete_delay_ms: config.file_delete_delay_ms,
        max_message_bytes: config.max_message_bytes.max(0) as u32,
    }
}
