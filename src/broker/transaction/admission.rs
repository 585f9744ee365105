//! Partitions become part of a transaction: AddPartitionsToTxn (versions 0 to 5), AddOffsetsToTxn (versions 0 to 4), and
//! what appends ask for themselves ([`TransactionCoordinator::admit`]).
//!
//! A partition is admitted once the record that names it is in the log: whatever ends the transaction then reaches it. An append that comes
//! while its id has a change under way waits for that to be over, and those that wait are admitted together, in one record; after
//! [`TransactionConfig::admission_wait_ms`] they are told CONCURRENT_TRANSACTIONS, as Kafka does after as many tries.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::appends::{Then, Waiting};
use super::coordinator::{Transaction, TransactionCoordinator, reply};
use super::expiry::Timer;
use super::metadata::{Metadata, State};
use super::*;
use crate::protocol::messages::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use crate::protocol::messages::add_offsets_to_txn_response::AddOffsetsToTxnResponse;
use crate::protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic,
};
use crate::protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResponse, AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult,
};
use crate::protocol::{Array, DecodeError, ErrorCode, Message, Reader};

/// From this version on a fenced producer is told so.
const PRODUCER_FENCED_VERSION: i16 = 2;
/// From this version on a request names several transactions.
const BATCHED_VERSION: i16 = 4;

/// What an append asks before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    pub transactional_id: Arc<str>,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub partition: TopicPartition,
    /// Add the partition (transaction version 2), or only tell whether it is there.
    pub add: bool,
}

/// An admission that waits.
#[derive(Clone, Debug)]
pub struct Wish {
    admission: Admission,
    pub to: AdmitTo,
    until_ms: i64,
}

/// Who hears that partitions were added.
#[derive(Clone, Copy, Debug)]
pub enum AddedTo {
    /// A transaction of a request: its number, and the transaction's place in it.
    Request(u64, usize),
    Append(AdmitTo),
}

/// Requests of which some transactions wait for their appends.
#[derive(Debug, Default)]
pub struct Answers {
    open: BTreeMap<u64, Answer>,
    next: u64,
}

#[derive(Debug)]
struct Answer {
    waiting: Waiting,
    kind: Kind,
    left: usize,
}

#[derive(Debug)]
enum Kind {
    Partitions(Vec<Part>),
    Offsets(ErrorCode),
}

/// One transaction of a request, and what each of its partitions is told.
#[derive(Debug)]
struct Part {
    transactional_id: String,
    topics: Vec<(String, Vec<(i32, ErrorCode)>)>,
}

/// A producer as a client names it.
#[derive(Clone, Copy, Debug)]
struct Producer {
    id: i64,
    epoch: i16,
}

impl TransactionCoordinator {
    pub(super) fn add_partitions_to_txn(
        &mut self,
        now: Now,
        request: &TransactionRequest<'_>,
        surroundings: &mut dyn Surroundings,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        let version = request.version;
        let message = AddPartitionsToTxnRequest::decode_prefix(&mut Reader::new(request.body), version)?;
        let number = self.answers.open(request.waiting(), Kind::Partitions(Vec::new()));
        let mut parts = Vec::new();
        let mut wants = Vec::new();
        if version >= BATCHED_VERSION {
            for transaction in &message.transactions {
                let producer = Producer { id: transaction.producer_id, epoch: transaction.producer_epoch };
                parts.push(Part::new(&transaction.transactional_id, &transaction.topics));
                wants.push((producer, transaction.verify_only));
            }
        } else {
            let producer =
                Producer { id: message.v3_and_below_producer_id, epoch: message.v3_and_below_producer_epoch };
            let id = &message.v3_and_below_transactional_id;
            parts.push(Part::new(id, &message.v3_and_below_topics));
            wants.push((producer, false));
        }
        let client_version = if version >= BATCHED_VERSION { TRANSACTION_VERSION } else { 0 };
        for (index, (part, (producer, verify_only))) in parts.iter_mut().zip(wants).enumerate() {
            if part.refuse_unknown(surroundings) {
                continue;
            }
            let id = part.transactional_id.clone();
            if verify_only {
                part.verify(|partitions| self.verify(&id, producer, partitions));
                continue;
            }
            let to = AddedTo::Request(number, index);
            match self.add(now, &id, producer, part.partitions(), client_version, to, out) {
                Ok(true) => self.answers.wait(number),
                Ok(false) => part.set_all(ErrorCode::None),
                Err(error) => part.set_all(error),
            }
        }
        self.answers.ready(number, Kind::Partitions(parts), out);
        Ok(())
    }

    pub(super) fn add_offsets_to_txn(
        &mut self,
        now: Now,
        request: &TransactionRequest<'_>,
        surroundings: &mut dyn Surroundings,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        let message = AddOffsetsToTxnRequest::decode_prefix(&mut Reader::new(request.body), request.version)?;
        let partition = surroundings.offsets_partition(&message.group_id);
        let partition: TopicPartition = (Arc::from(crate::broker::group::OFFSETS_TOPIC), partition);
        let producer = Producer { id: message.producer_id, epoch: message.producer_epoch };
        let number = self.answers.open(request.waiting(), Kind::Offsets(ErrorCode::None));
        let to = AddedTo::Request(number, 0);
        let added = self.add(now, &message.transactional_id, producer, [partition].into(), 0, to, out);
        let error = match added {
            Ok(true) => {
                self.answers.wait(number);
                ErrorCode::None
            }
            Ok(false) => ErrorCode::None,
            Err(error) => error,
        };
        self.answers.ready(number, Kind::Offsets(error), out);
        Ok(())
    }

    /// Whether an append may be made as part of a transaction; the answer comes as [`Effect::Admitted`].
    pub fn admit(&mut self, now: Now, admission: Admission, to: AdmitTo, out: &mut Vec<Effect>) {
        let producer = Producer { id: admission.producer_id, epoch: admission.producer_epoch };
        let id = admission.transactional_id.clone();
        if !admission.add {
            let verified = self.verify(&id, producer, &[admission.partition].into());
            let result = verified.and_then(|mut errors| errors.pop().map_or(Ok(()), |(_, error)| ok(error)));
            return out.push(Effect::Admitted { to, result });
        }
        let wait_ms = self.config.admission_wait_ms;
        if wait_ms > 0
            && let Ok((partition, id, transaction)) = self.find(&id)
            && transaction.pending.is_some()
        {
            let waiting_max = self.config.limits.waiting_max;
            return self.wait(
                now,
                partition,
                &id,
                Wish { admission, to, until_ms: now.monotonic_ms.saturating_add(wait_ms) },
                waiting_max,
                out,
            );
        }
        let partitions = [admission.partition].into();
        let added = self.add(now, &id, producer, partitions, TRANSACTION_VERSION, AddedTo::Append(to), out);
        match added {
            Ok(true) => {}
            Ok(false) => out.push(Effect::Admitted { to, result: Ok(()) }),
            Err(error) => out.push(Effect::Admitted { to, result: Err(error) }),
        }
    }

    fn wait(
        &mut self,
        _now: Now,
        partition: i32,
        id: &Arc<str>,
        wish: Wish,
        waiting_max: usize,
        out: &mut Vec<Effect>,
    ) {
        let Some(transaction) = self.transaction(partition, id) else { return };
        if transaction.waiting.len() >= waiting_max {
            let result = Err(ErrorCode::ConcurrentTransactions);
            return out.push(Effect::Admitted { to: wish.to, result });
        }
        let until_ms = wish.until_ms;
        let is_first = transaction.waiting.is_empty();
        transaction.waiting.push(wish);
        if is_first {
            self.timers.schedule(Timer::Waiting { partition, id: id.clone() }, until_ms);
        }
    }

    /// The change that appends waited for is over: they are admitted together, as far as they may be.
    pub(super) fn admit_waiting(&mut self, now: Now, partition: i32, id: &Arc<str>, out: &mut Vec<Effect>) {
        let Some(transaction) = self.transaction(partition, id) else { return };
        if transaction.pending.is_some() || transaction.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut transaction.waiting);
        self.timers.cancel(&Timer::Waiting { partition, id: id.clone() });
        let partitions_max = self.config.limits.partitions_max;
        let room = self.room();
        let Some(transaction) = self.transaction(partition, id) else { return };
        let (mut added, mut to) = (BTreeSet::new(), Vec::new());
        for wish in waiting {
            let admission = wish.admission;
            let producer = Producer { id: admission.producer_id, epoch: admission.producer_epoch };
            let result = match may_add(transaction, producer) {
                Err(error) => Some(Err(error)),
                Ok(()) if transaction.holds([&admission.partition]) => Some(Ok(())),
                Ok(()) if transaction.metadata.partitions.len() + added.len() >= partitions_max => {
                    Some(Err(ErrorCode::InvalidTxnState))
                }
                Ok(()) if room == 0 => Some(Err(ErrorCode::CoordinatorNotAvailable)),
                Ok(()) => {
                    added.insert(admission.partition);
                    to.push(AddedTo::Append(wish.to));
                    None
                }
            };
            if let Some(result) = result {
                out.push(Effect::Admitted { to: wish.to, result });
            }
        }
        if !to.is_empty() {
            let next = transaction.metadata.add_partitions(added, TRANSACTION_VERSION, now.wall_ms);
            self.append(now, partition, id, next, |id, next| Then::Added { id, next, to }, out);
        }
    }

    /// Appends have waited long enough.
    pub(super) fn stop_waiting(&mut self, now: Now, partition: i32, id: &Arc<str>, out: &mut Vec<Effect>) {
        let Some(transaction) = self.transaction(partition, id) else { return };
        let waiting = std::mem::take(&mut transaction.waiting);
        let (over, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|wish| wish.until_ms <= now.monotonic_ms);
        let next = rest.first().map(|wish| wish.until_ms);
        transaction.waiting = rest;
        for wish in over {
            let result = Err(ErrorCode::ConcurrentTransactions);
            out.push(Effect::Admitted { to: wish.to, result });
        }
        if let Some(until_ms) = next {
            self.timers.schedule(Timer::Waiting { partition, id: id.clone() }, until_ms);
        }
    }

    /// Adds partitions: true when a record has to be in the log first, and `to` hears of it.
    #[expect(clippy::too_many_arguments, reason = "the parts of one append")]
    fn add(
        &mut self,
        now: Now,
        id: &str,
        producer: Producer,
        partitions: BTreeSet<TopicPartition>,
        client_version: i16,
        to: AddedTo,
        out: &mut Vec<Effect>,
    ) -> Result<bool, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let (room, partitions_max) = (self.room(), self.config.limits.partitions_max);
        let (index, id, transaction) = self.find(id)?;
        may_add(transaction, producer)?;
        if transaction.holds(&partitions) {
            return Ok(false);
        }
        if transaction.metadata.partitions.len() + partitions.len() > partitions_max {
            return Err(ErrorCode::InvalidRequest);
        }
        if room == 0 {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        let next = transaction.metadata.add_partitions(partitions, client_version, now.wall_ms);
        let then = |id, next| Then::Added { id, next, to: vec![to] };
        self.append(now, index, &id, next, then, out);
        Ok(true)
    }

    fn room(&self) -> usize {
        self.config.limits.bytes_max.saturating_sub(self.usage.bytes)
    }

    /// The record of added partitions is in the log, or not.
    #[expect(clippy::too_many_arguments, reason = "the parts of one append")]
    pub(super) fn added(
        &mut self,
        now: Now,
        partition: i32,
        id: &Arc<str>,
        next: Metadata,
        to: &[AddedTo],
        result: Result<(), ErrorCode>,
        out: &mut Vec<Effect>,
    ) {
        if result.is_ok() {
            let begins = self
                .transaction(partition, id)
                .is_some_and(|transaction| transaction.metadata.state != State::Ongoing);
            self.apply(now, partition, id, next);
            if begins {
                self.start_timeout(now, partition, id);
            }
        } else {
            self.abandon(partition, id);
        }
        self.answers.settle(to, result, out);
    }

    /// Tells of each partition whether it is part of the transaction.
    fn verify(
        &mut self,
        id: &str,
        producer: Producer,
        partitions: &BTreeSet<TopicPartition>,
    ) -> Result<Vec<(TopicPartition, ErrorCode)>, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let (_, _, transaction) = self.find(id)?;
        let metadata = &transaction.metadata;
        check_producer(metadata, producer)?;
        if metadata.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let verified = partitions.iter().map(|partition| {
            let error = match metadata.partitions.contains(partition) {
                true => ErrorCode::None,
                false => ErrorCode::TransactionAbortable,
            };
            (partition.clone(), error)
        });
        Ok(verified.collect())
    }
}

fn ok(error: ErrorCode) -> Result<(), ErrorCode> {
    if error.is_error() { Err(error) } else { Ok(()) }
}

fn check_producer(metadata: &Metadata, producer: Producer) -> Result<(), ErrorCode> {
    if metadata.producer_id != producer.id {
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    if metadata.producer_epoch != producer.epoch {
        return Err(ErrorCode::ProducerFenced);
    }
    Ok(())
}

fn may_add(transaction: &Transaction, producer: Producer) -> Result<(), ErrorCode> {
    if transaction.pending.is_some() {
        return Err(ErrorCode::ConcurrentTransactions);
    }
    check_producer(&transaction.metadata, producer)?;
    if transaction.metadata.state.is_prepared() {
        return Err(ErrorCode::ConcurrentTransactions);
    }
    Ok(())
}

impl Transaction {
    /// Whether these are part of the open transaction.
    fn holds<'p>(&self, partitions: impl IntoIterator<Item = &'p TopicPartition>) -> bool {
        self.metadata.state == State::Ongoing
            && partitions.into_iter().all(|partition| self.metadata.partitions.contains(partition))
    }
}

impl Part {
    fn new(transactional_id: &str, topics: &Array<'_, AddPartitionsToTxnTopic<'_>>) -> Part {
        let topics = topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| (partition, ErrorCode::None));
            (topic.name.to_string(), partitions.collect())
        });
        Part { transactional_id: transactional_id.to_string(), topics: topics.collect() }
    }

    fn partitions(&self) -> BTreeSet<TopicPartition> {
        let topics = self.topics.iter().flat_map(|(topic, partitions)| {
            let topic: Arc<str> = topic.as_str().into();
            partitions.iter().map(move |(partition, _)| (topic.clone(), *partition))
        });
        topics.collect()
    }

    fn errors(&mut self) -> impl Iterator<Item = &mut ErrorCode> {
        self.topics.iter_mut().flat_map(|(_, partitions)| partitions.iter_mut().map(|(_, error)| error))
    }

    fn set_all(&mut self, error: ErrorCode) {
        self.errors().for_each(|place| *place = error);
    }

    /// One partition that does not exist refuses all.
    fn refuse_unknown(&mut self, surroundings: &dyn Surroundings) -> bool {
        let mut refused = false;
        for (topic, partitions) in &mut self.topics {
            for (partition, error) in partitions {
                if !surroundings.has_partition(topic, *partition) {
                    *error = ErrorCode::UnknownTopicOrPartition;
                    refused = true;
                }
            }
        }
        if refused {
            let known = self.errors().filter(|error| !error.is_error());
            known.for_each(|error| *error = ErrorCode::OperationNotAttempted);
        }
        refused
    }

    fn verify(
        &mut self,
        verify: impl FnOnce(&BTreeSet<TopicPartition>) -> Result<Vec<(TopicPartition, ErrorCode)>, ErrorCode>,
    ) {
        match verify(&self.partitions()) {
            Err(error) => self.set_all(error),
            Ok(verified) => {
                let verified: BTreeMap<TopicPartition, ErrorCode> = verified.into_iter().collect();
                for (topic, partitions) in &mut self.topics {
                    let topic: Arc<str> = topic.as_str().into();
                    for (partition, error) in partitions {
                        *error = verified.get(&(topic.clone(), *partition)).copied().unwrap_or(*error);
                    }
                }
            }
        }
    }

    fn topic_results(&self, version: i16) -> Array<'static, AddPartitionsToTxnTopicResult<'static>> {
        let topics = self.topics.iter().map(|(name, partitions)| AddPartitionsToTxnTopicResult {
            name: Cow::Owned(name.clone()),
            results_by_partition: partitions
                .iter()
                .map(|(partition_index, error)| AddPartitionsToTxnPartitionResult {
                    partition_index: *partition_index,
                    partition_error_code: told(*error, version).code(),
                })
                .collect(),
        });
        topics.collect()
    }
}

/// Old clients do not know that they can be fenced.
fn told(error: ErrorCode, version: i16) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced if version < PRODUCER_FENCED_VERSION => ErrorCode::InvalidProducerEpoch,
        error => error,
    }
}

impl Answers {
    /// A request whose transactions are about to be handled; it is complete no sooner than [`Answers::ready`].
    fn open(&mut self, waiting: Waiting, kind: Kind) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Answer { waiting, kind, left: 1 });
        number
    }

    fn wait(&mut self, number: u64) {
        if let Some(answer) = self.open.get_mut(&number) {
            answer.left += 1;
        }
    }

    fn ready(&mut self, number: u64, kind: Kind, out: &mut Vec<Effect>) {
        if let Some(answer) = self.open.get_mut(&number) {
            answer.kind = kind;
        }
        self.finish_one(number, out);
    }

    pub fn settle(&mut self, to: &[AddedTo], result: Result<(), ErrorCode>, out: &mut Vec<Effect>) {
        for to in to {
            match *to {
                AddedTo::Append(to) => out.push(Effect::Admitted { to, result }),
                AddedTo::Request(number, index) => {
                    let error = result.err().unwrap_or(ErrorCode::None);
                    match self.open.get_mut(&number).map(|answer| &mut answer.kind) {
                        Some(Kind::Partitions(parts)) => {
                            parts.get_mut(index).into_iter().for_each(|part| part.set_all(error));
                        }
                        Some(Kind::Offsets(place)) => *place = error,
                        None => {}
                    }
                    self.finish_one(number, out);
                }
            }
        }
    }

    fn finish_one(&mut self, number: u64, out: &mut Vec<Effect>) {
        let Some(answer) = self.open.get_mut(&number) else { return };
        answer.left -= 1;
        if answer.left == 0
            && let Some(answer) = self.open.remove(&number)
        {
            answer.send(out);
        }
    }
}

impl Answer {
    fn send(&self, out: &mut Vec<Effect>) {
        let version = self.waiting.version;
        match &self.kind {
            Kind::Offsets(error) => {
                let error_code = told(*error, version).code();
                reply(out, self.waiting, &AddOffsetsToTxnResponse { error_code, ..Default::default() });
            }
            Kind::Partitions(parts) => {
                let mut response = AddPartitionsToTxnResponse::default();
                if version >= BATCHED_VERSION {
                    let results = parts.iter().map(|part| AddPartitionsToTxnResult {
                        transactional_id: Cow::Owned(part.transactional_id.clone()),
                        topic_results: part.topic_results(version),
                    });
                    response.results_by_transaction = results.collect();
                } else if let Some(part) = parts.first() {
                    response.results_by_topic_v3_and_below = part.topic_results(version);
                }
                reply(out, self.waiting, &response);
            }
        }
    }
}
