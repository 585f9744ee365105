//! The cluster's subscriptions to clients' metrics, and what each client is to send by them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regex::Regex;

use super::{Client, Subscription};
use crate::config::{INTERVAL, MATCH, METRICS, selector, words};
use crate::record::crc32c;

/// How often a client sends that no subscription tells.
const INTERVAL_MS_DEFAULT: u64 = 300_000;
/// The name that stands for all metrics.
const ALL: &str = "*";

type Configs = BTreeMap<String, BTreeMap<String, String>>;

/// What a client is to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Prefixes of names; `*` alone for all, none for nothing.
    pub metrics: Vec<String>,
    pub interval_ms: u64,
}

#[derive(Default)]
pub struct Subscriptions {
    /// Of the cluster image that was looked at last.
    revision: u64,
    /// Grows with each change of a subscription.
    version: u64,
    configs: Configs,
    all: Vec<Rule>,
    /// What the last client was told: others are mostly told the same, and share it.
    last: Option<Arc<Wanted>>,
}

struct Rule {
    matching: Vec<(&'static str, Regex)>,
    metrics: Vec<String>,
    interval_ms: u64,
}

impl Subscriptions {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn update(&mut self, revision: u64, configs: Option<&Configs>) {
        if std::mem::replace(&mut self.revision, revision) == revision {
            return;
        }
        let is_new = configs.map_or(!self.configs.is_empty(), |configs| *configs != self.configs);
        if is_new {
            self.version += 1;
            self.configs = configs.cloned().unwrap_or_default();
            self.all = self.configs.values().map(rule).collect();
        }
    }

    pub fn of(&mut self, client: &Client) -> Subscription {
        let (mut metrics, mut interval_ms) = (BTreeSet::new(), INTERVAL_MS_DEFAULT);
        for rule in self.all.iter().filter(|rule| rule.matches(client)) {
            metrics.extend(rule.metrics.iter());
            interval_ms = interval_ms.min(rule.interval_ms);
        }
        let has_all = metrics.iter().any(|name| *name == ALL);
        let metrics: Vec<String> = match has_all {
            true => vec![ALL.to_owned()],
            false => metrics.into_iter().cloned().collect(),
        };
        let wanted = Wanted { metrics, interval_ms };
        let id = id(&wanted, client);
        let wanted = match self.last.take() {
            Some(last) if *last == wanted => last,
            _ => Arc::new(wanted),
        };
        self.last = Some(wanted.clone());
        Subscription { id, wanted }
    }
}

/// Every value was checked when it was set.
fn rule(own: &BTreeMap<String, String>) -> Rule {
    let interval_ms = own.get(INTERVAL).and_then(|text| text.trim().parse().ok());
    Rule {
        matching: words(own, MATCH).iter().filter_map(|word| selector(word)).collect(),
        metrics: words(own, METRICS),
        interval_ms: interval_ms.unwrap_or(INTERVAL_MS_DEFAULT),
    }
}

impl Rule {
    fn matches(&self, client: &Client) -> bool {
        self.matching.iter().all(|(attribute, pattern)| {
            let software = client.software.as_deref();
            match *attribute {
                "client_id" => pattern.is_match(&client.client_id),
                "client_instance_id" => pattern.is_match(&client.instance_id.to_string()),
                "client_software_name" => software.is_some_and(|it| pattern.is_match(&it.name)),
                "client_software_version" => software.is_some_and(|it| pattern.is_match(&it.version)),
                "client_source_address" => pattern.is_match(&client.address),
                _ => client.port.is_some_and(|port| pattern.is_match(&port.to_string())),
            }
        })
    }
}

/// Changes with what is wanted, and differs between clients.
fn id(wanted: &Wanted, client: &Client) -> i32 {
    let mut crc = crc32c::checksum(&wanted.interval_ms.to_be_bytes());
    for name in &wanted.metrics {
        crc = crc32c::append(crc32c::append(crc, &[0]), name.as_bytes());
    }
    let words = client.instance_id.0.chunks_exact(4);
    words.fold(crc, |id, word| id ^ u32::from_be_bytes([word[0], word[1], word[2], word[3]])) as i32
}
