//! What the producers have in common: batches with fresh values and sequence numbers that go on, the lane of each partition
//! from which they are sent, in order, and sent again, and the answers that they get.

use std::collections::{BTreeMap, VecDeque};

use ringlog::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use ringlog::protocol::messages::produce_response::ProduceResponse;
use ringlog::protocol::{Records, Uuid};
use ringlog::record::builder::{BatchBuilder, BatchOptions};
use ringlog::record::compression::Compressor;

use super::clients::Context;
use super::history::Place;

/// Batches of a partition that may be out at a time, as a client's `max.in.flight.requests.per.connection`.
const IN_FLIGHT_MAX: usize = 5;

/// What goes to one partition, in order.
#[derive(Default)]
pub struct Lane {
    pub topic: String,
    pub id: Uuid,
    pub queue: VecDeque<Batch>,
}

pub struct Batch {
    pub number: u64,
    pub values: Vec<u64>,
    bytes: Vec<u8>,
    pub made_ns: u64,
    pub state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Queued,
    Sent,
    /// To be sent again, once nothing of its lane is out.
    Failed,
}

pub type Lanes = BTreeMap<Place, Lane>;

/// Where batches to be sent lie in their lanes, by topic.
pub type Chosen = BTreeMap<[u8; 16], Vec<(Place, usize)>>;

impl Lane {
    pub fn has(&self, state: State) -> bool {
        self.queue.iter().any(|batch| batch.state == state)
    }

    pub fn is_full(&self) -> bool {
        self.queue.iter().filter(|batch| batch.state == State::Sent).count() >= IN_FLIGHT_MAX
    }

    /// Where the batch of this number is.
    pub fn position(&self, number: u64) -> Option<usize> {
        self.queue.iter().position(|batch| batch.number == number)
    }

    /// Nothing is out any more: all of it goes again.
    pub fn reset(&mut self) {
        self.queue.iter_mut().for_each(|batch| batch.state = State::Queued);
    }

    /// The batch that may go now: after a failure none does until all that was out is answered. Of more than five a broker
    /// does not know all again.
    fn next(&mut self) -> Option<usize> {
        if !self.has(State::Sent) {
            self.reset();
        }
        if self.has(State::Failed) || self.is_full() {
            return None;
        }
        self.queue.iter().position(|batch| batch.state == State::Queued)
    }
}

/// The next batch of each lane that has one.
pub fn choose(lanes: &mut Lanes) -> Chosen {
    let mut chosen = Chosen::new();
    for (place, lane) in lanes {
        if let Some(at) = lane.next() {
            chosen.entry(place.0).or_default().push((*place, at));
        }
    }
    chosen
}

/// One partition of a request.
#[derive(Debug)]
pub struct Asked {
    pub place: Place,
    pub topic: String,
    pub batch: u64,
}

/// What the answer tells of one partition.
pub struct Told {
    pub place: Place,
    pub batch: u64,
    pub error: i16,
    pub base: i64,
}

/// What was chosen is sent now.
pub fn sent(lanes: &mut Lanes, chosen: &Chosen) -> Vec<Asked> {
    let mut asked = Vec::new();
    for (place, at) in chosen.values().flatten() {
        let lane = lanes.get_mut(place).expect("a lane was chosen");
        lane.queue[*at].state = State::Sent;
        asked.push(Asked { place: *place, topic: lane.topic.clone(), batch: lane.queue[*at].number });
    }
    asked
}

pub fn topic_data<'a>(lanes: &'a Lanes, chosen: &Chosen) -> Vec<TopicProduceData<'a>> {
    let topics = chosen.values().map(|chosen| {
        let lane = &lanes[&chosen[0].0];
        let partitions = chosen.iter().map(|(place, at)| PartitionProduceData {
            index: place.1,
            records: Some(Records::Bytes(&lanes[place].queue[*at].bytes)),
        });
        TopicProduceData {
            name: lane.topic.as_str().into(),
            topic_id: lane.id,
            partition_data: partitions.collect::<Vec<_>>().into(),
        }
    });
    topics.collect()
}

/// Each partition that was asked, with its answer; an error where there is not one for each.
pub fn answers(response: &ProduceResponse<'_>, mut asked: Vec<Asked>) -> Result<Vec<Told>, String> {
    let mut told = Vec::new();
    for topic in response.responses.iter() {
        for partition in topic.partition_responses.iter() {
            let same = |asked: &Asked| {
                asked.place.1 == partition.index
                    && (asked.place.0 == topic.topic_id.0 || asked.topic == topic.name)
            };
            let at = asked.iter().position(same).ok_or("an answer for what was not sent")?;
            let Asked { place, batch, .. } = asked.remove(at);
            told.push(Told { place, batch, error: partition.error_code, base: partition.base_offset });
        }
    }
    if asked.is_empty() { Ok(told) } else { Err(format!("no answer for {asked:?}")) }
}

/// The keys of a compacted partition: so few that most are superseded soon.
const KEYS: u64 = 6;

/// The sizes of values, in bytes: few are large.
pub struct Sizes {
    pub large: f64,
    pub large_max: u64,
    pub small_max: u64,
}

/// Makes the batches of one producer.
pub struct Maker {
    sizes: Sizes,
    sequences: BTreeMap<Place, i32>,
    next_value: u64,
    next_batch: u64,
}

impl Maker {
    pub fn new(producer: u64, sizes: Sizes) -> Maker {
        Maker { sizes, sequences: BTreeMap::new(), next_value: producer << 32, next_batch: 0 }
    }

    /// The producer has a new epoch: sequence numbers begin again.
    pub fn forget_sequences(&mut self) {
        self.sequences.clear();
    }

    /// A batch of values that nobody had before; a producer that has an id goes on with its sequence numbers.
    pub fn batch(
        &mut self,
        context: &mut Context,
        place: Place,
        count: usize,
        options: BatchOptions,
    ) -> Batch {
        let next = self.sequences.entry(place).or_default();
        let base_sequence = if options.producer_id >= 0 { *next } else { -1 };
        *next += count as i32;
        let mut builder = BatchBuilder::new(BatchOptions { base_sequence, ..options });
        let Sizes { large, large_max, small_max } = self.sizes;
        let most = if context.rng.chance(large) { large_max } else { small_max };
        let padding = context.rng.below(most);
        let mut values = Vec::new();
        for _ in 0..count {
            self.next_value += 1;
            let mut value = self.next_value.to_be_bytes().to_vec();
            value.resize(8 + padding as usize, self.next_value as u8);
            let key = context.history.is_compacted(place).then(|| context.rng.below(KEYS) as u8);
            if let Some(key) = key {
                context.history.keyed(self.next_value, key);
            }
            let key = key.as_ref().map(std::slice::from_ref);
            builder.append(context.world.wall_ms(), key, Some(&value), &[]);
            values.push(self.next_value);
        }
        let mut bytes = Vec::new();
        builder.finish(&mut Compressor::default(), &mut bytes).expect("a batch without compression");
        self.next_batch += 1;
        Batch { number: self.next_batch, values, bytes, made_ns: context.now_ns(), state: State::Queued }
    }
}
