//! What Kafka means: a shard's part of the broker, as a state machine between the connections and the storage.
//!
//! Called by `server::Shard` alone, every turn in this order: `begin_turn`, completions and the `request`s among them, `mail`,
//! `end_turn` (storage events become answers), `take_done` (answers to this shard's connections), `submit` (what the turn
//! appended goes to the disk), `take_outgoing` (mail to other shards).
//!
//! A request is answered at once from what the shard knows, or split into [`mail::Task`]s for the shards that own the
//! partitions ([`gather`]), or sent whole to the one shard that can answer: the coordinator's for groups, shard 0 for what
//! changes the cluster ([`controller`]).

mod admissions; // transactional appends that wait to be part of their transaction
pub mod controller; // shard 0: cluster changes, one after the other
mod coordinator; // the group coordinator's appends and loading
pub mod features; // feature levels
mod fetch_session; // incremental fetch sessions
mod gather; // requests whose parts are out
pub mod group; // groups of both protocols, and offsets
mod handlers; // one file an API
mod letter; // a turn's mail for another shard
pub mod mail; // what shards tell each other
mod moves; // partitions on their way to another log directory
mod partition; // the partitions of a shard
mod records; // the records of a produce, shared with other shards
mod reply_memory; // what answers to fetches may hold
pub mod request; // requests and responses on their way
pub mod spares; // memory that one request hands on to the next
mod stalled; // appends that wait for room
pub mod survey; // what the control thread is shown
pub mod telemetry; // clients' own metrics
mod topics; // partitions made what the cluster image says
pub mod transaction; // transactional ids
mod transactions; // the transaction coordinator's appends, markers and loading

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::config::{BrokerConfig, Routing};
use crate::io::{Completion, Io};
use crate::metadata::placement::{COORDINATOR_SHARD, shard_of};
use crate::metadata::{ClusterImage, Nodes};
use crate::metrics::ShardMetrics;
use crate::protocol::ErrorCode;
use crate::protocol::Uuid;
use crate::record::compression::Decompressor;
use crate::record::validate::Rewriter;
use crate::storage::{Event, LogId, Storage};

use controller::Controller;
use coordinator::Coordinator;
use fetch_session::FetchSessions;
use gather::{Gather, Gathers, Kind, Layout};
pub use handlers::log_config;
use letter::Letters;
use mail::{Answer, GatherRef, Mail, Task};
use partition::{Partitions, WaiterTo};
use reply_memory::ReplyMemory;
use request::{Forwarded, Head, Reply, Request, RequestId, Response};
use spares::Spares;
use telemetry::Telemetry;
use topics::offsets_partitions;
use transactions::Transactions;

/// How often gathers are looked through for those whose time is over.
const TIMEOUT_CHECK_NS: u64 = 250_000_000;
/// Storage's own timers, and a step of what is being loaded, are run this often.
const TICK_NS: u64 = 50_000_000;

/// Replies that wait for their clients hold this part of a shard's memory at most.
const REPLY_MEMORY_PART: usize = 8;

/// The shard that runs the controller and the coordinators.
pub const CONTROL_SHARD: usize = COORDINATOR_SHARD;

/// What a broker is made of, per shard.
pub struct Parts {
    pub shard: usize,
    pub shards: usize,
    pub config: Arc<BrokerConfig>,
    pub image: Arc<ClusterImage>,
    /// The ids of `log.dirs`, in order.
    pub dir_ids: Vec<Uuid>,
    /// Host and port that clients of each listener are told.
    pub endpoints: Vec<(String, i32)>,
    pub storage: Storage,
    /// On [`CONTROL_SHARD`] only.
    pub metadata: Option<crate::metadata::Embedded>,
    /// Random; differs at every start.
    pub seed: u128,
}

pub struct Broker {
    shard: usize,
    shards: usize,
    config: Arc<BrokerConfig>,
    image: Arc<ClusterImage>,
    dir_ids: Vec<Uuid>,
    /// Those of directories that could be used at start: new partitions go there.
    live_dir_ids: Vec<Uuid>,
    endpoints: Vec<(String, i32)>,
    storage: Storage,
    partitions: Partitions,
    /// Partitions with appends that wait for room in the journal.
    stalled: Vec<(Uuid, i32)>,
    stalled_bytes: usize,
    gathers: Gathers,
    sessions: FetchSessions,
    reply_memory: ReplyMemory,
    controller: Option<Controller>,
    coordinator: Option<Coordinator>,
    transactions: Option<Transactions>,
    telemetry: Option<Telemetry>,
    metrics: Arc<ShardMetrics>,
    rewriter: Rewriter,
    decompressor: Decompressor,
    now_ns: u64,
    wall_ms: i64,
    next_tick_ns: u64,
    next_timers_ns: u64,
    next_timeout_check_ns: u64,
    /// Parked fetches by the end of their wait. An entry of a fetch answered before is skipped.
    fetch_deadlines: BinaryHeap<Reverse<(u64, u32, u32)>>,
    done: Vec<(RequestId, Option<Response>)>,
    post: Post,
    spares: Spares,
    stopping: bool,
}

/// Mail of this turn, by shard.
struct Post {
    letters: Letters,
    mail: VecDeque<(usize, Mail)>,
}

impl Broker {
    /// Opens the logs of this shard. Blocking, at start.
    pub fn open(io: &mut impl Io, parts: Parts) -> Result<Broker, crate::storage::StorageError> {
        let Parts { shard, shards, config, image, dir_ids, endpoints, storage, metadata, seed } = parts;
        let control = shard == CONTROL_SHARD;
        let reply_memory = ReplyMemory::new(storage.memory_bytes() / REPLY_MEMORY_PART);
        let mut broker = Broker {
            shard,
            shards,
            live_dir_ids: dir_ids.iter().copied().filter(|id| *id != Uuid::ZERO).collect(),
            dir_ids,
            endpoints,
            partitions: Partitions::default(),
            stalled: Vec::new(),
            stalled_bytes: 0,
            gathers: Gathers::new(shard),
            sessions: FetchSessions::new(shard, config.fetch_session_slots),
            reply_memory,
            controller: metadata.filter(|_| control).map(|metadata| Controller::new(metadata, shards)),
            coordinator: control.then(|| Coordinator::new(&config, &image, seed)),
            transactions: None,
            telemetry: control
                .then(|| Telemetry::new(config.telemetry_max_bytes, config.telemetry_series_max)),
            metrics: storage.metrics().clone(),
            storage,
            rewriter: Rewriter::default(),
            decompressor: Decompressor::new(),
            now_ns: io.now(),
            wall_ms: io.wall_ms(),
            next_tick_ns: 0,
            next_timers_ns: 0,
            next_timeout_check_ns: 0,
            fetch_deadlines: BinaryHeap::new(),
            done: Vec::new(),
            post: Post { letters: Letters::new(shards), mail: VecDeque::new() },
            spares: Spares::default(),
            stopping: false,
            image,
            config,
        };
        broker.open_logs(io)?;
        if control {
            let partitions = transactions::topic_partitions(&broker.image, &broker.config);
            let now = broker.transaction_now();
            broker.transactions = Some(Transactions::new(&broker.config, partitions, now));
        }
        broker.load_coordinators();
        Ok(broker)
    }

    pub fn metrics(&self) -> &Arc<ShardMetrics> {
        &self.metrics
    }

    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    pub fn spares(&mut self) -> &mut Spares {
        &mut self.spares
    }

    pub fn image(&self) -> &Arc<ClusterImage> {
        &self.image
    }

    pub fn node_id(&self) -> i32 {
        self.image.node_id
    }

    /// The brokers that clients see.
    fn nodes(&self) -> Nodes {
        match self.config.routing {
            Routing::Shared => Nodes::one(self.node_id()),
            Routing::Direct => Nodes::of_shards(self.node_id(), self.shards),
        }
    }

    /// What clients that came in by `listener` are told to connect to, for the node.
    fn endpoint(&self, listener: usize) -> (String, i32) {
        self.endpoints.get(listener).cloned().unwrap_or_default()
    }

    /// The brokers that clients see, and what those that came in by `listener` are told to connect to: with
    /// `ringlog.routing=direct` each shard has the port behind that of the shard before.
    fn endpoints(&self, listener: usize) -> impl Iterator<Item = (i32, String, i32)> {
        let (host, first_port) = self.endpoint(listener);
        self.nodes().ids().zip(first_port..).map(move |(id, port)| (id, host.clone(), port))
    }

    /// Whether clients see another shard as a broker of its own.
    fn is_elsewhere(&self, shard: usize) -> bool {
        self.config.routing == Routing::Direct && shard != self.shard
    }

    /// A directory that is not configured any more counts as the first one: opening the log there then says what is wrong.
    fn dir_index(&self, directory: Uuid) -> usize {
        self.dir_ids.iter().position(|id| *id == directory).unwrap_or(0)
    }

    /// When a client that waits `timeout_ms` is told that it took too long.
    fn deadline_ns(&self, io: &impl Io, timeout_ms: i32) -> u64 {
        io.now() + u64::from(timeout_ms.max(1) as u32) * 1_000_000
    }

    // ---- requests ----

    pub fn request(&mut self, io: &mut impl Io, request: Request<'_>) -> Reply {
        self.metrics.requests.add(1);
        handlers::handle(self, io, request)
    }

    /// A request that another shard sent whole, or that this one sends to itself.
    fn forwarded(&mut self, io: &mut impl Io, request: Forwarded) {
        handlers::handle_forwarded(self, io, request);
    }

    /// Sends a request whole to `shard`.
    fn forward(&mut self, io: &mut impl Io, request: &Request<'_>, shard: usize) -> Reply {
        let forwarded = Forwarded {
            head: request.head,
            shard: self.shard,
            client_id: request.client_id.map(str::to_owned),
            host: request.peer.host.clone(),
            port: request.peer.port,
            software: request.peer.software.get().cloned(),
            listener: request.peer.listener,
            body: request.body.to_vec(),
        };
        if shard == self.shard {
            self.forwarded(io, forwarded);
        } else {
            self.post.mail.push_back((shard, Mail::Forwarded(Box::new(forwarded))));
        }
        Reply::Later
    }

    /// Answers a forwarded request.
    fn respond(&mut self, shard: usize, id: RequestId, response: Option<Response>) {
        if shard == self.shard {
            self.done.push((id, response));
        } else {
            self.post.mail.push_back((shard, Mail::Response { id, response }));
        }
    }

    /// The connection of a request is gone: nobody waits for its answer. One that was forwarded is answered all the same: a
    /// member that waits in a rebalance stays in it, as with Kafka, until its session decides.
    pub fn forget(&mut self, id: RequestId) {
        if let Some(at) = self.gathers.of_request(id)
            && let Some(gather) = self.gathers.close(at)
        {
            self.end_session(&gather);
        }
    }

    /// A response that held this much of the memory for replies has gone, or nobody waits for it.
    pub fn release_reply(&mut self, held_bytes: usize) {
        self.reply_memory.release(held_bytes);
    }

    /// Whether a reply found no memory since the last call: connections that take nothing should end.
    pub fn take_reply_refused(&mut self) -> bool {
        self.reply_memory.take_refused()
    }

    // ---- gathers ----

    fn open_gather(&mut self, head: Head, layout: Layout, kind: Kind, deadline_ns: u64) -> GatherRef {
        self.gathers.open(&mut self.spares, head, layout, kind, deadline_ns)
    }

    /// Does a task here or hands it to the shard that owns the partition.
    fn dispatch(&mut self, io: &mut impl Io, task: Task<'_>) {
        let owner = self.owner(task.topic_id, task.partition);
        match owner {
            Some(owner) if owner == self.shard => self.execute(io, task),
            Some(owner) => {
                self.metrics.tasks_sent.add(1);
                self.post.letters.to(owner).push_task(task);
            }
            None => {
                self.answer(io, task.gather, task.index, Answer::Error(ErrorCode::UnknownTopicOrPartition))
            }
        }
    }

    fn owner(&self, topic_id: crate::protocol::Uuid, partition: i32) -> Option<usize> {
        if self.partitions.contains(topic_id, partition) {
            return Some(self.shard);
        }
        let topic = self.image.topic_by_id(topic_id)?;
        topic.partition(partition)?;
        Some(shard_of(topic, partition, self.shards))
    }

    /// Does a task of a partition this shard owns.
    fn execute(&mut self, io: &mut impl Io, task: Task<'_>) {
        let (gather, index) = (task.gather, task.index);
        if let Some(answer) = handlers::execute(self, io, task) {
            self.answer(io, gather, index, answer);
        }
    }

    /// Takes an answer to where it is waited for.
    fn answer(&mut self, io: &mut impl Io, gather: GatherRef, index: u32, answer: Answer) {
        if usize::from(gather.shard) != self.shard {
            self.post.letters.to(usize::from(gather.shard)).push_answer(gather, index, answer);
            return;
        }
        let complete = self.gathers.find(gather).is_some_and(|open| open.put(index, answer));
        if complete {
            self.complete(io, gather);
        }
    }

    /// All parts of a gather are answered.
    fn complete(&mut self, io: &mut impl Io, at: GatherRef) {
        if handlers::fetch::must_wait(self, io, at) {
            return;
        }
        self.finish(io, at);
    }

    fn finish(&mut self, io: &mut impl Io, at: GatherRef) {
        if let Some(gather) = self.gathers.close(at) {
            if let Kind::Markers(of) = &gather.kind {
                let of = of.clone();
                return self.marked(io, &of, gather);
            }
            let id = gather.head.id;
            let response = handlers::finish(self, gather);
            self.done.push((id, response));
        }
    }

    fn end_session(&mut self, gather: &Gather) {
        if let Kind::Fetch(fetch) = &gather.kind {
            self.sessions.end(fetch.session_id, std::iter::empty(), 0);
        }
    }

    // ---- mail ----

    pub fn mail(&mut self, io: &mut impl Io, from: usize, mail: Mail) {
        match mail {
            Mail::Letter(mut letter) => {
                letter.tasks().for_each(|task| self.execute(io, task));
                letter.answers().for_each(|(gather, index, answer)| self.answer(io, gather, index, answer));
                letter.ready().for_each(|at| handlers::fetch::moved(self, io, at));
                self.post.letters.keep(letter);
            }
            Mail::Forwarded(request) => self.forwarded(io, *request),
            Mail::Response { id, response } => self.done.push((id, response)),
            Mail::Image(image) => {
                let version = image.revision;
                self.apply_image(io, image);
                self.post.mail.push_back((CONTROL_SHARD, Mail::ImageApplied { version }));
            }
            Mail::ImageApplied { version } => self.image_applied(from, version),
            Mail::Admit(admit) => self.admit(io, *admit),
            Mail::Admitted(admitted) => self.admitted(io, admitted),
            Mail::Move(mail) => self.move_mail(io, from, mail),
            Mail::Quiet => {} // the shard's own business
        }
    }

    /// Takes what the turn has for other shards to `send`.
    pub fn take_outgoing(&mut self, mut send: impl FnMut(usize, Mail)) {
        let post = &mut self.post;
        for shard in 0..self.shards {
            if let Some(letter) = post.letters.take(shard) {
                send(shard, Mail::Letter(letter));
            }
        }
        post.mail.drain(..).for_each(|(shard, mail)| send(shard, mail));
    }

    /// Answers for this shard's connections, moved into `into`.
    pub fn take_done(&mut self, into: &mut Vec<(RequestId, Option<Response>)>) {
        into.append(&mut self.done);
    }

    // ---- the turn ----

    /// The time of all that the turn brings; the turn before may be long ago.
    pub fn begin_turn(&mut self, io: &impl Io) {
        (self.now_ns, self.wall_ms) = (io.now(), io.wall_ms());
    }

    pub fn storage_completion(&mut self, io: &mut impl Io, completion: Completion) {
        self.storage.handle_completion(io, completion);
    }

    pub fn metadata_completion(&mut self, io: &mut impl Io, completion: Completion) {
        self.controller_completion(io, completion);
    }

    /// Runs what is due and turns storage events into answers.
    pub fn end_turn(&mut self, io: &mut impl Io) {
        if self.now_ns >= self.next_tick_ns {
            self.next_tick_ns = self.now_ns + TICK_NS;
            self.storage.tick(io, self.wall_ms);
            self.load_step(io);
            self.load_transactions(io);
        } else if self.loads_more() {
            self.load_step(io);
        }
        self.run_timers(io);
        if self.now_ns >= self.next_timeout_check_ns {
            self.next_timeout_check_ns = self.now_ns + TIMEOUT_CHECK_NS;
            for at in self.gathers.overdue(self.now_ns) {
                self.time_out(io, at);
            }
        }
        self.end_fetch_waits(io);
        self.poll_controller(io);
        while let Some(event) = self.storage.poll_event() {
            self.storage_event(io, event);
        }
        self.retry_stalled(io);
    }

    /// Hands what the turn appended to the disk.
    pub fn submit(&mut self, io: &mut impl Io) {
        self.storage.end_turn(io);
    }

    pub fn has_work(&self) -> bool {
        !self.done.is_empty()
    }

    pub fn next_deadline_ns(&self) -> u64 {
        let fetch = self.fetch_deadlines.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
        let timeouts = if self.gathers.is_empty() { u64::MAX } else { self.next_timeout_check_ns };
        let storage = self.storage.next_deadline().max(self.next_tick_ns);
        fetch.min(timeouts).min(storage).min(self.coordinators_deadline_ns())
    }

    fn storage_event(&mut self, io: &mut impl Io, event: Event) {
        match event {
            Event::Advanced { log, high_watermark } => self.advanced(io, log, high_watermark),
            Event::ReadReady { log } => {
                let parked = self.partitions.of_log(log).map(|p| std::mem::take(&mut p.parked));
                parked.into_iter().flatten().for_each(|task| self.execute(io, task));
            }
            Event::StartAdvanced { log, log_start_offset } => self.advanced_start(io, log, log_start_offset),
            Event::DirFailed { dir, error } => {
                tracing::error!(dir, error, "log directory offline");
                self.dir_failed(io, dir);
            }
            Event::MoveReady { log, dir } => self.move_ready(io, log, dir),
        }
    }

    fn advanced(&mut self, io: &mut impl Io, log: LogId, high_watermark: i64) {
        while let Some(waiter) = self.partitions.of_log(log).and_then(|p| p.pop_waiter(high_watermark)) {
            match waiter.to {
                WaiterTo::Gather(gather, index) => self.answer(io, gather, index, waiter.answer),
                WaiterTo::Coordinator(append) => {
                    let base_offset = match waiter.answer {
                        Answer::Produced { base_offset, .. } => base_offset,
                        _ => waiter.last_offset,
                    };
                    self.coordinator_appended(io, append, Ok(base_offset));
                }
                WaiterTo::Transactions(append) => self.transaction_appended(io, append, Ok(())),
            }
        }
        self.wake_watches(io, log);
    }

    fn advanced_start(&mut self, io: &mut impl Io, log: LogId, log_start_offset: i64) {
        let parked = self.partitions.of_log(log).map(|p| std::mem::take(&mut p.parked));
        parked.into_iter().flatten().for_each(|task| self.execute(io, task));
        tracing::debug!(?log, log_start_offset, "log start offset moved");
        self.wake_watches(io, log);
    }

    fn wake_watches(&mut self, io: &mut impl Io, log: LogId) {
        let Some(partition) = self.partitions.of_log(log) else { return };
        let mut here = self.spares.gathers.take();
        for gather in partition.take_watches() {
            if usize::from(gather.shard) == self.shard {
                here.push(gather);
            } else {
                self.post.letters.to(usize::from(gather.shard)).push_ready(gather);
            }
        }
        here.drain(..).for_each(|at| handlers::fetch::moved(self, io, at));
        self.spares.gathers.give(here);
    }

    /// All that waits on logs of a failed directory is told so.
    fn dir_failed(&mut self, io: &mut impl Io, dir: usize) {
        let mut waiters = Vec::new();
        let mut logs = Vec::new();
        for partition in self.partitions.iter_mut() {
            if self.storage.dir(partition.log) != Some(dir) {
                continue;
            }
            logs.push(partition.log);
            while let Some(waiter) = partition.pop_waiter(i64::MAX) {
                waiters.push(waiter.to);
            }
        }
        for to in waiters {
            match to {
                WaiterTo::Gather(gather, index) => {
                    self.answer(io, gather, index, Answer::Error(ErrorCode::KafkaStorageError));
                }
                WaiterTo::Coordinator(append) => {
                    self.coordinator_appended(io, append, Err(ErrorCode::KafkaStorageError));
                }
                WaiterTo::Transactions(append) => {
                    self.transaction_appended(io, append, Err(ErrorCode::KafkaStorageError));
                }
            }
        }
        for log in logs {
            let parked = self.partitions.of_log(log).map(|p| std::mem::take(&mut p.parked));
            parked.into_iter().flatten().for_each(|task| self.execute(io, task));
            self.wake_watches(io, log);
        }
    }

    /// A gather whose parts did not all come back in time: those missing are told REQUEST_TIMED_OUT.
    fn time_out(&mut self, io: &mut impl Io, at: GatherRef) {
        let Some(gather) = self.gathers.find(at) else { return };
        for index in 0..gather.answers.len() {
            gather.put(index as u32, Answer::Error(ErrorCode::RequestTimedOut));
        }
        self.finish(io, at);
    }

    fn end_fetch_waits(&mut self, io: &mut impl Io) {
        while let Some(Reverse((at_ns, slot, generation))) = self.fetch_deadlines.peek().copied() {
            if at_ns > self.now_ns {
                break;
            }
            self.fetch_deadlines.pop();
            let at = GatherRef { shard: self.shard as u16, slot, generation };
            if self.gathers.find(at).is_some_and(|gather| gather.is_complete()) {
                self.finish(io, at);
            }
        }
    }

    /// The shard it is the broker of.
    pub fn shard(&self) -> usize {
        self.shard
    }

    // ---- the end ----

    /// Flushes all logs; see [`Storage::begin_stop`].
    pub fn begin_stop(&mut self, io: &mut impl Io) {
        if !std::mem::replace(&mut self.stopping, true) {
            self.storage.begin_stop(io);
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stopping && self.storage.is_stopped()
    }
}
