//! Start, stop and restart of the built binary, and what is set while it runs.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::SystemTime;

const BINARY: &str = env!("CARGO_BIN_EXE_ringlog");

struct Broker {
    child: Child,
    out: BufReader<ChildStdout>,
    address: String,
}

impl Broker {
    fn start(data: &Path) -> Broker {
        Broker::with(data, &[])
    }

    /// With further settings.
    fn with(data: &Path, settings: &[&str]) -> Broker {
        let mut child = Command::new(BINARY)
            .args(["serve", "--log", "error"])
            .args(["--set", &format!("log.dirs={}", data.display())])
            .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "shards=2"])
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("ready ").expect("the broker is ready");
        let address = address.split(' ').next().unwrap().to_owned();
        Broker { child, out, address }
    }

    fn run(&self, args: &[&str], input: &str) -> String {
        let mut child = Command::new(BINARY)
            .args(args)
            .env("RINGLOG_BOOTSTRAP", &self.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn stop(mut self) -> ExitStatus {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(kill.success());
        let mut rest = String::new();
        while self.out.read_line(&mut rest).unwrap() > 0 {}
        self.child.wait().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The files of all partitions with what tells whether they were written.
fn files(data: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(data).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("t-") {
            continue;
        }
        for file in std::fs::read_dir(entry.path()).unwrap().map(Result::unwrap) {
            let metadata = file.metadata().unwrap();
            found.insert(file.path(), (metadata.len(), metadata.modified().unwrap()));
        }
    }
    found
}

#[test]
fn a_clean_restart_writes_no_partition_anew() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let broker = Broker::start(&data);
    broker.run(&["topic", "create", "t", "--partitions", "4"], "");
    let lines: String = (0..2000).map(|at| format!("{at}\t{}\n", "x".repeat(200))).collect();
    broker.run(&["produce", "t", "--key-separator", "\t"], &lines);
    assert!(broker.stop().success());
    let before = files(&data);
    assert!(before.len() >= 4 * 4, "{before:?}");

    let broker = Broker::start(&data);
    assert!(broker.stop().success());
    assert_eq!(files(&data), before);

    let broker = Broker::start(&data);
    let read = broker.run(&["consume", "t", "--from", "beginning", "--no-follow"], "");
    assert_eq!(read.lines().count(), 2000);
    assert!(broker.stop().success());
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let broker = Broker::start(&data);
    let second = Command::new(BINARY)
        .args(["serve", "--set", &format!("log.dirs={}", data.display())])
        .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("in use by another process"), "{said}");
    assert!(broker.stop().success());
}

/// An OffsetCommit (version 2) of group `g` from outside of any generation: topic `t`, partition 0, offset 7.
fn offset_commit() -> Vec<u8> {
    let mut body = Vec::new();
    let string = |body: &mut Vec<u8>, text: &str| {
        body.extend((text.len() as u16).to_be_bytes());
        body.extend(text.as_bytes());
    };
    body.extend([0, 8, 0, 2, 0, 0, 0, 1]);
    string(&mut body, "life");
    string(&mut body, "g");
    body.extend((-1i32).to_be_bytes());
    string(&mut body, "");
    body.extend((-1i64).to_be_bytes());
    body.extend(1i32.to_be_bytes());
    string(&mut body, "t");
    body.extend(1i32.to_be_bytes());
    body.extend(0i32.to_be_bytes());
    body.extend(7i64.to_be_bytes());
    string(&mut body, "");
    [(body.len() as u32).to_be_bytes().to_vec(), body].concat()
}

/// The error code of an answer to [`offset_commit`]; `None` once the connection has ended.
fn commit(stream: &mut TcpStream) -> Option<i16> {
    stream.write_all(&offset_commit()).ok()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).ok()?;
    answer.last_chunk().map(|code| i16::from_be_bytes(*code))
}

/// A client that is told "not the coordinator" asks the stopping broker for another one, and KafkaJS gives up for good
/// when its connection ends before the answer.
#[test]
fn a_stopping_broker_ends_connections_and_sends_no_errors() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::with(&dir.path().join("data"), &["ringlog.shards=4"]);
    broker.run(&["topic", "create", "t"], "");
    broker.run(&["produce", "t"], "one\n");
    // Makes the group's log.
    broker.run(&["consume", "t", "--group", "g", "--from", "beginning", "--no-follow"], "");
    let address = broker.address.clone();
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            assert_eq!(commit(&mut stream), Some(0));
            std::thread::spawn(move || std::iter::from_fn(|| commit(&mut stream)).collect::<Vec<_>>())
        })
        .collect();
    assert!(broker.stop().success());
    for client in clients {
        let codes = client.join().unwrap();
        assert!(codes.iter().all(|code| *code == 0), "{:?}", codes.iter().find(|code| **code != 0));
    }
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn whoever_reads_that_it_is_ready_may_end_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        assert!(Broker::start(dir.path()).stop().success());
    }
}

/// A broker with a compacted topic `t` of 4,000 records of ten keys.
struct Compacted(Broker);

impl Compacted {
    fn start(data: &Path, settings: &[&str]) -> Compacted {
        let broker = Broker::with(data, settings);
        let policy = ["--config", "cleanup.policy=compact", "--config", "segment.bytes=1048576"];
        broker.run(&[&["topic", "create", "t"][..], &policy[..]].concat(), "");
        let lines: String = (0..4000).map(|at| format!("{}\t{}\n", at % 10, "x".repeat(1000))).collect();
        broker.run(&["produce", "t", "--key-separator", "\t"], &lines);
        Compacted(broker)
    }

    fn records(&self) -> usize {
        self.0.run(&["consume", "t", "--from", "beginning", "--no-follow"], "").lines().count()
    }

    fn stays(&self) {
        (0..20).for_each(|_| assert_eq!(self.records(), 4000));
    }

    fn shrinks(&self) {
        assert!((0..500).any(|_| self.records() < 4000), "it was never compacted");
    }

    fn set(&self, setting: &str) {
        self.0.run(&["config", "alter", "--broker", "default", "--set", setting], "");
    }
}

#[test]
fn the_cleaner_goes_by_what_was_set_last() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["log.cleaner.backoff.ms=20", "log.cleaner.min.cleanable.ratio=1"];
    let topic = Compacted::start(&dir.path().join("data"), &settings);
    topic.stays();
    // Dirty enough now, but without bandwidth.
    topic.set("log.cleaner.io.max.bytes.per.second=1");
    topic.set("log.cleaner.min.cleanable.ratio=0.01");
    topic.stays();
    topic.set("log.cleaner.io.max.bytes.per.second=1000000000");
    topic.shrinks();
    assert!(topic.0.stop().success());
}

#[test]
fn a_long_rest_of_the_cleaner_ends_when_it_is_shortened() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["log.cleaner.backoff.ms=3600000", "log.cleaner.min.cleanable.ratio=0.01"];
    let topic = Compacted::start(&dir.path().join("data"), &settings);
    topic.stays();
    topic.set("log.cleaner.backoff.ms=20");
    topic.shrinks();
    assert!(topic.0.stop().success());
}
