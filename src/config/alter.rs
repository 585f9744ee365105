//! Changes of dynamic values, checked as Kafka checks them and refused in its words.

use std::collections::BTreeMap;
use std::fmt;

use super::broker::BrokerConfig;
use super::broker_values::{PER_IP_OVERRIDES, parse_per_ip_override};
use super::find_broker_key;
use super::key::{Effect, Key, Update, Value, ValueType, split_list};
use super::topic_keys::find as find_topic_key;

/// One key of an IncrementalAlterConfigs request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alteration<'a> {
    pub name: &'a str,
    pub op: AlterOp,
    pub value: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlterOp {
    Set,
    Delete,
    Append,
    Subtract,
}

impl AlterOp {
    /// From the number in the request.
    pub fn from_code(code: i8) -> Option<AlterOp> {
        match code {
            0 => Some(AlterOp::Set),
            1 => Some(AlterOp::Delete),
            2 => Some(AlterOp::Append),
            3 => Some(AlterOp::Subtract),
            _ => None,
        }
    }
}

/// New values by key; `None` takes a value away.
pub type Changes = BTreeMap<String, Option<String>>;

/// Why a change is refused; the message is Kafka's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlterError {
    /// INVALID_CONFIG.
    InvalidConfig(String),
    /// INVALID_REQUEST.
    InvalidRequest(String),
}

impl fmt::Display for AlterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AlterError::InvalidConfig(message) | AlterError::InvalidRequest(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for AlterError {}

/// What `alterations` make of a topic whose own values are `current`.
pub fn alter_topic(
    broker: &BrokerConfig,
    current: &BTreeMap<String, String>,
    alterations: &[Alteration<'_>],
) -> Result<Changes, AlterError> {
    let inherited = |name: &str| {
        find_topic_key(name).map(|key| super::topic::inherited(broker, key).to_string()).unwrap_or_default()
    };
    let changes =
        changes(current, alterations, &|name| find_topic_key(name).map(|key| &key.key), &inherited)?;
    let mut after = current.clone();
    for (name, value) in &changes {
        match value {
            Some(value) => after.insert(name.clone(), value.clone()),
            None => after.remove(name),
        };
    }
    check_topic(broker, &after)?;
    Ok(changes)
}

/// Whether a topic may have these values of its own.
pub fn check_topic(broker: &BrokerConfig, overrides: &BTreeMap<String, String>) -> Result<(), AlterError> {
    let invalid = |message: String| Err(AlterError::InvalidConfig(message));
    for (name, text) in overrides {
        let Some(topic_key) = find_topic_key(name) else {
            return invalid(format!("Unknown topic config name: {name}"));
        };
        if let Err(error) = topic_key.key.parse(text) {
            return invalid(error.to_string());
        }
    }
    let config = broker.topic_config(overrides);
    let (min, max) = (config.min_compaction_lag_ms, config.max_compaction_lag_ms);
    if min > max {
        return invalid(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})"
        ));
    }
    if overrides.get("remote.storage.enable").is_some_and(|text| text.trim().eq_ignore_ascii_case("true")) {
        return invalid(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."
                .to_owned(),
        );
    }
    Ok(())
}

/// What `alterations` make of the values set for one broker, or with `all_brokers` for every broker. Keys that Kafka does not
/// know are taken, as Kafka takes them: they may belong to a plug-in or to another version.
pub fn alter_broker(
    broker: &BrokerConfig,
    current: &BTreeMap<String, String>,
    alterations: &[Alteration<'_>],
    all_brokers: bool,
) -> Result<Changes, AlterError> {
    let inherited = |name: &str| broker.value(name).map(|value| value.to_string()).unwrap_or_default();
    let changes = changes(current, alterations, &find_broker_key, &inherited)?;
    let refuse = |what: &str, names: Vec<&str>| match names.is_empty() {
        true => Ok(()),
        false => Err(AlterError::InvalidRequest(format!("{what}: [{}]", names.join(", ")))),
    };
    let named = |wanted: Update| {
        let is_wanted = |name: &&str| find_broker_key(name).is_some_and(|key| key.update == wanted);
        changes.keys().map(String::as_str).filter(is_wanted).collect()
    };
    refuse("Cannot update these configs dynamically", named(Update::ReadOnly))?;
    if all_brokers {
        let what = "Cannot update these configs at default cluster level, broker id must be specified";
        refuse(what, named(Update::PerBroker))?;
    }
    for (name, value) in &changes {
        if let (Some(key), Some(value)) = (find_broker_key(name), value) {
            check_broker_value(key, value)?;
        }
    }
    Ok(changes)
}

fn check_broker_value(key: &Key, value: &str) -> Result<(), AlterError> {
    key.parse(value).map_err(|error| AlterError::InvalidRequest(error.to_string()))?;
    if key.name == PER_IP_OVERRIDES {
        let mut entries = split_list(value).into_iter();
        let wrong = entries.find_map(|entry| parse_per_ip_override(&entry).err());
        wrong.map_or(Ok(()), |reason| Err(AlterError::InvalidRequest(reason)))?;
    }
    if let Effect::Ignored(super::key::Reason::Security) = key.effect {
        let reason = super::key::Reason::Security.text();
        return Err(AlterError::InvalidRequest(format!("{} cannot be set: {reason}", key.name)));
    }
    Ok(())
}

pub(super) fn changes(
    current: &BTreeMap<String, String>,
    alterations: &[Alteration<'_>],
    find: &dyn Fn(&str) -> Option<&'static Key>,
    inherited: &dyn Fn(&str) -> String,
) -> Result<Changes, AlterError> {
    let mut changes = Changes::new();
    let mut nulls = Vec::new();
    for alteration in alterations {
        let name = alteration.name;
        let value = match alteration.op {
            AlterOp::Delete => None,
            _ if alteration.value.is_none() => {
                nulls.push(name);
                None
            }
            AlterOp::Set => alteration.value.map(str::to_owned),
            AlterOp::Append | AlterOp::Subtract => {
                let before = current.get(name).cloned().unwrap_or_else(|| inherited(name));
                Some(edit_list(find(name), alteration, &before)?)
            }
        };
        if changes.insert(name.to_owned(), value).is_some() {
            return Err(AlterError::InvalidRequest("Error due to duplicate config keys".to_owned()));
        }
    }
    match nulls.is_empty() {
        true => Ok(changes),
        false => {
            Err(AlterError::InvalidRequest(format!("Null value not supported for : {}", nulls.join(", "))))
        }
    }
}

fn edit_list(key: Option<&Key>, alteration: &Alteration<'_>, before: &str) -> Result<String, AlterError> {
    let (append, verb) = match alteration.op {
        AlterOp::Append => (true, "APPEND"),
        _ => (false, "SUBTRACT"),
    };
    if !key.is_some_and(|key| key.value_type == ValueType::List) {
        let name = alteration.name;
        return Err(AlterError::InvalidConfig(format!(
            "Can't {verb} to key {name} because its type is not LIST."
        )));
    }
    let mut words = split_list(before);
    for word in split_list(alteration.value.unwrap_or_default()) {
        match (append, words.iter().position(|known| *known == word)) {
            (true, None) => words.push(word),
            (false, Some(index)) => drop(words.remove(index)),
            _ => {}
        }
    }
    Ok(Value::List(words).to_string())
}
