//! A transactional producer, request by request: of today's clients (a transaction has an epoch of its own, partitions are
//! added by the first append) or of the older ones.

use std::collections::BTreeMap;

use ringlog::protocol::messages::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use ringlog::protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic,
};
use ringlog::protocol::messages::end_txn_request::EndTxnRequest;
use ringlog::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use ringlog::protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ringlog::protocol::messages::produce_response::ProduceResponse;
use ringlog::protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use ringlog::protocol::{ErrorCode, Records};
use ringlog::record::{BatchBuilder, BatchOptions, Compressor};

use super::client::{Client, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

impl Version {
    fn of(self, one: i16, two: i16) -> i16 {
        if self == Version::One { one } else { two }
    }
}

#[derive(Clone, Debug)]
pub struct Producer {
    pub id: String,
    pub version: Version,
    pub producer_id: i64,
    pub epoch: i16,
    sequences: BTreeMap<i32, i32>,
}

/// What a client tries again after.
fn passes(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::ConcurrentTransactions
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::UnknownTopicOrPartition
    )
}

pub fn error(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).unwrap_or_else(|| panic!("no such error: {code}"))
}

impl Producer {
    pub fn new(id: &str, version: Version) -> Producer {
        Producer { id: id.to_owned(), version, producer_id: -1, epoch: -1, sequences: BTreeMap::new() }
    }

    /// Becomes the one producer of its id.
    pub fn init(&mut self, client: &mut Client, timeout_ms: i32) {
        client.find_coordinator(1, &self.id);
        let request = InitProducerIdRequest {
            transactional_id: Some(self.id.as_str().into()),
            transaction_timeout_ms: timeout_ms,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        (self.producer_id, self.epoch) = until("a producer id", || {
            let answer = |code, id, epoch| (error(code), id, epoch);
            let (code, id, epoch) = client
                .ask(4, &request, |found| answer(found.error_code, found.producer_id, found.producer_epoch));
            assert!(code == ErrorCode::None || passes(code), "InitProducerId: {code:?}");
            (code == ErrorCode::None).then_some((id, epoch))
        });
        self.sequences.clear();
    }

    /// As older clients do before they write.
    pub fn add_partitions(&self, client: &mut Client, topic: &str, partitions: i32) {
        let topic = AddPartitionsToTxnTopic { name: topic.into(), partitions: (0..partitions).collect() };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.as_str().into(),
            v3_and_below_producer_id: self.producer_id,
            v3_and_below_producer_epoch: self.epoch,
            v3_and_below_topics: [topic].into(),
            ..Default::default()
        };
        until("partitions added", || {
            let codes = client.ask(3, &request, |response| {
                let topic = response.results_by_topic_v3_and_below.first().unwrap();
                let codes = topic.results_by_partition.iter().map(|one| error(one.partition_error_code));
                codes.collect::<Vec<_>>()
            });
            assert!(codes.iter().all(|code| *code == ErrorCode::None || passes(*code)), "{codes:?}");
            codes.iter().all(|code| *code == ErrorCode::None).then_some(())
        });
    }

    /// One batch a partition, in one request; the sequences move on when it is [`Producer::written`].
    pub fn batches(&self, values: &[(i32, Vec<String>)]) -> Vec<(i32, Vec<u8>)> {
        let batch = |(partition, values): &(i32, Vec<String>)| {
            let mut builder = BatchBuilder::new(BatchOptions {
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                base_sequence: self.sequences.get(partition).copied().unwrap_or(0),
                transactional: true,
                ..BatchOptions::default()
            });
            for value in values {
                builder.append(1_700_000_000_000, None, Some(value.as_bytes()), &[]);
            }
            let mut bytes = Vec::new();
            builder.finish(&mut Compressor::new(), &mut bytes).unwrap();
            (*partition, bytes)
        };
        values.iter().map(batch).collect()
    }

    pub fn send(&self, client: &mut Client, topic: &str, batches: &[(i32, Vec<u8>)]) {
        client.send(self.version.of(11, 12), &self.produce_request(topic, batches));
    }

    pub fn produce_request<'a>(
        &'a self,
        topic: &'a str,
        batches: &'a [(i32, Vec<u8>)],
    ) -> ProduceRequest<'a> {
        let partition = |(index, bytes): &'a (i32, Vec<u8>)| PartitionProduceData {
            index: *index,
            records: Some(Records::Bytes(bytes)),
        };
        let data = TopicProduceData {
            name: topic.into(),
            partition_data: batches.iter().map(partition).collect(),
            ..Default::default()
        };
        ProduceRequest {
            transactional_id: Some(self.id.as_str().into()),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: [data].into(),
        }
    }

    /// Writes, and goes on until all of it is there; what is there already is fine.
    pub fn produce(&mut self, client: &mut Client, topic: &str, values: &[(i32, Vec<String>)]) {
        let batches = self.batches(values);
        until("batches written", || {
            let version = self.version.of(11, 12);
            let codes =
                client.ask(version, &self.produce_request(topic, &batches), |response| codes(&response));
            let done =
                |code: &ErrorCode| matches!(code, ErrorCode::None | ErrorCode::DuplicateSequenceNumber);
            assert!(codes.iter().all(|code| done(code) || passes(*code)), "Produce: {codes:?}");
            codes.iter().all(done).then_some(())
        });
        for (partition, values) in values {
            *self.sequences.entry(*partition).or_default() += values.len() as i32;
        }
    }

    pub fn commit_offset(&self, client: &mut Client, group: &str, topic: &str, offset: i64) {
        client.find_coordinator(0, group);
        if self.version == Version::One {
            let request = AddOffsetsToTxnRequest {
                transactional_id: self.id.as_str().into(),
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                group_id: group.into(),
            };
            again("AddOffsetsToTxn", || error(client.ask(3, &request, |response| response.error_code)));
        }
        let partition = TxnOffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: offset,
            committed_leader_epoch: -1,
            committed_metadata: None,
        };
        let topic = TxnOffsetCommitRequestTopic { name: topic.into(), partitions: [partition].into() };
        let request = TxnOffsetCommitRequest {
            transactional_id: self.id.as_str().into(),
            group_id: group.into(),
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            generation_id: -1,
            topics: [topic].into(),
            ..Default::default()
        };
        again("TxnOffsetCommit", || {
            error(client.ask(self.version.of(3, 5), &request, |response| {
                response.topics.first().unwrap().partitions.first().unwrap().error_code
            }))
        });
    }

    pub fn end_request(&self, commit: bool) -> EndTxnRequest<'_> {
        EndTxnRequest {
            transactional_id: self.id.as_str().into(),
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            committed: commit,
        }
    }

    pub fn send_end(&self, client: &mut Client, commit: bool) {
        client.send(self.version.of(3, 5), &self.end_request(commit));
    }

    /// Ends the transaction, or hears that it has ended so.
    pub fn end(&mut self, client: &mut Client, commit: bool) {
        let (version, request) = (self.version.of(3, 5), self.end_request(commit));
        let mut answered = (0, 0);
        again("EndTxn", || {
            client.ask(version, &request, |response| {
                answered = (response.producer_id, response.producer_epoch);
                error(response.error_code)
            })
        });
        if self.version == Version::Two {
            (self.producer_id, self.epoch) = answered;
            self.sequences.clear();
        }
    }
}

pub fn codes(response: &ProduceResponse<'_>) -> Vec<ErrorCode> {
    let partitions = response.responses.iter().flat_map(|topic| topic.partition_responses.to_vec());
    partitions.map(|one| error(one.error_code)).collect()
}

/// Tries again after what passes.
fn again(what: &str, mut ask: impl FnMut() -> ErrorCode) {
    until(what, || {
        let code = ask();
        assert!(code == ErrorCode::None || passes(code), "{what}: {code:?}");
        (code == ErrorCode::None).then_some(())
    });
}
