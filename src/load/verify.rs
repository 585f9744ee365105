//! Whether what was sent was read: each record, once, in order, unchanged.
//!
//! Both sides keep ranges of sequence numbers per producer and partition. The producers' side ([`Sent`]) knows what was
//! acknowledged, the readers' side ([`PartitionCheck`]) what came; [`compare`] holds them against each other after the readers
//! have come to the end. A fingerprint over (sequence, offset) of each batch shows a broker that acknowledged another offset than
//! it wrote, in constant memory.

use std::collections::BTreeMap;

use serde::Serialize;

use super::intervals::Intervals;
use super::payload::{Filler, IDENTITY_BYTES, Identity, mix};
use crate::record::compression::DECOMPRESSED_BYTES_MAX_DEFAULT;
use crate::record::{Decompressor, Record, RecordBatch};

/// Findings told in words, at most.
const EXAMPLES_MAX: usize = 10;

/// What one producer sent to one partition.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// The sequence of the next record.
    pub next_sequence: u64,
    pub acked: Intervals,
    /// Neither acknowledged nor known to be refused: acks=0, or given up without an answer. They may be there or not.
    pub unanswered: Intervals,
    fingerprint: u64,
    /// An acknowledgement without an offset: the fingerprint says nothing.
    offsets_unknown: bool,
}

impl Sent {
    /// An acknowledged batch; a negative offset is none.
    pub fn acknowledge(&mut self, first_sequence: u64, count: u32, base_offset: i64) {
        self.acked.insert(first_sequence, first_sequence + u64::from(count));
        if base_offset < 0 {
            self.offsets_unknown = true;
        } else {
            self.fingerprint = self.fingerprint.wrapping_add(fingerprint(first_sequence, base_offset));
        }
    }
}

fn fingerprint(first_sequence: u64, base_offset: i64) -> u64 {
    mix(mix(first_sequence) ^ base_offset as u64)
}

/// Counts of one reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReadCounts {
    pub records: u64,
    pub batches: u64,
    /// Of other runs.
    pub foreign: u64,
    pub corrupt: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Offsets that no record had.
    pub offset_gaps: u64,
    /// Records at offsets that had been read already.
    pub offset_repeats: u64,
    /// Partitions whose log no longer had the place a reader had come to.
    pub out_of_range: u64,
}

impl ReadCounts {
    pub fn add(&mut self, other: &ReadCounts) {
        self.records += other.records;
        self.batches += other.batches;
        self.foreign += other.foreign;
        self.corrupt += other.corrupt;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.offset_gaps += other.offset_gaps;
        self.offset_repeats += other.offset_repeats;
        self.out_of_range += other.out_of_range;
    }
}

/// What a reader saw of one sender in a partition.
#[derive(Clone, Debug, Default)]
struct Seen {
    next: u64,
    /// Below `next` and not seen yet.
    missing: Intervals,
    fingerprint: u64,
    duplicated: u64,
    reordered: u64,
}

/// Memory a reader needs to look into batches.
#[derive(Default)]
pub struct Tools {
    decompressor: Decompressor,
    scratch: Vec<u8>,
}

/// The checker of one partition, fed batch by batch in the order of the log.
#[derive(Clone, Debug)]
pub struct PartitionCheck {
    /// `None`: records of every run are checked.
    run: Option<u32>,
    partition: u32,
    /// Where to read on.
    pub next_offset: i64,
    senders: Vec<Seen>,
    index: BTreeMap<(u32, u16), usize>,
    /// The sender of the record before.
    last: Option<((u32, u16), usize)>,
    pub counts: ReadCounts,
    pub examples: Vec<String>,
}

impl PartitionCheck {
    pub fn new(run: Option<u32>, partition: u32, next_offset: i64) -> PartitionCheck {
        PartitionCheck {
            run,
            partition,
            next_offset,
            senders: Vec::new(),
            index: BTreeMap::new(),
            last: None,
            counts: ReadCounts::default(),
            examples: Vec::new(),
        }
    }

    /// Looks at the next batch; `each` gets every good record of the run, its offset, and whether it came for the first time.
    pub fn batch(
        &mut self,
        batch: &RecordBatch<'_>,
        filler: Option<&Filler>,
        tools: &mut Tools,
        mut each: impl FnMut(&Identity, i64, bool),
    ) {
        let header = *batch.header();
        self.counts.batches += 1;
        let (first, last) = (header.base_offset, header.last_offset());
        if last < self.next_offset {
            self.counts.offset_repeats += 1;
            self.note(|| format!("batch {first}..={last} came after offset {} had been read", last));
            return;
        }
        if first > self.next_offset {
            self.counts.offset_gaps += (first - self.next_offset) as u64;
            let expected = self.next_offset;
            self.note(|| format!("offset {expected} is followed by {first}"));
        }
        let from = self.next_offset;
        self.next_offset = last.saturating_add(1);
        if header.is_control() {
            return;
        }
        if let Err(error) = batch.check_crc() {
            self.counts.corrupt += u64::from(header.records_count.max(1) as u32);
            self.note(|| format!("batch {first}..={last}: {error}"));
            return;
        }
        let Tools { decompressor, scratch } = tools;
        let records = match batch.records(decompressor, scratch, DECOMPRESSED_BYTES_MAX_DEFAULT) {
            Ok(records) => records,
            Err(error) => {
                self.counts.corrupt += u64::from(header.records_count.max(1) as u32);
                return self.note(|| format!("batch {first}..={last}: {error}"));
            }
        };
        let mut expected = first;
        for record in records {
            match record {
                Ok(record) => {
                    let offset = record.offset(&header);
                    if offset != expected {
                        self.counts.offset_gaps += 1;
                        self.note(|| format!("offset {expected} is {offset} inside its batch"));
                    }
                    expected = offset + 1;
                    if offset >= from {
                        self.record(&record, offset, first, filler, &mut each);
                    }
                }
                Err(error) => {
                    self.counts.corrupt += 1;
                    self.note(|| format!("a record after offset {expected}: {error}"));
                }
            }
        }
    }

    fn record(
        &mut self,
        record: &Record<'_>,
        offset: i64,
        batch_offset: i64,
        filler: Option<&Filler>,
        each: &mut impl FnMut(&Identity, i64, bool),
    ) {
        self.counts.records += 1;
        let value = record.value.unwrap_or_default();
        let identity = match Identity::read(value) {
            Ok(identity) => identity,
            Err(why) => {
                self.counts.corrupt += 1;
                return self.note(|| format!("offset {offset}: {why:?}"));
            }
        };
        if self.run.is_some_and(|run| run != identity.run) {
            self.counts.foreign += 1;
            return;
        }
        let good = identity.partition == self.partition
            && filler.is_none_or(|filler| value[IDENTITY_BYTES..] == *filler.piece(identity.slot));
        if !good {
            self.counts.corrupt += 1;
            return self.note(|| format!("offset {offset}: another record's bytes: {identity:?}"));
        }
        let new = self.count(&identity, offset, (offset == batch_offset).then_some(batch_offset));
        each(&identity, offset, new);
    }

    /// Whether the record is a new one.
    fn count(&mut self, identity: &Identity, offset: i64, batch_offset: Option<i64>) -> bool {
        let key = (identity.run, identity.producer);
        let at = match self.last {
            Some((last, at)) if last == key => at,
            _ => {
                let new = self.senders.len();
                let at = *self.index.entry(key).or_insert(new);
                if at == new {
                    self.senders.push(Seen::default());
                }
                self.last = Some((key, at));
                at
            }
        };
        let seen = &mut self.senders[at];
        let sequence = identity.sequence;
        if sequence >= seen.next {
            seen.missing.insert(seen.next, sequence);
            seen.next = sequence + 1;
        } else if seen.missing.remove(sequence) {
            seen.reordered += 1;
            self.counts.reordered += 1;
            let newest = seen.next - 1;
            self.note(|| format!("offset {offset}: sequence {sequence} of {key:?} behind {newest}"));
        } else {
            seen.duplicated += 1;
            self.counts.duplicated += 1;
            self.note(|| format!("offset {offset}: sequence {sequence} of {key:?} again"));
            return false;
        }
        if let Some(base) = batch_offset {
            let seen = &mut self.senders[at];
            seen.fingerprint = seen.fingerprint.wrapping_add(fingerprint(sequence, base));
        }
        true
    }

    /// The log does not have the next offset.
    pub fn out_of_range(&mut self) {
        self.counts.out_of_range += 1;
        let next = self.next_offset;
        self.note(|| format!("offset {next} is out of range"));
    }

    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Per run: records that came twice, and late.
    pub fn by_run(&self) -> BTreeMap<u32, (u64, u64)> {
        let mut runs = BTreeMap::<u32, (u64, u64)>::new();
        for (&(run, _), &at) in &self.index {
            let counts = runs.entry(run).or_default();
            counts.0 += self.senders[at].duplicated;
            counts.1 += self.senders[at].reordered;
        }
        runs
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            let text = text();
            self.examples.push(format!("partition {}: {text}", self.partition));
        }
    }
}

/// What a run may show without being a failed one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Retries of producers that are not idempotent may write twice, and out of order.
    pub duplicates: bool,
    pub reordering: bool,
    /// Transactions and compaction leave offsets without records.
    pub offset_gaps: bool,
}

/// The outcome of the verification.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    pub passed: bool,
    pub acknowledged: u64,
    /// Sent without an answer, and read or not.
    pub unanswered: u64,
    pub unanswered_read: u64,
    /// Acknowledged and not read.
    pub lost: u64,
    pub read: ReadCounts,
    pub duplicates_allowed: bool,
    pub reordering_allowed: bool,
    /// Senders whose acknowledged offsets are not those of the log.
    pub wrong_offsets: u64,
    pub examples: Vec<String>,
}

/// Holds what the producers of `run` sent, by (producer, partition), against what was read of each partition.
pub fn compare<'s>(
    run: u32,
    sent: impl IntoIterator<Item = ((u16, u32), &'s Sent)>,
    read: &[PartitionCheck],
    allowed: Allowed,
) -> Verdict {
    let mut verdict = Verdict {
        duplicates_allowed: allowed.duplicates,
        reordering_allowed: allowed.reordering,
        ..Verdict::default()
    };
    let by_partition: BTreeMap<u32, &PartitionCheck> =
        read.iter().map(|check| (check.partition, check)).collect();
    for check in read {
        verdict.read.add(&check.counts);
        verdict.examples.extend(check.examples.iter().cloned());
    }
    for ((producer, partition), sent) in sent {
        let nothing = Seen::default();
        let seen = by_partition
            .get(&partition)
            .and_then(|check| check.senders.get(*check.index.get(&(run, producer))?))
            .unwrap_or(&nothing);
        let mut unread = seen.missing.clone();
        unread.insert(seen.next, u64::MAX);
        let lost = sent.acked.intersection(&unread);
        verdict.acknowledged += sent.acked.count();
        verdict.unanswered += sent.unanswered.count();
        verdict.unanswered_read += sent.unanswered.count() - sent.unanswered.intersection(&unread).count();
        verdict.lost += lost.count();
        for (start, end) in lost.ranges().iter().take(EXAMPLES_MAX) {
            verdict.examples.push(format!("partition {partition}: producer {producer} lost {start}..{end}"));
        }
        let all_answered = sent.acked == Intervals::of(0, sent.next_sequence);
        let clean = lost.is_empty() && all_answered && verdict.read.duplicated == 0 && !sent.offsets_unknown;
        if clean && sent.fingerprint != seen.fingerprint {
            verdict.wrong_offsets += 1;
            verdict.examples.push(format!(
                "partition {partition}: producer {producer} was told other offsets than its batches have"
            ));
        }
    }
    verdict.examples.truncate(4 * EXAMPLES_MAX);
    let counts = &verdict.read;
    verdict.passed = verdict.lost == 0
        && verdict.wrong_offsets == 0
        && counts.corrupt == 0
        && counts.offset_repeats == 0
        && counts.out_of_range == 0
        && (counts.offset_gaps == 0 || allowed.offset_gaps)
        && (counts.duplicated == 0 || allowed.duplicates)
        && (counts.reordered == 0 || allowed.reordering);
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::batch::{Batch, ProducerId, Template};
    use crate::record::{Codec, Compressor, assign};

    const RUN: u32 = 77;

    /// A log of batches as a broker would hold it, with what its producers were told.
    struct Log {
        template: Template,
        batches: Vec<Vec<u8>>,
        sent: BTreeMap<(u16, u32), Sent>,
        next_offset: i64,
    }

    impl Log {
        fn new() -> Log {
            let template = Template::new(RUN, 100, None, 4000, Codec::None);
            Log { template, batches: Vec::new(), sent: BTreeMap::new(), next_offset: 0 }
        }

        fn encode(&mut self, producer: u16, count: u32) -> (u64, Vec<u8>) {
            let sent = self.sent.entry((producer, 0)).or_default();
            let first = sent.next_sequence;
            sent.next_sequence += u64::from(count);
            let mut batch = Batch::new(Vec::new(), Vec::new(), 0, first);
            (0..count).for_each(|_| batch.push(&self.template, producer, 1, 0));
            batch.seal(&self.template, ProducerId::NONE, (2, 3), &mut Compressor::new()).unwrap();
            batch.bytes.truncate(batch.raw_len(&self.template));
            (first, batch.bytes)
        }

        fn put(&mut self, mut bytes: Vec<u8>) -> i64 {
            let count = RecordBatch::parse(&bytes).unwrap().header().records_count;
            let offset = self.next_offset;
            assign(&mut bytes, offset, 0);
            self.next_offset += i64::from(count);
            self.batches.push(bytes);
            offset
        }

        fn send(&mut self, producer: u16, count: u32) -> Vec<u8> {
            let (first, bytes) = self.encode(producer, count);
            let offset = self.put(bytes.clone());
            self.sent.get_mut(&(producer, 0)).unwrap().acknowledge(first, count, offset);
            bytes
        }

        fn verdict(&self, allowed: Allowed) -> Verdict {
            let mut check = PartitionCheck::new(Some(RUN), 0, 0);
            let filler = Filler::new(RUN, 100);
            let mut tools = Tools::default();
            for bytes in &self.batches {
                check.batch(&RecordBatch::parse(bytes).unwrap(), Some(&filler), &mut tools, |_, _, _| {});
            }
            compare(RUN, self.sent.iter().map(|(key, sent)| (*key, sent)), &[check], allowed)
        }
    }

    fn log_of(batches: u32) -> Log {
        let mut log = Log::new();
        for index in 0..batches {
            log.send((index % 3) as u16, 1 + index % 5);
        }
        log
    }

    /// Offsets as if the batches of `log` had always been like this.
    fn renumber(log: &mut Log) {
        let mut next = 0;
        for bytes in &mut log.batches {
            let count = RecordBatch::parse(bytes).unwrap().header().records_count;
            assign(bytes, next, 0);
            next += i64::from(count);
        }
    }

    #[test]
    fn a_sound_log_passes() {
        let verdict = log_of(30).verdict(Allowed::default());
        assert!(verdict.passed, "{verdict:?}");
        assert_eq!((verdict.acknowledged, verdict.read.records, verdict.lost), (90, 90, 0));
    }

    #[test]
    fn a_lost_batch_is_found_at_the_start_in_the_middle_and_at_the_end() {
        for at in [0, 13, 29] {
            let mut log = log_of(30);
            let count = RecordBatch::parse(&log.batches.remove(at)).unwrap().header().records_count;
            renumber(&mut log);
            let verdict = log.verdict(Allowed::default());
            assert!(!verdict.passed);
            assert_eq!(verdict.lost, count as u64);
        }
    }

    #[test]
    fn a_lost_batch_that_left_its_offsets_is_a_gap_too() {
        let mut log = log_of(30);
        log.batches.remove(10);
        let verdict = log.verdict(Allowed::default());
        assert!(!verdict.passed);
        assert_eq!((verdict.lost, verdict.read.offset_gaps), (1, 1));
    }

    #[test]
    fn a_batch_written_twice_is_found_unless_it_is_allowed() {
        let mut log = log_of(10);
        let again = log.send(1, 4);
        log.put(again);
        let verdict = log.verdict(Allowed::default());
        assert!(!verdict.passed);
        assert_eq!((verdict.read.duplicated, verdict.lost), (4, 0));
        assert!(log.verdict(Allowed { duplicates: true, ..Allowed::default() }).passed);
    }

    #[test]
    fn swapped_batches_are_found_unless_it_is_allowed() {
        let mut log = log_of(12);
        log.batches.swap(3, 6);
        renumber(&mut log);
        let verdict = log.verdict(Allowed::default());
        assert!(!verdict.passed);
        assert!(verdict.read.reordered > 0 && verdict.lost == 0);
    }

    #[test]
    fn swapped_batches_of_different_producers_are_found_by_their_offsets() {
        let mut log = log_of(12);
        log.batches.swap(3, 4);
        renumber(&mut log);
        let verdict = log.verdict(Allowed::default());
        assert!(!verdict.passed);
        assert_eq!((verdict.read.reordered, verdict.wrong_offsets), (0, 2));
    }

    #[test]
    fn any_flipped_byte_is_found() {
        let whole = log_of(3);
        let mut found = 0;
        for at in 21..whole.batches[1].len() {
            let mut log = Log { batches: whole.batches.clone(), sent: whole.sent.clone(), ..Log::new() };
            log.batches[1][at] ^= 0x10;
            let verdict = log.verdict(Allowed { offset_gaps: true, ..Allowed::default() });
            assert!(!verdict.passed, "byte {at}");
            found += verdict.read.corrupt;
        }
        assert!(found > 0);
    }

    #[test]
    fn bytes_that_changed_before_the_checksum_was_made_are_found() {
        let mut log = log_of(3);
        let bytes = &mut log.batches[1];
        let end = bytes.len() - 5;
        bytes[end] ^= 1;
        let crc = crate::record::crc32c::checksum(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        let verdict = log.verdict(Allowed::default());
        assert_eq!((verdict.passed, verdict.read.corrupt), (false, 1));
    }

    #[test]
    fn unanswered_records_may_be_there_or_not() {
        let mut log = log_of(5);
        let (first, bytes) = log.encode(0, 4);
        log.sent.get_mut(&(0, 0)).unwrap().unanswered.insert(first, first + 4);
        let absent = log.verdict(Allowed::default());
        assert_eq!((absent.passed, absent.unanswered, absent.unanswered_read), (true, 4, 0));
        log.put(bytes);
        let present = log.verdict(Allowed::default());
        assert_eq!((present.passed, present.unanswered, present.unanswered_read), (true, 4, 4));
    }

    #[test]
    fn records_of_other_runs_are_passed_over() {
        let log = log_of(5);
        let mut check = PartitionCheck::new(Some(1), 0, 0);
        let mut tools = Tools::default();
        for bytes in &log.batches {
            check.batch(&RecordBatch::parse(bytes).unwrap(), None, &mut tools, |_, _, _| panic!("not ours"));
        }
        assert_eq!((check.counts.foreign, check.counts.corrupt), (check.counts.records, 0));
    }
}
