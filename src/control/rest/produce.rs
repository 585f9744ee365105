//! Produce over HTTP: `POST /topics/{topic}`, `POST /topics/{topic}/partitions/{partition}` and `POST /produce`, whose body or
//! query names the topic, as each of its records may.
//!
//! `?acks=0|1|all` chooses the acknowledgement (all by default). One body is one request to the broker for each topic: the
//! answer names each record's partition and offset, or why it was refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{V2, json as answer};
use super::media::{self, Format};
use crate::control::Site;
use crate::control::cluster::records::{Appended, Draft, Failed, Headers, append};
use crate::control::error::ApiError;
use crate::control::http::Peer;
use crate::protocol::ErrorCode;

/// Records of one request.
const RECORDS_MAX: usize = 100_000;

#[derive(serde::Deserialize)]
pub struct Options {
    topic: Option<String>,
    acks: Option<String>,
}

type Outcome = Result<Appended, Failed>;

pub async fn to_topic(
    State(site): State<Arc<Site>>,
    Path(topic): Path<String>,
    Query(options): Query<Options>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    produce(&site, Some(topic), None, options, peer.as_deref(), &headers, body).await
}

pub async fn to_partition(
    State(site): State<Arc<Site>>,
    Path((topic, partition)): Path<(String, String)>,
    Query(options): Query<Options>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let partition = super::topics::partition_number(&partition)?;
    produce(&site, Some(topic), Some(partition), options, peer.as_deref(), &headers, body).await
}

pub async fn to_any(
    State(site): State<Arc<Site>>,
    Query(mut options): Query<Options>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let topic = options.topic.take();
    produce(&site, topic, None, options, peer.as_deref(), &headers, body).await
}

async fn produce(
    site: &Site,
    topic: Option<String>,
    partition: Option<i32>,
    options: Options,
    peer: Option<&Peer>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let running = site.running()?;
    let format = media::of_request(headers)?;
    let content = site.budget.read(body).await?;
    let request: Value = serde_json::from_slice(&content.bytes)
        .map_err(|error| ApiError::new(400, format!("The body is no JSON: {error}.")))?;
    let acks = options.acks.or_else(|| request.get("acks").map(|acks| acks.to_string()));
    let acks = parse_acks(acks.as_deref())?;
    let topic = topic.or_else(|| request.get("topic")?.as_str().map(str::to_owned));
    let drafts = drafts(&request, format, topic.as_deref(), partition)?;
    drop((content, request));
    let caller = super::caller(headers, peer);
    let mut outcomes: Vec<Option<Outcome>> = Vec::new();
    outcomes.resize_with(drafts.values().map(Vec::len).sum(), || None);
    for (topic, list) in drafts {
        let partitions = super::partitions_of(&running.cluster, &caller, &topic).await?;
        let (places, list): (Vec<usize>, Vec<Draft>) = list.into_iter().unzip();
        if partition.is_some_and(|partition| partition as usize >= partitions) {
            return Err(ApiError::partition_not_found());
        }
        let told = append(&running.cluster, &caller, &topic, partitions, &list, acks).await?;
        for (place, outcome) in places.into_iter().zip(told) {
            outcomes[place] = Some(outcome);
        }
    }
    let offsets: Vec<Value> = outcomes.into_iter().flatten().map(offset).collect();
    let body = json!({ "offsets": offsets, "key_schema_id": null, "value_schema_id": null });
    Ok(answer(200, V2, &body))
}

/// The records by topic, each with its place in the request.
fn drafts(
    request: &Value,
    format: Format,
    topic: Option<&str>,
    partition: Option<i32>,
) -> Result<BTreeMap<String, Vec<(usize, Draft)>>, ApiError> {
    let invalid = |text: &str| ApiError::new(422, text.to_owned());
    let records = request.get("records").and_then(Value::as_array);
    let records = records.filter(|records| !records.is_empty());
    let records = records.ok_or_else(|| invalid("records must be a list and must not be empty."))?;
    if records.len() > RECORDS_MAX {
        return Err(ApiError::new(413, format!("More than {RECORDS_MAX} records.")));
    }
    let mut by_topic: BTreeMap<String, Vec<(usize, Draft)>> = BTreeMap::new();
    for (place, record) in records.iter().enumerate() {
        let record = record.as_object().ok_or_else(|| invalid("A record must be an object."))?;
        let own = record.get("topic").and_then(Value::as_str);
        let topic = own.or(topic).ok_or_else(|| invalid("topic is missing."))?;
        let own = match record.get("partition") {
            None | Some(Value::Null) => None,
            Some(number) => {
                let number = number.as_i64().and_then(|number| i32::try_from(number).ok());
                Some(
                    number
                        .filter(|number| *number >= 0)
                        .ok_or_else(|| invalid("partition must be a number."))?,
                )
            }
        };
        let timestamp = match record.get("timestamp") {
            None | Some(Value::Null) => None,
            Some(time) => Some(time.as_i64().ok_or_else(|| invalid("timestamp must be in milliseconds."))?),
        };
        let draft = Draft {
            partition: own.or(partition),
            key: format.encode(record.get("key").unwrap_or(&Value::Null))?,
            value: format.encode(record.get("value").unwrap_or(&Value::Null))?,
            headers: headers(record.get("headers"))?,
            timestamp,
        };
        by_topic.entry(topic.to_owned()).or_default().push((place, draft));
    }
    Ok(by_topic)
}

/// `[{"name": …, "value": base64}]`, as v3 has them.
pub fn headers(list: Option<&Value>) -> Result<Headers, ApiError> {
    let invalid = || ApiError::new(422, "headers must be a list of names and base64 values.");
    let list = match list {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(list) => list.as_array().ok_or_else(invalid)?,
    };
    let mut headers = Vec::with_capacity(list.len());
    for header in list {
        let name = header.get("name").and_then(Value::as_str).ok_or_else(invalid)?;
        let value = match header.get("value") {
            None | Some(Value::Null) => None,
            Some(value) => Some(media::decode_base64(value.as_str().ok_or_else(invalid)?)?),
        };
        headers.push((name.to_owned(), value));
    }
    Ok(headers)
}

pub fn parse_acks(text: Option<&str>) -> Result<i16, ApiError> {
    match text.map(|text| text.trim_matches('"')) {
        None | Some("all" | "-1") => Ok(-1),
        Some("1") => Ok(1),
        Some("0") => Ok(0),
        Some(_) => Err(ApiError::new(422, "acks must be 0, 1 or all.")),
    }
}

/// 1: for good, 2: worth another try, as v2 has it.
fn offset(outcome: Outcome) -> Value {
    match outcome {
        Ok(appended) => {
            let offset = (appended.offset >= 0).then_some(appended.offset);
            json!({ "partition": appended.partition, "offset": offset, "error_code": null, "error": null })
        }
        Err(failed) => {
            let code = match failed.error {
                ErrorCode::TopicAuthorizationFailed | ErrorCode::ClusterAuthorizationFailed => 40301,
                error if error.is_retriable() => 50003,
                _ => 50002,
            };
            json!({ "partition": null, "offset": null, "error_code": code, "error": failed.message })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: Value) -> u32 {
        drafts(&request, Format::Json, Some("t"), None).unwrap_err().code
    }

    #[test]
    fn what_is_no_list_of_records_is_refused() {
        for request in [
            json!({}),
            json!([]),
            json!("x"),
            json!({ "records": {} }),
            json!({ "records": [] }),
            json!({ "records": [1] }),
            json!({ "records": [{ "partition": -1 }] }),
            json!({ "records": [{ "partition": "0" }] }),
            json!({ "records": [{ "partition": 5_000_000_000i64 }] }),
            json!({ "records": [{ "timestamp": "now" }] }),
            json!({ "records": [{ "headers": {} }] }),
            json!({ "records": [{ "headers": [{ "name": "a", "value": "?" }] }] }),
        ] {
            assert_eq!(refused(request.clone()), 422, "{request}");
        }
    }

    #[test]
    fn records_find_their_topics() {
        let request = json!({ "records": [
            { "value": 1 }, { "topic": "u", "key": "k", "value": null, "partition": 2 }, { "value": 3 },
        ] });
        let found = drafts(&request, Format::Json, Some("t"), None).unwrap();
        assert_eq!(found["t"].iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 2]);
        let (place, draft) = &found["u"][0];
        assert_eq!((*place, draft.partition, draft.value.is_none()), (1, Some(2), true));
        assert_eq!(draft.key.as_deref(), Some(&b"\"k\""[..]));
        assert_eq!(drafts(&request, Format::Json, None, None).unwrap_err().code, 422);
    }

    #[test]
    fn acks() {
        assert_eq!(parse_acks(None), Ok(-1));
        assert_eq!(
            (parse_acks(Some("\"all\"")), parse_acks(Some("1")), parse_acks(Some("0"))),
            (Ok(-1), Ok(1), Ok(0))
        );
        assert!(parse_acks(Some("2")).is_err());
    }
}
