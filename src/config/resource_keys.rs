//! The keys of groups and of subscriptions to clients' metrics (KIP-714), how they are described, and what they may be set to.
//!
//! A group's key takes its default from the broker's key of the same name behind `group.`, and its bounds from those with
//! `min.` and `max.` in it; keys without one have a default of their own. What Kafka says of a wrong value is said here.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};

use super::alter::{AlterError, Alteration, Changes, changes};
use super::broker::BrokerConfig;
use super::describe::{ConfigEntry, ConfigSource, ConfigSynonym, as_read, broker_synonyms};
use super::find_broker_key;
use super::key::{Effect, Key, Reason, Update, Valid, Value, ValueType, split_list};

use ValueType::{Boolean, Int, List, String as Text};

/// A pattern takes no more memory than this.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// By name. Values of share and streams groups are kept, and nothing reads them.
#[rustfmt::skip]
pub const GROUP_KEYS: &[Key] = &[
    used("consumer.assignment.interval.ms", Int, "1000", Valid::Min(0), "Target assignments of the group are worked out at least this far apart."),
    used("consumer.heartbeat.interval.ms", Int, "5000", Valid::Min(1), "How often the group's members are told to send heartbeats."),
    used("consumer.session.timeout.ms", Int, "45000", Valid::Min(1), "A member that is silent for so long is gone."),
    kept("share.assignment.interval.ms", Int, "1000", Valid::Min(0)),
    kept("share.auto.offset.reset", Text, "latest", Valid::Any),
    kept("share.delivery.count.limit", Int, "5", Valid::Min(2)),
    kept("share.heartbeat.interval.ms", Int, "5000", Valid::Min(1)),
    kept("share.isolation.level", Text, "read_uncommitted", Valid::OneOf(&["read_committed", "read_uncommitted"])),
    kept("share.partition.max.record.locks", Int, "2000", Valid::Min(100)),
    kept("share.record.lock.duration.ms", Int, "30000", Valid::Min(1000)),
    kept("share.renew.acknowledge.enable", Boolean, "true", Valid::Any),
    kept("share.session.timeout.ms", Int, "45000", Valid::Min(1)),
    kept("streams.assignment.interval.ms", Int, "1000", Valid::Min(0)),
    kept("streams.heartbeat.interval.ms", Int, "5000", Valid::Min(1)),
    kept("streams.initial.rebalance.delay.ms", Int, "3000", Valid::Min(0)),
    kept("streams.num.standby.replicas", Int, "0", Valid::Min(0)),
    kept("streams.session.timeout.ms", Int, "45000", Valid::Min(1)),
];

pub const INTERVAL: &str = "interval.ms";
pub const MATCH: &str = "match";
pub const METRICS: &str = "metrics";

/// By name.
#[rustfmt::skip]
pub const CLIENT_METRICS_KEYS: &[Key] = &[
    used(INTERVAL, Int, "300000", Valid::Any, "How often matching clients send their metrics."),
    used(MATCH, List, "", Valid::Any, "Which clients: selector=pattern, and all must match; empty for all clients."),
    used(METRICS, List, "", Valid::Any, "Prefixes of the names of the metrics wanted; `*` for all, empty for none."),
];

/// What a client is told apart by.
pub const SELECTORS: [&str; 6] = [
    "client_id",
    "client_instance_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
];

const fn used(
    name: &'static str,
    value_type: ValueType,
    default: &'static str,
    valid: Valid,
    doc: &'static str,
) -> Key {
    let default = Some(default);
    Key { name, value_type, default, valid, update: Update::Resource, effect: Effect::Used, doc }
}

const fn kept(name: &'static str, value_type: ValueType, default: &'static str, valid: Valid) -> Key {
    let (default, reason) = (Some(default), Reason::Groups);
    let effect = Effect::Ignored(reason);
    Key { name, value_type, default, valid, update: Update::Resource, effect, doc: reason.doc() }
}

// ---- describe ----

/// The entries of a group with these values of its own, by name.
pub fn describe_group(broker: &BrokerConfig, own: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    let entry = |key: &Key| {
        let default = || ConfigSynonym {
            name: key.name.to_owned(),
            value: key.default.map(str::to_owned),
            source: ConfigSource::Default,
        };
        let inherited = match find_broker_key(&format!("group.{}", key.name)) {
            Some(synonym) => broker_synonyms(broker, synonym),
            None => vec![default()],
        };
        entry(key, own, ConfigSource::Group, inherited)
    };
    GROUP_KEYS.iter().map(entry).collect()
}

/// The entries of a subscription with these values of its own, by name.
pub fn describe_client_metrics(own: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    CLIENT_METRICS_KEYS.iter().map(|key| entry(key, own, ConfigSource::ClientMetrics, Vec::new())).collect()
}

fn entry(
    key: &Key,
    own: &BTreeMap<String, String>,
    source: ConfigSource,
    inherited: Vec<ConfigSynonym>,
) -> ConfigEntry {
    let set = own.get(key.name).map(|text| ConfigSynonym {
        name: key.name.to_owned(),
        value: Some(text.clone()),
        source,
    });
    let synonyms: Vec<_> = set.into_iter().chain(inherited).collect();
    let strongest = synonyms.first();
    let text = strongest.and_then(|synonym| synonym.value.as_deref()).or(key.default).unwrap_or_default();
    ConfigEntry {
        name: key.name.to_owned(),
        value: Some(as_read(key, text)),
        source: strongest.map_or(ConfigSource::Default, |synonym| synonym.source),
        read_only: false,
        sensitive: false,
        value_type: key.value_type,
        synonyms,
        documentation: key.doc,
    }
}

// ---- alter ----

/// What `alterations` make of a group whose own values are `current`.
pub fn alter_group(
    broker: &BrokerConfig,
    current: &BTreeMap<String, String>,
    alterations: &[Alteration<'_>],
) -> Result<Changes, AlterError> {
    let (changes, after) = changed(current, alterations)?;
    for (name, text) in &after {
        let key = find(GROUP_KEYS, name)
            .ok_or_else(|| AlterError::InvalidConfig(format!("Unknown group config name: {name}")))?;
        let value = key.parse(text).map_err(|error| AlterError::InvalidConfig(error.to_string()))?;
        if let Value::Long(number) = value {
            check_bounds(broker, name, number)?;
        }
    }
    for protocol in ["consumer", "share", "streams"] {
        let number = |rest: &str| {
            let name = format!("{protocol}.{rest}");
            let own = after.get(&name).and_then(|text| text.trim().parse().ok());
            (own.or_else(|| broker_number(broker, &format!("group.{name}"))), name)
        };
        let (session, timeout) = number("session.timeout.ms");
        let (heartbeat, interval) = number("heartbeat.interval.ms");
        if after.contains_key(&timeout) || after.contains_key(&interval) {
            let fits = session.zip(heartbeat).is_none_or(|(session, heartbeat)| session > heartbeat);
            if !fits {
                let message = format!("{timeout} must be greater than {interval}");
                return Err(AlterError::InvalidConfig(message));
            }
        }
    }
    Ok(changes)
}

fn check_bounds(broker: &BrokerConfig, name: &str, number: i64) -> Result<(), AlterError> {
    let Some((protocol, rest)) = name.split_once('.') else { return Ok(()) };
    let rest = rest.strip_prefix("num.").unwrap_or(rest);
    let (min, max) = (format!("group.{protocol}.min.{rest}"), format!("group.{protocol}.max.{rest}"));
    let refuse =
        |what: &str, bound: &str| Err(AlterError::InvalidConfig(format!("{name} must be {what} {bound}")));
    if broker_number(broker, &min).is_some_and(|least| number < least) {
        return refuse("greater than or equal to", &min);
    }
    if broker_number(broker, &max).is_some_and(|most| number > most) {
        return refuse("less than or equal to", &max);
    }
    Ok(())
}

fn broker_number(broker: &BrokerConfig, name: &str) -> Option<i64> {
    find_broker_key(name)?;
    match broker.value(name) {
        Some(Value::Long(number)) => Some(number),
        _ => None,
    }
}

/// What `alterations` make of a subscription whose own values are `current`.
pub fn alter_client_metrics(
    current: &BTreeMap<String, String>,
    alterations: &[Alteration<'_>],
) -> Result<Changes, AlterError> {
    const INTERVAL_MS: std::ops::RangeInclusive<i64> = 100..=3_600_000;
    let (changes, after) = changed(current, alterations)?;
    for (name, text) in &after {
        let key = find(CLIENT_METRICS_KEYS, name).ok_or_else(|| {
            AlterError::InvalidRequest(format!("Unknown client metrics configuration: {name}"))
        })?;
        let value = key.parse(text).map_err(|error| AlterError::InvalidConfig(error.to_string()))?;
        match value {
            Value::Long(number) if !INTERVAL_MS.contains(&number) => {
                let message = format!(
                    "Invalid value {number} for {name}, interval must be between 100 and 3600000 (1 hour)"
                );
                return Err(AlterError::InvalidRequest(message));
            }
            Value::List(words) if name == MATCH => {
                for word in &words {
                    let illegal = || format!("Illegal client matching pattern: {word}");
                    selector(word).ok_or_else(|| AlterError::InvalidConfig(illegal()))?;
                }
            }
            _ => {}
        }
    }
    Ok(changes)
}

/// One element of `match`: what it looks at, and the pattern that has to match all of it.
pub fn selector(word: &str) -> Option<(&'static str, Regex)> {
    let (name, pattern) = word.split_once('=')?;
    let name = SELECTORS.into_iter().find(|known| *known == name.trim())?;
    let whole = format!("^(?:{})$", pattern.trim());
    Some((name, RegexBuilder::new(&whole).size_limit(PATTERN_BYTES_MAX).build().ok()?))
}

/// The words of a LIST of a subscription.
pub fn words(own: &BTreeMap<String, String>, name: &str) -> Vec<String> {
    own.get(name).map(|text| split_list(text)).unwrap_or_default()
}

fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

/// The changes, and the own values after them. As in Kafka, no key here counts as a LIST that can be appended to.
fn changed(
    current: &BTreeMap<String, String>,
    alterations: &[Alteration<'_>],
) -> Result<(Changes, BTreeMap<String, String>), AlterError> {
    let changes = changes(current, alterations, &|_| None, &|_| String::new())?;
    let mut after = current.clone();
    for (name, value) in &changes {
        match value {
            Some(value) => after.insert(name.clone(), value.clone()),
            None => after.remove(name),
        };
    }
    Ok((changes, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AlterOp;

    fn set<'a>(name: &'a str, value: &'a str) -> Alteration<'a> {
        Alteration { name, op: AlterOp::Set, value: Some(value) }
    }

    #[test]
    fn tables_are_sorted_and_defaults_valid() {
        for keys in [GROUP_KEYS, CLIENT_METRICS_KEYS] {
            assert!(keys.is_sorted_by_key(|key| key.name));
            for key in keys {
                assert!(key.parse(key.default.unwrap_or_default()).is_ok(), "{}", key.name);
            }
        }
    }

    #[test]
    fn complaints_are_kafkas() {
        let broker = BrokerConfig::default();
        let none = BTreeMap::new();
        let group =
            |name, value| alter_group(&broker, &none, &[set(name, value)]).map_err(|error| error.to_string());
        for (name, value, reason) in [
            ("nokey", "1", "Unknown group config name: nokey"),
            (
                "consumer.session.timeout.ms",
                "1",
                "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms",
            ),
            (
                "consumer.heartbeat.interval.ms",
                "60000",
                "consumer.heartbeat.interval.ms must be less than or equal to group.consumer.max.heartbeat.interval.ms",
            ),
            (
                "streams.num.standby.replicas",
                "9",
                "streams.num.standby.replicas must be less than or equal to group.streams.max.standby.replicas",
            ),
        ] {
            assert_eq!(group(name, value), Err(reason.to_owned()));
        }
        assert!(group("consumer.session.timeout.ms", "50000").is_ok());
        let metrics =
            |name, value| alter_client_metrics(&none, &[set(name, value)]).map_err(|error| error.to_string());
        for bad in ["x", "what=a", "client_id=(", "client_id"] {
            assert_eq!(metrics(MATCH, bad), Err(format!("Illegal client matching pattern: {bad}")));
        }
        assert!(metrics(MATCH, "client_id=a.*,client_source_port=[0-9]+").is_ok());
        assert!(metrics(INTERVAL, "99").is_err() && metrics(INTERVAL, "100").is_ok());
    }

    #[test]
    fn selectors_match_the_whole() {
        let (name, pattern) = selector(" client_id = a|bc").expect("a selector");
        assert_eq!(name, "client_id");
        assert!(pattern.is_match("a") && pattern.is_match("bc") && !pattern.is_match("abc"));
    }
}
