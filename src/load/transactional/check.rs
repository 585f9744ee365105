//! What a reader of committed data finds, against what the producers were told.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Done, Ended};
use crate::io::Io;
use crate::load::admin::{Admin, End};
use crate::load::cluster::ClusterMap;
use crate::load::intervals::Intervals;
use crate::load::options::Options;
use crate::load::payload::Filler;
use crate::load::verify::{Allowed, PartitionCheck, Sent, Tools, Verdict, compare};
use crate::record::batches;

#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    pub passed: bool,
    /// Records of transactions that were aborted.
    pub aborted_read: u64,
    /// Transactions without an answer to their commit: there whole, or not at all.
    pub unknown_whole: u64,
    pub unknown_absent: u64,
    /// Of which a part is there.
    pub torn: u64,
    /// Partitions with a transaction left open: their committed end is not their end.
    pub open_partitions: u64,
    #[serde(flatten)]
    pub records: Verdict,
}

/// Which sequences of a producer and partition were read.
type Read = BTreeMap<(u16, u32), Intervals>;

/// Reads the topic from `first_offsets` to its end.
pub fn check<I: Io>(
    admin: &mut Admin<I>,
    map: &ClusterMap,
    run: u32,
    first_offsets: &[i64],
    done: &[Done],
    options: &Options,
) -> Result<Verification, String> {
    let ends = settled_ends(admin, map, options.drain_timeout_ns)?;
    let all = admin.offsets(map, End::Latest)?;
    let filler = Filler::new(run, options.record_bytes);
    let (mut checks, mut read) = (Vec::new(), Read::new());
    for (partition, &first) in first_offsets.iter().enumerate() {
        let mut check = PartitionCheck::new(Some(run), partition as u32, first);
        read_partition(admin, map, &mut check, ends[partition], &filler, &mut read)?;
        checks.push(check);
    }
    let sent = sent(done);
    let records = compare(run, sent.iter().map(|(key, sent)| (*key, sent)), &checks, Allowed::default());
    let (mut aborted_read, mut unknown_whole, mut unknown_absent, mut torn) = (0, 0, 0, 0);
    for transaction in done {
        let found = found(transaction, &read);
        let records: u64 = transaction.pieces.iter().map(|(_, from, to)| to - from).sum();
        match transaction.ended {
            Ended::Committed => {}
            Ended::Aborted => aborted_read += found,
            Ended::Unknown if found == records => unknown_whole += 1,
            Ended::Unknown if found == 0 => unknown_absent += 1,
            Ended::Unknown => torn += 1,
        }
    }
    let open_partitions = ends.iter().zip(&all).filter(|(committed, all)| committed != all).count() as u64;
    let passed = records.passed && aborted_read == 0 && torn == 0 && open_partitions == 0;
    Ok(Verification { passed, aborted_read, unknown_whole, unknown_absent, torn, open_partitions, records })
}

/// The ends for readers of committed data, once no transaction is open, or after some time.
fn settled_ends<I: Io>(admin: &mut Admin<I>, map: &ClusterMap, patience_ns: u64) -> Result<Vec<i64>, String> {
    let until_ns = admin.now_ns() + patience_ns;
    loop {
        let committed = admin.ready_offsets(map, End::Committed)?;
        if committed == admin.ready_offsets(map, End::Latest)? || admin.now_ns() >= until_ns {
            return Ok(committed);
        }
        admin.pause();
    }
}

fn read_partition<I: Io>(
    admin: &mut Admin<I>,
    map: &ClusterMap,
    check: &mut PartitionCheck,
    end: i64,
    filler: &Filler,
    read: &mut Read,
) -> Result<(), String> {
    let mut tools = Tools::default();
    let partition = check.partition();
    while check.next_offset < end {
        let before = check.next_offset;
        let (bytes, mut aborted) = admin.fetch_committed(map, partition, before)?;
        for batch in batches(&bytes) {
            let batch = batch.map_err(|error| format!("partition {partition}: {error}"))?;
            let skipped = aborted.skips(&batch).map_err(|error| format!("partition {partition}: {error}"))?;
            if skipped {
                check.next_offset = check.next_offset.max(batch.header().next_offset());
                continue;
            }
            check.batch(&batch, Some(filler), &mut tools, |identity, _, _| {
                let of = read.entry((identity.producer, identity.partition)).or_default();
                of.insert(identity.sequence, identity.sequence + 1);
            });
        }
        if check.next_offset == before {
            return Err(format!("partition {partition}: nothing at offset {before} of {end}"));
        }
    }
    Ok(())
}

/// What each producer was told of each partition.
fn sent(done: &[Done]) -> BTreeMap<(u16, u32), Sent> {
    let mut all: BTreeMap<(u16, u32), Sent> = BTreeMap::new();
    for transaction in done {
        for &(partition, from, to) in &transaction.pieces {
            let sent = all.entry((transaction.producer, partition)).or_default();
            sent.next_sequence = sent.next_sequence.max(to);
            match transaction.ended {
                Ended::Committed => sent.acknowledge(from, (to - from) as u32, -1),
                Ended::Unknown => sent.unanswered.insert(from, to),
                Ended::Aborted => {}
            }
        }
    }
    all
}

/// How many of a transaction's records were read.
fn found(transaction: &Done, read: &Read) -> u64 {
    let pieces = transaction.pieces.iter();
    let of = |&(partition, from, to): &(u32, u64, u64)| {
        let read = read.get(&(transaction.producer, partition));
        read.map_or(0, |read| read.intersection(&Intervals::of(from, to)).count())
    };
    pieces.map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_of_a_transaction_is_counted_over_its_partitions() {
        let done =
            |ended, from| Done { producer: 1, ended, pieces: vec![(0, from, from + 4), (3, from, from + 2)] };
        let all = [done(Ended::Committed, 0), done(Ended::Aborted, 4), done(Ended::Unknown, 8)];
        let mut read = Read::new();
        read.insert((1, 0), Intervals::of(0, 9));
        read.insert((1, 3), Intervals::of(0, 2));
        read.insert((2, 3), Intervals::of(4, 100));
        assert_eq!(all.each_ref().map(|transaction| found(transaction, &read)), [6, 4, 1]);
        let sent = sent(&all);
        let of_first = &sent[&(1, 0)];
        assert_eq!(of_first.acked, Intervals::of(0, 4));
        assert_eq!(of_first.unanswered, Intervals::of(8, 12));
        assert_eq!((of_first.next_sequence, sent[&(1, 3)].next_sequence), (12, 10));
    }
}
