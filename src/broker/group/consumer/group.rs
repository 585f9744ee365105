//! The state of a consumer group, and the one way it changes: by the changes its records describe.
//!
//! A request makes changes; each is applied and written down, and a replay of the records applies the same changes again, so
//! that what is live and what a restart rebuilds are the same by construction. Every change hands back the one that undoes
//! it, for a request that is refused half-way and for records that never reach the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::assignment::{TopicPartitions, pairs};
use super::member::{Current, Member, Metadata, target_bytes};
use crate::protocol::Uuid;

/// Before the first record of a group.
const FIRST_EPOCH: i32 = 1;

/// About what the group costs beside its members, targets and patterns.
const GROUP_OVERHEAD: usize = 512;

/// One record's worth of change; none deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Epoch(Option<GroupEpoch>),
    /// Whether there is a record of the partitions' metadata, as older versions wrote it.
    PartitionMetadata(bool),
    Member(Arc<str>, Option<Arc<Metadata>>),
    TargetEpoch(Option<TargetEpoch>),
    Target(Arc<str>, Option<Arc<TopicPartitions>>),
    Current(Arc<str>, Option<Arc<Current>>),
    Pattern(Arc<str>, Option<Arc<Resolved>>),
}

impl Change {
    pub fn is_deletion(&self) -> bool {
        match self {
            Change::Epoch(value) => value.is_none(),
            Change::PartitionMetadata(exists) => !exists,
            Change::Member(_, value) => value.is_none(),
            Change::TargetEpoch(value) => value.is_none(),
            Change::Target(_, value) => value.is_none(),
            Change::Current(_, value) => value.is_none(),
            Change::Pattern(_, value) => value.is_none(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupEpoch {
    pub epoch: i32,
    pub metadata_hash: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetEpoch {
    pub epoch: i32,
    /// When the target was worked out, by the wall clock; 0 if that is not known.
    pub timestamp_ms: i64,
}

/// The topics a pattern matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// By name.
    pub topics: Vec<Arc<str>>,
    /// Of the metadata that was looked at.
    pub version: i64,
    pub timestamp_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    Empty,
    /// The target is older than the group's epoch.
    Assigning,
    /// Members are on their way to the target.
    Reconciling,
    Stable,
}

impl GroupState {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::Assigning => "Assigning",
            GroupState::Reconciling => "Reconciling",
            GroupState::Stable => "Stable",
        }
    }
}

/// How many members are subscribed to a topic by its name, and how many patterns match it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscribers {
    pub by_name: usize,
    pub by_pattern: usize,
}

#[derive(Clone, Debug, Default)]
pub struct ConsumerGroup {
    epoch: Option<GroupEpoch>,
    target_epoch: Option<TargetEpoch>,
    pub has_partition_metadata: bool,
    members: BTreeMap<Arc<str>, Member>,
    targets: BTreeMap<Arc<str>, Arc<TopicPartitions>>,
    patterns: BTreeMap<Arc<str>, Arc<Resolved>>,

    // Counted from the above; see `check_counts`.
    /// Instance id to member id.
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Who has each partition, to be revoked or not.
    owners: BTreeMap<(Uuid, i32), Arc<str>>,
    topics: BTreeMap<Arc<str>, Subscribers>,
    /// How many members are subscribed to each pattern.
    pattern_members: BTreeMap<Arc<str>, usize>,
    assignors: BTreeMap<Arc<str>, usize>,
    classic_members: usize,
    /// How many classic members can work with each protocol.
    classic_protocols: BTreeMap<Arc<str>, usize>,
    bytes: usize,

    // Never written down.
    /// The version of the metadata that the group's hash was last checked against.
    pub checked_version: Option<u64>,
    /// Patterns are about to be resolved.
    pub is_resolving: bool,
}

impl ConsumerGroup {
    pub fn epoch(&self) -> i32 {
        self.epoch.map_or(FIRST_EPOCH, |epoch| epoch.epoch)
    }

    pub fn metadata_hash(&self) -> i64 {
        self.epoch.map_or(0, |epoch| epoch.metadata_hash)
    }

    pub fn target_epoch(&self) -> TargetEpoch {
        self.target_epoch.unwrap_or(TargetEpoch { epoch: FIRST_EPOCH, timestamp_ms: 0 })
    }

    pub fn state(&self) -> GroupState {
        let target = self.target_epoch().epoch;
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.epoch() > target {
            GroupState::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(target)) {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    pub fn static_member(&self, instance_id: &str) -> Option<&Member> {
        self.members.get(self.static_members.get(instance_id)?)
    }

    pub fn target(&self, member: &str) -> Option<&Arc<TopicPartitions>> {
        self.targets.get(member)
    }

    /// The topics a pattern matches; none while it has not been resolved.
    pub fn pattern(&self, pattern: &str) -> Option<&Arc<Resolved>> {
        self.patterns.get(pattern)
    }

    pub fn patterns(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<Resolved>)> {
        self.patterns.iter()
    }

    /// The patterns members are subscribed to, and by how many.
    pub fn subscribed_patterns(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, usize)> {
        self.pattern_members.iter().map(|(pattern, members)| (pattern, *members))
    }

    pub fn pattern_members(&self, pattern: &str) -> usize {
        self.pattern_members.get(pattern).copied().unwrap_or(0)
    }

    /// By name.
    pub fn subscribed_topics(&self) -> impl Iterator<Item = (&Arc<str>, Subscribers)> {
        self.topics.iter().map(|(topic, subscribers)| (topic, *subscribers))
    }

    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// Who has the partition, or still has to give it up.
    pub fn owner(&self, topic: Uuid, partition: i32) -> Option<&Arc<str>> {
        self.owners.get(&(topic, partition))
    }

    /// How many members want each assignor.
    pub fn assignors(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.assignors.iter().map(|(assignor, members)| (assignor, *members))
    }

    pub fn classic_members(&self) -> usize {
        self.classic_members
    }

    /// Whether all classic members can work with this protocol.
    pub fn is_common_protocol(&self, protocol: &str) -> bool {
        self.classic_protocols.get(protocol).copied().unwrap_or(0) == self.classic_members
    }

    /// About what the group holds in memory.
    pub fn bytes(&self) -> usize {
        GROUP_OVERHEAD + self.bytes
    }

    /// What deletes all of the group's records.
    pub fn deletion(&self) -> Vec<Change> {
        let ids = || self.members.keys().cloned();
        let mut changes: Vec<Change> = ids().map(|id| Change::Current(id, None)).collect();
        changes.extend(ids().map(|id| Change::Target(id, None)));
        changes.push(Change::TargetEpoch(None));
        changes.extend(ids().map(|id| Change::Member(id, None)));
        changes.extend(self.patterns.keys().map(|pattern| Change::Pattern(pattern.clone(), None)));
        changes.extend([Change::PartitionMetadata(false), Change::Epoch(None)]);
        changes
    }

    /// Makes a change, and hands back the one that undoes it.
    pub fn apply(&mut self, change: Change) -> Change {
        match change {
            Change::Epoch(new) => Change::Epoch(std::mem::replace(&mut self.epoch, new)),
            Change::PartitionMetadata(new) => {
                Change::PartitionMetadata(std::mem::replace(&mut self.has_partition_metadata, new))
            }
            Change::TargetEpoch(new) => Change::TargetEpoch(std::mem::replace(&mut self.target_epoch, new)),
            Change::Member(id, new) => {
                let old = self.replace_member(&id, new);
                Change::Member(id, old)
            }
            Change::Current(id, new) => {
                let old = self.replace_current(&id, new);
                Change::Current(id, old)
            }
            Change::Target(id, new) => {
                let old = match new {
                    Some(new) => {
                        self.bytes += id.len() + target_bytes(&new);
                        self.targets.insert(id.clone(), new)
                    }
                    None => self.targets.remove(&id),
                };
                self.bytes -= old.as_ref().map_or(0, |old| id.len() + target_bytes(old));
                Change::Target(id, old)
            }
            Change::Pattern(pattern, new) => {
                let old = self.replace_pattern(&pattern, new);
                Change::Pattern(pattern, old)
            }
        }
    }

    /// A member goes with all it had: nothing is left of it to undo by itself, as its deletion follows those of the rest.
    fn replace_member(&mut self, id: &Arc<str>, new: Option<Arc<Metadata>>) -> Option<Arc<Metadata>> {
        let old = self.take(id);
        let current = old.as_ref().map(|old| old.current.clone()).unwrap_or_default();
        if let Some(metadata) = new {
            self.put(Member { id: id.clone(), metadata, current });
        }
        old.map(|old| old.metadata)
    }

    fn replace_current(&mut self, id: &Arc<str>, new: Option<Arc<Current>>) -> Option<Arc<Current>> {
        let old = self.take(id);
        // A record in the log may come before the one that describes its member.
        let mut member = match (&old, &new) {
            (Some(old), _) => old.clone(),
            (None, Some(_)) => Member::new(id.clone()),
            (None, None) => return None,
        };
        member.current = new.unwrap_or_default();
        // One of which nothing was ever said, and nothing is known any more, is none.
        if *member.metadata != Metadata::default() || *member.current != Current::default() {
            self.put(member);
        }
        old.map(|old| old.current)
    }

    fn replace_pattern(&mut self, pattern: &Arc<str>, new: Option<Arc<Resolved>>) -> Option<Arc<Resolved>> {
        let bytes = |resolved: &Resolved| pattern.len() + 64 + 16 * resolved.topics.len();
        let old = self.patterns.remove(pattern);
        if let Some(old) = &old {
            self.bytes -= bytes(old);
            for topic in &old.topics {
                self.count_topic(topic, |subscribers| subscribers.by_pattern -= 1);
            }
        }
        if let Some(new) = new {
            self.bytes += bytes(&new);
            for topic in &new.topics {
                self.count_topic(topic, |subscribers| subscribers.by_pattern += 1);
            }
            self.patterns.insert(pattern.clone(), new);
        }
        old
    }

    // Counting

    fn take(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.bytes -= member.bytes();
        let metadata = &*member.metadata;
        if let Some(instance_id) = &metadata.instance_id
            && self.static_members.get(instance_id) == Some(&member.id)
        {
            self.static_members.remove(instance_id);
        }
        for place in pairs(&member.current.assigned).chain(pairs(&member.current.revoking)) {
            if self.owners.get(&place) == Some(&member.id) {
                self.owners.remove(&place);
            }
        }
        for topic in &metadata.topics {
            self.count_topic(topic, |subscribers| subscribers.by_name -= 1);
        }
        metadata.pattern().into_iter().for_each(|pattern| decrement(&mut self.pattern_members, pattern));
        metadata.assignor.iter().for_each(|assignor| decrement(&mut self.assignors, assignor));
        if let Some(classic) = &metadata.classic {
            self.classic_members -= 1;
            classic.protocols.iter().for_each(|(name, _)| decrement(&mut self.classic_protocols, name));
        }
        Some(member)
    }

    fn put(&mut self, member: Member) {
        self.bytes += member.bytes();
        let metadata = member.metadata.clone();
        if let Some(instance_id) = &metadata.instance_id {
            self.static_members.insert(instance_id.clone(), member.id.clone());
        }
        for place in pairs(&member.current.assigned).chain(pairs(&member.current.revoking)) {
            self.owners.insert(place, member.id.clone());
        }
        for topic in &metadata.topics {
            self.count_topic(topic, |subscribers| subscribers.by_name += 1);
        }
        metadata.pattern().into_iter().for_each(|pattern| increment(&mut self.pattern_members, pattern));
        metadata.assignor.iter().for_each(|assignor| increment(&mut self.assignors, assignor));
        if let Some(classic) = &metadata.classic {
            self.classic_members += 1;
            classic.protocols.iter().for_each(|(name, _)| increment(&mut self.classic_protocols, name));
        }
        self.members.insert(member.id.clone(), member);
    }

    /// For when changes were made in an order in which two members had one partition, or one instance id, in between: the one
    /// that was there first has lost it.
    pub fn recount(&mut self) {
        self.owners.clear();
        self.static_members.clear();
        for member in self.members.values() {
            if let Some(instance_id) = &member.metadata.instance_id {
                self.static_members.insert(instance_id.clone(), member.id.clone());
            }
            for place in pairs(&member.current.assigned).chain(pairs(&member.current.revoking)) {
                self.owners.insert(place, member.id.clone());
            }
        }
    }

    fn count_topic(&mut self, topic: &Arc<str>, count: impl FnOnce(&mut Subscribers)) {
        let subscribers = self.topics.entry(topic.clone()).or_default();
        count(subscribers);
        if *subscribers == Subscribers::default() {
            self.topics.remove(topic);
        }
    }
}

fn increment(counts: &mut BTreeMap<Arc<str>, usize>, key: &Arc<str>) {
    *counts.entry(key.clone()).or_default() += 1;
}

fn decrement(counts: &mut BTreeMap<Arc<str>, usize>, key: &Arc<str>) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
impl ConsumerGroup {
    /// What is counted is what is there, and nobody shares a partition.
    pub fn check_counts(&self) {
        let mut anew = ConsumerGroup::default();
        for (pattern, resolved) in &self.patterns {
            anew.apply(Change::Pattern(pattern.clone(), Some(resolved.clone())));
        }
        for (id, target) in &self.targets {
            anew.apply(Change::Target(id.clone(), Some(target.clone())));
        }
        let mut owned = 0;
        for member in self.members.values() {
            owned += pairs(&member.current.assigned).chain(pairs(&member.current.revoking)).count();
            anew.put(member.clone());
        }
        assert_eq!(self.owners.len(), owned, "a partition has two owners");
        assert_eq!(self.owners, anew.owners);
        assert_eq!(self.static_members, anew.static_members);
        assert_eq!(self.topics, anew.topics);
        assert_eq!(self.pattern_members, anew.pattern_members);
        assert_eq!(self.assignors, anew.assignors);
        assert_eq!(self.classic_members, anew.classic_members);
        assert_eq!(self.classic_protocols, anew.classic_protocols);
        assert_eq!(self.bytes, anew.bytes);
    }

    /// What a restart has to rebuild.
    pub fn picture(&self) -> String {
        let epochs = (self.epoch, self.target_epoch, self.has_partition_metadata);
        format!("{epochs:?} {:?} {:?} {:?}", self.members, self.targets, self.patterns)
    }
}
