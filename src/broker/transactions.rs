//! The transaction coordinator in its shard: requests and admissions in, appends to `__transaction_state`, markers and answers out,
//! loading at start.
//!
//! The coordinator itself ([`transaction::TransactionCoordinator`]) knows neither logs nor connections; this carries out its
//! effects in order and reports back what became of each append and marker.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use slab::Slab;

use super::controller::Controller;
use super::coordinator::Load;
use super::gather::{Gather, Kind, Layout};
use super::handlers::txn_offset_commit;
use super::mail::{Admit, Admitted, Answer, Mail, Query, Task};
use super::partition::{Waiter, WaiterTo};
use super::request::{Forwarded, Head, Response};
use super::transaction::{
    Admission, AdmitTo, AppendId, Effect, Marker, MarkersOf, Now, ReplyTo, Surroundings, TRANSACTION_TOPIC,
    TopicPartition, TransactionConfig, TransactionCoordinator, TransactionRequest,
};
use super::{Broker, CONTROL_SHARD};
use crate::config::BrokerConfig;
use crate::io::Io;
use crate::metadata::{ClusterImage, Topic};
use crate::protocol::{ErrorCode, Uuid};
use crate::storage::{AckLevel, AppendError, AppendOptions};

/// Markers of a transaction that are not all answered by then are asked for again.
const MARKERS_TIMEOUT_NS: u64 = 30_000_000_000;

pub struct Transactions {
    coordinator: TransactionCoordinator,
    waiting: Slab<(usize, Head)>,
    admissions: Slab<Asking>,
    /// Partitions that are served or being loaded.
    owned: BTreeSet<i32>,
    /// Partitions being loaded, and how far.
    loading: BTreeMap<i32, i64>,
    effects: Vec<Effect>,
}

/// What waits to be part of a transaction.
enum Asking {
    Append(Admit),
    /// TxnOffsetCommit.
    Offsets(Forwarded),
}

impl Transactions {
    pub fn new(config: &BrokerConfig, topic_partitions: i32, now: Now) -> Transactions {
        let transactions = &config.transactions;
        let config = TransactionConfig {
            max_timeout_ms: transactions.max_timeout_ms,
            abort_interval_ms: transactions.abort_timed_out_interval_ms as i64,
            id_expiration_ms: transactions.transactional_id_expiration_ms,
            expiration_interval_ms: transactions.remove_expired_interval_ms as i64,
            two_phase_commit: transactions.two_phase_commit,
            admission_wait_ms: transactions.add_partitions_wait_ms as i64,
            durable: config.ack_levels.all == crate::config::AckLevel::Durable,
            ..TransactionConfig::default()
        };
        Transactions {
            coordinator: TransactionCoordinator::new(config, topic_partitions, now),
            waiting: Slab::new(),
            admissions: Slab::new(),
            owned: BTreeSet::new(),
            loading: BTreeMap::new(),
            effects: Vec::new(),
        }
    }
}

/// How many partitions the topic has, or will have.
pub(super) fn topic_partitions(image: &ClusterImage, config: &BrokerConfig) -> i32 {
    image
        .topic(TRANSACTION_TOPIC)
        .map_or(config.transactions.log_partitions, |topic| topic.partitions.len() as i32)
}

/// The rest of the broker as the coordinator sees it.
struct Around<'a> {
    image: &'a ClusterImage,
    offsets_partitions: i32,
    producer_ids: Option<&'a mut Range<i64>>,
    ids_used: bool,
}

impl Surroundings for Around<'_> {
    fn has_partition(&self, topic: &str, partition: i32) -> bool {
        self.image.topic(topic).is_some_and(|topic| topic.partition(partition).is_some())
    }

    fn offsets_partition(&self, group_id: &str) -> i32 {
        super::group::partition_for(group_id, self.offsets_partitions)
    }

    fn next_producer_id(&mut self) -> Option<i64> {
        self.ids_used = true;
        self.producer_ids.as_mut()?.next()
    }
}

impl Broker {
    pub(super) fn transaction_now(&self) -> Now {
        Now { monotonic_ms: (self.now_ns / 1_000_000) as i64, wall_ms: self.wall_ms }
    }

    /// Calls the coordinator, and does what it asks for.
    fn with_transactions(
        &mut self,
        io: &mut impl Io,
        call: impl FnOnce(&mut TransactionCoordinator, &mut dyn Surroundings, &mut Vec<Effect>),
    ) {
        let Some(transactions) = &mut self.transactions else { return };
        let mut effects = std::mem::take(&mut transactions.effects);
        let mut around = Around {
            image: &self.image,
            offsets_partitions: super::offsets_partitions(&self.image, &self.config),
            producer_ids: self.controller.as_mut().map(Controller::producer_ids),
            ids_used: false,
        };
        call(&mut transactions.coordinator, &mut around, &mut effects);
        let ids_used = around.ids_used;
        self.carry_out_transactions(io, effects);
        if ids_used {
            self.keep_producer_ids(io);
        }
    }

    pub(super) fn transaction_request(&mut self, io: &mut impl Io, request: Forwarded) {
        let now = self.transaction_now();
        let Some(transactions) = &mut self.transactions else { return };
        let to = ReplyTo(transactions.waiting.insert((request.shard, request.head)) as u64);
        let (api_key, version) = (request.head.api_key, request.head.version);
        let mut handled = Ok(());
        self.with_transactions(io, |coordinator, around, effects| {
            let request = TransactionRequest { api_key, version, body: &request.body, to };
            handled = coordinator.handle(now, request, around, effects);
        });
        if let Err(error) = handled {
            tracing::debug!(%error, api = %api_key, "a transaction request could not be read");
            self.reply_transaction(to, None);
        }
    }

    /// Asks whether an append may be made as part of a transaction; [`Broker::admitted`] hears the answer.
    pub(super) fn ask_admission(&mut self, io: &mut impl Io, admit: Admit) {
        if self.shard != CONTROL_SHARD {
            self.post.mail.push_back((CONTROL_SHARD, Mail::Admit(Box::new(admit))));
            return;
        }
        self.admit(io, admit);
    }

    pub(super) fn admit(&mut self, io: &mut impl Io, admit: Admit) {
        let now = self.transaction_now();
        let Some(topic) = self.image.topic_by_id(admit.topic_id).map(|topic| topic.name.clone()) else {
            return self.post_admitted(io, admit, Err(ErrorCode::UnknownTopicOrPartition));
        };
        let Some(transactions) = &mut self.transactions else { return };
        let admission = Admission {
            transactional_id: admit.transactional_id.clone(),
            producer_id: admit.producer_id,
            producer_epoch: admit.producer_epoch,
            partition: (topic, admit.partition),
            add: admit.add,
        };
        let to = AdmitTo(transactions.admissions.insert(Asking::Append(admit)) as u64);
        self.with_transactions(io, |coordinator, _, effects| coordinator.admit(now, admission, to, effects));
    }

    /// Asks whether offsets may be committed as part of a transaction.
    pub(super) fn admit_offsets(&mut self, io: &mut impl Io, admission: Admission, request: Forwarded) {
        let now = self.transaction_now();
        let Some(transactions) = &mut self.transactions else { return };
        let to = AdmitTo(transactions.admissions.insert(Asking::Offsets(request)) as u64);
        self.with_transactions(io, |coordinator, _, effects| coordinator.admit(now, admission, to, effects));
    }

    fn post_admitted(&mut self, io: &mut impl Io, admit: Admit, result: Result<(), ErrorCode>) {
        let shard = admit.shard;
        let admitted = Admitted {
            topic_id: admit.topic_id,
            partition: admit.partition,
            producer_id: admit.producer_id,
            producer_epoch: admit.producer_epoch,
            result,
        };
        if shard == self.shard {
            self.admitted(io, admitted);
        } else {
            self.post.mail.push_back((shard, Mail::Admitted(admitted)));
        }
    }

    /// Does what the coordinator asks for, in order; an append refused at once is reported at once.
    fn carry_out_transactions(&mut self, io: &mut impl Io, mut effects: Vec<Effect>) {
        while !effects.is_empty() {
            let mut failed = Vec::new();
            for effect in effects.drain(..) {
                match effect {
                    Effect::Reply { to, body } => self.reply_transaction(to, Some(body)),
                    Effect::Admitted { to, result } => {
                        let admissions = self.transactions.as_mut().map(|all| &mut all.admissions);
                        match admissions.and_then(|all| all.try_remove(to.0 as usize)) {
                            Some(Asking::Append(admit)) => self.post_admitted(io, admit, result),
                            Some(Asking::Offsets(request)) => {
                                txn_offset_commit::admitted(self, io, request, result);
                            }
                            None => {}
                        }
                    }
                    Effect::Append { partition, append, batch, durable } => {
                        if let Err(error) = self.append_transaction(io, partition, append, &batch, durable) {
                            failed.push((append, error));
                        }
                    }
                    Effect::Mark { of, marker, partitions } => self.mark(io, of, marker, partitions),
                }
            }
            let now = self.transaction_now();
            let Some(transactions) = &mut self.transactions else { return };
            for (append, error) in failed {
                transactions.coordinator.appended(now, append, Err(error), &mut effects);
            }
        }
        if let Some(transactions) = &mut self.transactions {
            transactions.effects = effects;
        }
    }

    fn reply_transaction(&mut self, to: ReplyTo, body: Option<Vec<u8>>) {
        let Some(transactions) = &mut self.transactions else { return };
        if let Some((shard, head)) = transactions.waiting.try_remove(to.0 as usize) {
            let response = body.map(|body| Response::of_body(&head, &body));
            self.respond(shard, head.id, response);
        }
    }

    fn append_transaction(
        &mut self,
        io: &mut impl Io,
        partition: i32,
        append: AppendId,
        batch: &[u8],
        durable: bool,
    ) -> Result<(), ErrorCode> {
        let topic_id = self.image.topic(TRANSACTION_TOPIC).map(|topic| topic.id);
        let partition = topic_id.and_then(|topic_id| self.partitions.find(topic_id, partition));
        let Some(partition) = partition else { return Err(ErrorCode::NotCoordinator) };
        let options = AppendOptions {
            leader_epoch: partition.leader_epoch,
            level: if durable { AckLevel::Durable } else { AckLevel::Written },
            log_append_time_ms: None,
            wall_ms: self.wall_ms,
            coordinator: true,
            transaction_version: 0,
        };
        match self.storage.append(io, partition.log, batch, options) {
            Ok(appended) => {
                let to = WaiterTo::Transactions(append.0);
                partition.wait(Waiter { last_offset: appended.last_offset, to, answer: Answer::Marked });
                Ok(())
            }
            Err(AppendError::Busy) => Err(ErrorCode::CoordinatorNotAvailable),
            Err(AppendError::TooLarge | AppendError::Invalid) => Err(ErrorCode::UnknownServerError),
            Err(_) => Err(ErrorCode::NotCoordinator),
        }
    }

    pub(super) fn transaction_appended(
        &mut self,
        io: &mut impl Io,
        append: u64,
        result: Result<(), ErrorCode>,
    ) {
        let now = self.transaction_now();
        self.with_transactions(io, |coordinator, _, effects| {
            coordinator.appended(now, AppendId(append), result, effects);
        });
    }

    // ---- markers ----

    /// Has a marker written to each partition, on whichever shard it is.
    fn mark(&mut self, io: &mut impl Io, of: MarkersOf, marker: Marker, partitions: Vec<TopicPartition>) {
        let mut layout = Layout::default();
        let mut queries = Vec::with_capacity(partitions.len());
        let mut last: Option<&Arc<str>> = None;
        for (name, partition) in &partitions {
            let topic_id = self.image.topic(name).map_or(Uuid::ZERO, |topic| topic.id);
            if last != Some(name) {
                layout.push_topic(name.clone(), topic_id);
                last = Some(name);
            }
            layout.push_partition(*partition);
            queries.push((topic_id, *partition));
        }
        let deadline_ns = io.now() + MARKERS_TIMEOUT_NS;
        let gather = self.open_gather(Head::of_nobody(), layout, Kind::Markers(of), deadline_ns);
        for (index, (topic_id, partition)) in (0..).zip(queries) {
            let query = Query::WriteMarker(marker);
            self.dispatch(io, Task { gather, index, topic_id, partition, query });
        }
    }

    /// All markers of a transaction are answered, or took too long.
    pub(super) fn marked(&mut self, io: &mut impl Io, of: &MarkersOf, gather: Gather) {
        let now = self.transaction_now();
        let mut answers = gather.answers.into_iter();
        let mut results = Vec::new();
        for (topic, _, partitions) in gather.layout.topics() {
            for (partition, answer) in partitions.iter().zip(&mut answers) {
                let result = match answer {
                    Some(Answer::Marked) => Ok(()),
                    Some(Answer::Error(error)) => Err(error),
                    _ => Err(ErrorCode::RequestTimedOut),
                };
                results.push(((topic.name.clone(), *partition), result));
            }
        }
        self.with_transactions(io, |coordinator, _, effects| coordinator.marked(now, of, results, effects));
    }

    // ---- time ----

    pub(super) fn transactions_deadline_ns(&self) -> u64 {
        let Some(transactions) = &self.transactions else { return u64::MAX };
        if !transactions.loading.is_empty() {
            return self.next_tick_ns;
        }
        let deadline_ms = transactions.coordinator.next_deadline_ms();
        deadline_ms.map_or(u64::MAX, |ms| (ms.max(0) as u64).saturating_mul(1_000_000))
    }

    pub(super) fn run_transaction_timers(&mut self, io: &mut impl Io) {
        let now = self.transaction_now();
        let Some(transactions) = &self.transactions else { return };
        if transactions.coordinator.next_deadline_ms().is_some_and(|at| at <= now.monotonic_ms) {
            self.with_transactions(io, |coordinator, around, effects| {
                coordinator.on_timer(now, around, effects);
            });
        }
    }

    // ---- the topic ----

    /// New partitions of the topic are loaded like old ones: they are empty.
    pub(super) fn transaction_topic_changed(&mut self, topic: &Topic) {
        let Some(transactions) = &mut self.transactions else { return };
        if &*topic.name != TRANSACTION_TOPIC {
            return;
        }
        transactions.coordinator.set_topic_partitions(topic.partitions.len() as i32);
        for partition in self.partitions.iter().filter(|partition| partition.topic_id == topic.id) {
            let index = partition.partition;
            if !transactions.owned.insert(index) {
                transactions.coordinator.set_epoch(index, partition.leader_epoch);
                continue;
            }
            let start = self.storage.log_start_offset(partition.log).unwrap_or(0);
            transactions.coordinator.load_begin(index, partition.leader_epoch);
            transactions.loading.insert(index, start);
        }
    }

    pub(super) fn transaction_topic_deleted(&mut self, io: &mut impl Io, topic: &Topic) {
        if &*topic.name != TRANSACTION_TOPIC {
            return;
        }
        let Some(transactions) = &mut self.transactions else { return };
        transactions.owned.clear();
        transactions.loading.clear();
        let partitions = topic.partitions.len() as i32;
        self.with_transactions(io, |coordinator, _, effects| {
            (0..partitions).for_each(|partition| coordinator.unload(partition, effects));
        });
    }

    /// One bounded step of loading each partition.
    pub(super) fn load_transactions(&mut self, io: &mut impl Io) {
        let Some(transactions) = &self.transactions else { return };
        let loading: Vec<(i32, i64)> =
            transactions.loading.iter().map(|(&partition, &next)| (partition, next)).collect();
        let now = self.transaction_now();
        for (partition, next) in loading {
            match self.read_internal(io, TRANSACTION_TOPIC, partition, next) {
                Load::More { bytes, next } => {
                    let Some(transactions) = &mut self.transactions else { return };
                    transactions.coordinator.load_batch(now, partition, &bytes);
                    transactions.loading.insert(partition, next);
                }
                Load::Wait => {}
                Load::End => {
                    let Some(transactions) = &mut self.transactions else { return };
                    transactions.loading.remove(&partition);
                    self.with_transactions(io, |coordinator, _, effects| {
                        coordinator.load_end(now, partition, effects);
                    });
                }
            }
        }
    }
}
