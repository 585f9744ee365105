//! `leader-epoch-checkpoint`: at which offset each leader epoch began, and the questions replication and consumers ask of it.
//!
//! Entries grow strictly in both epoch and start offset; an assignment that would break this drops the entries in its way.
//! The text is a checkpoint (see `checkpoint`) of lines `epoch start_offset`. Called by a partition's log on append,
//! recovery and truncation, and by OffsetForLeaderEpoch.

use std::fmt::Write;

use super::checkpoint::{CheckpointError, parse_lines};

pub const LEADER_EPOCH_FILE: &str = "leader-epoch-checkpoint";

/// An epoch and the offset of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEntry {
    pub epoch: i32,
    pub start_offset: i64,
}

/// The epochs of one partition's log. The caller writes [`LeaderEpochs::format`] to disk whenever a method says it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<EpochEntry>,
}

impl LeaderEpochs {
    pub fn parse(text: &str) -> Result<LeaderEpochs, CheckpointError> {
        let mut epochs = LeaderEpochs::default();
        for entry in parse_lines(text)? {
            let (line, entry) = entry?;
            let parsed = entry.split_once(' ').and_then(|(epoch, start_offset)| {
                let (epoch, start_offset) = (epoch.parse().ok()?, start_offset.trim().parse().ok()?);
                (epoch >= 0 && start_offset >= 0).then_some((epoch, start_offset))
            });
            let (epoch, start_offset) =
                parsed.ok_or(CheckpointError::Malformed { line, what: "not an epoch and an offset" })?;
            epochs.assign(epoch, start_offset);
        }
        Ok(epochs)
    }

    pub fn format(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for EpochEntry { epoch, start_offset } in &self.entries {
            let _ = writeln!(text, "{epoch} {start_offset}");
        }
        text
    }

    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    pub fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    /// Notes that a batch of `epoch` was appended at `start_offset`. True when that was news: the epoch is not the latest, or
    /// begins earlier than thought. Negative numbers (no epoch known) are no news.
    pub fn assign(&mut self, epoch: i32, start_offset: i64) -> bool {
        if epoch < 0 || start_offset < 0 {
            return false;
        }
        let known = |latest: EpochEntry| latest.epoch == epoch && latest.start_offset <= start_offset;
        if self.latest().is_some_and(known) {
            return false;
        }
        let in_the_way = |entry: &EpochEntry| entry.epoch >= epoch || entry.start_offset >= start_offset;
        while self.entries.last().is_some_and(in_the_way) {
            self.entries.pop();
        }
        self.entries.push(EpochEntry { epoch, start_offset });
        true
    }

    /// The answer to OffsetForLeaderEpoch: the greatest epoch not above `epoch`, and where it ended.
    /// `None` when the epoch is unknown: negative, or above the latest.
    pub fn end_offset_for(&self, epoch: i32, log_end_offset: i64) -> Option<(i32, i64)> {
        let latest = self.latest()?;
        if epoch < 0 || epoch > latest.epoch {
            return None;
        }
        if epoch == latest.epoch {
            return Some((epoch, log_end_offset));
        }
        let higher = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end_offset = self.entries[higher].start_offset;
        // An epoch before the first known one ended where that one began.
        let found = higher.checked_sub(1).map_or(epoch, |floor| self.entries[floor].epoch);
        Some((found, end_offset))
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_for_offset(&self, offset: i64) -> Option<i32> {
        let later = self.entries.partition_point(|entry| entry.start_offset <= offset);
        later.checked_sub(1).map(|slot| self.entries[slot].epoch)
    }

    /// The log was cut so that `end_offset` is its next offset. True when entries went.
    pub fn truncate_from_end(&mut self, end_offset: i64) -> bool {
        if end_offset < 0 {
            return false;
        }
        let before = self.entries.len();
        self.entries.truncate(self.entries.partition_point(|entry| entry.start_offset < end_offset));
        self.entries.len() != before
    }

    /// The log now starts at `start_offset`: its epoch stays and begins there. True when anything changed.
    pub fn truncate_from_start(&mut self, start_offset: i64) -> bool {
        let begun = self.entries.partition_point(|entry| entry.start_offset <= start_offset);
        let Some(current) = begun.checked_sub(1) else { return false };
        let changed = current > 0 || self.entries[0].start_offset != start_offset;
        self.entries.drain(..current);
        self.entries[0].start_offset = start_offset;
        changed
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start_offset) in entries {
            assert!(epochs.assign(*epoch, *start_offset));
        }
        epochs
    }

    #[test]
    fn the_file_as_kafka_writes_it() {
        let epochs = of(&[(0, 0), (2, 11), (5, 12)]);
        assert_eq!(epochs.format(), "0\n3\n0 0\n2 11\n5 12\n");
        assert_eq!(LeaderEpochs::parse(&epochs.format()), Ok(epochs));
        assert_eq!(LeaderEpochs::parse("0\n0\n"), Ok(LeaderEpochs::default()));
        for text in ["", "0\n1\n", "0\n1\n-1 0\n", "0\n1\n1 -2\n", "0\n1\n1\n"] {
            assert!(LeaderEpochs::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_assignment_drops_what_contradicts_it() {
        let mut epochs = of(&[(1, 0), (2, 10), (3, 20)]);
        assert!(!epochs.assign(3, 25), "known");
        assert!(!epochs.assign(-1, 30));
        assert!(epochs.assign(3, 15), "began earlier");
        assert_eq!(epochs, of(&[(1, 0), (2, 10), (3, 15)]));
        assert!(epochs.assign(4, 10), "hides the epochs at and behind its start");
        assert_eq!(epochs, of(&[(1, 0), (4, 10)]));
        assert!(epochs.assign(2, 30), "an older epoch, appended later");
        assert_eq!(epochs, of(&[(1, 0), (2, 30)]));
    }

    #[test]
    fn end_offsets() {
        let epochs = of(&[(2, 10), (4, 20), (6, 30)]);
        for (epoch, expected) in [
            (-1, None),
            (1, Some((1, 10))),
            (2, Some((2, 20))),
            (3, Some((2, 20))),
            (4, Some((4, 30))),
            (5, Some((4, 30))),
            (6, Some((6, 44))),
            (7, None),
        ] {
            assert_eq!(epochs.end_offset_for(epoch, 44), expected, "{epoch}");
        }
        assert_eq!(LeaderEpochs::default().end_offset_for(0, 44), None);
        assert_eq!(
            [9, 10, 19, 20, 99].map(|offset| epochs.epoch_for_offset(offset)),
            [None, Some(2), Some(2), Some(4), Some(6)]
        );
    }

    #[test]
    fn truncation() {
        let mut epochs = of(&[(2, 10), (4, 20), (6, 30)]);
        assert!(!epochs.truncate_from_end(31));
        assert!(epochs.truncate_from_end(30));
        assert_eq!(epochs, of(&[(2, 10), (4, 20)]));
        assert!(!epochs.truncate_from_start(9));
        assert!(!epochs.truncate_from_start(10));
        assert!(epochs.truncate_from_start(15));
        assert_eq!(epochs, of(&[(2, 15), (4, 20)]));
        assert!(epochs.truncate_from_start(25));
        assert_eq!(epochs, of(&[(4, 25)]));
        assert!(epochs.truncate_from_end(0));
        assert_eq!(epochs, LeaderEpochs::default());
    }

    proptest! {
        #[test]
        fn entries_always_grow(steps in prop::collection::vec((0i32..10, 0i64..100, 0u8..4), 0..50)) {
            let mut epochs = LeaderEpochs::default();
            for (epoch, offset, kind) in steps {
                match kind {
                    0 => drop(epochs.truncate_from_end(offset)),
                    1 => drop(epochs.truncate_from_start(offset)),
                    _ => drop(epochs.assign(epoch, offset)),
                }
                prop_assert!(epochs.entries().is_sorted_by(|a, b| a.epoch < b.epoch && a.start_offset < b.start_offset));
                let text = epochs.format();
                prop_assert_eq!(LeaderEpochs::parse(&text), Ok(epochs.clone()));
                let _ = epochs.end_offset_for(epoch, 100);
            }
        }
    }
}
