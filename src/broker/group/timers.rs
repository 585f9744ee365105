//! The deadlines of all groups of a shard, at most one of each kind for what it belongs to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a deadline belongs to; scheduling it again replaces the older one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TimerKey {
    /// A member, or a member id given out and not used yet, has to show a sign of life.
    Heartbeat { partition: i32, group: Arc<str>, member: Arc<str> },
    /// The join phase of a rebalance ends.
    Join { partition: i32, group: Arc<str> },
    /// Members have to have fetched their assignments.
    Sync { partition: i32, group: Arc<str> },
    /// Expired offsets and groups are looked for.
    Cleanup { partition: i32 },
    /// A member of a consumer group has to have given up partitions.
    Revocation { partition: i32, group: Arc<str>, member: Arc<str> },
    /// A member of the classic protocol in a consumer group has to have joined anew.
    MemberJoin { partition: i32, group: Arc<str>, member: Arc<str> },
    /// It has to have fetched its assignment.
    MemberSync { partition: i32, group: Arc<str>, member: Arc<str> },
    /// The patterns of a consumer group are to be resolved.
    Patterns { partition: i32, group: Arc<str> },
}

impl TimerKey {
    pub fn partition(&self) -> i32 {
        match self {
            TimerKey::Heartbeat { partition, .. }
            | TimerKey::Join { partition, .. }
            | TimerKey::Sync { partition, .. }
            | TimerKey::Cleanup { partition }
            | TimerKey::Revocation { partition, .. }
            | TimerKey::MemberJoin { partition, .. }
            | TimerKey::MemberSync { partition, .. }
            | TimerKey::Patterns { partition, .. } => *partition,
        }
    }
}

impl TimerKey {
    /// None for what belongs to no group.
    pub fn group(&self) -> Option<&Arc<str>> {
        match self {
            TimerKey::Cleanup { .. } => None,
            TimerKey::Heartbeat { group, .. }
            | TimerKey::Join { group, .. }
            | TimerKey::Sync { group, .. }
            | TimerKey::Revocation { group, .. }
            | TimerKey::MemberJoin { group, .. }
            | TimerKey::MemberSync { group, .. }
            | TimerKey::Patterns { group, .. } => Some(group),
        }
    }
}

/// What the one who set the deadline wants to know when it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    None,
    /// The first join phase of a group: the delay that ends now, and what is left to extend it.
    InitialJoin {
        delay_ms: i32,
        remaining_ms: i32,
    },
    Generation(i32),
    /// The group after which the clean-up goes on.
    After(Arc<str>),
}

/// Deadline and number: the number orders equal deadlines by when they were set.
type Place = (i64, u64);

#[derive(Debug, Default)]
pub struct Timers {
    queue: BTreeMap<Place, TimerKey>,
    // Only looked up, never walked over.
    places: HashMap<TimerKey, (Place, Payload)>,
    next_number: u64,
}

impl Timers {
    pub fn schedule(&mut self, key: TimerKey, deadline_ms: i64, payload: Payload) {
        let place = (deadline_ms, self.next_number);
        self.next_number += 1;
        if let Some((old, _)) = self.places.insert(key.clone(), (place, payload)) {
            self.queue.remove(&old);
        }
        self.queue.insert(place, key);
    }

    pub fn cancel(&mut self, key: &TimerKey) {
        if let Some((place, _)) = self.places.remove(key) {
            self.queue.remove(&place);
        }
    }

    pub fn is_set(&self, key: &TimerKey) -> bool {
        self.places.contains_key(key)
    }

    pub fn cancel_partition(&mut self, partition: i32) {
        self.queue.retain(|_, key| key.partition() != partition);
        self.places.retain(|key, _| key.partition() != partition);
    }

    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.queue.first_key_value().map(|(&(deadline_ms, _), _)| deadline_ms)
    }

    /// Everything scheduled from now on has this number or a higher one.
    pub fn mark(&self) -> u64 {
        self.next_number
    }

    /// Takes the next deadline that is over and was set before the mark, so that one that sets itself again at once
    /// cannot hold the caller.
    pub fn pop_due(&mut self, now_ms: i64, mark: u64) -> Option<(TimerKey, Payload)> {
        let due = self.queue.range(..=(now_ms, u64::MAX)).find(|((_, number), _)| *number < mark);
        let place = *due?.0;
        let key = self.queue.remove(&place)?;
        let (_, payload) = self.places.remove(&key)?;
        Some((key, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(group: &str) -> TimerKey {
        TimerKey::Join { partition: 1, group: group.into() }
    }

    #[test]
    fn replaces_and_keeps_the_order() {
        let mut timers = Timers::default();
        timers.schedule(join("a"), 10, Payload::None);
        timers.schedule(join("b"), 10, Payload::None);
        timers.schedule(join("a"), 10, Payload::Generation(2));
        timers.schedule(join("c"), 5, Payload::None);
        timers.cancel(&join("c"));
        let mark = timers.mark();
        timers.schedule(join("d"), 1, Payload::None);
        assert_eq!(timers.next_deadline_ms(), Some(1));
        assert_eq!(timers.pop_due(9, mark), None);
        assert_eq!(timers.pop_due(10, mark), Some((join("b"), Payload::None)));
        assert_eq!(timers.pop_due(10, mark), Some((join("a"), Payload::Generation(2))));
        assert_eq!(timers.pop_due(10, mark), None);
        timers.cancel_partition(1);
        assert!(timers.queue.is_empty() && timers.places.is_empty());
    }
}
