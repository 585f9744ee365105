//! What only the ring driver has: threads that wake it, its end with ops in flight, its features.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use super::*;
use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{OpenMode, Part, Payload};

const FAR: u64 = u64::MAX;

fn driver() -> UringIo {
    UringIo::new(UringOptions::default()).unwrap()
}

/// Waits for a wake-up: a turn without completions.
fn sleep(io: &mut UringIo) {
    let mut out = Vec::new();
    io.turn(FAR, &mut out);
    assert!(out.is_empty());
}

#[test]
fn no_wake_up_is_slept_over() {
    for spin_ns in [0, 5_000] {
        let mut io = UringIo::new(UringOptions { spin_ns, ..UringOptions::default() }).unwrap();
        let waker = io.waker();
        let mailbox = Arc::new(AtomicU64::new(0));
        let posted = mailbox.clone();
        let (answered, answers) = mpsc::channel();
        let poster = thread::spawn(move || {
            for at in 1..=5_000 {
                posted.store(at, Ordering::Relaxed);
                waker.wake();
                // A third in lockstep, so that the driver sleeps; the rest in bursts.
                if at % 3 == 0 {
                    while answers.recv().unwrap() < at {}
                }
            }
        });
        let mut seen = 0;
        while seen < 5_000 {
            sleep(&mut io);
            seen = mailbox.load(Ordering::Relaxed);
            answered.send(seen).ok();
        }
        poster.join().unwrap();
    }
}

#[test]
fn rings_wake_each_other() {
    for old_kernel in [false, true] {
        let (to_b, from_a) = mpsc::channel::<Waker>();
        let (to_a, from_b) = mpsc::channel::<Waker>();
        let ball = Arc::new(AtomicU64::new(0));
        let player =
            move |out: mpsc::Sender<Waker>, inn: mpsc::Receiver<Waker>, ball: Arc<AtomicU64>, mine: u64| {
                let mut io = UringIo::new(UringOptions { old_kernel, ..UringOptions::default() }).unwrap();
                out.send(io.waker()).unwrap();
                let peer = inn.recv().unwrap();
                let mut out = Vec::new();
                while ball.load(Ordering::Relaxed) < 2_000 {
                    if ball.load(Ordering::Relaxed) % 2 == mine {
                        ball.fetch_add(1, Ordering::Relaxed);
                        io.wake(&peer);
                    }
                    let until = if ball.load(Ordering::Relaxed) < 2_000 { FAR } else { 0 };
                    io.turn(until, &mut out);
                }
                assert!(out.is_empty());
                io
            };
        let other = ball.clone();
        let a = thread::spawn(move || drop(player(to_b, from_b, ball, 0)));
        let b = thread::spawn(move || drop(player(to_a, from_a, other, 1)));
        a.join().unwrap();
        b.join().unwrap();
    }
}

#[test]
fn a_waker_outlives_its_driver() {
    let io = driver();
    let waker = io.waker();
    drop(io);
    waker.wake();
    let mut other = driver();
    other.wake(&waker);
    let mut out = Vec::new();
    other.turn(0, &mut out);
    assert!(out.is_empty());
}

#[test]
fn a_driver_ends_with_everything_in_flight() {
    for old_kernel in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut io = UringIo::new(UringOptions { old_kernel, ..UringOptions::default() }).unwrap();
        let (listener, address) = io.listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        io.submit(Op::Accept { listener }, Token(1));
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let Payload::Connected { socket } =
            io.block_on(Op::Connect { address: stranger.local_addr().unwrap() }).payload
        else {
            panic!("not connected")
        };
        io.submit(Op::Receive { socket }, Token(2));
        io.submit(Op::Send { socket, parts: vec![Part::Bytes(vec![1; 32 << 20])] }, Token(3));
        let mode = OpenMode { write: true, create: true, direct: true, ..OpenMode::default() };
        let Payload::Opened { file } = io.block_on(Op::Open { path: dir.path().join("f"), mode }).payload
        else {
            panic!("not opened")
        };
        let pool = BufferPool::new(8 << 20);
        for at in 0..8 {
            let data = pool.allocate(256 << 10).unwrap().freeze();
            io.submit(Op::Write { file, offset: at << 18, data, sync: true }, Token(4));
        }
        io.submit(Op::Read { file, offset: 0, buf: AlignedBuf::unbudgeted(4096), len: 4096 }, Token(5));
        io.submit(Op::Connect { address }, Token(6));
        io.submit(Op::Open { path: dir.path().join("g"), mode }, Token(7));
        let mut out = Vec::new();
        io.turn(0, &mut out);
        io.submit(Op::Close { handle: listener }, Token(8));
        drop(io);
        drop(out);
        assert_eq!(pool.used_bytes(), 0, "all ops have ended");
    }
}

#[test]
fn a_driver_closes_its_sockets() {
    // Sockets are told apart by their inodes; other tests of this process open files meanwhile.
    let sockets = || -> Vec<_> {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok()).collect()
    };
    let mut io = driver();
    let (listener, address) = io.listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    io.submit(Op::Accept { listener }, Token(1));
    let Payload::Connected { socket: first } = io.block_on(Op::Connect { address }).payload else {
        panic!("not connected")
    };
    let link = |io: &UringIo, handle| {
        std::fs::read_link(format!("/proc/self/fd/{}", io.handles.get(handle).unwrap().fd())).unwrap()
    };
    let (listener, first_link) = (link(&io, listener), link(&io, first));
    assert!(sockets().contains(&listener) && sockets().contains(&first_link));
    assert_eq!(io.block_on(Op::Close { handle: first }).result, Ok(0));
    assert!(!sockets().contains(&first_link));
    // The connection in the listener's queue, not yet seen by the caller, goes too.
    let Payload::Connected { socket: second } = io.block_on(Op::Connect { address }).payload else {
        panic!("not connected")
    };
    let second = link(&io, second);
    drop(io);
    assert!(!sockets().contains(&listener) && !sockets().contains(&second));
}

#[test]
fn this_kernel_has_its_features() {
    let features = *driver().features();
    assert!(features.single_issuer && features.defer_taskrun && features.submit_all, "{features}");
    assert!(features.incremental_buffers && features.truncate && features.registered_buffers, "{features}");
    assert!(features.completion_entries >= 8 * features.submission_entries);
    let old = *UringIo::new(UringOptions { old_kernel: true, ..UringOptions::default() }).unwrap().features();
    assert_eq!(old.to_string().matches('+').count(), 0, "{old}");
}

#[test]
fn memory_is_registered_once_an_arena() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let mut io = driver();
    let pool = BufferPool::new(16 << 20);
    let mode = OpenMode { write: true, create: true, direct: true, ..OpenMode::default() };
    let Payload::Opened { file } = io.block_on(Op::Open { path: dir.path().join("f"), mode }).payload else {
        panic!("not opened")
    };
    let mut held = Vec::new();
    for at in 0..6 {
        let data = pool.allocate(1 << 20).unwrap().freeze();
        held.push(data.clone());
        assert_eq!(io.block_on(Op::Write { file, offset: at << 20, data, sync: false }).result, Ok(1 << 20));
    }
    assert_eq!(io.fixed.bytes(), 8 << 20);
    pool.reserve(12 << 20);
    assert_eq!(io.register(&pool), 12 << 20);
    let foreign = Slice::copy_of(&[1; 4096]);
    assert_eq!(io.block_on(Op::Write { file, offset: 0, data: foreign, sync: false }).result, Ok(4096));
    assert_eq!(io.fixed.bytes(), 12 << 20, "memory of its own is not registered");
}

#[test]
fn more_completions_than_the_queue_holds_arrive() {
    let options = UringOptions { submission_entries: 4, completion_entries: 32, ..UringOptions::default() };
    let mut io = UringIo::new(options).unwrap();
    for token in 0..1000 {
        io.submit(Op::Unlink { path: "/nonexistent/file".into() }, Token(token));
    }
    let mut seen = Vec::new();
    while seen.len() < 1000 {
        let mut out = Vec::new();
        io.turn(FAR, &mut out);
        seen.extend(out.iter().map(|completion| completion.token.0));
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..1000));
    assert_eq!(io.flights.len(), 0);
}

/// Takes the right to lock any amount of memory from this thread.
fn give_up_memory_locking() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_IPC_LOCK: u32 = 14;
    let header = Header { version: VERSION_3, pid: 0 };
    // Effective, permitted, inheritable; twice, for more than 32 of them.
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: needed to play a plain user, std has no such calls. Version 3 reads one header and reads or writes two sets
    // of three words, which live through the calls; they change this thread alone.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, &raw const header, &raw mut sets), 0);
        sets[0][0] &= !(1 << CAP_IPC_LOCK);
        assert_eq!(libc::syscall(libc::SYS_capset, &raw const header, &raw const sets), 0);
    }
}

#[test]
fn memory_that_may_not_be_locked_is_written_the_plain_way() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("f");
    thread::spawn(move || {
        give_up_memory_locking();
        let host = crate::io::preflight::Host::inspect(&[]);
        let Some(limit) = host.locked_bytes_max.filter(|&limit| limit < 64 << 20) else {
            return; // a machine where anyone may lock anything
        };
        let mut io = driver();
        let pool = BufferPool::new(64 << 20);
        pool.reserve(64 << 20);
        assert!(io.register(&pool) <= limit as usize);
        let mode = OpenMode { write: true, create: true, direct: true, ..OpenMode::default() };
        let Payload::Opened { file } = io.block_on(Op::Open { path, mode }).payload else {
            panic!("not opened")
        };
        let bufs: Vec<_> = (0..16).map(|_| pool.allocate_anywhere(4 << 20).unwrap().freeze()).collect();
        for data in bufs {
            let len = data.len();
            assert_eq!(io.block_on(Op::Write { file, offset: 0, data, sync: false }).result, Ok(len));
        }
    })
    .join()
    .unwrap();
}

/// The limit of open files belongs to the process: the test runs itself again in one of its own.
#[test]
fn accepts_pause_when_no_file_is_free() {
    const ALONE: &str = "RINGLOG_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "io::uring::tests::accepts_pause_when_no_file_is_free";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let mut io = driver();
    let (listener, address) = io.listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    for _ in 0..8 {
        assert_eq!(io.block_on(Op::Connect { address }).result, Ok(0));
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
    let limit = libc::rlimit { rlim_cur: open + 3, rlim_max: open + 3 };
    // SAFETY: reads one structure.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let (mut accepted, mut failures, mut out) = (Vec::new(), 0, Vec::new());
    io.submit(Op::Accept { listener }, Token(1));
    let until = io.now() + 3 * ACCEPT_PAUSE_NS;
    while io.now() < until {
        io.turn(until, &mut out);
        for completion in out.drain(..) {
            match (completion.result, completion.payload) {
                (Ok(_), Payload::Accepted { socket, .. }) => accepted.push(socket),
                (result, _) => {
                    assert_eq!(result, Err(Errno(libc::EMFILE)));
                    failures += 1;
                    io.submit(Op::Accept { listener }, Token(1));
                }
            }
        }
    }
    assert!((1..8).contains(&accepted.len()), "{} accepted", accepted.len());
    assert!((1..=5).contains(&failures), "{failures} attempts");
    // Files come free: the rest is accepted.
    while accepted.len() < 8 {
        let handle = accepted[accepted.len() - 1];
        if io.handles.get(handle).is_some() {
            io.submit(Op::Close { handle }, Token(2));
        }
        io.turn(io.now() + ACCEPT_PAUSE_NS, &mut out);
        for completion in out.drain(..) {
            match completion.payload {
                Payload::Accepted { socket, .. } => accepted.push(socket),
                _ if completion.token == Token(1) => io.submit(Op::Accept { listener }, Token(1)),
                _ => {}
            }
        }
    }
    // A paused one can be cancelled.
    io.accept_from_ns = u64::MAX;
    io.submit(Op::Accept { listener }, Token(3));
    io.submit(Op::Cancel { target: Token(3) }, Token(4));
    let mut ends = Vec::new();
    while ends.len() < 2 {
        io.turn(FAR, &mut out);
        ends.extend(out.drain(..).filter(|end| end.token.0 > 2).map(|end| (end.token.0, end.result)));
    }
    ends.sort_by_key(|end| end.0);
    assert_eq!(ends, [(3, Err(Errno::CANCELED)), (4, Ok(0))]);
}

#[test]
fn small_writes_to_the_systems_cache_are_calls_unless_one_has_waited() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut io = driver();
    let mode = OpenMode { write: true, create: true, ..OpenMode::default() };
    let Payload::Opened { file } = io.block_on(Op::Open { path: path.clone(), mode }).payload else {
        panic!("not opened")
    };
    let (small, large) = (4096, cached::BYTES_MAX + 1);
    let (mut offset, mut expected, mut out) = (0, Vec::new(), Vec::new());
    let cases = [(small, false, 0), (small, true, 0), (small, false, u64::MAX), (large, false, 0)];
    for (number, (len, sync, cached_from_ns)) in cases.into_iter().enumerate() {
        io.cached_from_ns = cached_from_ns;
        let data = Slice::copy_of(&vec![number as u8 + 1; len]);
        expected.extend_from_slice(&data);
        io.submit(Op::Write { file, offset, data, sync }, Token(number as u64));
        assert_eq!(io.ready.len(), usize::from(number == 0), "case {number}");
        offset += len as u64;
        io.turn(FAR, &mut out);
        let completion = out.pop().unwrap();
        assert_eq!((completion.token, completion.result), (Token(number as u64), Ok(len)));
    }
    assert_eq!(std::fs::read(&path).unwrap(), expected);
    io.block_on(Op::Close { handle: file });
    // A file that is gone fails as it does on the ring.
    io.cached_from_ns = 0;
    io.submit(Op::Write { file, offset: 0, data: Slice::copy_of(b"x"), sync: false }, Token(9));
    io.turn(FAR, &mut out);
    assert_eq!(out.pop().unwrap().result, Err(Errno(libc::EBADF)));
}
