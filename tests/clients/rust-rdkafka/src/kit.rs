//! The records that ../../README.md defines, their tally, and the named checks.

use std::collections::HashMap;
use std::error::Error;
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::message::{Header, Headers, Message, OwnedHeaders};

pub type Outcome = Result<(), Box<dyn Error>>;

pub static BOOTSTRAP: LazyLock<String> = LazyLock::new(|| std::env::var("BOOTSTRAP").unwrap_or_default());

/// An hour ago: retention leaves the records alone and no broker takes them for records from the future.
pub static BASE_MS: LazyLock<i64> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(0) - 3_600_000
});

/// Fails the check with a message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+).into());
        }
    };
}

/// Record `i` of a topic.
pub struct Record {
    pub key: String,
    pub value: Option<Vec<u8>>,
    pub headers: [(&'static str, Vec<u8>); 2],
    pub timestamp_ms: i64,
}

pub fn record(i: usize) -> Record {
    let value = match i % 50 {
        0 => Some(Vec::new()),
        1 => None,
        _ => Some(format!("value-{i};").repeat(1 + i % 40).into_bytes()),
    };
    Record {
        key: format!("key-{}", i % 17),
        value,
        headers: [("n", i.to_string().into_bytes()), ("bin", vec![0, (i % 256) as u8, 255])],
        timestamp_ms: *BASE_MS + i as i64,
    }
}

pub fn headers_of(record: &Record) -> OwnedHeaders {
    record
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }))
}

/// What came out of a topic against what went in: each record once, unchanged, in order within its partition.
#[derive(Default)]
pub struct Tally {
    seen: HashMap<usize, (i32, i64)>,
    last: HashMap<i32, (i64, usize)>,
}

impl Tally {
    /// `again`: a consumer may see an offset again that it had not committed before the broker went away.
    pub fn add(&mut self, message: &impl Message, again: bool) -> Outcome {
        let (partition, offset) = (message.partition(), message.offset());
        let last = self.last.get(&partition).copied();
        if again && last.is_some_and(|(last_offset, _)| offset <= last_offset) {
            return Ok(());
        }
        let headers: Vec<(String, Vec<u8>)> = message
            .headers()
            .map(|all| {
                all.iter().map(|h| (h.key.to_string(), h.value.unwrap_or_default().to_vec())).collect()
            })
            .unwrap_or_default();
        let i: usize =
            String::from_utf8(headers.first().ok_or("a record without headers")?.1.clone())?.parse()?;
        let want = record(i);
        let same_headers =
            headers.len() == 2 && headers.iter().zip(&want.headers).all(|(a, b)| a.0 == b.0 && a.1 == b.1);
        ensure!(
            message.key() == Some(want.key.as_bytes())
                && message.payload() == want.value.as_deref()
                && message.timestamp().to_millis() == Some(want.timestamp_ms)
                && same_headers,
            "record {i} came back changed: {:?} {:?} {:?} {headers:?}",
            message.key(),
            message.payload(),
            message.timestamp()
        );
        if let Some(before) = self.seen.insert(i, (partition, offset)) {
            return Err(format!("record {i} twice: at {before:?} and at {:?}", (partition, offset)).into());
        }
        ensure!(
            last.is_none_or(|(last_offset, last_i)| offset > last_offset && i > last_i),
            "partition {partition}: record {i} at {offset} after {last:?}"
        );
        self.last.insert(partition, (offset, i));
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.seen.len()
    }

    pub fn expect(&self, n: usize) -> Outcome {
        let missing: Vec<usize> = (0..n).filter(|i| !self.seen.contains_key(i)).take(5).collect();
        ensure!(missing.is_empty() && self.len() == n, "{} of {n} records, missing {missing:?}", self.len());
        Ok(())
    }
}

/// Asks until the condition holds; an error ends it at once.
pub fn until(what: &str, mut condition: impl FnMut() -> Result<bool, Box<dyn Error>>) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition()? {
        ensure!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Begins a restart of the broker.
pub fn restart_broker() -> Result<Child, Box<dyn Error>> {
    Ok(Command::new("sh").args(["-c", &std::env::var("RESTART")?]).spawn()?)
}

/// Runs the checks (those named on the command line, else all), a line each; true when none failed.
pub fn run(checks: Vec<(String, Box<dyn Fn() -> Outcome>)>) -> bool {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut good = true;
    for (name, check) in checks {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w)) {
            continue;
        }
        let began = Instant::now();
        match check() {
            Ok(()) => println!("ok    {name} ({:.1} s)", began.elapsed().as_secs_f64()),
            Err(why) => {
                good = false;
                println!("FAIL  {name}: {}", why.to_string().replace('\n', " "));
            }
        }
    }
    good
}
