//! What clients of the whole-broker simulation did and saw, and what must be true of it: the checker. The names of the
//! faults are those of Jepsen's Kafka workload. `checker.rs` shows each of them found.

use std::collections::{BTreeMap, BTreeSet};

use ringlog::protocol::Uuid;

use super::clients::Entry;
use super::forgetting::{Presence, WallClock};
use super::log_model::{Verdict, ensure};
use super::ownership::Ownership;

/// Topic id and partition.
pub type Place = ([u8; 16], i32);

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Anybody writes to it, and it may be deleted.
    Any,
    /// Only transactions write to it: what is read of it as committed stays, whatever happens.
    Input,
    /// Processors write to it what they make of the inputs.
    Output,
}

#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    pub partitions: i32,
    pub role: Role,
    /// Its records have keys, and only the last of each key stays.
    pub compacted: bool,
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

/// What a producer knows of the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Open,
    /// A commit was asked for, and the answer is not known.
    Unknown,
    Committed,
    /// It was never asked to be committed, or that was refused.
    Aborted,
}

/// The offset that a record was made of, and the group that reads it for that.
pub type Origin = (String, Place, i64);

/// A record that was sent.
struct Sent {
    place: Place,
    idempotent: bool,
    /// When it was sent, the first time as it was made.
    attempts_ns: Vec<u64>,
    /// Of a transaction, by its number.
    transaction: Option<usize>,
    origin: Option<Origin>,
}

struct Transaction {
    id: String,
    outcome: Outcome,
    values: Vec<u64>,
    offsets: Vec<(String, Place, i64)>,
    /// When these were sent.
    offsets_ns: u64,
}

/// An offset that a group has committed, and when it did so.
pub type Floor = (i64, u64);

/// Where a reader is in a partition.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    pub next: i64,
    /// The start of the log was asked for: what comes may begin anywhere above.
    pub reset: bool,
}

impl Cursor {
    pub fn at(next: i64) -> Cursor {
        Cursor { next, reset: false }
    }

    /// What is new in the answer to a fetch from here. `end`: nothing may be there from this offset on. A batch comes
    /// whole, so the answer may begin before. `compacted`: what was skipped has to be gone, see [`History::skipped`].
    pub fn read(
        &mut self,
        found: Vec<Entry>,
        log_start: i64,
        end: i64,
        compacted: bool,
    ) -> Result<Vec<Entry>, String> {
        let mut last = -1;
        let mut new = Vec::new();
        for entry in found {
            let Entry { offset, .. } = entry;
            ensure!(offset > last, "non-monotonic poll: {offset} follows {last}");
            ensure!(offset < end, "{offset} is beyond {end}");
            last = offset;
            if offset < self.next {
                continue;
            }
            let skips = offset > self.next && !self.reset && self.next >= log_start;
            ensure!(!skips || compacted, "poll skip: got {offset}, {} was next", self.next);
            *self = Cursor::at(offset + 1);
            new.push(entry);
        }
        Ok(new)
    }
}

#[derive(Default)]
pub struct History {
    pub topics: Vec<Topic>,
    sent: BTreeMap<u64, Sent>,
    /// The keys of values, where they have one.
    keys: BTreeMap<u64, u8>,
    transactions: Vec<Transaction>,
    acked: BTreeMap<Place, BTreeMap<i64, (u64, Ack)>>,
    seen: BTreeMap<Place, BTreeMap<i64, u64>>,
    /// What readers of committed data were given.
    seen_committed: BTreeSet<u64>,
    seen_by: BTreeMap<(String, Place), BTreeSet<i64>>,
    /// Offsets of compacted partitions that a reader was not given.
    skipped: BTreeMap<Place, BTreeSet<i64>>,
    /// What was acknowledged or seen, and is not in its compacted log at the end.
    removed: BTreeMap<Place, BTreeMap<i64, u64>>,
    committed: BTreeMap<(String, Place), i64>,
    /// The offsets of the groups, as far as they are not known to be lost.
    floors: BTreeMap<(String, Place), Floor>,
    /// When a group was seen to have lost its offset, because it may.
    lost: BTreeMap<(String, Place), Vec<u64>>,
    /// The whole of each log at the end, and what of it is committed.
    logs: BTreeMap<Place, FinalLog>,
    pub ownership: Ownership,
    pub clock: WallClock,
    pub presence: Presence,
    /// What was forgotten because it may be: records that are there again, transactional ids, offsets.
    pub forgotten: [u64; 3],
    pub power_cuts: u32,
    pub acks: u64,
    pub reads: u64,
    pub commits: u64,
}

#[derive(Default)]
struct FinalLog {
    start: i64,
    all: BTreeMap<i64, u64>,
    committed: BTreeMap<i64, u64>,
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

    fn has_role(&self, place: Place, role: Role) -> bool {
        self.topic(Uuid(place.0)).is_some_and(|topic| topic.role == role)
    }

    pub fn is_compacted(&self, place: Place) -> bool {
        self.topic(Uuid(place.0)).is_some_and(|topic| topic.compacted)
    }

    // ---- writes ----

    /// A value is made, and has a key.
    pub fn keyed(&mut self, value: u64, key: u8) {
        self.keys.insert(value, key);
    }

    pub fn sending(&mut self, value: u64, place: Place, idempotent: bool) {
        let new = Sent { place, idempotent, attempts_ns: Vec::new(), transaction: None, origin: None };
        self.sent.entry(value).or_insert(new).attempts_ns.push(self.clock.now_ns);
    }

    /// A record of a transaction is about to be sent.
    pub fn sending_in(&mut self, transaction: usize, value: u64, place: Place, origin: Option<Origin>) {
        self.sending(value, place, true);
        let Some(sent) = self.sent.get_mut(&value) else { return };
        if sent.transaction.is_none() {
            (sent.transaction, sent.origin) = (Some(transaction), origin);
            self.transactions[transaction].values.push(value);
        }
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

    // ---- transactions ----

    /// A transaction begins; answers its number.
    pub fn begin(&mut self, id: &str) -> usize {
        let (id, outcome, values, offsets) = (id.to_string(), Outcome::Open, Vec::new(), Vec::new());
        self.transactions.push(Transaction { id, outcome, values, offsets, offsets_ns: 0 });
        self.transactions.len() - 1
    }

    /// Offsets are about to be committed as part of a transaction.
    pub fn offsets_in(&mut self, transaction: usize, offsets: &[(String, Place, i64)]) {
        self.transactions[transaction].offsets = offsets.to_vec();
        self.transactions[transaction].offsets_ns = self.clock.now_ns;
    }

    /// A commit is about to be asked for.
    pub fn deciding(&mut self, transaction: usize) {
        let outcome = &mut self.transactions[transaction].outcome;
        if *outcome == Outcome::Open {
            *outcome = Outcome::Unknown;
        }
    }

    pub fn transaction_committed(&mut self, transaction: usize) {
        self.transactions[transaction].outcome = Outcome::Committed;
        let Transaction { offsets, offsets_ns, .. } = &self.transactions[transaction];
        let (offsets, offsets_ns) = (offsets.clone(), *offsets_ns);
        for (group, place, offset) in offsets {
            self.committed(&group, place, offset, offsets_ns);
        }
    }

    /// It is not committed, and never will be; without `surely` only if it was never asked to be.
    pub fn transaction_aborted(&mut self, transaction: usize, surely: bool) -> Verdict {
        let Transaction { id, outcome, values, .. } = &mut self.transactions[transaction];
        if *outcome == Outcome::Unknown && !surely {
            return Ok(());
        }
        *outcome = Outcome::Aborted;
        let seen = values.iter().find(|value| self.seen_committed.contains(value));
        ensure!(seen.is_none(), "aborted read: {seen:x?} of {id} was seen as committed");
        Ok(())
    }

    fn outcome_of(&self, value: u64) -> Option<Outcome> {
        let transaction = self.sent.get(&value)?.transaction?;
        Some(self.transactions[transaction].outcome)
    }

    /// How many records compaction has taken.
    pub fn removed(&self) -> usize {
        self.removed.values().map(BTreeMap::len).sum()
    }

    pub fn count(&self, outcome: Outcome) -> usize {
        self.transactions.iter().filter(|transaction| transaction.outcome == outcome).count()
    }

    // ---- reads ----

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

    /// A reader of committed data got a record.
    pub fn saw_committed(&mut self, place: Place, offset: i64, value: u64) -> Verdict {
        self.saw(place, offset, value)?;
        self.may_be_committed(place, offset, value)?;
        self.seen_committed.insert(value);
        Ok(())
    }

    fn may_be_committed(&self, place: Place, offset: i64, value: u64) -> Verdict {
        let outcome = self.outcome_of(value);
        let may = !matches!(outcome, Some(Outcome::Open | Outcome::Aborted));
        ensure!(may, "aborted read: {value:x} at {place:?} {offset} is {outcome:?}");
        Ok(())
    }

    /// A reader of committed data left a record out, as the broker told it to.
    pub fn left_out(&mut self, place: Place, offset: i64, value: u64) -> Verdict {
        self.saw(place, offset, value)?;
        let outcome = self.outcome_of(value);
        let may = !matches!(outcome, None | Some(Outcome::Committed));
        ensure!(
            may,
            "lost write: {value:x} at {place:?} {offset} is left out as aborted, and is {outcome:?}"
        );
        Ok(())
    }

    /// A reader of a compacted partition went on at `from` and got this: compaction has removed what is not there, and
    /// what is removed never comes back.
    pub fn skipped(&mut self, place: Place, from: i64, entries: &[Entry]) {
        let Some(last) = entries.last() else { return };
        let there: BTreeSet<i64> = entries.iter().map(|entry| entry.offset).collect();
        let skipped = (from..last.offset).filter(|offset| !there.contains(offset));
        self.skipped.entry(place).or_default().extend(skipped);
    }

    /// A record was handed to a group.
    pub fn polled(&mut self, group: &str, place: Place, offset: i64) {
        self.seen_by.entry((group.to_string(), place)).or_default().insert(offset);
    }

    /// The lowest offset that a fetch may answer "out of range" for.
    pub fn known_end(&self, place: Place) -> i64 {
        let seen = self.seen.get(&place).and_then(|seen| seen.last_key_value()).map(|(offset, _)| offset + 1);
        let acked =
            self.acked.get(&place).and_then(|acked| acked.last_key_value()).map(|(offset, _)| offset + 1);
        seen.max(acked).unwrap_or(0)
    }

    // ---- the offsets of groups ----

    /// A commit that was asked for then is acknowledged.
    pub fn committed(&mut self, group: &str, place: Place, offset: i64, asked_ns: u64) {
        let key = (group.to_string(), place);
        let known = self.committed.entry(key.clone()).or_insert(offset);
        *known = (*known).max(offset);
        self.commits += 1;
        if self.last_lost_ns(&key).is_none_or(|lost_ns| lost_ns < asked_ns) {
            let floor = self.floors.entry(key).or_insert((offset, asked_ns));
            if floor.0 <= offset {
                *floor = (offset, asked_ns);
            }
        }
    }

    /// What a group that asks for its offset now has to be told at least.
    pub fn commit_floor(&self, group: &str, place: Place) -> Floor {
        self.floors.get(&(group.to_string(), place)).copied().unwrap_or((-1, 0))
    }

    fn last_lost_ns(&self, key: &(String, Place)) -> Option<u64> {
        self.lost.get(key)?.last().copied()
    }

    /// A member of a group was told where to go on: not before `floor`, unless the offset may be lost.
    pub fn told_offset(
        &mut self,
        (group, newer): (&str, bool),
        place: Place,
        told: i64,
        floor: Floor,
        asked_ns: u64,
    ) -> Verdict {
        let key = (group.to_string(), place);
        let lost_ns = self.last_lost_ns(&key);
        if told >= 0 && told >= floor.0 || lost_ns.is_some_and(|lost_ns| lost_ns >= asked_ns) {
            return Ok(());
        }
        let may_be_lost =
            |since_ns| told < 0 && self.presence.may_lose_offsets(&self.clock, group, since_ns, newer);
        let mut is_lost = told < floor.0;
        ensure!(
            !is_lost || may_be_lost(floor.1),
            "lost offset: {group} is told {told} of {place:?}, and has committed {} at {}",
            floor.0,
            floor.1
        );
        // It may have committed more than it knows of.
        let unknown = self.transactions.iter().filter(|of| of.outcome == Outcome::Unknown);
        for Transaction { offsets, offsets_ns, .. } in unknown {
            let is_new = lost_ns.is_none_or(|lost_ns| lost_ns < *offsets_ns);
            let has = offsets.iter().any(|(of, at, _)| of == group && *at == place);
            is_lost |= is_new && has && may_be_lost(*offsets_ns);
        }
        if is_lost {
            self.floors.remove(&key);
            self.lost.entry(key).or_default().push(self.clock.now_ns);
            self.forgotten[2] += 1;
        }
        Ok(())
    }

    /// A group that commits in transactions only was told that this is its offset.
    pub fn got_offset(&self, group: &str, place: Place, offset: i64) -> Verdict {
        let of = |transaction: &&Transaction| {
            let mut offsets = transaction.offsets.iter();
            offsets.any(|(name, at, committed)| name == group && *at == place && *committed == offset)
        };
        let mut found = self.transactions.iter().filter(of).peekable();
        ensure!(found.peek().is_some() || offset < 0, "{group} never committed {offset} of {place:?}");
        let may =
            |transaction: &Transaction| matches!(transaction.outcome, Outcome::Unknown | Outcome::Committed);
        let fine = offset < 0 || found.any(may);
        ensure!(fine, "aborted read: {group} is told {offset} of {place:?}, which was not committed");
        Ok(())
    }

    // ---- faults ----

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
            self.skipped.entry(place).or_default().split_off(&end);
        }
    }

    // ---- the end ----

    /// `log` is all that a live partition holds, from its start on; a marker is an offset without a value.
    pub fn check_log(&mut self, place: Place, start: i64, log: &[(i64, Option<u64>)]) -> Verdict {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        let mut last_of: BTreeMap<u64, u64> = BTreeMap::new();
        let compacted = self.is_compacted(place);
        let mut next = start;
        for &(offset, value) in log {
            let follows = offset == next || (compacted && offset > next);
            ensure!(follows, "{place:?}: offset {offset} follows {}", next - 1);
            next = offset + 1;
            let Some(value) = value else { continue };
            let Some(sent) = self.sent.get(&value) else {
                return Err(format!("{place:?} {offset} holds {value:x}, which nobody sent"));
            };
            let count = counts.entry(value).or_default();
            *count += 1;
            // Its producer was idle for so long that the broker forgot it, and took what it sent again for new.
            let forgot = |sent_ns: &&u64| self.clock.may_forget_producer(sent.attempts_ns[0], **sent_ns);
            let late = sent.attempts_ns[1..].iter().filter(forgot).count();
            let most = if sent.idempotent { 1 + late } else { sent.attempts_ns.len() };
            self.forgotten[0] += u64::from(sent.idempotent && *count > 1);
            ensure!(
                *count <= most,
                "duplicate: {value:x} is in {place:?} {count} times, the last at {offset}"
            );
            if sent.idempotent {
                let last = last_of.entry(value >> 32).or_insert(value);
                ensure!(
                    *last <= value || late > 0,
                    "non-monotonic send: {value:x} follows {last:x} at {place:?} {offset}"
                );
                *last = value.max(*last);
            }
        }
        let held: BTreeMap<i64, u64> =
            log.iter().filter_map(|(offset, value)| Some((*offset, (*value)?))).collect();
        for (offset, (value, ack)) in
            self.acked.get(&place).into_iter().flatten().filter(|(o, _)| **o >= start)
        {
            let there = held.get(offset);
            if there.is_none() && compacted {
                self.removed.entry(place).or_default().insert(*offset, *value);
                continue;
            }
            ensure!(
                there == Some(value),
                "lost write: {place:?} {offset} was acknowledged ({ack:?}) for {value:x}, there is {there:x?}"
            );
        }
        for (offset, value) in self.seen.get(&place).into_iter().flatten().filter(|(o, _)| **o >= start) {
            let there = held.get(offset);
            if there.is_none() && compacted {
                self.removed.entry(place).or_default().insert(*offset, *value);
                continue;
            }
            ensure!(there == Some(value), "{place:?} {offset} was seen as {value:x}, there is {there:x?}");
        }
        let skipped = self.skipped.get(&place).into_iter().flatten().find(|offset| held.contains_key(offset));
        ensure!(skipped.is_none(), "poll skip: {place:?} {skipped:?} is there, and a reader did not get it");
        self.logs.insert(place, FinalLog { start, all: held, committed: BTreeMap::new() });
        Ok(())
    }

    /// `log` is what a reader of committed data gets of a live partition, after [`History::check_log`] had all of it.
    pub fn check_committed(&mut self, place: Place, log: &[(i64, u64)]) -> Verdict {
        let committed: BTreeMap<i64, u64> = log.iter().copied().collect();
        for (&offset, &value) in &committed {
            self.may_be_committed(place, offset, value)?;
        }
        let Some(whole) = self.logs.get(&place) else { return Err(format!("{place:?} was not read")) };
        for (offset, value) in &whole.all {
            let there = committed.get(offset);
            let plain = self.sent.get(value).is_some_and(|sent| sent.transaction.is_none());
            let same = there.is_none_or(|there| there == value);
            ensure!(same, "inconsistent offsets: {place:?} {offset} holds {value:x} and {there:x?}");
            ensure!(
                there.is_some() || !plain || self.is_superseded(place, *offset, *value, &committed),
                "lost write: {value:x} at {place:?} {offset} is in no transaction, and not committed"
            );
        }
        let beyond = committed.keys().find(|offset| !whole.all.contains_key(offset));
        ensure!(
            beyond.is_none(),
            "inconsistent offsets: {place:?} {beyond:?} is there for some readers only"
        );
        for (&offset, &value) in self.removed.get(&place).into_iter().flatten() {
            let may = matches!(self.outcome_of(value), Some(outcome) if outcome != Outcome::Committed);
            ensure!(
                may || self.is_superseded(place, offset, value, &committed),
                "lost write: {value:x} at {place:?} {offset} is compacted away, and was the last of its key"
            );
        }
        let whole = self.logs.entry(place).or_default();
        whole.committed = committed;
        Ok(())
    }

    /// Whether something committed has the key of a value, and lies behind it.
    fn is_superseded(&self, place: Place, at: i64, value: u64, committed: &BTreeMap<i64, u64>) -> bool {
        let Some(key) = self.keys.get(&value).filter(|_| self.is_compacted(place)) else { return false };
        committed.range(at + 1..).any(|(_, later)| self.keys.get(later) == Some(key))
    }

    /// After all logs: what is true of several of them.
    pub fn check_all(&self) -> Verdict {
        self.check_transactions()?;
        self.check_origins()?;
        self.check_groups()
    }

    /// A transaction is there whole or not at all.
    fn check_transactions(&self) -> Verdict {
        let committed: BTreeSet<u64> =
            self.logs.values().flat_map(|log| log.committed.values()).copied().collect();
        // Of these nobody can tell any more whether they were there.
        let superseded: BTreeSet<u64> = (self.removed.iter())
            .flat_map(|(place, removed)| removed.iter().map(move |(offset, value)| (*place, *offset, *value)))
            .filter(|&(place, offset, value)| {
                let log = self.logs.get(&place);
                log.is_some_and(|log| self.is_superseded(place, offset, value, &log.committed))
            })
            .map(|(.., value)| value)
            .collect();
        for Transaction { id, outcome, values, .. } in &self.transactions {
            let kept = values.iter().filter(|value| {
                if superseded.contains(value) {
                    return false;
                }
                let place = self.sent.get(value).map(|sent| sent.place);
                // Where a log begins later than at its start nobody knows what was before it.
                place.and_then(|place| self.logs.get(&place)).is_some_and(|log| log.start == 0)
            });
            let (there, gone): (Vec<u64>, Vec<u64>) =
                kept.copied().partition(|value| committed.contains(value));
            match outcome {
                Outcome::Committed => {
                    ensure!(gone.is_empty(), "lost write: {gone:x?} of {id} were committed");
                }
                Outcome::Unknown => {
                    let whole = there.is_empty() || gone.is_empty();
                    ensure!(whole, "torn transaction of {id}: {there:x?} are there, {gone:x?} are not");
                }
                Outcome::Open | Outcome::Aborted => {
                    ensure!(there.is_empty(), "aborted read: {there:x?} of {id} are {outcome:?}");
                }
            }
        }
        Ok(())
    }

    /// Each input of a processing group has led to one output, and to another each time the group has lost its offset.
    fn check_origins(&self) -> Verdict {
        let mut made: BTreeMap<&Origin, Vec<u64>> = BTreeMap::new();
        for value in self.logs.values().flat_map(|log| log.committed.values()) {
            let Some(origin) = self.sent.get(value).and_then(|sent| sent.origin.as_ref()) else { continue };
            let (group, place, _) = origin;
            let lost = self.lost.get(&(group.clone(), *place)).map_or(0, Vec::len);
            let outputs = made.entry(origin).or_default();
            outputs.push(*value);
            ensure!(outputs.len() <= 1 + lost, "duplicate: {origin:?} led to {outputs:x?}");
        }
        let groups: BTreeSet<&String> = made.keys().map(|(group, ..)| group).collect();
        for group in groups {
            for (place, log) in self.logs.iter().filter(|(place, _)| self.has_role(**place, Role::Input)) {
                let lost = log.committed.keys().find(|at| !made.contains_key(&(group.clone(), *place, **at)));
                ensure!(lost.is_none(), "lost write: {place:?} {lost:?} led to nothing in {group}");
            }
        }
        Ok(())
    }

    /// What a group has committed it has seen.
    fn check_groups(&self) -> Verdict {
        for ((group, place), end) in &self.committed {
            let Some(log) = self.logs.get(place).filter(|_| self.has_role(*place, Role::Input)) else {
                continue;
            };
            let seen = self.seen_by.get(&(group.clone(), *place));
            let unseen = log
                .committed
                .keys()
                .find(|offset| **offset < *end && !seen.is_some_and(|seen| seen.contains(offset)));
            ensure!(
                unseen.is_none(),
                "unseen: {group} committed {end} of {place:?} and never saw {unseen:?}"
            );
        }
        Ok(())
    }
}
