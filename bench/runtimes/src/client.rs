//! A client that costs so little that the server is what is measured: the same encoded batch again and again, blocking
//! threads, nothing decoded but what tells the end and an error. It speaks to the append servers and to any broker.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::wire::{self, CREATE_TOPICS, FETCH, Fields, Malformed, PRODUCE, Put};

/// Answers to produce requests are small; a large answer is read past the buffer.
const READ_AHEAD: usize = 4 * 1024;
const ANSWER_MAX: usize = 256 << 20;
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// What a thread did.
pub struct Done {
    pub requests: u64,
    pub records: u64,
    pub bytes: u64,
    pub latency: Histogram<u64>,
    /// From the start to the last answer; of several threads, the longest.
    pub time: Duration,
}

impl Done {
    pub fn new() -> Done {
        let latency = Histogram::new_with_max(LATENCY_MAX_NS, 3).expect("the bounds are fixed");
        Done { requests: 0, records: 0, bytes: 0, latency, time: Duration::ZERO }
    }

    pub fn add(&mut self, other: &Done) {
        self.requests += other.requests;
        self.records += other.records;
        self.bytes += other.bytes;
        self.time = self.time.max(other.time);
        self.latency.add(&other.latency).expect("both have the same bounds");
    }

    fn took(&mut self, since: Instant) {
        self.latency.saturating_record(since.elapsed().as_nanos() as u64);
    }
}

impl Default for Done {
    fn default() -> Done {
        Done::new()
    }
}

/// When a thread starts and stops: once all are connected; after a time, or after so many requests.
#[derive(Clone, Copy)]
pub struct Until<'a> {
    pub start: &'a Barrier,
    pub time: Option<Duration>,
    pub requests: u64,
}

impl Until<'_> {
    /// Connects, waits for the other threads to have done so (or failed), and tells the time of the start.
    fn connected<T>(&self, connect: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Instant)> {
        let connected = connect();
        self.start.wait();
        Ok((connected?, Instant::now()))
    }

    fn goes_on(&self, began: Instant, requests: u64) -> bool {
        requests < self.requests && self.time.is_none_or(|time| began.elapsed() < time)
    }
}

#[derive(Clone)]
pub struct Produce {
    pub topic: String,
    pub partitions: i32,
    pub in_flight: usize,
    pub records: i32,
    pub size: usize,
    pub acks: i16,
}

impl Produce {
    /// Keeps requests under way over some connections in turn, and over the partitions in turn.
    pub fn run(
        &self,
        address: SocketAddr,
        connections: u32,
        first_partition: i32,
        until: Until,
    ) -> io::Result<Done> {
        let connect = || (0..connections).map(|_| connect(address)).collect::<io::Result<Vec<_>>>();
        let (mut connections, began) = until.connected(connect)?;
        let (mut request, partition_at) = self.request();
        let (mut done, mut sent, mut partition, mut answer) =
            (Done::new(), 0u64, first_partition, Vec::new());
        // The connections answer in an order of their own, each its requests in theirs: waiting for the oldest is enough.
        let mut under_way = VecDeque::with_capacity(self.in_flight);
        let count = connections.len() as u64;
        loop {
            if under_way.len() < self.in_flight && until.goes_on(began, sent) {
                partition = (partition + 1) % self.partitions;
                request[partition_at..partition_at + 4].copy_from_slice(&partition.to_be_bytes());
                let connection = (sent % count) as usize;
                under_way.push_back((connection, Instant::now()));
                send(&connections[connection], &request)?;
                sent += 1;
                continue;
            }
            let Some((connection, sent_at)) = under_way.pop_front() else {
                done.time = began.elapsed();
                return Ok(done);
            };
            receive(&mut connections[connection], &mut answer)?;
            done.took(sent_at);
            accepted(&answer).map_err(|Malformed| damaged())??;
            done.requests += 1;
            done.records += self.records as u64;
            done.bytes += self.records as u64 * self.size as u64;
        }
    }

    /// A request, and where in it the partition stands.
    fn request(&self) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        let start = wire::begin_request(&mut out, PRODUCE, 7, 1);
        out.i16(-1);
        out.i16(self.acks);
        out.i32s([30_000, 1]);
        out.text(self.topic.as_bytes());
        out.i32(1);
        let partition_at = out.len();
        out.i32(0);
        let batch = batch(self.records, self.size);
        out.i32(batch.len() as i32);
        out.extend_from_slice(&batch);
        wire::seal(&mut out, start);
        (out, partition_at)
    }
}

pub struct Fetch {
    pub topic: String,
    pub partitions: Vec<i32>,
    pub partition_bytes: i32,
}

impl Fetch {
    /// Reads the partitions from their start to their end, over and over.
    pub fn run(&self, address: SocketAddr, until: Until<'_>) -> io::Result<Done> {
        let (mut connection, began) = until.connected(|| connect(address))?;
        let mut offsets = vec![0; self.partitions.len()];
        let (mut done, mut request, mut answer) = (Done::new(), Vec::new(), Vec::new());
        while until.goes_on(began, done.requests) {
            request.clear();
            let wanted = self.partitions.iter().copied().zip(offsets.iter().copied());
            fetch_request(&mut request, &self.topic, wanted, 100, self.partition_bytes);
            let sent_at = Instant::now();
            send(&connection, &request)?;
            receive(&mut connection, &mut answer)?;
            done.took(sent_at);
            let at_end = self.fetched(&answer, &mut offsets, &mut done).map_err(|Malformed| damaged())??;
            done.requests += 1;
            if at_end && done.records == 0 {
                return Err(io::Error::other("the topic is empty"));
            }
            if at_end {
                offsets.fill(0);
            }
        }
        done.time = began.elapsed();
        Ok(done)
    }

    /// Moves the offsets on; whether all partitions are read to their end.
    fn fetched(
        &self,
        answer: &[u8],
        offsets: &mut [i64],
        done: &mut Done,
    ) -> Result<io::Result<bool>, Malformed> {
        let mut fields = Fields(answer);
        fields.bytes(12)?;
        fields.text()?;
        let mut at_end = true;
        for _ in 0..fields.size()? {
            let (partition, error, high_watermark) = (fields.i32()?, fields.i16()?, fields.i64()?);
            fields.i64()?;
            if error != 0 {
                return Ok(Err(io::Error::other(format!("fetch: error code {error}"))));
            }
            let aborted = fields.i32()?.max(0) as usize;
            fields.bytes(aborted.saturating_mul(16))?;
            let len = fields.i32()?.max(0) as usize;
            let mut batches = fields.bytes(len)?;
            let place = self.partitions.iter().position(|&wanted| wanted == partition).ok_or(Malformed)?;
            while let Some((last, count, bytes)) = whole_batch(batches) {
                if last >= offsets[place] {
                    offsets[place] = last + 1;
                    done.records += count;
                    done.bytes += bytes as u64;
                }
                batches = &batches[bytes..];
            }
            at_end &= offsets[place] >= high_watermark;
        }
        Ok(Ok(at_end))
    }
}

/// The last offset, records and bytes of the first batch, if all of it is there.
fn whole_batch(batches: &[u8]) -> Option<(i64, u64, usize)> {
    let mut head = Fields(batches);
    let (base, len) = (head.i64().ok()?, 12 + head.size().ok()?);
    let last_delta = Fields(batches.get(23..)?).i32().ok()?;
    let records = Fields(batches.get(57..)?).i32().ok()?;
    (len >= 61 && len <= batches.len()).then_some((base + i64::from(last_delta), records.max(0) as u64, len))
}

/// Creates a topic and waits until each partition answers a fetch.
pub fn create(
    address: SocketAddr,
    topic: &str,
    partitions: i32,
    configs: &[(String, String)],
) -> io::Result<()> {
    let mut connection = connect(address)?;
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    let start = wire::begin_request(&mut request, CREATE_TOPICS, 2, 1);
    request.i32(1);
    request.text(topic.as_bytes());
    request.i32(partitions);
    request.i16(1);
    request.i32(0);
    request.i32(configs.len() as i32);
    for (key, value) in configs {
        request.text(key.as_bytes());
        request.text(value.as_bytes());
    }
    request.i32(30_000);
    request.i8(0);
    wire::seal(&mut request, start);
    send(&connection, &request)?;
    receive(&mut connection, &mut answer)?;
    let mut fields = Fields(&answer);
    let error = fields
        .bytes(12)
        .and_then(|_| fields.text())
        .and_then(|_| fields.i16())
        .map_err(|Malformed| damaged())?;
    if error != 0 {
        return Err(io::Error::other(format!("create {topic}: error code {error}")));
    }
    let fetch = Fetch { topic: topic.to_owned(), partitions: (0..partitions).collect(), partition_bytes: 1 };
    for attempt in 0.. {
        request.clear();
        fetch_request(&mut request, topic, (0..partitions).map(|partition| (partition, 0)), 0, 1);
        send(&connection, &request)?;
        receive(&mut connection, &mut answer)?;
        let mut offsets = vec![0; fetch.partitions.len()];
        match fetch.fetched(&answer, &mut offsets, &mut Done::new()).map_err(|Malformed| damaged())? {
            Err(error) if attempt == 500 => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(_) => break,
        }
    }
    Ok(())
}

/// One descriptor a connection: it is written to past the buffer that it is read through.
type Connection = BufReader<TcpStream>;

fn connect(address: SocketAddr) -> io::Result<Connection> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(BufReader::with_capacity(READ_AHEAD, stream))
}

fn send(connection: &Connection, request: &[u8]) -> io::Result<()> {
    (&mut connection.get_ref()).write_all(request)
}

fn damaged() -> io::Error {
    io::Error::other("a damaged answer")
}

fn receive(answers: &mut impl Read, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut prefix = [0; 4];
    answers.read_exact(&mut prefix)?;
    let len = usize::try_from(i32::from_be_bytes(prefix))
        .ok()
        .filter(|&len| len <= ANSWER_MAX)
        .ok_or_else(damaged)?;
    if answer.len() < len {
        answer.resize(len, 0);
    }
    answer.truncate(len);
    answers.read_exact(answer)
}

/// The error of a produce answer.
fn accepted(answer: &[u8]) -> Result<io::Result<()>, Malformed> {
    let mut fields = Fields(answer);
    fields.bytes(8)?;
    fields.text()?;
    fields.bytes(8)?;
    Ok(match fields.i16()? {
        0 => Ok(()),
        error => Err(io::Error::other(format!("produce: error code {error}"))),
    })
}

fn fetch_request(
    out: &mut Vec<u8>,
    topic: &str,
    wanted: impl ExactSizeIterator<Item = (i32, i64)>,
    wait_ms: i32,
    partition_bytes: i32,
) {
    let start = wire::begin_request(out, FETCH, 4, 1);
    out.i32s([-1, wait_ms, 1, 50 << 20]);
    out.i8(0);
    out.i32(1);
    out.text(topic.as_bytes());
    out.i32(wanted.len() as i32);
    for (partition, offset) in wanted {
        out.i32(partition);
        out.i64(offset);
        out.i32(partition_bytes);
    }
    wire::seal(out, start);
}

/// A record batch (v2) of records without keys, their values all unlike.
pub fn batch(records: i32, size: usize) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let mut out = Vec::new();
    out.i64(0);
    out.i32(0);
    out.i32(-1);
    out.i8(2);
    out.i32(0);
    out.i16(0);
    out.i32(records - 1);
    out.i64s([now, now, -1]);
    out.i16(-1);
    out.i32s([-1, records]);
    let (mut state, mut record) = (0x9e37_79b9_7f4a_7c15u64, Vec::new());
    for number in 0..records {
        record.clear();
        record.push(0);
        for value in [0, i64::from(number), -1, size as i64] {
            varint(&mut record, value);
        }
        record.extend((0..size).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b'a' + ((state >> 33) % 26) as u8
        }));
        record.push(0);
        varint(&mut out, record.len() as i64);
        out.extend_from_slice(&record);
    }
    let len = out.len() as i32 - 12;
    out[8..12].copy_from_slice(&len.to_be_bytes());
    let checksum = crc32c::crc32c(&out[21..]);
    out[17..21].copy_from_slice(&checksum.to_be_bytes());
    out
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest > 0x7f {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
