//! DescribeConfigs (0 to 4), AlterConfigs (0 to 2) and IncrementalAlterConfigs (0 and 1), of topics, of this broker, of groups
//! and of subscriptions to clients' metrics.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::broker::Broker;
use crate::broker::controller::AdminError;
use crate::broker::request::{Forwarded, Reply, Request, Response};
use crate::config::{self, AlterOp, Alteration, ConfigEntry};
use crate::io::Io;
use crate::metadata::{Change, ResourceKind};
use crate::protocol::ErrorCode;
use crate::protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use crate::protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};
use crate::protocol::messages::{
    alter_configs_request::AlterConfigsRequest, alter_configs_response as altered,
    incremental_alter_configs_request::IncrementalAlterConfigsRequest,
    incremental_alter_configs_response as incrementally,
};

pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;
pub const BROKER_LOGGER: i8 = 8;
pub const CLIENT_METRICS: i8 = 16;
pub const GROUP: i8 = 32;

// ---- describe ----

pub fn describe(broker: &mut Broker, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<DescribeConfigsRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let results = message.resources.iter().map(|resource| {
        let described = entries(broker, &resource).map(|entries| {
            let wanted: Option<BTreeSet<String>> =
                resource.configuration_keys.as_ref().map(|keys| keys.iter().map(Cow::into_owned).collect());
            entries
                .into_iter()
                .filter(|entry| {
                    wanted.as_ref().is_none_or(|wanted| wanted.is_empty() || wanted.contains(&entry.name))
                })
                .map(|entry| result(entry, message.include_synonyms, message.include_documentation))
                .collect()
        });
        let (configs, error) = match described {
            Ok(configs) => (configs, None),
            Err(error) => (Default::default(), Some(error)),
        };
        DescribeConfigsResult {
            error_code: error.as_ref().map_or(0, |error| error.code.code()),
            error_message: Some(error.map_or(Cow::Borrowed(""), |error| Cow::Owned(error.message))),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            configs,
        }
    });
    let response = DescribeConfigsResponse { results: results.collect(), ..Default::default() };
    Reply::Now(Response::of(&head, &response))
}

fn entries(broker: &Broker, resource: &DescribeConfigsResource<'_>) -> Result<Vec<ConfigEntry>, AdminError> {
    match resource.resource_type {
        TOPIC => {
            let name = &*resource.resource_name;
            if crate::storage::names::check_topic_name(name).is_err() {
                return Err(AdminError::of(ErrorCode::InvalidTopicException));
            }
            let topic =
                broker.image.topic(name).ok_or_else(|| AdminError::of(ErrorCode::UnknownTopicOrPartition))?;
            Ok(config::describe_topic(&broker.config, &topic.configs))
        }
        BROKER if resource.resource_name.is_empty() => {
            Ok(config::describe_default_broker(broker.image.default_broker_config()))
        }
        BROKER => {
            this_broker(broker, &resource.resource_name)?;
            Ok(config::describe_broker(&broker.config))
        }
        GROUP | CLIENT_METRICS if resource.resource_name.is_empty() => {
            let what = if resource.resource_type == GROUP { "Group" } else { "Client metrics subscription" };
            Err(AdminError::new(ErrorCode::InvalidRequest, format!("{what} name must not be empty")))
        }
        GROUP => {
            let own = broker.image.resource_config(ResourceKind::Group, &resource.resource_name);
            Ok(config::describe_group(&broker.config, own))
        }
        CLIENT_METRICS => {
            let own = broker.image.resource_config(ResourceKind::ClientMetrics, &resource.resource_name);
            Ok(config::describe_client_metrics(own))
        }
        BROKER_LOGGER if resource.resource_name.is_empty() => {
            Err(AdminError::new(ErrorCode::InvalidRequest, "Broker id must not be empty"))
        }
        // There are no loggers to be set one by one.
        BROKER_LOGGER => this_broker(broker, &resource.resource_name).map(|_| Vec::new()),
        _ => Err(AdminError::of(ErrorCode::InvalidRequest)),
    }
}

fn unsupported_type(resource_type: i8) -> AdminError {
    AdminError::new(ErrorCode::InvalidRequest, format!("Unknown resource type {resource_type}"))
}

fn this_broker(broker: &Broker, name: &str) -> Result<i32, AdminError> {
    match name.parse::<i32>() {
        // The shards of a node share its values.
        Ok(id) if broker.nodes().shard_of(id).is_some() => Ok(broker.node_id()),
        Ok(id) => Err(AdminError::new(
            ErrorCode::InvalidRequest,
            format!("Unexpected broker id, expected {} or empty string, but received {id}", broker.node_id()),
        )),
        Err(_) => Err(AdminError::new(
            ErrorCode::InvalidRequest,
            format!("Broker id must be an integer, but it is: {name}"),
        )),
    }
}

fn result(entry: ConfigEntry, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult<'static> {
    let is_default = entry.is_default();
    let synonyms = if synonyms { entry.synonyms } else { Vec::new() };
    DescribeConfigsResourceResult {
        name: Cow::Owned(entry.name),
        value: entry.value.map(Cow::Owned),
        read_only: entry.read_only,
        is_default,
        config_source: entry.source.code(),
        is_sensitive: entry.sensitive,
        synonyms: synonyms
            .into_iter()
            .map(|synonym| DescribeConfigsSynonym {
                name: Cow::Owned(synonym.name),
                value: synonym.value.map(Cow::Owned),
                source: synonym.source.code(),
            })
            .collect(),
        config_type: entry.value_type.code(),
        documentation: documentation.then_some(Cow::Borrowed(entry.documentation)),
    }
}

// ---- alter ----

/// One resource of either request: its type, its name, whether what it leaves out stays, and its keys with operation and value.
type Wanted = (i8, String, bool, Vec<(String, i8, Option<String>)>);

pub fn alter(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    let Ok(message) = super::decode::<AlterConfigsRequest>(&request.body, head.version) else {
        return broker.respond(request.shard, head.id, None);
    };
    let wanted: Vec<Wanted> = message
        .resources
        .iter()
        .map(|resource| {
            let keys = resource
                .configs
                .iter()
                .map(|config| (config.name.into_owned(), 0, config.value.map(Cow::into_owned)));
            (resource.resource_type, resource.resource_name.into_owned(), false, keys.collect())
        })
        .collect();
    let respond = move |results: Vec<(i8, String, Result<(), AdminError>)>| {
        let responses = results.into_iter().map(|(resource_type, name, result)| {
            let error = result.err();
            altered::AlterConfigsResourceResponse {
                error_code: error.as_ref().map_or(0, |error| error.code.code()),
                error_message: error.map(|error| Cow::Owned(error.message)),
                resource_type,
                resource_name: Cow::Owned(name),
            }
        });
        Response::of(
            &head,
            &altered::AlterConfigsResponse { responses: responses.collect(), ..Default::default() },
        )
    };
    apply(broker, io, &request, wanted, message.validate_only, respond);
}

pub fn incremental_alter(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    let Ok(message) = super::decode::<IncrementalAlterConfigsRequest>(&request.body, head.version) else {
        return broker.respond(request.shard, head.id, None);
    };
    let wanted: Vec<Wanted> = message
        .resources
        .iter()
        .map(|resource| {
            let keys = resource.configs.iter().map(|config| {
                (config.name.into_owned(), config.config_operation, config.value.map(Cow::into_owned))
            });
            (resource.resource_type, resource.resource_name.into_owned(), true, keys.collect())
        })
        .collect();
    let respond = move |results: Vec<(i8, String, Result<(), AdminError>)>| {
        let responses = results.into_iter().map(|(resource_type, name, result)| {
            let error = result.err();
            incrementally::AlterConfigsResourceResponse {
                error_code: error.as_ref().map_or(0, |error| error.code.code()),
                error_message: error.map(|error| Cow::Owned(error.message)),
                resource_type,
                resource_name: Cow::Owned(name),
            }
        });
        Response::of(
            &head,
            &incrementally::IncrementalAlterConfigsResponse {
                responses: responses.collect(),
                ..Default::default()
            },
        )
    };
    apply(broker, io, &request, wanted, message.validate_only, respond);
}

fn apply(
    broker: &mut Broker,
    io: &mut impl Io,
    request: &Forwarded,
    wanted: Vec<Wanted>,
    validate_only: bool,
    respond: impl FnOnce(Vec<(i8, String, Result<(), AdminError>)>) -> Response + Send + 'static,
) {
    let mut times: BTreeMap<(i8, &str), usize> = BTreeMap::new();
    for (kind, name, ..) in &wanted {
        *times.entry((*kind, name)).or_default() += 1;
    }
    let changes = wanted.iter().map(|resource| match times.get(&(resource.0, &*resource.1)) {
        Some(1) => change(broker, resource),
        _ => Err(AdminError::new(ErrorCode::InvalidRequest, "Each resource must appear at most once.")),
    });
    let changes: Vec<Result<Change, AdminError>> = changes.collect();
    let names: Vec<(i8, String)> = wanted.into_iter().map(|(kind, name, ..)| (kind, name)).collect();
    if validate_only {
        let results = names.into_iter().zip(changes);
        let results = results.map(|((kind, name), change)| (kind, name, change.map(|_| ())));
        let response = respond(results.collect());
        return broker.respond(request.shard, request.head.id, Some(response));
    }
    let finish = move |_: &mut Broker, results: Vec<Result<(), AdminError>>| {
        let results = names.into_iter().zip(results).map(|((kind, name), result)| (kind, name, result));
        Some(respond(results.collect()))
    };
    broker.change(io, (request.shard, request.head), changes, Box::new(finish));
}

fn change(broker: &Broker, (resource_type, name, incremental, keys): &Wanted) -> Result<Change, AdminError> {
    let planner = broker.planner();
    if !incremental {
        let values: Vec<_> = keys.iter().map(|(key, _, value)| (key.as_str(), value.as_deref())).collect();
        return Ok(match *resource_type {
            TOPIC => planner.replace_topic_config(name, &values)?,
            BROKER => planner.replace_broker_config(name, &values)?,
            GROUP => planner.replace_resource_config(ResourceKind::Group, name, &values)?,
            CLIENT_METRICS => planner.replace_resource_config(ResourceKind::ClientMetrics, name, &values)?,
            _ => return Err(unsupported_type(*resource_type)),
        });
    }
    if *resource_type == BROKER_LOGGER {
        return Err(no_logger(broker, name, keys));
    }
    let mut alterations = Vec::with_capacity(keys.len());
    for (key, op, value) in keys {
        let op = AlterOp::from_code(*op).ok_or_else(|| {
            AdminError::new(ErrorCode::InvalidRequest, format!("Unknown operation {op} for {key}"))
        })?;
        alterations.push(Alteration { name: key, op, value: value.as_deref() });
    }
    Ok(match *resource_type {
        TOPIC => planner.alter_topic(name, &alterations)?,
        BROKER => planner.alter_broker(name, &alterations)?,
        GROUP => planner.alter_resource(ResourceKind::Group, name, &alterations)?,
        CLIENT_METRICS => planner.alter_resource(ResourceKind::ClientMetrics, name, &alterations)?,
        _ => return Err(unsupported_type(*resource_type)),
    })
}

fn no_logger(broker: &Broker, name: &str, keys: &[(String, i8, Option<String>)]) -> AdminError {
    match this_broker(broker, name) {
        Ok(_) => {
            let logger = keys.first().map_or("", |(key, ..)| key);
            AdminError::new(ErrorCode::InvalidConfig, format!("Logger {logger} does not exist!"))
        }
        Err(error) => error,
    }
}
