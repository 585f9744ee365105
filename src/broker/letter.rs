//! All that a turn has of everyday mail for another shard, in one piece: tasks, answers, and fetches to look again.
//!
//! A letter that has been read is written again: a shard keeps a few, and what it receives beyond them goes back with its
//! next letter, for who sends many and gets few would take new memory for ever.

use std::ops::Range;

use super::mail::{Answer, GatherRef, Query, Task};
use super::records::ReceivedRecords;

/// Letters a shard keeps to write on.
const KEPT_MAX: usize = 8;
/// Letters that travel back with one.
const RETURNED_MAX: usize = 8;
/// What a letter that is kept may hold of records and of each of its lists.
const KEPT_BYTES_MAX: usize = 256 << 10;
const KEPT_ENTRIES_MAX: usize = 1024;

#[derive(Default)]
pub struct Letter {
    tasks: Vec<Packed>,
    /// Records of the tasks that came in small frames, which the sender's shard could not keep.
    records: Vec<u8>,
    answers: Vec<(GatherRef, u32, Answer)>,
    ready: Vec<GatherRef>,
    /// Read ones, for the receiver to write on.
    #[allow(clippy::vec_box)] // they travel as they are
    returned: Vec<Box<Letter>>,
}

struct Packed {
    task: Task<'static>,
    /// Its records, where they lie in the letter.
    at: Range<usize>,
}

impl Letter {
    pub fn push_task(&mut self, task: Task<'_>) {
        let start = self.records.len();
        let task = task.into_owned_by(|records| match records.share() {
            Ok(shared) => shared,
            Err(records) => {
                self.records.extend_from_slice(records);
                ReceivedRecords::Frame { records: &[], shared: None }
            }
        });
        self.tasks.push(Packed { task, at: start..self.records.len() });
    }

    pub fn push_answer(&mut self, gather: GatherRef, index: u32, answer: Answer) {
        self.answers.push((gather, index, answer));
    }

    pub fn push_ready(&mut self, gather: GatherRef) {
        self.ready.push(gather);
    }

    /// Takes the tasks out, in order.
    pub fn tasks(&mut self) -> impl Iterator<Item = Task<'_>> {
        let records = &self.records;
        self.tasks.drain(..).map(move |Packed { task, at }| {
            let mut task: Task<'_> = task;
            if let (false, Query::Produce(produce)) = (at.is_empty(), &mut task.query) {
                produce.records = ReceivedRecords::Frame { records: &records[at], shared: None };
            }
            task
        })
    }

    pub fn answers(&mut self) -> impl Iterator<Item = (GatherRef, u32, Answer)> {
        self.answers.drain(..)
    }

    pub fn ready(&mut self) -> impl Iterator<Item = GatherRef> {
        self.ready.drain(..)
    }

    /// Empty, and no larger than what is kept.
    fn clear(&mut self) {
        fn clear<T>(list: &mut Vec<T>, max: usize) {
            list.clear();
            list.shrink_to(max);
        }
        clear(&mut self.tasks, KEPT_ENTRIES_MAX);
        clear(&mut self.records, KEPT_BYTES_MAX);
        clear(&mut self.answers, KEPT_ENTRIES_MAX);
        clear(&mut self.ready, KEPT_ENTRIES_MAX);
    }
}

/// A shard's letters: one being written for each shard, and read ones.
pub struct Letters {
    open: Vec<Option<Box<Letter>>>,
    #[allow(clippy::vec_box)] // they travel as they are
    read: Vec<Box<Letter>>,
}

impl Letters {
    pub fn new(shards: usize) -> Letters {
        Letters { open: (0..shards).map(|_| None).collect(), read: Vec::new() }
    }

    /// The letter that this turn writes to a shard.
    pub fn to(&mut self, shard: usize) -> &mut Letter {
        self.open[shard].get_or_insert_with(|| self.read.pop().unwrap_or_default())
    }

    /// The letter to a shard, if this turn has written one.
    pub fn take(&mut self, shard: usize) -> Option<Box<Letter>> {
        let mut letter = self.open[shard].take()?;
        let surplus = self.read.len().saturating_sub(KEPT_MAX).min(RETURNED_MAX);
        letter.returned.extend(self.read.drain(..surplus));
        Some(letter)
    }

    /// Keeps a letter that has been read, and those it brought back.
    pub fn keep(&mut self, mut letter: Box<Letter>) {
        letter.clear();
        self.read.append(&mut letter.returned);
        self.read.push(letter);
        self.read.truncate(KEPT_MAX + RETURNED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::mail::Produce;
    use crate::protocol::Uuid;
    use std::sync::Arc;

    fn gather(slot: u32) -> GatherRef {
        GatherRef { shard: 0, slot, generation: 0 }
    }

    fn produce(index: u32, records: ReceivedRecords<'_>) -> Task<'_> {
        let produce = Produce { records, version: 9, acks: 1, transactional_id: None };
        Task {
            gather: gather(7),
            index,
            topic_id: Uuid([1; 16]),
            partition: 3,
            query: Query::Produce(produce),
        }
    }

    fn records(task: &Task<'_>) -> Vec<u8> {
        let Query::Produce(produce) = &task.query else { panic!("a produce") };
        produce.records.to_vec()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut letters = Letters::new(2);
        assert!(letters.take(1).is_none());
        let frame = Arc::new(vec![5; 100]);
        for round in 0..3 {
            let letter = letters.to(1);
            letter.push_task(produce(0, ReceivedRecords::Frame { records: &[1, 2, round], shared: None }));
            let shared = ReceivedRecords::Frame { records: &frame[10..90], shared: Some(&frame) };
            letter.push_task(produce(1, shared));
            letter.push_task(produce(2, ReceivedRecords::Frame { records: &[9], shared: None }));
            letter.push_answer(gather(1), 4, Answer::Marked);
            letter.push_ready(gather(2));
            let mut letter = letters.take(1).unwrap();
            let tasks: Vec<_> = letter.tasks().map(|task| (task.index, records(&task))).collect();
            assert_eq!(tasks, [(0, vec![1, 2, round]), (1, vec![5; 80]), (2, vec![9])]);
            assert!(matches!(letter.answers().next(), Some((_, 4, Answer::Marked))));
            assert_eq!(letter.ready().collect::<Vec<_>>(), [gather(2)]);
            letters.keep(letter);
            assert_eq!((letters.read.len(), letters.read[0].records.len()), (1, 0));
        }
    }

    #[test]
    fn letters_go_back_to_who_writes_more_than_it_gets() {
        let (mut many, mut few) = (Letters::new(2), Letters::new(2));
        for _ in 0..100 {
            for _ in 0..5 {
                many.to(1).push_ready(gather(1));
                few.keep(many.take(1).unwrap());
            }
            few.to(0).push_ready(gather(1));
            many.keep(few.take(0).unwrap());
        }
        assert!(many.read.len() >= 4, "{} of those it sends came back", many.read.len());
        assert!(many.read.len() <= KEPT_MAX + RETURNED_MAX && few.read.len() <= KEPT_MAX + RETURNED_MAX);
    }
}
