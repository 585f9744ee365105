//! What transactions ask of the brokers, one request at a time.

use std::net::SocketAddr;

use crate::io::Io;
use crate::load::admin::{Admin, resolve_pair, text};
use crate::load::batch::ProducerId;
use crate::load::cluster::ClusterMap;
use crate::protocol::frame::decode_response;
use crate::protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic,
};
use crate::protocol::messages::api_versions_request::ApiVersionsRequest;
use crate::protocol::messages::end_txn_request::EndTxnRequest;
use crate::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use crate::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use crate::protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use crate::protocol::{ApiKey, ErrorCode, Records};

/// Keys of transactional ids, in FindCoordinator.
const TRANSACTION_KEY: i8 = 1;
/// The last versions in which clients add partitions themselves.
const ADD_PARTITIONS_CAP: i16 = 3;
const PRODUCE_V1_CAP: i16 = 11;
const END_TXN_V1_CAP: i16 = 4;
/// The feature that says which transactions clients are to use.
const FEATURE: &str = "transaction.version";

/// A failed request: the broker's error, or none where no answer came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Code(ErrorCode),
    Lost(String),
}

impl Refused {
    /// Whether the same request may succeed later.
    pub fn passes(&self) -> bool {
        match self {
            Refused::Code(code) => code.is_retriable() || *code == ErrorCode::ConcurrentTransactions,
            Refused::Lost(_) => true,
        }
    }

    pub fn name(&self) -> String {
        match self {
            Refused::Code(code) => code.name().to_owned(),
            Refused::Lost(why) => why.clone(),
        }
    }
}

fn checked(code: i16) -> Result<(), Refused> {
    match ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError) {
        ErrorCode::None => Ok(()),
        code => Err(Refused::Code(code)),
    }
}

fn lost(error: impl std::fmt::Display) -> Refused {
    Refused::Lost(text(error))
}

impl<I: Io> Admin<I> {
    /// 2 where a transaction has an epoch of its own and appends add their partitions, else 1.
    pub fn transaction_version(&mut self) -> Result<i16, String> {
        let version = self.version(ApiKey::ApiVersions, i16::MAX)?;
        let request = ApiVersionsRequest {
            client_software_name: "ringlog".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        let frame = self.ask_any(version, &request)?;
        let (_, response) = decode_response::<ApiVersionsRequest<'_>>(&frame, version).map_err(text)?;
        let level = response.finalized_features.iter().find(|feature| feature.name == FEATURE);
        Ok(if level.is_some_and(|level| level.max_version_level >= 2) { 2 } else { 1 })
    }

    pub fn find_transaction_coordinator(&mut self, id: &str) -> Result<SocketAddr, Refused> {
        let version = self.version(ApiKey::FindCoordinator, 3).map_err(lost)?;
        let request =
            FindCoordinatorRequest { key: id.into(), key_type: TRANSACTION_KEY, ..Default::default() };
        let frame = self.ask_any(version, &request).map_err(lost)?;
        let (_, response) = decode_response::<FindCoordinatorRequest<'_>>(&frame, version).map_err(lost)?;
        checked(response.error_code)?;
        let port = u16::try_from(response.port).map_err(lost)?;
        resolve_pair(&response.host, port).map_err(lost)
    }

    pub fn init_transactions(
        &mut self,
        coordinator: SocketAddr,
        id: &str,
        timeout_ms: i32,
    ) -> Result<ProducerId, Refused> {
        let version = self.version(ApiKey::InitProducerId, i16::MAX).map_err(lost)?;
        let request = InitProducerIdRequest {
            transactional_id: Some(id.into()),
            transaction_timeout_ms: timeout_ms,
            ..InitProducerIdRequest::default()
        };
        let frame = self.ask(coordinator, version, &request).map_err(lost)?;
        let (_, response) = decode_response::<InitProducerIdRequest<'_>>(&frame, version).map_err(lost)?;
        checked(response.error_code)?;
        Ok(ProducerId { id: response.producer_id, epoch: response.producer_epoch })
    }

    pub fn add_partitions(
        &mut self,
        coordinator: SocketAddr,
        id: &str,
        producer: ProducerId,
        topic: &str,
        partitions: &[u32],
    ) -> Result<(), Refused> {
        let version = self.version(ApiKey::AddPartitionsToTxn, ADD_PARTITIONS_CAP).map_err(lost)?;
        let topic = AddPartitionsToTxnTopic {
            name: topic.into(),
            partitions: partitions.iter().map(|partition| *partition as i32).collect(),
        };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: id.into(),
            v3_and_below_producer_id: producer.id,
            v3_and_below_producer_epoch: producer.epoch,
            v3_and_below_topics: [topic].into(),
            ..AddPartitionsToTxnRequest::default()
        };
        let frame = self.ask(coordinator, version, &request).map_err(lost)?;
        let (_, response) =
            decode_response::<AddPartitionsToTxnRequest<'_>>(&frame, version).map_err(lost)?;
        let results = response.results_by_topic_v3_and_below.iter();
        for result in results.flat_map(|topic| topic.results_by_partition.to_vec()) {
            checked(result.partition_error_code)?;
        }
        Ok(())
    }

    /// Writes batches to partitions that one broker leads; the first error there is.
    pub fn produce_in_transaction(
        &mut self,
        leader: SocketAddr,
        map: &ClusterMap,
        (id, transaction_version): (&str, i16),
        batches: &[&(u32, Vec<u8>)],
        timeout_ms: i32,
    ) -> Result<(), Refused> {
        let cap = if transaction_version >= 2 { map.versions.produce } else { PRODUCE_V1_CAP };
        let version = self.version(ApiKey::Produce, cap).map_err(lost)?;
        let data = batches.iter().map(|batch| PartitionProduceData {
            index: batch.0 as i32,
            records: Some(Records::Bytes(&batch.1)),
        });
        let topic = TopicProduceData {
            name: map.topic.as_str().into(),
            topic_id: map.topic_id,
            partition_data: data.collect(),
        };
        let request = ProduceRequest {
            transactional_id: Some(id.into()),
            acks: -1,
            timeout_ms,
            topic_data: [topic].into(),
        };
        let frame = self.ask(leader, version, &request).map_err(lost)?;
        let (_, response) = decode_response::<ProduceRequest<'_>>(&frame, version).map_err(lost)?;
        for answer in response.responses.iter().flat_map(|topic| topic.partition_responses.to_vec()) {
            // Of a retry: it is there.
            if answer.error_code != ErrorCode::DuplicateSequenceNumber.code() {
                checked(answer.error_code)?;
            }
        }
        Ok(())
    }

    /// Ends a transaction; the producer's id and epoch for the next one.
    pub fn end_transaction(
        &mut self,
        coordinator: SocketAddr,
        (id, transaction_version): (&str, i16),
        producer: ProducerId,
        commit: bool,
    ) -> Result<ProducerId, Refused> {
        let cap = if transaction_version >= 2 { i16::MAX } else { END_TXN_V1_CAP };
        let version = self.version(ApiKey::EndTxn, cap).map_err(lost)?;
        let request = EndTxnRequest {
            transactional_id: id.into(),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            committed: commit,
        };
        let frame = self.ask(coordinator, version, &request).map_err(lost)?;
        let (_, response) = decode_response::<EndTxnRequest<'_>>(&frame, version).map_err(lost)?;
        checked(response.error_code)?;
        match transaction_version >= 2 {
            true => Ok(ProducerId { id: response.producer_id, epoch: response.producer_epoch }),
            false => Ok(producer),
        }
    }
}
