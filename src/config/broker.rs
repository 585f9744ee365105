//! What the broker reads: every key that means something, typed, with its unit in the field's name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::broker_values::Values;
use super::find_broker_key;
use super::key::{Update, Value};
use super::listener::{Endpoint, SecurityProtocol};
use super::topic::TopicConfig;

/// The effective configuration of this broker. A new one is made when a dynamic value changes.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    pub node_id: i32,
    pub rack: Option<String>,
    /// Given to new directories; `None`: make one up.
    pub cluster_id: Option<String>,
    pub listeners: Vec<Listener>,
    /// Not empty; relative ones are relative to the working directory.
    pub log_dirs: Vec<PathBuf>,
    pub create_topics: Vec<CreateTopic>,
    /// 0: one for each core.
    pub shards: usize,
    pub routing: Routing,
    pub io_driver: IoDriver,
    pub ack_levels: AckLevels,
    pub spin_us: u64,
    pub pin: bool,
    pub topics_max: usize,
    pub partitions_max: usize,
    pub http: HttpConfig,
    pub otlp: OtlpConfig,
    pub auto_create_topics: bool,
    pub delete_topics: bool,
    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub max_request_partitions: usize,
    pub request_timeout_ms: u64,
    pub fetch_max_bytes: usize,
    pub fetch_session_slots: usize,
    pub sockets: SocketConfig,
    pub storage: StorageConfig,
    pub transactions: TransactionConfig,
    /// Clients' own metrics: bytes of a push, and values kept.
    pub telemetry_max_bytes: usize,
    pub telemetry_series_max: usize,
    pub groups: GroupConfig,
    pub(super) layers: Layers,
}

/// The control thread's HTTP side and what is measured there.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// `None`: not served.
    pub listener: Option<Endpoint>,
    /// Nobody asked for this listener: the broker can do without.
    pub listener_is_default: bool,
    pub connections_max: usize,
    pub request_bytes_max: usize,
    pub read_only: bool,
    /// Names that browsers may use.
    pub hosts: Vec<String>,
    pub consumers_max: usize,
    pub consumer_idle_ms: u64,
    pub metrics: MetricsConfig,
}

/// What metrics show one by one at most.
#[derive(Clone, Copy, Debug)]
pub struct MetricsConfig {
    pub clients_max: usize,
    pub groups_max: usize,
    pub partitions_max: usize,
    pub topics_max: usize,
}

/// Where metrics are sent.
#[derive(Clone)]
pub struct OtlpConfig {
    /// `None`: nowhere.
    pub endpoint: Option<Endpoint>,
    pub path: String,
    pub interval: std::time::Duration,
    /// Names and values; they may hold secrets.
    pub headers: Vec<(String, String)>,
}

impl std::fmt::Debug for OtlpConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let OtlpConfig { endpoint, path, interval, headers } = self;
        write!(f, "OtlpConfig({endpoint:?}, {path}, {interval:?}, {} headers)", headers.len())
    }
}

/// Sockets and requests.
#[derive(Clone, Debug)]
pub struct SocketConfig {
    pub request_max_bytes: usize,
    /// -1: the system's default.
    pub send_buffer_bytes: i32,
    /// -1: the system's default.
    pub receive_buffer_bytes: i32,
    pub listen_backlog: i32,
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    /// By address as written.
    pub max_connections_per_ip_overrides: BTreeMap<String, usize>,
    pub max_connection_creation_rate: u32,
    /// `None`: never closed.
    pub connections_max_idle_ms: Option<u64>,
    pub queued_max_requests: usize,
    /// `None`: bounded by the memory alone.
    pub queued_max_request_bytes: Option<u64>,
    pub connection_requests_max: usize,
}

/// The disk side. Where 0 means "from the machine", the server puts the real value in its place.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// 0: a quarter of the machine's memory.
    pub memory_bytes: u64,
    /// 0: half of the memory.
    pub tail_max_bytes: u64,
    pub journal_file_bytes: u64,
    pub journal_cached: bool,
    pub journal_filled: bool,
    pub journal_max_bytes: u64,
    pub flush_interval_ms: u64,
    pub retention_check_interval_ms: u64,
    pub cleaner_enable: bool,
    pub cleaner_backoff_ms: u64,
    pub cleaner_dedupe_buffer_bytes: u64,
    pub cleaner_io_max_bytes_per_second: f64,
    /// Of moves between log directories.
    pub move_bytes_per_second: f64,
}

/// Idempotent producers and transactions.
#[derive(Clone, Debug)]
pub struct TransactionConfig {
    pub producer_id_expiration_ms: i64,
    pub producer_id_expiration_check_interval_ms: u64,
    pub producer_ids_max: usize,
    pub transactional_id_expiration_ms: i64,
    pub max_timeout_ms: i32,
    pub abort_timed_out_interval_ms: u64,
    pub remove_expired_interval_ms: u64,
    pub partition_verification: bool,
    pub two_phase_commit: bool,
    pub add_partitions_wait_ms: u64,
    pub log_partitions: i32,
    pub log_replication_factor: i16,
    pub log_min_isr: i32,
    pub log_segment_bytes: i32,
}

/// Groups and their offsets.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    pub min_session_timeout_ms: i32,
    pub max_session_timeout_ms: i32,
    pub initial_rebalance_delay_ms: u64,
    pub max_size: usize,
    /// Consumer groups are served at all.
    pub consumer_protocol: bool,
    pub consumer: ConsumerGroupConfig,
    pub offset_metadata_max_bytes: usize,
    pub offsets_commit_timeout_ms: u64,
    pub offsets_retention_ms: i64,
    pub offsets_retention_check_interval_ms: u64,
    pub offsets_topic_partitions: i32,
    pub offsets_topic_replication_factor: i16,
    pub offsets_topic_segment_bytes: i32,
    pub offsets_topic_ids: bool,
    /// As in a batch's attributes: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub offsets_topic_compression_codec: u8,
}

/// Groups of the newer protocol.
#[derive(Clone, Debug)]
pub struct ConsumerGroupConfig {
    pub session_timeout: Bounded,
    pub heartbeat_interval: Bounded,
    pub assignment_interval: Bounded,
    pub max_size: i32,
    /// The default first.
    pub assignors: Vec<String>,
    /// In capitals.
    pub migration_policy: String,
}

/// A time, and what a group of its own may set it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded {
    pub default_ms: i32,
    pub min_ms: i32,
    pub max_ms: i32,
}

/// One open listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub bind: Endpoint,
    pub protocol: SecurityProtocol,
    /// What clients are told. An empty host: the machine's name; port 0: the port that was bound.
    pub advertised: Endpoint,
}

/// A topic of `ringlog.create.topics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i16,
    pub cleanup_policy: Option<String>,
}

/// What the kernel is asked through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoDriver {
    /// io_uring where it is to be had, else epoll.
    #[default]
    Auto,
    Uring,
    Poll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    Shared,
    Direct,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckLevel {
    /// In our memory: lost when the process dies.
    Memory,
    /// Written by the kernel: lost with the power.
    Written,
    /// On stable media.
    Durable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckLevels {
    pub acks0: AckLevel,
    pub acks1: AckLevel,
    pub all: AckLevel,
}

/// Why the broker cannot start with this configuration, each fault in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupError {
    pub errors: Vec<String>,
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.errors.join("\n"))
    }
}

impl std::error::Error for StartupError {}

/// Broker values as text by key, weakest layer first.
#[derive(Clone, Debug, Default)]
pub(super) struct Layers {
    pub start: Arc<BTreeMap<&'static str, String>>,
    dynamic_default: BTreeMap<String, String>,
    dynamic: BTreeMap<String, String>,
}

impl Default for BrokerConfig {
    /// The embedded defaults.
    fn default() -> BrokerConfig {
        BrokerConfig::at_start(BTreeMap::new(), &mut Vec::new()).expect("the defaults are valid")
    }
}

impl BrokerConfig {
    /// From values that their keys accept.
    pub(super) fn at_start(
        start: BTreeMap<&'static str, String>,
        warnings: &mut Vec<String>,
    ) -> Result<BrokerConfig, StartupError> {
        let mut values = Values::new(Layers { start: Arc::new(start), ..Layers::default() });
        let listeners = values.listeners(warnings);
        let mut config = values.read();
        config.listeners = listeners;
        values.check(&config);
        values.finish(config)
    }

    /// With the values that clients have set for all brokers and for this one. Only keys that may change at run time count, and
    /// only values that they accept.
    pub fn with_dynamic(
        &self,
        dynamic_default: &BTreeMap<String, String>,
        dynamic: &BTreeMap<String, String>,
    ) -> BrokerConfig {
        let layers = Layers {
            start: self.layers.start.clone(),
            dynamic_default: dynamic_default.clone(),
            dynamic: dynamic.clone(),
        };
        let mut config = Values::new(layers).read();
        config.listeners.clone_from(&self.listeners);
        // Puts back what the server has filled in from the machine.
        config.shards = self.shards;
        config.storage.memory_bytes = self.storage.memory_bytes;
        config.storage.tail_max_bytes = self.storage.tail_max_bytes;
        config.node_id = self.node_id;
        config
    }

    /// The node's number if it was given; else the log directories may know it.
    pub fn configured_node_id(&self) -> Option<i32> {
        let is_given = |name| self.start_value(name).is_some_and(|text| text.trim() != "-1");
        (is_given("node.id") || is_given("broker.id")).then_some(self.node_id)
    }

    /// The effective configuration of a topic with these values of its own.
    pub fn topic_config(&self, overrides: &BTreeMap<String, String>) -> TopicConfig {
        TopicConfig::effective(self, overrides)
    }

    /// The effective value of a key; `None` when it has none.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        self.layers.value(name)
    }

    /// The value given at start, as text.
    pub(super) fn start_value(&self, name: &str) -> Option<&str> {
        self.layers.start.get(name).map(String::as_str)
    }

    pub(super) fn dynamic_value(&self, name: &str) -> Option<&str> {
        self.layers.dynamic.get(name).map(String::as_str)
    }

    pub(super) fn dynamic_default_value(&self, name: &str) -> Option<&str> {
        self.layers.dynamic_default.get(name).map(String::as_str)
    }
}

impl Layers {
    pub fn value(&self, name: &str) -> Option<Value> {
        let key = find_broker_key(name).expect("a declared key");
        let parse = |text: &String| key.parse(text).ok();
        let dynamic = match key.update {
            Update::ReadOnly => None,
            _ => self
                .dynamic
                .get(name)
                .and_then(parse)
                .or_else(|| self.dynamic_default.get(name).and_then(parse)),
        };
        let value = dynamic.or_else(|| self.start.get(name).and_then(parse));
        value.or_else(|| key.default.map(|text| key.parse(text).expect("a default is a valid value")))
    }
}
