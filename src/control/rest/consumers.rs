//! v2: the calls on consumer instances.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{V2, json as answer, nothing};
use super::consumer::{Consumer, Options, PLACES_MAX, parse_reset};
use super::media::{self, Format};
use super::membership::Place;
use crate::control::Site;
use crate::control::cluster::topics::{EARLIEST, LATEST};
use crate::control::error::ApiError;
use crate::control::http::Peer;

/// What one answer may bring.
const BYTES_MAX: usize = 4 << 20;
const WAIT_MAX: Duration = Duration::from_secs(60);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const NAME_BYTES_MAX: usize = 249;

type Instance = Path<(String, String)>;

pub async fn create(
    State(site): State<Arc<Site>>,
    Path(group): Path<String>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let running = site.running()?;
    let request = parse(&site, &headers, body).await?;
    let text = |name: &str| request.get(name).and_then(Value::as_str);
    let made_up = || format!("rest-consumer-{:016x}", getrandom::u64().unwrap_or_default());
    let id = text("id").or(text("name")).map_or_else(made_up, str::to_owned);
    let plain = |name: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(fits)
    };
    if !plain(&id) {
        return Err(invalid("name must be of letters, digits, '.', '_' and '-'"));
    }
    if group.is_empty() || group.len() > NAME_BYTES_MAX {
        return Err(invalid("the group has no usable name"));
    }
    let options = options(&request)?;
    let caller = super::caller(&headers, peer.as_deref());
    let base = format!("{}/consumers/{}/instances/{id}", super::base_url(&headers), super::encode(&group));
    let consumer = Consumer::new(running.cluster.clone(), caller, group, id.clone(), options);
    running.instances.add(consumer)?;
    Ok(answer(200, V2, &json!({ "instance_id": id, "base_uri": base })))
}

fn options(request: &Value) -> Result<Options, ApiError> {
    let get = |name: &str| match request.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    let format = match get("format").as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("binary") => Format::Binary,
        Some("json") => Format::Json,
        Some("avro" | "jsonschema" | "protobuf") => {
            return Err(invalid("this format needs a schema registry, which this broker has not"));
        }
        Some(_) => return Err(invalid("format must be binary or json")),
    };
    let reset = get("auto.offset.reset").unwrap_or_else(|| "latest".to_owned());
    let reset = parse_reset(&reset).ok_or_else(|| invalid("auto.offset.reset must be earliest or latest"))?;
    let auto_commit = match get("auto.commit.enable").or(get("enable.auto.commit")).as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(invalid("auto.commit.enable must be true or false")),
    };
    let committed_only = match get("isolation.level").as_deref() {
        None | Some("read_uncommitted") => false,
        Some("read_committed") => true,
        Some(_) => return Err(invalid("isolation.level must be read_uncommitted or read_committed")),
    };
    let request_timeout = match get("consumer.request.timeout.ms") {
        None => REQUEST_TIMEOUT,
        Some(text) => text
            .parse()
            .map(|ms| Duration::from_millis(ms).min(WAIT_MAX))
            .map_err(|_| invalid("consumer.request.timeout.ms must be a number"))?,
    };
    Ok(Options { format, reset, auto_commit, committed_only, request_timeout })
}

fn invalid(text: &str) -> ApiError {
    ApiError::new(42204, format!("Invalid consumer configuration: {text}"))
}

pub async fn delete(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
) -> Result<Response, ApiError> {
    let consumer = site.running()?.instances.take(&group, &id)?;
    consumer.close().await;
    Ok(nothing())
}

pub async fn subscribe(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let consumer = site.running()?.instances.find(&group, &id)?;
    let request = parse(&site, &headers, body).await?;
    let pattern = request.get("topic_pattern").and_then(Value::as_str);
    match (request.get("topics"), pattern) {
        (Some(Value::Array(list)), None) => {
            let topics = list.iter().map(|topic| topic.as_str().map(str::to_owned));
            let topics: Option<Vec<String>> = topics.collect();
            let topics = topics.filter(|topics| topics.len() <= PLACES_MAX);
            consumer.subscribe(topics.ok_or_else(|| unreadable("topics must be a list of names"))?).await?;
        }
        (None | Some(Value::Null), Some(pattern)) => consumer.subscribe_pattern(pattern).await?,
        (Some(_), Some(_)) => return Err(ApiError::exclusive()),
        _ => return Err(unreadable("topics or topic_pattern is missing")),
    }
    Ok(nothing())
}

pub async fn subscription(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
) -> Result<Response, ApiError> {
    let topics = site.running()?.instances.find(&group, &id)?.subscription().await;
    Ok(answer(200, V2, &json!({ "topics": topics })))
}

pub async fn unsubscribe(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
) -> Result<Response, ApiError> {
    site.running()?.instances.find(&group, &id)?.unsubscribe().await;
    Ok(nothing())
}

pub async fn assign(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let consumer = site.running()?.instances.find(&group, &id)?;
    let request = parse(&site, &headers, body).await?;
    consumer.assign(places(&request)?).await?;
    Ok(nothing())
}

pub async fn assignments(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
) -> Result<Response, ApiError> {
    let places = site.running()?.instances.find(&group, &id)?.assignment().await;
    let places: Vec<Value> = places
        .into_iter()
        .map(|(topic, partition)| json!({ "topic": topic, "partition": partition }))
        .collect();
    Ok(answer(200, V2, &json!({ "partitions": places })))
}

#[derive(serde::Deserialize)]
pub struct Poll {
    timeout: Option<i64>,
    max_bytes: Option<i64>,
}

pub async fn records(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
    Query(poll): Query<Poll>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let consumer = site.running()?.instances.find(&group, &id)?;
    let format = consumer.options.format;
    if !media::accepts(&headers, format) {
        let text =
            "The requested embedded data format does not match the deserializer for this consumer instance";
        return Err(ApiError::new(40601, text));
    }
    let wait = poll.timeout.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    let wait = wait.map(|wait| wait.min(WAIT_MAX));
    let bytes = poll.max_bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    let records = consumer.poll(wait, bytes.unwrap_or(BYTES_MAX).min(BYTES_MAX)).await?;
    consumer.touch();
    let shown: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "topic": record.topic,
                "key": format.decode(record.key.as_deref()),
                "value": format.decode(record.value.as_deref()),
                "partition": record.partition,
                "offset": record.offset,
            })
        })
        .collect();
    Ok(answer(200, format.media(), &Value::Array(shown)))
}

pub async fn commit(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let consumer = site.running()?.instances.find(&group, &id)?;
    let request = parse(&site, &headers, body).await?;
    let offsets = match request.get("offsets") {
        None | Some(Value::Null) => None,
        Some(list) => Some(
            entries(list)?
                .into_iter()
                .map(|(place, entry)| {
                    let offset = entry.get("offset").and_then(Value::as_i64);
                    let offset = offset.ok_or_else(|| unreadable("offset is missing"))?;
                    let metadata = entry.get("metadata").and_then(Value::as_str).unwrap_or_default();
                    // The wire and its log say where to go on; this interface, as its model, says what was read.
                    Ok((place, (offset.saturating_add(1), metadata.to_owned())))
                })
                .collect::<Result<BTreeMap<_, _>, ApiError>>()?,
        ),
    };
    consumer.commit(offsets).await?;
    Ok(answer(200, V2, &json!([])))
}

pub async fn committed(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let consumer = site.running()?.instances.find(&group, &id)?;
    let request = parse(&site, &headers, body).await?;
    let found = consumer.committed(&places(&request)?).await?;
    let offsets: Vec<Value> = found
        .into_iter()
        .map(|((topic, partition), offset, metadata)| {
            json!({ "topic": topic, "partition": partition, "offset": offset, "metadata": metadata })
        })
        .collect();
    Ok(answer(200, V2, &json!({ "offsets": offsets })))
}

pub async fn seek(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let consumer = site.running()?.instances.find(&group, &id)?;
    let request = parse(&site, &headers, body).await?;
    let list = request.get("offsets").ok_or_else(|| unreadable("offsets is missing"))?;
    let mut positions = BTreeMap::new();
    for (place, entry) in entries(list)? {
        let offset = entry.get("offset").and_then(Value::as_i64).filter(|offset| *offset >= 0);
        positions.insert(place, offset.ok_or_else(|| unreadable("offset is missing"))?);
    }
    consumer.seek(&positions).await?;
    Ok(nothing())
}

pub async fn seek_to_beginning(
    state: State<Arc<Site>>,
    instance: Instance,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    seek_to(state, instance, headers, body, EARLIEST).await
}

pub async fn seek_to_end(
    state: State<Arc<Site>>,
    instance: Instance,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    seek_to(state, instance, headers, body, LATEST).await
}

async fn seek_to(
    State(site): State<Arc<Site>>,
    Path((group, id)): Instance,
    headers: HeaderMap,
    body: Body,
    end: i64,
) -> Result<Response, ApiError> {
    let consumer = site.running()?.instances.find(&group, &id)?;
    let request = parse(&site, &headers, body).await?;
    let positions = places(&request)?.into_iter().map(|place| (place, end)).collect();
    consumer.seek(&positions).await?;
    Ok(nothing())
}

/// A body of JSON; none is an empty object.
async fn parse(site: &Site, headers: &HeaderMap, body: Body) -> Result<Value, ApiError> {
    let content = site.budget.read(body).await?;
    if content.bytes.is_empty() {
        return Ok(json!({}));
    }
    media::check_plain(headers)?;
    let request: Value =
        serde_json::from_slice(&content.bytes).map_err(|error| unreadable(&error.to_string()))?;
    if request.is_object() { Ok(request) } else { Err(unreadable("the body must be an object")) }
}

fn unreadable(text: &str) -> ApiError {
    ApiError::new(422, format!("Payload error. {text}."))
}

fn places(request: &Value) -> Result<Vec<Place>, ApiError> {
    let list = request.get("partitions").ok_or_else(|| unreadable("partitions is missing"))?;
    Ok(entries(list)?.into_iter().map(|(place, _)| place).collect())
}

/// Entries of a list with a topic and a partition each.
fn entries(list: &Value) -> Result<Vec<(Place, &Value)>, ApiError> {
    let list = list.as_array().filter(|list| list.len() <= PLACES_MAX);
    let list = list.ok_or_else(|| unreadable("a list of partitions is missing"))?;
    list.iter()
        .map(|entry| {
            let topic = entry.get("topic").and_then(Value::as_str);
            let partition = entry.get("partition").and_then(Value::as_i64);
            let partition = partition.and_then(|partition| i32::try_from(partition).ok());
            match (topic, partition.filter(|partition| *partition >= 0)) {
                (Some(topic), Some(partition)) => Ok(((topic.to_owned(), partition), entry)),
                _ => Err(unreadable("topic and partition are missing")),
            }
        })
        .collect()
}
