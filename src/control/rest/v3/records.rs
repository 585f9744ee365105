//! Records, one object after the other: a request may be an endless stream of them, and each is answered as soon as the
//! broker has acknowledged it. What has arrived together is appended together. A stream that is not read is not read from
//! either: the answers wait in a short queue.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Query};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::media::{self, Format};
use super::super::produce::{headers, parse_acks};
use super::{Target, ok, parse};
use crate::control::cluster::records::{Appended, Draft, Failed, append};
use crate::control::error::ApiError;
use crate::protocol::ErrorCode;
use crate::record::rfc3339::{format_rfc3339, parse_rfc3339};

/// Records appended together.
const RECORDS_MAX: usize = 1000;
/// Answers that wait to be sent.
const ANSWERS_WAITING: usize = 16;
/// Entries of one batch.
const ENTRIES_MAX: usize = 1000;
/// A stream on which nothing comes for so long is ended.
const IDLE: Duration = Duration::from_secs(300);

#[derive(serde::Deserialize)]
pub struct Options {
    acks: Option<String>,
}

pub async fn stream(
    target: Target,
    Path((_, topic)): Path<(String, String)>,
    Query(options): Query<Options>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    media::check_plain(&headers)?;
    let acks = parse_acks(options.acks.as_deref())?;
    let partitions = partitions_of(&target, &topic).await?;
    let (send, receive) = mpsc::channel(ANSWERS_WAITING);
    let bytes_max = target.site.config.request_bytes_max;
    let work = Work { target, topic, partitions, acks, bytes_max, send };
    tokio::spawn(work.run(body));
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Answers(receive))).into_response())
}

async fn partitions_of(target: &Target, topic: &str) -> Result<usize, ApiError> {
    let found = super::super::partitions_of(&target.cluster, &target.caller, topic).await;
    found.map_err(|error| match error.code {
        40401 => ApiError::of_kafka(&Failed {
            error: ErrorCode::UnknownTopicOrPartition,
            message: ErrorCode::UnknownTopicOrPartition.message().to_owned(),
        }),
        _ => error,
    })
}

/// The answers of a stream, as the body of its response.
struct Answers(mpsc::Receiver<String>);

impl HttpBody for Answers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|text| text.map(|text| Ok(Frame::data(Bytes::from(text)))))
    }
}

struct Work {
    target: Target,
    topic: String,
    partitions: usize,
    acks: i16,
    bytes_max: usize,
    send: mpsc::Sender<String>,
}

impl Work {
    async fn run(self, mut body: Body) {
        let mut pending = Vec::new();
        loop {
            let frame = match tokio::time::timeout(IDLE, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                _ => break,
            };
            let Ok(data) = frame.into_data() else { continue };
            pending.extend_from_slice(&data);
            match self.take(&mut pending) {
                Ok(values) => {
                    if !self.append_all(values).await {
                        return;
                    }
                }
                Err(error) => return self.end(error).await,
            }
            if pending.len() > self.bytes_max {
                let text = "The request included a message larger than the maximum message size the server can accept.";
                return self.end(ApiError::new(413, text)).await;
            }
        }
        if pending.iter().any(|byte| !byte.is_ascii_whitespace()) {
            self.end(ApiError::new(400, "The last record is cut off.")).await;
        }
    }

    /// The whole objects at the front.
    fn take(&self, pending: &mut Vec<u8>) -> Result<Vec<Value>, ApiError> {
        let mut values = Vec::new();
        let mut stream = serde_json::Deserializer::from_slice(pending).into_iter::<Value>();
        let mut whole = 0;
        loop {
            match stream.next() {
                Some(Ok(value)) => {
                    whole = stream.byte_offset();
                    values.push(value);
                }
                Some(Err(error)) if !error.is_eof() => {
                    return Err(ApiError::new(400, format!("The body is no JSON: {error}.")));
                }
                _ => break,
            }
        }
        pending.drain(..whole);
        Ok(values)
    }

    /// Whether somebody still listens.
    async fn append_all(&self, values: Vec<Value>) -> bool {
        for some in values.chunks(RECORDS_MAX) {
            let mut text = String::new();
            for answer in produce(&self.target, &self.topic, self.partitions, some, self.acks).await {
                text += &answer.to_string();
                text.push('\n');
            }
            if self.send.send(text).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn end(&self, error: ApiError) {
        let text = json!({ "error_code": error.code, "message": error.message }).to_string();
        // Nobody may be there to read it.
        let _ = self.send.send(text + "\n").await;
    }
}

/// An answer for each record, in order.
async fn produce(target: &Target, topic: &str, partitions: usize, values: &[Value], acks: i16) -> Vec<Value> {
    let mut answers: Vec<Value> = Vec::with_capacity(values.len());
    let mut places = Vec::new();
    let mut drafts = Vec::new();
    for value in values {
        match draft(value, partitions) {
            Ok(draft) => {
                places.push(answers.len());
                answers.push(Value::Null);
                drafts.push(draft);
            }
            Err(error) => answers.push(error_value(&error)),
        }
    }
    let (list, types): (Vec<Draft>, Vec<[&'static str; 2]>) = drafts.into_iter().unzip();
    if list.is_empty() {
        return answers;
    }
    match append(&target.cluster, &target.caller, topic, partitions, &list, acks).await {
        Ok(outcomes) => {
            for (((place, outcome), draft), types) in places.into_iter().zip(outcomes).zip(&list).zip(types) {
                answers[place] = match outcome {
                    Ok(appended) => told(target, topic, draft, types, &appended),
                    Err(failed) => error_value(&ApiError::of_kafka(&failed)),
                };
            }
        }
        Err(error) => {
            let error = ApiError::from(error);
            places.into_iter().for_each(|place| answers[place] = error_value(&error));
        }
    }
    answers
}

fn error_value(error: &ApiError) -> Value {
    json!({ "error_code": error.code, "message": error.message })
}

fn told(target: &Target, topic: &str, draft: &Draft, types: [&str; 2], appended: &Appended) -> Value {
    let part = |bytes: &Option<Vec<u8>>, kind: &str| {
        bytes.as_ref().map(|bytes| json!({ "type": kind, "size": bytes.len() }))
    };
    let mut answer = json!({
        "error_code": 200,
        "cluster_id": target.links.cluster_id,
        "topic_name": topic,
        "partition_id": appended.partition,
        "offset": appended.offset,
        "timestamp": format_rfc3339(appended.timestamp),
    });
    if let Some(key) = part(&draft.key, types[0]) {
        answer["key"] = key;
    }
    if let Some(value) = part(&draft.value, types[1]) {
        answer["value"] = value;
    }
    answer
}

/// A record, and the types of its key and value.
fn draft(value: &Value, partitions: usize) -> Result<(Draft, [&'static str; 2]), ApiError> {
    if !value.is_object() {
        return Err(ApiError::new(400, "A record must be an object."));
    }
    let partition = match value.get("partition_id") {
        None | Some(Value::Null) => None,
        Some(id) => {
            let id = id.as_i64().and_then(|id| i32::try_from(id).ok());
            let id = id.ok_or_else(|| ApiError::new(400, "partition_id must be a number."))?;
            if usize::try_from(id).map_or(true, |id| id >= partitions) {
                return Err(ApiError::new(40402, "Partition not found."));
            }
            Some(id)
        }
    };
    let timestamp = match value.get("timestamp") {
        None | Some(Value::Null) => None,
        Some(Value::Number(ms)) => ms.as_i64(),
        Some(text) => {
            let ms = text.as_str().and_then(parse_rfc3339);
            Some(ms.ok_or_else(|| ApiError::new(400, "timestamp must be a time as RFC 3339 has it."))?)
        }
    };
    let (key, key_type) = data(value.get("key"))?;
    let (content, value_type) = data(value.get("value"))?;
    let headers = headers(value.get("headers"))?;
    Ok((Draft { partition, key, value: content, headers, timestamp }, [key_type, value_type]))
}

fn data(value: Option<&Value>) -> Result<(Option<Vec<u8>>, &'static str), ApiError> {
    let value = match value {
        None | Some(Value::Null) => return Ok((None, "BINARY")),
        Some(value) => value,
    };
    let data = value.get("data").unwrap_or(&Value::Null);
    match value.get("type").and_then(Value::as_str).unwrap_or("BINARY") {
        "BINARY" => Ok((Format::Binary.encode(data)?, "BINARY")),
        "JSON" => Ok((Some(data.to_string().into_bytes()), "JSON")),
        "STRING" => match data {
            Value::Null => Ok((None, "STRING")),
            Value::String(text) => Ok((Some(text.clone().into_bytes()), "STRING")),
            _ => Err(ApiError::new(422, "Data of type STRING must be a string.")),
        },
        other => Err(ApiError::new(
            422,
            format!(
                "Data of type {other:.20} needs a schema registry, or does not exist: BINARY, JSON and STRING do."
            ),
        )),
    }
}

/// Several records at once, each with a name of its own in the answer.
pub async fn batch(
    target: Target,
    Path((_, topic)): Path<(String, String)>,
    Query(options): Query<Options>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = parse(&target, &headers, body).await?;
    let acks = parse_acks(options.acks.as_deref())?;
    let refused = |text: &str| ApiError::new(42208, text.to_owned());
    let entries = request.get("entries").and_then(Value::as_array);
    let entries = entries.filter(|entries| !entries.is_empty()).ok_or_else(|| refused("Empty batch."))?;
    if entries.len() > ENTRIES_MAX {
        return Err(refused("Too many entries in batch."));
    }
    let mut ids = std::collections::BTreeSet::new();
    for entry in entries {
        let id = entry.get("id").and_then(Value::as_str).filter(|id| !id.is_empty() && id.len() <= 80);
        if !ids.insert(id.ok_or_else(|| refused("Batch entry identifier is not a valid string."))?) {
            return Err(refused("Batch entry IDs are not distinct."));
        }
    }
    let partitions = partitions_of(&target, &topic).await?;
    let answers = produce(&target, &topic, partitions, entries, acks).await;
    let (mut successes, mut failures) = (Vec::new(), Vec::new());
    for (entry, mut answer) in entries.iter().zip(answers) {
        answer["id"] = entry["id"].clone();
        let well = answer.get("error_code").is_some_and(|code| *code == 200);
        if well {
            if let Some(answer) = answer.as_object_mut() {
                answer.remove("error_code");
            }
            successes.push(answer);
        } else {
            failures.push(answer);
        }
    }
    Ok(ok(&json!({ "successes": successes, "failures": failures })))
}
