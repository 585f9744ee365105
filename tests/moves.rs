//! Partitions that move between the log directories of the built binary, over TCP: while clients write and read, and with kills in
//! between.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "coordinator/client.rs"]
#[allow(dead_code)]
mod client;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Client, until};
use ringlog::protocol::ErrorCode;
use ringlog::protocol::messages::alter_replica_log_dirs_request::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use ringlog::protocol::messages::describe_log_dirs_request::DescribeLogDirsRequest;

const BINARY: &str = env!("CARGO_BIN_EXE_ringlog");

struct Broker {
    child: Child,
    address: String,
    dirs: [PathBuf; 2],
}

/// Where a partition is, and where it moves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    dir: Option<usize>,
    future: Option<usize>,
}

impl Broker {
    fn start(root: &Path) -> Broker {
        let dirs = ["one", "two"].map(|name| root.join(name));
        let mut child = Command::new(BINARY)
            .args(["serve", "--log", "error", "--set", "shards=2"])
            .args(["--set", &format!("log.dirs={},{}", dirs[0].display(), dirs[1].display())])
            .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "ringlog.http.listener="])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("ready ").expect("the broker is ready");
        Broker { child, address: address.split(' ').next().unwrap().to_owned(), dirs }
    }

    fn run(&self, args: &[&str]) -> Output {
        let output =
            Command::new(BINARY).args(args).env("RINGLOG_BOOTSTRAP", &self.address).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        output
    }

    fn move_to(&self, client: &mut Client, topic: &str, partitions: &[i32], dir: usize) {
        let topics = [AlterReplicaLogDirTopic { name: topic.into(), partitions: partitions.to_vec().into() }];
        let path = self.dirs[dir].display().to_string();
        let dirs = [AlterReplicaLogDir { path: path.into(), topics: topics.into() }];
        let request = AlterReplicaLogDirsRequest { dirs: dirs.into() };
        let codes: Vec<i16> = client.ask(2, &request, |response| {
            let topic = response.results.first().unwrap();
            topic.partitions.iter().map(|partition| partition.error_code).collect()
        });
        assert_eq!(codes, vec![ErrorCode::None.code(); partitions.len()]);
    }

    fn find(&self, client: &mut Client, topic: &str, partition: i32) -> Found {
        client.ask(4, &DescribeLogDirsRequest { topics: None }, |response| {
            let mut found = Found { dir: None, future: None };
            for (dir, result) in response.results.iter().enumerate() {
                let topics = result.topics.iter().filter(|found| found.name == topic);
                for known in topics.flat_map(|topic| topic.partitions.to_vec()) {
                    if known.partition_index == partition {
                        let place = if known.is_future_key { &mut found.future } else { &mut found.dir };
                        assert_eq!(place.replace(dir), None, "it is in two directories");
                    }
                }
            }
            found
        })
    }

    /// How many records the topic's consumer gets.
    fn count(&self, topic: &str) -> usize {
        let read =
            self.run(&["consume", topic, "--from", "beginning", "--no-follow", "--format", "{offset}"]);
        read.stdout.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The names of the partition's directories, with all that a move leaves behind.
    fn names(&self, prefix: &str) -> Vec<String> {
        let mut names = Vec::new();
        for (index, dir) in self.dirs.iter().enumerate() {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                if name.starts_with(prefix) {
                    names.push(format!("{index}/{name}"));
                }
            }
        }
        names
    }

    fn throttle(&self, rate: &str) {
        self.run(&[
            "config",
            "alter",
            "--broker",
            "default",
            "--set",
            &format!("replica.alter.log.dirs.io.max.bytes.per.second={rate}"),
        ]);
    }

    /// Writes so many records to topic `t`, and has them all read and checked. How far the generator falls behind its own plan
    /// is of no matter here: a busy machine fails no test.
    fn load(&self, records: u32, rate: u32, options: &[&str]) {
        let (records, rate) = (records.to_string(), rate.to_string());
        let to = ["load", "--bootstrap", &self.address, "--topic", "t", "--keep", "--max-lag", "1h"];
        let what = ["--records", &records, "--rate", &rate, "--record-size", "1000", "--warmup", "0s"];
        self.run(&[&to[..], &what, options].concat());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Tells when it goes, by a panic too, that what it stands for is over.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn partitions_move_while_they_are_written_and_read() {
    let root = tempfile::tempdir().unwrap();
    let broker = Broker::start(root.path());
    let done = AtomicBool::new(false);
    let moved = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut client = Client::connect(&broker.address);
            until("the topic", || broker.find(&mut client, "t", 3).dir);
            let mut moved = 0;
            while !done.load(Ordering::Acquire) {
                for partition in 0..4 {
                    let Found { dir: Some(dir), future: None } = broker.find(&mut client, "t", partition)
                    else {
                        continue;
                    };
                    broker.move_to(&mut client, "t", &[partition], 1 - dir);
                    moved += 1;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            for partition in 0..4 {
                until("the last moves", || {
                    broker.find(&mut client, "t", partition).future.is_none().then_some(())
                });
            }
            moved
        });
        // It checks each record: none lost, none twice, all in order.
        let over = Over(&done);
        let topic = ["--partitions", "4", "--create-config", "segment.bytes=1048576"];
        broker.load(18_000, 3000, &[&topic[..], &["--acks", "all", "--idempotent"]].concat());
        drop(over);
        mover.join().unwrap()
    });
    assert!(moved >= 8, "{moved} moves");
    let records = broker.count("t");
    assert_eq!(records, 18_000);
    broker.kill();
    let broker = Broker::start(root.path());
    assert_eq!(broker.count("t"), records);
    assert_eq!(broker.names("t-").len(), 4, "{:?}", broker.names("t-"));
}

#[test]
fn a_kill_at_any_time_of_a_move_leaves_the_partition_whole_in_one_directory() {
    let root = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(root.path());
    broker.run(&["topic", "create", "t", "--partitions", "1", "--config", "segment.bytes=1048576"]);
    broker.load(6000, 6000, &[]);
    let records = broker.count("t");
    assert_eq!(records, 6000);
    for round in 0..12 {
        let mut client = Client::connect(&broker.address);
        let home = broker.find(&mut client, "t", 0).dir.unwrap();
        broker.move_to(&mut client, "t", &[0], 1 - home);
        std::thread::sleep(Duration::from_millis(round * 4));
        broker.kill();
        broker = Broker::start(root.path());
        assert_eq!(broker.count("t"), records, "round {round}");
        // What was cut off goes on.
        let mut client = Client::connect(&broker.address);
        until("the end of the move", || broker.find(&mut client, "t", 0).future.is_none().then_some(()));
        assert_eq!(broker.count("t"), records, "round {round}");
        until("one directory", || (broker.names("t-").len() == 1).then_some(()));
    }
}

#[test]
fn a_move_that_is_slow_can_be_seen_and_taken_back() {
    let root = tempfile::tempdir().unwrap();
    let broker = Broker::start(root.path());
    broker.run(&["topic", "create", "t", "--partitions", "1"]);
    broker.load(12_000, 12_000, &[]);
    let records = broker.count("t");
    broker.throttle("1000");
    let mut client = Client::connect(&broker.address);
    let home = broker.find(&mut client, "t", 0).dir.unwrap();
    broker.move_to(&mut client, "t", &[0], 1 - home);
    let moving = Found { dir: Some(home), future: Some(1 - home) };
    assert_eq!(broker.find(&mut client, "t", 0), moving);
    until("the copy", || (broker.names("t-").len() == 2).then_some(()));
    assert!(broker.names("t-").iter().any(|name| name.ends_with("-future")));
    // To where it is: the move ends.
    broker.move_to(&mut client, "t", &[0], home);
    assert_eq!(broker.find(&mut client, "t", 0), Found { dir: Some(home), future: None });
    until("one directory", || (broker.names("t-").len() == 1).then_some(()));
    // A topic that is deleted leaves neither.
    broker.move_to(&mut client, "t", &[0], 1 - home);
    assert_eq!(broker.find(&mut client, "t", 0), moving);
    assert_eq!(broker.count("t"), records);
    broker.throttle("100000000");
    until("the move", || (broker.find(&mut client, "t", 0).dir == Some(1 - home)).then_some(()));
    assert_eq!(broker.count("t"), records);
    broker.throttle("1000");
    broker.move_to(&mut client, "t", &[0], home);
    until("the copy", || (broker.names("t-").len() == 2).then_some(()));
    broker.run(&["topic", "delete", "t"]);
    until("nothing is left", || broker.names("t-").is_empty().then_some(()));
}
