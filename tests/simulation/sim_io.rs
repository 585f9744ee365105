//! `SimIo`: the `Io` driver of one simulated machine room, repeatable from one seed, on one thread.
//!
//! A [`SimWorld`] holds the clocks, the disks, the network and all drivers; chance comes from its seed alone. Ops take
//! effect when their event is due, in an order drawn at random; completions wait for their driver's next turn.
//!
//! Two ways to run. *Alone*: `turn` moves virtual time to the next event until there is something for the caller, as a
//! sleeping ring would. *Cooperative* ([`SimWorld::set_cooperative`]): `turn` never waits; the harness steps every driver
//! that [`SimWorld::runnable`] names, and calls [`SimWorld::advance`] when none is.
//!
//! Dropping a driver is the end of its process (kill -9): what completed stays, what was in flight lands by sector or not.
//! [`SimWorld::crash`] does it for several drivers at once, with or without the power.
//! Other integration tests use it by `#[path = "simulation/sim_io.rs"] mod sim_io;`.
#![allow(dead_code)]

pub mod rng;
pub mod sim_disk;
pub mod sim_net;
mod sim_world;

use std::cell::{Ref, RefCell, RefMut};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ringlog::io::{Completion, DirEntry, Errno, Handle, Io, Op, Token};

use rng::Rng;
use sim_disk::{Disk, FaultRule};
use sim_net::{NetOptions, SocketId, SocketState};
pub use sim_world::Crash;
use sim_world::World;

/// The shape of a simulated world. Probabilities are 0 unless told.
#[derive(Clone, Debug)]
pub struct SimOptions {
    pub net: NetOptions,
    pub read_ns: (u64, u64),
    pub write_ns: (u64, u64),
    pub sync_ns: (u64, u64),
    /// Opens, renames, unlinks and the like.
    pub other_ns: (u64, u64),
    /// What a turn takes, at most.
    pub turn_ns: u64,
    pub wall_start_ms: i64,
    /// The chance that a turn hands over only a part of what is there.
    pub partial_turn: f64,
    /// Tell every event on stderr.
    pub verbose: bool,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            net: NetOptions::default(),
            read_ns: (20_000, 300_000),
            write_ns: (20_000, 400_000),
            sync_ns: (50_000, 3_000_000),
            other_ns: (2_000, 200_000),
            turn_ns: 2_000,
            wall_start_ms: 1_700_000_000_000,
            partial_turn: 0.1,
            verbose: std::env::var_os("RINGLOG_SIM_TRACE").is_some(),
        }
    }
}

/// Everything that the drivers of a run share. Clones are the same world.
#[derive(Clone)]
pub struct SimWorld {
    world: Rc<RefCell<World>>,
}

/// One driver: a ring of a process of the simulated world.
pub struct SimIo {
    world: SimWorld,
    driver: usize,
    queue: Vec<(Op, Token)>,
    wakes: Vec<usize>,
    now_ns: u64,
    wall_ms: i64,
}

/// Wakes the driver of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimWaker(pub usize);

/// What a client of the harness sees of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    Connecting,
    Open,
    /// All that the broker sent has been taken and its end of stream is there.
    Ended,
    /// Refused, reset or closed by this side.
    Gone,
}

impl SimWorld {
    pub fn new(seed: u64, options: SimOptions) -> SimWorld {
        SimWorld { world: Rc::new(RefCell::new(World::new(seed, options))) }
    }

    fn get(&self) -> Ref<'_, World> {
        self.world.borrow()
    }

    fn get_mut(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// A new process with one driver.
    pub fn driver(&self) -> SimIo {
        let driver = self.get_mut().add_driver();
        let (now_ns, wall_ms) = (self.now(), self.wall_ms());
        SimIo { world: self.clone(), driver, queue: Vec::new(), wakes: Vec::new(), now_ns, wall_ms }
    }

    pub fn now(&self) -> u64 {
        self.get().now_ns
    }

    pub fn wall_ms(&self) -> i64 {
        self.get().wall_ms()
    }

    /// Moves the wall clock, and never the monotonic one.
    pub fn jump_wall_ms(&self, by_ms: i64) {
        self.get_mut().wall_offset_ms += by_ms;
    }

    /// A number that two runs of a seed share exactly when they did the same.
    pub fn trace_hash(&self) -> u64 {
        self.get().hash
    }

    /// Lets the harness put what it saw into the hash too.
    pub fn note(&self, value: u64) {
        self.get_mut().mix(value);
    }

    pub fn fork_rng(&self) -> Rng {
        self.get_mut().rng.fork()
    }

    // ---- stepping several drivers ----

    pub fn set_cooperative(&self, cooperative: bool) {
        self.get_mut().cooperative = cooperative;
    }

    /// Whether a turn of `driver` would find a completion, a wake-up or its deadline passed.
    pub fn runnable(&self, driver: usize) -> bool {
        self.get_mut().runnable(driver)
    }

    /// Moves time to the next event or deadline of a driver, but not beyond `limit_ns`, and lets events take effect.
    /// False when nothing would ever happen again before `limit_ns`.
    pub fn advance(&self, limit_ns: u64) -> bool {
        self.get_mut().advance(limit_ns)
    }

    /// Lets `driver` run soon, as a wake from another thread does.
    pub fn wake(&self, driver: usize) {
        self.get_mut().wake(driver);
    }

    /// Ends processes. With [`Crash::Power`] all disks also fall back to what a power cut leaves, and peers hear nothing.
    pub fn crash(&self, drivers: &[usize], crash: Crash) {
        self.get_mut().crash(drivers, crash);
    }

    /// After this many more disk ops every further one fails, until told otherwise. Those under way then land or do not,
    /// as what a crash catches in flight; those begun later never do. So a run can end between any two ops, in blocking
    /// code too.
    pub fn hang_after_ops(&self, ops: Option<u64>) {
        self.get_mut().hang_after_ops = ops;
    }

    /// Whether the machine hangs already.
    pub fn hangs(&self) -> bool {
        self.get().hang_after_ops == Some(0)
    }

    // ---- disks ----

    /// Another file system at `mount`; `/` is there from the start.
    pub fn add_disk(&self, mount: &Path) {
        self.get_mut().disks.push(Disk::new(mount));
    }

    /// The file system that holds `path`, to set its capacity and faults.
    pub fn with_disk<T>(&self, path: &Path, f: impl FnOnce(&mut Disk) -> T) -> T {
        let mut world = self.get_mut();
        let disk = world.disk_of(path);
        f(&mut world.disks[disk])
    }

    /// Adds a scripted fault on the file system of `path`.
    pub fn script(&self, path: &Path, rule: FaultRule) {
        self.with_disk(path, |disk| disk.rules.push(rule));
    }

    /// Makes directories as part of the set-up: at once and durably.
    pub fn create_dir_all(&self, path: &Path) {
        self.with_disk(path, |disk| disk.create_dir_all(path));
    }

    // ---- clients of the harness: sockets without a driver ----

    /// Starts a connection.
    pub fn client_connect(&self, address: SocketAddr, capacity_bytes: usize) -> SocketId {
        self.get_mut().client_connect(address, capacity_bytes)
    }

    /// Takes up to `bytes.len()` bytes for sending; fewer when the broker's window is full.
    pub fn client_send(&self, socket: SocketId, bytes: &[u8]) -> usize {
        self.get_mut().client_send(socket, bytes)
    }

    /// Appends what has arrived, at most `max` bytes.
    pub fn client_receive(&self, socket: SocketId, max: usize, out: &mut Vec<u8>) -> usize {
        self.get_mut().client_receive(socket, max, out)
    }

    pub fn client_state(&self, socket: SocketId) -> ClientState {
        let world = self.get();
        let socket = &world.net.sockets[socket];
        match socket.state {
            SocketState::Connecting => ClientState::Connecting,
            SocketState::Open if socket.reset => ClientState::Gone,
            SocketState::Open if socket.fin && socket.arrived.is_empty() => ClientState::Ended,
            SocketState::Open => ClientState::Open,
            _ => ClientState::Gone,
        }
    }

    /// Closes in order (`abort` false) or by a reset.
    pub fn client_close(&self, socket: SocketId, abort: bool) {
        self.get_mut().close_socket(socket, abort);
    }

    /// The client's machine is gone: the broker hears nothing more and nothing is acknowledged.
    pub fn client_vanish(&self, socket: SocketId) {
        self.get_mut().net.sockets[socket].state = SocketState::Vanished;
    }

    /// A client to which something happened since it was last named.
    pub fn next_active_client(&self) -> Option<SocketId> {
        let mut world = self.get_mut();
        let socket = world.net.active.pop_front()?;
        world.net.sockets[socket].queued = false;
        Some(socket)
    }
}

impl SimIo {
    /// A driver in a world of its own.
    pub fn new(seed: u64) -> SimIo {
        SimWorld::new(seed, SimOptions::default()).driver()
    }

    pub fn world(&self) -> &SimWorld {
        &self.world
    }

    pub fn id(&self) -> usize {
        self.driver
    }

    fn start_queued(&mut self, world: &mut World) {
        for (op, token) in self.queue.drain(..) {
            world.start(self.driver, op, token);
        }
        for driver in self.wakes.drain(..) {
            world.wake(driver);
        }
    }

    fn read_clocks(&mut self, world: &World) {
        self.now_ns = world.now_ns;
        self.wall_ms = world.wall_ms();
    }
}

impl Io for SimIo {
    type Waker = SimWaker;

    fn now(&self) -> u64 {
        self.now_ns
    }

    fn wall_ms(&self) -> i64 {
        self.wall_ms
    }

    fn submit(&mut self, op: Op, token: Token) {
        self.queue.push((op, token));
    }

    fn turn(&mut self, wait_until_ns: u64, out: &mut Vec<Completion>) {
        let world = self.world.clone();
        let mut world = world.get_mut();
        world.begin_turn(self.driver, wait_until_ns);
        self.start_queued(&mut world);
        loop {
            world.run_due();
            if world.collect(self.driver, out) || world.cooperative || world.now_ns >= wait_until_ns {
                break;
            }
            let arrived = world.step_to_next(wait_until_ns);
            assert!(arrived, "driver {} would sleep for ever", self.driver);
        }
        self.read_clocks(&world);
    }

    fn waker(&self) -> SimWaker {
        SimWaker(self.driver)
    }

    fn wake(&mut self, peer: &SimWaker) {
        self.wakes.push(peer.0);
    }

    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)> {
        let mut world = self.world.get_mut();
        world.listen(self.driver, address, shared).ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    fn random(&mut self) -> u64 {
        self.world.get_mut().rng.next()
    }

    fn block_on(&mut self, op: Op) -> Completion {
        let world = self.world.clone();
        let mut world = world.get_mut();
        self.start_queued(&mut world);
        world.start(self.driver, op, Token(u64::MAX));
        let completion = loop {
            if let Some(completion) = world.take_completion(self.driver, Token(u64::MAX)) {
                break completion;
            }
            let arrived = world.step_to_next(u64::MAX);
            assert!(arrived, "driver {} would block for ever", self.driver);
            world.run_due();
        };
        assert!(!completion.more, "block_on is for ops with one completion");
        self.read_clocks(&world);
        completion
    }

    fn list_dir(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let os_error = |error: Errno| io::Error::from_raw_os_error(error.0);
        self.world.get_mut().list_dir(path).map_err(os_error)
    }

    fn lock_file(&mut self, path: &Path) -> io::Result<bool> {
        let os_error = |error: Errno| io::Error::from_raw_os_error(error.0);
        self.world.get_mut().lock_file(self.driver, PathBuf::from(path)).map_err(os_error)
    }
}

impl Drop for SimIo {
    fn drop(&mut self) {
        // During a panic the world may be borrowed; its end does not matter then.
        if let Ok(mut world) = self.world.world.try_borrow_mut() {
            world.crash(&[self.driver], Crash::Kill);
        }
    }
}
