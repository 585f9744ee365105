//! Metrics sent to an OpenTelemetry collector: OTLP over HTTP in its JSON form, every so often, when `ringlog.otlp.endpoint`
//! names one. The families are those of `/metrics`, under the same names.
//!
//! All sums are since the start of the process, so a batch that could not be sent is made up for by the next. Only http://:
//! what encrypts and signs is the collector beside the broker.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::cluster::Cluster;
use super::cluster::observer::Observer;
use super::prometheus;
use super::prometheus::page::{Family, Kind, Number, Page, Sample, Value};
use super::prometheus::text::octaves;
use crate::config::OtlpConfig;

/// How long one batch may take.
const SEND_TIME: Duration = Duration::from_secs(10);
/// Of an answer, what is looked at.
const ANSWER_BYTES_MAX: u64 = 4096;
/// Totals since the start, not since the last batch.
const CUMULATIVE: u64 = 2;

/// Sends for ever.
pub async fn run(config: OtlpConfig, cluster: Arc<Cluster>, observer: Arc<Observer>) {
    let Some(address) = config.endpoint.as_ref().map(|endpoint| endpoint.address()) else { return };
    let started_ns = unix_ns();
    let mut tick = tokio::time::interval(config.interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut failing_since: Option<Instant> = None;
    loop {
        tick.tick().await;
        let sent = match prometheus::page(&cluster, &observer).await {
            Ok(page) => {
                let resource = resource(&cluster).await;
                let body = batch(&page, resource, started_ns, unix_ns()).to_string();
                let sent = tokio::time::timeout(SEND_TIME, send(&config, &address, &body)).await;
                sent.unwrap_or_else(|_| Err("no answer in time".to_owned()))
            }
            Err(error) => Err(error.to_string()),
        };
        match (sent, failing_since) {
            (Err(reason), None) => {
                tracing::warn!(address, reason, "metrics were not taken; they are sent again and again");
                failing_since = Some(Instant::now());
            }
            (Ok(()), Some(since)) => {
                let silent_s = since.elapsed().as_secs();
                tracing::info!(address, silent_s, "metrics are taken again");
                failing_since = None;
            }
            _ => {}
        }
    }
}

fn unix_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// Who we are.
async fn resource(cluster: &Cluster) -> Json {
    let mut attributes =
        vec![attribute("service.name", "ringlog"), attribute("service.version", env!("CARGO_PKG_VERSION"))];
    if let Ok(image) = cluster.image().await {
        attributes.push(attribute("service.instance.id", &format!("{}/{}", image.cluster_id, image.node_id)));
    }
    json!({ "attributes": attributes })
}

fn attribute(key: &str, value: &str) -> Json {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// A page as an ExportMetricsServiceRequest.
fn batch(page: &Page, resource: Json, started_ns: u128, now_ns: u128) -> Json {
    let times = (started_ns.to_string(), now_ns.to_string());
    let families = page.families.iter().filter(|family| !family.samples.is_empty());
    let metrics: Vec<Json> = families.map(|family| metric(family, &times)).collect();
    let scope = json!({ "name": "ringlog", "version": env!("CARGO_PKG_VERSION") });
    json!({ "resourceMetrics": [{
        "resource": resource,
        "scopeMetrics": [{ "scope": scope, "metrics": metrics }],
    }] })
}

fn metric(family: &Family, times: &(String, String)) -> Json {
    let points: Vec<Json> = family.samples.iter().map(|sample| point(sample, times)).collect();
    let (field, data) = match family.kind {
        Kind::Gauge => ("gauge", json!({ "dataPoints": points })),
        Kind::Summary => ("summary", json!({ "dataPoints": points })),
        Kind::Counter => (
            "sum",
            json!({ "dataPoints": points, "aggregationTemporality": CUMULATIVE, "isMonotonic": true }),
        ),
        Kind::Histogram => {
            ("histogram", json!({ "dataPoints": points, "aggregationTemporality": CUMULATIVE }))
        }
    };
    json!({ "name": family.name, "description": family.help, field: data })
}

/// Whole numbers of 64 bits are strings in this form of the protocol.
fn point(sample: &Sample, (started, now): &(String, String)) -> Json {
    let attributes: Vec<Json> = sample.labels.iter().map(|(name, value)| attribute(name, value)).collect();
    let mut point = json!({ "attributes": attributes, "startTimeUnixNano": started, "timeUnixNano": now });
    match &sample.value {
        Value::Number(Number::Whole(value)) => point["asInt"] = value.to_string().into(),
        Value::Number(Number::Float(value)) => point["asDouble"] = (*value).into(),
        Value::Summary(summary) => {
            let quantiles = summary.quantiles.iter().map(|(quantile, value)| {
                json!({ "quantile": quantile.parse::<f64>().unwrap_or(0.0), "value": value })
            });
            point["quantileValues"] = quantiles.collect();
            point["count"] = summary.count.to_string().into();
            point["sum"] = summary.sum.into();
        }
        Value::Histogram(values) => {
            let (mut bounds, mut counts, mut before) = (Vec::new(), Vec::new(), 0);
            for (end, seen) in octaves(values) {
                bounds.push(Json::from(end));
                counts.push(Json::from((seen - before).to_string()));
                before = seen;
            }
            let count = values.count();
            counts.push((count - before).to_string().into());
            point["explicitBounds"] = bounds.into();
            point["bucketCounts"] = counts.into();
            point["count"] = count.to_string().into();
            point["sum"] = (values.sum as f64 / 1e9).into();
        }
    }
    point
}

/// One POST on a connection of its own.
async fn send(config: &OtlpConfig, address: &str, body: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    let mut head = format!(
        "POST {} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n",
        config.path,
        body.len()
    );
    for (name, value) in &config.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).await.map_err(failed)?;
    stream.write_all(body.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.map_err(failed)?;
    match status(&answer) {
        Some(200..=299) => Ok(()),
        Some(status) => Err(format!("HTTP status {status}")),
        None => Err("its answer is no HTTP".to_owned()),
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    line.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn a_page_becomes_a_batch() {
        let histogram = Histogram::default();
        [500, 1500, 3000, u64::MAX / 2].into_iter().for_each(|ns| histogram.record(ns));
        let values = histogram.values();
        let mut page = Page::default();
        page.family("c_total", Kind::Counter, "C.").sample(&[("topic", "a\"b")], u64::MAX);
        page.family("g", Kind::Gauge, "G.").sample(&[], 1.5);
        page.family("empty", Kind::Gauge, "Nothing.");
        page.family("s", Kind::Summary, "S.").summary(&[], &["0.5"], &values, &values, 1e9);
        page.family("h_seconds", Kind::Histogram, "H.").histogram(&[], &values);
        let batch = batch(&page, json!({}), 1, 2);
        let metrics = batch.pointer("/resourceMetrics/0/scopeMetrics/0/metrics").unwrap();
        let names: Vec<&str> =
            metrics.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["c_total", "g", "s", "h_seconds"]);
        let sum = &metrics[0]["sum"];
        assert_eq!((&sum["isMonotonic"], &sum["aggregationTemporality"]), (&json!(true), &json!(2)));
        assert_eq!(sum["dataPoints"][0]["asInt"], "18446744073709551615");
        assert_eq!(sum["dataPoints"][0]["attributes"], json!([attribute("topic", "a\"b")]));
        assert_eq!(metrics[1]["gauge"]["dataPoints"][0]["asDouble"], 1.5);
        assert_eq!(metrics[2]["summary"]["dataPoints"][0]["count"], "4");
        let point = &metrics[3]["histogram"]["dataPoints"][0];
        let counts: Vec<u64> = point["bucketCounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|count| count.as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(counts.len(), point["explicitBounds"].as_array().unwrap().len() + 1);
        assert_eq!((counts.iter().sum::<u64>(), counts[0], counts.last()), (4, 1, Some(&1)));
    }

    #[test]
    fn an_answer_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n{}"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for odd in [&b""[..], b"HTTP/1.1", b"HTTP/1.1 x\r\n", b"\xff\xfe", b"SSH-2.0\r\n"] {
            assert_eq!(status(odd), None);
        }
    }
}
