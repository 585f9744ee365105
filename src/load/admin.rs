//! What has to be asked before and after a run, one request at a time: versions, topics, producer ids, offsets. Called by the
//! collecting thread; it may wait, and tries again what may be tried again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};

use super::audit::fetch_request;
use super::batch::ProducerId;
use super::cluster::{ClusterMap, Versions};
use super::link::{Event, Link, split};
use super::options::TopicOptions;
use super::request::CLIENT_ID;
use crate::io::{Io, Part};
use crate::protocol::frame::{decode_response, encode_request};
use crate::protocol::messages::api_versions_request::ApiVersionsRequest;
use crate::protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use crate::protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use crate::protocol::messages::fetch_request::FetchRequest;
use crate::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use crate::protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use crate::protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use crate::protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic};
use crate::protocol::{ApiKey, ErrorCode, Request, Uuid};
use crate::record::isolation::Aborted;

/// How long one answer may take.
const ANSWER_NS_MAX: u64 = 30_000_000_000;
const PAUSE_NS: u64 = 100_000_000;
/// How long to look for a broker that answers.
const CONNECT_NS_MAX: u64 = 3_000_000_000;
const TIMEOUT_MS: i32 = 30_000;

/// Which end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Earliest,
    Latest,
    /// For readers of committed data.
    Committed,
}

impl End {
    fn timestamp(self) -> i64 {
        match self {
            End::Earliest => -2,
            End::Latest | End::Committed => -1,
        }
    }
}

/// A client that asks one thing after the other.
pub struct Admin<I: Io> {
    io: I,
    links: Vec<Link>,
    bootstrap: Vec<SocketAddr>,
    versions: BTreeMap<i16, (i16, i16)>,
    next_id: i32,
}

impl<I: Io> Admin<I> {
    /// Finds a broker that answers.
    pub fn connect(io: I, bootstrap: &[String]) -> Result<Admin<I>, String> {
        let mut addresses = Vec::new();
        for name in bootstrap {
            addresses.push(resolve(name)?);
        }
        let mut admin =
            Admin { io, links: Vec::new(), bootstrap: addresses, versions: BTreeMap::new(), next_id: 0 };
        let request = ApiVersionsRequest::default();
        let frame = admin.ask_any(0, &request)?;
        let (_, response) = decode_response::<ApiVersionsRequest<'_>>(&frame, 0).map_err(text)?;
        for api in &response.api_keys {
            admin.versions.insert(api.api_key, (api.min_version, api.max_version));
        }
        Ok(admin)
    }

    pub fn now_ns(&self) -> u64 {
        self.io.now()
    }

    pub fn wall_ms(&self) -> i64 {
        self.io.wall_ms()
    }

    pub fn random(&mut self) -> u64 {
        self.io.random()
    }

    /// Lets the clocks go on and notices connections that have gone; what time it is.
    pub fn tick(&mut self) -> u64 {
        let _ = self.step(usize::MAX, 0);
        self.io.now()
    }

    /// The newest version both sides know, `cap` at most.
    pub(super) fn version(&self, api: ApiKey, cap: i16) -> Result<i16, String> {
        let ours = api.versions();
        let &(min, max) =
            self.versions.get(&api.code()).ok_or_else(|| format!("the broker does not know {api}"))?;
        let version = max.min(ours.max).min(cap);
        if version < min.max(ours.min) {
            return Err(format!("no common version of {api}"));
        }
        Ok(version)
    }

    /// Asks whichever broker answers. Tries again for a while: one that is just starting again refuses connections, and
    /// all that is asked here may be asked twice.
    pub(super) fn ask_any<'q, R: Request<'q>>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Result<Vec<u8>, String> {
        let deadline = self.io.now() + CONNECT_NS_MAX;
        loop {
            let mut why = String::new();
            for address in self.bootstrap.clone() {
                match self.ask(address, version, request) {
                    Ok(frame) => return Ok(frame),
                    Err(error) => why = format!("{address}: {error}"),
                }
            }
            if self.io.now() >= deadline {
                return Err(why);
            }
            self.pause();
        }
    }

    /// One request to one broker, and its answer.
    pub(super) fn ask<'q, R: Request<'q>>(
        &mut self,
        address: SocketAddr,
        version: i16,
        request: &R,
    ) -> Result<Vec<u8>, String> {
        self.next_id += 1;
        let mut frame = Some(encode_request(version, self.next_id, Some(CLIENT_ID), request));
        let known = self.links.iter().position(|link| link.address == address);
        let number = known.unwrap_or_else(|| {
            self.links.push(Link::new(self.links.len(), address));
            self.links.len() - 1
        });
        if self.links[number].is_down() {
            self.links[number].error = None;
            self.links[number].open(&mut self.io);
        }
        let deadline = self.io.now() + ANSWER_NS_MAX;
        loop {
            if self.links[number].can_send()
                && let Some(frame) = frame.take()
            {
                self.links[number].send(&mut self.io, vec![Part::Bytes(frame)]);
            }
            if let Some(answer) = self.step(number, deadline.min(self.io.now() + PAUSE_NS))? {
                return Ok(answer);
            }
            if self.io.now() >= deadline {
                self.links[number].close(&mut self.io, "no answer in time");
            }
        }
    }

    /// One turn of all connections; the answer if one came on this one. `Err`: it is gone.
    fn step(&mut self, wanted: usize, until_ns: u64) -> Result<Option<Vec<u8>>, String> {
        let mut completions = Vec::new();
        self.io.turn(until_ns, &mut completions);
        let mut answer = None;
        for completion in completions {
            let (number, kind) = split(completion.token);
            let Some(link) = self.links.get_mut(number) else { continue };
            let event = link.complete(&mut self.io, kind, completion);
            if let Event::Received(bytes) = &event {
                let fed = link.feed(bytes, &mut |frame| answer = Some((number, frame.to_vec())));
                if let Err(error) = fed {
                    link.close(&mut self.io, &error);
                }
            }
            let lost = matches!(event, Event::Lost) || matches!(link.end(), Event::Lost);
            if lost && number == wanted {
                return Err(link.error.take().unwrap_or_else(|| "connection lost".into()));
            }
        }
        Ok(answer.filter(|(number, _)| *number == wanted).map(|(_, frame)| frame))
    }

    /// Sleeps a little between tries.
    pub(super) fn pause(&mut self) {
        self.wait_until(self.io.now() + PAUSE_NS);
    }

    pub(super) fn wait_until(&mut self, until_ns: u64) {
        while self.io.now() < until_ns {
            // Connections may go meanwhile.
            let _ = self.step(usize::MAX, until_ns);
        }
    }

    /// Makes the topic; `false` when it is there already.
    pub fn create_topic(&mut self, name: &str, options: &TopicOptions) -> Result<bool, String> {
        let version = self.version(ApiKey::CreateTopics, i16::MAX)?;
        let configs = options
            .configs
            .iter()
            .map(|(key, value)| CreatableTopicConfig {
                name: Cow::Borrowed(key.as_str()),
                value: Some(Cow::Borrowed(value.as_str())),
            })
            .collect();
        // Brokers before version 4 of this request know no default.
        let replication_factor =
            if version < 4 && options.replication_factor < 0 { 1 } else { options.replication_factor };
        let topic = CreatableTopic {
            name: Cow::Borrowed(name),
            num_partitions: options.partitions,
            replication_factor,
            configs,
            ..CreatableTopic::default()
        };
        let request =
            CreateTopicsRequest { topics: [topic].into(), timeout_ms: TIMEOUT_MS, validate_only: false };
        let frame = self.ask_any(version, &request)?;
        let (_, response) = decode_response::<CreateTopicsRequest<'_>>(&frame, version).map_err(text)?;
        let topic = response.topics.first().ok_or("CreateTopics answered nothing")?;
        match ErrorCode::from_code(topic.error_code) {
            Some(ErrorCode::None) => Ok(true),
            Some(ErrorCode::TopicAlreadyExists) => Ok(false),
            code => Err(format!(
                "topic {name}: {}{}",
                code.map_or("an unknown error", ErrorCode::name),
                topic.error_message.map_or(String::new(), |message| format!(": {message}"))
            )),
        }
    }

    pub fn delete_topic(&mut self, name: &str) -> Result<(), String> {
        let version = self.version(ApiKey::DeleteTopics, i16::MAX)?;
        let request = DeleteTopicsRequest {
            topics: [DeleteTopicState { name: Some(Cow::Borrowed(name)), ..DeleteTopicState::default() }]
                .into(),
            topic_names: [Cow::Borrowed(name)].into(),
            timeout_ms: TIMEOUT_MS,
        };
        let frame = self.ask_any(version, &request)?;
        let (_, response) = decode_response::<DeleteTopicsRequest<'_>>(&frame, version).map_err(text)?;
        match response.responses.first().map_or(0, |topic| topic.error_code) {
            0 => Ok(()),
            code => Err(format!("topic {name}: {}", error_name(code))),
        }
    }

    /// The cluster as it is; leaders may be missing. `Err` also when there is no such topic.
    pub fn cluster(&mut self, topic: &str) -> Result<ClusterMap, String> {
        let version = self.version(ApiKey::Metadata, i16::MAX)?;
        let asked =
            MetadataRequestTopic { name: Some(Cow::Borrowed(topic)), ..MetadataRequestTopic::default() };
        let request = MetadataRequest {
            topics: Some([asked].into()),
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        let frame = self.ask_any(version, &request)?;
        let (_, response) = decode_response::<MetadataRequest<'_>>(&frame, version).map_err(text)?;
        let mut brokers = BTreeMap::new();
        for broker in &response.brokers {
            let port = u16::try_from(broker.port).map_err(|_| "a broker's port is no port")?;
            brokers.insert(broker.node_id, resolve_pair(&broker.host, port)?);
        }
        let found = response.topics.first().ok_or("Metadata answered no topic")?;
        if found.error_code != 0 {
            return Err(format!("topic {topic}: {}", error_name(found.error_code)));
        }
        let mut leaders = vec![None; found.partitions.len()];
        for partition in &found.partitions {
            let place = leaders
                .get_mut(partition.partition_index as usize)
                .ok_or("partitions that are not numbered from 0")?;
            *place = (partition.leader_id >= 0).then_some(partition.leader_id);
        }
        let has_id = found.topic_id != Uuid::default();
        // From version 13 on a topic goes by its id.
        let cap = if has_id { i16::MAX } else { 12 };
        let versions = Versions {
            produce: self.version(ApiKey::Produce, cap)?,
            fetch: self.version(ApiKey::Fetch, cap)?,
        };
        Ok(ClusterMap { brokers, leaders, topic: topic.to_owned(), topic_id: found.topic_id, versions })
    }

    /// The same once every partition has a leader.
    pub fn whole_cluster(&mut self, topic: &str) -> Result<ClusterMap, String> {
        let deadline = self.io.now() + ANSWER_NS_MAX;
        loop {
            let seen = self.cluster(topic);
            match seen {
                Ok(map) if !map.leaders.is_empty() && map.leaders.iter().all(Option::is_some) => {
                    return Ok(map);
                }
                other if self.io.now() >= deadline => {
                    other?;
                    return Err(format!("topic {topic} has partitions without a leader"));
                }
                _ => self.pause(),
            }
        }
    }

    pub fn producer_id(&mut self) -> Result<ProducerId, String> {
        let version = self.version(ApiKey::InitProducerId, i16::MAX)?;
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            ..InitProducerIdRequest::default()
        };
        let deadline = self.io.now() + ANSWER_NS_MAX;
        loop {
            let frame = self.ask_any(version, &request)?;
            let (_, response) =
                decode_response::<InitProducerIdRequest<'_>>(&frame, version).map_err(text)?;
            match ErrorCode::from_code(response.error_code) {
                Some(ErrorCode::None) => {
                    return Ok(ProducerId { id: response.producer_id, epoch: response.producer_epoch });
                }
                Some(code) if code.is_retriable() && self.io.now() < deadline => self.pause(),
                _ => return Err(format!("InitProducerId: {}", error_name(response.error_code))),
            }
        }
    }

    /// As [`Admin::offsets`], once the brokers are ready to say.
    pub fn ready_offsets(&mut self, map: &ClusterMap, end: End) -> Result<Vec<i64>, String> {
        let deadline = self.io.now() + ANSWER_NS_MAX;
        loop {
            match self.offsets(map, end) {
                Ok(offsets) => return Ok(offsets),
                Err(error) if self.io.now() >= deadline => return Err(error),
                Err(_) => self.pause(),
            }
        }
    }

    /// The offsets at one end of each partition's log, asked of the leaders.
    pub fn offsets(&mut self, map: &ClusterMap, end: End) -> Result<Vec<i64>, String> {
        let version = self.version(ApiKey::ListOffsets, i16::MAX)?;
        let mut offsets = vec![0; map.leaders.len()];
        for (&node, &address) in &map.brokers {
            let led = map.leaders.iter().enumerate().filter(|(_, leader)| **leader == Some(node));
            let partitions: Vec<ListOffsetsPartition> = led
                .map(|(partition, _)| ListOffsetsPartition {
                    partition_index: partition as i32,
                    timestamp: end.timestamp(),
                    ..ListOffsetsPartition::default()
                })
                .collect();
            if partitions.is_empty() {
                continue;
            }
            let topic =
                ListOffsetsTopic { name: Cow::Borrowed(map.topic.as_str()), partitions: partitions.into() };
            let request = ListOffsetsRequest {
                replica_id: -1,
                isolation_level: i8::from(end == End::Committed),
                topics: [topic].into(),
                timeout_ms: TIMEOUT_MS,
            };
            let frame = self.ask(address, version, &request)?;
            let (_, response) = decode_response::<ListOffsetsRequest<'_>>(&frame, version).map_err(text)?;
            for partition in response.topics.iter().flat_map(|topic| topic.partitions) {
                if partition.error_code != 0 {
                    return Err(format!("ListOffsets: {}", error_name(partition.error_code)));
                }
                if let Some(place) = offsets.get_mut(partition.partition_index as usize) {
                    *place = partition.offset;
                }
            }
        }
        Ok(offsets)
    }
}

impl<I: Io> Admin<I> {
    /// The batches from an offset on, as the leader sends them.
    pub fn fetch(&mut self, map: &ClusterMap, partition: u32, offset: i64) -> Result<Vec<u8>, String> {
        self.fetch_isolated(map, partition, offset, false).map(|(bytes, _)| bytes)
    }

    /// The same of committed data, with what of it is to be left out.
    pub fn fetch_committed(
        &mut self,
        map: &ClusterMap,
        partition: u32,
        offset: i64,
    ) -> Result<(Vec<u8>, Aborted), String> {
        self.fetch_isolated(map, partition, offset, true)
    }

    fn fetch_isolated(
        &mut self,
        map: &ClusterMap,
        partition: u32,
        offset: i64,
        committed: bool,
    ) -> Result<(Vec<u8>, Aborted), String> {
        let leader = map.leaders.get(partition as usize).copied().flatten();
        let address = leader.and_then(|node| map.brokers.get(&node)).ok_or("no leader")?;
        let version = map.versions.fetch;
        let request =
            FetchRequest { isolation_level: i8::from(committed), ..fetch_request(map, partition, offset) };
        let frame = self.ask(*address, version, &request)?;
        let (_, response) = decode_response::<FetchRequest<'_>>(&frame, version).map_err(text)?;
        let data = response.responses.iter().flat_map(|topic| topic.partitions).next();
        match (response.error_code, data) {
            (0, Some(data)) if data.error_code == 0 => {
                let aborted = data.aborted_transactions.iter().flatten();
                let aborted = Aborted::new(aborted.map(|txn| (txn.producer_id, txn.first_offset)));
                Ok((data.records.and_then(|records| records.bytes()).unwrap_or_default().to_vec(), aborted))
            }
            (0, Some(data)) => Err(format!("fetch: {}", error_name(data.error_code))),
            (code, _) => Err(format!("fetch: {}", error_name(code))),
        }
    }

    /// Commits an offset of one partition for a group that has no members.
    pub fn commit(&mut self, group: &str, topic: &str, partition: i32, offset: i64) -> Result<(), String> {
        // Up to version 9 topics go by name.
        let version = self.version(ApiKey::OffsetCommit, 9)?;
        let wanted = OffsetCommitRequestPartition {
            partition_index: partition,
            committed_offset: offset,
            ..OffsetCommitRequestPartition::default()
        };
        let topic = OffsetCommitRequestTopic {
            name: Cow::Borrowed(topic),
            partitions: [wanted].into(),
            ..OffsetCommitRequestTopic::default()
        };
        let request = OffsetCommitRequest {
            group_id: Cow::Borrowed(group),
            topics: [topic].into(),
            ..OffsetCommitRequest::default()
        };
        let frame = self.ask_any(version, &request)?;
        let (_, response) = decode_response::<OffsetCommitRequest<'_>>(&frame, version).map_err(text)?;
        let answer = response.topics.iter().flat_map(|topic| topic.partitions).next();
        match answer.map(|partition| partition.error_code) {
            Some(0) => Ok(()),
            Some(code) => Err(format!("OffsetCommit: {}", error_name(code))),
            None => Err("OffsetCommit answered nothing".into()),
        }
    }

    /// The committed offset of one partition, -1 for none. Waits while the coordinator loads.
    pub fn committed(&mut self, group: &str, topic: &str, partition: i32) -> Result<i64, String> {
        // Up to version 7 one group a request.
        let version = self.version(ApiKey::OffsetFetch, 7)?;
        let wanted =
            OffsetFetchRequestTopic { name: Cow::Borrowed(topic), partition_indexes: [partition].into() };
        let request = OffsetFetchRequest {
            group_id: Cow::Borrowed(group),
            topics: Some([wanted].into()),
            ..OffsetFetchRequest::default()
        };
        let deadline = self.io.now() + ANSWER_NS_MAX;
        loop {
            let frame = self.ask_any(version, &request)?;
            let (_, response) = decode_response::<OffsetFetchRequest<'_>>(&frame, version).map_err(text)?;
            let answer = response.topics.iter().flat_map(|topic| topic.partitions).next();
            let code = answer.as_ref().map_or(response.error_code, |partition| partition.error_code);
            let code = if response.error_code != 0 { response.error_code } else { code };
            match (ErrorCode::from_code(code), answer) {
                (Some(ErrorCode::None), Some(partition)) => return Ok(partition.committed_offset),
                (Some(code), _) if code.is_retriable() && self.io.now() < deadline => self.pause(),
                (_, _) => return Err(format!("OffsetFetch: {}", error_name(code))),
            }
        }
    }
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Kafka's name of an error code.
pub fn error_name(code: i16) -> String {
    ErrorCode::from_code(code).map_or_else(|| format!("error {code}"), |code| code.name().to_owned())
}

fn resolve(name: &str) -> Result<SocketAddr, String> {
    let (host, port) = name.rsplit_once(':').ok_or_else(|| format!("`{name}` is not HOST:PORT"))?;
    let port = port.parse().map_err(|_| format!("`{name}` has no port"))?;
    resolve_pair(host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// IPv4 first, as most brokers listen on it alone.
pub(super) fn resolve_pair(host: &str, port: u16) -> Result<SocketAddr, String> {
    let mut addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.first().copied().ok_or_else(|| format!("{host} has no address"))
}
