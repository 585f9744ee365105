//! What DescribeConfigs answers: every key with its value, where the value comes from, and all places it could have come from.

use std::collections::BTreeMap;

use super::broker::BrokerConfig;
use super::broker_keys::DYNAMIC_KEYS;
use super::key::{Key, Update, Value, ValueType};
use super::topic::inherited;
use super::topic_keys::{TOPIC_KEYS, TopicKey};
use super::{broker_keys, find_broker_key};

/// One key as described.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigEntry {
    pub name: String,
    /// `None`: null, or a secret.
    pub value: Option<String>,
    pub source: ConfigSource,
    pub read_only: bool,
    pub sensitive: bool,
    pub value_type: ValueType,
    /// The strongest first.
    pub synonyms: Vec<ConfigSynonym>,
    pub documentation: &'static str,
}

impl ConfigEntry {
    /// `is_default` of the old versions of DescribeConfigs.
    pub fn is_default(&self) -> bool {
        self.source == ConfigSource::Default
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    pub name: String,
    pub value: Option<String>,
    pub source: ConfigSource,
}

/// With Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    Topic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
    ClientMetrics = 7,
    Group = 8,
}

impl ConfigSource {
    pub fn code(self) -> i8 {
        self as i8
    }
}

/// The entries of a topic with these values of its own, by name.
pub fn describe_topic(broker: &BrokerConfig, overrides: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    TOPIC_KEYS.iter().map(|topic_key| topic_entry(broker, overrides, topic_key)).collect()
}

/// The entries of this broker, by name.
pub fn describe_broker(broker: &BrokerConfig) -> Vec<ConfigEntry> {
    let is_set = |key: &&'static Key| {
        broker.dynamic_value(key.name).or(broker.dynamic_default_value(key.name)).is_some()
    };
    let keys = broker_keys().iter().chain(DYNAMIC_KEYS.iter().filter(is_set));
    keys.map(|key| broker_entry(broker, key, broker_synonyms(broker, key))).collect()
}

/// The entries set for all brokers, by name.
pub fn describe_default_broker(dynamic_default: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    let source = ConfigSource::DynamicDefaultBroker;
    let entry = |(name, text): (&String, &String)| {
        let key = find_broker_key(name);
        let sensitive = key.is_none_or(Key::is_sensitive);
        let value = (!sensitive).then(|| text.clone());
        ConfigEntry {
            name: name.clone(),
            value: value.clone(),
            source,
            read_only: false,
            sensitive,
            value_type: key.map_or(ValueType::String, |key| key.value_type),
            synonyms: vec![ConfigSynonym { name: name.clone(), value, source }],
            documentation: key.map_or("", |key| key.doc),
        }
    };
    dynamic_default.iter().map(entry).collect()
}

fn topic_entry(
    broker: &BrokerConfig,
    overrides: &BTreeMap<String, String>,
    topic_key: &TopicKey,
) -> ConfigEntry {
    let key = &topic_key.key;
    let own = overrides.get(key.name).map(|text| ConfigSynonym {
        name: key.name.to_owned(),
        value: Some(text.clone()),
        source: ConfigSource::Topic,
    });
    // As Kafka does it, only the strongest synonym is told, even when a weaker one gives the value.
    let from_broker = topic_key.synonyms.first().and_then(|synonym| find_broker_key(synonym.name));
    let mut synonyms: Vec<_> = own.into_iter().collect();
    synonyms.extend(from_broker.map(|key| broker_synonyms(broker, key)).unwrap_or_default());
    let value = match overrides.get(key.name) {
        Some(text) => as_read(key, text),
        None => inherited(broker, topic_key).to_string(),
    };
    ConfigEntry {
        name: key.name.to_owned(),
        value: Some(value),
        source: synonyms.first().map_or(ConfigSource::Default, |synonym| synonym.source),
        read_only: false,
        sensitive: false,
        value_type: key.value_type,
        synonyms,
        documentation: key.doc,
    }
}

fn broker_entry(broker: &BrokerConfig, key: &'static Key, synonyms: Vec<ConfigSynonym>) -> ConfigEntry {
    let sensitive = key.is_sensitive();
    let strongest = synonyms.first().and_then(|synonym| synonym.value.clone());
    let value = match key.name {
        // Two names of one thing: both show what is in force.
        "node.id" | "broker.id" => Some(broker.node_id.to_string()),
        _ => strongest.map(|text| as_read(key, &text)),
    };
    ConfigEntry {
        name: key.name.to_owned(),
        value: value.filter(|_| !sensitive),
        source: synonyms.first().map_or(ConfigSource::Default, |synonym| synonym.source),
        read_only: key.update == Update::ReadOnly,
        sensitive,
        value_type: key.value_type,
        synonyms,
        documentation: key.doc,
    }
}

/// The value in force: without blanks around it, and in the usual spelling.
pub(super) fn as_read(key: &Key, text: &str) -> String {
    key.parse(text).map_or_else(|_| text.to_owned(), |value| value.to_string())
}

pub(super) fn broker_synonyms(broker: &BrokerConfig, key: &Key) -> Vec<ConfigSynonym> {
    let dynamic = |value| if key.update == Update::ReadOnly { None } else { value };
    let layers = [
        (dynamic(broker.dynamic_value(key.name)), ConfigSource::DynamicBroker),
        (dynamic(broker.dynamic_default_value(key.name)), ConfigSource::DynamicDefaultBroker),
        (broker.start_value(key.name), ConfigSource::StaticBroker),
        (key.default, ConfigSource::Default),
    ];
    let synonym = |(value, source): (Option<&str>, ConfigSource)| {
        let value = value?;
        let value = (!key.is_sensitive()).then(|| value.trim().to_owned());
        Some(ConfigSynonym { name: key.name.to_owned(), value, source })
    };
    layers.into_iter().filter_map(synonym).collect()
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Boolean(value) => write!(f, "{value}"),
            Value::Long(number) => write!(f, "{number}"),
            // As Java writes it: 1.7976931348623157E308.
            Value::Double(number) => f.write_str(&format!("{number:?}").replace('e', "E")),
            Value::List(words) => f.write_str(&words.join(",")),
            Value::Text(text) => f.write_str(text),
        }
    }
}
