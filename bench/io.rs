//! The ring driver by itself: framed requests over loopback, direct appends, wake-ups. `cargo bench --bench io [NAME]`.
//! Every figure is min / median / max of the rounds; the server is pinned to the last core, its peer to the first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use ringlog::io::affinity::{allowed_cores, pin_to};
use ringlog::io::buffer::{BufferPool, Slice};
use ringlog::io::clock::monotonic_ns;
use ringlog::io::uring::{UringIo, UringOptions};
use ringlog::io::{Completion, Handle, Io, Op, OpenMode, Part, Payload, Token};

const ROUNDS: usize = 5;
const ROUND_NS: u64 = 700_000_000;
const ANSWER_BYTES: usize = 64;

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let run = |name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    println!("ring: {}", driver(0).features());
    if run("echo") {
        println!("request -> 64 B: requests/s, server CPU us/request");
        for (connections, depth, bytes) in
            [(1, 1, 1 << 10), (16, 8, 1 << 10), (256, 8, 1 << 10), (16, 8, 16 << 10), (16, 8, 128 << 10)]
        {
            let rounds: Vec<_> = (0..ROUNDS).map(|_| echo(connections, depth, bytes)).collect();
            let rate = spread(rounds.iter().map(|round| round.0));
            let cpu = spread(rounds.iter().map(|round| round.1));
            println!("  {connections:>3} x {depth}, {:>3} KiB: {rate}; {cpu}", bytes >> 10);
        }
    }
    if run("append") {
        println!("direct append to written blocks: MB/s");
        for (bytes, depth, sync) in [
            (128 << 10, 1, false),
            (128 << 10, 1, true),
            (128 << 10, 4, false),
            (1 << 20, 1, false),
            (1 << 20, 1, true),
        ] {
            for (name, registered) in [("fixed", true), ("plain", false)] {
                let rate = spread((0..ROUNDS).map(|_| append(bytes, depth, sync, registered)));
                println!("  {:>4} KiB, depth {depth}, sync {sync:<5}, {name}: {rate}", bytes >> 10);
            }
        }
    }
    if run("register") {
        let cost = spread((0..ROUNDS).map(|_| register()));
        println!("registering fresh arenas: us a MiB {cost}");
    }
    if run("wake") {
        for spin_ns in [0, 50_000] {
            let hop = spread((0..ROUNDS).map(|_| wake(spin_ns)));
            println!("ring to ring, spin {spin_ns} ns: us one way {hop}");
        }
    }
}

fn driver(spin_ns: u64) -> UringIo {
    UringIo::new(UringOptions { spin_ns, ..UringOptions::default() }).expect("a ring")
}

fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let show = |at: usize| match values[at] {
        value if value >= 1000.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    };
    format!("{} / {} / {}", show(0), show(values.len() / 2), show(values.len() - 1))
}

/// The cores of the server and of its peer. Asked once: a pinned thread is told of its own core alone.
fn cores() -> (usize, usize) {
    static CORES: OnceLock<(usize, usize)> = OnceLock::new();
    *CORES.get_or_init(|| {
        let cores = allowed_cores();
        (cores[cores.len() - 1], cores[0])
    })
}

/// Nanoseconds this thread has run.
fn thread_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Requests a second, and the server's CPU time a request in microseconds.
fn echo(connections: usize, depth: usize, bytes: usize) -> (f64, f64) {
    let (last, first) = cores();
    let stop = Arc::new(AtomicBool::new(false));
    let (send_address, address) = mpsc::channel();
    let stopped = stop.clone();
    let server = thread::spawn(move || {
        pin_to(last);
        serve(bytes, &stopped, &send_address)
    });
    pin_to(first);
    let address = address.recv().expect("the server listens");
    let (answers, ns) = ask(address, connections, depth, bytes);
    stop.store(true, Ordering::Relaxed);
    let (served, cpu_ns) = server.join().expect("the server ends");
    (answers as f64 * 1e9 / ns as f64, cpu_ns as f64 / 1e3 / served.max(1) as f64)
}

#[derive(Default)]
struct Peer {
    received: usize,
    owed: usize,
    sending: bool,
    dirty: bool,
}

/// Requests served, and the CPU time for them.
fn serve(bytes: usize, stop: &AtomicBool, address: &mpsc::Sender<SocketAddr>) -> (usize, u64) {
    let mut io = driver(0);
    let (listener, bound) = io.listen("127.0.0.1:0".parse().expect("an address"), false).expect("a listener");
    address.send(bound).expect("the client waits");
    io.submit(Op::Accept { listener }, Token(u64::MAX - 1));
    let mut peers: BTreeMap<Handle, Peer> = BTreeMap::new();
    let (mut out, mut dirty, mut served, mut cpu_ns) = (Vec::new(), Vec::new(), 0, 0);
    let handle = |token: Token| Handle(token.0 as u32);
    while !stop.load(Ordering::Relaxed) {
        io.turn(io.now() + 10_000_000, &mut out);
        for completion in out.drain(..) {
            match completion.payload {
                Payload::Accepted { socket, .. } => {
                    peers.insert(socket, Peer::default());
                    io.submit(Op::Receive { socket }, Token(u64::from(socket.0)));
                    cpu_ns = thread_cpu_ns();
                    served = 0;
                }
                Payload::Received(piece) => {
                    let peer = peers.get_mut(&handle(completion.token)).expect("a peer");
                    peer.received += piece.len();
                    let requests = peer.received / bytes;
                    peer.received %= bytes;
                    peer.owed += requests;
                    served += requests;
                    if requests > 0 && !std::mem::replace(&mut peer.dirty, true) {
                        dirty.push(handle(completion.token));
                    }
                }
                Payload::Parts(_) => {
                    let peer = peers.get_mut(&handle(completion.token)).expect("a peer");
                    peer.sending = false;
                    if peer.owed > 0 && !std::mem::replace(&mut peer.dirty, true) {
                        dirty.push(handle(completion.token));
                    }
                }
                _ => {}
            }
        }
        for socket in dirty.drain(..) {
            let peer = peers.get_mut(&socket).expect("a peer");
            peer.dirty = false;
            if !peer.sending {
                peer.sending = true;
                let parts = vec![Part::Bytes(vec![1; ANSWER_BYTES * std::mem::take(&mut peer.owed)])];
                io.submit(Op::Send { socket, parts }, Token(u64::from(socket.0)));
            }
        }
    }
    (served, thread_cpu_ns() - cpu_ns)
}

/// Answers received, and the time it took.
fn ask(address: SocketAddr, connections: usize, depth: usize, bytes: usize) -> (usize, u64) {
    let mut io = driver(0);
    let batch = Slice::copy_of(&vec![2; bytes]);
    let mut peers: BTreeMap<Handle, Peer> = BTreeMap::new();
    for _ in 0..connections {
        let Payload::Connected { socket } = io.block_on(Op::Connect { address }).payload else {
            panic!("no peer")
        };
        peers.insert(socket, Peer { owed: depth, ..Peer::default() });
    }
    let mut dirty: Vec<Handle> = peers.keys().copied().collect();
    for &socket in &dirty {
        io.submit(Op::Receive { socket }, Token(u64::from(socket.0)));
    }
    let start = monotonic_ns();
    let (mut out, mut answers): (Vec<Completion>, usize) = (Vec::new(), 0);
    while io.now() < start + ROUND_NS {
        for socket in dirty.drain(..) {
            let peer = peers.get_mut(&socket).expect("a peer");
            if peer.owed > 0 && !peer.sending {
                peer.sending = true;
                let parts =
                    (0..std::mem::take(&mut peer.owed)).map(|_| Part::Shared(batch.clone())).collect();
                io.submit(Op::Send { socket, parts }, Token(u64::from(socket.0)));
            }
        }
        io.turn(io.now() + 10_000_000, &mut out);
        for completion in out.drain(..) {
            let socket = Handle(completion.token.0 as u32);
            let peer = peers.get_mut(&socket).expect("a peer");
            match completion.payload {
                Payload::Received(piece) => {
                    peer.received += piece.len();
                    peer.owed += peer.received / ANSWER_BYTES;
                    answers += peer.received / ANSWER_BYTES;
                    peer.received %= ANSWER_BYTES;
                }
                _ => peer.sending = false,
            }
            dirty.push(socket);
        }
    }
    (answers, monotonic_ns() - start)
}

/// MB a second to a file whose blocks were written before.
fn append(bytes: usize, depth: usize, sync: bool, registered: bool) -> f64 {
    const FILE_BYTES: u64 = 256 << 20;
    pin_to(cores().0);
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let mut io = driver(0);
    let mode = OpenMode { write: true, create: true, direct: true, ..OpenMode::default() };
    let Payload::Opened { file } = io.block_on(Op::Open { path: dir.path().join("f"), mode }).payload else {
        panic!("no file")
    };
    let pool = BufferPool::new(64 << 20);
    let data: Vec<Slice> = (0..depth)
        .map(|_| match registered {
            true => pool.allocate(bytes).expect("a buffer").freeze(),
            false => Slice::copy_of(&vec![3; bytes]),
        })
        .collect();
    let fill = Slice::copy_of(&vec![0; 4 << 20]);
    for at in 0..FILE_BYTES / fill.len() as u64 {
        let op = Op::Write { file, offset: at * fill.len() as u64, data: fill.clone(), sync: false };
        io.block_on(op).result.expect("the file fills");
    }
    io.block_on(Op::Sync { file, data_only: false }).result.expect("a sync");
    let (mut at, mut written, mut out) = (0, 0, Vec::new());
    let mut write = |io: &mut UringIo, slot: usize| {
        let op = Op::Write { file, offset: at, data: data[slot].clone(), sync };
        at = (at + bytes as u64) % FILE_BYTES;
        io.submit(op, Token(slot as u64));
    };
    let start = monotonic_ns();
    (0..depth).for_each(|slot| write(&mut io, slot));
    while io.now() < start + ROUND_NS {
        io.turn(u64::MAX, &mut out);
        for completion in out.drain(..) {
            written += completion.result.expect("a write");
            write(&mut io, completion.token.0 as usize);
        }
    }
    written as f64 * 1e3 / (monotonic_ns() - start) as f64
}

/// Microseconds to register a MiB that nobody has touched.
fn register() -> f64 {
    let mut io = driver(0);
    let pool = BufferPool::new(128 << 20);
    pool.reserve(128 << 20);
    let start = monotonic_ns();
    let bytes = io.register(&pool);
    (monotonic_ns() - start) as f64 / 1e3 / (bytes >> 20) as f64
}

/// Microseconds from one ring's wake to the other's awakening.
fn wake(spin_ns: u64) -> f64 {
    const HOPS: u64 = 20_000;
    let (last, first) = cores();
    let ball = Arc::new(AtomicU64::new(0));
    let (to_peer, from_main) = mpsc::channel();
    let (to_main, from_peer) = mpsc::channel();
    let play =
        move |core: usize, mine: u64, ball: &AtomicU64, io: &mut UringIo, peer: &<UringIo as Io>::Waker| {
            pin_to(core);
            let mut out = Vec::new();
            loop {
                let at = ball.load(Ordering::Acquire);
                if at >= HOPS {
                    io.wake(peer);
                    return io.turn(0, &mut out);
                }
                if at % 2 == mine {
                    ball.store(at + 1, Ordering::Release);
                    io.wake(peer);
                }
                io.turn(u64::MAX, &mut out);
            }
        };
    let shared = ball.clone();
    let other = thread::spawn(move || {
        let mut io = driver(spin_ns);
        to_main.send(io.waker()).expect("main waits");
        let peer = from_main.recv().expect("main's waker");
        play(last, 1, &shared, &mut io, &peer);
    });
    let mut io = driver(spin_ns);
    to_peer.send(io.waker()).expect("the peer waits");
    let peer = from_peer.recv().expect("the peer's waker");
    let start = monotonic_ns();
    play(first, 0, &ball, &mut io, &peer);
    let ns = monotonic_ns() - start;
    other.join().expect("the peer ends");
    ns as f64 / 1e3 / HOPS as f64
}
