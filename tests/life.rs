//! Start, stop and restart of the built binary.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
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
        let mut child = Command::new(BINARY)
            .args(["serve", "--log", "error"])
            .args(["--set", &format!("log.dirs={}", data.display())])
            .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "shards=2"])
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
