//! Reads whole logs from their beginning and holds them against every acknowledgement ever given: that each acknowledged record
//! is where its acknowledgement said, that nothing came twice, and that offsets have no holes. Used by the crash test, whose
//! logs outlive many runs; a run's own check is in [`super::verify`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::admin::{Admin, End};
use super::cluster::ClusterMap;
use super::sender::Acknowledged;
use super::verify::{PartitionCheck, Tools};
use crate::io::Io;
use crate::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use crate::record::batches;

const FETCH_BYTES: i32 = 8 << 20;
const EXAMPLES_MAX: usize = 20;

/// What an audit found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    pub records: u64,
    /// Acknowledged records that are not at their offset.
    pub lost: u64,
    pub acknowledged: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupt: u64,
    pub offset_gaps: u64,
    pub examples: Vec<String>,
}

impl Audit {
    pub fn passed(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupt + self.offset_gaps == 0
    }
}

/// Audits one topic. Runs in `retried` may have written twice and out of order.
pub fn topic<I: Io>(
    admin: &mut Admin<I>,
    name: &str,
    ledger: &[Acknowledged],
    retried: &BTreeSet<u32>,
) -> Result<Audit, String> {
    let map = admin.whole_cluster(name)?;
    let (first, last) = (admin.ready_offsets(&map, End::Earliest)?, admin.ready_offsets(&map, End::Latest)?);
    let mut by_partition: BTreeMap<u32, Vec<Acknowledged>> = BTreeMap::new();
    for entry in ledger {
        by_partition.entry(entry.partition).or_default().push(*entry);
    }
    let mut audit = Audit::default();
    for partition in 0..map.leaders.len() {
        let mut entries = by_partition.remove(&(partition as u32)).unwrap_or_default();
        entries.sort_unstable_by_key(|entry| entry.base_offset);
        let range = (first[partition], last[partition]);
        audit_partition(admin, &map, partition as u32, range, &entries, retried, &mut audit)?;
    }
    Ok(audit)
}

fn audit_partition<I: Io>(
    admin: &mut Admin<I>,
    map: &ClusterMap,
    partition: u32,
    (from, to): (i64, i64),
    entries: &[Acknowledged],
    retried: &BTreeSet<u32>,
    audit: &mut Audit,
) -> Result<(), String> {
    let mut check = PartitionCheck::new(None, partition, from);
    let mut tools = Tools::default();
    let mut book = Book::new(entries);
    while check.next_offset < to {
        let before = check.next_offset;
        let bytes = admin.fetch(map, partition, before)?;
        for batch in batches(&bytes) {
            let batch = batch.map_err(|error| format!("partition {partition}: {error}"))?;
            check.batch(&batch, None, &mut tools, |identity, offset, _| {
                book.found(offset, (identity.run, identity.producer, identity.sequence));
            });
        }
        if check.next_offset == before {
            return Err(format!("partition {partition}: nothing at offset {before} of {to}"));
        }
    }
    book.end();
    audit.records += check.counts.records;
    audit.corrupt += check.counts.corrupt;
    audit.offset_gaps += check.counts.offset_gaps + check.counts.offset_repeats;
    audit.acknowledged += book.acknowledged;
    audit.lost += book.lost;
    for (run, (duplicated, reordered)) in check.by_run() {
        if !retried.contains(&run) {
            audit.duplicated += duplicated;
            audit.reordered += reordered;
        }
    }
    let lost = book.examples.iter().map(|text| format!("partition {partition}: {text}"));
    audit.examples.extend(lost.chain(check.examples));
    audit.examples.truncate(EXAMPLES_MAX);
    Ok(())
}

/// The acknowledgements of a partition in the order of their offsets, ticked off as records come.
struct Book<'e> {
    entries: &'e [Acknowledged],
    at: usize,
    /// Records found of the entry at `at`.
    ticked: u32,
    acknowledged: u64,
    lost: u64,
    examples: Vec<String>,
}

impl<'e> Book<'e> {
    fn new(entries: &'e [Acknowledged]) -> Book<'e> {
        Book { entries, at: 0, ticked: 0, acknowledged: 0, lost: 0, examples: Vec::new() }
    }

    /// A record came; offsets ascend.
    fn found(&mut self, offset: i64, who: (u32, u16, u64)) {
        while let Some(entry) = self.entries.get(self.at) {
            if offset < entry.base_offset {
                return;
            }
            let index = offset - entry.base_offset;
            if index >= i64::from(entry.count) {
                self.close(entry);
                continue;
            }
            let expected = (entry.run, entry.producer, entry.first_sequence + index as u64);
            if who == expected {
                self.ticked += 1;
            } else if self.examples.len() < EXAMPLES_MAX {
                self.examples.push(format!("offset {offset} holds {who:?}, acknowledged was {expected:?}"));
            }
            return;
        }
    }

    fn close(&mut self, entry: &Acknowledged) {
        self.acknowledged += u64::from(entry.count);
        let lost = u64::from(entry.count.saturating_sub(self.ticked));
        self.lost += lost;
        if lost > 0 && self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("lost {lost} of {entry:?}"));
        }
        self.at += 1;
        self.ticked = 0;
    }

    fn end(&mut self) {
        while let Some(entry) = self.entries.get(self.at) {
            self.close(entry);
        }
    }
}

/// A fetch of one partition, for an audit.
pub(super) fn fetch_request(map: &ClusterMap, partition: u32, offset: i64) -> FetchRequest<'_> {
    let wanted = FetchPartition {
        partition: partition as i32,
        fetch_offset: offset,
        partition_max_bytes: FETCH_BYTES,
        ..FetchPartition::default()
    };
    let topic = FetchTopic {
        topic: Cow::Borrowed(map.topic.as_str()),
        topic_id: map.topic_id,
        partitions: [wanted].into(),
    };
    FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: FETCH_BYTES,
        topics: [topic].into(),
        ..FetchRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first_sequence: u64, count: u32, base_offset: i64) -> Acknowledged {
        Acknowledged { run: 1, producer: 2, partition: 0, first_sequence, count, base_offset }
    }

    fn lost(entries: &[Acknowledged], log: &[(i64, u64)]) -> u64 {
        let mut book = Book::new(entries);
        log.iter().for_each(|&(offset, sequence)| book.found(offset, (1, 2, sequence)));
        book.end();
        assert_eq!(book.acknowledged, entries.iter().map(|entry| u64::from(entry.count)).sum::<u64>());
        book.lost
    }

    #[test]
    fn every_acknowledged_record_is_looked_for_at_its_offset() {
        let entries = [entry(0, 3, 0), entry(3, 2, 5)];
        let whole: Vec<(i64, u64)> = vec![(0, 0), (1, 1), (2, 2), (3, 90), (4, 91), (5, 3), (6, 4)];
        assert_eq!(lost(&entries, &whole), 0);
        assert_eq!(lost(&entries, &whole[..6]), 1, "the log ends early");
        assert_eq!(lost(&entries, &[]), 5);
        let mut other = whole.clone();
        other[1].1 = 7;
        assert_eq!(lost(&entries, &other), 1, "another record at its offset");
        assert_eq!(lost(&[entry(0, 3, 0), entry(9, 3, 1)], &whole), 3, "two acknowledgements of one offset");
    }
}
