//! Plays a script against a broker, remote or in process, and writes down what was answered.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringlog::broker::group::{
    AppendId, ConsumerConfig, Effect, GroupConfig, GroupCoordinator, GroupRequest, Now, ReplyTo, TopicLookup,
};
use ringlog::protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use ringlog::protocol::messages::metadata_response::MetadataResponse;
use ringlog::protocol::{ApiKey, ErrorCode, Message, Request, Uuid};
use ringlog::record;

/// What the recorded broker was started with: `group.min.session.timeout.ms=100`,
/// `group.initial.rebalance.delay.ms=300`, `group.max.size=4`, `offset.metadata.max.bytes=16`,
/// `offsets.topic.num.partitions=5`, `auto.create.topics.enable=false`, `group.consumer.min.session.timeout.ms=1000`,
/// `group.consumer.session.timeout.ms=6000`, `group.consumer.min.heartbeat.interval.ms=100`,
/// `group.consumer.heartbeat.interval.ms=200`, `group.consumer.assignment.interval.ms=1500`, `group.consumer.max.size=5`.
fn config() -> GroupConfig {
    GroupConfig {
        min_session_timeout_ms: 100,
        initial_rebalance_delay_ms: 300,
        max_size: 4,
        offset_metadata_max_bytes: 16,
        member_id_seed: 7,
        consumer: ConsumerConfig {
            session_timeout_ms: 6_000,
            heartbeat_interval_ms: 200,
            assignment_interval_ms: 1_500,
            max_size: 5,
            ..ConsumerConfig::default()
        },
        ..GroupConfig::default()
    }
}

const OFFSETS_PARTITIONS: i32 = 5;
pub const TOPICS: [&str; 2] = ["orders", "payments"];

/// One end of each client's connection.
pub trait Broker {
    fn send(&mut self, client: &str, api_key: ApiKey, version: i16, body: Vec<u8>);
    /// The answer to the client's oldest request, waiting for it.
    fn receive(&mut self, client: &str) -> Vec<u8>;
    fn pass(&mut self, ms: u64);
    fn topic_id(&mut self, name: &str) -> Uuid;
}

pub struct Play {
    broker: Box<dyn Broker>,
    /// Groups are the script's own.
    prefix: String,
    trace: String,
    pub topic_ids: BTreeMap<&'static str, Uuid>,
}

impl Play {
    pub fn new(mut broker: Box<dyn Broker>, name: &str) -> Self {
        let topic_ids = TOPICS.iter().map(|name| (*name, broker.topic_id(name))).collect();
        Play { broker, prefix: name.to_string(), trace: String::new(), topic_ids }
    }

    pub fn group(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    pub fn note(&mut self, text: &str) {
        self.trace += &format!("-- {text}\n");
    }

    pub fn pass(&mut self, ms: u64) {
        self.note(&format!("{ms} ms pass"));
        self.broker.pass(ms);
    }

    pub fn send<'m, R: Request<'m>>(&mut self, client: &str, version: i16, request: &R) {
        self.broker.send(client, R::API_KEY, version, request.to_bytes(version));
    }

    /// The answer, written down after `order` has brought what has no order into one.
    pub fn receive<M: Message<'static>>(
        &mut self,
        client: &str,
        version: i16,
        order: impl FnOnce(&mut M),
    ) -> M {
        let body = self.broker.receive(client).leak();
        let answer = M::decode_exact(body, version).unwrap();
        let mut ordered = answer.clone();
        order(&mut ordered);
        self.trace += &format!("{client} v{version} {ordered:?}\n");
        answer
    }

    pub fn ask<'m, R: Request<'m>>(
        &mut self,
        client: &str,
        version: i16,
        request: &R,
    ) -> R::Response<'static> {
        self.send(client, version, request);
        self.receive(client, version, |_| {})
    }

    /// With ids that are drawn at random numbered as they come up.
    pub fn trace(self) -> String {
        let mut trace = self.trace;
        for (name, id) in &self.topic_ids {
            trace = trace.replace(&id.to_string(), &format!("<id of {name}>"));
        }
        let mut seen: Vec<String> = Vec::new();
        let mut at = 0;
        while at + 36 <= trace.len() {
            if !trace.is_char_boundary(at) || !is_uuid(&trace.as_bytes()[at..at + 36]) {
                at += 1;
                continue;
            }
            let uuid = trace[at..at + 36].to_string();
            let number = seen.iter().position(|known| *known == uuid).unwrap_or_else(|| {
                seen.push(uuid);
                seen.len() - 1
            });
            let name = format!("<{number}>");
            trace.replace_range(at..at + 36, &name);
            at += name.len();
        }
        trace
    }
}

fn is_uuid(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
    })
}

/// A broker behind a socket.
pub struct Remote {
    address: String,
    connections: BTreeMap<String, TcpStream>,
}

impl Remote {
    pub fn new(address: &str) -> Self {
        Remote { address: address.to_string(), connections: BTreeMap::new() }
    }

    fn connection(&mut self, client: &str) -> &mut TcpStream {
        let address = &self.address;
        self.connections.entry(client.to_string()).or_insert_with(|| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream
        })
    }
}

impl Broker for Remote {
    fn send(&mut self, client: &str, api_key: ApiKey, version: i16, body: Vec<u8>) {
        let mut frame = Vec::new();
        frame.extend(api_key.code().to_be_bytes());
        frame.extend(version.to_be_bytes());
        // The version tells `receive` which header the answer has.
        let flexible = i32::from(api_key.response_header_version(version));
        frame.extend(flexible.to_be_bytes());
        frame.extend((client.len() as i16).to_be_bytes());
        frame.extend(client.as_bytes());
        if api_key.request_header_version(version) == 2 {
            frame.push(0);
        }
        frame.extend(body);
        let connection = self.connection(client);
        connection.write_all(&(frame.len() as i32).to_be_bytes()).unwrap();
        connection.write_all(&frame).unwrap();
    }

    fn receive(&mut self, client: &str) -> Vec<u8> {
        let connection = self.connection(client);
        let mut length = [0; 4];
        connection.read_exact(&mut length).unwrap();
        let mut frame = vec![0; i32::from_be_bytes(length) as usize];
        connection.read_exact(&mut frame).unwrap();
        let header = 4 + usize::from(frame[3]);
        frame.split_off(header)
    }

    fn pass(&mut self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn topic_id(&mut self, name: &str) -> Uuid {
        let topic = MetadataRequestTopic { name: Some(name.to_string().into()), ..Default::default() };
        let request = MetadataRequest { topics: Some([topic].into()), ..Default::default() };
        self.send("metadata", ApiKey::Metadata, 12, request.to_bytes(12));
        let body = self.receive("metadata");
        let response = MetadataResponse::decode_exact(&body, 12).unwrap();
        let topic = response.topics.first().unwrap();
        assert_eq!((topic.error_code, topic.partitions.len()), (0, 10), "{name}");
        topic.topic_id
    }
}

/// Record batches of the offsets topic, by partition.
pub type Log = BTreeMap<i32, Vec<u8>>;

/// The coordinator with a log that takes everything at once, and a clock of its own.
pub struct InProcess {
    coordinator: GroupCoordinator,
    now: Now,
    /// Where a script that ends leaves the log.
    log: Rc<RefCell<Log>>,
    next_offset: i64,
    clients: BTreeMap<String, VecDeque<ReplyTo>>,
    answers: BTreeMap<ReplyTo, Vec<u8>>,
    next_to: u64,
}

/// With the ids the topics had in the recorded broker: who gets what hangs on them.
struct Topics;

impl TopicLookup for Topics {
    fn topic_id(&self, name: &str) -> Option<Uuid> {
        let ids = include_str!("traces/topic_ids.txt").lines().filter_map(|line| line.split_once(' '));
        ids.filter(|(known, _)| *known == name).find_map(|(_, id)| id.parse().ok())
    }

    fn topic_name(&self, id: Uuid) -> Option<Arc<str>> {
        TOPICS.iter().find(|name| self.topic_id(name) == Some(id)).map(|name| (*name).into())
    }

    fn partition_count(&self, name: &str) -> Option<i32> {
        self.topic_id(name).map(|_| 10)
    }

    fn names(&self) -> Vec<Arc<str>> {
        TOPICS.iter().map(|name| (*name).into()).collect()
    }

    fn version(&self) -> u64 {
        1
    }
}

impl InProcess {
    /// Starts with what is in the log.
    pub fn new(log: &Rc<RefCell<Log>>) -> Self {
        let mut coordinator = GroupCoordinator::new(config(), OFFSETS_PARTITIONS);
        let now = Now { monotonic_ms: 0, wall_ms: 1_800_000_000_000 };
        for partition in 0..OFFSETS_PARTITIONS {
            coordinator.load_begin(partition);
            if let Some(batches) = log.borrow().get(&partition) {
                coordinator.load_batch(now, partition, batches);
            }
            coordinator.load_end(now, partition, &mut Vec::new());
        }
        InProcess {
            coordinator,
            now,
            log: log.clone(),
            next_offset: 0,
            clients: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_to: 0,
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut appends: Vec<(AppendId, i64)> = Vec::new();
        for effect in effects {
            match effect {
                Effect::Reply { to, body } => drop(self.answers.insert(to, body)),
                Effect::Append { partition, append, mut batch, .. } => {
                    appends.push((append, self.next_offset));
                    let header = record::BatchHeader::parse(&batch).unwrap();
                    record::assign(&mut batch, self.next_offset, 0);
                    self.next_offset += i64::from(header.records_count);
                    self.log.borrow_mut().entry(partition).or_default().extend(batch);
                }
                Effect::AppendMarker { .. } | Effect::Marked { .. } => {
                    unreachable!("no script ends transactions")
                }
            }
        }
        for (append, offset) in appends {
            let mut out = Vec::new();
            self.coordinator.appended(self.now, append, Ok::<i64, ErrorCode>(offset), &mut out);
            self.carry_out(out);
        }
    }

    fn pass_to(&mut self, monotonic_ms: i64) {
        let ms = (monotonic_ms - self.now.monotonic_ms).max(0);
        self.now = Now { monotonic_ms: self.now.monotonic_ms + ms, wall_ms: self.now.wall_ms + ms };
        let mut out = Vec::new();
        self.coordinator.on_timer(self.now, &Topics, &mut out);
        self.carry_out(out);
    }
}

impl Broker for InProcess {
    fn send(&mut self, client: &str, api_key: ApiKey, version: i16, body: Vec<u8>) {
        let to = ReplyTo(self.next_to);
        self.next_to += 1;
        self.clients.entry(client.to_string()).or_default().push_back(to);
        let request =
            GroupRequest { api_key, version, client_id: client, client_host: "/127.0.0.1", body: &body, to };
        let mut out = Vec::new();
        self.coordinator.handle(self.now, request, &Topics, &mut out).unwrap();
        self.carry_out(out);
    }

    fn receive(&mut self, client: &str) -> Vec<u8> {
        let to = self.clients.get_mut(client).and_then(VecDeque::pop_front).unwrap();
        loop {
            if let Some(body) = self.answers.remove(&to) {
                return body;
            }
            let deadline = self.coordinator.next_deadline_ms().unwrap();
            assert!(deadline < self.now.monotonic_ms + 60_000, "{client} waits for ever");
            self.pass_to(deadline);
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now.monotonic_ms + ms as i64;
        while let Some(deadline) = self.coordinator.next_deadline_ms().filter(|deadline| *deadline <= end) {
            self.pass_to(deadline);
        }
        self.pass_to(end);
    }

    fn topic_id(&mut self, name: &str) -> Uuid {
        Topics.topic_id(name).unwrap()
    }
}
