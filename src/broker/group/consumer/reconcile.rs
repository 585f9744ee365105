//! From what a member has to what it is to have, without a partition ever having two owners.
//!
//! A member first gives up what is not in its target, in the epoch it is in; once it says that it has, it moves to the
//! target's epoch and gets what is free; what others still hold it gets when they have let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::assignment::{PartitionEpochs, TopicPartitions, contains};
use super::member::{Current, Member, MemberState};
use crate::protocol::Uuid;

/// What a member is to come to, and what is known of it.
pub struct Reconciliation<'a> {
    pub member: &'a Member,
    pub target_epoch: i32,
    pub target: Option<&'a TopicPartitions>,
    /// The topics it is subscribed to, by its names or its pattern.
    pub is_subscribed: &'a dyn Fn(Uuid) -> bool,
    /// It has just changed its subscription: what it is no longer subscribed to is asked back at once.
    pub has_changed_subscription: bool,
    /// What the member says it owns; none if it says nothing.
    pub owned: Option<&'a TopicPartitions>,
    pub owner: &'a dyn Fn(Uuid, i32) -> Option<Arc<str>>,
}

/// The member is in a state of a version to come and has to start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownState;

impl Reconciliation<'_> {
    /// The member's next state; the same as before if there is nothing to do.
    pub fn next(&self) -> Result<Current, UnknownState> {
        let current = &*self.member.current;
        let next = match current.state {
            MemberState::Stable if current.epoch != self.target_epoch => self.next_assignment(current.epoch),
            MemberState::Stable if self.has_changed_subscription => self.without_unsubscribed(),
            MemberState::Stable => current.clone(),
            MemberState::UnrevokedPartitions if !self.owns_any(&current.revoking) => {
                self.next_assignment(current.epoch)
            }
            MemberState::UnrevokedPartitions if self.has_changed_subscription => self.without_unsubscribed(),
            MemberState::UnrevokedPartitions => current.clone(),
            MemberState::UnreleasedPartitions => self.next_assignment(current.epoch),
            MemberState::Unknown if self.owned.is_some_and(|owned| owned.is_empty()) => {
                self.next_assignment(self.target_epoch)
            }
            MemberState::Unknown => return Err(UnknownState),
        };
        Ok(next)
    }

    /// Whether the member still owns one of these; one that says nothing may.
    fn owns_any(&self, partitions: &PartitionEpochs) -> bool {
        let Some(owned) = self.owned else { return true };
        let mut all = owned.iter().flat_map(|(topic, indexes)| indexes.iter().map(|index| (*topic, *index)));
        all.any(|(topic, index)| contains(partitions, topic, index))
    }

    /// What it is no longer subscribed to goes, whatever its target says.
    fn without_unsubscribed(&self) -> Current {
        let current = &*self.member.current;
        let (assigned, gone): (PartitionEpochs, PartitionEpochs) = current
            .assigned
            .iter()
            .map(|(topic, epochs)| (*topic, epochs.clone()))
            .partition(|(topic, _)| (self.is_subscribed)(*topic));
        if gone.is_empty() {
            return current.clone();
        }
        let mut revoking = current.revoking.clone();
        for (topic, epochs) in gone {
            revoking.entry(topic).or_default().extend(epochs);
        }
        if self.owns_any(&revoking) {
            return self.moved(current.epoch, MemberState::UnrevokedPartitions, assigned, revoking);
        }
        // It has given them up already.
        let (state, revoking) = (current.state, current.revoking.clone());
        self.moved(current.epoch, state, assigned, revoking)
    }

    /// Towards the target, as far as it goes.
    fn next_assignment(&self, epoch: i32) -> Current {
        let current = &*self.member.current;
        let mut parts = Parts::default();
        let mut topics: BTreeSet<Uuid> = current.assigned.keys().copied().collect();
        topics.extend(self.target.into_iter().flat_map(BTreeMap::keys));
        for topic in topics {
            self.sort_out(topic, &mut parts);
        }
        let Parts { mut assigned, revoking, free, waits } = parts;
        if !revoking.is_empty() && self.owns_any(&revoking) {
            return self.moved(epoch, MemberState::UnrevokedPartitions, assigned, revoking);
        }
        for (topic, index) in free {
            assigned.entry(topic).or_default().insert(index, self.target_epoch);
        }
        let state = if waits { MemberState::UnreleasedPartitions } else { MemberState::Stable };
        self.moved(self.target_epoch, state, assigned, PartitionEpochs::new())
    }

    /// One topic's partitions: those that stay, go, can come, and have to wait.
    fn sort_out(&self, topic: Uuid, parts: &mut Parts) {
        let nothing = BTreeMap::new();
        let had = self.member.current.assigned.get(&topic).unwrap_or(&nothing);
        let target = self.target.and_then(|target| target.get(&topic));
        let target = target.filter(|_| (self.is_subscribed)(topic));
        let is_wanted = |index: &i32| target.is_some_and(|target| target.contains(index));
        for (&index, &epoch) in had {
            let part = if is_wanted(&index) { &mut parts.assigned } else { &mut parts.revoking };
            part.entry(topic).or_default().insert(index, epoch);
        }
        for &index in target.into_iter().flatten().filter(|index| !had.contains_key(index)) {
            // What it is giving up itself is nobody else's.
            let is_held = (self.owner)(topic, index).is_some()
                && !contains(&self.member.current.revoking, topic, index);
            if is_held {
                parts.waits = true;
            } else {
                parts.free.push((topic, index));
            }
        }
    }

    fn moved(
        &self,
        epoch: i32,
        state: MemberState,
        assigned: PartitionEpochs,
        revoking: PartitionEpochs,
    ) -> Current {
        Current { epoch, previous_epoch: self.member.current.epoch, state, assigned, revoking }
    }
}

#[derive(Default)]
struct Parts {
    assigned: PartitionEpochs,
    revoking: PartitionEpochs,
    free: Vec<(Uuid, i32)>,
    /// For a partition that somebody else holds.
    waits: bool,
}
