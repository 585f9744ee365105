//! Kills the broker at random moments under load, and looks for what it had acknowledged.
//!
//! A round: several loads begin (idempotent producers with acks=1 and acks=all, plain ones, small and large batches, few
//! and many partitions) and a group commits offsets; at a random moment the broker gets SIGKILL and starts again on the
//! same directory; the loads go on to their end, and each checks what it reads. Every few rounds, and at the end, an audit
//! reads all logs from the beginning and holds them against every acknowledgement since the first round.
//!
//!     cargo test --release --test crash -- --rounds 200 [--seed N] [--dir DIR] [--port PORT]
//!
//! `CRASH_COPY=1` keeps a copy of the directory as the last kill left it (DIR/data.killed).
//! `CRASH_START=COMMAND` runs another broker: `COMMAND PORT DIR` has to start it, wait until it serves, and print its process id.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use ringlog::io::uring::{UringIo, UringOptions};
use ringlog::load::admin::Admin;
use ringlog::load::audit;
use ringlog::load::engine::{self, Finished};
use ringlog::load::options::Options;
use ringlog::load::payload::Random;
use ringlog::load::report::RunVerdict;
use ringlog::load::sender::Acknowledged;

/// Rounds of an ordinary test run.
const ROUNDS_DEFAULT: u32 = 3;
const NAME: &str = "crash";
const AUDIT_EVERY: u32 = 10;
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const GROUP: &str = "crash-group";
const COMMIT_TOPIC: &str = "crash-commit";

/// What a round may run; two or three of them at a time.
const PROFILES: [(&str, &str); 6] = [
    ("crash-small", "--partitions 4 --rate 2000 --record-size 100 --idempotent --acks all"),
    (
        "crash-acks1",
        "--partitions 1 --rate 2000 --record-size 200 --batch-bytes 4KiB --linger 2ms --idempotent --acks 1",
    ),
    (
        "crash-large",
        "--partitions 8 --rate 6MB/s --batch-bytes 128KiB --linger 5ms --producers 3 --idempotent --acks all",
    ),
    (
        "crash-keyed",
        "--partitions 50 --keys random --rate 1500 --record-size 64 --producers 5 --compression lz4 --idempotent --acks 1",
    ),
    (
        "crash-mixed",
        "--partitions 3 --keys 100 --rate 1000 --record-size 500 --producers 2 --linger 10ms --compression zstd --idempotent --acks all",
    ),
    ("crash-plain", "--partitions 2 --rate 1000 --record-size 100 --acks 1"),
];

#[derive(Parser)]
struct Settings {
    #[arg(long, default_value_t = ROUNDS_DEFAULT)]
    rounds: u32,
    /// Decides the moments and the loads; printed when it is drawn
    #[arg(long)]
    seed: Option<u64>,
    /// Kept; a temporary one otherwise, removed when all went well
    #[arg(long)]
    dir: Option<PathBuf>,
    #[arg(long)]
    port: Option<u16>,
    /// As for any test: nothing runs when none of these is part of its name
    filters: Vec<String>,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    test_threads: Option<u32>,
}

#[derive(Parser)]
struct Load {
    #[command(flatten)]
    args: ringlog::load::Args,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let wanted =
        settings.filters.is_empty() || settings.filters.iter().any(|part| NAME.contains(part.as_str()));
    if settings.list || !wanted {
        println!("{}", if settings.list { "crash: test" } else { "test result: ok. 0 passed; 0 failed" });
        return ExitCode::SUCCESS;
    }
    let seed = settings.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |time| time.as_nanos() as u64 & 0xffff_ffff)
    });
    let temporary =
        tempfile::Builder::new().prefix("ringlog-crash-").tempdir().expect("a temporary directory");
    let dir = settings.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    let port = settings.port.unwrap_or_else(free_port);
    println!("crash: {} rounds, seed {seed}, directory {}, port {port}", settings.rounds, dir.display());
    let mut world = World::new(&dir, port, seed);
    for round in 0..settings.rounds {
        let outcome = world.round(round).and_then(|()| {
            if (round + 1) % AUDIT_EVERY == 0 || round + 1 == settings.rounds {
                world.audit()
            } else {
                Ok(())
            }
        });
        if let Err(error) = outcome {
            println!("crash: round {round} of seed {seed} FAILED: {error}");
            println!("crash: the directory is kept: {}", dir.display());
            println!("test result: FAILED. 0 passed; 1 failed");
            let _ = temporary.keep();
            return ExitCode::FAILURE;
        }
    }
    println!(
        "crash: {} rounds passed, {} records acknowledged and found",
        settings.rounds, world.acknowledged
    );
    ExitCode::SUCCESS
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// A running broker; killed when dropped.
enum Broker {
    Ours(Child),
    Other(u32),
}

impl Broker {
    fn start(dir: &Path, port: u16) -> Result<Broker, String> {
        match std::env::var("CRASH_START") {
            Ok(command) => {
                let mut other = Command::new(command);
                let output =
                    other.arg(port.to_string()).arg(dir).output().map_err(|error| error.to_string())?;
                let text = String::from_utf8_lossy(&output.stdout);
                let pid = text.split_whitespace().last().and_then(|word| word.parse().ok());
                pid.map(Broker::Other).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
            }
            Err(_) => Broker::start_ours(dir, port),
        }
    }

    fn start_ours(dir: &Path, port: u16) -> Result<Broker, String> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("broker.log"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringlog"))
            .arg("serve")
            .args(["--set", &format!("log.dirs={}", dir.join("data").display())])
            .args(["--set", &format!("listeners=PLAINTEXT://127.0.0.1:{port}")])
            .args(["--set", "shards=2"])
            .stdout(Stdio::piped())
            .stderr(log.map_err(|error| error.to_string())?)
            .spawn()
            .map_err(|error| error.to_string())?;
        let out = child.stdout.take().ok_or("no standard output")?;
        let (ready, wait) = std::sync::mpsc::channel();
        thread::spawn(move || {
            // Reads on to the end, so that the broker never writes into a closed pipe.
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if line.starts_with("ready ") {
                    let _ = ready.send(());
                }
            }
        });
        let broker = Broker::Ours(child);
        match wait.recv_timeout(READY_TIMEOUT) {
            Ok(()) => Ok(broker),
            Err(_) => Err("the broker was not ready in time, or ended; see broker.log".into()),
        }
    }

    /// SIGKILL, and waits until it is gone.
    fn kill(self) {
        drop(self);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        match self {
            Broker::Ours(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Broker::Other(pid) => {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
                while Path::new(&format!("/proc/{pid}")).exists() {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
}

fn admin(port: u16) -> Result<Admin<UringIo>, String> {
    let io = UringIo::new(UringOptions::default()).map_err(|error| error.to_string())?;
    Admin::connect(io, &[format!("127.0.0.1:{port}")])
}

struct World {
    dir: PathBuf,
    port: u16,
    random: Random,
    broker: Option<Broker>,
    ledgers: BTreeMap<&'static str, Vec<Acknowledged>>,
    /// Runs of plain producers: they may write twice.
    plain: BTreeSet<u32>,
    commits: Arc<Commits>,
    acknowledged: u64,
}

/// What the committing group has tried, and what it was told is done.
#[derive(Default)]
struct Commits {
    tried: AtomicI64,
    done: AtomicI64,
    stop: AtomicBool,
}

impl World {
    fn new(dir: &Path, port: u16, seed: u64) -> World {
        World {
            dir: dir.to_owned(),
            port,
            random: Random::new(seed),
            broker: None,
            ledgers: BTreeMap::new(),
            plain: BTreeSet::new(),
            commits: Arc::default(),
            acknowledged: 0,
        }
    }

    fn start(&mut self) -> Result<(), String> {
        if self.broker.is_none() {
            self.broker = Some(Broker::start(&self.dir, self.port)?);
        }
        Ok(())
    }

    fn admin(&self) -> Result<Admin<UringIo>, String> {
        admin(self.port)
    }

    fn round(&mut self, round: u32) -> Result<(), String> {
        self.start()?;
        self.check_commits()?;
        let began = Instant::now();
        let mut loads = Vec::new();
        for (topic, profile) in self.choose() {
            let options = self.options(topic, profile)?;
            loads.push((topic, thread::spawn(move || engine::run(&options))));
        }
        let committer = self.commit()?;
        let mut kills = Vec::new();
        // Mostly once; now and then the recovery itself is killed, or the broker just after it.
        for _ in 0..=u64::from(self.random.below(4) == 0) {
            let wait = Duration::from_millis(50 + self.random.below(1500));
            thread::sleep(wait);
            if let Some(broker) = self.broker.take() {
                broker.kill();
            }
            kills.push(began.elapsed().as_millis());
            self.keep_copy()?;
            thread::sleep(Duration::from_millis(self.random.below(200)));
            self.start()?;
        }
        let (mut acked, mut retries) = (0, 0);
        let mut failure = None;
        for (topic, load) in loads {
            match load.join().map_err(|_| "a load panicked")? {
                Ok(finished) => {
                    let produced = finished.report.produced.as_ref();
                    acked += produced.map_or(0, |it| it.flow.records);
                    retries += produced.map_or(0, |it| it.retries);
                    if finished.report.verdict == RunVerdict::Failed {
                        failure = Some(format!("{topic}: {}", describe(&finished)));
                    }
                    if topic == "crash-plain" {
                        self.plain.insert(finished.run);
                    }
                    self.ledgers.entry(topic).or_default().extend(finished.ledger);
                }
                // Killed while it was setting up: nothing was sent.
                Err(error) => println!("  {topic}: did not begin: {error}"),
            }
        }
        self.commits.stop.store(true, Ordering::Relaxed);
        committer.join().map_err(|_| "the committer panicked")?;
        println!("round {round}: killed at {kills:?} ms; {acked} acknowledged, {retries} batches sent again");
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.check_commits()?;
        // The next round finds a log that was stopped while idle, in one of two ways or not at all.
        if self.random.below(3) == 0
            && let Some(broker) = self.broker.take()
        {
            broker.kill();
        }
        Ok(())
    }

    /// With `CRASH_COPY` set, what the killed broker left, for a look at it after a failure.
    fn keep_copy(&self) -> Result<(), String> {
        if std::env::var_os("CRASH_COPY").is_none() {
            return Ok(());
        }
        let (from, to) = (self.dir.join("data"), self.dir.join("data.killed"));
        let _ = std::fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-a").args([&from, &to]).status();
        copied.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Two or three different profiles.
    fn choose(&mut self) -> Vec<(&'static str, &'static str)> {
        let mut all = PROFILES.to_vec();
        let count = 2 + self.random.below(2) as usize;
        (0..count).map(|_| all.remove(self.random.below(all.len() as u64) as usize)).collect()
    }

    fn options(&mut self, topic: &str, profile: &str) -> Result<Options, String> {
        let line = format!(
            "load --bootstrap 127.0.0.1:{} --topic {topic} --keep {profile} --duration 2s --quiet --seed {} \
             --retry-backoff 20ms --max-lag 1h",
            self.port,
            self.random.next_u64() >> 1
        );
        let load = Load::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
        Ok(Options { keep_ledger: true, ..Options::from_args(&load.args)? })
    }

    /// Begins to commit rising offsets, one after the other.
    fn commit(&mut self) -> Result<thread::JoinHandle<()>, String> {
        let mut admin = self.admin()?;
        let topic = ringlog::load::options::TopicOptions {
            name: None,
            partitions: 1,
            replication_factor: -1,
            configs: Vec::new(),
            keep: true,
        };
        admin.create_topic(COMMIT_TOPIC, &topic)?;
        self.commits.stop.store(false, Ordering::Relaxed);
        let (commits, port) = (self.commits.clone(), self.port);
        Ok(thread::spawn(move || {
            let Ok(mut admin) = crate::admin(port) else { return };
            while !commits.stop.load(Ordering::Relaxed) {
                let next = commits.tried.fetch_add(1, Ordering::SeqCst) + 1;
                // One that fails may have been taken all the same; the next one is higher.
                match admin.commit(GROUP, COMMIT_TOPIC, 0, next) {
                    Ok(()) => commits.done.store(next, Ordering::SeqCst),
                    Err(_) => thread::sleep(Duration::from_millis(20)),
                }
            }
        }))
    }

    fn check_commits(&mut self) -> Result<(), String> {
        let (done, tried) =
            (self.commits.done.load(Ordering::SeqCst), self.commits.tried.load(Ordering::SeqCst));
        if done == 0 {
            return Ok(());
        }
        let found = self.admin()?.committed(GROUP, COMMIT_TOPIC, 0)?;
        if (done..=tried).contains(&found) {
            return Ok(());
        }
        Err(format!(
            "the group's offset is {found}; {done} was acknowledged, {tried} was the last that was tried"
        ))
    }

    fn audit(&mut self) -> Result<(), String> {
        self.start()?;
        let mut admin = self.admin()?;
        self.acknowledged = 0;
        for (topic, ledger) in &self.ledgers {
            let audit = audit::topic(&mut admin, topic, ledger, &self.plain)?;
            if !audit.passed() {
                return Err(format!("audit of {topic}: {audit:#?}"));
            }
            self.acknowledged += audit.acknowledged;
        }
        println!("audit: all {} acknowledged records are where they should be", self.acknowledged);
        Ok(())
    }
}

fn describe(finished: &Finished) -> String {
    let report = &finished.report;
    let examples = report.verification.as_ref().map_or(&[][..], |it| &it.examples);
    format!("{}; last error {:?}\n{}", report.reasons.join("; "), report.last_error, examples.join("\n"))
}
