//! The producing half of a worker: its producers, their connections, and what becomes of every batch.
//!
//! A turn takes what the plan gives, moves ripe batches into requests as far as the requests in flight allow, and sends each
//! connection's requests in one piece. An answer settles its request; a batch that may be tried again goes back to its place
//! and waits, alone in flight for its partition, so that order holds. Called by [`super::worker`].

mod settle;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::batch::{Batch, ProducerId};
use super::cluster::{ClusterMap, Shared};
use super::lane::{Fence, Lane};
use super::options::{Acks, Keys, Options};
use super::producer::{Producer, Workshop};
use super::recorder::Series;
use super::request::{CLIENT_ID, ProduceShape};
use super::schedule::{Phases, Schedule};
use super::turn::Turn;
use super::verify::Sent;
use crate::io::Io;
use crate::protocol::Writer;
use crate::protocol::frame::encode_request;
use crate::protocol::messages::api_versions_request::ApiVersionsRequest;
use crate::record::{Codec, Compressor};
use settle::give_up;

/// How long the broker may wait for its replicas.
const REQUEST_TIMEOUT_MS: i32 = 30_000;
/// A latency spread below this part of the latency is below the histogram's resolution.
const RESOLUTION: u64 = 2000;
/// The answer to a fence has this id, which no request reaches in a run.
const FENCE_ID: i32 = -7;

/// See the module.
pub struct Sender {
    producers: Vec<Producer>,
    lanes: Vec<Lane>,
    /// Lane by broker, producers' group and place in the group.
    index: BTreeMap<(i32, u32, u32), usize>,
    /// Connections of a group to each broker.
    group_lanes: u32,
    map: Arc<ClusterMap>,
    workshop: Workshop,
    shape: ProduceShape,
    settings: Settings,
    run: u32,
    seed: u64,
    compressor: Compressor,
    writer: Writer,
    spare: Vec<Vec<Batch>>,
    /// Retries: due, producer, partition.
    delayed: VecDeque<(u64, u32, u32)>,
    flushed: bool,
    /// Lanes that got something ready.
    touched: Vec<usize>,
    /// Every acknowledgement, where that is asked for.
    pub ledger: Option<Vec<Acknowledged>>,
    pub last_error: Option<String>,
}

/// An acknowledged batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub run: u32,
    pub producer: u16,
    pub partition: u32,
    pub first_sequence: u64,
    pub count: u32,
    pub base_offset: i64,
}

struct Settings {
    acks: Acks,
    packed: bool,
    idempotent: bool,
    in_flight_max: usize,
    request_bytes_max: usize,
    delivery_timeout_ns: u64,
    retry_backoff_ns: u64,
}

/// Who produces in a thread.
#[derive(Clone, Debug)]
pub struct Seat {
    pub number: u32,
    pub id: ProducerId,
    pub group: u32,
}

impl Sender {
    pub fn new(options: &Options, run: u32, seed: u64, seats: Vec<Seat>, map: Arc<ClusterMap>) -> Sender {
        let partitions = map.leaders.len();
        let phases = Phases::new(0, 0, Some(0));
        let shape = ProduceShape {
            version: map.versions.produce,
            topic: map.topic.clone(),
            topic_id: map.topic_id,
            acks: options.acks.code(),
            timeout_ms: REQUEST_TIMEOUT_MS,
        };
        let producers = seats
            .into_iter()
            .map(|seat| Producer::new(seat.number, seat.id, seat.group, options, phases, partitions, seed))
            .collect();
        Sender {
            producers,
            lanes: Vec::new(),
            index: BTreeMap::new(),
            group_lanes: (options.connections / options.producers.max(1)).max(1),
            map,
            workshop: Workshop::new(options, run),
            shape,
            settings: Settings {
                acks: options.acks,
                packed: options.codec != Codec::None,
                idempotent: options.idempotent,
                in_flight_max: options.in_flight_max,
                request_bytes_max: options.request_bytes_max,
                delivery_timeout_ns: options.delivery_timeout_ns,
                retry_backoff_ns: options.retry_backoff_ns,
            },
            compressor: Compressor::new(),
            writer: Writer::new(),
            spare: Vec::new(),
            delayed: VecDeque::new(),
            flushed: false,
            touched: Vec::new(),
            ledger: options.keep_ledger.then(Vec::new),
            run,
            seed,
            last_error: None,
        }
    }

    /// The times of the run are set: the plans begin.
    pub fn begin(&mut self, options: &Options, phases: Phases) {
        for producer in &mut self.producers {
            let number = u32::from(producer.number);
            producer.schedule =
                Schedule::new(&options.pace, options.length, phases, number, options.producers, self.seed);
        }
    }

    /// Opens the connections to all brokers that lead a partition.
    pub fn connect<I: Io>(&mut self, io: &mut I) {
        for producer in 0..self.producers.len() {
            for partition in 0..self.map.leaders.len() {
                self.lane_of(producer as u32, partition as u32);
            }
        }
        for lane in &mut self.lanes {
            if lane.link.is_down() {
                lane.link.open(io);
            }
        }
    }

    /// Opens again what has gone down while connecting.
    pub fn reopen<I: Io>(&mut self, io: &mut I) {
        let now_ns = io.now();
        for lane in &mut self.lanes {
            if lane.link.is_down() && lane.reopen_ns <= now_ns {
                lane.link.open(io);
            }
        }
    }

    pub fn is_connected(&self) -> bool {
        self.lanes.iter().all(|lane| lane.link.is_open())
    }

    /// The lane to the leader of a partition, made where missing; `None` while nobody leads it.
    fn lane_of(&mut self, producer: u32, partition: u32) -> Option<usize> {
        let node = self.map.leaders.get(partition as usize).copied().flatten()?;
        let address = *self.map.brokers.get(&node)?;
        let group = self.producers[producer as usize].group;
        let key = (node, group, partition % self.group_lanes);
        if let Some(&lane) = self.index.get(&key) {
            return Some(lane);
        }
        let number = self.lanes.len();
        // Even numbers are produce connections; see `worker`.
        self.lanes.push(Lane::new(number * 2, node, address));
        self.index.insert(key, number);
        Some(number)
    }

    pub fn set_map(&mut self, map: Arc<ClusterMap>) {
        for lane in &mut self.lanes {
            if let Some(&address) = map.brokers.get(&lane.node) {
                lane.link.address = address;
            }
        }
        self.map = map;
        // What waited for a leader, or for another one, finds its lane again.
        for (index, producer) in self.producers.iter_mut().enumerate() {
            for (partition, queue) in producer.partitions.iter_mut().enumerate() {
                if !queue.queued && !queue.batches.is_empty() {
                    queue.queued = true;
                    self.workshop.ripe.push((index as u32, partition as u32));
                }
            }
        }
    }

    /// One turn. What it sends goes out with the driver's next submission.
    pub fn turn<I: Io>(&mut self, io: &mut I, turn: &mut Turn<'_>) {
        self.run_timers(io, turn);
        if self.workshop.closed_loop {
            self.fill_closed(turn);
        } else {
            for (index, producer) in self.producers.iter_mut().enumerate() {
                producer.fill(index as u32, turn.now_ns, &mut self.workshop, turn.recorder, &|_| true);
            }
        }
        if !self.flushed && self.is_over(turn.now_ns) {
            self.flushed = true;
            self.flush_batches();
        } else if self.workshop.is_blocked() && self.workshop.linger_ns > 0 {
            self.flush_batches();
        }
        self.assign_ripe(turn.shared);
        self.touched.clear();
        for lane in 0..self.lanes.len() {
            self.pump(lane, turn);
            self.lanes[lane].flush(io);
        }
        self.touched.clear();
    }

    fn flush_batches(&mut self) {
        for (index, producer) in self.producers.iter_mut().enumerate() {
            producer.flush(index as u32, &mut self.workshop);
        }
    }

    /// Fills the requests that may be in flight, a batch at a time for each producer in turn.
    fn fill_closed(&mut self, turn: &mut Turn<'_>) {
        let keyed = self.workshop.keys != Keys::None;
        loop {
            let mut took = false;
            for index in 0..self.producers.len() {
                let max = self.settings.in_flight_max;
                let Sender { producers, lanes, index: by_key, map, group_lanes, workshop, .. } = self;
                let producer = &mut producers[index];
                let group = producer.group;
                let has_slot = |partition: usize| {
                    let Some(node) = map.leaders[partition] else { return false };
                    let Some(&lane) = by_key.get(&(node, group, partition as u32 % *group_lanes)) else {
                        return true;
                    };
                    let waiting = if keyed { 0 } else { lanes[lane].ready.len() };
                    lanes[lane].in_flight.len() + waiting < max
                };
                if producer.fill(index as u32, turn.now_ns, workshop, turn.recorder, &has_slot) {
                    took = true;
                    self.assign_ripe(turn.shared);
                    // At once: a batch is a request of its own where the plan does not gather more.
                    while let Some(lane) = self.touched.pop() {
                        self.pump(lane, turn);
                    }
                }
            }
            if !took {
                return;
            }
        }
    }

    fn assign_ripe(&mut self, shared: &Shared) {
        for at in 0..self.workshop.ripe.len() {
            let (producer, partition) = self.workshop.ripe[at];
            match self.lane_of(producer, partition) {
                Some(lane) => {
                    self.lanes[lane].ready.push_back((producer, partition));
                    self.touched.push(lane);
                }
                None => {
                    // Found again when a map comes.
                    self.producers[producer as usize].partitions[partition as usize].queued = false;
                    shared.want_refresh();
                }
            }
        }
        self.workshop.ripe.clear();
    }

    /// Moves ripe batches into requests while the lane takes more.
    fn pump(&mut self, number: usize, turn: &mut Turn<'_>) {
        while self.lanes[number].link.is_open()
            && self.lanes[number].in_flight.len() < self.settings.in_flight_max
            && !self.lanes[number].ready.is_empty()
        {
            let mut batches = self.spare.pop().unwrap_or_default();
            let producer = self.gather(number, turn, &mut batches);
            self.assign_ripe(turn.shared);
            if batches.is_empty() {
                self.spare.push(batches);
                continue;
            }
            let records: u64 = batches.iter().map(|batch| u64::from(batch.count)).sum();
            turn.recorder.counts.requests += 1;
            turn.recorder.counts.batches += batches.len() as u64;
            turn.recorder.sent(turn.now_ns, records);
            let packed = self.settings.packed;
            let bytes = self.lanes[number].write(&self.shape, producer, batches, packed, &mut self.writer);
            turn.recorder.counts.wire_bytes += bytes as u64;
        }
    }

    /// Takes the batches of one producer for the next request of a lane; whose they are.
    fn gather(&mut self, number: usize, turn: &mut Turn<'_>, out: &mut Vec<Batch>) -> u32 {
        let mut owner = None;
        let mut bytes = 0;
        while let Some(&(index, partition)) = self.lanes[number].ready.front() {
            if owner.is_some_and(|owner| owner != index) {
                break;
            }
            let here = self.lane_of(index, partition) == Some(number);
            let Sender { producers, lanes, workshop, settings, compressor, .. } = self;
            let producer = &mut producers[index as usize];
            let id = producer.id;
            let queue = &mut producer.partitions[partition as usize];
            if !here && !queue.batches.is_empty() {
                lanes[number].ready.pop_front();
                workshop.ripe.push((index, partition));
                continue;
            }
            let size = queue.batches.front().map(|batch| batch.raw_len(&workshop.template));
            if size.is_some_and(|size| !out.is_empty() && bytes + size > settings.request_bytes_max) {
                break;
            }
            lanes[number].ready.pop_front();
            queue.queued = false;
            // A retry that has to wait is brought back by its timer, or by the answer it waits for.
            if queue.must_wait(turn.now_ns) {
                continue;
            }
            let Some(mut batch) = queue.batches.pop_front() else { continue };
            if queue.dead {
                give_up(&mut queue.sent, batch, workshop, turn.recorder);
            } else {
                if batch.attempts == 0
                    && let Err(error) =
                        batch.seal(&workshop.template, id, (turn.now_ns, turn.wall_ms), compressor)
                {
                    self.last_error = Some(error.to_string());
                    give_up(&mut queue.sent, batch, workshop, turn.recorder);
                    continue;
                }
                if batch.attempts == 0 && !settings.packed {
                    let len = batch.raw_len(&workshop.template);
                    batch.bytes.truncate(len);
                }
                turn.recorder.counts.retries += u64::from(batch.attempts > 0);
                batch.attempts += 1;
                queue.in_flight += 1;
                bytes += size.unwrap_or(0);
                owner = Some(index);
                out.push(batch);
            }
            if queue.is_ripe(&workshop.template, workshop.linger_ns, turn.now_ns) || self.flushed {
                queue.queued = true;
                workshop.ripe.push((index, partition));
            }
        }
        owner.unwrap_or(0)
    }

    fn run_timers<I: Io>(&mut self, io: &mut I, turn: &mut Turn<'_>) {
        self.reopen(io);
        let Sender { producers, workshop, delayed, .. } = self;
        while let Some(&(due, producer, partition, first)) = workshop.lingering.front() {
            if due > turn.now_ns {
                break;
            }
            workshop.lingering.pop_front();
            let timer = (due, partition, first);
            producers[producer as usize].lingered(producer, timer, turn.now_ns, workshop, turn.recorder);
        }
        while let Some(&(due, producer, partition)) = delayed.front() {
            if due > turn.now_ns {
                break;
            }
            delayed.pop_front();
            let queue = &mut producers[producer as usize].partitions[partition as usize];
            if !queue.queued && !queue.batches.is_empty() {
                queue.queued = true;
                workshop.ripe.push((producer, partition));
            }
        }
    }

    pub fn is_over(&self, now_ns: u64) -> bool {
        self.producers.iter().all(|producer| producer.schedule.is_over(now_ns))
    }

    /// Whether every record of the plan has its outcome. With acks=0, asks the connections for a sign that all was handled.
    pub fn is_finished<I: Io>(&mut self, io: &mut I, now_ns: u64) -> bool {
        let settled = self.is_over(now_ns)
            && self.lanes.iter().all(|lane| lane.in_flight.is_empty())
            && self.producers.iter().all(|it| it.partitions.iter().all(|queue| queue.batches.is_empty()));
        if !settled || self.settings.acks != Acks::None {
            return settled;
        }
        for lane in &mut self.lanes {
            if lane.fence == Fence::None && lane.link.can_send() {
                let request = ApiVersionsRequest::default();
                lane.write_plain(&encode_request(0, FENCE_ID, Some(CLIENT_ID), &request));
                lane.flush(io);
                lane.fence = Fence::Sent;
            }
        }
        self.lanes.iter().all(|lane| lane.fence == Fence::Passed)
    }

    /// Takes no more from the plan. With `late`, what it still holds counts as never sent, and its latency as what it is by now.
    pub fn stop(&mut self, late: bool, turn: &mut Turn<'_>) {
        for producer in &mut self.producers {
            while let Some(intended) = producer.schedule.next_ns().filter(|_| late) {
                let behind = turn.now_ns.saturating_sub(intended);
                turn.recorder.latency(Series::Ack, intended, behind, 1);
                producer.schedule.take(turn.now_ns);
                turn.recorder.counts.never_sent += 1;
            }
            producer.schedule.cancel();
        }
    }

    /// Ends everything that still waits or is in flight: its outcome stays unknown.
    pub fn abandon(&mut self, turn: &mut Turn<'_>) {
        self.stop(true, turn);
        for producer in &mut self.producers {
            for queue in &mut producer.partitions {
                for batch in queue.batches.drain(..) {
                    let behind = turn.now_ns.saturating_sub(batch.first_intended_ns);
                    turn.recorder.latency(
                        Series::Ack,
                        batch.first_intended_ns,
                        behind,
                        u64::from(batch.count),
                    );
                    give_up(&mut queue.sent, batch, &mut self.workshop, turn.recorder);
                }
            }
        }
        for lane in 0..self.lanes.len() {
            for (request, _) in self.lanes[lane].take_all(self.settings.packed) {
                let producer = &mut self.producers[request.producer as usize];
                for batch in request.batches {
                    let sent = &mut producer.partitions[batch.partition as usize].sent;
                    give_up(sent, batch, &mut self.workshop, turn.recorder);
                }
            }
        }
    }

    /// When the next thing is due that no completion brings.
    pub fn wake_ns(&self, now_ns: u64) -> u64 {
        let mut wake = u64::MAX;
        if !self.workshop.is_blocked() {
            for producer in &self.producers {
                wake = wake.min(producer.wake_ns(&self.workshop));
            }
        }
        wake = wake.min(self.workshop.lingering.front().map_or(u64::MAX, |timer| timer.0));
        wake = wake.min(self.delayed.front().map_or(u64::MAX, |timer| timer.0));
        let down = self.lanes.iter().filter(|lane| lane.link.is_down());
        wake.min(down.map(|lane| lane.reopen_ns.max(now_ns)).min().unwrap_or(u64::MAX))
    }

    /// What was sent, by producer and partition, for the verification.
    pub fn into_sent(self) -> Vec<((u16, u32), Sent)> {
        let mut all = Vec::new();
        for producer in self.producers {
            for (partition, queue) in producer.partitions.into_iter().enumerate() {
                if queue.sent.next_sequence > 0 {
                    all.push(((producer.number, partition as u32), queue.sent));
                }
            }
        }
        all
    }
}
