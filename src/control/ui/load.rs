//! Load tests from the page: `ringlog load` as a process of its own, so that it measures as from the command line, one at a
//! time, and a history of what they found in the first log directory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{answer, parse};
use crate::config::BrokerConfig;
use crate::control::Site;
use crate::control::cluster::records::now_ms;
use crate::control::cluster::{Caller, Cluster, topics};
use crate::control::error::ApiError;

const RUNS_KEPT: usize = 50;
const HISTORY_BYTES_MAX: u64 = 8 << 20;
const SECONDS_MAX: u64 = 300;
/// Over the time of measuring: start, end, verification.
const EXTRA: Duration = Duration::from_secs(120);

pub struct Loads {
    bootstrap: String,
    file: PathBuf,
    state: Mutex<Runs>,
}

#[derive(Default)]
struct Runs {
    /// The run under way: what was asked, when it began, and how to end it.
    running: Option<(Value, i64, Option<oneshot::Sender<()>>)>,
    /// The latest first.
    history: Vec<Value>,
    loaded: bool,
}

impl Loads {
    pub fn new(config: &BrokerConfig, bootstrap: String) -> Loads {
        let dir = config.log_dirs.first().cloned().unwrap_or_default();
        Loads { bootstrap, file: dir.join(".ringlog").join("load-history.json"), state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Runs> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut state.loaded, true) {
            state.history = read_history(&self.file);
        }
        state
    }

    fn keep(&self, run: Value) {
        let mut state = self.state();
        state.running = None;
        state.history.insert(0, run);
        state.history.truncate(RUNS_KEPT);
        let text = Value::Array(state.history.clone()).to_string();
        let temporary = self.file.with_extension("tmp");
        let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &self.file));
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "the history of load tests could not be kept");
        }
    }
}

fn read_history(file: &Path) -> Vec<Value> {
    let small = std::fs::metadata(file).is_ok_and(|found| found.len() <= HISTORY_BYTES_MAX);
    let text = if small { std::fs::read_to_string(file).unwrap_or_default() } else { String::new() };
    serde_json::from_str(&text).unwrap_or_default()
}

pub async fn list(State(site): State<Arc<Site>>) -> Result<Response, ApiError> {
    let state = site.running()?.loads.state();
    let running = state.running.as_ref();
    let running =
        running.map(|(asked, began, _)| json!({ "asked": asked, "began_ms": began, "now_ms": now_ms() }));
    Ok(answer(&json!({ "running": running, "history": state.history })))
}

pub async fn start(site: State<Arc<Site>>, body: Body) -> Result<Response, ApiError> {
    let request = parse(&site, body).await?;
    let (loads, cluster) = (site.running()?.loads.clone(), site.running()?.cluster.clone());
    let (arguments, seconds) = arguments(&request)?;
    let (stop, stopped) = oneshot::channel();
    {
        let mut state = loads.state();
        if state.running.is_some() {
            return Err(ApiError::new(409, "A load test is under way already."));
        }
        state.running = Some((request.clone(), now_ms(), Some(stop)));
    }
    tokio::spawn(async move {
        let run = run(&loads, &cluster, request, arguments, seconds, stopped).await;
        loads.keep(run);
    });
    Ok(answer(&json!({})))
}

pub async fn stop(State(site): State<Arc<Site>>) -> Result<Response, ApiError> {
    let mut state = site.running()?.loads.state();
    if let Some(stop) = state.running.as_mut().and_then(|(.., stop)| stop.take()) {
        // It may have ended this moment.
        let _ = stop.send(());
    }
    Ok(answer(&json!({})))
}

/// What the page may ask for, each within its range.
fn arguments(request: &Value) -> Result<(Vec<String>, u64), ApiError> {
    let number = |name: &str, or: u64, range: std::ops::RangeInclusive<u64>| {
        let value = match &request[name] {
            Value::Null => or,
            value => value.as_u64().ok_or_else(|| ApiError::new(400, format!("{name} must be a number.")))?,
        };
        if range.contains(&value) {
            Ok(value)
        } else {
            let (low, high) = range.into_inner();
            Err(ApiError::new(400, format!("{name} must be from {low} to {high}.")))
        }
    };
    let word = |name: &str, or: &'static str, words: &[&'static str]| {
        let asked = request[name].as_str().unwrap_or(or);
        let known = words.iter().find(|word| **word == asked).copied();
        known.ok_or_else(|| ApiError::new(400, format!("{name} must be one of {}.", words.join(", "))))
    };
    let seconds = number("seconds", 10, 1..=SECONDS_MAX)?;
    let mut arguments = vec![
        format!("--duration={seconds}s"),
        format!("--record-size={}", number("record_bytes", 1024, 64..=1_000_000)?),
        format!("--partitions={}", number("partitions", 6, 1..=256)?),
        format!("--producers={}", number("producers", 1, 1..=32)?),
        format!("--consumers={}", number("consumers", 1, 0..=32)?),
        format!("--batch-bytes={}", number("batch_bytes", 16_384, 1024..=1_000_000)?),
        format!("--acks={}", word("acks", "all", &["0", "1", "all"])?),
        format!("--compression={}", word("compression", "none", &["none", "gzip", "snappy", "lz4", "zstd"])?),
    ];
    match number("rate", 0, 0..=100_000_000)? {
        0 => arguments.push("--max".to_owned()),
        rate => arguments.push(format!("--rate={rate}")),
    }
    if request["idempotent"] == true {
        arguments.push("--idempotent".to_owned());
    }
    Ok((arguments, seconds))
}

async fn run(
    loads: &Loads,
    cluster: &Cluster,
    asked: Value,
    arguments: Vec<String>,
    seconds: u64,
    stopped: oneshot::Receiver<()>,
) -> Value {
    let began_ms = now_ms();
    let failed = |text: String| json!({ "asked": asked.clone(), "began_ms": began_ms, "failed": text });
    let mut name = [0u8; 8];
    if getrandom::fill(&mut name).is_err() {
        return failed("no name for the report".to_owned());
    }
    let topic = format!("ringlog-load-{:016x}", u64::from_ne_bytes(name));
    let base = loads.file.with_file_name(&topic);
    let (report, series) = (base.with_extension("json"), base.with_extension("csv"));
    let Ok(program) = std::env::current_exe() else { return failed("the program was not found".to_owned()) };
    let mut command = tokio::process::Command::new(program);
    command
        .args(["load", "--quiet", "--bootstrap", &loads.bootstrap])
        .args(&arguments)
        .args(["--topic", &topic])
        .arg(format!("--broker-pid={}", std::process::id()))
        .arg("--json")
        .arg(&report)
        .arg("--csv")
        .arg(&series)
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let output = match command.spawn() {
        Ok(child) => child.wait_with_output(),
        Err(error) => return failed(error.to_string()),
    };
    let limit = Duration::from_secs(seconds) + EXTRA;
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit, output) => ended.ok(),
        _ = stopped => None,
    };
    if ended.is_none() {
        // It was killed, so its topic is left. It may not have come to make one.
        let _ = topics::delete(cluster, &Caller::own(), &topic).await;
    }
    let found = std::fs::read_to_string(&report).ok().and_then(|text| serde_json::from_str(&text).ok());
    let found: Option<Value> = found;
    let table = std::fs::read_to_string(&series).unwrap_or_default();
    // What is not there need not be removed.
    let _ = std::fs::remove_file(&report).and(std::fs::remove_file(&series));
    match (found, ended) {
        (Some(report), _) => {
            json!({ "asked": asked, "began_ms": began_ms, "report": report, "series": rows(&table) })
        }
        (None, None) => failed("stopped".to_owned()),
        (None, Some(ended)) => {
            let said = ended.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
            let said = said.unwrap_or_else(|error| error.to_string());
            failed(said.lines().last().unwrap_or("it gave no reason").to_owned())
        }
    }
}

/// The table of seconds as lists of numbers by column.
fn rows(table: &str) -> Value {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let wanted =
        ["second", "acked", "read", "ack_p50_us", "ack_p99_us", "ack_max_us", "e2e_p50_us", "e2e_p99_us"];
    let rows: Vec<Vec<f64>> =
        lines.map(|line| line.split(',').map(|cell| cell.parse().unwrap_or(0.0)).collect()).collect();
    let column = |name: &str| -> Value {
        let Some(at) = names.iter().position(|known| *known == name) else { return json!([]) };
        rows.iter().map(|row: &Vec<f64>| row.get(at).copied().unwrap_or(0.0)).collect()
    };
    wanted.iter().map(|name| ((*name).to_owned(), column(name))).collect::<serde_json::Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_reaches_the_command_line() {
        let (arguments, seconds) = arguments(&json!({ "rate": 500, "acks": "1", "seconds": 5 })).unwrap();
        assert_eq!(seconds, 5);
        assert!(arguments.contains(&"--rate=500".to_owned()) && arguments.contains(&"--acks=1".to_owned()));
        for wrong in [
            json!({ "seconds": 100_000 }),
            json!({ "rate": -1 }),
            json!({ "acks": "all --json /etc/x" }),
            json!({ "compression": 7, "producers": "2" }),
            json!({ "record_bytes": 1 }),
        ] {
            assert!(super::arguments(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_table_becomes_columns() {
        let table = "second,time_ms,acked,read\n0,5,10,9\n1,6,20,19\n";
        assert_eq!(rows(table)["acked"], json!([10.0, 20.0]));
        assert_eq!(rows("")["acked"], json!([]));
    }
}
