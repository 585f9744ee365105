//! The group coordinator in its shard: requests in, appends to `__consumer_offsets` and answers out, loading at start.
//!
//! The coordinator itself ([`group::GroupCoordinator`]) knows neither logs nor connections; this carries out its effects
//! in order and reports back what became of each append.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use slab::Slab;

use super::group::{
    ASSIGNORS, AppendId, ConsumerConfig, ConsumerOverrides, DeletedTopic, Effect, GroupConfig,
    GroupCoordinator, GroupRequest, MigrationPolicy, Now, OFFSETS_TOPIC, ReplyTo, TopicLookup,
};
use super::handlers::write_txn_markers;
use super::mail::{Answer, GatherRef};
use super::partition::{Waiter, WaiterTo};
use super::request::{Forwarded, Head, Response};
use super::transaction::{Marker, TRANSACTION_TOPIC};
use super::{Broker, features};
use crate::config::BrokerConfig;
use crate::io::Io;
use crate::metadata::{ClusterImage, ResourceKind, Topic};
use crate::protocol::{ApiKey, ErrorCode, Uuid};
use crate::record::batch::batches;
use crate::storage::{AckLevel, AppendError, AppendOptions, ReadError, ReadOutcome, ReadRange};

/// Bytes of a log read in one step of loading.
const LOAD_STEP_BYTES: usize = 1024 * 1024;
/// Bytes that loading goes through in one turn: the shard's clients wait so long.
const LOAD_TURN_BYTES: usize = 2 * LOAD_STEP_BYTES;
/// Timers are run this often at most: theirs are milliseconds.
const TIMERS_NS: u64 = 1_000_000;

pub struct Coordinator {
    groups: GroupCoordinator,
    waiting: Slab<(usize, Head)>,
    /// Who waits for a marker.
    marking: Slab<(GatherRef, u32)>,
    /// Partitions that are served or being loaded.
    owned: BTreeSet<i32>,
    /// Partitions being loaded, and how far.
    loading: BTreeMap<i32, i64>,
    /// Loading has only stopped for this turn, and waits for nothing.
    load_more: bool,
    effects: Vec<Effect>,
    seed: u128,
    /// The revision of the image in which a topic was last created.
    topics_created: u64,
}

impl Coordinator {
    pub fn new(config: &BrokerConfig, image: &ClusterImage, seed: u128) -> Coordinator {
        let offsets_partitions = super::offsets_partitions(image, config);
        Coordinator {
            groups: GroupCoordinator::new(group_config(config, image, seed), offsets_partitions),
            seed,
            // Groups may have missed the last ones, however long ago they were created.
            topics_created: image.revision,
            waiting: Slab::new(),
            marking: Slab::new(),
            owned: BTreeSet::new(),
            loading: BTreeMap::new(),
            load_more: false,
            effects: Vec::new(),
        }
    }
}

fn group_config(config: &BrokerConfig, image: &ClusterImage, seed: u128) -> GroupConfig {
    let groups = &config.groups;
    let consumer = &groups.consumer;
    let assignors = ASSIGNORS.iter().copied();
    let assignor = |name: &String| assignors.clone().find(|known| *known == name.as_str());
    GroupConfig {
        min_session_timeout_ms: groups.min_session_timeout_ms,
        max_session_timeout_ms: groups.max_session_timeout_ms,
        initial_rebalance_delay_ms: clamp_i32(groups.initial_rebalance_delay_ms),
        max_size: clamp_i32(groups.max_size as u64),
        offset_metadata_max_bytes: clamp_i32(groups.offset_metadata_max_bytes as u64),
        offset_topic_ids: groups.offsets_topic_ids,
        offsets_retention_ms: groups.offsets_retention_ms,
        offsets_retention_check_interval_ms: groups.offsets_retention_check_interval_ms as i64,
        durable: config.ack_levels.all == crate::config::AckLevel::Durable,
        member_id_seed: seed,
        consumer: ConsumerConfig {
            is_served: groups.consumer_protocol && features::has_consumer_groups(image),
            session_timeout_ms: consumer.session_timeout.default_ms,
            heartbeat_interval_ms: consumer.heartbeat_interval.default_ms,
            assignment_interval_ms: consumer.assignment_interval.default_ms,
            max_size: consumer.max_size,
            assignors: consumer.assignors.iter().filter_map(assignor).collect(),
            migration_policy: match consumer.migration_policy.as_str() {
                "UPGRADE" => MigrationPolicy::Upgrade,
                "DOWNGRADE" => MigrationPolicy::Downgrade,
                "DISABLED" => MigrationPolicy::Disabled,
                _ => MigrationPolicy::Bidirectional,
            },
            overrides: group_overrides(image),
            ..ConsumerConfig::default()
        },
        ..GroupConfig::default()
    }
}

fn group_overrides(image: &ClusterImage) -> BTreeMap<String, ConsumerOverrides> {
    let overrides = image.configured(ResourceKind::Group).map(|(group, own)| {
        let number = |name: &str| own.get(name).and_then(|text| text.trim().parse().ok());
        let overrides = ConsumerOverrides {
            session_timeout_ms: number("consumer.session.timeout.ms"),
            heartbeat_interval_ms: number("consumer.heartbeat.interval.ms"),
            assignment_interval_ms: number("consumer.assignment.interval.ms"),
        };
        (group.clone(), overrides)
    });
    overrides.collect()
}

fn clamp_i32(value: u64) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Topics as the coordinator asks for them.
struct Topics<'a> {
    image: &'a ClusterImage,
    created: u64,
}

impl TopicLookup for Topics<'_> {
    fn topic_id(&self, name: &str) -> Option<Uuid> {
        self.image.topic(name).map(|topic| topic.id)
    }

    fn topic_name(&self, id: Uuid) -> Option<Arc<str>> {
        self.image.topic_by_id(id).map(|topic| topic.name.clone())
    }

    fn partition_count(&self, name: &str) -> Option<i32> {
        self.image.topic(name).map(|topic| topic.partitions.len() as i32)
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.image.topics().map(|topic| topic.name.clone()).collect()
    }

    fn racks(&self, name: &str, partition: i32) -> Vec<String> {
        let replicas = self.image.partition(name, partition).map(|(_, partition)| &partition.replicas);
        let rack = |id: &i32| self.image.brokers.get(id).and_then(|broker| broker.rack.clone());
        let mut racks: Vec<String> = replicas.into_iter().flatten().filter_map(rack).collect();
        racks.sort_unstable();
        racks
    }

    fn version(&self) -> u64 {
        self.image.revision
    }

    fn created_version(&self) -> u64 {
        self.created
    }
}

impl Broker {
    fn group_now(&self) -> Now {
        Now { monotonic_ms: (self.now_ns / 1_000_000) as i64, wall_ms: self.wall_ms }
    }

    /// `admitted`: what the transaction coordinator says to offsets of a transaction.
    pub(super) fn group_request(
        &mut self,
        io: &mut impl Io,
        request: Forwarded,
        admitted: Result<(), ErrorCode>,
    ) {
        let now = self.group_now();
        let Some(coordinator) = &mut self.coordinator else { return };
        let to = ReplyTo(coordinator.waiting.insert((request.shard, request.head)) as u64);
        let group_request = GroupRequest {
            api_key: request.head.api_key,
            version: request.head.version,
            client_id: request.client_id.as_deref().unwrap_or(""),
            client_host: &request.host,
            body: &request.body,
            to,
        };
        let mut effects = std::mem::take(&mut coordinator.effects);
        let topics = Topics { image: &self.image, created: coordinator.topics_created };
        let groups = &mut coordinator.groups;
        let handled = match request.head.api_key {
            ApiKey::TxnOffsetCommit => {
                groups.commit_in_transaction(now, group_request, admitted, &topics, &mut effects)
            }
            _ => groups.handle(now, group_request, &topics, &mut effects),
        };
        self.carry_out(io, effects);
        if let Err(error) = handled {
            tracing::debug!(%error, api = %request.head.api_key, "a group request could not be read");
            self.reply_group(to, None);
        }
    }

    /// Does what the coordinator asks for, in order; an append refused at once is reported at once.
    fn carry_out(&mut self, io: &mut impl Io, mut effects: Vec<Effect>) {
        while !effects.is_empty() {
            let mut failed = Vec::new();
            for effect in effects.drain(..) {
                match effect {
                    Effect::Reply { to, body } => self.reply_group(to, Some(body)),
                    Effect::Append { partition, append, batch, durable } => {
                        let batch = Some(batch);
                        if let Err(error) = self.append_offsets(io, partition, append, batch, 0, durable) {
                            failed.push((append, error));
                        }
                    }
                    Effect::AppendMarker { partition, append, marker, durable } => {
                        let batch = write_txn_markers::batch(&marker, self.wall_ms);
                        let version = marker.transaction_version;
                        if let Err(error) =
                            self.append_offsets(io, partition, append, batch, version, durable)
                        {
                            failed.push((append, error));
                        }
                    }
                    Effect::Marked { to, result } => self.offsets_marked(io, to, result),
                }
            }
            let now = self.group_now();
            let Some(coordinator) = &mut self.coordinator else { return };
            for (append, error) in failed {
                coordinator.groups.appended(now, append, Err(error), &mut effects);
            }
        }
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.effects = effects;
        }
    }

    fn reply_group(&mut self, to: ReplyTo, body: Option<Vec<u8>>) {
        let Some(coordinator) = &mut self.coordinator else { return };
        if let Some((shard, head)) = coordinator.waiting.try_remove(to.0 as usize) {
            let response = body.map(|body| Response::of_body(&head, &body));
            self.respond(shard, head.id, response);
        }
    }

    fn append_offsets(
        &mut self,
        io: &mut impl Io,
        partition: i32,
        append: AppendId,
        batch: Option<Vec<u8>>,
        transaction_version: i16,
        durable: bool,
    ) -> Result<(), ErrorCode> {
        let Some(batch) = batch else { return Err(ErrorCode::UnknownServerError) };
        let topic_id = self.image.topic(OFFSETS_TOPIC).map(|topic| topic.id);
        let partition = topic_id.and_then(|topic_id| self.partitions.find(topic_id, partition));
        let Some(partition) = partition else { return Err(ErrorCode::NotCoordinator) };
        let options = AppendOptions {
            leader_epoch: partition.leader_epoch,
            level: if durable { AckLevel::Durable } else { AckLevel::Written },
            log_append_time_ms: None,
            wall_ms: self.wall_ms,
            coordinator: true,
            transaction_version,
        };
        match self.storage.append(io, partition.log, &batch, options) {
            Ok(appended) => {
                let answer = Answer::Produced {
                    base_offset: appended.base_offset,
                    log_append_time_ms: -1,
                    log_start_offset: -1,
                };
                let to = WaiterTo::Coordinator(append.0);
                partition.wait(Waiter { last_offset: appended.last_offset, to, answer });
                Ok(())
            }
            Err(AppendError::Busy) => Err(ErrorCode::CoordinatorNotAvailable),
            Err(AppendError::InvalidProducerEpoch) => Err(ErrorCode::InvalidProducerEpoch),
            Err(AppendError::CoordinatorFenced) => Err(ErrorCode::TransactionCoordinatorFenced),
            Err(_) => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Has a transaction ended in a partition of the offsets topic; its answer goes to the gather.
    pub(super) fn mark_offsets(
        &mut self,
        io: &mut impl Io,
        partition: i32,
        marker: Marker,
        gather: GatherRef,
        index: u32,
    ) {
        let now = self.group_now();
        let Some(coordinator) = &mut self.coordinator else { return };
        let to = ReplyTo(coordinator.marking.insert((gather, index)) as u64);
        let mut effects = std::mem::take(&mut coordinator.effects);
        coordinator.groups.end_transaction(now, partition, marker, to, &mut effects);
        self.carry_out(io, effects);
    }

    fn offsets_marked(&mut self, io: &mut impl Io, to: ReplyTo, result: Result<(), ErrorCode>) {
        let marking = self.coordinator.as_mut().map(|coordinator| &mut coordinator.marking);
        let Some((gather, index)) = marking.and_then(|all| all.try_remove(to.0 as usize)) else { return };
        let answer = match result {
            Ok(()) => Answer::Marked,
            Err(ErrorCode::NotCoordinator) => Answer::Error(ErrorCode::NotLeaderOrFollower),
            Err(ErrorCode::CoordinatorNotAvailable) => Answer::Error(ErrorCode::RequestTimedOut),
            Err(error) => Answer::Error(error),
        };
        self.answer(io, gather, index, answer);
    }

    pub(super) fn coordinator_appended(
        &mut self,
        io: &mut impl Io,
        append: u64,
        result: Result<i64, ErrorCode>,
    ) {
        let now = self.group_now();
        let Some(coordinator) = &mut self.coordinator else { return };
        let mut effects = std::mem::take(&mut coordinator.effects);
        coordinator.groups.appended(now, AppendId(append), result, &mut effects);
        self.carry_out(io, effects);
    }

    /// When a timer of either coordinator is due, or there is something to load.
    pub(super) fn coordinators_deadline_ns(&self) -> u64 {
        if self.loads_more() {
            return self.now_ns;
        }
        self.groups_deadline_ns().min(self.transactions_deadline_ns()).max(self.next_timers_ns)
    }

    /// The timers of both coordinators that are due.
    pub(super) fn run_timers(&mut self, io: &mut impl Io) {
        if self.now_ns >= self.next_timers_ns {
            self.next_timers_ns = self.now_ns + TIMERS_NS;
            self.run_group_timers(io);
            self.run_transaction_timers(io);
        }
    }

    fn groups_deadline_ns(&self) -> u64 {
        let Some(coordinator) = &self.coordinator else { return u64::MAX };
        if !coordinator.loading.is_empty() {
            return self.next_tick_ns;
        }
        coordinator
            .groups
            .next_deadline_ms()
            .map_or(u64::MAX, |ms| (ms.max(0) as u64).saturating_mul(1_000_000))
    }

    fn run_group_timers(&mut self, io: &mut impl Io) {
        let now = self.group_now();
        let Some(coordinator) = &mut self.coordinator else { return };
        if coordinator.groups.next_deadline_ms().is_some_and(|at| at <= now.monotonic_ms) {
            let mut effects = std::mem::take(&mut coordinator.effects);
            let topics = Topics { image: &self.image, created: coordinator.topics_created };
            coordinator.groups.on_timer(now, &topics, &mut effects);
            self.carry_out(io, effects);
        }
    }

    /// There is a new image.
    pub(super) fn coordinator_image_changed(&mut self, old: &ClusterImage) {
        let Some(coordinator) = &mut self.coordinator else { return };
        if self.image.topics().any(|topic| old.topic_by_id(topic.id).is_none()) {
            coordinator.topics_created = self.image.revision;
        }
        let image = &self.image;
        let same = old.broker_configs == image.broker_configs
            && old.resource_configs == image.resource_configs
            && old.features == image.features;
        if !same {
            coordinator.groups.reconfigure(group_config(&self.config, &self.image, coordinator.seed));
        }
    }

    /// Marks the partitions of this shard as loading; steps do the rest while the broker serves.
    pub(super) fn load_coordinators(&mut self) {
        let image = self.image.clone();
        if let Some(topic) = image.topic(OFFSETS_TOPIC) {
            self.coordinator_topic_changed(topic);
        }
        if let Some(topic) = image.topic(TRANSACTION_TOPIC) {
            self.transaction_topic_changed(topic);
        }
    }

    /// New partitions of the offsets topic are loaded like old ones: they are empty.
    pub(super) fn coordinator_topic_changed(&mut self, topic: &Topic) {
        let Some(coordinator) = &mut self.coordinator else { return };
        if &*topic.name != OFFSETS_TOPIC {
            return;
        }
        for partition in self.partitions.iter().filter(|partition| partition.topic_id == topic.id) {
            if !coordinator.owned.insert(partition.partition) {
                continue;
            }
            let start = self.storage.log_start_offset(partition.log).unwrap_or(0);
            coordinator.groups.load_begin(partition.partition);
            coordinator.loading.insert(partition.partition, start);
        }
    }

    pub(super) fn coordinator_topic_deleted(&mut self, io: &mut impl Io, topic: &Topic) {
        let now = self.group_now();
        let Some(coordinator) = &mut self.coordinator else { return };
        let mut effects = std::mem::take(&mut coordinator.effects);
        if &*topic.name == OFFSETS_TOPIC {
            for partition in 0..topic.partitions.len() as i32 {
                coordinator.owned.remove(&partition);
                coordinator.loading.remove(&partition);
                coordinator.groups.unload(partition, &mut effects);
            }
        } else {
            let deleted = DeletedTopic { name: topic.name.clone(), id: topic.id };
            coordinator.groups.topics_deleted(now, &[deleted], &mut effects);
        }
        self.carry_out(io, effects);
    }

    /// Whether loading goes on in the next turn, without a wait for the disk.
    pub(super) fn loads_more(&self) -> bool {
        self.coordinator.as_ref().is_some_and(|coordinator| coordinator.load_more)
    }

    /// One bounded step of loading, the first partitions first.
    pub(super) fn load_step(&mut self, io: &mut impl Io) {
        let Some(coordinator) = &mut self.coordinator else { return };
        coordinator.load_more = false;
        let mut left = LOAD_TURN_BYTES;
        let loading: Vec<(i32, i64)> =
            coordinator.loading.iter().map(|(&partition, &next)| (partition, next)).collect();
        for (partition, next) in loading {
            match self.read_internal(io, OFFSETS_TOPIC, partition, next) {
                Load::More { bytes, next } => {
                    let now = self.group_now();
                    let Some(coordinator) = &mut self.coordinator else { return };
                    coordinator.groups.load_batch(now, partition, &bytes);
                    coordinator.loading.insert(partition, next);
                    left = left.saturating_sub(bytes.len());
                    if left == 0 {
                        coordinator.load_more = true;
                        return;
                    }
                }
                Load::Wait => {}
                Load::End => self.load_end(io, partition),
            }
        }
    }

    /// The next records of an internal topic that a coordinator loads.
    pub(super) fn read_internal(&mut self, io: &mut impl Io, topic: &str, partition: i32, next: i64) -> Load {
        let Some(topic_id) = self.image.topic(topic).map(|topic| topic.id) else { return Load::End };
        let Some(log) = self.partitions.find(topic_id, partition).map(|partition| partition.log) else {
            return Load::End;
        };
        let end_offset = self.storage.high_watermark(log).unwrap_or(0);
        let mut slices = Vec::new();
        let range = ReadRange { offset: next, max_bytes: LOAD_STEP_BYTES, at_least_one: true, end_offset };
        match self.storage.read(io, log, range, &mut slices) {
            Ok(ReadOutcome::Pending) | Err(ReadError::NoMemory) => return Load::Wait,
            Ok(ReadOutcome::Done { bytes: 0, .. }) => return Load::End,
            Ok(ReadOutcome::Done { .. }) => {}
            Err(error) => {
                // Serving what was read so far would hand out what is old: the coordinator stays unavailable.
                tracing::error!(topic, partition, next, %error, "an internal topic cannot be loaded");
                return Load::Wait;
            }
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut whole = batches(&bytes);
        let last = whole.by_ref().map_while(Result::ok).last().map(|batch| batch.header().next_offset());
        let consumed = whole.consumed();
        let mut bytes = bytes;
        bytes.truncate(consumed);
        match last.filter(|&last| last > next) {
            Some(next) => Load::More { bytes, next },
            None => Load::End,
        }
    }

    fn load_end(&mut self, io: &mut impl Io, partition: i32) {
        let now = self.group_now();
        let Some(coordinator) = &mut self.coordinator else { return };
        coordinator.loading.remove(&partition);
        let mut effects = std::mem::take(&mut coordinator.effects);
        coordinator.groups.load_end(now, partition, &mut effects);
        self.carry_out(io, effects);
    }
}

/// One step of loading.
pub(super) enum Load {
    /// Whole batches, and the offset behind them.
    More {
        bytes: Vec<u8>,
        next: i64,
    },
    Wait,
    End,
}
