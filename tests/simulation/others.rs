//! The other clients: one that makes and deletes topics, one that sends garbage, one that asks for much and reads
//! nothing, and the one that reads everything at the end.

use std::collections::BTreeMap;

use ringlog::protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use ringlog::protocol::messages::create_topics_response::CreateTopicsResponse;
use ringlog::protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use ringlog::protocol::messages::delete_topics_response::DeleteTopicsResponse;
use ringlog::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ringlog::protocol::messages::fetch_response::FetchResponse;
use ringlog::protocol::messages::metadata_request::MetadataRequest;
use ringlog::protocol::messages::metadata_response::MetadataResponse;
use ringlog::protocol::{ApiKey, Uuid};

use super::clients::{Client, Context, aborted_of, entries_of};
use super::history::{Cursor, Place, Role, Topic};
use super::log_model::{Verdict, ensure};
use super::sim_io::sim_net::SocketId;
use super::wire::{Answer, Wire};

/// Creates topics, deletes some, asks what there is.
pub struct Admin {
    wire: Wire,
    next_topic: u32,
    topics_max: u32,
    /// What the first topics are for; the others are for anybody.
    roles: Vec<Role>,
    /// Some topics are compacted, but for the outputs: each of those stays.
    compacts: bool,
    asked: Option<Asked>,
    next_ns: u64,
}

enum Asked {
    Create { name: String, partitions: i32, compacted: bool },
    Delete { id: Uuid },
    Metadata { known: Vec<Uuid> },
}

impl Admin {
    pub fn new(topics_max: u32, roles: &[Role], compacts: bool) -> Admin {
        Admin {
            compacts,
            roles: roles.to_vec(),
            wire: Wire::new("admin".into(), 64 << 10),
            next_topic: 0,
            topics_max,
            asked: None,
            next_ns: 0,
        }
    }

    fn ask(&mut self, context: &mut Context) {
        let live = context.history.live().count();
        let roll = context.rng.below(10);
        let first = live == 0 || (self.next_topic as usize) < self.roles.len();
        let deletable = context.history.live().filter(|topic| topic.role == Role::Any).count();
        if self.next_topic < self.topics_max && (first || roll < 4) {
            self.create(context);
        } else if live > 1 && deletable > 0 && roll == 9 {
            self.delete(context);
        } else {
            let known = context.history.live().map(|topic| topic.id).collect();
            self.wire.request(context, 12, 0, false, &MetadataRequest { topics: None, ..Default::default() });
            self.asked = Some(Asked::Metadata { known });
        }
    }

    fn create(&mut self, context: &mut Context) {
        let name = format!("topic-{}", self.next_topic);
        let partitions = context.rng.range(1, 4) as i32;
        let config = |name: &'static str, value: String| CreatableTopicConfig {
            name: name.into(),
            value: Some(value.into()),
        };
        let segment_bytes = 1u64 << context.rng.range(20, 22);
        let mut configs = vec![config("segment.bytes", segment_bytes.to_string())];
        let compacted = self.compacts && self.role() != Role::Output && context.rng.chance(0.6);
        if compacted {
            let rng = &mut context.rng;
            configs.push(config("cleanup.policy", "compact".to_string()));
            configs.push(config("segment.ms", rng.pick(&[100, 1_000, 5_000]).to_string()));
            configs.push(config("min.cleanable.dirty.ratio", rng.pick(&["0.01", "0.5"]).to_string()));
            configs.push(config("delete.retention.ms", rng.pick(&[0, 1_000, 86_400_000]).to_string()));
        }
        let topic = CreatableTopic {
            name: name.as_str().into(),
            num_partitions: partitions,
            replication_factor: 1,
            configs: configs.into(),
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic].into(), timeout_ms: 30_000, ..Default::default() };
        self.wire.request(context, 7, 0, false, &request);
        self.asked = Some(Asked::Create { name, partitions, compacted });
    }

    fn delete(&mut self, context: &mut Context) {
        let deletable = context.history.live().filter(|topic| topic.role == Role::Any);
        let live: Vec<Uuid> = deletable.map(|topic| topic.id).collect();
        let id = *context.rng.pick(&live);
        let found = context.history.topics.iter_mut().find(|topic| topic.id == id);
        found.into_iter().for_each(|topic| topic.deleted = true);
        let state = DeleteTopicState { name: None, topic_id: id };
        let request =
            DeleteTopicsRequest { topics: vec![state].into(), timeout_ms: 30_000, ..Default::default() };
        self.wire.request(context, 6, 0, false, &request);
        self.asked = Some(Asked::Delete { id });
    }

    fn answered(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        match self.asked.take() {
            Some(Asked::Create { name, partitions, compacted }) => {
                let (role, id, deleted) = (self.role(), Uuid([0; 16]), false);
                self.created(context, answer, Topic { name, id, partitions, role, compacted, deleted })
            }
            Some(Asked::Delete { id }) => {
                let response: DeleteTopicsResponse = answer.read()?;
                let result = response.responses.first().ok_or("no topic in the answer")?;
                // Unknown: an earlier try had been done. Timed out or storage error: perhaps it was done.
                let fine = matches!(result.error_code, 0 | 3 | 100 | 7 | 56 | 41);
                ensure!(fine, "delete of {id:?} answers {}", result.error_code);
                Ok(())
            }
            Some(Asked::Metadata { known }) => self.described(context, answer, &known),
            None => Err("admin: an answer to nothing".into()),
        }
    }

    /// What the next topic is for.
    fn role(&self) -> Role {
        self.roles.get(self.next_topic as usize).copied().unwrap_or(Role::Any)
    }

    fn created(&mut self, context: &mut Context, answer: &Answer, topic: Topic) -> Verdict {
        let name = &topic.name;
        let response: CreateTopicsResponse = answer.read()?;
        let result = response.topics.first().ok_or("no topic in the answer")?;
        match result.error_code {
            0 => {
                ensure!(!result.topic_id.is_zero(), "topic {name} has no id");
                context.history.topics.push(Topic { id: result.topic_id, ..topic });
                self.next_topic += 1;
            }
            // It exists: an earlier try was done, but not answered. Leave that one.
            36 => self.next_topic += 1,
            7 | 56 | 41 => {}
            error => return Err(format!("create {name}: {error} {:?}", result.error_message)),
        }
        Ok(())
    }

    /// What had been created before the question, and is not deleted since, is in the answer.
    fn described(&mut self, context: &mut Context, answer: &Answer, known: &[Uuid]) -> Verdict {
        let response: MetadataResponse = answer.read()?;
        let there: BTreeMap<[u8; 16], usize> =
            response.topics.iter().map(|topic| (topic.topic_id.0, topic.partitions.len())).collect();
        for id in known {
            let Some(topic) = context.history.topic(*id).filter(|topic| !topic.deleted) else { continue };
            let partitions = there.get(&id.0).copied();
            let same = partitions == Some(topic.partitions as usize);
            ensure!(same, "metadata of {} tells {partitions:?} partitions", topic.name);
        }
        Ok(())
    }
}

impl Client for Admin {
    fn step(&mut self, context: &mut Context) -> Verdict {
        let polled = self.wire.poll(context)?;
        polled.answers.iter().try_for_each(|answer| self.answered(context, answer))?;
        if polled.lost {
            self.asked = None;
        }
        let idle = self.asked.is_none() && self.wire.is_open(context);
        if idle && context.now_ns() >= self.next_ns && !context.finishing {
            self.ask(context);
            self.next_ns = if context.history.live().count() == 0 { 0 } else { context.in_ms(10, 3_000) };
        }
        Ok(())
    }

    fn wake_ns(&self) -> u64 {
        let own = if self.asked.is_none() && self.wire.socket().is_some() { self.next_ns } else { u64::MAX };
        own.min(self.wire.wake_ns())
    }

    fn sockets(&self) -> Vec<SocketId> {
        self.wire.socket().into_iter().collect()
    }

    fn is_done(&self, _: &Context) -> bool {
        self.asked.is_none()
    }

    fn describe(&self) -> String {
        format!("admin, {} unanswered", self.wire.unanswered())
    }
}

/// Sends what is no request, or hardly one, and goes away in every way there is.
pub struct Garbage {
    wire: Wire,
    next_ns: u64,
}

impl Garbage {
    pub fn new() -> Garbage {
        Garbage { wire: Wire::new("garbage".into(), 4 << 10), next_ns: 0 }
    }

    fn bytes(&self, context: &mut Context) -> Vec<u8> {
        let rng = &mut context.rng;
        let mut body = vec![0; rng.below(200) as usize];
        rng.fill(&mut body);
        match rng.below(6) {
            // Noise without any frame.
            0 => return body,
            // A frame too long, or one with a negative length.
            1 => {
                return [&(*rng.pick(&[i32::MAX, -1, i32::MIN, 200 << 20])).to_be_bytes()[..], &body]
                    .concat();
            }
            // Small numbers: counts and lengths that nearly fit.
            2 => body.iter_mut().for_each(|byte| *byte &= 3),
            _ => {}
        }
        let key = rng.below(80) as i16;
        let version = rng.below(15) as i16;
        let mut frame = Vec::new();
        frame.extend_from_slice(&key.to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(&7i32.to_be_bytes());
        frame.extend_from_slice(&[0, 1, b'g']);
        // Flexible versions have tags here.
        if rng.chance(0.5) {
            frame.push(0);
        }
        frame.extend_from_slice(&body);
        let cut = if rng.chance(0.2) { rng.index(frame.len()) } else { frame.len() };
        [&(frame.len() as i32).to_be_bytes()[..], &frame[..cut]].concat()
    }
}

impl Client for Garbage {
    fn step(&mut self, context: &mut Context) -> Verdict {
        // What comes back is nobody's business: an error here only means that nothing sensible was asked.
        let lost = self.wire.poll(context).map_or(true, |polled| polled.lost);
        if lost {
            self.wire.drop_connection(context, true);
            return Ok(());
        }
        if self.wire.is_open(context) && context.now_ns() >= self.next_ns {
            let bytes = self.bytes(context);
            self.wire.send_raw(context, &bytes);
            self.next_ns = context.in_ms(1, 500);
            match context.rng.below(20) {
                0 => self.wire.drop_connection(context, true),
                1 => self.wire.drop_connection(context, false),
                2 => self.wire.vanish(context),
                _ => {}
            }
        }
        Ok(())
    }

    fn wake_ns(&self) -> u64 {
        let own = if self.wire.socket().is_some() { self.next_ns } else { u64::MAX };
        own.min(self.wire.wake_ns())
    }

    fn sockets(&self) -> Vec<SocketId> {
        self.wire.socket().into_iter().collect()
    }

    fn is_done(&self, _: &Context) -> bool {
        true
    }

    fn describe(&self) -> String {
        "garbage".into()
    }
}

/// Asks for everything again and again and takes nothing.
pub struct Sleeper {
    socket: Option<SocketId>,
    unsent: Vec<u8>,
    next_ns: u64,
}

impl Sleeper {
    pub fn new() -> Sleeper {
        Sleeper { socket: None, unsent: Vec::new(), next_ns: 0 }
    }
}

impl Client for Sleeper {
    fn step(&mut self, context: &mut Context) -> Verdict {
        if context.now_ns() < self.next_ns {
            return Ok(());
        }
        self.next_ns = context.in_ms(5, 200);
        let Some(socket) = self.socket else {
            self.socket = Some(context.world.client_connect(context.address, 1024));
            return Ok(());
        };
        use super::sim_io::ClientState;
        match context.world.client_state(socket) {
            ClientState::Connecting => return Ok(()),
            ClientState::Open => {}
            ClientState::Ended | ClientState::Gone => {
                context.world.client_close(socket, true);
                (self.socket, self.unsent) = (None, Vec::new());
                return Ok(());
            }
        }
        if self.unsent.is_empty() {
            let places: Vec<(String, Uuid, i32)> = context
                .history
                .live()
                .map(|topic| (topic.name.clone(), topic.id, topic.partitions))
                .collect();
            let topics =
                places.into_iter().map(|(name, id, partitions)| fetch_topic(name, id, 0..partitions, 0));
            let request = FetchRequest {
                replica_id: -1,
                max_bytes: 50 << 20,
                session_epoch: -1,
                topics: topics.collect::<Vec<_>>().into(),
                ..Default::default()
            };
            self.unsent = ringlog::protocol::frame::encode_request(12, 1, Some("sleeper"), &request);
        }
        let sent = context.world.client_send(socket, &self.unsent);
        self.unsent.drain(..sent);
        if context.rng.chance(0.01) {
            context.world.client_close(socket, true);
            (self.socket, self.unsent) = (None, Vec::new());
        }
        Ok(())
    }

    fn wake_ns(&self) -> u64 {
        self.next_ns
    }

    fn sockets(&self) -> Vec<SocketId> {
        Vec::new()
    }

    fn is_done(&self, _: &Context) -> bool {
        true
    }

    fn describe(&self) -> String {
        "sleeper".into()
    }
}

fn fetch_topic<'a>(
    name: String,
    id: Uuid,
    partitions: impl Iterator<Item = i32>,
    offset: i64,
) -> FetchTopic<'a> {
    let partitions = partitions.map(|partition| FetchPartition {
        partition,
        current_leader_epoch: -1,
        fetch_offset: offset,
        last_fetched_epoch: -1,
        log_start_offset: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    });
    FetchTopic { topic: name.into(), topic_id: id, partitions: partitions.collect::<Vec<_>>().into() }
}

/// Reads every live partition from its start to its end, all of it and then what is committed, and hands the logs to the
/// checker.
pub struct Verifier {
    wire: Wire,
    left: Vec<(Topic, i32)>,
    committed_only: bool,
    begun: bool,
    asked: bool,
    start: i64,
    cursor: Cursor,
    log: Vec<(i64, Option<u64>)>,
}

impl Verifier {
    pub fn new() -> Verifier {
        let wire = Wire::new("verifier".into(), 1 << 20);
        Verifier {
            wire,
            left: Vec::new(),
            committed_only: false,
            begun: false,
            asked: false,
            start: 0,
            cursor: Cursor::at(0),
            log: Vec::new(),
        }
    }

    fn ask(&mut self, context: &mut Context) {
        let Some((topic, partition)) = self.left.last() else { return };
        let topic = fetch_topic(topic.name.clone(), topic.id, *partition..*partition + 1, self.cursor.next);
        let request = FetchRequest {
            replica_id: -1,
            max_bytes: 50 << 20,
            session_epoch: -1,
            isolation_level: i8::from(self.committed_only),
            topics: vec![topic].into(),
            ..Default::default()
        };
        self.asked = true;
        self.wire.request(context, 13, 0, false, &request);
    }

    fn answered(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        ensure!(answer.api == ApiKey::Fetch, "verifier: {:?}", answer.api);
        self.asked = false;
        let Some((topic, partition)) = self.left.last() else { return Ok(()) };
        let place: Place = (topic.id.0, *partition);
        let response: FetchResponse = answer.read()?;
        let found = response.responses.first().and_then(|topic| topic.partitions.first());
        let data = found.ok_or("verifier: a fetch without its partition")?;
        match data.error_code {
            0 => {}
            1 if self.cursor.next == 0 && data.log_start_offset > 0 => {
                (self.start, self.cursor) = (data.log_start_offset, Cursor::at(data.log_start_offset));
                return Ok(());
            }
            7 | 6 | 56 => return Ok(()),
            error => return Err(format!("verifier: {} {partition} answers {error}", topic.name)),
        }
        let bytes = data.records.and_then(|records| records.bytes()).unwrap_or_default();
        let found = entries_of(bytes, &aborted_of(&data))?;
        let end = if self.committed_only { data.last_stable_offset } else { data.high_watermark };
        let compacted = topic.compacted;
        let new = self.cursor.read(found, data.log_start_offset, end, compacted);
        let new = new.map_err(|error| format!("verifier: {} {partition}: {error}", topic.name))?;
        let kept = new.iter().filter(|entry| !entry.aborted);
        self.log.extend(kept.map(|entry| (entry.offset, entry.value)));
        if self.cursor.next < data.high_watermark {
            return Ok(());
        }
        let log = std::mem::take(&mut self.log);
        if self.committed_only {
            let records = log.iter().filter_map(|(offset, value)| Some((*offset, (*value)?)));
            context.history.check_committed(place, &records.collect::<Vec<_>>())?;
            self.left.pop();
        } else {
            context.history.check_log(place, self.start, &log)?;
        }
        self.committed_only = !self.committed_only;
        (self.start, self.cursor) = (0, Cursor::at(0));
        if self.left.is_empty() { context.history.check_all() } else { Ok(()) }
    }
}

impl Client for Verifier {
    fn step(&mut self, context: &mut Context) -> Verdict {
        if !std::mem::replace(&mut self.begun, true) {
            let places = context
                .history
                .live()
                .flat_map(|t| (0..t.partitions).map(|partition| (t.clone(), partition)));
            self.left = places.collect();
        }
        let polled = self.wire.poll(context)?;
        polled.answers.iter().try_for_each(|answer| self.answered(context, answer))?;
        if polled.lost {
            self.asked = false;
        }
        if self.wire.is_open(context) && !self.asked {
            self.ask(context);
        }
        Ok(())
    }

    fn wake_ns(&self) -> u64 {
        self.wire.wake_ns()
    }

    fn sockets(&self) -> Vec<SocketId> {
        self.wire.socket().into_iter().collect()
    }

    fn is_done(&self, _: &Context) -> bool {
        self.begun && self.left.is_empty()
    }

    fn describe(&self) -> String {
        let (left, at, committed) = (self.left.len(), self.cursor.next, self.committed_only);
        format!("verifier, {left} partitions left, at {at}, committed only {committed}")
    }
}
