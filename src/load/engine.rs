//! A run from beginning to end: sets up, starts the workers, gathers what they measure, follows the cluster for them, tells
//! the readers where to stop, and puts the report together. Everything here may wait; nothing here is on a hot path.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::admin::{Admin, End};
use super::arrivals::Arrivals;
use super::batch::ProducerId;
use super::cluster::{ClusterMap, Shared};
use super::machine::{HostUsage, Noise, ProcessUsage, listener_pid};
use super::options::{Length, Options, Pace, SECOND_NS};
use super::output::Outputs;
use super::payload::mix;
use super::recorder::{Counts, Interval, Latencies};
use super::report::{Asked, Gathered, Report};
use super::schedule::Phases;
use super::sender::{Acknowledged, Seat};
use super::verify::{Allowed, PartitionCheck, Sent, compare};
use super::worker::{self, Job, Outcome};
use crate::io::Io;
use crate::io::driver::{Driver, DriverKind, DriverOptions};
use crate::io::preflight;

/// Between the last connection and the first arrival.
const START_DELAY_NS: u64 = 30_000_000;
const POLL: Duration = Duration::from_millis(10);
/// The shortest time between two looks at the cluster.
const REFRESH_NS_MIN: u64 = 100_000_000;

/// A finished run.
pub struct Finished {
    pub report: Report,
    pub latencies: Latencies,
    /// Every acknowledgement, where `keep_ledger` asked for it.
    pub ledger: Vec<Acknowledged>,
    pub topic: String,
    pub run: u32,
}

/// Runs; `Err`: it did not come about.
pub fn run(options: &Options) -> Result<Finished, String> {
    let driver = preflight::best_driver();
    if driver == DriverKind::Poll {
        tracing::warn!("io_uring is not to be had: the load is driven by epoll, at a higher cost");
    }
    let io = Driver::new(driver, DriverOptions::default()).map_err(|error| format!("{driver}: {error}"))?;
    let mut run = Run::set_up(Admin::connect(io, &options.bootstrap)?, driver, options)?;
    let outcome = run.execute(options);
    run.clean_up(options);
    outcome
}

struct Run<I: Io> {
    admin: Admin<I>,
    driver: DriverKind,
    run: u32,
    seed: u64,
    topic: String,
    created: bool,
    map: ClusterMap,
    /// By partition: where reading begins, and with no producers where it ends.
    first_offsets: Vec<i64>,
    last_offsets: Option<Vec<i64>>,
    ids: Vec<ProducerId>,
}

impl<I: Io> Run<I> {
    fn set_up(mut admin: Admin<I>, driver: DriverKind, options: &Options) -> Result<Run<I>, String> {
        let seed = match options.seed {
            Some(seed) => seed,
            None => admin.random(),
        };
        // Two runs of one seed have to differ, or one would take the other's records for its own.
        let run = (mix(seed ^ admin.random()) as u32).max(1);
        let topic = options.topic.name.clone().unwrap_or_else(|| format!("ringlog-load-{run:08x}"));
        let created = options.producers > 0 && admin.create_topic(&topic, &options.topic)?;
        let map = admin.whole_cluster(&topic)?;
        let reads_only = options.producers == 0;
        // A topic that was just made is in the metadata before its partitions answer.
        let first_offsets =
            admin.ready_offsets(&map, if reads_only { End::Earliest } else { End::Latest })?;
        let last_offsets = if reads_only { Some(admin.offsets(&map, End::Latest)?) } else { None };
        let mut ids = vec![ProducerId::NONE; options.producers as usize];
        if options.idempotent {
            for id in &mut ids {
                *id = admin.producer_id()?;
            }
        }
        Ok(Run { admin, driver, run, seed, topic, created, map, first_offsets, last_offsets, ids })
    }

    fn clean_up(&mut self, options: &Options) {
        if self.created
            && !options.topic.keep
            && let Err(error) = self.admin.delete_topic(&self.topic)
        {
            tracing::warn!(topic = self.topic, error, "the topic was not deleted");
        }
    }

    fn execute(&mut self, options: &Options) -> Result<Finished, String> {
        let shared = Arc::new(Shared::new(self.map.clone(), options.threads as usize));
        if let Some(ends) = self.last_offsets.take() {
            shared.set_read_ends(ends);
        }
        let (intervals_in, intervals) = channel();
        let (ready_in, ready) = channel();
        let shared_options = Arc::new(options.clone());
        let mut threads = Vec::new();
        for number in 0..options.threads as usize {
            let job = Job {
                number,
                options: shared_options.clone(),
                run: self.run,
                seed: self.seed,
                seats: self.seats(options, number),
                parts: self.parts(options, number),
                driver: self.driver,
                all_runs: options.producers == 0,
                shared: shared.clone(),
                intervals: intervals_in.clone(),
                ready: ready_in.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("load-{number}"));
            threads.push(thread.spawn(move || worker::run(job)).map_err(|error| error.to_string())?);
        }
        drop((intervals_in, ready_in));
        for _ in 0..threads.len() {
            if let Err(error) = ready.recv().unwrap_or_else(|_| Err("a thread ended early".into())) {
                shared.ask_to_stop();
                return Err(error);
            }
        }
        let started_ms = self.admin.wall_ms();
        let phases = Phases::new(
            self.admin.now_ns() + START_DELAY_NS,
            options.warmup_ns,
            options.duration_ns().filter(|_| options.producers > 0),
        );
        shared.set_phases(phases);
        let mut outputs = Outputs::open(&options.outputs, started_ms, phases)?;
        let gathered = self.gather(options, &shared, phases, &intervals, &threads, &mut outputs)?;
        self.finish(options, started_ms, phases, gathered, threads, outputs)
    }

    /// The producers of a thread. A group shares connections and stays on one thread.
    fn seats(&self, options: &Options, thread: usize) -> Vec<Seat> {
        let groups = options.connections.min(options.producers).max(1);
        (0..options.producers)
            .map(|number| Seat { number, id: self.ids[number as usize], group: number % groups })
            .filter(|seat| seat.group as usize % options.threads as usize == thread)
            .collect()
    }

    /// The partitions that the consumers of a thread read.
    fn parts(&self, options: &Options, thread: usize) -> Vec<(u32, u32, i64)> {
        if options.consumers == 0 {
            return Vec::new();
        }
        self.first_offsets
            .iter()
            .enumerate()
            .map(|(partition, &offset)| (partition as u32 % options.consumers, partition as u32, offset))
            .filter(|(consumer, ..)| *consumer as usize % options.threads as usize == thread)
            .collect()
    }

    fn gather(
        &mut self,
        options: &Options,
        shared: &Shared,
        phases: Phases,
        intervals: &Receiver<Interval>,
        threads: &[JoinHandle<Result<Outcome, String>>],
        outputs: &mut Outputs,
    ) -> Result<Measured, String> {
        let mut measured = Measured::default();
        let broker_pid = self.broker_pid(options);
        let (mut last_refresh_ns, mut produced_ns) = (0, None);
        loop {
            match intervals.recv_timeout(POLL) {
                Ok(interval) => {
                    outputs.add(&interval);
                    if interval.second >= 0 {
                        measured.latencies.merge(&interval.latencies);
                    }
                    measured.counts.add(&interval.counts);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now_ns = self.admin.tick();
            if measured.before.is_none() && now_ns >= phases.measure_ns {
                measured.before = Some(Usage::read(broker_pid));
            }
            if now_ns >= last_refresh_ns + REFRESH_NS_MIN && shared.take_refresh() {
                last_refresh_ns = now_ns;
                match self.admin.cluster(&self.topic) {
                    Ok(map) if map.leaders.len() == self.map.leaders.len() => shared.set_map(map),
                    // Not up, or not complete: asked again soon.
                    _ => shared.want_refresh(),
                }
            }
            if !shared.is_producing() && shared.read_ends().is_none() {
                let since_ns = *produced_ns.get_or_insert(now_ns);
                match self.read_ends(shared) {
                    Ok(ends) => shared.set_read_ends(ends),
                    // The brokers do not come back: what was acknowledged has to be there all the same.
                    Err(_) if self.admin.now_ns() - since_ns > options.drain_timeout_ns => {
                        shared.set_read_ends(shared.acked_ends());
                    }
                    Err(error) => tracing::debug!(error, "the ends of the log are not known yet"),
                }
            }
            if threads.iter().all(JoinHandle::is_finished) {
                // What they sent last is taken before the channel says it is empty.
                while let Ok(interval) = intervals.try_recv() {
                    outputs.add(&interval);
                    if interval.second >= 0 {
                        measured.latencies.merge(&interval.latencies);
                    }
                    measured.counts.add(&interval.counts);
                }
                break;
            }
        }
        measured.after = Some(Usage::read(broker_pid));
        Ok(measured)
    }

    /// The process to measure: the one that was named, or the only broker, on this machine.
    fn broker_pid(&self, options: &Options) -> Option<u32> {
        let mut addresses = self.map.brokers.values();
        let found = addresses.next().filter(|_| addresses.next().is_none());
        options.broker_pid.or_else(|| listener_pid(*found?))
    }

    /// Whether no broker is on this machine, as far as its address tells.
    fn is_remote(&self) -> bool {
        self.map.brokers.values().all(|address| !address.ip().is_loopback())
    }

    /// Where the readers may stop: the end of the log, and of what was acknowledged where that is further.
    fn read_ends(&mut self, shared: &Shared) -> Result<Vec<i64>, String> {
        let map = shared.map();
        let ends = self.admin.offsets(&map, End::Latest)?;
        Ok(ends.into_iter().zip(shared.acked_ends()).map(|(end, acked)| end.max(acked)).collect())
    }

    fn finish(
        &mut self,
        options: &Options,
        started_ms: i64,
        phases: Phases,
        measured: Measured,
        threads: Vec<JoinHandle<Result<Outcome, String>>>,
        mut outputs: Outputs,
    ) -> Result<Finished, String> {
        let mut sent: Vec<((u16, u32), Sent)> = Vec::new();
        let mut checks: Vec<PartitionCheck> = Vec::new();
        let mut ledger = Vec::new();
        let (mut user_ns, mut system_ns, mut undrained, mut last_error) = (0, 0, 0, None);
        for thread in threads {
            let outcome = thread.join().map_err(|_| "a thread of the generator panicked")??;
            sent.extend(outcome.sent);
            checks.extend(outcome.checks);
            ledger.extend(outcome.ledger);
            user_ns += outcome.cpu.user_ns;
            system_ns += outcome.cpu.system_ns;
            undrained += outcome.undrained;
            last_error = outcome.error.or(last_error);
        }
        let retried = measured.counts.retries > 0;
        let allowed = Allowed {
            duplicates: !options.idempotent && retried,
            reordering: !options.idempotent && retried,
            offset_gaps: false,
        };
        let verification = (options.verify && options.consumers > 0)
            .then(|| compare(self.run, sent.iter().map(|(key, sent)| (*key, sent)), &checks, allowed));
        let usage = measured.before.zip(measured.after);
        let broker = usage.and_then(|(before, after)| before.broker.zip(after.broker));
        let gathered = Gathered {
            started_ms,
            measure_ns: phases.measure_ns,
            asked: self.asked(options),
            latencies: measured.latencies.clone(),
            counts: measured.counts,
            user_seconds: user_ns as f64 / SECOND_NS as f64,
            system_seconds: system_ns as f64 / SECOND_NS as f64,
            broker: broker.map(|(before, after)| {
                (after.cpu_seconds - before.cpu_seconds, after.rss_bytes, after.rss_peak_bytes)
            }),
            verification,
            noise: usage.and_then(|(before, after)| Usage::noise(&before, &after, self.is_remote())),
            seconds: outputs.take_seconds(),
            undrained: if options.consumers > 0 { undrained } else { 0 },
            last_error,
        };
        let report = Report::new(options, gathered);
        outputs.finish(&report)?;
        Ok(Finished {
            report,
            latencies: measured.latencies,
            ledger,
            topic: self.topic.clone(),
            run: self.run,
        })
    }

    fn asked(&self, options: &Options) -> Asked {
        let (mode, arrivals, records_per_second) = match &options.pace {
            Pace::Open(arrivals) => ("fixed rate, open loop", arrivals.name(), Some(arrivals.rate())),
            Pace::Max => ("maximum throughput, closed loop", "closed loop", None),
        };
        let burst = match options.pace {
            Pace::Open(Arrivals::Burst { every_ns, within_ns, .. }) => Some((every_ns, within_ns)),
            _ => None,
        };
        Asked {
            bootstrap: options.bootstrap.join(","),
            topic: self.topic.clone(),
            partitions: self.map.leaders.len(),
            topic_configs: options.topic.configs.iter().cloned().collect::<BTreeMap<_, _>>(),
            mode,
            records_per_second,
            arrivals,
            burst_every_ns: burst.map(|burst| burst.0),
            burst_within_ns: burst.map(|burst| burst.1),
            trace: match &options.pace {
                Pace::Open(Arrivals::Trace { trace, .. }) => Some(trace.describe()),
                _ => None,
            },
            acks: options.acks.name(),
            idempotent: options.idempotent,
            compression: options.codec.name(),
            record_bytes: options.record_bytes,
            keys: options.keys.name(),
            batch_bytes: options.batch_bytes,
            linger_ns: options.linger_ns,
            max_request_bytes: options.request_bytes_max,
            max_in_flight: options.in_flight_max,
            producers: options.producers,
            consumers: options.consumers,
            connections: options.connections,
            threads: options.threads,
            pin: options.pin.clone(),
            verify: options.verify && options.consumers > 0,
            warmup_ns: options.warmup_ns,
            duration_ns: options.duration_ns(),
            records: match options.length {
                Length::Records(records) => Some(records),
                Length::DurationNs(_) => None,
            },
            produce_version: self.map.versions.produce,
            fetch_version: self.map.versions.fetch,
            run: self.run,
            seed: self.seed,
        }
    }
}

/// The sum of what the threads measured.
#[derive(Default)]
struct Measured {
    latencies: Latencies,
    counts: Counts,
    before: Option<Usage>,
    after: Option<Usage>,
}

/// What the machine and the processes of the run have used up to a moment.
#[derive(Clone, Copy)]
struct Usage {
    host: Option<HostUsage>,
    own: Option<ProcessUsage>,
    broker: Option<ProcessUsage>,
}

impl Usage {
    fn read(broker_pid: Option<u32>) -> Usage {
        Usage {
            host: HostUsage::read(),
            own: ProcessUsage::read(std::process::id()),
            broker: broker_pid.and_then(ProcessUsage::read),
        }
    }

    fn noise(before: &Usage, after: &Usage, remote: bool) -> Option<Noise> {
        let used = |before: Option<ProcessUsage>, after: Option<ProcessUsage>| {
            Some(after?.cpu_seconds - before?.cpu_seconds)
        };
        let broker = used(before.broker, after.broker).or(remote.then_some(0.0));
        let ours = used(before.own, after.own).zip(broker).map(|(own, broker)| own + broker);
        Some(Noise::between(before.host?, after.host?, ours))
    }
}
