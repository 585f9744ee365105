//! The append server on the bare ring: no runtime, no trait, no op table. One loop a thread takes completions, feeds the
//! log, starts a write and one send a connection, and enters the kernel once. What the broker is measured against, and what its
//! data plane was chosen for; set up as the broker's ring is.
//!
//! The kernel reads and writes memory of ours until an operation completes: a connection is dropped only when it neither
//! receives nor sends, and a block lies in `Worker::writes` while it is written.
#![allow(unsafe_code)]

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use clap::Parser;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use runtimes::inbox::Inbox;
use runtimes::log::{BLOCK, Log, Write};
use runtimes::memory::{Memory, Piece};
use runtimes::options::{Ack, Options};
use runtimes::segment::{self, Aligned};
use runtimes::wire::{self, Malformed};

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 8192;
/// Pieces of one send; the kernel takes 1,024.
const PIECES_MAX: usize = 500;

// The upper half of `user_data` says what completed, the lower what it belongs to.
const ACCEPT: u64 = 0;
const ARRIVED: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const WRITE: u64 = 4;
const CANCEL: u64 = 5;

fn main() -> io::Result<()> {
    let options = Options::parse();
    let memory = options.memory.map(|mib| Arc::new(Memory::new(mib << 20)));
    let listener = listen(&options)?;
    let address = listener.local_addr()?;
    let (rings, made) = mpsc::channel();
    let mut listener = Some(listener);
    let mut starts = Vec::new();
    for number in 0..options.threads {
        let (start, told) = mpsc::channel::<Vec<RawFd>>();
        let (options, memory, rings) = (options.clone(), memory.clone(), rings.clone());
        let listener = listener.take();
        starts.push(start);
        thread::spawn(move || {
            if let Some(core) = options.core(number) {
                core_affinity::set_for_current(core_affinity::CoreId { id: core });
            }
            // The ring is made on its own thread, which alone may submit to it.
            let mut worker =
                Worker::new(&options, number, memory).unwrap_or_else(|error| fail("start", &error));
            rings.send((number, worker.ring.as_raw_fd())).expect("main waits");
            worker.peers = told.recv().expect("main tells");
            worker.listener = listener;
            worker.run();
        });
    }
    let mut peers: Vec<_> = (0..options.threads).map(|_| made.recv().expect("each thread tells")).collect();
    peers.sort_unstable();
    let peers: Vec<_> = peers.into_iter().map(|(_, ring)| ring).collect();
    starts.iter().for_each(|start| start.send(peers.clone()).expect("each thread waits"));
    println!("ready {address}");
    io::stdout().flush()?;
    loop {
        thread::park();
    }
}

/// The kernel lets go of a killed ring's listener a moment after its process has gone.
fn listen(options: &Options) -> io::Result<TcpListener> {
    for _ in 0..200 {
        match TcpListener::bind(options.listen) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                thread::sleep(Duration::from_millis(10))
            }
            bound => return bound,
        }
    }
    TcpListener::bind(options.listen)
}

fn fail(what: &str, error: &io::Error) -> ! {
    eprintln!("append-ring: {what}: {error}");
    std::process::exit(1)
}

/// A block's memory and its place in the ring's table.
struct Block {
    memory: Aligned,
    index: u16,
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut()
    }
}

struct Connection {
    /// Tells apart the connections that have had this slot.
    id: usize,
    socket: OwnedFd,
    inbox: Inbox,
    receiving: bool,
    /// A whole request waits for room in the log.
    parked: bool,
    closing: bool,
    out: Outgoing,
    sending: Option<Outgoing>,
}

#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    sent: usize,
    /// What the kernel reads of a send with pieces.
    message: Option<Box<(libc::msghdr, Vec<libc::iovec>)>>,
}

struct Worker {
    ring: IoUring,
    listener: Option<TcpListener>,
    peers: Vec<RawFd>,
    accepted: usize,
    depth: usize,
    sync: bool,
    memory: Option<Arc<Memory>>,
    log: Log<Block>,
    writes: Vec<Option<Write<Block>>>,
    connections: Vec<Option<Connection>>,
    ids: usize,
    dirty: Vec<usize>,
    parked: Vec<usize>,
}

impl Worker {
    fn new(options: &Options, number: u16, memory: Option<Arc<Memory>>) -> io::Result<Worker> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_submit_all();
        let ring = builder.setup_cqsize(COMPLETIONS).build(SUBMISSIONS)?;
        let depth = options.depth();
        let mut blocks = Vec::new();
        // With memory for a log there is no segment.
        if memory.is_none() {
            let file = segment::open(&options.dir, number, options.segment_bytes())?;
            // The ring's table keeps the file open.
            ring.submitter().register_files(&[file.as_raw_fd()])?;
            blocks
                .extend((0..=depth).map(|index| Block { memory: Aligned::new(BLOCK), index: index as u16 }));
            register(&ring, &mut blocks)?;
        }
        Ok(Worker {
            ring,
            listener: None,
            peers: Vec::new(),
            accepted: 0,
            depth,
            sync: options.ack == Ack::Durable,
            memory,
            log: Log::new(blocks, options.segment_bytes()),
            writes: (0..depth).map(|_| None).collect(),
            connections: Vec::new(),
            ids: 0,
            dirty: Vec::new(),
            parked: Vec::new(),
        })
    }

    fn run(&mut self) -> ! {
        self.accept();
        let mut completions = Vec::with_capacity(COMPLETIONS as usize);
        loop {
            if let Err(error) = self.ring.submit_and_wait(1)
                && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
            {
                fail("the ring", &error);
            }
            completions.extend(self.ring.completion());
            for completion in completions.drain(..) {
                self.completed(&completion);
            }
            self.write();
            for index in std::mem::take(&mut self.dirty) {
                self.send(index);
            }
        }
    }

    fn completed(&mut self, completion: &cqueue::Entry) {
        let (kind, index) = (completion.user_data() >> 32, completion.user_data() as u32 as usize);
        let result = completion.result();
        match kind {
            ACCEPT => self.accepted(result, cqueue::more(completion.flags())),
            ARRIVED => self.connect(result),
            RECEIVE => self.received(index, result),
            SEND => self.sent(index, result),
            WRITE => self.written(index, result),
            // Nothing was left to cancel.
            CANCEL => {}
            _ => unreachable!("no other is submitted"),
        }
    }

    fn accept(&mut self) {
        if let Some(listener) = &self.listener {
            let entry = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build();
            push(&mut self.ring, entry.user_data(ACCEPT << 32));
        }
    }

    /// Connections go to the threads in turn, a descriptor in a message to the other's ring.
    fn accepted(&mut self, socket: i32, more: bool) {
        if !more {
            self.accept();
        }
        if socket < 0 {
            return eprintln!("append-ring: accept: {}", io::Error::from_raw_os_error(-socket));
        }
        let peer = self.peers[self.accepted % self.peers.len()];
        self.accepted += 1;
        if peer == self.ring.as_raw_fd() {
            return self.connect(socket);
        }
        let entry = opcode::MsgRingData::new(types::Fd(peer), socket, ARRIVED << 32, None).build();
        push(&mut self.ring, entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(ARRIVED << 32));
    }

    fn connect(&mut self, socket: i32) {
        if socket < 0 {
            return eprintln!("append-ring: a connection was lost between threads");
        }
        // SAFETY: needed because the kernel gives accepted sockets as numbers. It has just given us this one, by accept or in
        // the message of the thread that accepted it and does not keep it.
        let stream = unsafe { std::net::TcpStream::from_raw_fd(socket) };
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let index = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.ids += 1;
        self.connections[index] = Some(Connection {
            id: self.ids << 32 | index,
            // SAFETY: needed as above; `into_raw_fd` has just given up the ownership.
            socket: unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) },
            inbox: Inbox::default(),
            receiving: false,
            parked: false,
            closing: false,
            out: Outgoing::default(),
            sending: None,
        });
        self.receive(index);
    }

    fn receive(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        let fd = types::Fd(connection.socket.as_raw_fd());
        let Ok((space, exact)) = connection.inbox.space() else { return self.close(index) };
        let (at, len) = (space.as_mut_ptr(), space.len() as u32);
        let flags = if exact { libc::MSG_WAITALL } else { 0 };
        connection.receiving = true;
        // The inbox is not touched before this completes, and a connection is not dropped while it receives.
        let entry = opcode::Recv::new(fd, at, len).flags(flags).build();
        push(&mut self.ring, entry.user_data(RECEIVE << 32 | index as u64));
    }

    fn received(&mut self, index: usize, result: i32) {
        let connection = self.connections[index].as_mut().expect("it stays while it receives");
        connection.receiving = false;
        if result <= 0 || connection.closing {
            return self.close(index);
        }
        connection.inbox.filled(result as usize);
        self.requests(index);
    }

    /// Takes the whole requests that have come; then receives more, unless the log has no room.
    fn requests(&mut self, index: usize) {
        loop {
            let Some(connection) = &mut self.connections[index] else { return };
            let (id, out) = (connection.id, &mut connection.out);
            let frame = match connection.inbox.frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return self.receive(index),
                Err(Malformed) => return self.close(index),
            };
            let len = frame.len();
            let mut answered = Ok(());
            if let Some(memory) = &self.memory {
                answered = memory.answer(&frame[4..], &mut out.bytes, &mut out.pieces);
                self.dirty.push(index);
            } else if !self.log.append(id, frame, |out| answered = wire::answer(&frame[4..], out)) {
                connection.parked = true;
                self.parked.push(index);
                return;
            }
            if answered.is_err() {
                return self.close(index);
            }
            connection.inbox.take(len);
        }
    }

    /// Starts the writes that the log has and the depth allows; each makes room for requests that wait.
    fn write(&mut self) {
        while let Some(write) = self.log.take(self.depth) {
            let slot =
                self.writes.iter().position(Option::is_none).expect("no more than the depth are under way");
            let flags = if self.sync { libc::RWF_DSYNC } else { 0 };
            // The block stays in `writes` until this completes.
            let write = self.writes[slot].insert(write);
            let entry = opcode::WriteFixed::new(
                types::Fixed(0),
                write.buffer.as_mut().as_ptr(),
                write.len as u32,
                write.buffer.index,
            );
            let entry = entry.offset(write.position).rw_flags(flags).build();
            push(&mut self.ring, entry.user_data(WRITE << 32 | slot as u64));
            self.unpark();
        }
    }

    fn unpark(&mut self) {
        for index in std::mem::take(&mut self.parked) {
            if let Some(connection) = &mut self.connections[index]
                && std::mem::take(&mut connection.parked)
            {
                self.requests(index);
            }
        }
    }

    fn written(&mut self, slot: usize, result: i32) {
        let write = self.writes[slot].take().expect("it was under way");
        if result != write.len as i32 {
            fail("a write fell short", &io::Error::from_raw_os_error(-result.min(0)));
        }
        self.log.complete(write.sequence, write.buffer);
        while let Some(answers) = self.log.answered() {
            for (id, bytes) in answers.iter() {
                let index = id as u32 as usize;
                if let Some(connection) = self.connections[index].as_mut().filter(|found| found.id == id) {
                    connection.out.bytes.extend_from_slice(bytes);
                    self.dirty.push(index);
                }
            }
            self.log.reuse(answers);
        }
        self.unpark();
    }

    /// All answers that a connection has, in one send at a time.
    fn send(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        if connection.sending.is_none() {
            if connection.out.bytes.is_empty() || connection.closing {
                return;
            }
            if connection.out.pieces.len() > PIECES_MAX {
                return self.close(index);
            }
            connection.sending = Some(std::mem::take(&mut connection.out));
            let entry = connection.sending.as_mut().expect("just set").entry(connection.socket.as_raw_fd());
            push(&mut self.ring, entry.user_data(SEND << 32 | index as u64));
        }
    }

    fn sent(&mut self, index: usize, result: i32) {
        let connection = self.connections[index].as_mut().expect("it stays while it sends");
        let mut sending = connection.sending.take().expect("it was sending");
        let whole = sending.message.is_some() || sending.sent + result.max(0) as usize == sending.bytes.len();
        if result <= 0
            || connection.closing
            || sending.message.is_some() && !sending.is_whole(result as usize)
        {
            return self.close(index);
        }
        if !whole {
            sending.sent += result as usize;
            connection.sending = Some(sending);
            let entry = connection.sending.as_mut().expect("just set").entry(connection.socket.as_raw_fd());
            return push(&mut self.ring, entry.user_data(SEND << 32 | index as u64));
        }
        if connection.out.bytes.is_empty() {
            // Its memory serves the next answers.
            sending.bytes.clear();
            sending.pieces.clear();
            connection.out = Outgoing { message: None, sent: 0, ..sending };
        } else {
            self.dirty.push(index);
        }
    }

    /// Drops a connection once the kernel has nothing of it.
    fn close(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        if !connection.closing {
            connection.closing = true;
            if connection.receiving || connection.sending.is_some() {
                let all = types::CancelBuilder::fd(types::Fd(connection.socket.as_raw_fd())).all();
                let entry = opcode::AsyncCancel2::new(all).build();
                push(&mut self.ring, entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(CANCEL << 32));
            }
        }
        if !connection.receiving && connection.sending.is_none() {
            self.connections[index] = None;
        }
    }
}

impl Outgoing {
    /// The send of what is left; the memory it names stays with the connection until it completes.
    fn entry(&mut self, socket: RawFd) -> squeue::Entry {
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        if self.pieces.is_empty() {
            let left = &self.bytes[self.sent..];
            return opcode::Send::new(types::Fd(socket), left.as_ptr(), left.len() as u32)
                .flags(flags)
                .build();
        }
        let mut parts = Vec::with_capacity(2 * self.pieces.len() + 1);
        let mut part = |bytes: &[u8]| {
            parts.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        };
        let mut from = 0;
        for piece in &self.pieces {
            part(&self.bytes[from..piece.after]);
            part(&piece.chunk[piece.range.clone()]);
            from = piece.after;
        }
        part(&self.bytes[from..]);
        // SAFETY: needed because the structure has padding that no literal can name. All of it may be zero.
        let head: libc::msghdr = unsafe { std::mem::zeroed() };
        let message = self.message.insert(Box::new((head, parts)));
        message.0.msg_iov = message.1.as_mut_ptr();
        message.0.msg_iovlen = message.1.len();
        opcode::SendMsg::new(types::Fd(socket), &raw const message.0).flags(flags as u32).build()
    }

    /// Whether a send with pieces sent all; asked to wait for that, the kernel sends less only when the connection ends.
    fn is_whole(&self, sent: usize) -> bool {
        sent == self.bytes.len() + self.pieces.iter().map(|piece| piece.range.len()).sum::<usize>()
    }
}

/// Gives the ring the blocks, so that a write need not pin its pages each time.
fn register(ring: &IoUring, blocks: &mut [Block]) -> io::Result<()> {
    let memory: Vec<_> = blocks
        .iter_mut()
        .map(|block| libc::iovec { iov_base: block.as_mut().as_mut_ptr().cast(), iov_len: BLOCK })
        .collect();
    // SAFETY: needed to let the kernel pin the memory. The blocks are never freed: the worker that owns them and the ring runs
    // until the process ends.
    unsafe { ring.submitter().register_buffers(&memory) }
}

/// Queues an entry; submits first when the queue is full.
fn push(ring: &mut IoUring, entry: squeue::Entry) {
    // SAFETY: needed because entries name memory. Each comes from a function of `Worker` that says who keeps its memory (an inbox,
    // an outgoing message, a block) in place, and to itself, until the completion.
    while unsafe { ring.submission().push(&entry) }.is_err() {
        if let Err(error) = ring.submit()
            && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
        {
            fail("the ring", &error);
        }
    }
}
