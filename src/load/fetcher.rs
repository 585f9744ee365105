//! The consuming half of a worker: its consumers' connections, where each partition has been read to, and the check of what
//! comes.
//!
//! A consumer has the partitions `p` with `p % consumers == consumer`, and one connection to each broker that leads some of
//! them, with one fetch in flight, as Kafka's consumer has. Called by [`super::worker`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::ClusterMap;
use super::link::{Event, Kind, Link};
use super::options::{FetchOptions, Options};
use super::payload::{Filler, Identity};
use super::recorder::{Recorder, Series};
use super::request::CLIENT_ID;
use super::turn::Turn;
use super::verify::{PartitionCheck, Tools};
use crate::io::{Completion, Io, Part};
use crate::protocol::frame::{decode_response, write_request};
use crate::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use crate::protocol::messages::fetch_response::{FetchResponse, PartitionData};
use crate::protocol::{Array, ErrorCode, Writer};
use crate::record::{RecordBatch, batches};

/// Latencies closer than this part of their value are one to the histogram.
const RESOLUTION: u64 = 2000;

/// A partition being read.
struct Reader {
    consumer: u32,
    check: PartitionCheck,
    retry_ns: u64,
    /// Read to its end, or given up.
    done: bool,
}

struct FetchLane {
    link: Link,
    node: i32,
    consumer: u32,
    in_flight: bool,
    reopen_ns: u64,
    spare: Vec<u8>,
}

/// See the module.
pub struct Fetcher {
    readers: Vec<Reader>,
    /// Reader by partition.
    places: BTreeMap<u32, usize>,
    lanes: Vec<FetchLane>,
    index: BTreeMap<(i32, u32), usize>,
    map: Arc<ClusterMap>,
    options: FetchOptions,
    verify: bool,
    backoff_ns: u64,
    run: u32,
    /// What the records' values end with; `None` where those of other runs are read, whose text is not known.
    filler: Option<Filler>,
    tools: Tools,
    next_id: i32,
    /// When something last came.
    pub progress_ns: u64,
    pub last_error: Option<String>,
}

impl Fetcher {
    /// For these (consumer, partition, first offset); `all_runs` for reading what others wrote.
    pub fn new(
        options: &Options,
        run: u32,
        all_runs: bool,
        parts: &[(u32, u32, i64)],
        map: Arc<ClusterMap>,
    ) -> Fetcher {
        let reader = |&(consumer, partition, offset): &(u32, u32, i64)| Reader {
            consumer,
            check: PartitionCheck::new((!all_runs).then_some(run), partition, offset),
            retry_ns: 0,
            done: false,
        };
        Fetcher {
            readers: parts.iter().map(reader).collect(),
            places: parts.iter().enumerate().map(|(place, part)| (part.1, place)).collect(),
            lanes: Vec::new(),
            index: BTreeMap::new(),
            map,
            options: options.fetch.clone(),
            verify: options.verify,
            backoff_ns: options.retry_backoff_ns,
            run,
            filler: (!all_runs).then(|| Filler::new(run, options.record_bytes)),
            tools: Tools::default(),
            next_id: 0,
            progress_ns: 0,
            last_error: None,
        }
    }

    pub fn set_map(&mut self, map: Arc<ClusterMap>) {
        for lane in &mut self.lanes {
            if let Some(&address) = map.brokers.get(&lane.node) {
                lane.link.address = address;
            }
        }
        self.map = map;
        self.make_lanes();
    }

    fn make_lanes(&mut self) {
        for reader in &self.readers {
            let Some(node) = self.map.leaders.get(reader.check.partition() as usize).copied().flatten()
            else {
                continue;
            };
            let Some(&address) = self.map.brokers.get(&node) else { continue };
            self.index.entry((node, reader.consumer)).or_insert_with(|| {
                let number = self.lanes.len();
                self.lanes.push(FetchLane {
                    // Odd numbers are fetch connections; see `worker`.
                    link: Link::new(number * 2 + 1, address),
                    node,
                    consumer: reader.consumer,
                    in_flight: false,
                    reopen_ns: 0,
                    spare: Vec::new(),
                });
                number
            });
        }
    }

    pub fn connect<I: Io>(&mut self, io: &mut I) {
        self.make_lanes();
        for lane in &mut self.lanes {
            if lane.link.is_down() {
                lane.link.open(io);
            }
        }
    }

    /// Opens again what has gone down.
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

    /// One turn: a fetch on each connection that has none in flight.
    pub fn turn<I: Io>(&mut self, io: &mut I, turn: &mut Turn<'_>) {
        if let Some(ends) = turn.shared.read_ends() {
            for reader in self.readers.iter_mut().filter(|reader| !reader.done) {
                let end = ends.get(reader.check.partition() as usize);
                reader.done = end.is_some_and(|&end| reader.check.next_offset >= end);
            }
        }
        self.reopen(io);
        for number in 0..self.lanes.len() {
            let lane = &self.lanes[number];
            if lane.in_flight || !lane.link.can_send() {
                continue;
            }
            let (node, consumer) = (lane.node, lane.consumer);
            let partitions: Array<'_, FetchPartition> = self
                .readers
                .iter()
                .filter(|reader| {
                    reader.consumer == consumer && !reader.done && reader.retry_ns <= turn.now_ns
                })
                .filter(|reader| self.map.leaders.get(reader.check.partition() as usize) == Some(&Some(node)))
                .map(|reader| FetchPartition {
                    partition: reader.check.partition() as i32,
                    fetch_offset: reader.check.next_offset,
                    partition_max_bytes: self.options.partition_bytes_max,
                    ..FetchPartition::default()
                })
                .collect();
            if !partitions.is_empty() {
                self.fetch(io, number, partitions);
                turn.recorder.counts.fetches += 1;
            }
        }
    }

    fn fetch<I: Io>(&mut self, io: &mut I, number: usize, partitions: Array<'_, FetchPartition>) {
        let topic = FetchTopic {
            topic: Cow::Borrowed(self.map.topic.as_str()),
            topic_id: self.map.topic_id,
            partitions,
        };
        let request = FetchRequest {
            max_wait_ms: self.options.wait_ms,
            min_bytes: self.options.bytes_min,
            max_bytes: self.options.bytes_max,
            topics: [topic].into(),
            ..FetchRequest::default()
        };
        let lane = &mut self.lanes[number];
        let mut writer = Writer::new();
        writer.buf = std::mem::take(&mut lane.spare);
        writer.clear();
        self.next_id = self.next_id.wrapping_add(1) & i32::MAX;
        write_request(&mut writer, self.map.versions.fetch, self.next_id, Some(CLIENT_ID), &request);
        lane.in_flight = true;
        lane.link.send(io, vec![Part::Bytes(writer.buf)]);
    }

    pub fn complete<I: Io>(
        &mut self,
        io: &mut I,
        number: usize,
        kind: Kind,
        completion: Completion,
        turn: &mut Turn<'_>,
    ) {
        let Some(lane) = self.lanes.get_mut(number) else { return };
        let mut event = lane.link.complete(io, kind, completion);
        match &mut event {
            Event::Sent(parts, _) => {
                if let Some(Part::Bytes(bytes)) = parts.pop() {
                    lane.spare = bytes;
                }
            }
            Event::Received(bytes) => {
                turn.recorder.counts.fetched_bytes += bytes.len() as u64;
                let address = lane.link.address;
                let mut link = std::mem::replace(&mut lane.link, Link::new(0, address));
                let mut outcome = Ok(());
                let fed = link.feed(bytes, &mut |frame| {
                    if outcome.is_ok() {
                        outcome = self.answer(number, frame, turn);
                    }
                });
                self.lanes[number].link = link;
                if let Err(error) = fed.and(outcome) {
                    self.lanes[number].link.close(io, &error);
                }
            }
            Event::Nothing | Event::Opened | Event::Lost => {}
        }
        let lane = &mut self.lanes[number];
        if matches!(event, Event::Lost) || matches!(lane.link.end(), Event::Lost) {
            turn.recorder.counts.connections_lost += u64::from(lane.link.was_open());
            lane.in_flight = false;
            lane.reopen_ns = turn.now_ns + self.backoff_ns;
            self.last_error = lane.link.error.take().or(self.last_error.take());
            turn.shared.want_refresh();
        }
    }

    fn answer(&mut self, number: usize, frame: &[u8], turn: &mut Turn<'_>) -> Result<(), String> {
        self.lanes[number].in_flight = false;
        let version = self.map.versions.fetch;
        let (_, response): (i32, FetchResponse<'_>) =
            decode_response::<FetchRequest<'_>>(frame, version).map_err(|error| error.to_string())?;
        if response.error_code != 0 {
            *turn.recorder.counts.fetch_errors.entry(response.error_code).or_default() += 1;
            return Err(format!("fetch refused with error {}", response.error_code));
        }
        for partition in response.responses.iter().flat_map(|topic| topic.partitions) {
            let index = partition.partition_index as u32;
            let Some(&place) = self.places.get(&index) else { continue };
            if partition.error_code != 0 {
                self.failed(place, partition.error_code, turn);
            } else {
                self.read(place, &partition, turn);
            }
        }
        Ok(())
    }

    fn failed(&mut self, place: usize, code: i16, turn: &mut Turn<'_>) {
        *turn.recorder.counts.fetch_errors.entry(code).or_default() += 1;
        let reader = &mut self.readers[place];
        if code == ErrorCode::OffsetOutOfRange.code() {
            reader.check.out_of_range();
            reader.done = true;
        }
        reader.retry_ns = turn.now_ns + self.backoff_ns;
        turn.shared.want_refresh();
    }

    fn read(&mut self, place: usize, data: &PartitionData<'_>, turn: &mut Turn<'_>) {
        let Fetcher { readers, verify, filler, tools, run, .. } = self;
        let check = &mut readers[place].check;
        let bytes = data.records.as_ref().and_then(|records| records.bytes()).unwrap_or_default();
        let mut records = 0;
        let mut group = Group::default();
        for batch in batches(bytes) {
            match batch {
                Ok(batch) if *verify => check.batch(&batch, filler.as_ref(), tools, |identity, _, new| {
                    records += 1;
                    if new && identity.run == *run {
                        group.add(identity, turn.now_ns, turn.recorder);
                    }
                }),
                Ok(batch) => records += pass(check, &batch),
                Err(error) => {
                    // What follows cannot be found; the next fetch would bring the same.
                    check.counts.corrupt += 1;
                    self.last_error = Some(error.to_string());
                    readers[place].done = true;
                    break;
                }
            }
        }
        group.flush(turn.now_ns, turn.recorder);
        if records > 0 {
            turn.recorder.read(turn.now_ns, records);
            self.progress_ns = turn.now_ns;
        }
    }

    pub fn is_finished(&self) -> bool {
        self.readers.iter().all(|reader| reader.done)
    }

    pub fn wake_ns(&self, now_ns: u64) -> u64 {
        let waiting = self.readers.iter().filter(|reader| !reader.done && reader.retry_ns > now_ns);
        let retry = waiting.map(|reader| reader.retry_ns).min().unwrap_or(u64::MAX);
        let down = self.lanes.iter().filter(|lane| lane.link.is_down());
        retry.min(down.map(|lane| lane.reopen_ns.max(now_ns)).min().unwrap_or(u64::MAX))
    }

    /// Partitions not read to their end.
    pub fn undrained(&self) -> usize {
        self.readers.iter().filter(|reader| !reader.done).count()
    }

    pub fn into_checks(self) -> Vec<PartitionCheck> {
        self.readers.into_iter().map(|reader| reader.check).collect()
    }
}

/// Goes over a batch without looking into it; how many records it counts.
fn pass(check: &mut PartitionCheck, batch: &RecordBatch<'_>) -> u64 {
    let header = batch.header();
    if header.last_offset() < check.next_offset {
        return 0;
    }
    check.next_offset = header.next_offset();
    check.counts.batches += 1;
    let records = u64::try_from(header.records_count).unwrap_or(0);
    check.counts.records += records;
    records
}

/// Records of about the same latency, to be put into the histograms at once.
#[derive(Default)]
struct Group {
    intended_ns: u64,
    sent_ns: u64,
    count: u64,
}

impl Group {
    #[inline]
    fn add(&mut self, identity: &Identity, now_ns: u64, recorder: &mut Recorder) {
        let spread = identity.intended_ns.abs_diff(self.intended_ns);
        let same = identity.sent_ns == self.sent_ns
            && spread * RESOLUTION <= now_ns.saturating_sub(self.intended_ns)
            && recorder.takes(identity.intended_ns) == recorder.takes(self.intended_ns);
        if self.count > 0 && !same {
            self.flush(now_ns, recorder);
        }
        if self.count == 0 {
            self.intended_ns = identity.intended_ns;
            self.sent_ns = identity.sent_ns;
        }
        self.count += 1;
    }

    fn flush(&mut self, now_ns: u64, recorder: &mut Recorder) {
        if self.count > 0 {
            let (intended, count) = (self.intended_ns, self.count);
            recorder.latency(Series::EndToEnd, intended, now_ns.saturating_sub(intended), count);
            let raw = now_ns.saturating_sub(self.sent_ns);
            recorder.latency(Series::EndToEndUncorrected, intended, raw, count);
            self.count = 0;
        }
    }
}
