//! A thread of the generator: one driver, some producers, some consumers, one loop.
//!
//! Its life: connect, say so, wait for the times of the run, load until the plan is over and every record has its outcome, read to
//! the end the collecting thread names, hand over what was measured. Started by [`super::engine`].

use std::sync::Arc;
use std::sync::mpsc::Sender as Channel;

use super::cluster::Shared;
use super::fetcher::Fetcher;
use super::link::split;
use super::options::Options;
use super::recorder::{Interval, Recorder};
use super::schedule::Phases;
use super::sender::{Acknowledged, Seat, Sender};
use super::turn::Turn;
use super::verify::{PartitionCheck, Sent};
use crate::io::affinity;
use crate::io::driver::{Driver, DriverKind, DriverOptions};
use crate::io::usage::{CpuTime, thread_cpu_time, wake_exactly};
use crate::io::{Completion, Io};

/// The longest a turn sleeps: maps and the end of the run are looked at in between.
const SLEEP_NS_MAX: u64 = 20_000_000;
/// How long the connections may take at the start.
const CONNECT_NS_MAX: u64 = 15_000_000_000;
const RECEIVE_BYTES: usize = 4 << 20;

/// What a thread is to do.
pub struct Job {
    pub number: usize,
    pub driver: DriverKind,
    pub options: Arc<Options>,
    pub run: u32,
    pub seed: u64,
    pub seats: Vec<Seat>,
    /// Consumer, partition, first offset.
    pub parts: Vec<(u32, u32, i64)>,
    /// Whether to check the records of every run.
    pub all_runs: bool,
    pub shared: Arc<Shared>,
    pub intervals: Channel<Interval>,
    /// Told once the thread is connected, or why it is not.
    pub ready: Channel<Result<(), String>>,
}

/// What a thread brings back.
pub struct Outcome {
    pub sent: Vec<((u16, u32), Sent)>,
    pub checks: Vec<PartitionCheck>,
    pub ledger: Vec<Acknowledged>,
    /// Since the end of the warm-up.
    pub cpu: CpuTime,
    /// Partitions not read to their end.
    pub undrained: usize,
    /// The last thing that went wrong, for the report.
    pub error: Option<String>,
}

/// Runs a thread's part; `Err`: it never began.
pub fn run(job: Job) -> Result<Outcome, String> {
    if let Some(&core) = job.options.pin.get(job.number % job.options.pin.len().max(1))
        && !affinity::pin_to(core)
    {
        let error = format!("core {core} is not to be had");
        let _ = job.ready.send(Err(error.clone()));
        return Err(error);
    }
    wake_exactly();
    let options = DriverOptions {
        receive_bytes: RECEIVE_BYTES,
        spin_ns: job.options.spin_ns,
        ..DriverOptions::default()
    };
    match Driver::new(job.driver, options) {
        Ok(io) => Worker::new(job, io).run(),
        Err(error) => {
            let error = format!("{}: {error}", job.driver);
            let _ = job.ready.send(Err(error.clone()));
            Err(error)
        }
    }
}

struct Worker<I: Io> {
    io: I,
    job: Job,
    sender: Sender,
    fetcher: Fetcher,
    completions: Vec<Completion>,
    map_number: u64,
    /// The CPU time at the end of the warm-up.
    cpu_before: Option<CpuTime>,
    produced: bool,
    /// When the plan was over.
    over_ns: Option<u64>,
    /// When the readers were told their ends.
    draining_ns: Option<u64>,
}

impl<I: Io> Worker<I> {
    fn new(job: Job, io: I) -> Worker<I> {
        let map_number = job.shared.map_number();
        let map = job.shared.map();
        let sender = Sender::new(&job.options, job.run, job.seed, job.seats.clone(), map.clone());
        let fetcher = Fetcher::new(&job.options, job.run, job.all_runs, &job.parts, map);
        Worker {
            io,
            job,
            sender,
            fetcher,
            completions: Vec::new(),
            map_number,
            cpu_before: None,
            produced: false,
            over_ns: None,
            draining_ns: None,
        }
    }

    fn run(mut self) -> Result<Outcome, String> {
        // Nothing is measured before the run; this one's counts go nowhere.
        let (nowhere, _) = std::sync::mpsc::channel();
        let mut early = Recorder::new(Phases::new(self.io.now(), 0, None), nowhere);
        let connected = self.connect(&mut early);
        let _ = self.job.ready.send(connected.clone());
        connected?;
        let phases = loop {
            match self.job.shared.phases() {
                Some(phases) => break phases,
                None if self.job.shared.should_stop() => return Err("stopped before it began".into()),
                None => self.step(self.io.now() + 1_000_000, &mut early),
            }
        };
        let mut recorder = Recorder::new(phases, self.job.intervals.clone());
        self.sender.begin(&self.job.options, phases);
        while self.io.now() < phases.start_ns {
            self.step(phases.start_ns, &mut recorder);
        }
        self.load(phases, &mut recorder);
        recorder.hand_over();
        let after = thread_cpu_time();
        let before = self.cpu_before.unwrap_or(after);
        Ok(Outcome {
            undrained: self.fetcher.undrained(),
            ledger: self.sender.ledger.take().unwrap_or_default(),
            error: self.sender.last_error.take().or(self.fetcher.last_error.take()),
            sent: self.sender.into_sent(),
            checks: self.fetcher.into_checks(),
            cpu: CpuTime {
                user_ns: after.user_ns - before.user_ns,
                system_ns: after.system_ns - before.system_ns,
            },
        })
    }

    fn connect(&mut self, recorder: &mut Recorder) -> Result<(), String> {
        if !self.job.seats.is_empty() {
            self.sender.connect(&mut self.io);
        }
        self.fetcher.connect(&mut self.io);
        let deadline = self.io.now() + CONNECT_NS_MAX;
        while !(self.sender.is_connected() && self.fetcher.is_connected()) {
            if self.io.now() > deadline {
                let why = self.sender.last_error.take().or(self.fetcher.last_error.take());
                return Err(why.unwrap_or_else(|| "the connections were not made in time".into()));
            }
            self.step(self.io.now() + SLEEP_NS_MAX, recorder);
            self.sender.reopen(&mut self.io);
            self.fetcher.reopen(&mut self.io);
        }
        Ok(())
    }

    /// Sleeps until there is something to do and hands the completions out.
    fn step(&mut self, wake_ns: u64, recorder: &mut Recorder) {
        let mut completions = std::mem::take(&mut self.completions);
        self.io.turn(wake_ns, &mut completions);
        let (now_ns, wall_ms) = (self.io.now(), self.io.wall_ms());
        let turn = &mut Turn { now_ns, wall_ms, recorder, shared: &self.job.shared };
        for completion in completions.drain(..) {
            let (number, kind) = split(completion.token);
            // Even numbers are produce connections, odd ones fetch connections.
            if number % 2 == 0 {
                self.sender.complete(&mut self.io, number / 2, kind, completion, turn);
            } else {
                self.fetcher.complete(&mut self.io, number / 2, kind, completion, turn);
            }
        }
        self.completions = completions;
    }

    fn load(&mut self, phases: Phases, recorder: &mut Recorder) {
        let shared = self.job.shared.clone();
        loop {
            let (now_ns, wall_ms) = (self.io.now(), self.io.wall_ms());
            if self.cpu_before.is_none() && now_ns >= phases.measure_ns {
                self.cpu_before = Some(thread_cpu_time());
            }
            let second_over = recorder.turn(now_ns);
            let turn = &mut Turn { now_ns, wall_ms, recorder, shared: &shared };
            if second_over {
                self.sender.expire(turn);
            }
            if self.map_number != shared.map_number() {
                self.map_number = shared.map_number();
                let map = shared.map();
                self.sender.set_map(map.clone());
                self.fetcher.set_map(map);
            }
            if !self.produced {
                self.sender.turn(&mut self.io, turn);
                self.finish_producing(phases, turn);
            }
            self.fetcher.turn(&mut self.io, turn);
            if self.produced && self.is_drained(now_ns) {
                return;
            }
            let sender = if self.produced { u64::MAX } else { self.sender.wake_ns(now_ns) };
            let wake = sender.min(self.fetcher.wake_ns(now_ns));
            let wake = wake.max(now_ns + self.job.options.tick_ns).min(recorder.ends_ns());
            self.step(wake.min(now_ns + SLEEP_NS_MAX), recorder);
        }
    }

    /// Whether the producers have finished, or have had the time they were given for it.
    fn finish_producing(&mut self, phases: Phases, turn: &mut Turn<'_>) {
        if turn.shared.should_stop() {
            self.sender.stop(false, turn);
        }
        // A backlog does not end the plan: what was due is sent, unless it takes too long.
        if self.over_ns.is_none() && turn.now_ns < phases.stop_ns && !self.sender.is_over(turn.now_ns) {
            return;
        }
        let over = *self.over_ns.get_or_insert(turn.now_ns);
        let late = turn.now_ns - over > self.job.options.drain_timeout_ns;
        if late {
            self.sender.abandon(turn);
        }
        if late || self.sender.is_finished(&mut self.io, turn.now_ns) {
            self.produced = true;
            turn.shared.produced();
        }
    }

    fn is_drained(&mut self, now_ns: u64) -> bool {
        if self.job.parts.is_empty() || self.fetcher.is_finished() {
            return true;
        }
        if self.job.shared.read_ends().is_none() {
            return false;
        }
        let since = *self.draining_ns.get_or_insert(now_ns);
        now_ns - since.max(self.fetcher.progress_ns) > self.job.options.drain_timeout_ns
    }
}
