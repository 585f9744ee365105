//! The committed offsets of one group.
//!
//! A commit counts for readers once its append is confirmed; until then it is pending, and seen only by those who ask for
//! the latest. Commits of one partition of a topic are confirmed in the order they were made. Every commit keeps the
//! offset of its own record: the later record wins, which also settles transactional commits that become visible late.
//!
//! A commit within a transaction counts for nobody until the transaction is committed; while it is open, those who ask for stable
//! offsets have to come again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::Uuid;

use super::AppendId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Of the record that holds it; -1 while it is not known.
    pub record_offset: i64,
    pub offset: i64,
    /// -1 for none.
    pub leader_epoch: i32,
    pub metadata: Arc<str>,
    pub commit_timestamp_ms: i64,
    /// Set by old clients, which name a retention of their own.
    pub expire_timestamp_ms: Option<i64>,
    /// Zero where it is not known: written by an older version.
    pub topic_id: Uuid,
}

/// About what one partition's offset costs beside its metadata.
pub const OFFSET_OVERHEAD: usize = 160;

#[derive(Clone, Debug, Default)]
struct Entry {
    committed: Option<CommittedOffset>,
    /// Appended, not confirmed; none deletes.
    pending: Vec<(AppendId, Option<CommittedOffset>)>,
    /// Commits within open transactions, in the order of their records.
    open: Vec<OpenOffset>,
}

/// A commit within a transaction.
#[derive(Clone, Debug)]
struct OpenOffset {
    producer_id: i64,
    /// Until its record is confirmed.
    append: Option<AppendId>,
    value: CommittedOffset,
}

impl Entry {
    fn latest(&self) -> Option<&CommittedOffset> {
        match self.pending.last() {
            Some((_, value)) => value.as_ref(),
            None => self.committed.as_ref(),
        }
    }

    fn bytes(&self) -> usize {
        let pending = self.pending.iter().filter_map(|(_, value)| value.as_ref());
        let open = self.open.iter().map(|open| OFFSET_OVERHEAD + open.value.metadata.len());
        OFFSET_OVERHEAD
            + self.committed.iter().chain(pending).map(|value| value.metadata.len()).sum::<usize>()
            + open.sum::<usize>()
    }

    fn is_empty(&self) -> bool {
        self.committed.is_none() && self.pending.is_empty() && self.open.is_empty()
    }

    /// A deletion at `record_offset` takes with it what open transactions have committed before.
    fn delete_open(&mut self, record_offset: i64) {
        self.open.retain(|open| open.append.is_some() || open.value.record_offset > record_offset);
    }
}

/// Whose view: what is confirmed, or what will be once all appends under way are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Committed,
    Latest,
}

#[derive(Clone, Debug, Default)]
pub struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, Entry>>,
    count: usize,
    bytes: usize,
}

impl Offsets {
    pub fn get(&self, topic: &str, partition: i32, view: View) -> Option<&CommittedOffset> {
        let entry = self.topics.get(topic)?.get(&partition)?;
        match view {
            View::Committed => entry.committed.as_ref(),
            View::Latest => entry.latest(),
        }
    }

    /// By topic and partition.
    pub fn iter(&self, view: View) -> impl Iterator<Item = (&Arc<str>, i32, &CommittedOffset)> {
        self.topics.iter().flat_map(move |(topic, partitions)| {
            partitions.iter().filter_map(move |(&partition, entry)| {
                let value = match view {
                    View::Committed => entry.committed.as_ref(),
                    View::Latest => entry.latest(),
                };
                value.map(|value| (topic, partition, value))
            })
        })
    }

    /// All partitions that have an offset once the appends under way are done, or open transactions are committed.
    pub fn latest_keys(&self) -> Vec<(Arc<str>, i32)> {
        let keys = self.topics.iter().flat_map(|(topic, partitions)| {
            let wanted = |entry: &Entry| entry.latest().is_some() || !entry.open.is_empty();
            let partitions = partitions.iter().filter(move |(_, entry)| wanted(entry));
            partitions.map(move |(&partition, _)| (topic.clone(), partition))
        });
        keys.collect()
    }

    /// Whether open transactions hold commits.
    pub fn has_open(&self) -> bool {
        self.topics.values().any(|partitions| partitions.values().any(|entry| !entry.open.is_empty()))
    }

    /// Whether an open transaction holds a commit of the partition.
    pub fn is_unstable(&self, topic: &str, partition: i32) -> bool {
        let entry = self.topics.get(topic).and_then(|partitions| partitions.get(&partition));
        entry.is_some_and(|entry| !entry.open.is_empty())
    }

    /// The stored name of a topic, so that offsets share it.
    pub fn topic_name(&self, topic: &str) -> Arc<str> {
        self.topics.get_key_value(topic).map_or_else(|| topic.into(), |(name, _)| name.clone())
    }

    /// Nothing committed and nothing under way.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Partitions with an entry.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A commit, or a deletion, whose record is being appended.
    pub fn begin(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        append: AppendId,
        value: Option<CommittedOffset>,
    ) {
        self.change(topic, partition, |entry| entry.pending.push((append, value)));
    }

    /// The record of that append is in the log at `record_offset`.
    pub fn confirm(&mut self, topic: &Arc<str>, partition: i32, append: AppendId, record_offset: i64) {
        self.change(topic, partition, |entry| {
            let Some(at) = entry.pending.iter().position(|(id, _)| *id == append) else { return };
            let (_, value) = entry.pending.remove(at);
            if value.is_none() {
                entry.delete_open(record_offset);
            }
            if entry.committed.as_ref().is_none_or(|old| old.record_offset <= record_offset) {
                entry.committed = value.map(|value| CommittedOffset { record_offset, ..value });
            }
        });
    }

    /// A commit within a transaction, whose record is being appended.
    pub fn begin_open(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        append: AppendId,
        producer_id: i64,
        value: CommittedOffset,
    ) {
        let open = OpenOffset { producer_id, append: Some(append), value };
        self.change(topic, partition, |entry| entry.open.push(open));
    }

    pub fn confirm_open(&mut self, topic: &Arc<str>, partition: i32, append: AppendId, record_offset: i64) {
        self.change(topic, partition, |entry| {
            let Some(at) = entry.open.iter().position(|open| open.append == Some(append)) else { return };
            entry.open[at].append = None;
            entry.open[at].value.record_offset = record_offset;
            // It takes the place of what the transaction has committed before.
            let producer_id = entry.open[at].producer_id;
            let mut index = 0;
            entry.open.retain(|open| {
                index += 1;
                index > at || open.producer_id != producer_id || open.append.is_some()
            });
        });
    }

    pub fn abandon_open(&mut self, topic: &Arc<str>, partition: i32, append: AppendId) {
        self.change(topic, partition, |entry| entry.open.retain(|open| open.append != Some(append)));
    }

    /// What a transactional record in the log says, read in the order of the log.
    pub fn replay_open(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        producer_id: i64,
        value: CommittedOffset,
    ) {
        self.change(topic, partition, |entry| {
            entry.open.retain(|open| open.producer_id != producer_id);
            entry.open.push(OpenOffset { producer_id, append: None, value });
        });
    }

    /// A producer's transaction has ended.
    pub fn end_open(&mut self, topic: &Arc<str>, partition: i32, producer_id: i64, commit: bool) {
        self.change(topic, partition, |entry| {
            let ended: Vec<_> = entry
                .open
                .extract_if(.., |open| open.producer_id == producer_id && open.append.is_none())
                .collect();
            for open in ended.into_iter().filter(|_| commit) {
                let committed = entry.committed.as_ref();
                if committed.is_none_or(|old| old.record_offset <= open.value.record_offset) {
                    entry.committed = Some(open.value);
                }
            }
        });
    }

    /// The record of that append will never be in the log.
    pub fn abandon(&mut self, topic: &Arc<str>, partition: i32, append: AppendId) {
        self.change(topic, partition, |entry| entry.pending.retain(|(id, _)| *id != append));
    }

    /// What a record in the log says, read in the order of the log.
    pub fn replay(&mut self, topic: &Arc<str>, partition: i32, value: Option<CommittedOffset>) {
        self.change(topic, partition, |entry| match (&entry.committed, value) {
            (Some(old), Some(new)) if old.record_offset > new.record_offset => {}
            (_, None) => {
                entry.delete_open(i64::MAX);
                entry.committed = None;
            }
            (_, value) => entry.committed = value,
        });
    }

    /// The one place that changes an entry: keeps count and bytes, and no empty entry.
    fn change(&mut self, topic: &Arc<str>, partition: i32, change: impl FnOnce(&mut Entry)) {
        let partitions = self.topics.entry(topic.clone()).or_default();
        let (mut entry, is_new) = match partitions.remove(&partition) {
            Some(entry) => (entry, false),
            None => (Entry::default(), true),
        };
        if !is_new {
            self.bytes -= entry.bytes();
            self.count -= 1;
        }
        change(&mut entry);
        if !entry.is_empty() {
            self.bytes += entry.bytes();
            self.count += 1;
            partitions.insert(partition, entry);
        } else if partitions.is_empty() {
            self.topics.remove(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64, record_offset: i64) -> CommittedOffset {
        CommittedOffset {
            record_offset,
            offset,
            leader_epoch: -1,
            metadata: "m".into(),
            commit_timestamp_ms: 0,
            expire_timestamp_ms: None,
            topic_id: Uuid::ZERO,
        }
    }

    #[test]
    fn pending_until_confirmed() {
        let topic: Arc<str> = "t".into();
        let mut offsets = Offsets::default();
        let seen = |offsets: &Offsets, view| offsets.get("t", 0, view).map(|value| value.offset);
        offsets.begin(&topic, 0, AppendId(1), Some(at(10, -1)));
        offsets.begin(&topic, 0, AppendId(2), None);
        offsets.begin(&topic, 0, AppendId(3), Some(at(30, -1)));
        assert_eq!((seen(&offsets, View::Committed), seen(&offsets, View::Latest)), (None, Some(30)));
        offsets.confirm(&topic, 0, AppendId(1), 100);
        assert_eq!(seen(&offsets, View::Committed), Some(10));
        offsets.abandon(&topic, 0, AppendId(3));
        assert_eq!((seen(&offsets, View::Committed), seen(&offsets, View::Latest)), (Some(10), None));
        offsets.confirm(&topic, 0, AppendId(2), 101);
        assert!(offsets.is_empty());
        assert_eq!((offsets.len(), offsets.bytes()), (0, 0));
    }

    #[test]
    fn a_transaction_counts_when_it_is_committed() {
        let topic: Arc<str> = "t".into();
        let mut offsets = Offsets::default();
        let seen = |offsets: &Offsets| offsets.get("t", 0, View::Latest).map(|value| value.offset);
        offsets.begin_open(&topic, 0, AppendId(1), 7, at(10, -1));
        offsets.begin_open(&topic, 0, AppendId(2), 7, at(20, -1));
        offsets.begin_open(&topic, 0, AppendId(3), 8, at(30, -1));
        assert!(offsets.is_unstable("t", 0) && !offsets.is_unstable("t", 1));
        offsets.confirm_open(&topic, 0, AppendId(1), 100);
        offsets.confirm_open(&topic, 0, AppendId(2), 101);
        offsets.confirm_open(&topic, 0, AppendId(3), 102);
        offsets.replay(&topic, 0, Some(at(5, 103)));
        assert_eq!((seen(&offsets), offsets.latest_keys().len()), (Some(5), 1));
        offsets.end_open(&topic, 0, 7, true);
        assert_eq!(seen(&offsets), Some(5), "the later record wins");
        offsets.end_open(&topic, 0, 8, false);
        assert!(!offsets.is_unstable("t", 0));
        offsets.begin_open(&topic, 0, AppendId(4), 7, at(40, -1));
        offsets.confirm_open(&topic, 0, AppendId(4), 110);
        offsets.begin_open(&topic, 0, AppendId(5), 7, at(50, -1));
        offsets.abandon_open(&topic, 0, AppendId(5));
        offsets.end_open(&topic, 0, 7, true);
        assert_eq!(seen(&offsets), Some(40));
        // A deletion takes what was committed before it.
        offsets.replay_open(&topic, 0, 7, at(60, 120));
        offsets.begin(&topic, 0, AppendId(6), None);
        offsets.confirm(&topic, 0, AppendId(6), 121);
        assert!(offsets.is_empty() && (offsets.len(), offsets.bytes()) == (0, 0));
    }

    #[test]
    fn the_later_record_wins() {
        let topic: Arc<str> = "t".into();
        let mut offsets = Offsets::default();
        offsets.replay(&topic, 0, Some(at(5, 20)));
        offsets.replay(&topic, 0, Some(at(4, 19)));
        assert_eq!(offsets.get("t", 0, View::Committed).map(|value| value.offset), Some(5));
    }
}
