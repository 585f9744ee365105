//! The built broker on a real file system that has no space left, and on one whose device fails.
//!
//! A small file system is mounted where only the broker sees it: tmpfs in a user namespace, or, for a device that fails,
//! ext4 on a loop device that is shut down under the broker: from then on everything ends with EIO, and what was not on
//! stable media is gone. The second needs root; where a mount is refused the test says so and does nothing.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_ringlog");
const RECORD_BYTES: usize = 200 << 10;
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that keeps a mount namespace.
struct Mounts {
    holder: Child,
    /// What brings another process into it.
    enter: &'static [&'static str],
}

impl Mounts {
    /// Runs the script in new namespaces; `None` when they or what it does are refused.
    fn new(unshare: &[&str], enter: &'static [&'static str], script: &str, dir: &Path) -> Option<Mounts> {
        let script = format!("set -e; {script}; echo mounted; exec sleep 3600");
        let spawned = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c", &script])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = spawned.ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mounts = Mounts { holder, enter };
        if line.trim_end() != "mounted" {
            eprintln!("skipped: the file system could not be mounted");
            return None;
        }
        Some(mounts)
    }

    /// A path as it is in there.
    fn inside(&self, path: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(path.strip_prefix("/").unwrap())
    }

    /// A program in there.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.holder.id().to_string()).args(self.enter).arg(program);
        command
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

struct Broker {
    child: Child,
    address: String,
}

impl Broker {
    fn start(mounts: &Mounts, dirs: &[PathBuf; 2]) -> Broker {
        let mut child = mounts
            .command(BINARY)
            .args(["serve", "--log", "error", "--set", "shards=1"])
            .args(["--set", &format!("log.dirs={},{}", dirs[1].display(), dirs[0].display())])
            .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("ready ").expect("the broker is ready");
        Broker { child, address: address.split(' ').next().unwrap().to_owned() }
    }

    fn run(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(BINARY)
            .args(args)
            .env("RINGLOG_BOOTSTRAP", &self.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn create(&self, topic: &str) {
        let made = self.run(&["topic", "create", topic, "--partitions", "1"], "");
        assert!(made.status.success(), "{made:?}");
    }

    /// Writes a record of this number; what the broker says where it does not take it.
    fn produce(&self, topic: &str, number: usize) -> Result<(), String> {
        let record = format!("{number:06} {}\n", "x".repeat(RECORD_BYTES));
        let done = self.run(&["produce", topic, "--request-timeout-ms", "2000"], &record);
        if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
    }

    /// The numbers of a topic's records; none comes twice.
    fn consume(&self, topic: &str) -> BTreeSet<usize> {
        let read = self.run(&["consume", topic, "--from", "beginning", "--no-follow"], "");
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        let text = String::from_utf8(read.stdout).unwrap();
        let mut numbers = BTreeSet::new();
        for line in text.lines() {
            assert_eq!(line.len(), RECORD_BYTES + 7);
            numbers.insert(line[..6].parse().unwrap());
        }
        numbers
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Writes until one record is refused: the numbers of those that were taken, and what was said of the other.
    fn produce_until_refused(&self, topic: &str) -> (BTreeSet<usize>, String) {
        let mut taken = BTreeSet::new();
        for number in 0..1000 {
            match self.produce(topic, number) {
                Ok(()) => _ = taken.insert(number),
                Err(said) => return (taken, said),
            }
        }
        panic!("the disk never filled up");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Makes a topic in each directory: the one in `dir`, and another.
fn topics(broker: &Broker, mounts: &Mounts, dir: &Path) -> (&'static str, &'static str) {
    for topic in ["t", "u"] {
        broker.create(topic);
        broker.produce(topic, 999).unwrap();
    }
    wait_for("a log in the directory", || {
        let has = |topic: &str| mounts.inside(dir).join(format!("{topic}-0")).exists();
        match (has("t"), has("u")) {
            (true, false) => Some(("t", "u")),
            (false, true) => Some(("u", "t")),
            (true, true) => panic!("both logs are in one directory"),
            (false, false) => None,
        }
    })
}

#[test]
fn a_full_disk_refuses_and_takes_writes_again() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [dir.path().join("small"), dir.path().join("large")];
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let script = "mount -t tmpfs -o size=48m none \"$0/small\"";
    let enter = &["--user", "--mount", "--preserve-credentials"];
    let Some(mounts) = Mounts::new(&["-rm"], enter, script, dir.path()) else { return };
    let mut broker = Broker::start(&mounts, &dirs);
    let (full, free) = topics(&broker, &mounts, &dirs[0]);
    let ballast = mounts.inside(&dirs[0]).join("ballast");
    std::fs::write(&ballast, vec![0; 32 << 20]).unwrap();

    let (mut taken, said) = broker.produce_until_refused(full);
    assert!(said.contains("KAFKA_STORAGE_ERROR"), "{said}");
    assert!(taken.len() > 5, "{taken:?}");
    // The other directory goes on, and what there is can be read.
    for number in 0..5 {
        broker.produce(free, number).unwrap();
    }
    assert!(broker.consume(full).is_superset(&taken));
    assert!(broker.is_alive());

    std::fs::remove_file(&ballast).unwrap();
    wait_for("writes come back", || broker.produce(full, 500).ok());
    for number in 501..520 {
        broker.produce(full, number).unwrap();
    }
    taken.extend(500..520);
    assert!(broker.consume(full).is_superset(&taken));

    drop(broker); // by SIGKILL
    let broker = Broker::start(&mounts, &dirs);
    assert!(broker.consume(full).is_superset(&taken));
    assert!(broker.consume(free).is_superset(&(0..5).collect()));
    broker.produce(full, 600).unwrap();
}

/// Makes ext4 fail every operation and forget what its journal has not written (EXT4_IOC_SHUTDOWN, no log flush).
const SHUT_DOWN: &str = "import fcntl, os, struct, sys\n\
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

#[test]
fn a_device_that_fails_takes_its_directory_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [dir.path().join("failing"), dir.path().join("sound")];
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let mount = "mount -o loop \"$0/image\" \"$0/failing\"";
    let script = format!("cd \"$0\"; truncate -s 128M image; mkfs.ext4 -q image; {mount}");
    let Some(mounts) = Mounts::new(&["-m"], &["--mount"], &script, dir.path()) else { return };
    let mut broker = Broker::start(&mounts, &dirs);
    let (failing, sound) = topics(&broker, &mounts, &dirs[0]);
    for number in 0..10 {
        broker.produce(failing, number).unwrap();
    }
    let shut_down = mounts.command("python3").args(["-c", SHUT_DOWN]).arg(&dirs[0]).status().unwrap();
    assert!(shut_down.success());

    let said = broker.produce(failing, 10).unwrap_err();
    assert!(said.contains("KAFKA_STORAGE_ERROR"), "{said}");
    for number in 0..10 {
        broker.produce(sound, number).unwrap();
    }
    assert!(broker.consume(sound).is_superset(&(0..10).collect()));
    assert!(broker.produce(failing, 11).is_err(), "a failed directory stays offline");
    assert!(broker.is_alive());

    // What was acknowledged as durable is on the device.
    drop(broker); // by SIGKILL
    let again = format!("umount \"$0/failing\" && {mount}");
    let mounted = mounts.command("sh").args(["-c", &again]).arg(dir.path()).status().unwrap();
    assert!(mounted.success());
    let broker = Broker::start(&mounts, &dirs);
    for topic in [failing, sound] {
        assert!(broker.consume(topic).is_superset(&(0..10).collect()), "{topic}");
        broker.produce(topic, 20).unwrap();
    }
}
