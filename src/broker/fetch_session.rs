//! Incremental fetch sessions (KIP-227): the broker keeps what a client fetches, the client sends only what changed, and
//! the answer names only partitions with news.
//!
//! Sessions belong to a shard, for a client's connection does; a session id names its shard in its upper bits, so that
//! another shard answers FETCH_SESSION_ID_NOT_FOUND and the client starts anew. The cache is bounded: a new session takes
//! the place of one that has not been used for `SESSION_IDLE_NS`, else the fetch goes without one, as in Kafka.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::Uuid;
use crate::protocol::error_code::ErrorCode;

/// A session is given up for a new one when unused for this long (Kafka's two minutes).
const SESSION_IDLE_NS: u64 = 120_000_000_000;
/// Session ids of one shard; the upper bits are the shard.
const ID_BITS: u32 = 20;

/// One partition as the client asks for it.
#[derive(Clone, Debug)]
pub struct FetchPartition {
    pub offset: i64,
    pub max_bytes: i32,
    pub current_leader_epoch: i32,
    pub last_fetched_epoch: i32,
    /// What the client was told last; news is what differs.
    pub told_high_watermark: i64,
    pub told_log_start_offset: i64,
}

/// Key order is the order of partitions in answers, which a rotation makes fair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FetchKey {
    pub name: Arc<str>,
    pub topic_id: Uuid,
    pub partition: i32,
}

/// A fetch under way.
pub struct SessionFetch {
    /// 0 without a session.
    pub session_id: i32,
    /// Whether only news is answered.
    pub incremental: bool,
    pub parts: Vec<(FetchKey, FetchPartition)>,
    pub min_bytes: usize,
    pub max_bytes: usize,
    /// Nothing of open transactions, and what to skip of aborted ones.
    pub read_committed: bool,
    pub max_wait_until_ns: u64,
    pub parked: bool,
    /// A watched partition moved while the parts were being read.
    pub moved: bool,
}

#[derive(Default)]
pub struct FetchSessions {
    shard: usize,
    slots_max: usize,
    next_id: u32,
    sessions: BTreeMap<i32, Session>,
}

struct Session {
    epoch: i32,
    partitions: BTreeMap<FetchKey, FetchPartition>,
    used_at_ns: u64,
    in_use: bool,
    /// Where the next answer begins, so that the first partitions cannot starve the last.
    rotation: usize,
}

/// What a request's session fields amount to.
pub enum Begin {
    Error(ErrorCode),
    /// Without a session: the partitions as given.
    Sessionless,
    /// A new session with this id.
    Full(i32),
    /// The next fetch of a session.
    Incremental(i32),
}

impl FetchSessions {
    pub fn new(shard: usize, slots_max: usize) -> FetchSessions {
        FetchSessions { shard, slots_max, next_id: 0, sessions: BTreeMap::new() }
    }

    /// Finds or makes the session of a request (`id`, `epoch`); `updates` are its partitions, `forgotten` those to drop.
    pub fn begin(
        &mut self,
        id: i32,
        epoch: i32,
        updates: &[(FetchKey, FetchPartition)],
        forgotten: &[FetchKey],
        now_ns: u64,
    ) -> Begin {
        if epoch == -1 || epoch == 0 {
            self.close(id);
            if epoch == -1 {
                return Begin::Sessionless;
            }
            return self.open(updates, now_ns).map_or(Begin::Sessionless, Begin::Full);
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return Begin::Error(ErrorCode::FetchSessionIdNotFound);
        };
        if session.epoch != epoch || session.in_use {
            return Begin::Error(ErrorCode::InvalidFetchSessionEpoch);
        }
        session.epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        session.used_at_ns = now_ns;
        for key in forgotten {
            session.partitions.remove(key);
        }
        for (key, update) in updates {
            let told =
                session.partitions.get(key).map(|old| (old.told_high_watermark, old.told_log_start_offset));
            let mut update = update.clone();
            (update.told_high_watermark, update.told_log_start_offset) = told.unwrap_or((-1, -1));
            session.partitions.insert(key.clone(), update);
        }
        Begin::Incremental(id)
    }

    fn open(&mut self, partitions: &[(FetchKey, FetchPartition)], now_ns: u64) -> Option<i32> {
        if self.sessions.len() >= self.slots_max {
            let (&oldest, session) =
                self.sessions.iter().filter(|(_, s)| !s.in_use).min_by_key(|(_, s)| s.used_at_ns)?;
            if now_ns.saturating_sub(session.used_at_ns) < SESSION_IDLE_NS {
                return None;
            }
            self.sessions.remove(&oldest);
        }
        let id = loop {
            self.next_id = (self.next_id + 1) & ((1 << ID_BITS) - 1);
            let id = ((self.shard as i32) << ID_BITS) | self.next_id as i32;
            if self.next_id != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let partitions = partitions.iter().cloned().collect();
        self.sessions
            .insert(id, Session { epoch: 1, partitions, used_at_ns: now_ns, in_use: false, rotation: 0 });
        Some(id)
    }

    pub fn close(&mut self, id: i32) {
        self.sessions.remove(&id);
    }

    /// Puts the partitions to read into `parts`, and marks the session as in use until [`FetchSessions::end`].
    pub fn partitions(&mut self, id: i32, parts: &mut Vec<(FetchKey, FetchPartition)>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.in_use = true;
        parts.extend(session.partitions.iter().map(|(key, part)| (key.clone(), part.clone())));
        if !parts.is_empty() {
            let middle = session.rotation % parts.len();
            parts.rotate_left(middle);
        }
    }

    /// Ends a fetch: remembers what was told of each partition. `moved` is how many partitions got records.
    pub fn end<'a>(
        &mut self,
        id: i32,
        told: impl Iterator<Item = (&'a FetchKey, i64, i64)>,
        with_records: usize,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.in_use = false;
        session.rotation = session.rotation.wrapping_add(with_records);
        for (key, high_watermark, log_start_offset) in told {
            if let Some(partition) = session.partitions.get_mut(key) {
                partition.told_high_watermark = high_watermark;
                partition.told_log_start_offset = log_start_offset;
            }
        }
    }
}
