//! Scripts of what producers do, and random schedules. [`World`] is a shard in miniature: it keeps the log and the partitions, reports
//! appends and markers back at once or when told, and remembers every answer.

mod ends; // how a transaction ends, by both versions
mod faults; // appends and markers that fail, restarts
mod producers; // who may begin, and who is fenced
mod random; // any schedule keeps the invariants
mod time; // what runs out

use std::collections::{BTreeMap, VecDeque};

use crate::protocol::messages::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use crate::protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic,
};
use crate::protocol::messages::describe_transactions_request::DescribeTransactionsRequest;
use crate::protocol::messages::end_txn_request::EndTxnRequest;
use crate::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use crate::protocol::{Message, Request};
use crate::record;

use super::*;

pub const PARTITIONS: i32 = 3;
pub const TIMEOUT_MS: i32 = 60_000;

/// Topics `a` and `b` with four partitions each, groups all in partition 7, and producer ids from 1000 on.
pub struct Outside {
    pub next_producer_id: i64,
    pub has_ids: bool,
}

impl Surroundings for Outside {
    fn has_partition(&self, topic: &str, partition: i32) -> bool {
        matches!(topic, "a" | "b") && (0..4).contains(&partition)
    }

    fn offsets_partition(&self, _: &str) -> i32 {
        7
    }

    fn next_producer_id(&mut self) -> Option<i64> {
        self.next_producer_id += 1;
        self.has_ids.then_some(self.next_producer_id - 1)
    }
}

pub struct World {
    pub coordinator: TransactionCoordinator,
    pub config: TransactionConfig,
    pub outside: Outside,
    pub now: Now,
    /// Batches by partition of the topic, in order.
    pub log: BTreeMap<i32, Vec<Vec<u8>>>,
    /// Appends that have not been reported back: what they are and where their batch stands.
    pub appends: VecDeque<(AppendId, i32, Vec<u8>)>,
    pub marks: VecDeque<(MarkersOf, Marker, Vec<TopicPartition>)>,
    /// Report appends and markers at once.
    pub prompt: bool,
    pub answers: BTreeMap<ReplyTo, Vec<u8>>,
    pub admitted: BTreeMap<AdmitTo, Result<(), ErrorCode>>,
    /// Every marker written, in order.
    pub written: Vec<(TopicPartition, Marker)>,
    next_to: u64,
}

/// A producer as it knows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
}

impl World {
    pub fn new() -> World {
        World::with(TransactionConfig::default())
    }

    pub fn with(config: TransactionConfig) -> World {
        let now = Now { monotonic_ms: 50_000, wall_ms: 1_000_000 };
        let mut world = World {
            coordinator: TransactionCoordinator::new(config.clone(), PARTITIONS, now),
            config,
            outside: Outside { next_producer_id: 1000, has_ids: true },
            now,
            log: BTreeMap::new(),
            appends: VecDeque::new(),
            marks: VecDeque::new(),
            prompt: true,
            answers: BTreeMap::new(),
            admitted: BTreeMap::new(),
            written: Vec::new(),
            next_to: 0,
        };
        world.load();
        world
    }

    /// A coordinator that knows what the log says, and nothing else.
    pub fn restart(&mut self) {
        self.appends.clear();
        self.marks.clear();
        self.now.monotonic_ms += 7;
        self.coordinator = TransactionCoordinator::new(self.config.clone(), PARTITIONS, self.now);
        self.load();
    }

    fn load(&mut self) {
        let mut effects = Vec::new();
        for partition in 0..PARTITIONS {
            self.coordinator.load_begin(partition, 5);
            for batch in self.log.get(&partition).into_iter().flatten() {
                self.coordinator.load_batch(self.now, partition, batch);
            }
            self.coordinator.load_end(self.now, partition, &mut effects);
        }
        self.carry_out(effects);
    }

    pub fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply { to, body } => {
                    assert!(self.answers.insert(to, body).is_none(), "{to:?} is answered twice");
                }
                Effect::Admitted { to, result } => {
                    assert!(self.admitted.insert(to, result).is_none(), "{to:?} is admitted twice");
                }
                Effect::Append { partition, append, batch, .. } => {
                    self.appends.push_back((append, partition, batch));
                }
                Effect::Mark { of, marker, partitions } => {
                    assert!(!partitions.is_empty());
                    self.marks.push_back((of, marker, partitions));
                }
            }
        }
        while self.prompt && self.step(Ok(())) {}
    }

    /// Reports the oldest append, or if there is none the oldest markers.
    pub fn step(&mut self, result: Result<(), ErrorCode>) -> bool {
        self.report_append(result) || self.report_marks(|_| result)
    }

    pub fn report_append(&mut self, result: Result<(), ErrorCode>) -> bool {
        let Some((append, partition, batch)) = self.appends.pop_front() else { return false };
        if result.is_ok() {
            self.log.entry(partition).or_default().push(batch);
        }
        let mut effects = Vec::new();
        self.coordinator.appended(self.now, append, result, &mut effects);
        self.carry_out(effects);
        true
    }

    pub fn report_marks(&mut self, result: impl Fn(&TopicPartition) -> Result<(), ErrorCode>) -> bool {
        let Some((of, marker, partitions)) = self.marks.pop_front() else { return false };
        let results: Vec<_> = partitions.into_iter().map(|at| (at.clone(), result(&at))).collect();
        let done = results.iter().filter(|(_, result)| result.is_ok());
        self.written.extend(done.map(|(at, _)| (at.clone(), marker)));
        let mut effects = Vec::new();
        self.coordinator.marked(self.now, &of, results, &mut effects);
        self.carry_out(effects);
        true
    }

    pub fn send<'m, R: Request<'m>>(&mut self, version: i16, request: &R) -> ReplyTo {
        let to = ReplyTo(self.next_to);
        self.next_to += 1;
        let body = request.to_bytes(version);
        let request = TransactionRequest { api_key: R::API_KEY, version, body: &body, to };
        let mut effects = Vec::new();
        self.coordinator.handle(self.now, request, &mut self.outside, &mut effects).unwrap();
        self.carry_out(effects);
        to
    }

    pub fn answer<'m, R: Request<'m>>(&mut self, version: i16, to: ReplyTo) -> R::Response<'static> {
        let body = self.answers.remove(&to).expect("an answer").leak();
        R::Response::decode_exact(body, version).unwrap()
    }

    pub fn ask<'m, R: Request<'m>>(&mut self, version: i16, request: &R) -> R::Response<'static> {
        let to = self.send(version, request);
        self.answer::<R>(version, to)
    }

    pub fn init_as(&mut self, id: &str, producer: Option<Producer>) -> Result<Producer, ErrorCode> {
        let producer = producer.unwrap_or(Producer { id: -1, epoch: -1 });
        let request = InitProducerIdRequest {
            transactional_id: Some(id.into()),
            transaction_timeout_ms: TIMEOUT_MS,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            ..Default::default()
        };
        let answer = self.ask(5, &request);
        ok(answer.error_code).map(|()| Producer { id: answer.producer_id, epoch: answer.producer_epoch })
    }

    pub fn init(&mut self, id: &str) -> Producer {
        self.init_as(id, None).unwrap()
    }

    pub fn add_request<'m>(
        id: &'m str,
        producer: Producer,
        partitions: &[(&'m str, i32)],
    ) -> AddPartitionsToTxnRequest<'m> {
        let topics = partitions.iter().map(|(topic, partition)| AddPartitionsToTxnTopic {
            name: (*topic).into(),
            partitions: vec![*partition].into(),
        });
        AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: id.into(),
            v3_and_below_producer_id: producer.id,
            v3_and_below_producer_epoch: producer.epoch,
            v3_and_below_topics: topics.collect(),
            ..Default::default()
        }
    }

    /// By version 3: as a client of transaction version 1 does.
    pub fn add(&mut self, id: &str, producer: Producer, partitions: &[(&str, i32)]) -> Result<(), ErrorCode> {
        let answer = self.ask(3, &World::add_request(id, producer, partitions));
        let first = answer.results_by_topic_v3_and_below.first().expect("a topic");
        ok(first.results_by_partition.first().expect("a partition").partition_error_code)
    }

    pub fn add_offsets(&mut self, id: &str, producer: Producer) -> Result<(), ErrorCode> {
        let request = AddOffsetsToTxnRequest {
            transactional_id: id.into(),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            group_id: "g".into(),
        };
        ok(self.ask(4, &request).error_code)
    }

    /// As an append does; the answer comes to `admitted`.
    pub fn ask_admission(&mut self, id: &str, producer: Producer, at: (&str, i32), add: bool) -> AdmitTo {
        let to = AdmitTo(self.next_to);
        self.next_to += 1;
        let admission = Admission {
            transactional_id: id.into(),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            partition: (at.0.into(), at.1),
            add,
        };
        let mut effects = Vec::new();
        self.coordinator.admit(self.now, admission, to, &mut effects);
        self.carry_out(effects);
        to
    }

    pub fn admit(
        &mut self,
        id: &str,
        producer: Producer,
        at: (&str, i32),
        add: bool,
    ) -> Result<(), ErrorCode> {
        let to = self.ask_admission(id, producer, at, add);
        self.admitted.remove(&to).expect("an answer")
    }

    pub fn end_request(id: &str, producer: Producer, committed: bool) -> EndTxnRequest<'_> {
        EndTxnRequest {
            transactional_id: id.into(),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            committed,
        }
    }

    /// By version 4 or 5: transaction version 1 or 2.
    pub fn end(
        &mut self,
        version: i16,
        id: &str,
        producer: Producer,
        commit: bool,
    ) -> Result<Producer, ErrorCode> {
        let answer = self.ask(version, &World::end_request(id, producer, commit));
        ok(answer.error_code).map(|()| Producer { id: answer.producer_id, epoch: answer.producer_epoch })
    }

    pub fn state(&mut self, id: &str) -> String {
        let ids = [std::borrow::Cow::Owned(id.to_string())];
        let answer = self.ask(0, &DescribeTransactionsRequest { transactional_ids: ids.into() });
        answer.transaction_states.first().expect("one").transaction_state.to_string()
    }

    pub fn pass(&mut self, ms: i64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += ms;
        self.run_timers();
    }

    pub fn run_timers(&mut self) {
        if self.coordinator.next_deadline_ms().is_some_and(|at| at <= self.now.monotonic_ms) {
            let mut effects = Vec::new();
            self.coordinator.on_timer(self.now, &mut self.outside, &mut effects);
            self.carry_out(effects);
        }
    }

    /// What is known of every id, without what the log does not keep.
    pub fn known(&self) -> BTreeMap<String, Metadata> {
        let known = self.coordinator.iter().map(|(_, id, metadata)| {
            (id.to_string(), Metadata { last_producer_epoch: -1, ..metadata.clone() })
        });
        known.collect()
    }

    /// What a coordinator that reads the log knows.
    pub fn replayed(&self) -> BTreeMap<String, Metadata> {
        let mut replayed = World::with(self.config.clone());
        replayed.now = self.now;
        replayed.prompt = false;
        replayed.log = self.log.clone();
        replayed.restart();
        replayed.known()
    }
}

pub fn ok(code: i16) -> Result<(), ErrorCode> {
    match ErrorCode::from_code(code).expect("a known error") {
        ErrorCode::None => Ok(()),
        error => Err(error),
    }
}

#[test]
fn records_are_kafkas() {
    let mut world = World::new();
    let producer = world.init("id");
    world.admit("id", producer, ("a", 1), true).unwrap();
    let batches: Vec<_> = world.log.values().flatten().cloned().collect();
    assert_eq!(batches.len(), 2);
    let batch = record::RecordBatch::parse(&batches[1]).unwrap();
    let (mut decompressor, mut scratch) = (record::Decompressor::default(), Vec::new());
    let record = batch.records(&mut decompressor, &mut scratch, 1 << 20).unwrap().next().unwrap().unwrap();
    assert_eq!(record.key.unwrap(), b"\0\0\0\x02id");
    let value = [
        &[0, 1][..],                        // version
        &1000i64.to_be_bytes(),             // producer id
        &[0, 0],                            // epoch
        &TIMEOUT_MS.to_be_bytes(),          // timeout
        &[1, 2, 2, b'a', 2, 0, 0, 0, 1, 0], // Ongoing; one topic: one partition
        &1_000_000i64.to_be_bytes(),        // last update
        &1_000_000i64.to_be_bytes(),        // start
        &[2, 0, 8],                         // two tags: the previous producer id
        &1000i64.to_be_bytes(),
        &[2, 2, 0, 2], // the client's transaction version
    ]
    .concat();
    assert_eq!(record.value.unwrap(), value);
}
