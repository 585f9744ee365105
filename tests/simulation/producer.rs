//! A producer: idempotent with acks=all, or plain with acks of its choice. It pipelines, and sends again what was not
//! answered, in order, as Kafka's own producer does.

use std::collections::BTreeMap;

use ringlog::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use ringlog::protocol::messages::init_producer_id_response::InitProducerIdResponse;
use ringlog::protocol::messages::produce_request::ProduceRequest;
use ringlog::protocol::messages::produce_response::ProduceResponse;
use ringlog::protocol::{ApiKey, Uuid};
use ringlog::record::builder::BatchOptions;

use super::clients::{Client, Context};
use super::history::{Ack, Place, Role};
use super::lane::{self, Asked, Chosen, Lanes, Maker, Sizes, State, Told};
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
    lanes: Lanes,
    /// When the last batch was made of those that a partition has acknowledged.
    known_ns: BTreeMap<Place, u64>,
    maker: Maker,
    requests: BTreeMap<u64, Vec<Asked>>,
    next_tag: u64,
    next_send_ns: u64,
    in_flight_max: usize,
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
            lanes: Lanes::new(),
            known_ns: BTreeMap::new(),
            maker: Maker::new(number, Sizes { large: 0.1, large_max: 8_000, small_max: 60 }),
            requests: BTreeMap::new(),
            next_tag: 1,
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
            lane.reset();
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
        let asked = self.requests.remove(&answer.tag).unwrap_or_default();
        let told = lane::answers(&response, asked);
        let told = told.map_err(|error| format!("producer {}: {error}", self.number))?;
        told.into_iter().try_for_each(|told| self.answered(context, told))
    }

    fn answered(&mut self, context: &mut Context, told: Told) -> Verdict {
        let Told { place, batch, error, base } = told;
        let (ack, producer) = (self.ack(), self.number);
        let Some(lane) = self.lanes.get_mut(&place) else { return Ok(()) };
        let Some(at) = lane.position(batch) else { return Ok(()) };
        let live = context.history.is_live(lane.id);
        let clock = &context.history.clock;
        let forgets = |known_ns| clock.may_forget_producer(known_ns, clock.now_ns);
        match error {
            0 => {
                let Some(batch) = lane.queue.remove(at) else { return Ok(()) };
                ensure!(base >= 0, "producer {producer}: acknowledged at {base}");
                self.known_ns.insert(place, batch.made_ns);
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
            45 if lane.has(State::Failed) => {
                lane.queue[at].state = State::Failed;
                Ok(())
            }
            // Forgotten, a producer may begin with any number: what failed before that was accepted has no place any more.
            45 if self.known_ns.get(&place).is_some_and(|known_ns| forgets(*known_ns)) => {
                lane.queue.clear();
                self.maker.forget_sequences();
                self.id = None;
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
        let mut topics = lane::choose(&mut self.lanes);
        if topics.is_empty() && !context.finishing {
            self.choose_new(context, &mut topics);
        }
        if topics.is_empty() {
            return;
        }
        let version = if context.rng.chance(0.5) { 13 } else { context.rng.range(9, 12) as i16 };
        let asked = lane::sent(&mut self.lanes, &topics);
        for (place, at) in topics.values().flatten() {
            for &value in &self.lanes[place].queue[*at].values {
                context.history.sending(value, *place, self.idempotent);
            }
        }
        let request = ProduceRequest {
            acks: self.acks,
            timeout_ms: 30_000,
            topic_data: lane::topic_data(&self.lanes, &topics).into(),
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

    fn choose_new(&mut self, context: &mut Context, topics: &mut Chosen) {
        let live: Vec<(String, Uuid, i32)> = (context.history.live())
            .filter(|topic| topic.role != Role::Input)
            .map(|topic| (topic.name.clone(), topic.id, topic.partitions))
            .collect();
        if live.is_empty() {
            return;
        }
        let (producer_id, producer_epoch) = self.id.unwrap_or((-1, -1));
        let options = BatchOptions { producer_id, producer_epoch, ..BatchOptions::default() };
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
            let count = context.rng.range(1, 5) as usize;
            lane.queue.push_back(self.maker.batch(context, place, count, options));
            chosen.push((place, lane.queue.len() - 1));
        }
        topics.retain(|_, chosen| !chosen.is_empty());
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
