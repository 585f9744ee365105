//! The partitions a shard owns: who waits for an append to be acknowledged, who wants to hear of new records.
//!
//! Storage says when a high watermark has moved; nothing here looks at a clock or starts I/O.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::admissions::Admissions;
use super::mail::{Answer, GatherRef, Task, Watch};
use super::survey::Traffic;
use crate::config::TopicConfig;
use crate::protocol::Uuid;
use crate::record::validate::Rules;
use crate::storage::LogId;

/// Watches of one partition above which those whose time is over are swept out.
const WATCHES_SWEPT: usize = 16;

pub struct Partition {
    pub log: LogId,
    pub topic: Arc<str>,
    pub topic_id: Uuid,
    pub partition: i32,
    pub leader_epoch: i32,
    pub config: Arc<TopicConfig>,
    pub rules: Rules,
    pub traffic: Traffic,
    /// Appends that wait for the high watermark, in offset order.
    waiters: VecDeque<Waiter>,
    watches: Vec<(GatherRef, Watch)>,
    /// Tasks that wait for a disk read.
    pub parked: Vec<Task<'static>>,
    /// Appends that wait for room in the journal, in order.
    pub stalled: VecDeque<Task<'static>>,
    /// Appends that wait to be part of their transaction.
    pub admissions: Admissions,
}

/// Answered when the high watermark is past `last_offset`.
pub struct Waiter {
    pub last_offset: i64,
    pub to: WaiterTo,
    pub answer: Answer,
}

pub enum WaiterTo {
    Gather(GatherRef, u32),
    /// An append of this shard's own group coordinator.
    Coordinator(u64),
    /// An append of its transaction coordinator.
    Transactions(u64),
}

impl Partition {
    pub fn new(
        log: LogId,
        topic: Arc<str>,
        topic_id: Uuid,
        partition: i32,
        leader_epoch: i32,
        config: Arc<TopicConfig>,
    ) -> Partition {
        let rules = super::handlers::produce::rules(&config);
        Partition {
            log,
            topic,
            topic_id,
            partition,
            leader_epoch,
            config,
            rules,
            traffic: Traffic::default(),
            waiters: VecDeque::new(),
            watches: Vec::new(),
            parked: Vec::new(),
            stalled: VecDeque::new(),
            admissions: Admissions::default(),
        }
    }

    pub fn wait(&mut self, waiter: Waiter) {
        // A duplicate is told the offset it got at first, which may be below offsets that already wait.
        let at = self.waiters.partition_point(|other| other.last_offset <= waiter.last_offset);
        self.waiters.insert(at, waiter);
    }

    /// The next waiter whose offsets are below `high_watermark`.
    pub fn pop_waiter(&mut self, high_watermark: i64) -> Option<Waiter> {
        if self.waiters.front()?.last_offset < high_watermark { self.waiters.pop_front() } else { None }
    }

    pub fn watch(&mut self, gather: GatherRef, watch: Watch, now_ns: u64) {
        if let Some(place) = self.watches.iter_mut().find(|(other, _)| *other == gather) {
            place.1 = watch;
            return;
        }
        if self.watches.len() >= WATCHES_SWEPT {
            self.watches.retain(|(_, watch)| watch.until_ns > now_ns);
        }
        self.watches.push((gather, watch));
    }

    /// All that watch; none does any more.
    pub fn take_watches(&mut self) -> impl Iterator<Item = GatherRef> + '_ {
        self.watches.drain(..).map(|(gather, _)| gather)
    }
}

/// The partitions of a shard, by name and by log.
#[derive(Default)]
pub struct Partitions {
    slots: Vec<Option<Partition>>,
    free: Vec<usize>,
    by_key: HashMap<(Uuid, i32), usize, foldhash::fast::FixedState>,
    by_log: HashMap<LogId, usize, foldhash::fast::FixedState>,
}

impl Partitions {
    pub fn insert(&mut self, partition: Partition) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.by_key.insert((partition.topic_id, partition.partition), slot);
        self.by_log.insert(partition.log, slot);
        self.slots[slot] = Some(partition);
    }

    pub fn remove(&mut self, topic_id: Uuid, partition: i32) -> Option<Partition> {
        let slot = self.by_key.remove(&(topic_id, partition))?;
        let partition = self.slots[slot].take()?;
        self.by_log.remove(&partition.log);
        self.free.push(slot);
        Some(partition)
    }

    #[inline]
    pub fn find(&mut self, topic_id: Uuid, partition: i32) -> Option<&mut Partition> {
        self.slots[*self.by_key.get(&(topic_id, partition))?].as_mut()
    }

    pub fn contains(&self, topic_id: Uuid, partition: i32) -> bool {
        self.by_key.contains_key(&(topic_id, partition))
    }

    #[inline]
    pub fn of_log(&mut self, log: LogId) -> Option<&mut Partition> {
        self.slots[*self.by_log.get(&log)?].as_mut()
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Those of `count` slots from `first` on, and where the next ones begin.
    pub fn piece(&self, first: usize, count: usize) -> (impl Iterator<Item = &Partition>, Option<usize>) {
        let end = first.saturating_add(count);
        let slots = self.slots.get(first..end.min(self.slots.len())).unwrap_or_default();
        (slots.iter().flatten(), (end < self.slots.len()).then_some(end))
    }

    /// All, in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.slots.iter_mut().flatten()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.slots.iter().flatten()
    }
}
