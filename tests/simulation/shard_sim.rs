//! The whole broker on one thread: its shards with their mailboxes step on a simulated machine, Kafka clients come over the
//! simulated network, and the process ends and comes back in every way. What is right is [`History`]'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ringlog::broker::{Broker, CONTROL_SHARD, Parts, log_config};
use ringlog::config::{BrokerConfig, Routing, Settings};
use ringlog::io::Io;
use ringlog::io::buffer::BufferPool;
use ringlog::metadata::{Embedded, OpenOptions};
use ringlog::server::balance::Balance;
use ringlog::server::connection::Limits;
use ringlog::server::connection_quota::ConnectionQuota;
use ringlog::server::mailbox::PostOffice;
use ringlog::server::shard::{Shard, ShardLimits};
use ringlog::storage::{self, Storage, StorageOptions};

use super::clients::{Client, Context};
use super::consumer::Consumer;
use super::history::{History, Outcome, Place, Role};
use super::log_model::{Verdict, ensure};
use super::others::{Admin, Garbage, Sleeper, Verifier};
use super::ownership;
use super::processor::Processor;
use super::producer::Producer;
use super::sim_io::rng::Rng;
use super::sim_io::sim_disk::DiskFaults;
use super::sim_io::{Crash, SimIo, SimOptions, SimWaker, SimWorld};
use super::subscriber::SESSION_MS;
use super::transactor::Transactor;

const SECOND_NS: u64 = 1_000_000_000;
/// Virtual time within which a healthy broker must have answered everything.
const PATIENCE_NS: u64 = 400 * SECOND_NS;
/// A client acts at most this often by itself.
const STEP_NS: u64 = 50_000;
/// The wall clock is at most so far off, to either side: less than what producers are forgotten after.
const JUMP_MS_MAX: i64 = 8 * 60 * 60 * 1_000;
/// Where it is more: what is idle for as long is forgotten.
const LONG_JUMPS_MS: [i64; 2] = [2 * 24 * 60 * 60 * 1_000, 10 * 24 * 60 * 60 * 1_000];
const POOL_BYTES: usize = 48 << 20;
const ADDRESS: ([u8; 4], u16) = ([10, 0, 0, 1], 9092);

struct Sim {
    context: Context,
    config: Arc<BrokerConfig>,
    dirs: Vec<PathBuf>,
    shards: Vec<Shard<SimIo>>,
    pools: Vec<BufferPool>,
    clients: Vec<Box<dyn Client>>,
    wakes: Vec<u64>,
    workload: Workload,
    /// The wall clock jumps by days.
    forgets: bool,
    /// How far the wall clock is from where it would be.
    jumped_ms: i64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub lives: u32,
    pub power_cuts: u32,
    pub topics: usize,
    pub acks: u64,
    pub reads: u64,
    pub commits: u64,
    /// Committed, aborted, and those whose end nobody knows.
    pub transactions: [usize; 3],
    /// Records that compaction has taken.
    pub removed: usize,
    /// Records that are there again as their producer was forgotten, transactional ids, offsets of groups.
    pub forgotten: [u64; 3],
    pub jumps: u32,
    pub seconds: u64,
}

impl Counts {
    pub fn summary(&self) -> String {
        let Counts { lives, power_cuts, topics, acks, reads, commits, transactions, .. } = self;
        let Counts { removed, forgotten, jumps, seconds, .. } = self;
        let [committed, aborted, unknown] = transactions;
        let [records, ids, offsets] = forgotten;
        format!(
            "{lives} lives, {power_cuts} power cuts, {jumps} clock jumps, {topics} topics, {acks} acks, {reads} reads, \
             {commits} commits, transactions {committed} committed {aborted} aborted {unknown} unknown, {removed} compacted, \
             forgotten {records} records {ids} ids {offsets} offsets, {seconds} s"
        )
    }
}

/// Who the clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Producers, groups, and those that mean harm.
    Mixed,
    /// Transactions, their readers, and what else writes beside them.
    Transactions,
    /// The same over topics some of which are compacted.
    Compaction,
    /// The same with members of the newer group protocol, beside the classic ones and in their place.
    Members,
}

/// One run. Answers the trace hash, or what went wrong.
pub fn run(workload: Workload, seed: u64) -> Result<(u64, Counts), String> {
    let mut rng = Rng::new(seed ^ 0x0b10_cb10);
    let mut options = SimOptions::default();
    options.net.split = *rng.pick(&[0.0, 0.1, 0.5]);
    options.net.reset = *rng.pick(&[0.0, 0.0, 0.001]);
    options.net.delay_max_ns = *rng.pick(&[50_000, 200_000, 5_000_000]);
    let world = SimWorld::new(seed, options);
    world.set_cooperative(true);
    let dirs: Vec<PathBuf> =
        (0..rng.range(1, 2)).map(|at| PathBuf::from(format!("/disk{at}/data"))).collect();
    for dir in &dirs {
        world.add_disk(dir.parent().ok_or("a mount")?);
        world.create_dir_all(dir);
    }
    let context = Context {
        world,
        address: SocketAddr::from(ADDRESS),
        rng: rng.fork(),
        history: History::default(),
        finishing: false,
        troubled: false,
        life: 0,
        jumps: 0,
        inits: BTreeMap::new(),
        lost_inits: BTreeMap::new(),
        initing: BTreeSet::new(),
        verbose: std::env::var_os("RINGLOG_SIM_TRACE").is_some(),
    };
    // Few checks are weaker where it does, and only there.
    let forgets = workload != Workload::Mixed && matches!(seed % 7, 1 | 3 | 6);
    let config = Arc::new(configure(workload, forgets, &mut rng, &dirs)?);
    let (shards, pools, clients, wakes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut sim =
        Sim { context, config, dirs, shards, pools, clients, wakes, workload, forgets, jumped_ms: 0 };
    match workload {
        Workload::Mixed => sim.add_clients(&mut rng),
        Workload::Transactions | Workload::Compaction | Workload::Members => sim.add_transactions(&mut rng),
    }
    sim.run()?;
    let history = &sim.context.history;
    let counts = Counts {
        lives: sim.context.life,
        power_cuts: history.power_cuts,
        topics: history.topics.len(),
        acks: history.acks,
        reads: history.reads,
        commits: history.commits,
        transactions: [Outcome::Committed, Outcome::Aborted, Outcome::Unknown]
            .map(|outcome| history.count(outcome)),
        removed: history.removed(),
        forgotten: history.forgotten,
        jumps: sim.context.jumps,
        seconds: sim.context.now_ns() / SECOND_NS,
    };
    Ok((sim.context.world.trace_hash(), counts))
}

fn configure(
    workload: Workload,
    forgets: bool,
    rng: &mut Rng,
    dirs: &[PathBuf],
) -> Result<BrokerConfig, String> {
    let mut settings = Settings::new();
    let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    settings.add_set(&format!("log.dirs={}", names.join(",")));
    settings.add_set("listeners=PLAINTEXT://10.0.0.1:9092");
    settings.add_set("offsets.topic.num.partitions=3");
    settings.add_set("transaction.state.log.num.partitions=2");
    let interval_ms = rng.pick(&[200, 2_000, 10_000]);
    settings.add_set(&format!("transaction.abort.timed.out.transaction.cleanup.interval.ms={interval_ms}"));
    // The wall clock jumps, and what was sent before is sent again.
    settings.add_set(&format!("log.message.timestamp.after.max.ms={}", i64::MAX));
    settings.add_set("auto.create.topics.enable=false");
    settings.add_set(&format!("group.initial.rebalance.delay.ms={}", rng.pick(&[0, 500, 3000])));
    if workload == Workload::Compaction {
        // So that the broker's own topics are compacted too.
        settings.add_set(&format!("log.roll.ms={}", rng.pick(&[500, 5_000])));
        settings.add_set("log.cleaner.min.cleanable.ratio=0.01");
    }
    if workload == Workload::Members {
        settings.add_set("group.consumer.min.session.timeout.ms=1000");
        settings.add_set(&format!("group.consumer.session.timeout.ms={SESSION_MS}"));
        settings.add_set("group.consumer.min.heartbeat.interval.ms=1000");
        settings.add_set("group.consumer.heartbeat.interval.ms=2000");
        settings.add_set(&format!("group.consumer.assignment.interval.ms={}", rng.pick(&[0, 1_000])));
    }
    if forgets {
        // Records stay; whatever else is idle for too long is looked for soon.
        settings.add_set("log.retention.ms=-1");
        settings.add_set(&format!("log.retention.check.interval.ms={}", rng.pick(&[100, 1_000, 5_000])));
        let intervals = ["offsets.retention.check", "transaction.remove.expired.transaction.cleanup"];
        for key in intervals {
            settings.add_set(&format!("{key}.interval.ms={}", rng.pick(&[100, 1_000, 5_000])));
        }
    }
    let (config, _) = settings.resolve().map_err(|error| format!("configuration: {error}"))?;
    Ok(config)
}

impl Sim {
    fn add_clients(&mut self, rng: &mut Rng) {
        self.clients.push(Box::new(Admin::new(rng.range(1, 5) as u32, &[], false)));
        for number in 0..rng.range(1, 3) {
            let in_flight_max = rng.range(1, 5) as usize;
            let idempotent = rng.chance(0.6);
            let acks = *rng.pick(&[0, 1, -1]);
            self.clients.push(Box::new(Producer::new(number + 1, idempotent, acks, in_flight_max)));
        }
        for number in 0..rng.below(4) {
            let group = format!("group-{}", rng.below(2));
            self.clients.push(Box::new(Consumer::new(&group, number, rng.chance(0.3))));
        }
        if rng.chance(0.5) {
            self.clients.push(Box::new(Garbage::new()));
        }
        if rng.chance(0.3) {
            self.clients.push(Box::new(Sleeper::new()));
        }
        self.wakes = vec![0; self.clients.len()];
    }

    fn add_transactions(&mut self, rng: &mut Rng) {
        let roles = [Role::Input, Role::Output];
        let compacts = self.workload == Workload::Compaction;
        self.clients.push(Box::new(Admin::new(rng.range(2, 4) as u32, &roles, compacts)));
        for number in 1..=rng.range(1, 4) {
            // Some share an id.
            let id = format!("tx-{}", rng.below(4));
            self.clients.push(Box::new(Transactor::new(&mut self.context, &id, number, true)));
        }
        if rng.chance(0.5) {
            let (idempotent, acks) = (rng.chance(0.5), *rng.pick(&[1, -1]));
            self.clients.push(Box::new(Producer::new(20, idempotent, acks, 3)));
        }
        for number in 0..rng.below(4) {
            let group = format!("group-{}", rng.below(2));
            self.clients.push(Box::new(Consumer::new(&group, number, rng.chance(0.7))));
        }
        let members = self.workload == Workload::Members;
        if members {
            for number in 0..rng.range(1, 5) {
                let group = format!("newer-{}", rng.below(2));
                self.clients.push(Box::new(Consumer::new(&group, number, rng.chance(0.7)).newer()));
            }
        }
        let newer = members && rng.chance(0.7);
        for number in 0..rng.below(4) {
            let id = format!("processor-{}", rng.below(3));
            let processor = Processor::new(&mut self.context, "processors", &id, 10 + number, newer);
            self.clients.push(Box::new(processor));
        }
        self.wakes = vec![0; self.clients.len()];
    }

    fn run(&mut self) -> Verdict {
        self.set_clock();
        self.start()?;
        for _ in 0..self.context.rng.range(1, 4) {
            self.make_trouble();
            let until = self.context.in_ms(10, 15_000);
            let (often, between) = if self.forgets { (0.6, 0.5) } else { (0.4, 0.1) };
            if self.context.rng.chance(often) {
                let jump_ns = self.context.rng.range(self.context.now_ns(), until);
                self.run_until(jump_ns)?;
                self.jump();
            }
            self.run_until(until)?;
            self.end_life()?;
            if self.context.rng.chance(between) {
                self.jump();
            }
            self.start()?;
        }
        self.context.finishing = true;
        self.finish()?;
        self.clients.push(Box::new(Verifier::new()));
        self.wakes.push(0);
        self.finish()
    }

    // ---- lives ----

    fn start(&mut self) -> Verdict {
        self.context.life += 1;
        self.heal();
        let mut attempts = 0;
        loop {
            attempts += 1;
            if self.context.life > 1 && attempts < 3 && self.context.rng.chance(0.2) {
                let ops = self.context.rng.below(300);
                self.context.world.hang_after_ops(Some(ops));
            }
            match self.try_start() {
                Ok(()) if !self.context.world.hangs() => {
                    self.context.world.hang_after_ops(None);
                    return Ok(());
                }
                Err(error) if !self.context.world.hangs() => return Err(error),
                _ => {}
            }
            self.context.world.hang_after_ops(None);
            let crash = if self.context.rng.chance(0.5) { Crash::Power } else { Crash::Kill };
            self.crash(crash);
        }
    }

    fn try_start(&mut self) -> Verdict {
        let count = self.context.rng.range(1, 2) as usize;
        let post = PostOffice::new(count);
        let mut ios: Vec<SimIo> = (0..count).map(|_| self.context.world.driver()).collect();
        let (opened, recovered) = self.recover(&mut ios[CONTROL_SHARD])?;
        ensure!(recovered.failed_dirs.is_empty() || self.context.world.hangs(), "recovery: {recovered:?}");
        let dir_ids: Vec<_> = opened.directories.iter().map(|directory| directory.id).collect();
        let seed = u128::from(self.context.rng.next());
        let mut metadata = Some(opened.embedded);
        let limits = limits(count);
        for (shard, mut io) in ios.into_iter().enumerate() {
            let pool = BufferPool::settling(POOL_BYTES, POOL_BYTES >> self.context.rng.index(3));
            let storage = Storage::open(&mut io, self.storage_options(shard, &pool)).map_err(text)?;
            let parts = Parts {
                shard,
                shards: count,
                config: self.config.clone(),
                image: opened.image.clone(),
                dir_ids: dir_ids.clone(),
                endpoints: vec![("10.0.0.1".to_string(), 9092)],
                storage,
                metadata: metadata.take(),
                seed: seed.wrapping_add(shard as u128),
            };
            let broker = Broker::open(&mut io, parts).map_err(text)?;
            let (handle, _) = io.listen(self.context.address, count > 1).map_err(text)?;
            let mut shard = Shard::new(io, broker, post.mailbox(shard), vec![(handle, 0)], limits.clone());
            let own = shard.io.id();
            for (at, other) in self.shards.iter_mut().enumerate() {
                shard.set_waker(at, SimWaker(other.io.id()));
                let of_new = self.pools.len();
                other.set_waker(of_new, SimWaker(own));
            }
            shard.set_waker(self.pools.len(), SimWaker(own));
            self.shards.push(shard);
            self.pools.push(pool);
        }
        Ok(())
    }

    fn recover(
        &self,
        io: &mut SimIo,
    ) -> Result<(ringlog::metadata::Opened, storage::RecoveryReport), String> {
        storage::lock_dirs(io, &self.dirs).map_err(text)?;
        let open = OpenOptions {
            log_dirs: self.dirs.clone(),
            node_id: self.config.configured_node_id(),
            cluster_id: self.config.cluster_id.clone(),
        };
        let opened = Embedded::open(io, &open).map_err(text)?;
        let image = opened.image.clone();
        let topics = |id| {
            let topic = image.topic_by_id(id)?;
            Some((topic.name.clone(), log_config(&self.config.topic_config(&topic.configs))))
        };
        let report = storage::recover(io, &self.dirs, &topics, &|_, _| None).map_err(text)?;
        if self.context.verbose {
            eprintln!("==== recovered: cut {:#?}, dropped {:#?}", report.cut, report.dropped);
        }
        Ok((opened, report))
    }

    fn storage_options(&mut self, shard: usize, pool: &BufferPool) -> StorageOptions {
        let rng = &mut self.context.rng;
        let mut options = StorageOptions::new(shard as u32, self.dirs.clone(), pool.clone());
        options.journal_file_bytes = 4096 << rng.range(6, 9);
        options.journal_cached = rng.chance(0.7);
        options.journal_filled = rng.chance(0.7);
        options.journal_max_bytes = options.journal_file_bytes * rng.range(4, 16);
        options.large_batch_bytes = *rng.pick(&[1, 300, 1000, usize::MAX]);
        options.flush_interval_ms = *rng.pick(&[50, 500, 5000]);
        options.retention_check_interval_ms = self.config.storage.retention_check_interval_ms as i64;
        if self.workload == Workload::Compaction {
            options.cleaner.backoff_ms = *rng.pick(&[20, 500, 2_000]);
            options.cleaner.dedupe_buffer_bytes = *rng.pick(&[1 << 10, 1 << 20]);
        }
        options
    }

    fn make_trouble(&mut self) {
        self.context.troubled = true;
        let dir = self.dirs[self.context.rng.index(self.dirs.len())].clone();
        match self.context.rng.below(8) {
            0 => {
                let more = self.context.rng.below(4 << 20);
                self.context.world.with_disk(&dir, |disk| disk.capacity_bytes = disk.used_bytes() + more);
            }
            1 => {
                let faults = DiskFaults { write: 0.005, sync: 0.005, read: 0.005, ..DiskFaults::default() };
                self.context.world.with_disk(&dir, |disk| disk.faults = faults);
            }
            2 => {
                let ops = self.context.rng.below(2_000);
                self.context.world.hang_after_ops(Some(ops));
            }
            _ => {
                let slow = if self.context.rng.chance(0.2) { 0.05 } else { 0.0 };
                let faults = DiskFaults { slow, slow_max_ns: 2 * SECOND_NS, ..DiskFaults::default() };
                self.context.world.with_disk(&dir, |disk| disk.faults = faults);
                self.context.troubled = false;
            }
        }
    }

    /// Moves the wall clock, by less than what is kept of logs, and mostly of producers and offsets.
    fn jump(&mut self) {
        let rng = &mut self.context.rng;
        let [days, more_days] = LONG_JUMPS_MS;
        let most_ms = match self.forgets {
            false => *rng.pick(&[2_000, 60_000, 3_600_000, JUMP_MS_MAX]),
            true => *rng.pick(&[60_000, JUMP_MS_MAX, days, more_days, more_days]),
        };
        let to_ms = match self.forgets && rng.chance(0.5) {
            false => rng.range(0, 2 * most_ms as u64) as i64 - most_ms,
            true => *rng.pick(&[-most_ms, most_ms]),
        };
        self.context.world.jump_wall_ms(to_ms - std::mem::replace(&mut self.jumped_ms, to_ms));
        self.context.jumps += 1;
        self.set_clock();
    }

    fn set_clock(&mut self) {
        let (now_ns, wall_ms) = (self.context.now_ns(), self.context.world.wall_ms());
        self.context.history.clock.set(now_ns, wall_ms);
        if self.context.verbose {
            eprintln!("{now_ns:>14} ==== the wall clock is {} ms ahead", self.jumped_ms);
        }
    }

    fn heal(&mut self) {
        self.context.world.hang_after_ops(None);
        for dir in &self.dirs {
            self.context.world.with_disk(dir, |disk| {
                disk.capacity_bytes = u64::MAX;
                disk.faults = DiskFaults::default();
            });
        }
        self.context.troubled = false;
    }

    fn end_life(&mut self) -> Verdict {
        if !self.context.troubled && self.context.rng.chance(0.3) {
            self.stop()?;
            if self.workload == Workload::Compaction && self.context.rng.chance(0.5) {
                storage::mark_clean(&mut self.context.world.driver(), &self.dirs).map_err(text)?;
            }
            self.crash(Crash::Kill);
            return Ok(());
        }
        let crash = if self.context.rng.chance(0.5) { Crash::Power } else { Crash::Kill };
        self.crash(crash);
        Ok(())
    }

    fn crash(&mut self, crash: Crash) {
        let drivers: Vec<usize> = self.shards.iter().map(|shard| shard.io.id()).collect();
        self.context.world.crash(&drivers, crash);
        if self.context.verbose {
            eprintln!("==== {crash:?}, {} shards", drivers.len());
        }
        self.shards.clear();
        self.pools.clear();
        if crash == Crash::Power {
            self.context.history.power_cut();
        }
        // The machine takes a while to come back.
        let back = self.context.in_ms(1, 3_000);
        while self.context.now_ns() < back {
            self.context.world.advance(back);
        }
    }

    fn stop(&mut self) -> Verdict {
        let patience = self.context.now_ns() + PATIENCE_NS;
        // One after the other, as threads see the signal.
        let first = self.context.rng.index(self.shards.len());
        for at in 0..self.shards.len() {
            let at = (first + at) % self.shards.len();
            self.shards[at].begin_stop();
            let until = self.context.in_ms(0, 2);
            self.run_until(until)?;
        }
        while self.shards.iter().any(|shard| !shard.is_stopped()) {
            ensure!(self.context.now_ns() < patience, "a clean stop hangs");
            self.round(patience)?;
        }
        Ok(())
    }

    /// Without trouble every client gets done.
    fn finish(&mut self) -> Verdict {
        let patience = self.context.now_ns() + PATIENCE_NS;
        loop {
            let until = self.context.now_ns() + SECOND_NS;
            self.run_until(until)?;
            let waiting: Vec<String> = (self.clients.iter())
                .filter(|client| !client.is_done(&self.context))
                .map(|client| client.describe())
                .collect();
            let mut orphans = self.orphans();
            orphans.extend(self.unshared());
            if waiting.is_empty() && orphans.is_empty() {
                return Ok(());
            }
            ensure!(self.context.now_ns() < patience, "never done: {waiting:#?}, nobody's: {orphans:?}");
        }
    }

    /// Inputs that no member of a processing group has: they were those of one that is gone, until its session ends.
    fn orphans(&self) -> Vec<(String, Place)> {
        let mut owned: BTreeMap<&str, BTreeSet<Place>> = BTreeMap::new();
        for (group, places) in self.clients.iter().filter_map(|client| client.processes()) {
            owned.entry(group).or_default().extend(places);
        }
        // Without an output nobody reads.
        let live = |role| self.context.history.live().filter(move |topic| topic.role == role);
        let inputs = live(Role::Input).filter(|_| live(Role::Output).next().is_some());
        let inputs: Vec<Place> =
            inputs.flat_map(|topic| (0..topic.partitions).map(|partition| (topic.id.0, partition))).collect();
        let orphans = |(group, owned): (&str, BTreeSet<Place>)| {
            let orphans = inputs.iter().filter(move |place| !owned.contains(place));
            orphans.map(|place| (group.to_string(), *place)).collect::<Vec<_>>()
        };
        owned.into_iter().flat_map(orphans).collect()
    }

    /// Partitions that a group of the newer protocol has not shared out, or not well.
    fn unshared(&self) -> Vec<(String, Place)> {
        let mut owned: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
        for (group, places) in self.clients.iter().filter_map(|client| client.shares()) {
            owned.entry(group).or_default().extend(places);
        }
        let live = self.context.history.live();
        let wanted: Vec<Place> =
            live.flat_map(|topic| (0..topic.partitions).map(|partition| (topic.id.0, partition))).collect();
        let unshared = |(group, owned): (&str, Vec<Place>)| {
            let places = ownership::unshared(&wanted, &owned);
            places.into_iter().map(|place| (group.to_string(), place)).collect::<Vec<_>>()
        };
        owned.into_iter().flat_map(unshared).collect()
    }

    // ---- steps ----

    fn run_until(&mut self, until_ns: u64) -> Verdict {
        while self.context.now_ns() < until_ns && !self.context.world.hangs() {
            self.round(until_ns)?;
        }
        Ok(())
    }

    /// Steps whoever can go on; when nobody can, time moves on.
    fn round(&mut self, until_ns: u64) -> Verdict {
        let mut stepped = false;
        let first = self.context.rng.index(self.shards.len().max(1));
        for at in 0..self.shards.len() {
            let at = (first + at) % self.shards.len();
            let shard = &mut self.shards[at];
            let stopped = shard.is_stopped();
            if !stopped && self.context.world.runnable(shard.io.id()) {
                shard.turn(u64::MAX);
                stepped = true;
            }
        }
        for pool in &self.pools {
            ensure!(pool.used_bytes() <= pool.max_bytes(), "{} bytes of buffers", pool.used_bytes());
        }
        stepped |= self.step_clients()?;
        if !stepped {
            let next = self.wakes.iter().copied().min().unwrap_or(u64::MAX).max(self.context.now_ns() + 1);
            self.context.world.advance(until_ns.min(next));
        }
        Ok(())
    }

    fn step_clients(&mut self) -> Result<bool, String> {
        let mut active = Vec::new();
        while let Some(socket) = self.context.world.next_active_client() {
            active.push(socket);
        }
        let mut stepped = false;
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            let called = !active.is_empty() && client.sockets().iter().any(|socket| active.contains(socket));
            if called || self.wakes[at] <= self.context.now_ns() {
                self.context.history.clock.now_ns = self.context.now_ns();
                client.step(&mut self.context)?;
                self.wakes[at] = client.wake_ns().max(self.context.now_ns() + STEP_NS);
                stepped = true;
            }
        }
        Ok(stepped)
    }
}

fn limits(shards: usize) -> ShardLimits {
    ShardLimits {
        connections: Arc::new(ConnectionQuota::new(&BrokerConfig::default().sockets, 10_000)),
        balance: Arc::new(Balance::new(shards, Routing::Shared)),
        connection: Limits { in_flight_max: 5, frame_bytes_max: 100 << 20 },
        input_bytes_max: 32 << 20,
        idle_ns: 600 * SECOND_NS,
        disks: None,
        shards,
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
