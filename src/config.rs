//! Configuration: every key declared once, in a table, under Kafka's name where Kafka has it; all else is derived from the tables.
//! Plain data: nothing here opens a file or reads the environment; `cli` and `server` hand the texts in.
//!
//! - [`Settings`] gathers values from `server.properties`, the environment and `--set`, and says what is wrong with them.
//! - [`BrokerConfig`] and [`TopicConfig`] are what code reads: typed fields with their unit in the name.
//! - [`describe_broker`], [`describe_topic`] answer DescribeConfigs; [`alter_topic`], [`alter_broker`] check changes.
//! - [`broker_keys`], [`TOPIC_KEYS`] are the tables; [`catalogue`] is both for `ringlog config --list` and the documentation.
//!
//! Order of precedence, weakest first: defaults, the file, the environment, `--set` in the order given; above these what
//! clients have set for all brokers, for this broker, and for a topic.

mod alter;
mod broker;
mod broker_keys;
mod broker_values;
mod catalogue;
mod describe;
mod environment;
mod ignored_keys;
mod key;
mod listener;
mod properties;
mod resource_keys;
mod settings;
mod topic;
mod topic_keys;

pub use alter::{AlterError, AlterOp, Alteration, Changes, alter_broker, alter_topic, check_topic};
pub use broker::{
    AckLevel, AckLevels, Bounded, BrokerConfig, ConsumerGroupConfig, CreateTopic, GroupConfig, HttpConfig,
    IoDriver, Listener, MetricsConfig, OtlpConfig, Routing, SocketConfig, StartupError, StorageConfig,
    TransactionConfig,
};
pub use catalogue::{CatalogueRow, catalogue};
pub use describe::{
    ConfigEntry, ConfigSource, ConfigSynonym, describe_broker, describe_default_broker, describe_topic,
};
pub use key::{Effect, InvalidValue, Key, Reason, Update, Valid, Value, ValueType, split_list};
pub use listener::{Endpoint, SecurityProtocol, parse_endpoint};
pub use properties::{MalformedProperties, Property, parse as parse_properties};
pub use resource_keys::{
    CLIENT_METRICS_KEYS, GROUP_KEYS, INTERVAL, MATCH, METRICS, SELECTORS, alter_client_metrics, alter_group,
    describe_client_metrics, describe_group, selector, words,
};
pub use settings::{Origin, Settings};
pub use topic::{Compression, TimestampType, TopicConfig};
pub use topic_keys::{Synonym, TOPIC_KEYS, TopicKey, Unit, find as find_topic_key};

use std::sync::LazyLock;

/// Every key of a broker, by name.
pub fn broker_keys() -> &'static [Key] {
    static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
        let tables = [broker_keys::KAFKA_KEYS, broker_keys::RINGLOG_KEYS, ignored_keys::IGNORED_KEYS];
        let mut keys = tables.concat();
        for key in keys.iter_mut().filter(|key| broker_keys::NOT_YET.contains(&key.name)) {
            key.effect = Effect::Ignored(Reason::NotYet);
        }
        keys.sort_by_key(|key| key.name);
        keys
    });
    &KEYS
}

/// The broker key of this name.
pub fn find_broker_key(name: &str) -> Option<&'static Key> {
    let keys = broker_keys();
    let own = keys.binary_search_by(|key| key.name.cmp(name)).ok().and_then(|index| keys.get(index));
    own.or_else(|| broker_keys::DYNAMIC_KEYS.iter().find(|key| key.name == name))
}

#[cfg(test)]
mod tests;
