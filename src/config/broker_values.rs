//! From texts to [`BrokerConfig`]: typed access to the layers, and what several keys mean together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::broker::{
    AckLevel, AckLevels, Bounded, BrokerConfig, ConsumerGroupConfig, CreateTopic, GroupConfig, HttpConfig,
    IoDriver, Layers, Listener, MetricsConfig, OtlpConfig, Routing, SocketConfig, StartupError,
    StorageConfig, TransactionConfig,
};
use super::key::{Value, split_list};
use super::listener::{Endpoint, SecurityProtocol, parse_endpoint, parse_url, protocol_of};

/// Typed access to the layers while a [`BrokerConfig`] is made.
pub(super) struct Values {
    layers: Layers,
    errors: Vec<String>,
}

impl Values {
    pub fn new(layers: Layers) -> Values {
        Values { layers, errors: Vec::new() }
    }

    /// The configuration, unless something was wrong.
    pub fn finish(self, config: BrokerConfig) -> Result<BrokerConfig, StartupError> {
        match self.errors.is_empty() {
            true => Ok(config),
            false => Err(StartupError { errors: self.errors }),
        }
    }

    fn long(&self, name: &str) -> i64 {
        match self.layers.value(name) {
            Some(Value::Long(number)) => number,
            other => unreachable!("{name} is declared as a whole number with a default, not {other:?}"),
        }
    }

    fn unsigned(&self, name: &str) -> u64 {
        self.long(name).max(0).unsigned_abs()
    }

    fn count(&self, name: &str) -> usize {
        usize::try_from(self.unsigned(name)).unwrap_or(usize::MAX)
    }

    fn int(&self, name: &str) -> i32 {
        i32::try_from(self.long(name)).unwrap_or(i32::MAX)
    }

    fn short(&self, name: &str) -> i16 {
        i16::try_from(self.long(name)).unwrap_or(i16::MAX)
    }

    fn boolean(&self, name: &str) -> bool {
        matches!(self.layers.value(name), Some(Value::Boolean(true)))
    }

    fn double(&self, name: &str) -> f64 {
        match self.layers.value(name) {
            Some(Value::Double(number)) => number,
            other => unreachable!("{name} is declared as a DOUBLE with a default, not {other:?}"),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.layers.value(name) {
            Some(Value::Text(text)) => Some(text).filter(|text| !text.is_empty()),
            _ => None,
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.layers.value(name) {
            Some(Value::List(words)) => words.into_iter().filter(|word| !word.is_empty()).collect(),
            Some(Value::Text(text)) => split_list(&text),
            _ => Vec::new(),
        }
    }

    fn is_set(&self, name: &str) -> bool {
        self.layers.start.contains_key(name)
    }

    pub fn read(&mut self) -> BrokerConfig {
        BrokerConfig {
            node_id: self.node_id(),
            rack: self.text("broker.rack"),
            cluster_id: self.text("ringlog.cluster.id"),
            listeners: Vec::new(),
            log_dirs: self.log_dirs(),
            create_topics: self.create_topics(),
            shards: self.count("ringlog.shards"),
            routing: match self.text("ringlog.routing").as_deref() {
                Some("direct") => Routing::Direct,
                _ => Routing::Shared,
            },
            io_driver: match self.text("ringlog.io.driver").as_deref() {
                Some("uring") => IoDriver::Uring,
                Some("poll") => IoDriver::Poll,
                _ => IoDriver::Auto,
            },
            ack_levels: AckLevels {
                acks0: self.ack_level("ringlog.ack.level.acks0"),
                acks1: self.ack_level("ringlog.ack.level.acks1"),
                all: self.ack_level("ringlog.ack.level.all"),
            },
            spin_us: self.unsigned("ringlog.spin.us"),
            pin: self.boolean("ringlog.pin"),
            topics_max: self.count("ringlog.topics.max"),
            partitions_max: self.count("ringlog.partitions.max"),
            http: self.http(),
            otlp: self.otlp(),
            auto_create_topics: self.boolean("auto.create.topics.enable"),
            delete_topics: self.boolean("delete.topic.enable"),
            num_partitions: self.int("num.partitions"),
            default_replication_factor: self.short("default.replication.factor"),
            max_request_partitions: self.count("max.request.partition.size.limit"),
            request_timeout_ms: self.unsigned("request.timeout.ms"),
            fetch_max_bytes: self.count("fetch.max.bytes"),
            fetch_session_slots: self.count("max.incremental.fetch.session.cache.slots"),
            sockets: self.sockets(),
            storage: self.storage(),
            transactions: self.transactions(),
            telemetry_max_bytes: self.count("telemetry.max.bytes"),
            telemetry_series_max: self.count("ringlog.metrics.telemetry.max"),
            groups: self.groups(),
            layers: self.layers.clone(),
        }
    }

    fn sockets(&mut self) -> SocketConfig {
        SocketConfig {
            request_max_bytes: self.count("socket.request.max.bytes"),
            send_buffer_bytes: self.int("socket.send.buffer.bytes"),
            receive_buffer_bytes: self.int("socket.receive.buffer.bytes"),
            listen_backlog: self.int("socket.listen.backlog.size"),
            max_connections: self.count("max.connections"),
            max_connections_per_ip: self.count("max.connections.per.ip"),
            max_connections_per_ip_overrides: self.per_ip_overrides(),
            max_connection_creation_rate: u32::try_from(self.unsigned("max.connection.creation.rate"))
                .unwrap_or(u32::MAX),
            connections_max_idle_ms: u64::try_from(self.long("connections.max.idle.ms")).ok(),
            queued_max_requests: self.count("queued.max.requests"),
            queued_max_request_bytes: u64::try_from(self.long("queued.max.request.bytes")).ok(),
            connection_requests_max: self.count("ringlog.connection.requests"),
        }
    }

    fn storage(&mut self) -> StorageConfig {
        StorageConfig {
            memory_bytes: self.unsigned("ringlog.memory.bytes"),
            tail_max_bytes: self.unsigned("ringlog.tail.max.bytes"),
            journal_file_bytes: self.unsigned("ringlog.journal.file.bytes"),
            journal_cached: self.boolean("ringlog.journal.cached"),
            journal_filled: self.boolean("ringlog.journal.filled"),
            journal_max_bytes: self.unsigned("ringlog.journal.max.bytes"),
            flush_interval_ms: self.unsigned("ringlog.flush.interval.ms"),
            retention_check_interval_ms: self.unsigned("log.retention.check.interval.ms"),
            cleaner_enable: self.boolean("log.cleaner.enable"),
            cleaner_backoff_ms: self.unsigned("log.cleaner.backoff.ms"),
            cleaner_dedupe_buffer_bytes: self.unsigned("log.cleaner.dedupe.buffer.size"),
            cleaner_io_max_bytes_per_second: self.double("log.cleaner.io.max.bytes.per.second"),
            move_bytes_per_second: match self.layers.value(super::broker_keys::MOVE_RATE) {
                Some(Value::Long(rate)) => rate as f64,
                _ => f64::MAX,
            },
        }
    }

    fn transactions(&mut self) -> TransactionConfig {
        TransactionConfig {
            producer_id_expiration_ms: self.long("producer.id.expiration.ms"),
            producer_id_expiration_check_interval_ms: self
                .unsigned("producer.id.expiration.check.interval.ms"),
            producer_ids_max: self.count("ringlog.producer.ids.max"),
            transactional_id_expiration_ms: self.long("transactional.id.expiration.ms"),
            max_timeout_ms: self.int("transaction.max.timeout.ms"),
            abort_timed_out_interval_ms: self
                .unsigned("transaction.abort.timed.out.transaction.cleanup.interval.ms"),
            remove_expired_interval_ms: self
                .unsigned("transaction.remove.expired.transaction.cleanup.interval.ms"),
            partition_verification: self.boolean("transaction.partition.verification.enable"),
            two_phase_commit: self.boolean("transaction.two.phase.commit.enable"),
            add_partitions_wait_ms: self.unsigned("add.partitions.to.txn.retry.backoff.max.ms"),
            log_partitions: self.int("transaction.state.log.num.partitions"),
            log_replication_factor: self.short("transaction.state.log.replication.factor"),
            log_min_isr: self.int("transaction.state.log.min.isr"),
            log_segment_bytes: self.int("transaction.state.log.segment.bytes"),
        }
    }

    fn groups(&mut self) -> GroupConfig {
        GroupConfig {
            min_session_timeout_ms: self.int("group.min.session.timeout.ms"),
            max_session_timeout_ms: self.int("group.max.session.timeout.ms"),
            initial_rebalance_delay_ms: self.unsigned("group.initial.rebalance.delay.ms"),
            max_size: self.count("group.max.size"),
            consumer_protocol: self
                .list("group.coordinator.rebalance.protocols")
                .iter()
                .any(|name| name == "consumer"),
            consumer: self.consumer_groups(),
            offset_metadata_max_bytes: self.count("offset.metadata.max.bytes"),
            offsets_topic_ids: self.boolean("ringlog.offsets.topic.ids"),
            offsets_commit_timeout_ms: self.unsigned("offsets.commit.timeout.ms"),
            offsets_retention_ms: self.long("offsets.retention.minutes") * 60_000,
            offsets_retention_check_interval_ms: self.unsigned("offsets.retention.check.interval.ms"),
            offsets_topic_partitions: self.int("offsets.topic.num.partitions"),
            offsets_topic_replication_factor: self.short("offsets.topic.replication.factor"),
            offsets_topic_segment_bytes: self.int("offsets.topic.segment.bytes"),
            offsets_topic_compression_codec: u8::try_from(self.long("offsets.topic.compression.codec"))
                .unwrap_or(0),
        }
    }

    fn consumer_groups(&self) -> ConsumerGroupConfig {
        let bounded = |what: &str| Bounded {
            default_ms: self.int(&format!("group.consumer.{what}.ms")),
            min_ms: self.int(&format!("group.consumer.min.{what}.ms")),
            max_ms: self.int(&format!("group.consumer.max.{what}.ms")),
        };
        ConsumerGroupConfig {
            session_timeout: bounded("session.timeout"),
            heartbeat_interval: bounded("heartbeat.interval"),
            assignment_interval: bounded("assignment.interval"),
            max_size: self.int("group.consumer.max.size"),
            assignors: self.list("group.consumer.assignors"),
            migration_policy: self
                .text("group.consumer.migration.policy")
                .unwrap_or_default()
                .to_ascii_uppercase(),
        }
    }

    /// `node.id`, else `broker.id`; where neither is set 1, as in Kafka's own examples.
    fn node_id(&mut self) -> i32 {
        let (node_id, broker_id) = (self.layers.value("node.id"), self.long("broker.id"));
        match node_id {
            Some(Value::Long(node_id)) => {
                if broker_id >= 0 && broker_id != node_id {
                    self.errors.push(format!("node.id={node_id} and broker.id={broker_id} must be the same"));
                }
                i32::try_from(node_id).unwrap_or(1)
            }
            _ if broker_id >= 0 => i32::try_from(broker_id).unwrap_or(1),
            _ => 1,
        }
    }

    fn log_dirs(&mut self) -> Vec<PathBuf> {
        let name = if self.is_set("log.dirs") { "log.dirs" } else { "log.dir" };
        let mut dirs: Vec<PathBuf> = Vec::new();
        for dir in self.list(name) {
            if dirs.iter().any(|known| known.as_os_str() == dir.as_str()) {
                self.errors.push(format!("{name} names {dir} twice"));
            }
            dirs.push(PathBuf::from(dir));
        }
        if dirs.is_empty() {
            self.errors.push(format!("{name} names no directory"));
        }
        dirs
    }

    fn ack_level(&self, name: &str) -> AckLevel {
        match self.text(name).as_deref() {
            Some("memory") => AckLevel::Memory,
            Some("written") => AckLevel::Written,
            _ => AckLevel::Durable,
        }
    }

    fn http(&mut self) -> HttpConfig {
        HttpConfig {
            listener: self.http_listener(),
            listener_is_default: !self.is_set("ringlog.http.listener"),
            connections_max: self.count("ringlog.http.connections.max"),
            request_bytes_max: self.count("ringlog.http.request.max.bytes"),
            read_only: self.boolean("ringlog.http.read.only"),
            hosts: self.list("ringlog.http.hosts"),
            consumers_max: self.count("ringlog.http.consumers.max"),
            consumer_idle_ms: self.unsigned("ringlog.http.consumer.idle.ms"),
            metrics: MetricsConfig {
                clients_max: self.count("ringlog.metrics.clients.max"),
                groups_max: self.count("ringlog.metrics.groups.max"),
                partitions_max: self.count("ringlog.metrics.partitions.max"),
                topics_max: self.count("ringlog.metrics.topics.max"),
            },
        }
    }

    fn http_listener(&mut self) -> Option<Endpoint> {
        let text = self.text("ringlog.http.listener")?;
        parse_endpoint(text.trim_start_matches("http://"))
            .map_err(|reason| self.errors.push(format!("ringlog.http.listener: {reason}")))
            .ok()
    }

    fn otlp(&mut self) -> OtlpConfig {
        let endpoint = self.text("ringlog.otlp.endpoint").map(|text| parse_url(&text, "/v1/metrics"));
        let endpoint = endpoint.and_then(|parsed| self.accepted("ringlog.otlp.endpoint", parsed));
        let headers = self.text("ringlog.otlp.headers").map(|text| parse_headers(&text));
        let headers = headers.and_then(|parsed| self.accepted("ringlog.otlp.headers", parsed));
        let (endpoint, path) =
            endpoint.map_or_else(Default::default, |(endpoint, path)| (Some(endpoint), path));
        OtlpConfig {
            endpoint,
            path,
            interval: Duration::from_millis(self.unsigned("ringlog.otlp.interval.ms")),
            headers: headers.unwrap_or_default(),
        }
    }

    fn accepted<T>(&mut self, name: &str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|reason| self.errors.push(format!("{name}: {reason}"))).ok()
    }

    fn per_ip_overrides(&mut self) -> BTreeMap<String, usize> {
        let mut overrides = BTreeMap::new();
        for entry in self.list(PER_IP_OVERRIDES) {
            match parse_per_ip_override(&entry) {
                Ok((address, count)) => drop(overrides.insert(address, count)),
                Err(reason) => self.errors.push(reason),
            }
        }
        overrides
    }

    fn create_topics(&mut self) -> Vec<CreateTopic> {
        let mut topics = Vec::new();
        for entry in self.list("ringlog.create.topics") {
            match parse_create_topic(&entry) {
                Some(topic) => topics.push(topic),
                None => self.errors.push(format!(
                    "ringlog.create.topics: '{entry}' must be written as name:partitions:replicas or \
                     name:partitions:replicas:cleanup.policy"
                )),
            }
        }
        topics
    }

    pub fn listeners(&mut self, warnings: &mut Vec<String>) -> Vec<Listener> {
        let map = self.list("listener.security.protocol.map");
        let bound = self.endpoints("listeners");
        let advertised = self.endpoints("advertised.listeners");
        let controllers: Vec<_> =
            self.list("controller.listener.names").iter().map(|name| name.to_ascii_uppercase()).collect();
        // Tutorials name the controller's listener CONTROLLER; that name is no security protocol, so it cannot be another's.
        let is_controller =
            |name: &str| controllers.iter().any(|known| known == name) || name == "CONTROLLER";
        let mut listeners: Vec<Listener> = Vec::new();
        for bind in bound {
            if is_controller(&bind.name) {
                warnings
                    .push(format!("listeners: {bind} is ignored: there is no KRaft controller to listen"));
                continue;
            }
            if listeners.iter().any(|other| other.bind.name == bind.name) {
                self.errors.push(format!("listeners: the name {} is used twice", bind.name));
            }
            if bind.port != 0 && listeners.iter().any(|other| other.bind.address() == bind.address()) {
                self.errors.push(format!("listeners: the address {} is used twice", bind.address()));
            }
            let protocol = match protocol_of(&bind.name, &map) {
                Ok(SecurityProtocol::Plaintext) => SecurityProtocol::Plaintext,
                Ok(other) => {
                    self.errors.push(format!(
                        "listeners: {bind} is a {other:?} listener; TLS and SASL are not supported yet, only PLAINTEXT is"
                    ));
                    continue;
                }
                Err(reason) => {
                    self.errors.push(format!("listeners: {bind}: {reason}"));
                    continue;
                }
            };
            let told = advertised.iter().find(|endpoint| endpoint.name == bind.name).unwrap_or(&bind);
            let mut told = told.clone();
            if told.is_wildcard() {
                told.host.clear();
            }
            listeners.push(Listener { bind, protocol, advertised: told });
        }
        for endpoint in advertised.iter().filter(|endpoint| !is_controller(&endpoint.name)) {
            if !listeners.iter().any(|listener| listener.bind.name == endpoint.name) {
                self.errors.push(format!("advertised.listeners: {endpoint} has no listener of its name"));
            } else if matches!(endpoint.host.as_str(), "0.0.0.0" | "::") {
                self.errors.push(format!(
                    "advertised.listeners: {endpoint} is no address that a client can connect to"
                ));
            }
        }
        listeners
    }

    fn endpoints(&mut self, name: &str) -> Vec<Endpoint> {
        let parse = |text: &String| parse_endpoint(text);
        let parsed: Vec<_> = self.list(name).iter().map(parse).collect();
        let mut endpoints = Vec::new();
        for endpoint in parsed {
            match endpoint {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(reason) => self.errors.push(format!("{name}: {reason}")),
            }
        }
        endpoints
    }

    /// What one key alone cannot show.
    pub fn check(&mut self, config: &BrokerConfig) {
        let mut refuse = |wrong: bool, reason: &str| {
            if wrong {
                self.errors.push(reason.to_owned());
            }
        };
        refuse(config.listeners.is_empty(), "listeners names no listener that a client can connect to");
        refuse(
            config.groups.min_session_timeout_ms > config.groups.max_session_timeout_ms,
            "group.min.session.timeout.ms must not be above group.max.session.timeout.ms",
        );
        let consumer = &config.groups.consumer;
        refuse(consumer.assignors.is_empty(), "group.consumer.assignors must not be empty");
        for (what, bounded) in [
            ("session.timeout", consumer.session_timeout),
            ("heartbeat.interval", consumer.heartbeat_interval),
            ("assignment.interval", consumer.assignment_interval),
        ] {
            refuse(
                !(bounded.min_ms..=bounded.max_ms).contains(&bounded.default_ms),
                &format!(
                    "group.consumer.{what}.ms must be from group.consumer.min.{what}.ms to \
                     group.consumer.max.{what}.ms"
                ),
            );
        }
        refuse(
            consumer.heartbeat_interval.default_ms >= consumer.session_timeout.default_ms,
            "group.consumer.heartbeat.interval.ms must be less than group.consumer.session.timeout.ms",
        );
        refuse(
            config.storage.journal_max_bytes < 2 * config.storage.journal_file_bytes,
            "ringlog.journal.max.bytes must be at least twice ringlog.journal.file.bytes",
        );
        for name in ["log.retention.ms", "log.retention.minutes", "log.retention.hours"] {
            let text = self.layers.start.get(name).map(String::as_str).unwrap_or_default();
            if text.trim() == "0" {
                self.errors.push(format!(
                    "Invalid value 0 for configuration {name}: must be -1 (no limit) or 1 or more"
                ));
            }
        }
        let roles = self.list("process.roles");
        if !roles.is_empty() && !roles.iter().any(|role| role == "broker") {
            self.errors
                .push("process.roles: 'broker' must be among the roles: this is no controller".to_owned());
        }
        // Going on without the access control that was asked for would open the data to everyone.
        if self.layers.start.get("authorizer.class.name").is_some_and(|class| !class.trim().is_empty()) {
            self.errors.push(
                "authorizer.class.name: authorization is not supported yet, so it must not be set".to_owned(),
            );
        }
    }
}

pub(super) const PER_IP_OVERRIDES: &str = "max.connections.per.ip.overrides";

pub(super) fn parse_per_ip_override(entry: &str) -> Result<(String, usize), String> {
    // From the right: an IPv6 address has colons of its own.
    match entry.rsplit_once(':').map(|(address, count)| (address.trim(), count.trim().parse())) {
        Some((address, Ok(count))) if !address.is_empty() => {
            Ok((address.trim_matches(['[', ']']).to_owned(), count))
        }
        _ => Err(format!("{PER_IP_OVERRIDES}: '{entry}' must be written as address:count")),
    }
}

fn parse_create_topic(entry: &str) -> Option<CreateTopic> {
    let mut parts = entry.split(':').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?.to_owned();
    let partitions = parts.next()?.parse().ok().filter(|&count| count >= 1)?;
    let replication_factor = parts.next()?.parse().ok().filter(|&factor| factor >= 1)?;
    let cleanup_policy =
        parts.next().filter(|policy| !policy.is_empty()).map(|policy| policy.replace('+', ","));
    let known = |policy: &String| split_list(policy).iter().all(|word| word == "compact" || word == "delete");
    let whole = parts.next().is_none() && cleanup_policy.as_ref().is_none_or(known);
    whole.then_some(CreateTopic { name, partitions, replication_factor, cleanup_policy })
}

/// `name=value,name=value`: headers of HTTP.
fn parse_headers(text: &str) -> Result<Vec<(String, String)>, String> {
    let header = |entry: &str| {
        let (name, value) = entry.split_once('=').ok_or("a header is not written as name=value")?;
        let (name, value) = (name.trim(), value.trim());
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty()
            || !name.bytes().all(is_name)
            || value.bytes().any(|byte| !(b' '..0x7f).contains(&byte))
        {
            return Err("a header has what no header may have".to_owned());
        }
        Ok((name.to_owned(), value.to_owned()))
    };
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(header).collect()
}
