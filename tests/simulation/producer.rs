//! A producer: idempotent with acks=all, or plain with acks of its choice. It pipelines, and sends again what was not
//! answered, in order, as Kafka's own producer does.

use std::collections::{BTreeMap, VecDeque};

use ringlog::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use ringlog::protocol::messages::init_producer_id_response::InitProducerIdResponse;
use ringlog::protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ringlog::protocol::messages::produce_response::ProduceResponse;
use ringlog::protocol::{ApiKey, Records, Uuid};
use ringlog::record::builder::{BatchBuilder, BatchOptions};
use ringlog::record::compression::Compressor;

use super::clients::{Client, Context};
use super::history::{Ack, Place, Role};
use super::log_model::{Verdict, ensure};
use super::sim_io::sim_net::SocketId;
use super::wire::{Answer, Wire};

pub struct Producer {
    wire: Wire,
    number: u64,
    acks: i16,
    /// Producer id and epoch; `None` for a plain producer, or while it is asked for.
    id: Option<(i64, i16)>,
    id_asked: bool,
    idempotent: bool,
    lanes: BTreeMap<Place, Lane>,
    requests: BTreeMap<u64, Vec<Asked>>,
    next_tag: u64,
    next_value: u64,
    next_batch: u64,
    next_send_ns: u64,
    in_flight_max: usize,
}

/// What goes to one partition, in order.
#[derive(Default)]
struct Lane {
    topic: String,
    id: Uuid,
    next_sequence: i32,
    queue: VecDeque<Batch>,
}

struct Batch {
    number: u64,
    values: Vec<u64>,
    bytes: Vec<u8>,
    state: State,
}

/// One partition of a request.
#[derive(Debug)]
struct Asked {
    place: Place,
    topic: String,
    batch: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Sent,
    /// To be sent again, once nothing of its lane is out.
    Failed,
}

impl Producer {
    pub fn new(number: u64, idempotent: bool, acks: i16, in_flight_max: usize) -> Producer {
        Producer {
            wire: Wire::new(format!("producer-{number}"), 64 << 10),
            number,
            acks: if idempotent { -1 } else { acks },
            id: None,
            id_asked: false,
            idempotent,
            lanes: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_tag: 1,
            next_value: number << 32,
            next_batch: 0,
            next_send_ns: 0,
            in_flight_max,
        }
    }

    fn ack(&self) -> Ack {
        if self.acks == -1 { Ack::Durable } else { Ack::Written }
    }

    /// The connection is gone: what was out is sent again, or, without idempotence, given up.
    fn lost(&mut self) {
        self.requests.clear();
        self.id_asked = false;
        for lane in self.lanes.values_mut() {
            if !self.idempotent {
                lane.queue.clear();
            }
            lane.queue.iter_mut().for_each(|batch| batch.state = State::Queued);
        }
    }

    fn got_id(&mut self, answer: &Answer) -> Verdict {
        self.id_asked = false;
        let response: InitProducerIdResponse = answer.read()?;
        match response.error_code {
            0 => self.id = Some((response.producer_id, response.producer_epoch)),
            // Loading, not available, not coordinator, timed out: again.
            14..=16 | 7 | 56 => {}
            error => return Err(format!("producer {}: no producer id: error {error}", self.number)),
        }
        Ok(())
    }

    fn produced(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let response: ProduceResponse = answer.read()?;
        let mut asked = self.requests.remove(&answer.tag).unwrap_or_default();
        for topic in response.responses.iter() {
            for partition in topic.partition_responses.iter() {
                let same = |asked: &Asked| {
                    asked.place.1 == partition.index
                        && (asked.place.0 == topic.topic_id.0 || asked.topic == topic.name)
                };
                let Some(at) = asked.iter().position(same) else {
                    return Err(format!("producer {}: an answer for what was not sent", self.number));
                };
                let Asked { place, batch, .. } = asked.remove(at);
                self.answered(context, place, batch, partition.error_code, partition.base_offset)?;
            }
        }
        ensure!(asked.is_empty(), "producer {}: no answer for {asked:?}", self.number);
        Ok(())
    }

    fn answered(
        &mut self,
        context: &mut Context,
        place: Place,
        number: u64,
        error: i16,
        base: i64,
    ) -> Verdict {
        let (ack, producer) = (self.ack(), self.number);
        let Some(lane) = self.lanes.get_mut(&place) else { return Ok(()) };
        let Some(at) = lane.queue.iter().position(|batch| batch.number == number) else { return Ok(()) };
        let live = context.history.is_live(lane.id);
        match error {
            0 => {
                let Some(batch) = lane.queue.remove(at) else { return Ok(()) };
                ensure!(base >= 0, "producer {producer}: acknowledged at {base}");
                context.history.acknowledged(place, base, &batch.values, ack)
            }
            // A duplicate too old to know its offset.
            46 => {
                lane.queue.remove(at);
                Ok(())
            }
            _ if !live => {
                self.lanes.remove(&place);
                Ok(())
            }
            // Out of order: right when one before it failed, or when another resend is still to come.
            45 if lane.queue.iter().any(|batch| batch.state == State::Failed) => {
                lane.queue[at].state = State::Failed;
                Ok(())
            }
            // Unknown topic, not leader, timed out, not available, storage error, unknown topic id.
            3 | 5 | 6 | 7 | 56 | 100 if self.idempotent => {
                lane.queue[at].state = State::Failed;
                Ok(())
            }
            3 | 5 | 6 | 7 | 56 | 100 => {
                lane.queue.remove(at);
                Ok(())
            }
            error => Err(format!("producer {producer}: {place:?} of {} answers {error}", lane.topic)),
        }
    }

    fn send(&mut self, context: &mut Context) {
        let mut topics: BTreeMap<[u8; 16], Vec<(Place, usize)>> = BTreeMap::new();
        self.choose_again(&mut topics);
        if topics.is_empty() && !context.finishing {
            self.choose_new(context, &mut topics);
        }
        if topics.is_empty() {
            return;
        }
        let version = if context.rng.chance(0.5) { 13 } else { context.rng.range(9, 12) as i16 };
        let mut asked = Vec::new();
        for (place, at) in topics.values().flatten() {
            let lane = self.lanes.get_mut(place).expect("a lane was chosen");
            lane.queue[*at].state = State::Sent;
            asked.push(Asked { place: *place, topic: lane.topic.clone(), batch: lane.queue[*at].number });
            for &value in &lane.queue[*at].values {
                context.history.sending(value, *place, self.idempotent);
            }
        }
        let data = topics.values().map(|chosen| {
            let lane = &self.lanes[&chosen[0].0];
            let partitions = chosen.iter().map(|(place, at)| PartitionProduceData {
                index: place.1,
                records: Some(Records::Bytes(&self.lanes[place].queue[*at].bytes)),
            });
            TopicProduceData {
                name: lane.topic.as_str().into(),
                topic_id: lane.id,
                partition_data: partitions.collect::<Vec<_>>().into(),
            }
        });
        let request = ProduceRequest {
            acks: self.acks,
            timeout_ms: 30_000,
            topic_data: data.collect::<Vec<_>>().into(),
            ..ProduceRequest::default()
        };
        self.next_tag += 1;
        let silent = self.acks == 0;
        self.wire.request(context, version, self.next_tag, silent, &request);
        if silent {
            asked.iter().for_each(|asked| self.lanes.entry(asked.place).or_default().queue.clear());
        } else {
            self.requests.insert(self.next_tag, asked);
        }
    }

    /// The first batch of each lane that has to go again.
    fn choose_again(&mut self, topics: &mut BTreeMap<[u8; 16], Vec<(Place, usize)>>) {
        for (place, lane) in &mut self.lanes {
            if lane.queue.iter().all(|batch| batch.state != State::Sent) {
                lane.queue.iter_mut().for_each(|batch| batch.state = State::Queued);
            }
            let failed = lane.queue.iter().any(|batch| batch.state == State::Failed);
            let next = lane.queue.iter().position(|batch| batch.state == State::Queued);
            if let Some(at) = next.filter(|_| !failed) {
                topics.entry(place.0).or_default().push((*place, at));
            }
        }
    }

    fn choose_new(&mut self, context: &mut Context, topics: &mut BTreeMap<[u8; 16], Vec<(Place, usize)>>) {
        let live: Vec<(String, Uuid, i32)> = (context.history.live())
            .filter(|topic| topic.role != Role::Input)
            .map(|topic| (topic.name.clone(), topic.id, topic.partitions))
            .collect();
        if live.is_empty() {
            return;
        }
        for _ in 0..context.rng.range(1, 3) {
            let (name, id, partitions) = context.rng.pick(&live).clone();
            let place = (id.0, context.rng.below(partitions as u64) as i32);
            let chosen = topics.entry(place.0).or_default();
            let waits = self.lanes.get(&place).is_some_and(|lane| {
                lane.queue.len() >= 5 || lane.queue.iter().any(|batch| batch.state != State::Sent)
            });
            if waits || chosen.iter().any(|(other, _)| *other == place) {
                continue;
            }
            let lane = self.lanes.entry(place).or_default();
            (lane.topic, lane.id) = (name, id);
            let sequence = lane.next_sequence;
            let (values, bytes) = self.batch(context, sequence);
            self.next_batch += 1;
            let lane = self.lanes.entry(place).or_default();
            lane.next_sequence += values.len() as i32;
            lane.queue.push_back(Batch { number: self.next_batch, values, bytes, state: State::Queued });
            chosen.push((place, lane.queue.len() - 1));
        }
        topics.retain(|_, chosen| !chosen.is_empty());
    }

    fn batch(&mut self, context: &mut Context, sequence: i32) -> (Vec<u64>, Vec<u8>) {
        let (producer_id, producer_epoch) = self.id.unwrap_or((-1, -1));
        let base_sequence = if self.id.is_some() { sequence } else { -1 };
        let options = BatchOptions { producer_id, producer_epoch, base_sequence, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        let count = context.rng.range(1, 5);
        let padding = if context.rng.chance(0.1) { context.rng.below(8_000) } else { context.rng.below(60) };
        let mut values = Vec::new();
        for _ in 0..count {
            self.next_value += 1;
            let mut value = self.next_value.to_be_bytes().to_vec();
            value.resize(8 + padding as usize, self.next_value as u8);
            builder.append(context.world.wall_ms(), None, Some(&value), &[]);
            values.push(self.next_value);
        }
        let mut bytes = Vec::new();
        builder.finish(&mut Compressor::default(), &mut bytes).expect("a batch without compression");
        (values, bytes)
    }
}

impl Client for Producer {
    fn step(&mut self, context: &mut Context) -> Verdict {
        let polled = self.wire.poll(context)?;
        for answer in &polled.answers {
            match answer.api {
                ApiKey::InitProducerId => self.got_id(answer)?,
                _ => self.produced(context, answer)?,
            }
        }
        if polled.lost {
            self.lost();
        }
        if !self.wire.is_open(context) {
            return Ok(());
        }
        if context.rng.chance(0.002) {
            self.wire.drop_connection(context, true);
            self.lost();
            return Ok(());
        }
        if self.idempotent && self.id.is_none() {
            if !std::mem::replace(&mut self.id_asked, true) {
                let request = InitProducerIdRequest { transactional_id: None, ..Default::default() };
                self.wire.request(context, 4, 0, false, &request);
            }
        } else if context.now_ns() >= self.next_send_ns && self.requests.len() < self.in_flight_max {
            self.send(context);
            self.next_send_ns = context.in_ms(0, 30);
        }
        Ok(())
    }

    fn wake_ns(&self) -> u64 {
        let full = self.requests.len() >= self.in_flight_max;
        let ready = self.wire.socket().is_some() && !full && (!self.idempotent || self.id.is_some());
        let send_ns = if ready { self.next_send_ns } else { u64::MAX };
        send_ns.min(self.wire.wake_ns())
    }

    fn sockets(&self) -> Vec<SocketId> {
        self.wire.socket().into_iter().collect()
    }

    fn is_done(&self, _: &Context) -> bool {
        self.lanes.values().all(|lane| lane.queue.is_empty())
    }

    fn describe(&self) -> String {
        let waiting: Vec<_> = self.lanes.iter().filter(|(_, lane)| !lane.queue.is_empty()).collect();
        let places: Vec<_> =
            waiting.iter().map(|(place, lane)| (place.1, lane.topic.as_str(), lane.queue.len())).collect();
        format!("producer {} waits for {places:?}, {} unanswered", self.number, self.wire.unanswered())
    }
}
