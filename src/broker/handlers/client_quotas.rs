//! DescribeClientQuotas and AlterClientQuotas, versions 0 and 1. Quotas are kept and described; nothing enforces them yet.
//!
//! Of an entity that a request names twice nothing changes; Kafka refuses it too, but has by then done what came first. The
//! name of an `ip` is an address, as nothing is looked up here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::broker::Broker;
use crate::broker::controller::AdminError;
use crate::broker::request::{Forwarded, Head, Reply, Request, Response};
use crate::io::Io;
use crate::metadata::{Change, QuotaEntity};
use crate::protocol::messages::alter_client_quotas_request as asked;
use crate::protocol::messages::alter_client_quotas_response as altered;
use crate::protocol::messages::describe_client_quotas_request::{ComponentData, DescribeClientQuotasRequest};
use crate::protocol::messages::describe_client_quotas_response as described;
use crate::protocol::{Array, ErrorCode};

const USER: &str = "user";
const CLIENT_ID: &str = "client-id";
const IP: &str = "ip";
/// Entities with quotas there may be.
const ENTITIES_MAX: usize = 10_000;

/// What a quota's number may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Double,
    Int,
    Long,
}

const CLIENT_KEYS: &[(&str, Number)] = &[
    ("consumer_byte_rate", Number::Long),
    ("controller_mutation_rate", Number::Double),
    ("producer_byte_rate", Number::Long),
    ("request_percentage", Number::Double),
];
const IP_KEYS: &[(&str, Number)] = &[("connection_creation_rate", Number::Int)];

// ---- describe ----

/// One type of a filter.
enum Match<'a> {
    Name(Cow<'a, str>),
    Default,
    Any,
}

type Filter<'a> = BTreeMap<Cow<'a, str>, Match<'a>>;

pub fn describe(broker: &Broker, request: Request<'_>) -> Reply {
    let message = match super::decode::<DescribeClientQuotasRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let response = match filter(&message.components) {
        Ok(filter) => {
            let quotas = broker.image.client_quotas.iter();
            let wanted = quotas.filter(|(entity, _)| matches(&filter, entity, message.strict));
            described::DescribeClientQuotasResponse {
                error_message: Some(Cow::Borrowed("")),
                entries: Some(wanted.map(|(entity, values)| entry(entity, values)).collect()),
                ..Default::default()
            }
        }
        Err(error) => described::DescribeClientQuotasResponse {
            error_code: error.code.code(),
            error_message: Some(Cow::Owned(error.message)),
            entries: None,
            ..Default::default()
        },
    };
    Reply::Now(Response::of(&request.head, &response))
}

fn filter<'a>(components: &Array<'a, ComponentData<'a>>) -> Result<Filter<'a>, AdminError> {
    let invalid = |reason: String| Err(AdminError::new(ErrorCode::InvalidRequest, reason));
    let mut filter = Filter::new();
    for component in components {
        let kind = component.entity_type;
        if kind.is_empty() {
            return invalid("Invalid empty entity type.".to_owned());
        }
        if filter.contains_key(&kind) {
            return invalid(format!("Entity type {kind} cannot appear more than once in the filter."));
        }
        if ![USER, CLIENT_ID, IP].contains(&&*kind) {
            let reason = format!("Unsupported entity type {kind}");
            return Err(AdminError::new(ErrorCode::UnsupportedVersion, reason));
        }
        let wanted = match (component.match_type, component.match_name) {
            (0, Some(name)) => Match::Name(name),
            (0, None) => {
                return invalid(
                    "Request specified MATCH_TYPE_EXACT, but set match string to null.".to_owned(),
                );
            }
            (1, None) => Match::Default,
            (2, None) => Match::Any,
            (kind @ (1 | 2), Some(_)) => {
                let name = if kind == 1 { "DEFAULT" } else { "SPECIFIED" };
                let reason =
                    format!("Request specified MATCH_TYPE_{name}, but also specified a match string.");
                return invalid(reason);
            }
            (other, _) => return invalid(format!("Unknown match type {other}")),
        };
        filter.insert(kind, wanted);
    }
    if filter.contains_key(IP) && filter.len() > 1 {
        let reason = "Invalid entity filter component combination. IP filter component should not be used with user or \
                      clientId filter component.";
        return invalid(reason.to_owned());
    }
    Ok(filter)
}

/// `strict`: an entity with more types than the filter does not match.
fn matches(filter: &Filter<'_>, entity: &QuotaEntity, strict: bool) -> bool {
    let found = |(kind, wanted): (&Cow<'_, str>, &Match<'_>)| match (entity.get(&**kind), wanted) {
        (Some(Some(name)), Match::Name(wanted)) => name == wanted,
        (Some(None), Match::Default) | (Some(_), Match::Any) => true,
        _ => false,
    };
    filter.iter().all(found) && !(strict && entity.len() != filter.len())
}

fn entry<'a>(entity: &'a QuotaEntity, values: &'a BTreeMap<String, String>) -> described::EntryData<'a> {
    let entity = entity.iter().map(|(kind, name)| described::EntityData {
        entity_type: Cow::Borrowed(kind),
        entity_name: name.as_deref().map(Cow::Borrowed),
    });
    let values = values.iter().map(|(key, value)| described::ValueData {
        key: Cow::Borrowed(key),
        value: value.parse().unwrap_or_default(),
    });
    described::EntryData { entity: entity.collect(), values: values.collect() }
}

// ---- alter ----

pub fn alter(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    let Ok(message) = super::decode::<asked::AlterClientQuotasRequest>(&request.body, head.version) else {
        return broker.respond(request.shard, head.id, None);
    };
    let mut wanted: BTreeMap<QuotaEntity, Result<Change, AdminError>> = BTreeMap::new();
    for entry in &message.entries {
        let name = |part: asked::EntityData<'_>| {
            (part.entity_type.into_owned(), part.entity_name.map(Cow::into_owned))
        };
        let entity: QuotaEntity = entry.entity.iter().map(name).collect();
        let change = match wanted.contains_key(&entity) {
            true => Err(invalid(format!("Ignoring duplicate entity {}", shown(&entity)))),
            false => change(broker, &entity, &entry),
        };
        wanted.insert(entity, change);
    }
    let (entities, changes): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    if message.validate_only {
        let results = changes.into_iter().map(|change| change.map(|_| ())).collect();
        let response = response(&head, entities, results);
        return broker.respond(request.shard, head.id, Some(response));
    }
    let finish = move |_: &mut Broker, results| Some(response(&head, entities, results));
    broker.change(io, (request.shard, head), changes, Box::new(finish));
}

fn change(broker: &Broker, entity: &QuotaEntity, entry: &asked::EntryData<'_>) -> Result<Change, AdminError> {
    let keys = keys_of(entity)?;
    let mut values = BTreeMap::new();
    for op in &entry.ops {
        let value = match op.remove {
            true => None,
            false => {
                let number = keys.iter().find(|(key, _)| *key == &*op.key).map(|(_, number)| *number);
                let number =
                    number.ok_or_else(|| invalid(format!("Invalid configuration key {}", op.key)))?;
                check(&op.key, number, op.value)?;
                Some(op.value.to_string())
            }
        };
        values.insert(op.key.into_owned(), value);
    }
    let quotas = &broker.planner().image.client_quotas;
    if quotas.len() >= ENTITIES_MAX && !quotas.contains_key(entity) {
        let reason = format!("No more than {ENTITIES_MAX} entities may have quotas");
        return Err(AdminError::new(ErrorCode::PolicyViolation, reason));
    }
    Ok(Change::SetClientQuota { entity: entity.clone(), values })
}

/// The keys that quotas of such an entity may have.
fn keys_of(entity: &QuotaEntity) -> Result<&'static [(&'static str, Number)], AdminError> {
    if entity.is_empty() {
        return Err(invalid("Invalid empty client quota entity".to_owned()));
    }
    for (kind, name) in entity {
        if ![USER, CLIENT_ID, IP].contains(&kind.as_str()) {
            return Err(invalid(format!("Unhandled client quota entity type: {kind}")));
        }
        if name.as_deref() == Some("") {
            return Err(invalid(format!("Empty {kind} not supported")));
        }
    }
    match entity.get(IP) {
        None => Ok(CLIENT_KEYS),
        Some(_) if entity.len() > 1 => {
            let reason =
                "Invalid quota entity combination, IP entity shouldnot be combined with User or ClientId";
            Err(invalid(reason.to_owned()))
        }
        Some(Some(name)) if name.parse::<IpAddr>().is_err() => {
            Err(invalid(format!("{name} is not a valid IP or resolvable host.")))
        }
        Some(_) => Ok(IP_KEYS),
    }
}

fn check(key: &str, number: Number, value: f64) -> Result<(), AdminError> {
    // Not a number is not greater than 0 either.
    if value.is_nan() || value <= 0.0 {
        return Err(invalid(format!("Quota {key} must be greater than 0")));
    }
    let (max, name) = match number {
        Number::Double => return Ok(()),
        Number::Int => (f64::from(i32::MAX), "an INT"),
        Number::Long => (i64::MAX as f64, "a LONG"),
    };
    if value > max {
        return Err(invalid(format!("Proposed value for {key} is too large for {name}.")));
    }
    if value.fract() != 0.0 {
        return Err(invalid(format!("{key} cannot be a fractional value.")));
    }
    Ok(())
}

fn invalid(reason: String) -> AdminError {
    AdminError::new(ErrorCode::InvalidRequest, reason)
}

/// An entity as Java prints it.
fn shown(entity: &QuotaEntity) -> String {
    let parts: Vec<String> =
        entity.iter().map(|(kind, name)| format!("{kind}={}", name.as_deref().unwrap_or("null"))).collect();
    format!("ClientQuotaEntity(entries={{{}}})", parts.join(", "))
}

fn response(head: &Head, entities: Vec<QuotaEntity>, results: Vec<Result<(), AdminError>>) -> Response {
    let entries = entities.into_iter().zip(results).map(|(entity, result)| {
        let error = result.err();
        let part = |(kind, name): (String, Option<String>)| altered::EntityData {
            entity_type: Cow::Owned(kind),
            entity_name: name.map(Cow::Owned),
        };
        altered::EntryData {
            error_code: error.as_ref().map_or(0, |error| error.code.code()),
            error_message: error.map(|error| Cow::Owned(error.message)),
            entity: entity.into_iter().map(part).collect(),
        }
    });
    Response::of(
        head,
        &altered::AlterClientQuotasResponse { entries: entries.collect(), ..Default::default() },
    )
}
