//! Threads and wiring: one pinned thread a shard, and the thread that called [`run`], which waits for signals.
//!
//! Start: shard 0 takes the directories' locks, reads the metadata and recovers the journals; then every shard opens its
//! logs and its listeners; when all are ready the addresses are reported. Stop: each shard flushes its logs; the process
//! ends when all have.

pub mod balance;
pub mod clients;
pub mod connection;
pub mod connection_quota;
mod frames;
mod listen;
pub mod local;
pub mod mailbox;
pub mod shard;
mod share;
pub mod token;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::broker::{Broker, CONTROL_SHARD, Parts};
use crate::config::{BrokerConfig, IoDriver, Routing};
use crate::io::buffer::BufferPool;
use crate::io::driver::{Driver, DriverKind, DriverOptions};
use crate::io::grower::Grower;
use crate::io::socket::SocketOptions;
use crate::io::wake::Waker;
use crate::io::{Io, affinity, preflight};
use crate::metadata::nodes::SHARD_ID_STEP;
use crate::metadata::{ClusterImage, Embedded, OpenOptions, Opened};
use crate::metrics::ShardMetrics;
use crate::protocol::Uuid;
use crate::storage::{self, RecoveryReport, Storage, StorageOptions};
use crate::tune::measure::Measured;

use balance::Balance;
use connection::Limits;
use connection_quota::ConnectionQuota;
use listen::{advertised, listen};
use local::Door;
use mailbox::{Mailbox, PostOffice};
use shard::{Shard, ShardLimits};
use share::{Machine, SHARD_BYTES_MIN, Share};

/// Open files asked of the system; a smaller limit is said at start.
const OPEN_FILES_WANTED: usize = 100_000;

/// Why the broker could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Preflight(String),
    #[error("{0}")]
    Data(String),
    #[error("{0}")]
    Listen(String),
    #[error("{0}")]
    Runtime(String),
}

impl ServeError {
    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            ServeError::Runtime(_) => 1,
            ServeError::Listen(_) => 2,
            ServeError::Preflight(_) => 3,
            ServeError::Data(_) => 4,
        }
    }
}

/// A running broker.
pub struct Server {
    config: Arc<BrokerConfig>,
    driver: DriverKind,
    addresses: Vec<SocketAddr>,
    shards: Vec<ShardLink>,
    wakers: Vec<Waker>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), ServeError>>>,
}

/// What the control thread has of a shard.
#[derive(Clone)]
pub struct ShardLink {
    pub metrics: Arc<ShardMetrics>,
    pub door: Door,
}

/// What all shards share of the start.
struct Plan {
    config: Arc<BrokerConfig>,
    driver: DriverKind,
    shards: usize,
    pin: bool,
    machine: Machine,
    memory_bytes: usize,
    settled_bytes: usize,
    grower: Grower,
    disks: Arc<[Measured]>,
    connections: Arc<ConnectionQuota>,
    balance: Arc<Balance>,
    seed: u128,
    stop: Arc<AtomicBool>,
}

/// What shard 0 has found, for the others.
#[derive(Clone)]
struct Recovered {
    image: Arc<ClusterImage>,
    /// The ids of the log directories, in the order of the configuration.
    dir_ids: Vec<Uuid>,
    /// Moves between the directories that the end of the run before cut off.
    moves: Vec<(Uuid, i32, usize)>,
    addresses: Vec<SocketAddr>,
    /// Whether the run before had stopped cleanly.
    clean: bool,
}

/// A shard that is about to serve.
struct Ready {
    shard: usize,
    waker: Waker,
    link: ShardLink,
}

/// Where a shard finds the state of the data directories, or tells it.
enum Given {
    /// Shard 0 recovers them and tells the others.
    Tell(mpsc::Sender<Recovered>),
    Told(Recovered),
}

impl Server {
    /// Starts all shards; on return they serve.
    pub fn start(config: BrokerConfig) -> Result<Server, ServeError> {
        let plan = Arc::new(Plan::new(config)?);
        plan.log();
        let shards = plan.shards;
        let post = PostOffice::new(shards);
        // A shard that fails drops its end of these channels: nobody waits for what does not come.
        let (tell, told) = mpsc::channel();
        let (reports, inbox) = mpsc::channel();
        let mut threads = Vec::new();
        let mut wakers_to = Vec::new();
        let (send, receive) = mpsc::channel();
        wakers_to.push(send);
        threads.push(spawn(
            &plan,
            CONTROL_SHARD,
            post.mailbox(CONTROL_SHARD),
            Given::Tell(tell),
            &reports,
            receive,
        )?);
        let Ok(recovered) = told.recv() else { return Err(failure(threads)) };
        for shard in 1..shards {
            let (send, receive) = mpsc::channel();
            wakers_to.push(send);
            let given = Given::Told(recovered.clone());
            threads.push(spawn(&plan, shard, post.mailbox(shard), given, &reports, receive)?);
        }
        drop(reports);
        let mut wakers: Vec<Option<Waker>> = vec![None; shards];
        let mut links: Vec<Option<ShardLink>> = vec![None; shards];
        for _ in 0..shards {
            let Ok(ready) = inbox.recv() else {
                drop(wakers_to);
                return Err(failure(threads));
            };
            wakers[ready.shard] = Some(ready.waker);
            links[ready.shard] = Some(ready.link);
        }
        let wakers: Vec<Waker> = wakers.into_iter().flatten().collect();
        for to in wakers_to {
            // A shard that ended meanwhile says why when its thread is joined.
            let _ = to.send(wakers.clone());
        }
        Ok(Server {
            config: plan.config.clone(),
            driver: plan.driver,
            addresses: recovered.addresses,
            shards: links.into_iter().flatten().collect(),
            wakers,
            stop: plan.stop.clone(),
            threads,
        })
    }

    /// Where the listeners accept, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn shards(&self) -> &[ShardLink] {
        &self.shards
    }

    /// As it was at the start.
    pub fn config(&self) -> &Arc<BrokerConfig> {
        &self.config
    }

    /// What the shards run on.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// Begins the clean stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wakers.iter().for_each(Waker::wake);
    }

    /// Whether a shard has ended.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits until all shards have ended.
    pub fn join(self) -> Result<(), ServeError> {
        let mut result = Ok(());
        for thread in self.threads {
            let ended =
                thread.join().unwrap_or_else(|_| Err(ServeError::Runtime("a shard panicked".to_owned())));
            result = result.and(ended);
        }
        result?;
        if self.stop.load(Ordering::Acquire) { mark_clean(&self.config, self.driver) } else { Ok(()) }
    }
}

/// Marks the clean stop. The shards have given their locks back, so these are taken again for it.
fn mark_clean(config: &BrokerConfig, driver: DriverKind) -> Result<(), ServeError> {
    let io = Driver::new(driver, driver_options(config));
    let mut io = io.map_err(|error| ServeError::Runtime(error.to_string()))?;
    let mut failed = Vec::new();
    for dir in config.log_dirs.chunks(1) {
        let done = storage::lock_dirs(&mut io, dir).and_then(|()| storage::mark_clean(&mut io, dir));
        let done = done.inspect_err(|error| tracing::error!(%error, "a clean stop could not be marked"));
        failed.extend(done.err());
    }
    // A directory that has failed spoils nothing for the others.
    let all = failed.len() == config.log_dirs.len();
    failed.pop().filter(|_| all).map_or(Ok(()), |error| Err(data(error)))
}

/// What `ringlog tune measure` has found the disks to do.
fn measured(config: &BrokerConfig) -> Vec<Measured> {
    let mut found = Vec::new();
    for dir in &config.log_dirs {
        let Some(disk) = Measured::load(dir) else { continue };
        tracing::info!(
            dir = %dir.display(),
            write_mb_s = (disk.write_bytes_per_second / 1e6) as u64,
            read_mb_s = (disk.read_bytes_per_second / 1e6) as u64,
            synced_4k_p99_us = disk.synced_4k.p99_us as u64,
            "measured"
        );
        found.push(disk);
    }
    found
}

/// Makes the directories, checks that kernel, container and file systems let the broker work, and settles on what. Answers
/// also how many files may be open.
fn preflight(config: &BrokerConfig, memory_bytes: usize) -> Result<(DriverKind, u64), ServeError> {
    for dir in &config.log_dirs {
        std::fs::create_dir_all(dir)
            .map_err(|error| ServeError::Data(format!("{}: {error}", dir.display())))?;
    }
    let needs = preflight::Needs {
        directories: config.log_dirs.clone(),
        registered_bytes: memory_bytes as u64,
        open_files: config.sockets.max_connections.min(OPEN_FILES_WANTED) as u64,
        driver: match config.io_driver {
            IoDriver::Auto => None,
            IoDriver::Uring => Some(DriverKind::Uring),
            IoDriver::Poll => Some(DriverKind::Poll),
        },
    };
    let (host, verdict) =
        preflight::check(&needs).map_err(|refusal| ServeError::Preflight(refusal.to_string()))?;
    tracing::info!(kernel = host.release, driver = %verdict.driver, "host");
    verdict.cautions.iter().for_each(|caution| tracing::warn!("{caution}"));
    Ok((verdict.driver, host.open_files_max))
}

impl Plan {
    fn new(config: BrokerConfig) -> Result<Plan, ServeError> {
        let cores = affinity::allowed_cores();
        let machine = Machine::read(cores);
        let Share { shards, pin, memory_bytes, settled_bytes } = machine.share(&config);
        let (driver, open_files_max) = preflight(&config, memory_bytes)?;
        let grower = Grower::start();
        let grower = grower.map_err(|error| ServeError::Runtime(format!("no thread for memory: {error}")))?;
        Ok(Plan {
            disks: measured(&config).into(),
            connections: Arc::new(ConnectionQuota::new(&config.sockets, open_files_max)),
            balance: Arc::new(Balance::new(shards, config.routing)),
            config: Arc::new(config),
            driver,
            shards,
            pin,
            machine,
            memory_bytes,
            settled_bytes,
            grower,
            seed: seed(),
            stop: Arc::new(AtomicBool::new(false)),
        })
    }

    /// The page that says what was started.
    fn log(&self) {
        let config = &self.config;
        let levels = &config.ack_levels;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            shards = self.shards,
            cores = ?self.machine.cores,
            pinned = self.pin,
            cpus_max = self.machine.limits.cpus,
            routing = ?config.routing,
            driver = %self.driver,
            "ringlog"
        );
        tracing::info!(acks_0 = ?levels.acks0, acks_1 = ?levels.acks1, acks_all = ?levels.all, "ack levels");
        tracing::info!(
            memory_mib = self.memory_bytes >> 20,
            memory_max_mib = self.machine.limits.memory_bytes.map(|bytes| bytes >> 20),
            connections = self.connections.max(),
            requests_a_connection = config.sockets.connection_requests_max,
            request_bytes = config.sockets.request_max_bytes,
            topics = config.topics_max,
            partitions = config.partitions_max,
            "limits"
        );
        for dir in &config.log_dirs {
            tracing::info!(dir = %dir.display(), "log directory");
        }
        for listener in &config.listeners {
            tracing::info!(bind = %listener.bind, advertised = %listener.advertised, "listener");
        }
    }
}

/// The error of the thread that failed to start.
fn failure(threads: Vec<JoinHandle<Result<(), ServeError>>>) -> ServeError {
    let mut first = None;
    for thread in threads {
        match thread.join() {
            Ok(Err(error)) => first = first.or(Some(error)),
            Ok(Ok(())) => {}
            Err(_) => first = first.or(Some(ServeError::Runtime("a shard panicked at start".to_owned()))),
        }
    }
    first.unwrap_or_else(|| ServeError::Runtime("a shard ended at start".to_owned()))
}

fn spawn(
    plan: &Arc<Plan>,
    shard: usize,
    mail: Mailbox<Waker>,
    given: Given,
    reports: &mpsc::Sender<Ready>,
    wakers: mpsc::Receiver<Vec<Waker>>,
) -> Result<JoinHandle<Result<(), ServeError>>, ServeError> {
    let (plan, reports) = (plan.clone(), reports.clone());
    std::thread::Builder::new()
        .name(format!("shard-{shard}"))
        .spawn(move || run_shard(&plan, shard, mail, given, reports, &wakers))
        .map_err(|error| ServeError::Runtime(format!("no thread for shard {shard}: {error}")))
}

fn run_shard(
    plan: &Plan,
    shard: usize,
    mail: Mailbox<Waker>,
    given: Given,
    reports: mpsc::Sender<Ready>,
    wakers: &mpsc::Receiver<Vec<Waker>>,
) -> Result<(), ServeError> {
    if plan.pin && shard < plan.machine.cores.len() && !affinity::pin_to(plan.machine.cores[shard]) {
        tracing::warn!(shard, core = plan.machine.cores[shard], "the shard could not be pinned");
    }
    let mut shard_loop = open_shard(plan, shard, mail, given)?;
    let waker = shard_loop.io.waker();
    let wake = waker.clone();
    let (door, calls) = local::door(move || wake.wake());
    shard_loop.set_calls(calls);
    let link = ShardLink { metrics: shard_loop.broker.metrics().clone(), door };
    let ready = Ready { shard, waker, link };
    if reports.send(ready).is_err() {
        return Ok(());
    }
    drop(reports);
    let Ok(wakers) = wakers.recv() else { return Ok(()) };
    for (peer, waker) in wakers.into_iter().enumerate() {
        shard_loop.set_waker(peer, waker);
    }
    while !shard_loop.is_stopped() {
        shard_loop.turn(u64::MAX);
        if plan.stop.load(Ordering::Acquire) {
            shard_loop.begin_stop();
        }
    }
    Ok(())
}

fn open_shard(
    plan: &Plan,
    shard: usize,
    mail: Mailbox<Waker>,
    given: Given,
) -> Result<Shard<Driver>, ServeError> {
    let config = &plan.config;
    let io = Driver::new(plan.driver, driver_options(config));
    let mut io = io.map_err(|error| ServeError::Preflight(error.to_string()))?;
    tracing::info!(shard, driver = io.describe(), "driver");
    let options = storage_options(plan, shard);
    let (recovered, metadata, listeners) = match given {
        Given::Told(recovered) => {
            let (listeners, _) = listen(&mut io, config, Some(&recovered.addresses), shard, plan.shards)?;
            (recovered, None, listeners)
        }
        Given::Tell(tell) => {
            let (opened, dir_ids, report) = recover(&mut io, config, &options)?;
            let (listeners, addresses) = listen(&mut io, config, None, shard, plan.shards)?;
            let RecoveryReport { clean, moves, .. } = report;
            let recovered = Recovered { image: opened.image, dir_ids, moves, addresses, clean };
            // A starting thread that has given up does not take the next report either.
            let _ = tell.send(recovered.clone());
            (recovered, Some(opened.embedded), listeners)
        }
    };
    let addresses = config.listeners.iter().zip(&recovered.addresses);
    let endpoints = addresses.map(|(listener, address)| advertised(listener, address.port())).collect();
    let storage = Storage::open(&mut io, options).map_err(data)?;
    let parts = Parts {
        shard,
        shards: plan.shards,
        config: Arc::new(with_metadata(config, &recovered.image)),
        endpoints,
        image: recovered.image,
        dir_ids: recovered.dir_ids,
        storage,
        metadata,
        seed: plan.seed.wrapping_add(shard as u128),
    };
    let mut broker = Broker::open(&mut io, parts).map_err(data)?;
    broker.resume_moves(&mut io, &recovered.moves);
    if shard == CONTROL_SHARD {
        broker.begin(&mut io, recovered.clean);
    }
    let listeners = listeners.into_iter().enumerate().map(|(index, handle)| (handle, index)).collect();
    Ok(Shard::new(io, broker, mail, listeners, limits(plan)))
}

fn data(error: impl std::fmt::Display) -> ServeError {
    ServeError::Data(error.to_string())
}

/// Locks the directories, reads the metadata, replays the journals.
fn recover(
    io: &mut Driver,
    config: &BrokerConfig,
    options: &StorageOptions,
) -> Result<(Opened, Vec<Uuid>, RecoveryReport), ServeError> {
    for dir in &config.log_dirs {
        std::fs::create_dir_all(dir)
            .map_err(|error| ServeError::Data(format!("{}: {error}", dir.display())))?;
    }
    storage::lock_dirs(io, &config.log_dirs).map_err(data)?;
    let open = OpenOptions {
        log_dirs: config.log_dirs.clone(),
        node_id: config.configured_node_id(),
        cluster_id: config.cluster_id.clone(),
    };
    let opened = Embedded::open(io, &open).map_err(data)?;
    opened.report.iter().for_each(|line| tracing::warn!("{line}"));
    let image = &opened.image;
    if config.routing == Routing::Direct && image.node_id >= SHARD_ID_STEP {
        return Err(ServeError::Data(format!(
            "node.id {} must be below {SHARD_ID_STEP} with ringlog.routing=direct: each further shard is seen as a broker \
             {SHARD_ID_STEP} above",
            image.node_id
        )));
    }
    let config = with_metadata(config, image);
    let topics = |id| {
        image.topic_by_id(id).map(|topic| {
            let topic_config = config.topic_config(&topic.configs);
            (topic.name.clone(), crate::broker::log_config(&topic_config))
        })
    };
    let dir_ids: Vec<Uuid> = opened.directories.iter().map(|directory| directory.id).collect();
    let homes = |id, partition| {
        let placed = image.topic_by_id(id)?.partition(partition)?;
        dir_ids.iter().position(|dir| *dir == placed.directory && !dir.is_zero())
    };
    let report = storage::recover(io, &options.dirs, &topics, &homes).map_err(data)?;
    tracing::info!(?report, "recovered");
    Ok((opened, dir_ids, report))
}

/// With what clients have set at run time, and the node's number where the directories know it.
fn with_metadata(config: &BrokerConfig, image: &ClusterImage) -> BrokerConfig {
    let mut config = config.with_dynamic(image.default_broker_config(), image.broker_config(image.node_id));
    config.node_id = image.node_id;
    config
}

fn driver_options(config: &BrokerConfig) -> DriverOptions {
    DriverOptions {
        spin_ns: config.spin_us * 1000,
        socket: SocketOptions {
            send_buffer_bytes: usize::try_from(config.sockets.send_buffer_bytes).ok(),
            receive_buffer_bytes: usize::try_from(config.sockets.receive_buffer_bytes).ok(),
            backlog: config.sockets.listen_backlog,
            ..SocketOptions::default()
        },
        ..DriverOptions::default()
    }
}

fn storage_options(plan: &Plan, shard: usize) -> StorageOptions {
    let config = &plan.config;
    let share = |bytes: usize| (bytes / plan.shards).max(SHARD_BYTES_MIN);
    let grower = plan.grower.clone();
    let pool = BufferPool::growing(share(plan.memory_bytes), share(plan.settled_bytes), grower);
    let dirs: Vec<PathBuf> = config.log_dirs.clone();
    let storage = &config.storage;
    let mut options = StorageOptions::new(shard as u32, dirs, pool);
    if storage.tail_max_bytes > 0 {
        options.tail_max_bytes = storage.tail_max_bytes as usize / plan.shards;
    }
    options.journal_file_bytes = storage.journal_file_bytes;
    options.journal_cached = storage.journal_cached;
    options.journal_filled = storage.journal_filled;
    options.journal_max_bytes = storage.journal_max_bytes;
    options.flush_interval_ms = storage.flush_interval_ms as i64;
    options.retention_check_interval_ms = storage.retention_check_interval_ms as i64;
    options.producer_id_expiration_ms = config.transactions.producer_id_expiration_ms;
    // The cleaner's are set at the first turn, with what clients have set at run time.
    options
}

fn limits(plan: &Plan) -> ShardLimits {
    let sockets = &plan.config.sockets;
    ShardLimits {
        connections: plan.connections.clone(),
        balance: plan.balance.clone(),
        connection: Limits {
            in_flight_max: sockets.connection_requests_max,
            frame_bytes_max: sockets.request_max_bytes,
        },
        input_bytes_max: sockets
            .queued_max_request_bytes
            .map_or(plan.settled_bytes / 2, |bytes| bytes as usize)
            / plan.shards,
        disks: Some(plan.disks.clone()),
        shards: plan.shards,
        idle_ns: sockets.connections_max_idle_ms.map_or(u64::MAX, |ms| ms.saturating_mul(1_000_000)),
    }
}

fn seed() -> u128 {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u128::from_ne_bytes(bytes),
        Err(_) => u128::from(crate::io::clock::monotonic_ns()),
    }
}
