//! What a broker may forget because the wall clock says that it is long past, by Apache Kafka's rules and no sooner: producers
//! that wrote nothing to a partition, transactional ids nobody used, the offsets of groups without members.
//!
//! A broker notes the wall clock when something happens and looks at it later; where the clock is set back in between,
//! what happened in the meantime was noted earlier than what it follows. So it is the clock's rise that counts.

use std::collections::BTreeMap;

use super::clients::MILLISECOND_NS;
use super::log_model::{Verdict, ensure};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// `producer.id.expiration.ms`
const PRODUCER_MS: i64 = DAY_MS;
/// `transactional.id.expiration.ms`
const TRANSACTIONAL_ID_MS: i64 = 7 * DAY_MS;
/// `offsets.retention.minutes`
const OFFSETS_MS: i64 = 7 * DAY_MS;
/// So long a request that was sent may be under way.
const LATE_NS: u64 = 30_000 * MILLISECOND_NS;

/// The wall clock, as it went.
#[derive(Default)]
pub struct WallClock {
    /// From when on it was so far ahead of the monotonic clock.
    ahead: Vec<(u64, i64)>,
    pub now_ns: u64,
}

impl WallClock {
    /// It is set.
    pub fn set(&mut self, now_ns: u64, wall_ms: i64) {
        self.now_ns = now_ns;
        self.ahead.push((now_ns, wall_ms - (now_ns / MILLISECOND_NS) as i64));
    }

    /// When it was set, since then.
    fn jumps(&self, since_ns: u64) -> impl Iterator<Item = u64> {
        self.ahead.iter().map(|(at_ns, _)| *at_ns).filter(move |at_ns| *at_ns > since_ns)
    }

    /// How far it has risen, at most, from some time since `from_ns` to a later one in `low_ns..=high_ns`.
    fn rise_ms(&self, from_ns: u64, low_ns: u64, high_ns: u64) -> i64 {
        let (mut lowest_ms, mut rise_ms) = (i64::MAX, 0);
        for (index, &(set_ns, ahead_ms)) in self.ahead.iter().enumerate() {
            let next_ns = self.ahead.get(index + 1).map_or(u64::MAX, |(next_ns, _)| *next_ns);
            let wall_ms = |at_ns: u64| (at_ns / MILLISECOND_NS) as i64 + ahead_ms;
            let (begin_ns, end_ns) = (set_ns.max(from_ns), next_ns.min(high_ns));
            if begin_ns > end_ns || begin_ns == next_ns {
                continue;
            }
            lowest_ms = lowest_ms.min(wall_ms(begin_ns));
            if end_ns >= low_ns {
                rise_ms = rise_ms.max(wall_ms(end_ns) - lowest_ms);
            }
        }
        rise_ms
    }

    /// Whether a partition may have forgotten a producer that wrote to it at `since_ns` or later, when what was sent at `sent_ns`
    /// came to it.
    pub fn may_forget_producer(&self, since_ns: u64, sent_ns: u64) -> bool {
        self.rise_ms(since_ns, since_ns, sent_ns + LATE_NS) >= PRODUCER_MS
    }

    /// A coordinator says that it has forgotten a transactional id, of which this is known.
    pub fn forgets_id(&self, use_: &IdUse) -> Verdict {
        let idle_ns = match *use_ {
            IdUse::Idle { since_ns } => since_ns,
            IdUse::Open { began_ns, timeout_ms, end_ns } => {
                // Its transaction is ended first: as its producer asked, or because of its time, which only a jump shortens.
                let over = |at_ns: &u64| self.rise_ms(began_ns, began_ns, *at_ns) >= timeout_ms as i64;
                let jump_ns = self.jumps(began_ns).find(over).unwrap_or(u64::MAX);
                jump_ns.min(began_ns + timeout_ms * MILLISECOND_NS).min(end_ns.unwrap_or(u64::MAX))
            }
        };
        let rise_ms = self.rise_ms(idle_ns, idle_ns, self.now_ns);
        ensure!(rise_ms >= TRANSACTIONAL_ID_MS, "forgotten id: {use_:?}, and the clock rose by {rise_ms} ms");
        Ok(())
    }
}

/// The last that a producer knows of its transactional id.
#[derive(Debug)]
pub enum IdUse {
    /// It was in use then, or by others later.
    Idle { since_ns: u64 },
    /// It has an open transaction, unless that took too long; since `end_ns` it may have been ended.
    Open { began_ns: u64, timeout_ms: u64, end_ns: Option<u64> },
}

/// When the groups had members, as far as the members can tell.
#[derive(Default)]
pub struct Presence {
    stays: BTreeMap<String, Vec<Stay>>,
}

/// A member from when it knew that it was one until it may have been taken for dead.
struct Stay {
    member: String,
    from_ns: u64,
    until_ns: u64,
    over: bool,
}

impl Presence {
    /// A member was told that it is one, as it had asked, and is for as long as its session lasts.
    pub fn shows(&mut self, group: &str, member: &str, asked_ns: u64, now_ns: u64, session_ms: u64) {
        let until_ns = asked_ns + session_ms * MILLISECOND_NS;
        let stays = self.stays.entry(group.to_string()).or_default();
        match stays.iter_mut().find(|stay| !stay.over && stay.member == member) {
            Some(stay) => stay.until_ns = stay.until_ns.max(until_ns),
            None => stays.push(Stay { member: member.to_string(), from_ns: now_ns, until_ns, over: false }),
        }
    }

    /// It leaves, or is told that it is not.
    pub fn leaves(&mut self, group: &str, member: &str, now_ns: u64) {
        let stays = self.stays.get_mut(group).into_iter().flatten();
        for stay in stays.filter(|stay| !stay.over && stay.member == member) {
            (stay.until_ns, stay.over) = (stay.until_ns.min(now_ns), true);
        }
    }

    /// Whether an offset that a group committed at `since_ns` or later may be gone by now: it has had no members for so long, or,
    /// by the newer protocol, has none and has not committed for so long.
    pub fn may_lose_offsets(&self, clock: &WallClock, group: &str, since_ns: u64, newer: bool) -> bool {
        let mut stays: Vec<(u64, u64)> = (self.stays.get(group).into_iter().flatten())
            .map(|stay| (stay.from_ns, stay.until_ns))
            .filter(|(from_ns, until_ns)| from_ns <= until_ns)
            .collect();
        stays.push((clock.now_ns, u64::MAX));
        stays.sort_unstable();
        let mut empty_ns = since_ns;
        for (from_ns, until_ns) in stays {
            if empty_ns < from_ns {
                let from = if newer { since_ns } else { empty_ns };
                if clock.rise_ms(from, empty_ns, from_ns) >= OFFSETS_MS {
                    return true;
                }
            }
            empty_ns = empty_ns.max(until_ns);
        }
        false
    }
}
