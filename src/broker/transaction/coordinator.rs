//! The coordinator: the partitions of `__transaction_state` it owns, and the way of a request through them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::{info, warn};

use super::admission::{Answers, Wish};
use super::appends::{Appends, Pending, Then, Waiting, coordinator_error};
use super::expiry::{Timer, Timers};
use super::loading::Loader;
use super::metadata::{Metadata, State};
use super::records::BatchWriter;
use super::*;
use crate::protocol::{ApiKey, DecodeError, DecodeErrorKind, ErrorCode, Message};

/// About what an id and a partition of a transaction cost.
const ID_OVERHEAD: usize = 320;
const PARTITION_OVERHEAD: usize = 64;

/// One transactional id.
#[derive(Debug)]
pub struct Transaction {
    pub metadata: Metadata,
    /// The state that an append under way leads to; from the decision of an end until its completion, the completed one.
    pub pending: Option<State>,
    /// While an end is decided: the partitions that have no marker yet.
    pub unmarked: BTreeSet<TopicPartition>,
    /// Appends to partitions that wait for `pending` to be over.
    pub waiting: Vec<Wish>,
    /// An open transaction is aborted then; monotonic.
    pub times_out_ms: Option<i64>,
    /// Since when nothing has happened; monotonic.
    pub idle_since_ms: i64,
    accounted: usize,
}

impl Transaction {
    pub fn new(metadata: Metadata, idle_since_ms: i64) -> Transaction {
        Transaction {
            metadata,
            pending: None,
            unmarked: BTreeSet::new(),
            waiting: Vec::new(),
            times_out_ms: None,
            idle_since_ms,
            accounted: 0,
        }
    }

    fn bytes(&self, id: &str) -> usize {
        let partitions = self.metadata.partitions.iter();
        ID_OVERHEAD
            + 2 * id.len()
            + partitions.map(|(topic, _)| PARTITION_OVERHEAD + topic.len()).sum::<usize>()
    }
}

/// One partition of the topic.
#[derive(Debug, Default)]
pub struct Partition {
    pub loading: bool,
    /// Its leader epoch: markers carry it, so that those of an earlier coordinator are told apart.
    pub epoch: i32,
    pub transactions: BTreeMap<Arc<str>, Transaction>,
}

/// The transactional ids of one shard.
///
/// Order of calls: a partition is `load_begin`, any number of `load_batch`, `load_end` before its ids are served, and
/// `unload` when it goes away. After every call that takes `out` the shard carries out the effects in order, and asks
/// `next_deadline_ms` anew.
pub struct TransactionCoordinator {
    pub(super) config: TransactionConfig,
    pub(super) topic_partitions: i32,
    pub(super) partitions: BTreeMap<i32, Partition>,
    pub(super) appends: Appends,
    pub(super) answers: Answers,
    pub(super) timers: Timers,
    pub(super) usage: Usage,
    loader: Loader,
}

/// What all ids hold together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub ids: usize,
    pub bytes: usize,
}

impl TransactionCoordinator {
    pub fn new(config: TransactionConfig, topic_partitions: i32, now: Now) -> Self {
        let mut timers = Timers::default();
        timers.schedule(Timer::AbortTimedOut, now.monotonic_ms.saturating_add(config.abort_interval_ms));
        TransactionCoordinator {
            config,
            topic_partitions,
            partitions: BTreeMap::new(),
            appends: Appends::default(),
            answers: Answers::default(),
            timers,
            usage: Usage::default(),
            loader: Loader::default(),
        }
    }

    /// How many partitions the topic has: known at the latest when it exists.
    pub fn set_topic_partitions(&mut self, topic_partitions: i32) {
        self.topic_partitions = topic_partitions;
    }

    /// An error means that the body is not what its header says: the connection has to be closed, as Kafka does.
    pub fn handle(
        &mut self,
        now: Now,
        request: TransactionRequest<'_>,
        surroundings: &mut dyn Surroundings,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        match request.api_key {
            ApiKey::InitProducerId => self.init_producer_id(now, &request, surroundings, out),
            ApiKey::AddPartitionsToTxn => self.add_partitions_to_txn(now, &request, surroundings, out),
            ApiKey::AddOffsetsToTxn => self.add_offsets_to_txn(now, &request, surroundings, out),
            ApiKey::EndTxn => self.end_txn(now, &request, surroundings, out),
            ApiKey::DescribeTransactions => self.describe_transactions(&request, out),
            ApiKey::ListTransactions => self.list_transactions(now, &request, out),
            other => {
                let kind = DecodeErrorKind::UnknownApiKey(other.code());
                Err(DecodeError { field: "transaction request", kind })
            }
        }
    }

    /// An append is as durable as was asked for; or it has failed.
    pub fn appended(
        &mut self,
        now: Now,
        append: AppendId,
        result: Result<(), ErrorCode>,
        out: &mut Vec<Effect>,
    ) {
        let Some(Pending { partition, then }) = self.appends.take(append) else { return };
        let result = result.map_err(coordinator_error);
        let id = match then {
            Then::Started { id, next, waiting } => {
                self.started(now, partition, &id, *next, waiting, result, out);
                id
            }
            Then::Added { id, next, to } => {
                self.added(now, partition, &id, *next, &to, result, out);
                id
            }
            Then::Prepared { id, next, asked } => {
                self.prepared(now, partition, &id, *next, asked, result, out);
                id
            }
            Then::Completed { id, next } => {
                self.completed(now, partition, &id, *next, result);
                id
            }
            Then::Expired { ids } => return self.expired(now, partition, ids, result, out),
        };
        self.admit_waiting(now, partition, &id, out);
    }

    /// Monotonic.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.timers.next_deadline_ms()
    }

    pub fn stats(&self) -> TransactionStats {
        let all = || self.partitions.values().flat_map(|partition| partition.transactions.values());
        TransactionStats {
            ids: self.usage.ids,
            ongoing: all().filter(|transaction| transaction.metadata.state == State::Ongoing).count(),
            bytes: self.usage.bytes,
            appends_pending: self.appends.len(),
        }
    }

    /// All that is known, in order: partition, id, metadata.
    pub fn iter(&self) -> impl Iterator<Item = (i32, &Arc<str>, &Metadata)> {
        self.partitions.iter().flat_map(|(index, partition)| {
            let ids = partition.transactions.iter();
            ids.map(move |(id, transaction)| (*index, id, &transaction.metadata))
        })
    }

    // ---- loading ----

    pub fn load_begin(&mut self, partition: i32, epoch: i32) {
        debug_assert!(!self.partitions.contains_key(&partition), "partition {partition} is there already");
        self.partitions.insert(partition, Partition { loading: true, epoch, ..Partition::default() });
    }

    /// Whole record batches of the partition, in the order of the log.
    pub fn load_batch(&mut self, now: Now, partition: i32, batches: &[u8]) {
        if let Some(partition) = self.partitions.get_mut(&partition).filter(|partition| partition.loading) {
            self.loader.load(partition, batches, now);
        }
    }

    /// What had been decided goes on: markers go out, open transactions get the rest of their time.
    pub fn load_end(&mut self, now: Now, index: i32, out: &mut Vec<Effect>) {
        let unreadable = std::mem::take(&mut self.loader).unreadable;
        if unreadable > 0 {
            warn!(partition = index, unreadable, "records of the transaction topic that cannot be read");
        }
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        if !std::mem::replace(&mut partition.loading, false) {
            return;
        }
        info!(partition = index, ids = partition.transactions.len(), "transactional ids loaded");
        self.usage.ids += partition.transactions.len();
        let ids: Vec<Arc<str>> = partition.transactions.keys().cloned().collect();
        for id in ids {
            self.account(index, &id);
            let Some(transaction) = self.transaction(index, &id) else { continue };
            match transaction.metadata.state {
                State::Ongoing => self.start_timeout(now, index, &id),
                state if state.is_prepared() => self.begin_marking(now, index, &id, out),
                _ => {}
            }
        }
        let deadline_ms = now.monotonic_ms.saturating_add(self.config.expiration_interval_ms);
        self.timers.schedule(Timer::Expire { partition: index, after: None }, deadline_ms);
    }

    /// The partition has another leader epoch from now on.
    pub fn set_epoch(&mut self, partition: i32, epoch: i32) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.epoch = partition.epoch.max(epoch);
        }
    }

    /// The partition is another's now: who waits is told, and nothing is kept.
    pub fn unload(&mut self, index: i32, out: &mut Vec<Effect>) {
        let moved = ErrorCode::NotCoordinator;
        let Some(partition) = self.partitions.remove(&index) else { return };
        self.timers.cancel_partition(index);
        if !partition.loading {
            self.usage.ids -= partition.transactions.len();
        }
        for (_, transaction) in partition.transactions {
            self.usage.bytes -= transaction.accounted;
            for wish in transaction.waiting {
                out.push(Effect::Admitted { to: wish.to, result: Err(moved) });
            }
        }
        for pending in self.appends.take_partition(index) {
            match pending.then {
                Then::Started { waiting, .. } => init_producer_id::refuse(waiting, moved, out),
                Then::Added { to, .. } => self.answers.settle(&to, Err(moved), out),
                Then::Prepared { asked, .. } => end_txn::answer(asked, Err(moved), out),
                Then::Completed { .. } | Then::Expired { .. } => {}
            }
        }
    }

    // ---- for the requests ----

    /// The partition of an id, to look at.
    pub(super) fn active(&self, id: &str) -> Result<(i32, &Partition), ErrorCode> {
        let index = partition_for(id, self.topic_partitions);
        match self.partitions.get(&index) {
            None => Err(ErrorCode::NotCoordinator),
            Some(partition) if partition.loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(partition) => Ok((index, partition)),
        }
    }

    /// The transaction a producer means, which has to exist.
    pub(super) fn find(&mut self, id: &str) -> Result<(i32, Arc<str>, &mut Transaction), ErrorCode> {
        let (index, partition) = self.active(id)?;
        let id = partition.transactions.get_key_value(id).map(|(id, _)| id.clone());
        let id = id.ok_or(ErrorCode::InvalidProducerIdMapping)?;
        let transaction = self.transaction(index, &id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        Ok((index, id, transaction))
    }

    pub(super) fn transaction(&mut self, partition: i32, id: &str) -> Option<&mut Transaction> {
        self.partitions.get_mut(&partition)?.transactions.get_mut(id)
    }

    /// A new id; none if there is no room for another.
    pub(super) fn create(&mut self, now: Now, index: i32, id: &str, metadata: Metadata) -> Option<Arc<str>> {
        let id: Arc<str> = id.into();
        let transaction = Transaction::new(metadata, now.monotonic_ms);
        let limits = &self.config.limits;
        if self.usage.ids >= limits.ids_max || self.usage.bytes + transaction.bytes(&id) > limits.bytes_max {
            return None;
        }
        self.partitions.get_mut(&index)?.transactions.insert(id.clone(), transaction);
        self.usage.ids += 1;
        self.account(index, &id);
        Some(id)
    }

    pub(super) fn remove(&mut self, index: i32, id: &str) {
        let removed = self.partitions.get_mut(&index).and_then(|partition| partition.transactions.remove(id));
        if let Some(transaction) = removed {
            self.usage.ids -= 1;
            self.usage.bytes -= transaction.accounted;
        }
    }

    /// Brings an id's share of the sum up to date.
    pub(super) fn account(&mut self, index: i32, id: &str) {
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        if let Some(transaction) = partition.transactions.get_mut(id) {
            let bytes = transaction.bytes(id);
            self.usage.bytes = self.usage.bytes - transaction.accounted + bytes;
            transaction.accounted = bytes;
        }
    }

    /// Writes the next state of an id; it comes to be when the record is in the log.
    pub(super) fn append(
        &mut self,
        now: Now,
        index: i32,
        id: &Arc<str>,
        next: Metadata,
        then: impl FnOnce(Arc<str>, Box<Metadata>) -> Then,
        out: &mut Vec<Effect>,
    ) {
        let Some(transaction) = self.transaction(index, id) else { return };
        transaction.pending = Some(next.state);
        let mut batch = BatchWriter::new(now.wall_ms);
        batch.put(id, &next);
        // A completion need not be safe before what follows it is: both lie in one log, in this order, and what a
        // crash takes of it is done again.
        let durable = !matches!(next.state, State::CompleteCommit | State::CompleteAbort);
        let then = then(id.clone(), Box::new(next));
        self.append_batch(index, batch, durable, then, out);
    }

    pub(super) fn append_batch(
        &mut self,
        partition: i32,
        batch: BatchWriter,
        durable: bool,
        then: Then,
        out: &mut Vec<Effect>,
    ) {
        let durable = durable && self.config.durable;
        let append = self.appends.begin(Pending { partition, then });
        // An empty batch is refused by the log, and reported back as any other failure.
        let batch = batch.finish().unwrap_or_default();
        out.push(Effect::Append { partition, append, batch, durable });
    }

    /// What an append has made true.
    pub(super) fn apply(&mut self, now: Now, index: i32, id: &str, next: Metadata) {
        if let Some(transaction) = self.transaction(index, id) {
            transaction.metadata = next;
            transaction.pending = None;
            transaction.idle_since_ms = now.monotonic_ms;
            self.account(index, id);
        }
    }

    /// What an append has not made true.
    pub(super) fn abandon(&mut self, index: i32, id: &str) {
        if let Some(transaction) = self.transaction(index, id) {
            transaction.pending = None;
        }
    }
}

pub(super) fn reply<'m>(out: &mut Vec<Effect>, waiting: Waiting, message: &impl Message<'m>) {
    out.push(Effect::Reply { to: waiting.to, body: message.to_bytes(waiting.version) });
}

impl TransactionRequest<'_> {
    pub(super) fn waiting(&self) -> Waiting {
        Waiting { to: self.to, version: self.version }
    }
}
