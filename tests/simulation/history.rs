//! What clients of the whole-broker simulation did and saw, and what must be true of it: the checker. The names of the
//! faults are those of Jepsen's Kafka workload.

use std::collections::{BTreeMap, BTreeSet};

use ringlog::protocol::Uuid;

use super::log_model::{Verdict, ensure};

/// Topic id and partition.
pub type Place = ([u8; 16], i32);

#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    pub partitions: i32,
    /// A delete has been asked for; from then on anything may be answered.
    pub deleted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Survives kill -9.
    Written,
    /// Survives a power cut.
    Durable,
}

/// A record that was sent.
struct Sent {
    place: Place,
    idempotent: bool,
    attempts: u32,
}

#[derive(Default)]
pub struct History {
    pub topics: Vec<Topic>,
    sent: BTreeMap<u64, Sent>,
    acked: BTreeMap<Place, BTreeMap<i64, (u64, Ack)>>,
    seen: BTreeMap<Place, BTreeMap<i64, u64>>,
    committed: BTreeMap<(String, Place), i64>,
    pub power_cuts: u32,
    pub acks: u64,
    pub reads: u64,
    pub commits: u64,
}

impl History {
    pub fn live(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter().filter(|topic| !topic.deleted)
    }

    pub fn topic(&self, id: Uuid) -> Option<&Topic> {
        self.topics.iter().find(|topic| topic.id == id)
    }

    pub fn is_live(&self, id: Uuid) -> bool {
        self.topic(id).is_some_and(|topic| !topic.deleted)
    }

    pub fn sending(&mut self, value: u64, place: Place, idempotent: bool) {
        self.sent.entry(value).or_insert(Sent { place, idempotent, attempts: 0 }).attempts += 1;
    }

    /// A produce was acknowledged; its values lie from `base` on.
    pub fn acknowledged(&mut self, place: Place, base: i64, values: &[u64], ack: Ack) -> Verdict {
        for (&value, offset) in values.iter().zip(base..) {
            let entry = self.acked.entry(place).or_default().entry(offset).or_insert((value, ack));
            ensure!(
                entry.0 == value,
                "inconsistent offsets: {place:?} {offset} was given to {:x} and to {value:x}",
                entry.0
            );
            if ack == Ack::Durable {
                entry.1 = ack;
            }
            self.acks += 1;
            self.same_as_seen(place, offset, value)?;
        }
        Ok(())
    }

    fn same_as_seen(&self, place: Place, offset: i64, value: u64) -> Verdict {
        let seen = self.seen.get(&place).and_then(|seen| seen.get(&offset));
        ensure!(
            seen.is_none_or(|&seen| seen == value),
            "inconsistent offsets: {place:?} {offset} holds {seen:x?} and {value:x}"
        );
        Ok(())
    }

    /// A consumer got a record.
    pub fn saw(&mut self, place: Place, offset: i64, value: u64) -> Verdict {
        let Some(sent) = self.sent.get(&value) else {
            return Err(format!("{place:?} {offset} holds {value:x}, which nobody sent"));
        };
        ensure!(sent.place == place, "{value:x} was sent to {:?} and is at {place:?} {offset}", sent.place);
        self.same_as_seen(place, offset, value)?;
        let acked = self.acked.get(&place).and_then(|acked| acked.get(&offset));
        ensure!(
            acked.is_none_or(|acked| acked.0 == value),
            "inconsistent offsets: {place:?} {offset} holds {value:x}, acknowledged was {acked:x?}"
        );
        self.seen.entry(place).or_default().insert(offset, value);
        self.reads += 1;
        Ok(())
    }

    /// The lowest offset that a fetch may answer "out of range" for.
    pub fn known_end(&self, place: Place) -> i64 {
        let seen = self.seen.get(&place).and_then(|seen| seen.last_key_value()).map(|(offset, _)| offset + 1);
        let acked =
            self.acked.get(&place).and_then(|acked| acked.last_key_value()).map(|(offset, _)| offset + 1);
        seen.max(acked).unwrap_or(0)
    }

    pub fn committed(&mut self, group: &str, place: Place, offset: i64) {
        let known = self.committed.entry((group.to_string(), place)).or_insert(offset);
        *known = (*known).max(offset);
        self.commits += 1;
    }

    pub fn commit_floor(&self, group: &str, place: Place) -> i64 {
        self.committed.get(&(group.to_string(), place)).copied().unwrap_or(-1)
    }

    /// The power went: what nothing durable stands behind may be gone, and its offsets are free again.
    pub fn power_cut(&mut self) {
        self.power_cuts += 1;
        let places: BTreeSet<Place> = self.acked.keys().chain(self.seen.keys()).copied().collect();
        for place in places {
            let acked = self.acked.entry(place).or_default();
            let durable = acked.iter().rev().find(|(_, (_, ack))| *ack == Ack::Durable);
            let end = durable.map_or(0, |(offset, _)| offset + 1);
            acked.split_off(&end);
            self.seen.entry(place).or_default().split_off(&end);
        }
    }

    /// `log` is all that a live partition holds, from its start on.
    pub fn check_log(&self, place: Place, start: i64, log: &[(i64, u64)]) -> Verdict {
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        let mut last_of: BTreeMap<u64, u64> = BTreeMap::new();
        for (next, &(offset, value)) in (start..).zip(log) {
            ensure!(offset == next, "{place:?}: offset {offset} follows {}", next - 1);
            let Some(sent) = self.sent.get(&value) else {
                return Err(format!("{place:?} {offset} holds {value:x}, which nobody sent"));
            };
            let count = counts.entry(value).or_default();
            *count += 1;
            let most = if sent.idempotent { 1 } else { sent.attempts };
            ensure!(
                *count <= most,
                "duplicate: {value:x} is in {place:?} {count} times, the last at {offset}"
            );
            if sent.idempotent {
                let last = last_of.entry(value >> 32).or_insert(value);
                ensure!(
                    *last <= value,
                    "non-monotonic send: {value:x} follows {last:x} at {place:?} {offset}"
                );
                *last = value;
            }
        }
        let held: BTreeMap<i64, u64> = log.iter().copied().collect();
        for (offset, (value, ack)) in
            self.acked.get(&place).into_iter().flatten().filter(|(o, _)| **o >= start)
        {
            let there = held.get(offset);
            ensure!(
                there == Some(value),
                "lost write: {place:?} {offset} was acknowledged ({ack:?}) for {value:x}, there is {there:x?}"
            );
        }
        for (offset, value) in self.seen.get(&place).into_iter().flatten().filter(|(o, _)| **o >= start) {
            let there = held.get(offset);
            ensure!(there == Some(value), "{place:?} {offset} was seen as {value:x}, there is {there:x?}");
        }
        Ok(())
    }
}
