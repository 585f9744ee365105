//! The coordinator: the partitions of `__consumer_offsets` it owns, and the way of a request through them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};

use crate::protocol::{ApiKey, DecodeError, DecodeErrorKind, ErrorCode};

use super::appends::{Appends, Pending, Then};
use super::classic::State;
use super::entry::Group;
use super::handlers;
use super::loading::Loader;
use super::member::Waiting;
use super::timers::{Payload, TimerKey, Timers};
use super::transactions::Transactions;
use super::turn::{MemberIds, Turn, Usage};
use super::{
    AppendId, DeletedTopic, Effect, GroupConfig, GroupRequest, GroupStats, Now, TopicLookup, partition_for,
    transactions,
};

/// Deadlines carried out in one call; the rest is due at once again.
const TIMERS_A_CALL: usize = 10_000;

/// One partition of the offsets topic.
#[derive(Default)]
pub struct Partition {
    pub loading: bool,
    pub groups: BTreeMap<Arc<str>, Group>,
    pub transactions: Transactions,
}

/// The groups of one shard.
///
/// Order of calls: a partition is `load_begin`, any number of `load_batch`, `load_end` before its groups are served, and
/// `unload` when it goes away. After `handle`, `appended`, `on_timer`, `load_end`, `unload` and `topics_deleted` the shard
/// carries out the effects in order, and asks `next_deadline_ms` anew.
pub struct GroupCoordinator {
    config: GroupConfig,
    offsets_partitions: i32,
    partitions: BTreeMap<i32, Partition>,
    timers: Timers,
    appends: Appends,
    member_ids: MemberIds,
    usage: Usage,
    loader: Loader,
}

impl GroupRequest<'_> {
    pub(super) fn waiting(&self) -> Waiting {
        Waiting { to: self.to, version: self.version }
    }
}

impl GroupCoordinator {
    pub fn new(config: GroupConfig, offsets_partitions: i32) -> Self {
        GroupCoordinator {
            offsets_partitions,
            partitions: BTreeMap::new(),
            timers: Timers::default(),
            appends: Appends::default(),
            member_ids: MemberIds::new(config.member_id_seed),
            usage: Usage::default(),
            loader: Loader::default(),
            config,
        }
    }

    /// An error means that the body is not what its header says: the connection has to be closed, as Kafka does.
    pub fn handle(
        &mut self,
        now: Now,
        request: GroupRequest<'_>,
        topics: &dyn TopicLookup,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        match request.api_key {
            ApiKey::JoinGroup => handlers::join_group::handle(self, now, &request, topics, out),
            ApiKey::SyncGroup => handlers::sync_group::handle(self, now, &request, topics, out),
            ApiKey::Heartbeat => handlers::heartbeat::handle(self, now, &request, out),
            ApiKey::LeaveGroup => handlers::leave_group::handle(self, now, &request, topics, out),
            ApiKey::ConsumerGroupHeartbeat => {
                handlers::consumer_group_heartbeat::handle(self, now, &request, topics, out)
            }
            ApiKey::ConsumerGroupDescribe => {
                handlers::consumer_group_describe::handle(self, now, &request, topics, out)
            }
            ApiKey::OffsetCommit => handlers::offset_commit::handle(self, now, &request, topics, out),
            ApiKey::OffsetFetch => handlers::offset_fetch::handle(self, now, &request, topics, out),
            ApiKey::OffsetDelete => handlers::offset_delete::handle(self, now, &request, topics, out),
            ApiKey::DescribeGroups => handlers::describe_groups::handle(self, &request, out),
            ApiKey::ListGroups => handlers::list_groups::handle(self, &request, out),
            ApiKey::DeleteGroups => handlers::delete_groups::handle(self, now, &request, out),
            other => {
                let kind = DecodeErrorKind::UnknownApiKey(other.code());
                Err(DecodeError { field: "group request", kind })
            }
        }
    }

    /// TxnOffsetCommit; `admitted` is what the transaction coordinator says to it.
    pub fn commit_in_transaction(
        &mut self,
        now: Now,
        request: GroupRequest<'_>,
        admitted: Result<(), ErrorCode>,
        topics: &dyn TopicLookup,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        handlers::txn_offset_commit::handle(self, now, &request, admitted, topics, out)
    }

    /// An append is as durable as was asked for, its first record at this offset; or it has failed.
    pub fn appended(
        &mut self,
        now: Now,
        append: AppendId,
        result: Result<i64, ErrorCode>,
        out: &mut Vec<Effect>,
    ) {
        let Some(mut pending) = self.appends.take(append) else { return };
        let index = pending.partition;
        let then = std::mem::replace(&mut pending.then, Then::Nothing);
        if let Some((mut turn, partition)) = self.turn(now, index, out) {
            match pending.transaction {
                Some(of) => turn.transaction_appended(partition, &pending, of, append, result),
                None => turn.offsets_appended(partition, &pending, append, result),
            }
            turn.groups_deleted(partition, &pending, result);
            turn.go_on(partition, append, then, result);
        }
        transactions::tell_ended(&pending, result.map(|_| ()), out);
        self.appends.settle(&pending, result.err(), out);
    }

    pub fn load_begin(&mut self, partition: i32) {
        debug_assert!(!self.partitions.contains_key(&partition), "partition {partition} is there already");
        self.partitions.insert(partition, Partition { loading: true, ..Partition::default() });
    }

    /// Whole record batches of the partition, in the order of the log.
    pub fn load_batch(&mut self, now: Now, partition: i32, batches: &[u8]) {
        if let Some(partition) = self.partitions.get_mut(&partition).filter(|partition| partition.loading) {
            self.loader.load(partition, batches, now.wall_ms);
        }
    }

    pub fn load_end(&mut self, now: Now, partition: i32, out: &mut Vec<Effect>) {
        let unreadable = std::mem::take(&mut self.loader.unreadable);
        if unreadable > 0 {
            warn!(partition, unreadable, "records of the offsets topic that cannot be read");
        }
        self.loader = Loader::default();
        let Some((mut turn, loaded)) = self.turn(now, partition, out) else { return };
        if !std::mem::replace(&mut loaded.loading, false) {
            return;
        }
        info!(partition, groups = loaded.groups.len(), "groups loaded");
        turn.usage.groups += loaded.groups.len();
        for group in loaded.groups.values_mut() {
            turn.group_loaded(group);
        }
        turn.schedule_cleanup(turn.config.offsets_retention_check_interval_ms, Payload::None);
    }

    /// The partition is another's now: who waits is told, and nothing is kept.
    pub fn unload(&mut self, partition: i32, out: &mut Vec<Effect>) {
        let Some(mut unloaded) = self.partitions.remove(&partition) else { return };
        self.timers.cancel_partition(partition);
        let moved = ErrorCode::NotCoordinator;
        let now = Now { monotonic_ms: 0, wall_ms: 0 };
        let (mut turn, _) = self.parts(now, partition, out);
        if !unloaded.loading {
            turn.usage.groups -= unloaded.groups.len();
        }
        for group in unloaded.groups.values_mut() {
            turn.usage.bytes -= group.accounted;
            for id in group.classic.member_ids() {
                if let Some(waiting) = group.classic.take_awaiting_join(&id) {
                    turn.fail_join(waiting, &id, moved);
                }
                if let Some(waiting) = group.classic.take_awaiting_sync(&id) {
                    turn.fail_sync(waiting, moved);
                }
            }
        }
        for pending in self.appends.take_partition(partition) {
            transactions::tell_ended(&pending, Err(moved), out);
            self.appends.settle(&pending, Some(moved), out);
        }
    }

    pub fn topics_deleted(&mut self, now: Now, topics: &[DeletedTopic], out: &mut Vec<Effect>) {
        let topics: BTreeMap<&str, &DeletedTopic> =
            topics.iter().map(|topic| (&*topic.name, topic)).collect();
        let indexes: Vec<i32> = self.partitions.keys().copied().collect();
        for index in indexes {
            let Some((mut turn, partition)) = self.turn(now, index, out) else { continue };
            if !partition.loading {
                partition.groups.values_mut().for_each(|group| turn.forget_topics(group, &topics));
            }
        }
    }

    /// Monotonic.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.timers.next_deadline_ms()
    }

    /// Carries out what is due.
    pub fn on_timer(&mut self, now: Now, topics: &dyn TopicLookup, out: &mut Vec<Effect>) {
        let mark = self.timers.mark();
        for _ in 0..TIMERS_A_CALL {
            let Some((key, payload)) = self.timers.pop_due(now.monotonic_ms, mark) else { return };
            self.expire(now, key, payload, topics, out);
        }
    }

    fn expire(
        &mut self,
        now: Now,
        key: TimerKey,
        payload: Payload,
        topics: &dyn TopicLookup,
        out: &mut Vec<Effect>,
    ) {
        let Some((mut turn, partition)) = self.turn(now, key.partition(), out) else { return };
        let Some(id) = key.group() else { return turn.clean_up(partition, payload) };
        let Some(group) = partition.groups.get_mut(id) else { return };
        if group.consumer.is_some() {
            turn.consumer_expired(group, &key, &payload, topics);
        } else {
            match (&key, payload) {
                (TimerKey::Heartbeat { member, .. }, _) => drop(turn.heartbeat_expired(group, member)),
                (TimerKey::Sync { .. }, Payload::Generation(generation)) => {
                    turn.sync_expired(group, generation);
                }
                (TimerKey::Join { .. }, payload) => drop(turn.join_expired(group, &payload)),
                // Of members that spoke the newer protocol.
                _ => {}
            }
        }
        turn.account(group);
    }

    /// The settings have changed.
    pub fn reconfigure(&mut self, config: GroupConfig) {
        self.config = config;
    }

    pub fn stats(&self) -> GroupStats {
        let groups = || self.partitions.values().flat_map(|partition| partition.groups.values());
        GroupStats {
            groups: self.usage.groups,
            members: groups().map(Group::members).sum(),
            offsets: groups().map(|group| group.offsets.len()).sum(),
            bytes: self.usage.bytes,
            appends_pending: self.appends.len(),
        }
    }

    #[cfg(test)]
    pub(super) fn has_timer(&self, key: &TimerKey) -> bool {
        self.timers.is_set(key)
    }

    // For the handlers

    pub(super) fn config(&self) -> &GroupConfig {
        &self.config
    }

    pub(super) fn appends(&mut self) -> &mut Appends {
        &mut self.appends
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = &Partition> + Clone {
        self.partitions.values()
    }

    /// The partition of a group, to look at.
    pub(super) fn active(&self, group_id: &str) -> Result<&Partition, ErrorCode> {
        match self.partitions.get(&partition_for(group_id, self.offsets_partitions)) {
            None => Err(ErrorCode::NotCoordinator),
            Some(partition) if partition.loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(partition) => Ok(partition),
        }
    }

    /// The partition of a group, to work on.
    pub(super) fn serve<'t>(
        &'t mut self,
        now: Now,
        group_id: &str,
        out: &'t mut Vec<Effect>,
    ) -> Result<(Turn<'t>, &'t mut Partition), ErrorCode> {
        self.active(group_id)?;
        let partition = partition_for(group_id, self.offsets_partitions);
        self.turn(now, partition, out).ok_or(ErrorCode::NotCoordinator)
    }

    pub(super) fn turn<'t>(
        &'t mut self,
        now: Now,
        index: i32,
        out: &'t mut Vec<Effect>,
    ) -> Option<(Turn<'t>, &'t mut Partition)> {
        let (turn, partitions) = self.parts(now, index, out);
        Some((turn, partitions.get_mut(&index)?))
    }

    fn parts<'t>(
        &'t mut self,
        now: Now,
        partition: i32,
        out: &'t mut Vec<Effect>,
    ) -> (Turn<'t>, &'t mut BTreeMap<i32, Partition>) {
        let turn = Turn {
            now,
            partition,
            config: &self.config,
            timers: &mut self.timers,
            appends: &mut self.appends,
            member_ids: &mut self.member_ids,
            usage: &mut self.usage,
            out,
        };
        (turn, &mut self.partitions)
    }
}

impl Partition {
    /// The group, new if it has to be; none if there is no room for another.
    pub fn get_or_create(&mut self, turn: &mut Turn<'_>, id: &str) -> Option<&mut Group> {
        if !self.groups.contains_key(id) {
            let id: Arc<str> = id.into();
            let mut group = Group::new(id.clone(), turn.now.wall_ms);
            if turn.usage.groups >= turn.config.limits.groups_max || !turn.has_room(group.bytes()) {
                return None;
            }
            turn.usage.groups += 1;
            turn.account(&mut group);
            self.groups.insert(id, group);
        }
        self.groups.get_mut(id)
    }

    /// The group, for a record that is about it.
    pub fn group_or_new(&mut self, id: &str, wall_ms: i64) -> &mut Group {
        let id: Arc<str> = match self.groups.get_key_value(id) {
            Some((id, _)) => id.clone(),
            None => id.into(),
        };
        self.groups.entry(id.clone()).or_insert_with(|| Group::new(id, wall_ms))
    }
}

impl Turn<'_> {
    pub(super) fn offsets_appended(
        &mut self,
        partition: &mut Partition,
        pending: &Pending,
        append: AppendId,
        result: Result<i64, ErrorCode>,
    ) {
        for change in &pending.offsets {
            let Some(group) = partition.groups.get_mut(&change.group) else { continue };
            match result {
                Ok(base_offset) => {
                    let record_offset = base_offset + i64::from(change.index);
                    group.offsets.confirm(&change.topic, change.partition, append, record_offset);
                }
                Err(_) => group.offsets.abandon(&change.topic, change.partition, append),
            }
        }
        let mut groups: Vec<_> = pending.offsets.iter().map(|change| &change.group).collect();
        groups.dedup();
        for id in groups {
            if let Some(group) = partition.groups.get_mut(id) {
                self.account(group);
            }
        }
    }

    fn groups_deleted(
        &mut self,
        partition: &mut Partition,
        pending: &Pending,
        result: Result<i64, ErrorCode>,
    ) {
        for id in &pending.deleted_groups {
            let Some(group) = partition.groups.get_mut(id).filter(|group| group.is_dead()) else { continue };
            if result.is_ok() && group.offsets.is_empty() {
                let Some(group) = partition.groups.remove(id) else { continue };
                for member in group.classic.pending_join() {
                    self.timers.cancel(&self.heartbeat_key(&group, member));
                }
                self.usage.groups -= 1;
                self.usage.bytes -= group.accounted;
            } else if result.is_err() || !self.appends.is_deleting(id) {
                // It goes with the last of its batches, unless an offset stays whose own deletion, made before, has failed.
                group.classic.undo_delete();
            }
        }
    }

    /// The group that waited for the append takes its next step.
    fn go_on(
        &mut self,
        partition: &mut Partition,
        append: AppendId,
        then: Then,
        result: Result<i64, ErrorCode>,
    ) {
        let then = match then {
            Then::Consumer { .. } if result.is_ok() => return,
            Then::Consumer { group, undo } => return self.draft_failed(partition, append, &group, undo),
            then => then,
        };
        let id = match &then {
            Then::Nothing | Then::Consumer { .. } => return,
            Then::NewGroup { group } | Then::Assignment { group, .. } | Then::StaticMember { group, .. } => {
                group
            }
        };
        let Some(group) = partition.groups.get_mut(id) else { return };
        match (then, result.err()) {
            (Then::Nothing | Then::Consumer { .. }, _) | (Then::NewGroup { .. }, None) => {}
            (Then::NewGroup { .. }, Some(error)) => self.new_group_failed(group, error),
            (Then::Assignment { generation, assignments, .. }, None) => {
                self.assignment_written(group, generation, assignments);
            }
            (Then::Assignment { generation, .. }, Some(error)) => {
                if group.classic.is(State::CompletingRebalance) && group.classic.generation == generation {
                    self.assignment_failed(group, error);
                }
            }
            (Then::StaticMember { undo, .. }, None) => self.static_member_written(group, &undo),
            (Then::StaticMember { undo, .. }, Some(error)) => self.static_member_failed(group, *undo, error),
        }
        self.account(group);
    }

    /// Members of a loaded group have a session's time to show up.
    fn group_loaded(&mut self, group: &mut Group) {
        if let Some(consumer) = &mut group.consumer {
            consumer.recount();
            self.consumer_group_loaded(group);
            return self.account(group);
        }
        for id in group.classic.member_ids() {
            self.renew_session(group, &id);
        }
        if group.classic.members().len() > usize::try_from(self.config.max_size).unwrap_or(0) {
            self.prepare_rebalance(group, "more members than the group may have");
        }
        self.account(group);
    }
}
