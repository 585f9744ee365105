//! Settings of topics, brokers and the cluster: to see, to set, to take back, one by one or several at once.

use axum::body::Body;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::answer::nothing;
use super::topics::text;
use super::{Links, Target, ok, parse, wrong};
use crate::control::cluster::topics::{Changes, Resource, Setting, change_settings, settings};
use crate::control::error::ApiError;

/// Whose settings.
#[derive(Clone)]
enum Scope {
    Topic(String),
    Broker(String),
    Cluster,
}

impl Scope {
    fn resource(&self) -> (Resource, &str) {
        match self {
            Scope::Topic(name) => (Resource::Topic, name),
            Scope::Broker(id) => (Resource::Broker, id),
            Scope::Cluster => (Resource::Broker, ""),
        }
    }

    fn path(&self) -> String {
        match self {
            Scope::Topic(name) => format!("topics/{name}/configs"),
            Scope::Broker(id) => format!("brokers/{id}/configs"),
            Scope::Cluster => "broker-configs".to_owned(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Scope::Topic(_) => "KafkaTopicConfig",
            Scope::Broker(_) => "KafkaBrokerConfig",
            Scope::Cluster => "KafkaClusterConfig",
        }
    }

    fn value(&self, links: &Links, setting: &Setting) -> Value {
        let name = &setting.name;
        let crn = match self {
            Scope::Topic(topic) => format!("topic={topic}/config={name}"),
            Scope::Broker(id) => format!("broker={id}/config={name}"),
            Scope::Cluster => format!("broker-config={name}"),
        };
        let synonyms: Vec<Value> = setting
            .synonyms
            .iter()
            .map(|(name, value, source)| json!({ "name": name, "value": value, "source": source_name(*source) }))
            .collect();
        let mut facts = json!({
            "name": name,
            "value": setting.value,
            "is_default": setting.source == 5,
            "is_read_only": setting.read_only,
            "is_sensitive": setting.sensitive,
            "source": source_name(setting.source),
            "synonyms": synonyms,
        });
        match self {
            Scope::Topic(topic) => facts["topic_name"] = topic.as_str().into(),
            Scope::Broker(id) => facts["broker_id"] = id.parse::<i32>().unwrap_or(-1).into(),
            Scope::Cluster => facts["config_type"] = "BROKER".into(),
        }
        links.resource(self.kind(), &format!("{}/{name}", self.path()), &crn, facts)
    }
}

fn source_name(source: i8) -> &'static str {
    match source {
        1 => "DYNAMIC_TOPIC_CONFIG",
        2 => "DYNAMIC_BROKER_CONFIG",
        3 => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        4 => "STATIC_BROKER_CONFIG",
        5 => "DEFAULT_CONFIG",
        6 => "DYNAMIC_BROKER_LOGGER_CONFIG",
        _ => "UNKNOWN",
    }
}

async fn all(target: &Target, scope: &Scope) -> Result<Vec<Setting>, ApiError> {
    let (resource, name) = scope.resource();
    let found = settings(&target.cluster, &target.caller, resource, name, false).await?;
    found.map_err(|failed| ApiError::of_kafka(&failed))
}

async fn list(target: &Target, scope: Scope) -> Result<Response, ApiError> {
    let data = all(target, &scope).await?.iter().map(|one| scope.value(&target.links, one)).collect();
    Ok(ok(&target.links.list(&format!("{}List", scope.kind()), &scope.path(), data)))
}

async fn one(target: &Target, scope: Scope, name: &str) -> Result<Response, ApiError> {
    let all = all(target, &scope).await?;
    let found = all.iter().find(|setting| setting.name == name);
    found.map(|setting| ok(&scope.value(&target.links, setting))).ok_or_else(ApiError::not_found)
}

async fn change(target: &Target, scope: Scope, changes: Changes, check: bool) -> Result<Response, ApiError> {
    let (resource, name) = scope.resource();
    let done = change_settings(&target.cluster, &target.caller, resource, name, &changes, check).await?;
    done.map(|()| nothing()).map_err(|failed| ApiError::of_kafka(&failed))
}

async fn set(
    target: &Target,
    scope: Scope,
    name: String,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = parse(target, headers, body).await?;
    let value = text(request.get("value")).ok_or_else(|| wrong("value is missing."))?;
    change(target, scope, vec![(name, Some(value))], false).await
}

async fn alter(target: &Target, scope: Scope, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let request = parse(target, headers, body).await?;
    let data = request.get("data").and_then(Value::as_array).ok_or_else(|| wrong("data must be a list."))?;
    let mut changes = Changes::new();
    for entry in data {
        let name = entry.get("name").and_then(Value::as_str).ok_or_else(|| wrong("A name is missing."))?;
        let value = match entry.get("operation").and_then(Value::as_str) {
            Some("DELETE") => None,
            None | Some("SET") => {
                Some(text(entry.get("value")).ok_or_else(|| wrong(format!("{name} has no value.")))?)
            }
            Some(_) => return Err(wrong("operation must be SET or DELETE.")),
        };
        changes.push((name.to_owned(), value));
    }
    let check = request.get("validate_only").and_then(Value::as_bool).unwrap_or(false);
    change(target, scope, changes, check).await
}

type Named = Path<(String, String)>;
type Setted = Path<(String, String, String)>;

pub async fn of_topic(target: Target, Path((_, topic)): Named) -> Result<Response, ApiError> {
    list(&target, Scope::Topic(topic)).await
}

pub async fn one_of_topic(target: Target, Path((_, topic, name)): Setted) -> Result<Response, ApiError> {
    one(&target, Scope::Topic(topic), &name).await
}

pub async fn set_of_topic(
    target: Target,
    Path((_, topic, name)): Setted,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    set(&target, Scope::Topic(topic), name, &headers, body).await
}

pub async fn unset_of_topic(target: Target, Path((_, topic, name)): Setted) -> Result<Response, ApiError> {
    change(&target, Scope::Topic(topic), vec![(name, None)], false).await
}

pub async fn alter_topic(
    target: Target,
    Path((_, topic)): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    alter(&target, Scope::Topic(topic), &headers, body).await
}

pub async fn of_all_topics(target: Target) -> Result<Response, ApiError> {
    /// Settings of more topics than this are asked for topic by topic.
    const TOPICS_MAX: usize = 500;
    let image = target.cluster.image().await?;
    let mut data = Vec::new();
    for topic in image.topics().take(TOPICS_MAX) {
        let scope = Scope::Topic(topic.name.to_string());
        data.extend(all(&target, &scope).await?.iter().map(|one| scope.value(&target.links, one)));
    }
    Ok(ok(&target.links.list("KafkaTopicConfigList", "topics/-/configs", data)))
}

/// The one broker's there is; a list as if there were several.
pub async fn of_all_brokers(target: Target) -> Result<Response, ApiError> {
    let scope = Scope::Broker(target.cluster.image().await?.node_id.to_string());
    let data = all(&target, &scope).await?.iter().map(|one| scope.value(&target.links, one)).collect();
    Ok(ok(&target.links.list("KafkaBrokerConfigList", "brokers/-/configs", data)))
}

pub async fn of_broker(target: Target, Path((_, broker)): Named) -> Result<Response, ApiError> {
    list(&target, Scope::Broker(broker)).await
}

pub async fn one_of_broker(target: Target, Path((_, broker, name)): Setted) -> Result<Response, ApiError> {
    one(&target, Scope::Broker(broker), &name).await
}

pub async fn set_of_broker(
    target: Target,
    Path((_, broker, name)): Setted,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    set(&target, Scope::Broker(broker), name, &headers, body).await
}

pub async fn unset_of_broker(target: Target, Path((_, broker, name)): Setted) -> Result<Response, ApiError> {
    change(&target, Scope::Broker(broker), vec![(name, None)], false).await
}

pub async fn alter_broker(
    target: Target,
    Path((_, broker)): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    alter(&target, Scope::Broker(broker), &headers, body).await
}

pub async fn of_cluster(target: Target) -> Result<Response, ApiError> {
    list(&target, Scope::Cluster).await
}

pub async fn one_of_cluster(target: Target, Path((_, name)): Named) -> Result<Response, ApiError> {
    one(&target, Scope::Cluster, &name).await
}

pub async fn set_of_cluster(
    target: Target,
    Path((_, name)): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    set(&target, Scope::Cluster, name, &headers, body).await
}

pub async fn unset_of_cluster(target: Target, Path((_, name)): Named) -> Result<Response, ApiError> {
    change(&target, Scope::Cluster, vec![(name, None)], false).await
}

pub async fn alter_cluster(target: Target, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    alter(&target, Scope::Cluster, &headers, body).await
}
