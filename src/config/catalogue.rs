//! The tables as rows for people: `ringlog config --list` and the documentation.

use super::key::{Effect, Key, Update};
use super::{TOPIC_KEYS, broker_keys};

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CatalogueRow {
    pub name: &'static str,
    /// `broker` or `topic`.
    pub scope: &'static str,
    #[serde(rename = "type")]
    pub value_type: &'static str,
    /// `None`: there is none.
    pub default: Option<&'static str>,
    /// The accepted values in words, empty when all of the type are.
    pub accepted: String,
    /// `read-only`, `per-broker`, `cluster-wide` or `topic`.
    pub update: &'static str,
    /// Of a topic's key: the broker keys that give its default, the strongest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub synonyms: Vec<&'static str>,
    /// Why the key has no effect, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored: Option<&'static str>,
    pub doc: &'static str,
}

/// Every key: the broker's by name, then the topics'.
pub fn catalogue() -> Vec<CatalogueRow> {
    let mut rows: Vec<_> = broker_keys().iter().map(|key| row("broker", key, Vec::new())).collect();
    rows.extend(TOPIC_KEYS.iter().map(|topic_key| {
        let synonyms = topic_key.synonyms.iter().map(|synonym| synonym.name).collect();
        row("topic", &topic_key.key, synonyms)
    }));
    rows
}

fn row(scope: &'static str, key: &Key, synonyms: Vec<&'static str>) -> CatalogueRow {
    CatalogueRow {
        name: key.name,
        scope,
        value_type: key.value_type.name(),
        default: key.default,
        accepted: key.range(),
        update: match key.update {
            Update::ReadOnly => "read-only",
            Update::PerBroker => "per-broker",
            Update::ClusterWide => "cluster-wide",
            Update::Topic => "topic",
            Update::Resource => "resource",
        },
        synonyms,
        ignored: match key.effect {
            Effect::Used => None,
            Effect::Ignored(reason) => Some(reason.text()),
        },
        doc: key.doc,
    }
}
