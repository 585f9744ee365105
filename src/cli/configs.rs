//! DescribeConfigs and IncrementalAlterConfigs, for `topic` and `config`.

use std::borrow::Cow;

use serde::Serialize;

use super::client::{Client, To};
use super::failure::Failure;
use super::output;
use crate::protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use crate::protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use crate::protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};

const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;

/// What has configs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    Topic(String),
    /// Without an id: the default of all brokers.
    Broker(Option<i32>),
}

impl Resource {
    fn code(&self) -> i8 {
        match self {
            Resource::Topic(_) => 2,
            Resource::Broker(_) => 4,
        }
    }

    fn name(&self) -> String {
        match self {
            Resource::Topic(name) => name.clone(),
            Resource::Broker(id) => id.map_or(String::new(), |id| id.to_string()),
        }
    }

    /// A broker answers for itself.
    fn to(&self) -> To {
        match self {
            Resource::Broker(Some(id)) => To::Broker(*id),
            _ => To::Any,
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Resource::Topic(name) => write!(f, "topic {name}"),
            Resource::Broker(Some(id)) => write!(f, "broker {id}"),
            Resource::Broker(None) => write!(f, "the brokers' default"),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub name: String,
    /// `None` is null, or a secret.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: &'static str,
    pub read_only: bool,
    pub sensitive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doc: Option<String>,
}

impl Entry {
    fn new(found: &DescribeConfigsResourceResult<'_>, version: i16) -> Entry {
        let code = if version == 0 { if found.is_default { 5 } else { 1 } } else { found.config_source };
        Entry {
            name: found.name.to_string(),
            value: found.value.as_deref().map(str::to_owned),
            source: match code {
                1 => "topic",
                2 => "broker, changed while running",
                3 => "all brokers, changed while running",
                4 => "broker, at start",
                5 => "default",
                _ => "unknown",
            },
            read_only: found.read_only,
            sensitive: found.is_sensitive,
            doc: found.documentation.as_deref().map(str::to_owned),
        }
    }

    /// Set on the resource itself, not inherited.
    pub fn is_own(&self) -> bool {
        matches!(
            self.source,
            "topic" | "broker, changed while running" | "all brokers, changed while running"
        )
    }

    pub fn shown_value(&self) -> String {
        match &self.value {
            _ if self.sensitive => "(hidden)".to_owned(),
            Some(value) => value.clone(),
            None => "-".to_owned(),
        }
    }
}

/// Every config of the resource, by name.
pub fn describe(client: &mut Client, resource: &Resource, with_docs: bool) -> Result<Vec<Entry>, Failure> {
    client.retry(|client| {
        let asked = DescribeConfigsResource {
            resource_type: resource.code(),
            resource_name: Cow::Owned(resource.name()),
            configuration_keys: None,
        };
        let request = DescribeConfigsRequest {
            resources: [asked].into(),
            include_synonyms: false,
            include_documentation: with_docs,
        };
        let answer = client.call(resource.to(), i16::MAX, &request)?;
        let response = answer.read::<DescribeConfigsRequest<'_>>()?;
        let result = response.results.first().ok_or_else(|| Failure::answer("no result"))?;
        Failure::check(resource, result.error_code, result.error_message.as_deref())?;
        let mut entries: Vec<_> =
            result.configs.iter().map(|found| Entry::new(&found, answer.version)).collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    })
}

/// Sets and removes values, the rest stays.
pub fn alter(
    client: &mut Client,
    resource: &Resource,
    set: &[(String, String)],
    delete: &[String],
    validate_only: bool,
) -> Result<(), Failure> {
    if set.is_empty() && delete.is_empty() {
        return Err(Failure::usage("nothing to change: give --config KEY=VALUE or --delete-config KEY"));
    }
    let set = set.iter().map(|(key, value)| AlterableConfig {
        name: key.as_str().into(),
        config_operation: OPERATION_SET,
        value: Some(value.as_str().into()),
    });
    let delete = delete.iter().map(|key| AlterableConfig {
        name: key.as_str().into(),
        config_operation: OPERATION_DELETE,
        value: None,
    });
    let changed = AlterConfigsResource {
        resource_type: resource.code(),
        resource_name: Cow::Owned(resource.name()),
        configs: set.chain(delete).collect(),
    };
    let request = IncrementalAlterConfigsRequest { resources: [changed].into(), validate_only };
    client.retry(|client| {
        let answer = client.call(resource.to(), i16::MAX, &request)?;
        let response = answer.read::<IncrementalAlterConfigsRequest<'_>>()?;
        let result = response.responses.first().ok_or_else(|| Failure::answer("no result"))?;
        Failure::check(resource, result.error_code, result.error_message.as_deref())
    })
}

pub fn print(entries: &[Entry], json: bool) -> Result<(), Failure> {
    if json {
        return output::print_json(&entries);
    }
    let mut table = output::table(&["CONFIG", "VALUE", "FROM", ""]);
    for entry in entries {
        let note = if entry.read_only { "read-only" } else { "" };
        table.add_row([&entry.name, &entry.shown_value(), entry.source, note]);
    }
    output::print_table(&table)
}

/// `key=value`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("not KEY=VALUE".to_owned()),
    }
}
