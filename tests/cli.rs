//! Every subcommand as a user runs it: the built binary against a real broker of the same binary.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_ringlog");

/// A broker of the test's own; it ends with it.
struct Broker {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Broker {
    fn start() -> Broker {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(BINARY)
            .args(["serve", "--log", "warn"])
            .args(["--set", &format!("log.dirs={}", dir.path().display())])
            .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "shards=1"])
            .args(["--set", "offsets.topic.num.partitions=1", "--set", "group.initial.rebalance.delay.ms=0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut broker = Broker { child, address: String::new(), dir };
        let mut line = String::new();
        BufReader::new(broker.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("ready ");
        broker.address = address.expect("the broker is ready").split(' ').next().unwrap().to_owned();
        broker
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).env("RINGLOG_BOOTSTRAP", &self.address);
        command
    }

    /// What it printed; it has to succeed.
    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[args, &["--json"]].concat())).unwrap()
    }

    /// The exit code and what it complained of.
    fn fail(&self, args: &[&str]) -> (i32, String) {
        failed(&self.command(args).output().unwrap())
    }

    fn produce(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(&[&["produce"], args].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    fn produced(&self, args: &[&str], input: &[u8]) {
        let output = self.produce(args, input);
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    /// Stops it as a service manager does, and hands over its directory.
    fn stop(mut self) -> tempfile::TempDir {
        interrupt(&self.child, "TERM");
        assert!(self.child.wait().unwrap().success());
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn interrupt(child: &Child, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// One for the tests that only add topics of their own; it ends with the last of those that run.
fn shared() -> Arc<Broker> {
    static BROKER: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
    let mut broker = BROKER.lock().unwrap_or_else(PoisonError::into_inner);
    broker.upgrade().unwrap_or_else(|| {
        let started = Arc::new(Broker::start());
        *broker = Arc::downgrade(&started);
        started
    })
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn topics_are_made_changed_and_deleted() {
    let broker = Broker::start();
    let made =
        broker.json(&["topic", "create", "orders", "--partitions", "2", "--config", "retention.ms=5000"]);
    assert_eq!((&made["partitions"], &made["created"]), (&2.into(), &true.into()));
    assert!(broker.run(&["topic", "create", "dry", "--validate-only"]).contains("could be created"));
    assert!(broker.run(&["topic", "create", "orders", "--if-not-exists"]).contains("is there already"));
    assert_eq!(broker.fail(&["topic", "create", "orders"]).0, 8);
    assert_eq!(broker.fail(&["topic", "create", "a/b"]).0, 1);
    assert_eq!(broker.fail(&["topic", "create", "c", "--config", "novalue"]).0, 2);
    let (code, text) = broker.fail(&["topic", "create", "c", "--config", "retention.ms=soon"]);
    assert!(code == 1 && text.contains("retention.ms"), "{text}");

    assert_eq!(broker.run(&["topic", "list"]), "TOPIC   PARTITIONS\norders           2\n");
    assert_eq!(broker.json(&["topic", "list"])[0]["name"], "orders");

    broker.produced(&["orders", "--partition", "1"], b"one\ntwo\n");
    broker.run(&["topic", "add-partitions", "orders", "--partitions", "3"]);
    assert_eq!(broker.fail(&["topic", "add-partitions", "orders", "--partitions", "1"]).0, 1);
    broker.run(&[
        "topic",
        "alter",
        "orders",
        "--config",
        "segment.ms=7000",
        "--delete-config",
        "retention.ms",
    ]);
    assert_eq!(broker.fail(&["topic", "alter", "orders"]).0, 2);
    let described = broker.json(&["topic", "describe", "orders"]);
    assert_eq!(described[0]["configs"], serde_json::json!({ "segment.ms": "7000" }));
    assert_eq!(described[0]["partitions"].as_array().unwrap().len(), 3);
    let partition = &described[0]["partitions"][1];
    assert_eq!((&partition["start_offset"], &partition["end_offset"]), (&0.into(), &2.into()));
    assert!(partition["size_bytes"].as_i64().unwrap() > 0);
    let text = broker.run(&["topic", "describe"]);
    assert!(text.contains("segment.ms=7000") && text.contains("PARTITION"), "{text}");
    assert_eq!(broker.fail(&["topic", "describe", "none"]).0, 6);

    broker.run(&["topic", "delete", "orders"]);
    assert_eq!(broker.fail(&["topic", "delete", "orders"]).0, 6);
    broker.run(&["topic", "delete", "orders", "--if-exists"]);
    assert_eq!(broker.json(&["topic", "list"]), serde_json::json!([]));
}

#[test]
fn configs_are_listed_described_and_altered() {
    let broker = shared();
    let all: Value = broker.json(&["config", "--list"]);
    let retention = all.as_array().unwrap().iter().find(|row| row["name"] == "retention.ms").unwrap();
    assert_eq!((&retention["type"], &retention["default"]), (&"LONG".into(), &"604800000".into()));
    let text = broker.run(&["config", "--list", "retention.ms"]);
    assert!(text.contains("retention.ms (topic)") && text.contains("accepted: -1 or more"), "{text}");
    assert_eq!(broker.fail(&["config", "--list", "no.such.key"]).0, 6);
    assert_eq!(broker.fail(&["config"]).0, 2);

    broker.run(&["topic", "create", "configured"]);
    broker.run(&["config", "alter", "--topic", "configured", "--config", "cleanup.policy=compact"]);
    let changed = broker.json(&["config", "describe", "--topic", "configured", "--changed"]);
    assert_eq!(changed.as_array().unwrap().len(), 1);
    assert_eq!((&changed[0]["name"], &changed[0]["value"]), (&"cleanup.policy".into(), &"compact".into()));
    assert!(broker.run(&["config", "describe", "--topic", "configured"]).contains("max.message.bytes"));
    assert!(broker.run(&["config", "describe", "--broker", "1"]).contains("log.dirs"));
    assert_eq!(broker.fail(&["config", "describe", "--broker", "77"]).0, 6);
    assert_eq!(broker.fail(&["config", "describe"]).0, 2);
    assert_eq!(broker.fail(&["config", "alter", "--topic", "configured", "--set", "no.such=1"]).0, 1);
}

#[test]
fn every_codec_and_ack_level_brings_records_through() {
    let broker = shared();
    broker.run(&["topic", "create", "codecs", "--partitions", "1"]);
    let mut expected = Vec::new();
    for (codec, acks) in [("none", "0"), ("gzip", "1"), ("snappy", "all"), ("lz4", "all"), ("zstd", "all")] {
        let input: String = (0..200).map(|number| format!("{codec} {number}\n")).collect();
        broker.produced(&["codecs", "--compression", codec, "--acks", acks], input.as_bytes());
        expected.extend(input.lines().map(str::to_owned));
        // Without acknowledgement nobody knows when it is there.
        while broker.json(&["topic", "describe", "codecs"])[0]["partitions"][0]["end_offset"]
            != expected.len()
        {}
    }
    let read = broker.run(&["consume", "codecs", "--from", "beginning", "--no-follow"]);
    assert_eq!(lines(&read), expected);
    let tail =
        broker.run(&["consume", "codecs", "--from", "998", "--no-follow", "--format", "{offset} {value}"]);
    assert_eq!(tail, "998 zstd 198\n999 zstd 199\n");
    assert_eq!(lines(&broker.run(&["consume", "codecs", "--from", "0", "--max-messages", "3"])).len(), 3);
    assert_eq!(broker.run(&["consume", "codecs", "--from", "end", "--timeout-ms", "1"]), "");
    let (code, text) = broker.fail(&["consume", "codecs", "--from", "5000", "--timeout-ms", "1"]);
    assert!(code == 1 && text.contains("out of range"), "{text}");
    assert_eq!(broker.fail(&["consume", "codecs", "--partition", "4"]).0, 6);
    assert_eq!(broker.fail(&["consume", "nowhere"]).0, 6);
    assert_eq!(broker.fail(&["consume", "codecs", "--from", "yesterday"]).0, 2);
}

#[test]
fn keys_headers_encodings_and_json_survive() {
    let broker = shared();
    broker.run(&["topic", "create", "formats", "--partitions", "3"]);
    let options = ["formats", "--key-separator", ":", "--headers", "--header", "all=x", "--null", "NULL"];
    broker.produced(&[&options[..], &["--partition", "2"]].concat(), b"a=1,b=2\tk:v\n\tgone:NULL\n");
    let format = r"{partition}/{offset}\t{key}={value}\t{headers}";
    let read = ["consume", "formats", "--from", "beginning", "--no-follow"];
    let text = broker.run(&[&read[..], &["--format", format]].concat());
    assert_eq!(text, "2/0\tk=v\ta=1,b=2,all=x\n2/1\tgone=null\tall=x\n");
    let hex = broker.run(&[&read[..], &["--format", "{key} {value}", "--encoding", "hex"]].concat());
    assert_eq!(hex, "6b 76\n676f6e65 null\n");

    broker.produced(&["formats", "--format", "hex", "--partition", "0"], b"00ff\n");
    broker.produced(&["formats", "--format", "base64", "--partition", "0"], b"/w==\n");
    let time = b"{\"key\":\"k\",\"value\":{\"n\":1},\"partition\":0,\"timestamp\":1700000000000}\n";
    broker.produced(&["formats", "--format", "json"], time);
    let json = broker.run(&[&read[..], &["--json", "--partition", "0"]].concat());
    let records: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&records[0]["value_base64"], &records[1]["value_base64"]), (&"AP8=".into(), &"/w==".into()));
    assert_eq!((&records[2]["value"], &records[2]["offset"]), (&"{\"n\":1}".into(), &2.into()));

    // What was printed can be fed in again, and a file is read like standard input.
    broker.run(&["topic", "create", "copy", "--partitions", "3"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("records.json");
    std::fs::write(&file, &json).unwrap();
    let report = broker.json(&["produce", "copy", "--format", "json", "--file", file.to_str().unwrap()]);
    assert_eq!((&report["records"], &report["partitions"][0]["last_offset"]), (&3.into(), &2.into()));
    let copied = broker.run(&["consume", "copy", "--from", "beginning", "--no-follow", "--json"]);
    assert_eq!(copied, json.replace("\"formats\"", "\"copy\""));

    // Times: the first record at or after one, in either notation.
    for from in ["2023-11-14T22:13:20Z", "@1700000000000"] {
        let read =
            ["consume", "copy", "--encoding", "hex", "--partition", "0", "--from", from, "--no-follow"];
        assert_eq!(lines(&broker.run(&read)).len(), 3, "{from}");
    }
    let later = ["consume", "copy", "--from", "2100-01-01", "--no-follow"];
    assert_eq!(broker.run(&later), "");

    let wrong = broker.produce(&["formats", "--key-separator", ":"], b"a:b\nnone\n");
    let (code, text) = failed(&wrong);
    assert!(code == 2 && text.contains("line 2"), "{text}");
    assert_eq!(failed(&broker.produce(&["formats", "--partition", "9"], b"x\n")).0, 6);
    assert_eq!(failed(&broker.produce(&["nowhere"], b"x\n")).0, 6);
    let large = vec![b'x'; 2 << 20];
    let (code, text) = failed(&broker.produce(&["formats"], &large));
    assert!(code == 1 && text.contains("MESSAGE_TOO_LARGE"), "{text}");
}

#[test]
fn a_consumer_follows_until_it_is_interrupted() {
    let broker = shared();
    broker.run(&["topic", "create", "followed"]);
    broker.produced(&["followed"], b"before\n");
    let mut child = broker
        .command(&["consume", "followed", "--from", "beginning"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(out.next().unwrap().unwrap(), "before");
    broker.produced(&["followed"], b"after\n");
    assert_eq!(out.next().unwrap().unwrap(), "after");
    interrupt(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn groups_share_commit_and_are_reset() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "shared", "--partitions", "2"]);
    for partition in ["0", "1"] {
        broker.produced(&["shared", "--partition", partition], b"1\n2\n3\n");
    }
    let read = ["consume", "shared", "--group", "g", "--from", "beginning"];
    assert_eq!(lines(&broker.run(&[&read[..], &["--no-follow"]].concat())).len(), 6);
    // All is committed: nothing is left to read.
    assert_eq!(broker.run(&[&read[..], &["--no-follow"]].concat()), "");
    broker.produced(&["shared", "--partition", "0"], b"4\n");
    assert!(broker.run(&["group", "list"]).contains("g"), "the group is listed");
    assert_eq!(broker.json(&["group", "list"])[0]["state"], "Empty");
    let described = broker.json(&["group", "describe", "g"]);
    let lags: Vec<_> =
        described[0]["partitions"].as_array().unwrap().iter().map(|row| row["lag"].clone()).collect();
    assert_eq!(lags, [1, 0]);
    let text = broker.run(&["group", "describe", "g"]);
    assert!(text.contains("LAG") && text.contains("Empty"), "{text}");

    let shown = broker.json(&["group", "reset-offsets", "g", "--to", "earliest"]);
    assert_eq!((&shown["executed"], &shown["offsets"][0]["new"]), (&false.into(), &0.into()));
    assert_eq!(broker.json(&["group", "describe", "g"])[0]["partitions"][0]["committed"], 3);
    let reset = ["group", "reset-offsets", "g", "--topic", "shared:0", "--execute"];
    broker.run(&[&reset[..], &["--shift-by", "-2"]].concat());
    assert_eq!(broker.run(&[&read[..], &["--no-follow"]].concat()), "2\n3\n4\n");
    for (to, offset) in [("latest", 4), ("2", 2), ("99", 4), ("1970-01-02", 0)] {
        broker.run(&[&reset[..], &["--to", to]].concat());
        let committed = &broker.json(&["group", "describe", "g"])[0]["partitions"][0]["committed"];
        assert_eq!(committed, offset, "{to}");
    }
    assert_eq!(broker.fail(&["group", "reset-offsets", "g"]).0, 2);
    assert_eq!(broker.fail(&["group", "reset-offsets", "none", "--to", "latest"]).0, 6);

    // A group with a member is left alone.
    let mut member = broker.command(&read).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(member.stdout.take().unwrap()).lines();
    assert!(out.next().is_some());
    let described = broker.json(&["group", "describe", "g"]);
    assert_eq!(
        (&described[0]["state"], &described[0]["members"][0]["partitions"]),
        (&"Stable".into(), &2.into())
    );
    assert_eq!(broker.fail(&[&reset[..], &["--to", "latest"]].concat()).0, 1);
    assert_eq!(broker.fail(&["group", "delete", "g"]).0, 1);
    interrupt(&member, "INT");
    assert_eq!(member.wait().unwrap().code(), Some(0));
    broker.run(&["group", "delete", "g"]);
    assert_eq!(broker.fail(&["group", "describe", "g"]).0, 6);
    assert_eq!(broker.fail(&["group", "delete", "g"]).0, 6);
}

fn dump(args: &[&str], file: &Path) -> Output {
    Command::new(BINARY).arg("dump").args(args).arg(file).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn find(dir: &Path, fits: impl Fn(&str) -> bool + Copy) -> Option<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().find_map(|path| {
        if path.is_dir() {
            return find(&path, fits);
        }
        fits(path.file_name().unwrap().to_str().unwrap()).then_some(path)
    })
}

#[test]
fn files_are_dumped_and_damage_is_found() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "dumped", "--partitions", "1"]);
    broker.produced(&["dumped", "--key-separator", "=", "--compression", "zstd"], b"key=value\nother=more\n");
    // The journal of a running broker holds the batch.
    let journal = broker.dir.path().join(".ringlog/journal-0");
    let journal = find(&journal, |name| name.ends_with(".journal")).unwrap();
    let found = dump(&[], &journal);
    assert!(found.status.success() && text(&found).contains("batches at offset 0"), "{found:?}");
    let metadata = find(&broker.dir.path().join(".ringlog/metadata"), |name| name.ends_with(".journal"));
    let found = dump(&[], &metadata.unwrap());
    assert!(found.status.success() && text(&found).contains("dumped"), "{found:?}");
    let dir = broker.stop();
    let partition = dir.path().join("dumped-0");
    let log = partition.join("00000000000000000000.log");
    let whole = dump(&["--records"], &log);
    assert!(whole.status.success(), "{whole:?}");
    assert!(text(&whole).contains("offsets 0..1") && text(&whole).contains("key = value"), "{whole:?}");
    let rows: Vec<Value> = text(&dump(&["--records", "--json"], &log))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(rows.iter().any(|row| row["record"]["value"] == "more" && row["record"]["offset"] == 1));
    for name in ["leader-epoch-checkpoint", "partition.metadata", "00000000000000000000.timeindex"] {
        assert!(dump(&[], &partition.join(name)).status.success(), "{name}");
    }
    assert!(text(&dump(&[], &dir.path().join("meta.properties"))).contains("cluster"));
    let snapshot = find(&partition, |name| name.ends_with(".snapshot")).unwrap();
    assert!(text(&dump(&[], &snapshot)).contains("last offset 1"), "{snapshot:?}");

    // A flipped bit, a cut, and a file that is not what its name says.
    let copy = dir.path().join("00000000000000000000.log");
    let bytes = std::fs::read(&log).unwrap();
    let mut flipped = bytes.clone();
    flipped[80] ^= 1;
    std::fs::write(&copy, &flipped).unwrap();
    let damaged = dump(&[], &copy);
    assert_eq!(damaged.status.code(), Some(7));
    assert!(text(&damaged).contains("DAMAGED at byte 0"), "{damaged:?}");
    std::fs::write(&copy, &bytes[..70]).unwrap();
    assert_eq!(dump(&[], &copy).status.code(), Some(7));
    assert_eq!(dump(&[], &dir.path().join("none.log")).status.code(), Some(2));
    assert_eq!(dump(&[], &dir.path().join("00000000000000000009.log")).status.code(), Some(4));
}

#[test]
fn completions_help_and_exit_codes_without_a_broker() {
    let run = |args: &[&str]| Command::new(BINARY).args(args).output().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success() && text(&script).contains("add-partitions"), "{shell}");
    }
    assert!(text(&run(&["--help"])).contains("completions"));
    assert_eq!(run(&["completions", "csh"]).status.code(), Some(2));
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
    // Nobody listens at port 1; the second address is tried after the first.
    let (code, complaint) = failed(&run(&["topic", "list", "--bootstrap", "127.0.0.1:1,127.0.0.1:2"]));
    assert!(code == 5 && complaint.contains("127.0.0.1:2"), "{complaint}");
    let broker = shared();
    let both = format!("127.0.0.1:1,{}", broker.address);
    assert!(run(&["topic", "list", "--bootstrap", &both]).status.success());
}

#[test]
fn health_is_an_exit_code() {
    let broker = shared();
    assert!(broker.run(&["health"]).contains("serving"));
    // Without an address: where the file and the environment say that the broker listens.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.properties");
    std::fs::write(&file, format!("listeners=PLAINTEXT://{}\n", broker.address)).unwrap();
    let health = |arguments: &[&str], listeners: &str| {
        let mut command = Command::new(BINARY);
        command.arg("health").args(arguments).env("KAFKA_LISTENERS", listeners).output().unwrap()
    };
    let port = broker.address.rsplit(':').next().unwrap();
    assert!(health(&[], &format!("PLAINTEXT://:{port}")).status.success());
    let mut by_file = Command::new(BINARY);
    assert!(by_file.args(["health", "--config"]).arg(&file).output().unwrap().status.success());
    assert_eq!(failed(&health(&["--timeout-ms", "500"], "PLAINTEXT://127.0.0.1:1")).0, 5);
}

#[test]
fn a_service_manager_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let child = Command::new(BINARY)
        .args(["serve", "--log", "warn", "--set", &format!("log.dirs={}", dir.path().join("data").display())])
        .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "shards=1"])
        .env("NOTIFY_SOCKET", &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let told = |bytes: &mut [u8; 64]| {
        let len = socket.recv(bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    assert_eq!(told(&mut [0; 64]), "READY=1");
    interrupt(&child, "TERM");
    assert_eq!(told(&mut [0; 64]), "STOPPING=1");
    let mut child = child;
    assert!(child.wait().unwrap().success());
}

#[test]
fn tuning_is_checked_planned_applied_and_undone() {
    let tree = tempfile::tempdir().unwrap();
    let put = |file: &str, text: &str| {
        let path = tree.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let value = |file: &str| std::fs::read_to_string(tree.path().join(file)).unwrap();
    put("proc/sys/vm/swappiness", "60\n");
    put("proc/sys/net/core/somaxconn", "128\n");
    let record = tree.path().join("record.json");
    let tune = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["tune", "--root"]).arg(tree.path()).arg("--record").arg(&record);
        command.args(args).output().unwrap()
    };
    let checked = text(&tune(&["check"]));
    assert!(checked.contains("swappiness") && checked.contains("change"), "{checked}");
    assert_eq!(tune(&["check", "--strict"]).status.code(), Some(1));
    let plan = text(&tune(&["plan", "--only", "swappiness"]));
    assert_eq!(plan, "# swappiness\n--- /proc/sys/vm/swappiness\n-60\n+1\n");
    assert_eq!(value("proc/sys/vm/swappiness"), "60\n", "nothing has been changed yet");
    assert!(tune(&["apply", "--skip", "swappiness"]).status.success());
    assert_eq!((&*value("proc/sys/vm/swappiness"), &*value("proc/sys/net/core/somaxconn")), ("60\n", "4096"));
    let json: Value = serde_json::from_slice(&tune(&["apply", "--json"]).stdout).unwrap();
    assert_eq!((&json[0]["item"], &json[0]["to"]), (&"swappiness".into(), &"1".into()));
    assert!(tune(&["undo"]).status.success());
    assert_eq!((&*value("proc/sys/vm/swappiness"), &*value("proc/sys/net/core/somaxconn")), ("60", "128"));
    assert!(text(&tune(&["undo"])).contains("nothing was applied") && !record.exists());
    // With the disk measured around it, the item tells what it did.
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = data.path().to_str().unwrap();
    let measured = [
        "apply",
        "--only",
        "swappiness",
        "--dir",
        place,
        "--measure",
        "--seconds",
        "0.02",
        "--file-mib",
        "8",
    ];
    assert!(text(&tune(&measured)).contains("BEFORE"));
    let told = text(&tune(&["explain", "swappiness"]));
    assert!(
        told.contains(&format!("**On this host.** {place}: "))
            && told.contains("synced writes, 4 KiB, p50: "),
        "{told}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&text(&tune(&["check", "--only", "swappiness", "--json"]))).unwrap();
    assert_eq!(json[0]["measured"].as_array().unwrap().len(), 1);
    assert!(tune(&["undo"]).status.success() && value("proc/sys/vm/swappiness") == "60");
    assert_eq!(tune(&["check", "--only", "swapiness"]).status.code(), Some(2));
    assert!(text(&tune(&["explain", "swappiness"])).contains("vm.swappiness"));
    assert_eq!(tune(&["explain", "no-such-item"]).status.code(), Some(6));
    assert_eq!(tune(&["measure"]).status.code(), Some(2), "no directory was named");
}

/// The real files of a network namespace of the test's own, where root may make one.
#[test]
fn tuning_of_a_real_network_namespace_leaves_it_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "sysctl() {{ cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/tcp_slow_start_after_idle; }}
         tune() {{ '{BINARY}' tune \"$@\" --only listen-backlog --only slow-start-after-idle --record '{0}/record'; }}
         echo 128 > /proc/sys/net/core/somaxconn; echo 1 > /proc/sys/net/ipv4/tcp_slow_start_after_idle
         sysctl > '{0}/before'; tune apply > '{0}/log' || exit 1
         sysctl > '{0}/applied'; tune undo >> '{0}/log' || exit 1; sysctl > '{0}/after'",
        dir.path().display()
    );
    let output = Command::new("unshare").args(["--net", "sh", "-c", &script]).output();
    let Ok(output) = output.map(|output| (output.status, failed(&output).1)) else { return };
    if output.1.contains("unshare") {
        return; // not root, or a sandbox without namespaces
    }
    let file = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    assert!(output.0.success(), "{}{}", output.1, file("log"));
    assert_eq!((&*file("before"), &*file("applied"), &*file("after")), ("128\n1\n", "4096\n0\n", "128\n1\n"));
}

/// The real tree, as far as a network namespace of its own goes; where root is not to be had there is nothing to see.
#[test]
fn a_real_host_is_as_it_was_after_apply_and_undo() {
    if !Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("no network namespace may be made here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        cd /proc/sys/net/ipv4
        echo 1 > tcp_slow_start_after_idle; echo 1000 > tcp_max_syn_backlog
        show() { cat tcp_slow_start_after_idle tcp_max_syn_backlog; }
        show
        "$0" tune apply --only slow-start-after-idle --record "$1" > "$2" || exit 1
        "$0" tune apply --only listen-backlog --record "$1" >> "$2" || exit 1
        show
        "$0" tune undo --record "$1" >> "$2" || exit 1
        show
        test ! -e "$1""#;
    let output = Command::new("unshare")
        .args(["-n", "sh", "-c", script, env!("CARGO_BIN_EXE_ringlog")])
        .args([dir.path().join("record"), dir.path().join("said")])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["1", "1000", "0", "4096", "1", "1000"]);
}
