//! Requests of this shard's connections whose parts are out with the owning shards.
//!
//! A gather has a place for each partition of the request, in request order; it is finished when each has its answer.
//! A fetch may then be parked: it keeps its answers until a partition moves or its time is over.

use std::sync::Arc;

use slab::Slab;

use super::fetch_session::SessionFetch;
use super::mail::{Answer, GatherRef};
use super::request::Head;
use super::spares::Spares;
use super::transaction::MarkersOf;
use crate::io::DiskSpace;
use crate::protocol::Uuid;

/// The topics and partitions of a request in its order.
#[derive(Default)]
pub struct Layout {
    topics: Vec<LayoutTopic>,
    partitions: Vec<i32>,
}

pub struct LayoutTopic {
    pub name: Arc<str>,
    pub topic_id: Uuid,
    /// Where its partitions end in the list of all.
    end: usize,
}

impl Layout {
    /// An empty one in memory that others have left.
    pub fn of_spares(spares: &mut Spares) -> Layout {
        Layout { topics: spares.topics.take(), partitions: spares.indexes.take() }
    }

    pub fn push_topic(&mut self, name: Arc<str>, topic_id: Uuid) {
        let end = self.partitions.len();
        self.topics.push(LayoutTopic { name, topic_id, end });
    }

    /// A partition of the topic pushed last; answers its index.
    pub fn push_partition(&mut self, partition: i32) -> u32 {
        self.partitions.push(partition);
        if let Some(topic) = self.topics.last_mut() {
            topic.end += 1;
        }
        (self.partitions.len() - 1) as u32
    }

    pub fn len(&self) -> usize {
        self.partitions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Each topic with the index of its first partition and its partitions.
    pub fn topics(&self) -> impl Iterator<Item = (&LayoutTopic, usize, &[i32])> {
        let mut start = 0;
        self.topics.iter().map(move |topic| {
            let first = std::mem::replace(&mut start, topic.end);
            (topic, first, &self.partitions[first..topic.end])
        })
    }
}

pub struct Gather {
    pub head: Head,
    pub layout: Layout,
    pub answers: Vec<Option<Answer>>,
    missing: usize,
    pub kind: Kind,
    /// When the client is told REQUEST_TIMED_OUT, or the parked fetch is answered with what there is.
    pub deadline_ns: u64,
}

pub enum Kind {
    Plain,
    Fetch(SessionFetch),
    /// The markers of one transaction of this shard's coordinator.
    Markers(MarkersOf),
    /// WriteTxnMarkers: each marker's producer and how many of the topics are its.
    WriteTxnMarkers(Vec<(i64, usize)>),
    /// DescribeLogDirs: what the file systems of the directories hold.
    LogDirs(Vec<Option<DiskSpace>>),
}

impl Gather {
    /// Puts an answer in its place; `true` when it was the last one missing.
    pub fn put(&mut self, index: u32, answer: Answer) -> bool {
        match self.answers.get_mut(index as usize) {
            Some(place @ None) => {
                *place = Some(answer);
                self.missing -= 1;
                self.missing == 0
            }
            _ => false,
        }
    }

    /// Leaves its memory to others.
    pub fn give_back(self, spares: &mut Spares) {
        spares.topics.give(self.layout.topics);
        spares.indexes.give(self.layout.partitions);
        spares.answers.give(self.answers);
        if let Kind::Fetch(fetch) = self.kind {
            spares.fetched.give(fetch.parts);
        }
    }

    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Forgets all answers: every part is asked again.
    pub fn reset(&mut self, spares: &mut Spares) {
        for answer in &mut self.answers {
            if let Some(Answer::Read(read)) = answer.take() {
                spares.slices.give(read.records);
            }
        }
        self.missing = self.answers.len();
    }
}

/// All gathers of a shard, each under a reference that is never valid twice.
pub struct Gathers {
    shard: u16,
    next_generation: u32,
    slots: Slab<(u32, Gather)>,
}

impl Gathers {
    pub fn new(shard: usize) -> Gathers {
        Gathers { shard: shard as u16, next_generation: 0, slots: Slab::new() }
    }

    pub fn open(
        &mut self,
        spares: &mut Spares,
        head: Head,
        layout: Layout,
        kind: Kind,
        deadline_ns: u64,
    ) -> GatherRef {
        let missing = layout.len();
        let mut answers = spares.answers.take();
        answers.resize_with(missing, || None);
        self.next_generation = self.next_generation.wrapping_add(1);
        let gather = Gather { head, layout, answers, missing, kind, deadline_ns };
        let slot = self.slots.insert((self.next_generation, gather)) as u32;
        GatherRef { shard: self.shard, slot, generation: self.next_generation }
    }

    pub fn find(&mut self, at: GatherRef) -> Option<&mut Gather> {
        self.slots
            .get_mut(at.slot as usize)
            .filter(|(generation, _)| *generation == at.generation)
            .map(|(_, gather)| gather)
    }

    pub fn close(&mut self, at: GatherRef) -> Option<Gather> {
        self.find(at)?;
        Some(self.slots.remove(at.slot as usize).1)
    }

    /// Those whose time is over.
    pub fn overdue(&self, now_ns: u64) -> Vec<GatherRef> {
        self.slots
            .iter()
            .filter(|(_, (_, gather))| gather.deadline_ns <= now_ns)
            .map(|(slot, (generation, _))| GatherRef {
                shard: self.shard,
                slot: slot as u32,
                generation: *generation,
            })
            .collect()
    }

    /// The gather of a request whose connection is gone.
    pub fn of_request(&self, id: super::request::RequestId) -> Option<GatherRef> {
        self.slots.iter().find(|(_, (_, gather))| gather.head.id == id).map(|(slot, (generation, _))| {
            GatherRef { shard: self.shard, slot: slot as u32, generation: *generation }
        })
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
