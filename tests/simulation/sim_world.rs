//! The events of a simulated world: what ops are under way, when each takes effect, and what it does then.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ringlog::io::buffer::Received;
use ringlog::io::{BLOCK_BYTES, Completion, DirEntry, Errno, Handle, Op, OpenMode, Part, Payload, Token};

use super::SimOptions;
use super::rng::Rng;
use super::sim_disk::{Action, Disk, NodeId};
use super::sim_net::{Net, Sending, Socket, SocketId, SocketState};

/// How processes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// kill -9: what the kernel has completed stays.
    Kill,
    /// The machine loses power: what was not synced may go.
    Power,
}

pub struct World {
    pub now_ns: u64,
    pub wall_offset_ms: i64,
    pub hash: u64,
    pub rng: Rng,
    pub cooperative: bool,
    pub disks: Vec<Disk>,
    pub net: Net,
    /// Disk ops until the machine hangs: from then on each fails, and lands or does not as if it were in flight.
    pub hang_after_ops: Option<u64>,
    options: SimOptions,
    drivers: Vec<Driver>,
    events: BinaryHeap<Reverse<Timed>>,
    event_count: u64,
    op_count: u64,
    locks: BTreeMap<PathBuf, usize>,
}

struct Driver {
    alive: bool,
    ready: VecDeque<Completion>,
    look: VecDeque<Look>,
    woken: bool,
    wait_until_ns: u64,
    ops: BTreeMap<u64, InFlight>,
    handles: Vec<Slot>,
    /// Sockets that wait for a receive buffer.
    starved: Vec<SocketId>,
    /// Bytes in received pieces that the driver's user still holds.
    held: Rc<Cell<usize>>,
}

/// Something that a driver's next turn may turn into completions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Socket(SocketId),
    Listener(usize),
}

#[derive(Clone)]
enum Resource {
    Socket(SocketId),
    Listener(usize),
    File { disk: usize, node: NodeId, mode: OpenMode, path: Rc<Path> },
}

/// A handle's place; its generation tells a stale handle from its successor.
#[derive(Default)]
struct Slot {
    generation: u32,
    resource: Option<Resource>,
}

const SLOT_BITS: u32 = 16;

struct InFlight {
    token: Token,
    kind: Kind,
}

enum Kind {
    /// `mark`: what a sync covers. `late`: begun when the machine hung already, so that it never lands.
    Disk {
        op: Op,
        file: Option<Resource>,
        mark: u64,
        late: bool,
    },
    Accept {
        listener: usize,
    },
    Connect {
        socket: SocketId,
    },
    Receive {
        socket: SocketId,
    },
    /// `buf` grows from `start` to `end`.
    ReceiveExact {
        socket: SocketId,
        buf: Vec<u8>,
        start: usize,
        end: usize,
    },
    Send {
        socket: SocketId,
        parts: Vec<Part>,
    },
}

struct Timed {
    at_ns: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        self.order == other.order
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        (self.at_ns, self.order).cmp(&(other.at_ns, other.order))
    }
}

enum Event {
    DiskOp { driver: usize, op: u64 },
    Done { driver: usize, token: Token, result: Result<usize, Errno> },
    Cancel { driver: usize, token: Token, target: Token },
    Wake { driver: usize },
    Syn { socket: SocketId, address: SocketAddr },
    Connected { socket: SocketId, accepted: bool },
    Arrive { socket: SocketId, bytes: Vec<u8> },
    Window { socket: SocketId },
    Fin { socket: SocketId },
    Reset { socket: SocketId },
}

/// A received piece; its drop gives the driver a receive buffer back.
struct Piece {
    bytes: Vec<u8>,
    held: Rc<Cell<usize>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.held.set(self.held.get() - self.bytes.len());
    }
}

impl World {
    pub fn new(seed: u64, options: SimOptions) -> World {
        World {
            now_ns: 1_000_000_000,
            wall_offset_ms: options.wall_start_ms,
            hash: seed,
            rng: Rng::new(seed),
            cooperative: false,
            disks: vec![Disk::new(Path::new("/"))],
            net: Net::new(options.net.clone()),
            hang_after_ops: None,
            options,
            drivers: Vec::new(),
            events: BinaryHeap::new(),
            event_count: 0,
            op_count: 0,
            locks: BTreeMap::new(),
        }
    }

    pub fn add_driver(&mut self) -> usize {
        self.drivers.push(Driver {
            alive: true,
            ready: VecDeque::new(),
            look: VecDeque::new(),
            woken: false,
            wait_until_ns: 0,
            ops: BTreeMap::new(),
            handles: Vec::new(),
            starved: Vec::new(),
            held: Rc::new(Cell::new(0)),
        });
        self.drivers.len() - 1
    }

    pub fn wall_ms(&self) -> i64 {
        (self.now_ns / 1_000_000) as i64 + self.wall_offset_ms
    }

    pub fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    // ---- time ----

    fn at(&mut self, at_ns: u64, event: Event) {
        self.event_count += 1;
        self.events.push(Reverse(Timed { at_ns, order: self.event_count, event }));
    }

    fn after(&mut self, (low, high): (u64, u64), event: Event) {
        let delay = self.rng.range(low, high);
        self.at(self.now_ns + delay, event);
    }

    pub fn begin_turn(&mut self, driver: usize, wait_until_ns: u64) {
        assert!(self.drivers[driver].alive, "driver {driver} runs on after its process ended");
        let cost = self.rng.range(1, self.options.turn_ns.max(1));
        self.now_ns += cost;
        self.drivers[driver].wait_until_ns = wait_until_ns;
    }

    /// Moves time to the next event or to `limit_ns`; false where neither would ever come.
    pub fn step_to_next(&mut self, limit_ns: u64) -> bool {
        let next = self.events.peek().map_or(u64::MAX, |Reverse(timed)| timed.at_ns);
        let target = next.min(limit_ns);
        if target == u64::MAX {
            return false;
        }
        self.now_ns = self.now_ns.max(target);
        true
    }

    pub fn run_due(&mut self) {
        while self.events.peek().is_some_and(|Reverse(timed)| timed.at_ns <= self.now_ns) {
            let Some(Reverse(timed)) = self.events.pop() else { return };
            self.run(timed.event);
        }
    }

    pub fn runnable(&mut self, driver: usize) -> bool {
        let d = &self.drivers[driver];
        let fed = !d.starved.is_empty() && d.held.get() < self.options.net.receive_bytes;
        let there = d.woken || !d.ready.is_empty() || !d.look.is_empty();
        d.alive && (there || fed || d.wait_until_ns <= self.now_ns)
    }

    pub fn advance(&mut self, limit_ns: u64) -> bool {
        // A deadline that has passed is the harness's to act on, or the process is not stepped any more.
        let alive = self.drivers.iter().filter(|d| d.alive && d.wait_until_ns > self.now_ns);
        let deadline = alive.map(|d| d.wait_until_ns).min().unwrap_or(u64::MAX);
        let moved = self.step_to_next(deadline.min(limit_ns));
        self.run_due();
        moved && self.now_ns < limit_ns
    }

    pub fn wake(&mut self, driver: usize) {
        self.after((1_000, 50_000), Event::Wake { driver });
    }

    fn run(&mut self, event: Event) {
        match event {
            Event::DiskOp { driver, op } => self.finish_disk_op(driver, op),
            Event::Done { driver, token, result } => self.complete(driver, token, result, Payload::None),
            Event::Cancel { driver, token, target } => self.cancel(driver, token, target),
            Event::Wake { driver } => self.drivers[driver].woken = true,
            Event::Syn { socket, address } => self.syn(socket, address),
            Event::Connected { socket, accepted } => self.connected(socket, accepted),
            Event::Arrive { socket, bytes } => self.arrive(socket, bytes),
            Event::Window { socket } => self.pump(socket),
            Event::Fin { socket } => {
                self.net.sockets[socket].fin = true;
                self.notify(socket);
            }
            Event::Reset { socket } => self.reset(socket),
        }
    }

    // ---- completions ----

    fn complete(&mut self, driver: usize, token: Token, result: Result<usize, Errno>, payload: Payload) {
        if self.drivers[driver].alive {
            let completion = Completion { token, result, more: false, payload };
            self.drivers[driver].ready.push_back(completion);
        }
    }

    fn finish(&mut self, driver: usize, op: u64, result: Result<usize, Errno>, payload: Payload) {
        if let Some(done) = self.drivers[driver].ops.remove(&op) {
            self.complete(driver, done.token, result, payload);
        }
    }

    /// Takes the completion of a blocking op; the others stay for the next turn.
    pub fn take_completion(&mut self, driver: usize, token: Token) -> Option<Completion> {
        let ready = &mut self.drivers[driver].ready;
        let at = ready.iter().position(|completion| completion.token == token)?;
        let completion = ready.remove(at)?;
        self.trace(driver, &completion);
        Some(completion)
    }

    /// Hands over what is there for `driver`; false when nothing was and nobody woke it.
    pub fn collect(&mut self, driver: usize, out: &mut Vec<Completion>) -> bool {
        let before = out.len();
        let woken = std::mem::take(&mut self.drivers[driver].woken);
        if self.drivers[driver].held.get() < self.options.net.receive_bytes {
            for socket in std::mem::take(&mut self.drivers[driver].starved) {
                self.notify(socket);
            }
        }
        for _ in 0..self.drivers[driver].look.len() {
            match self.drivers[driver].look.pop_front() {
                Some(Look::Socket(socket)) => self.receive_pieces(driver, socket),
                Some(Look::Listener(listener)) => self.accept_pending(driver, listener),
                None => break,
            }
        }
        let there = self.drivers[driver].ready.len();
        let partial = there > 1 && self.rng.chance(self.options.partial_turn);
        let count = if partial { self.rng.range(1, there as u64) as usize } else { there };
        let handed: Vec<Completion> = self.drivers[driver].ready.drain(..count).collect();
        for completion in handed {
            self.trace(driver, &completion);
            out.push(completion);
        }
        let found = woken || out.len() > before;
        if found {
            // What it does about this, and until when it waits then, shows in its next turn.
            self.drivers[driver].wait_until_ns = 0;
        }
        found
    }

    fn trace(&mut self, driver: usize, completion: &Completion) {
        let content = match &completion.payload {
            Payload::Received(bytes) => crc32c::crc32c(bytes),
            Payload::Filled(bytes) => crc32c::crc32c(bytes),
            Payload::Buffer(buf) => crc32c::crc32c(&buf[..completion.result.unwrap_or(0)]),
            _ => 0,
        };
        let result = completion.result.map_or_else(|error| -(error.0 as i64), |bytes| bytes as i64);
        for value in [self.now_ns, driver as u64, completion.token.0, result as u64, u64::from(content)] {
            self.mix(value);
        }
        if self.options.verbose {
            let (now, token, more) = (self.now_ns, completion.token.0, completion.more);
            eprintln!("{now:>14} d{driver} {token:#018x} -> {:?} more={more}", completion.result);
        }
    }

    // ---- submission ----

    fn add_op(&mut self, driver: usize, token: Token, kind: Kind) -> u64 {
        self.op_count += 1;
        self.drivers[driver].ops.insert(self.op_count, InFlight { token, kind });
        self.op_count
    }

    fn add_handle(&mut self, driver: usize, resource: Resource) -> Handle {
        let handles = &mut self.drivers[driver].handles;
        let at = handles.iter().position(|slot| slot.resource.is_none()).unwrap_or_else(|| {
            handles.push(Slot::default());
            handles.len() - 1
        });
        handles[at].resource = Some(resource);
        Handle(handles[at].generation << SLOT_BITS | at as u32)
    }

    fn resource(&self, driver: usize, handle: Handle) -> Result<Resource, Errno> {
        let slot = self.drivers[driver].handles.get((handle.0 & ((1 << SLOT_BITS) - 1)) as usize);
        let slot = slot.filter(|slot| slot.generation == handle.0 >> SLOT_BITS);
        slot.and_then(|slot| slot.resource.clone()).ok_or(Errno(libc::EBADF))
    }

    fn socket(&self, driver: usize, handle: Handle) -> Result<SocketId, Errno> {
        match self.resource(driver, handle)? {
            Resource::Socket(socket) => Ok(socket),
            _ => Err(Errno(libc::ENOTSOCK)),
        }
    }

    pub fn start(&mut self, driver: usize, op: Op, token: Token) {
        if self.options.verbose {
            eprintln!("{:>14} d{driver} {:#018x} <- {}", self.now_ns, token.0, describe(&op));
        }
        match op {
            Op::Accept { listener } => self.start_accept(driver, listener, token),
            Op::Connect { address } => self.start_connect(driver, address, token),
            Op::Receive { socket } => self.start_receive(driver, socket, token),
            Op::ReceiveExact { socket, buf, len } => {
                self.start_receive_exact(driver, socket, buf, len, token)
            }
            Op::Send { socket, parts } => self.start_send(driver, socket, parts, token),
            Op::Shutdown { socket } => {
                let result = self.socket(driver, socket).map(|socket| {
                    self.shutdown(socket);
                    0
                });
                self.done_soon(driver, token, result);
            }
            Op::Close { handle } => {
                let result = self.close_handle(driver, handle);
                self.done_soon(driver, token, result);
            }
            Op::Cancel { target } => {
                if self.rng.chance(0.5) {
                    self.cancel(driver, token, target);
                } else {
                    self.after((500, 20_000), Event::Cancel { driver, token, target });
                }
            }
            op => self.start_disk_op(driver, op, token),
        }
    }

    fn done_soon(&mut self, driver: usize, token: Token, result: Result<usize, Errno>) {
        self.after((0, 20_000), Event::Done { driver, token, result });
    }

    fn cancel(&mut self, driver: usize, token: Token, target: Token) {
        let found = self.drivers[driver].ops.iter().find(|(_, op)| op.token == target).map(|(&id, _)| id);
        let result = match found {
            None => Err(Errno::NOT_FOUND),
            Some(op) if self.is_disk_op(driver, op) => Ok(0), // it completes as it would have
            Some(op) => {
                self.end_net_op(driver, op, Err(Errno::CANCELED));
                Ok(0)
            }
        };
        self.complete(driver, token, result, Payload::None);
    }

    fn is_disk_op(&self, driver: usize, op: u64) -> bool {
        self.drivers[driver].ops.get(&op).is_some_and(|op| matches!(op.kind, Kind::Disk { .. }))
    }

    /// Ends an op on a socket or listener; its buffers go back.
    fn end_net_op(&mut self, driver: usize, op: u64, result: Result<usize, Errno>) {
        let Some(ended) = self.drivers[driver].ops.remove(&op) else { return };
        let payload = match ended.kind {
            Kind::Accept { listener } => {
                self.net.listeners[listener].accept = None;
                Payload::None
            }
            Kind::Connect { socket } => {
                self.close_socket(socket, true);
                Payload::None
            }
            Kind::Receive { socket } => {
                self.net.sockets[socket].receive = None;
                Payload::None
            }
            Kind::ReceiveExact { socket, buf, .. } => {
                self.net.sockets[socket].receive = None;
                Payload::Filled(buf)
            }
            Kind::Send { socket, parts } => {
                self.net.sockets[socket].send = None;
                Payload::Parts(parts)
            }
            Kind::Disk { .. } => unreachable!("a socket's op"),
        };
        self.complete(driver, ended.token, result, payload);
    }

    fn close_handle(&mut self, driver: usize, handle: Handle) -> Result<usize, Errno> {
        let resource = self.resource(driver, handle)?;
        let slot = &mut self.drivers[driver].handles[(handle.0 & ((1 << SLOT_BITS) - 1)) as usize];
        slot.resource = None;
        slot.generation = (slot.generation + 1) & ((1 << (32 - SLOT_BITS)) - 1);
        match resource {
            Resource::Socket(socket) => {
                let ops = (self.net.sockets[socket].receive, self.net.sockets[socket].send.map(|s| s.op));
                for op in [ops.0, ops.1].into_iter().flatten() {
                    self.end_net_op(driver, op, Err(Errno::CANCELED));
                }
                let unread = self.net.sockets[socket].has_unread();
                self.close_socket(socket, unread);
            }
            Resource::Listener(listener) => self.close_listener(driver, listener),
            Resource::File { disk, node, .. } => self.disks[disk].close(node),
        }
        Ok(0)
    }

    // ---- disk ----

    pub fn disk_of(&self, path: &Path) -> usize {
        let holds = |&at: &usize| path.starts_with(&self.disks[at].mount);
        let depth = |&at: &usize| self.disks[at].mount.components().count();
        (0..self.disks.len()).filter(holds).max_by_key(depth).expect("the root holds every path")
    }

    pub fn list_dir(&mut self, path: &Path) -> Result<Vec<DirEntry>, Errno> {
        let disk = self.disk_of(path);
        if self.hang_after_ops == Some(0) {
            return Err(Errno::IO);
        }
        match self.disks[disk].fault(Action::List, path, &mut self.rng) {
            Some(error) => Err(error),
            None => self.disks[disk].list(path),
        }
    }

    pub fn lock_file(&mut self, driver: usize, path: PathBuf) -> Result<bool, Errno> {
        let disk = self.disk_of(&path);
        let node =
            self.disks[disk].open(&path, OpenMode { write: true, create: true, ..OpenMode::default() })?;
        self.disks[disk].close(node);
        if self.locks.contains_key(&path) {
            return Ok(false);
        }
        self.locks.insert(path, driver);
        Ok(true)
    }

    fn start_disk_op(&mut self, driver: usize, op: Op, token: Token) {
        let file = match &op {
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Sync { file, .. }
            | Op::Truncate { file, .. } => self.resource(driver, *file).ok(),
            _ => None,
        };
        check_alignment(&op, file.as_ref());
        let mark = match &file {
            Some(Resource::File { disk, .. }) => self.disks[*disk].sync_mark(),
            _ => 0,
        };
        let (low, high) = match &op {
            Op::Read { .. } => self.options.read_ns,
            Op::Write { sync: true, .. } | Op::Sync { .. } => self.options.sync_ns,
            Op::Write { .. } => self.options.write_ns,
            _ => self.options.other_ns,
        };
        let mut delay = self.rng.range(low, high);
        if let Some(Resource::File { disk, .. }) = &file {
            let faults = &self.disks[*disk].faults;
            let (slow, slow_max_ns) = (faults.slow, faults.slow_max_ns);
            if self.rng.chance(slow) {
                delay = self.rng.range(high, slow_max_ns.max(high));
            }
        }
        let late = self.hang_after_ops == Some(0);
        let op = self.add_op(driver, token, Kind::Disk { op, file, mark, late });
        self.at(self.now_ns + delay, Event::DiskOp { driver, op });
    }

    fn finish_disk_op(&mut self, driver: usize, op: u64) {
        if !self.drivers[driver].alive {
            return;
        }
        let Some(InFlight { token, kind: Kind::Disk { op, file, mark, late } }) =
            self.drivers[driver].ops.remove(&op)
        else {
            return;
        };
        if self.hangs() {
            let payload = if late { never_landed(op) } else { self.abandon_disk_op(op, file) };
            return self.complete(driver, token, Err(Errno::IO), payload);
        }
        let (result, payload) = match op {
            Op::Open { path, mode } => match self.open(driver, &path, mode) {
                Ok(file) => (Ok(0), Payload::Opened { file }),
                Err(error) => (Err(error), Payload::None),
            },
            Op::Read { offset, mut buf, len, .. } => {
                let result = match buf.get_mut(..len) {
                    Some(out) => self.read(file, offset, out),
                    None => Err(Errno(libc::EINVAL)),
                };
                (result, Payload::Buffer(buf))
            }
            Op::Write { offset, data, sync, .. } => (self.write(file, offset, &data, sync), Payload::None),
            Op::Sync { .. } => (self.sync(file, mark), Payload::None),
            Op::Truncate { len, .. } => (
                self.change_file(Action::Truncate, file, |disk, node| disk.truncate(node, len)),
                Payload::None,
            ),
            op => (self.change_names(op), Payload::None),
        };
        self.complete(driver, token, result, payload);
    }

    fn hangs(&mut self) -> bool {
        match &mut self.hang_after_ops {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    fn open(&mut self, driver: usize, path: &Path, mode: OpenMode) -> Result<Handle, Errno> {
        let disk = self.disk_of(path);
        if let Some(error) = self.disks[disk].fault(Action::Open, path, &mut self.rng) {
            return Err(error);
        }
        let node = self.disks[disk].open(path, mode)?;
        Ok(self.add_handle(driver, Resource::File { disk, node, mode, path: Rc::from(path) }))
    }

    fn read(&mut self, file: Option<Resource>, offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
        let Some(Resource::File { disk, node, path, .. }) = file else { return Err(Errno(libc::EBADF)) };
        if let Some(error) = self.disks[disk].fault(Action::Read, &path, &mut self.rng) {
            return Err(error);
        }
        let len = self.disks[disk].read(node, offset, out)?;
        if len > 0 && self.rng.chance(self.disks[disk].faults.bit_flip) {
            let at = self.rng.index(len);
            out[at] ^= 1 << self.rng.below(8);
        }
        Ok(len)
    }

    fn write(&mut self, file: Option<Resource>, at: u64, data: &[u8], sync: bool) -> Result<usize, Errno> {
        let Some(Resource::File { disk, node, path, mode }) = file else { return Err(Errno(libc::EBADF)) };
        if !mode.write {
            return Err(Errno(libc::EBADF));
        }
        let crc = crc32c::crc32c(data);
        self.mix(at ^ u64::from(crc) << 32);
        let disk = &mut self.disks[disk];
        if let Some(error) = disk.fault(Action::Write, &path, &mut self.rng) {
            disk.write_torn(node, at, data, &mut self.rng);
            return Err(error);
        }
        disk.write(node, at, data, sync).map(|()| data.len())
    }

    fn sync(&mut self, file: Option<Resource>, mark: u64) -> Result<usize, Errno> {
        let Some(Resource::File { disk, node, path, .. }) = file else { return Err(Errno(libc::EBADF)) };
        let disk = &mut self.disks[disk];
        if let Some(error) = disk.fault(Action::Sync, &path, &mut self.rng) {
            disk.sync_failed(node);
            return Err(error);
        }
        disk.sync(node, mark);
        Ok(0)
    }

    fn change_file(
        &mut self,
        action: Action,
        file: Option<Resource>,
        change: impl FnOnce(&mut Disk, NodeId) -> Result<(), Errno>,
    ) -> Result<usize, Errno> {
        let Some(Resource::File { disk, node, path, mode }) = file else { return Err(Errno(libc::EBADF)) };
        if !mode.write {
            return Err(Errno(libc::EBADF));
        }
        let disk = &mut self.disks[disk];
        if let Some(error) = disk.fault(action, &path, &mut self.rng) {
            return Err(error);
        }
        change(disk, node).map(|()| 0)
    }

    fn change_names(&mut self, op: Op) -> Result<usize, Errno> {
        let (action, path) = match &op {
            Op::Rename { from, .. } => (Action::Rename, from),
            Op::Unlink { path } => (Action::Unlink, path),
            Op::RemoveDir { path } => (Action::RemoveDir, path),
            Op::CreateDir { path } => (Action::CreateDir, path),
            _ => unreachable!("an op on names"),
        };
        let at = self.disk_of(path);
        if let Some(error) = self.disks[at].fault(action, path, &mut self.rng) {
            return Err(error);
        }
        let result = match &op {
            Op::Rename { to, .. } if self.disk_of(to) != at => Err(Errno(libc::EXDEV)),
            Op::Rename { from, to } => self.disks[at].rename(from, to),
            Op::Unlink { path } => self.disks[at].unlink(path),
            Op::RemoveDir { path } => self.disks[at].remove_dir(path),
            Op::CreateDir { path } => self.disks[at].create_dir(path),
            _ => unreachable!("an op on names"),
        };
        result.map(|()| 0)
    }

    /// What an op in flight leaves when its process ends. Gives its buffer back.
    fn abandon_disk_op(&mut self, op: Op, file: Option<Resource>) -> Payload {
        match (op, file) {
            (Op::Write { offset, data, .. }, Some(Resource::File { disk, node, mode, .. })) if mode.write => {
                self.disks[disk].write_torn(node, offset, &data, &mut self.rng);
            }
            (Op::Truncate { len, .. }, Some(Resource::File { disk, node, mode, .. }))
                if mode.write && self.rng.chance(0.5) =>
            {
                let _ = self.disks[disk].truncate(node, len);
            }
            (Op::Open { path, mode }, None) if mode.create || mode.truncate => {
                let disk = self.disk_of(&path);
                if self.rng.chance(0.5)
                    && let Ok(node) = self.disks[disk].open(&path, mode)
                {
                    self.disks[disk].close(node);
                }
            }
            (
                op @ (Op::Rename { .. } | Op::Unlink { .. } | Op::RemoveDir { .. } | Op::CreateDir { .. }),
                None,
            ) if self.rng.chance(0.5) => {
                let _ = self.change_names(op);
            }
            (Op::Read { buf, .. }, _) => return Payload::Buffer(buf),
            _ => {}
        }
        Payload::None
    }

    // ---- ends of processes ----

    pub fn crash(&mut self, drivers: &[usize], crash: Crash) {
        for &driver in drivers {
            if std::mem::take(&mut self.drivers[driver].alive) {
                self.end_process(driver, crash);
            }
        }
        if crash == Crash::Power {
            for at in 0..self.disks.len() {
                self.disks[at].power_cut(&mut self.rng);
            }
        }
    }

    fn end_process(&mut self, driver: usize, crash: Crash) {
        let ended = &mut self.drivers[driver];
        let ops = std::mem::take(&mut ended.ops);
        let handles = std::mem::take(&mut ended.handles);
        ended.ready.clear();
        ended.look.clear();
        for op in ops.into_values() {
            match op.kind {
                Kind::Disk { op, file, late: false, .. } => {
                    self.abandon_disk_op(op, file);
                }
                Kind::Connect { socket } => self.close_socket(socket, true),
                _ => {}
            }
        }
        for resource in handles.into_iter().filter_map(|slot| slot.resource) {
            match resource {
                Resource::File { disk, node, .. } => self.disks[disk].close(node),
                Resource::Listener(listener) => self.close_listener(driver, listener),
                Resource::Socket(socket) if crash == Crash::Power => self.vanish(socket),
                Resource::Socket(socket) => {
                    let unread = self.net.sockets[socket].has_unread();
                    self.close_socket(socket, unread);
                }
            }
        }
        self.locks.retain(|_, owner| *owner != driver);
    }

    /// The machine of this socket is gone; its peer learns it late.
    fn vanish(&mut self, socket: SocketId) {
        self.net.sockets[socket].state = SocketState::Vanished;
        if let Some(peer) = self.net.sockets[socket].peer {
            self.after((100_000_000, 10_000_000_000), Event::Reset { socket: peer });
        }
    }
}

/// What the kernel refuses with EINVAL is a mistake of the caller here.
fn check_alignment(op: &Op, file: Option<&Resource>) {
    let Some(Resource::File { mode, path, .. }) = file else { return };
    let (address, offset, len) = match op {
        Op::Read { buf, offset, len, .. } => (buf.as_ptr() as usize, *offset, *len),
        Op::Write { data, offset, .. } => (data.as_ptr() as usize, *offset, data.len()),
        _ => return,
    };
    if mode.direct {
        let aligned = |value: usize| value.is_multiple_of(BLOCK_BYTES);
        let all = aligned(address) && aligned(offset as usize) && aligned(len);
        assert!(all, "direct I/O of {len} bytes at {offset} of {} is not aligned", path.display());
    }
}

fn never_landed(op: Op) -> Payload {
    match op {
        Op::Read { buf, .. } => Payload::Buffer(buf),
        _ => Payload::None,
    }
}

fn describe(op: &Op) -> String {
    match op {
        Op::Write { file, offset, data, sync } => {
            format!("Write {{ {file:?}, offset {offset}, {} bytes, sync {sync} }}", data.len())
        }
        Op::Read { file, offset, len, .. } => format!("Read {{ {file:?}, offset {offset}, len {len} }}"),
        Op::Send { socket, parts } => {
            format!("Send {{ {socket:?}, {} bytes }}", parts.iter().map(part_len).sum::<usize>())
        }
        op => format!("{op:?}"),
    }
}

fn part_bytes(part: &Part) -> &[u8] {
    match part {
        Part::Bytes(bytes) => bytes,
        Part::Shared(slice) => slice,
    }
}

fn part_len(part: &Part) -> usize {
    part_bytes(part).len()
}

/// The network half.
impl World {
    pub fn listen(
        &mut self,
        driver: usize,
        address: SocketAddr,
        shared: bool,
    ) -> Option<(Handle, SocketAddr)> {
        let listener = self.net.listen(driver, address, shared)?;
        let bound = self.net.listeners[listener].address;
        Some((self.add_handle(driver, Resource::Listener(listener)), bound))
    }

    fn start_accept(&mut self, driver: usize, listener: Handle, token: Token) {
        match self.resource(driver, listener) {
            Ok(Resource::Listener(listener)) => {
                assert!(self.net.listeners[listener].accept.is_none(), "one accept a listener");
                let op = self.add_op(driver, token, Kind::Accept { listener });
                self.net.listeners[listener].accept = Some(op);
                self.drivers[driver].look.push_back(Look::Listener(listener));
            }
            Ok(_) => self.done_soon(driver, token, Err(Errno(libc::ENOTSOCK))),
            Err(error) => self.done_soon(driver, token, Err(error)),
        }
    }

    fn accept_pending(&mut self, driver: usize, listener: usize) {
        let Some(op) = self.net.listeners[listener].accept else { return };
        let Some(token) = self.drivers[driver].ops.get(&op).map(|op| op.token) else { return };
        while let Some(socket) = self.net.listeners[listener].backlog.pop_front() {
            let peer = self.net.sockets[socket].peer.map(|peer| self.net.sockets[peer].address);
            let handle = self.add_handle(driver, Resource::Socket(socket));
            let payload = Payload::Accepted { socket: handle, peer };
            let completion = Completion { token, result: Ok(0), more: true, payload };
            self.drivers[driver].ready.push_back(completion);
        }
    }

    fn close_listener(&mut self, driver: usize, listener: usize) {
        self.net.listeners[listener].open = false;
        for socket in std::mem::take(&mut self.net.listeners[listener].backlog) {
            self.close_socket(socket, true);
        }
        if let Some(op) = self.net.listeners[listener].accept {
            self.end_net_op(driver, op, Err(Errno::CANCELED));
        }
    }

    fn delay(&self) -> (u64, u64) {
        (self.options.net.delay_min_ns, self.options.net.delay_max_ns)
    }

    fn start_connect(&mut self, driver: usize, address: SocketAddr, token: Token) {
        let socket = self.new_caller(Some(driver), self.options.net.socket_buffer_bytes, address);
        let op = self.add_op(driver, token, Kind::Connect { socket });
        // Until it is connected the slot of the pending receive names the op.
        self.net.sockets[socket].receive = Some(op);
    }

    pub fn client_connect(&mut self, address: SocketAddr, capacity_bytes: usize) -> SocketId {
        self.new_caller(None, capacity_bytes, address)
    }

    fn new_caller(&mut self, driver: Option<usize>, capacity_bytes: usize, to: SocketAddr) -> SocketId {
        let mut own = self.net.fresh_address(driver);
        if to.ip().is_loopback() {
            own.set_ip(to.ip());
        }
        self.net.sockets.push(Socket::new(driver, own, capacity_bytes));
        let socket = self.net.sockets.len() - 1;
        self.after(self.delay(), Event::Syn { socket, address: to });
        socket
    }

    fn syn(&mut self, caller: SocketId, address: SocketAddr) {
        if self.net.sockets[caller].state != SocketState::Connecting {
            return;
        }
        let backlog = self.options.net.backlog;
        let mut reachable = self.net.listening(address);
        reachable.retain(|&at| self.net.listeners[at].backlog.len() < backlog);
        let answer_ns = self.now_ns + self.rng.range(self.delay().0, self.delay().1);
        if reachable.is_empty() {
            self.at(answer_ns, Event::Connected { socket: caller, accepted: false });
            return;
        }
        let listener = *self.rng.pick(&reachable);
        let driver = self.net.listeners[listener].driver;
        let socket = self.net.connect_pair(caller, driver, address);
        self.net.sockets[caller].last_arrival_ns = answer_ns;
        self.net.listeners[listener].backlog.push_back(socket);
        self.drivers[driver].look.push_back(Look::Listener(listener));
        self.at(answer_ns, Event::Connected { socket: caller, accepted: true });
    }

    fn connected(&mut self, socket: SocketId, accepted: bool) {
        let s = &mut self.net.sockets[socket];
        if s.state != SocketState::Connecting {
            return;
        }
        s.state = if accepted { SocketState::Open } else { SocketState::Refused };
        let Some(driver) = s.driver else { return self.notify(socket) };
        let Some(op) = s.receive.take() else { return };
        if accepted {
            let handle = self.add_handle(driver, Resource::Socket(socket));
            self.finish(driver, op, Ok(0), Payload::Connected { socket: handle });
        } else {
            self.finish(driver, op, Err(Errno(libc::ECONNREFUSED)), Payload::None);
        }
    }

    /// Puts the socket on its owner's list when there is something for the owner to take.
    fn notify(&mut self, socket: SocketId) {
        let s = &mut self.net.sockets[socket];
        if s.queued {
            return;
        }
        match s.driver {
            None => {
                s.queued = true;
                self.net.active.push_back(socket);
            }
            Some(driver) if s.receive.is_some() && s.readable() && s.state != SocketState::Connecting => {
                s.queued = true;
                self.drivers[driver].look.push_back(Look::Socket(socket));
            }
            Some(_) => {}
        }
    }

    fn arrive(&mut self, socket: SocketId, bytes: Vec<u8>) {
        let s = &mut self.net.sockets[socket];
        match s.state {
            SocketState::Vanished => return, // never acknowledged: the sender's window stays full
            SocketState::Open if !s.reset => {
                s.flying_bytes -= bytes.len();
                if s.deaf {
                    return self.wake_sender(socket);
                }
                s.arrived.extend(bytes);
            }
            _ => {
                if let Some(peer) = s.peer {
                    self.after(self.delay(), Event::Reset { socket: peer });
                }
                return;
            }
        }
        self.notify(socket);
    }

    fn reset(&mut self, socket: SocketId) {
        let s = &mut self.net.sockets[socket];
        if s.state != SocketState::Open || s.reset {
            return;
        }
        s.reset = true;
        s.arrived.clear();
        self.pump(socket);
        self.notify(socket);
    }

    /// Tells the peer, a delay later, that there is room again.
    fn wake_sender(&mut self, socket: SocketId) {
        if let Some(peer) = self.net.sockets[socket].peer
            && (self.net.sockets[peer].send.is_some() || self.net.sockets[peer].blocked)
        {
            self.after(self.delay(), Event::Window { socket: peer });
        }
    }

    fn start_receive(&mut self, driver: usize, handle: Handle, token: Token) {
        match self.socket(driver, handle) {
            Ok(socket) => {
                assert!(self.net.sockets[socket].receive.is_none(), "one receive a socket");
                let op = self.add_op(driver, token, Kind::Receive { socket });
                self.net.sockets[socket].receive = Some(op);
                self.notify(socket);
            }
            Err(error) => self.done_soon(driver, token, Err(error)),
        }
    }

    fn start_receive_exact(&mut self, driver: usize, handle: Handle, buf: Vec<u8>, len: usize, token: Token) {
        let found = match len > buf.capacity() - buf.len() {
            true => Err(Errno(libc::EINVAL)),
            false => self.socket(driver, handle),
        };
        match found {
            Ok(socket) if len > 0 => {
                assert!(self.net.sockets[socket].receive.is_none(), "one receive a socket");
                let (start, end) = (buf.len(), buf.len() + len);
                let op = self.add_op(driver, token, Kind::ReceiveExact { socket, buf, start, end });
                self.net.sockets[socket].receive = Some(op);
                self.notify(socket);
            }
            found => {
                let payload = Payload::Filled(buf);
                let completion = Completion { token, result: found.map(|_| 0), more: false, payload };
                self.drivers[driver].ready.push_back(completion);
            }
        }
    }

    /// Moves what has arrived into the buffer of a `ReceiveExact`; it ends when that is full or the stream has ended.
    fn fill(&mut self, driver: usize, socket: SocketId, op: u64) {
        let ended = self.net.sockets[socket].fin || self.net.sockets[socket].deaf;
        let arrived = &mut self.net.sockets[socket].arrived;
        let Some(InFlight { kind: Kind::ReceiveExact { buf, start, end, .. }, .. }) =
            self.drivers[driver].ops.get_mut(&op)
        else {
            return;
        };
        let len = arrived.len().min(*end - buf.len());
        buf.extend(arrived.drain(..len));
        let (got, full) = (buf.len() - *start, buf.len() == *end);
        if full || ended {
            self.end_net_op(driver, op, Ok(got));
        }
        if len > 0 {
            self.wake_sender(socket);
        }
    }

    fn receive_pieces(&mut self, driver: usize, socket: SocketId) {
        self.net.sockets[socket].queued = false;
        let Some(op) = self.net.sockets[socket].receive else { return };
        let Some(token) = self.drivers[driver].ops.get(&op).map(|op| op.token) else { return };
        if self.net.sockets[socket].reset {
            return self.end_net_op(driver, op, Err(Errno::RESET));
        }
        if let Some(InFlight { kind: Kind::ReceiveExact { .. }, .. }) = self.drivers[driver].ops.get(&op) {
            return self.fill(driver, socket, op);
        }
        while !self.net.sockets[socket].arrived.is_empty() {
            if self.drivers[driver].held.get() >= self.options.net.receive_bytes {
                return self.drivers[driver].starved.push(socket);
            }
            if self.rng.chance(self.options.net.no_buffers) {
                return self.end_net_op(driver, op, Err(Errno::NO_BUFFERS));
            }
            let bytes = self.take_piece(socket);
            let held = self.drivers[driver].held.clone();
            held.set(held.get() + bytes.len());
            let result = Ok(bytes.len());
            let payload = Payload::Received(Received::owned(Box::new(Piece { bytes, held })));
            self.drivers[driver].ready.push_back(Completion { token, result, more: true, payload });
            self.wake_sender(socket);
            if self.rng.chance(self.options.net.split) {
                return self.notify(socket);
            }
        }
        if self.net.sockets[socket].fin || self.net.sockets[socket].deaf {
            self.end_net_op(driver, op, Ok(0));
        }
    }

    fn take_piece(&mut self, socket: SocketId) -> Vec<u8> {
        let mut len = self.net.sockets[socket].arrived.len().min(64 * 1024);
        if self.rng.chance(self.options.net.split) {
            len = self.rng.range(1, len as u64) as usize;
        }
        self.net.sockets[socket].arrived.drain(..len).collect()
    }

    fn start_send(&mut self, driver: usize, handle: Handle, parts: Vec<Part>, token: Token) {
        match self.socket(driver, handle) {
            Ok(socket) => {
                assert!(self.net.sockets[socket].send.is_none(), "one send a socket");
                let op = self.add_op(driver, token, Kind::Send { socket, parts });
                self.net.sockets[socket].send = Some(Sending { op, part: 0, offset: 0, taken: 0 });
                if self.rng.chance(self.options.net.reset)
                    && let Some(peer) = self.net.sockets[socket].peer
                {
                    self.after(self.delay(), Event::Reset { socket });
                    self.after(self.delay(), Event::Reset { socket: peer });
                }
                self.pump(socket);
            }
            Err(error) => {
                let completion =
                    Completion { token, result: Err(error), more: false, payload: Payload::Parts(parts) };
                self.drivers[driver].ready.push_back(completion);
            }
        }
    }

    /// Moves what the peer's window allows from a pending send to the wire.
    fn pump(&mut self, socket: SocketId) {
        if std::mem::take(&mut self.net.sockets[socket].blocked) {
            self.notify(socket);
        }
        let s = &self.net.sockets[socket];
        let (Some(driver), Some(mut sending), Some(peer)) = (s.driver, s.send, s.peer) else { return };
        if s.reset || s.ended {
            let error = if s.reset { Errno::RESET } else { Errno(libc::EPIPE) };
            return self.end_net_op(driver, sending.op, Err(error));
        }
        loop {
            let window = self.net.sockets[peer].window().min(256 * 1024);
            let Some(InFlight { kind: Kind::Send { parts, .. }, .. }) =
                self.drivers[driver].ops.get(&sending.op)
            else {
                return;
            };
            let bytes = gather(parts, &mut sending, window);
            if bytes.is_empty() {
                let all = sending.part == parts.len();
                self.net.sockets[socket].send = Some(sending);
                if all {
                    self.end_net_op(driver, sending.op, Ok(sending.taken));
                }
                return;
            }
            self.put_on_wire(peer, bytes);
        }
    }

    fn put_on_wire(&mut self, to: SocketId, bytes: Vec<u8>) {
        let at_ns = self.arrival(to);
        self.net.sockets[to].flying_bytes += bytes.len();
        self.at(at_ns, Event::Arrive { socket: to, bytes });
    }

    /// When what is sent now arrives: never before what was sent earlier.
    fn arrival(&mut self, to: SocketId) -> u64 {
        let (low, high) = self.delay();
        let soonest = self.now_ns + self.rng.range(low, high);
        let s = &mut self.net.sockets[to];
        s.last_arrival_ns = s.last_arrival_ns.max(soonest);
        s.last_arrival_ns
    }

    fn send_fin(&mut self, socket: SocketId) {
        if !std::mem::replace(&mut self.net.sockets[socket].ended, true)
            && let Some(peer) = self.net.sockets[socket].peer
        {
            let at_ns = self.arrival(peer);
            self.at(at_ns, Event::Fin { socket: peer });
        }
    }

    fn shutdown(&mut self, socket: SocketId) {
        self.send_fin(socket);
        self.net.sockets[socket].deaf = true;
        self.pump(socket);
        self.notify(socket);
    }

    pub fn close_socket(&mut self, socket: SocketId, abort: bool) {
        let s = &self.net.sockets[socket];
        let (state, peer) = (s.state, s.peer);
        if state == SocketState::Open && !abort {
            self.send_fin(socket);
        } else if let Some(peer) = peer
            && matches!(state, SocketState::Open | SocketState::Connecting)
        {
            let at_ns = self.arrival(peer);
            self.at(at_ns, Event::Reset { socket: peer });
        }
        self.net.sockets[socket].state = SocketState::Closed;
        self.net.sockets[socket].arrived = VecDeque::new();
    }

    pub fn client_send(&mut self, socket: SocketId, bytes: &[u8]) -> usize {
        let s = &self.net.sockets[socket];
        let (SocketState::Open, Some(peer), false) = (s.state, s.peer, s.reset || s.ended) else { return 0 };
        let len = bytes.len().min(self.net.sockets[peer].window());
        if len < bytes.len() {
            self.net.sockets[socket].blocked = true;
        }
        let mut start = 0;
        while start < len {
            let mut next = len;
            if self.rng.chance(self.options.net.split) {
                next = start + self.rng.range(1, (len - start) as u64) as usize;
            }
            self.put_on_wire(peer, bytes[start..next].to_vec());
            start = next;
        }
        len
    }

    pub fn client_receive(&mut self, socket: SocketId, max: usize, out: &mut Vec<u8>) -> usize {
        let s = &mut self.net.sockets[socket];
        let len = s.arrived.len().min(max);
        out.extend(s.arrived.drain(..len));
        if len > 0 {
            self.wake_sender(socket);
        }
        len
    }
}

/// The next bytes of a send, at most `max`.
fn gather(parts: &[Part], sending: &mut Sending, max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(part) = parts.get(sending.part) {
        let left = &part_bytes(part)[sending.offset..];
        let len = left.len().min(max - bytes.len());
        bytes.extend_from_slice(&left[..len]);
        sending.taken += len;
        sending.offset += len;
        if sending.offset < part_len(part) {
            break;
        }
        sending.part += 1;
        sending.offset = 0;
    }
    bytes
}
