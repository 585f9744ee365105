//! The simulated kernel itself: what it must lose, what it must keep, and that one seed repeats.

#[path = "simulation/sim_io.rs"]
mod sim_io;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ringlog::io::buffer::{AlignedBuf, Slice};
use ringlog::io::{Completion, Errno, Handle, Io, Op, OpenMode, Part, Payload, Token};
use sim_io::sim_disk::{Action, FaultRule};
use sim_io::{ClientState, Crash, SimIo, SimOptions, SimWorld};

const WRITE: OpenMode =
    OpenMode { write: true, create: true, truncate: false, direct: false, directory: false };

fn open(io: &mut SimIo, path: &str, mode: OpenMode) -> Handle {
    match io.block_on(Op::Open { path: PathBuf::from(path), mode }) {
        Completion { result: Ok(0), payload: Payload::Opened { file }, .. } => file,
        other => panic!("open {path}: {other:?}"),
    }
}

fn write(io: &mut SimIo, file: Handle, offset: u64, bytes: &[u8], sync: bool) {
    let data = Slice::copy_of(bytes);
    let done = io.block_on(Op::Write { file, offset, data, sync });
    assert_eq!(done.result, Ok(bytes.len()));
}

fn sync(io: &mut SimIo, file: Handle) {
    assert_eq!(io.block_on(Op::Sync { file, data_only: true }).result, Ok(0));
}

fn sync_dir(io: &mut SimIo, path: &str) {
    let dir = open(io, path, OpenMode { directory: true, ..OpenMode::default() });
    sync(io, dir);
}

fn read_all(io: &mut SimIo, path: &str) -> Option<Vec<u8>> {
    let done = io.block_on(Op::Open { path: PathBuf::from(path), mode: OpenMode::default() });
    let Payload::Opened { file } = done.payload else { return None };
    let buf = AlignedBuf::unbudgeted(1 << 20);
    let done = io.block_on(Op::Read { file, offset: 0, buf, len: 1 << 20 });
    let (Ok(len), Payload::Buffer(buf)) = (done.result, done.payload) else { panic!("a read of {path}") };
    Some(buf[..len].to_vec())
}

#[test]
fn a_kill_keeps_what_completed() {
    for seed in 0..50 {
        let world = SimWorld::new(seed, SimOptions::default());
        let mut io = world.driver();
        let file = open(&mut io, "/f", WRITE);
        write(&mut io, file, 0, &[1; 5000], false);
        io.submit(Op::Write { file, offset: 5000, data: Slice::copy_of(&[2; 4000]), sync: false }, Token(1));
        io.turn(0, &mut Vec::new());
        drop(io);
        let found = read_all(&mut world.driver(), "/f").expect("the file");
        assert_eq!(found[..5000], [1; 5000]);
        assert!(found.len() <= 9000 && found[5000..].iter().all(|&b| b == 2 || b == 0));
    }
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_tears_the_rest() {
    let mut ends = BTreeSet::new();
    for seed in 0..200 {
        let world = SimWorld::new(seed, SimOptions::default());
        let mut io = world.driver();
        let file = open(&mut io, "/f", WRITE);
        write(&mut io, file, 0, &[1; 4096], false);
        sync(&mut io, file);
        sync_dir(&mut io, "/");
        write(&mut io, file, 4096, &[2; 4096], true);
        write(&mut io, file, 0, &[3; 1024], false);
        write(&mut io, file, 8192, &[4; 1024], false);
        world.crash(&[io.id()], Crash::Power);
        let found = read_all(&mut world.driver(), "/f").expect("its name was synced");
        assert_eq!(found[1024..4096], [1; 3072]);
        assert_eq!(found[4096..8192], [2; 4096]);
        let sectors = [found[0], found[512], *found.get(8192).unwrap_or(&9), *found.get(8704).unwrap_or(&9)];
        assert!(sectors[..2].iter().all(|b| [1, 3].contains(b)), "{sectors:?}");
        assert!(sectors[2..].iter().all(|b| [0, 4, 9].contains(b)), "{sectors:?}");
        ends.insert(sectors);
    }
    assert!(ends.len() > 10, "hardly anything tears: {ends:?}");
}

#[test]
fn a_power_cut_takes_names_back_until_their_directory_is_synced() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..100 {
        let world = SimWorld::new(seed, SimOptions::default());
        let mut io = world.driver();
        let file = open(&mut io, "/old", WRITE);
        write(&mut io, file, 0, b"x", true);
        sync_dir(&mut io, "/");
        let rename = Op::Rename { from: PathBuf::from("/old"), to: PathBuf::from("/new") };
        assert_eq!(io.block_on(rename).result, Ok(0));
        world.crash(&[io.id()], Crash::Power);
        let mut io = world.driver();
        match (read_all(&mut io, "/old"), read_all(&mut io, "/new")) {
            (Some(_), None) => lost += 1,
            (None, Some(_)) => kept += 1,
            both => panic!("seed {seed}: {both:?}"),
        }
    }
    assert!(lost > 10 && kept > 10, "{lost} lost, {kept} kept");
}

#[test]
fn a_sync_that_failed_once_promises_nothing_later() {
    let mut lost = 0;
    for seed in 0..100 {
        let world = SimWorld::new(seed, SimOptions::default());
        let mut io = world.driver();
        let file = open(&mut io, "/f", WRITE);
        write(&mut io, file, 0, &[1; 512], false);
        sync(&mut io, file);
        sync_dir(&mut io, "/");
        write(&mut io, file, 0, &[2; 512], false);
        let rule = FaultRule { action: Action::Sync, path: "f".into(), skip: 0, times: 1, error: Errno::IO };
        world.script(Path::new("/"), rule);
        assert_eq!(io.block_on(Op::Sync { file, data_only: true }).result, Err(Errno::IO));
        sync(&mut io, file);
        world.crash(&[io.id()], Crash::Power);
        lost += usize::from(read_all(&mut world.driver(), "/f").expect("the file")[0] == 1);
    }
    assert!(lost > 10);
}

#[test]
fn a_full_disk_refuses_and_a_delete_helps() {
    let world = SimWorld::new(1, SimOptions::default());
    world.with_disk(Path::new("/"), |disk| disk.capacity_bytes = 3 * 4096);
    let mut io = world.driver();
    let first = open(&mut io, "/a", WRITE);
    write(&mut io, first, 0, &[1; 8192], false);
    let file = open(&mut io, "/b", WRITE);
    let too_much = Op::Write { file, offset: 0, data: Slice::copy_of(&[2; 8192]), sync: false };
    assert_eq!(io.block_on(too_much).result, Err(Errno::NO_SPACE));
    assert_eq!(read_all(&mut io, "/b").map(|b| b.len()), Some(4096));
    assert_eq!(io.block_on(Op::Unlink { path: PathBuf::from("/a") }).result, Ok(0));
    assert_eq!(io.block_on(Op::Close { handle: first }).result, Ok(0));
    write(&mut io, file, 0, &[2; 12288], false);
    assert_eq!(world.with_disk(Path::new("/"), |disk| disk.used_bytes()), 12288);
}

/// A server that sends back what it gets, a client that sends `total` bytes and checks them. Returns the trace hash.
fn echo(seed: u64, total: usize) -> u64 {
    let mut options = SimOptions::default();
    options.net.split = 0.5;
    options.net.no_buffers = 0.1;
    let world = SimWorld::new(seed, options);
    let mut io = world.driver();
    let (listener, address) = io.listen("0.0.0.0:9092".parse().expect("an address"), false).expect("free");
    io.submit(Op::Accept { listener }, Token(1));
    world.set_cooperative(true);
    let client = world.client_connect(address, 4096);
    let (mut sent, mut got, mut out) = (0, Vec::new(), Vec::new());
    let (mut unsent, mut sending, mut peer): (Vec<u8>, bool, Option<Handle>) = (Vec::new(), false, None);
    while got.len() < total {
        io.turn(u64::MAX, &mut out);
        for done in out.drain(..) {
            match done.payload {
                Payload::Accepted { socket, .. } => {
                    peer = Some(socket);
                    io.submit(Op::Receive { socket }, Token(2));
                }
                Payload::Received(bytes) => unsent.extend_from_slice(&bytes),
                Payload::Parts(_) => sending = false,
                _ => assert_eq!(done.result, Err(Errno::NO_BUFFERS)),
            }
            if done.token == Token(2) && !done.more {
                io.submit(Op::Receive { socket: peer.expect("accepted") }, Token(2));
            }
        }
        if let Some(socket) = peer.filter(|_| !sending && !unsent.is_empty()) {
            let parts = vec![Part::Bytes(std::mem::take(&mut unsent))];
            io.submit(Op::Send { socket, parts }, Token(3));
            sending = true;
        }
        while world.next_active_client().is_some() {}
        loop {
            while world.client_receive(client, 1000, &mut got) > 0 {}
            if world.client_state(client) == ClientState::Open {
                let bytes: Vec<u8> = (sent..total.min(sent + 3000)).map(|n| n as u8).collect();
                sent += world.client_send(client, &bytes);
            }
            if world.runnable(io.id()) || got.len() == total {
                break;
            }
            assert!(world.advance(u64::MAX), "stuck at {sent} sent, {} got", got.len());
        }
    }
    assert!(got.iter().enumerate().all(|(n, &byte)| byte == n as u8));
    world.trace_hash()
}

#[test]
fn bytes_arrive_whole_and_in_order_and_a_seed_repeats() {
    let hashes: Vec<u64> = (0..20).map(|seed| echo(seed, 100_000)).collect();
    let again: Vec<u64> = (0..20).map(|seed| echo(seed, 100_000)).collect();
    assert_eq!(hashes, again);
    assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), hashes.len());
}

#[test]
fn a_cancelled_receive_and_a_reset_end_their_ops() {
    let world = SimWorld::new(7, SimOptions::default());
    let mut io = world.driver();
    let (listener, address) = io.listen("127.0.0.1:0".parse().expect("an address"), false).expect("free");
    io.submit(Op::Accept { listener }, Token(1));
    let client = world.client_connect(address, 4096);
    let mut out = Vec::new();
    while out.is_empty() {
        io.turn(u64::MAX, &mut out);
    }
    let Payload::Accepted { socket, .. } = out.remove(0).payload else { panic!("an accept") };
    io.submit(Op::Receive { socket }, Token(2));
    io.submit(Op::Cancel { target: Token(2) }, Token(3));
    while out.len() < 2 {
        io.turn(u64::MAX, &mut out);
    }
    out.sort_by_key(|done| done.token);
    assert_eq!((out[0].token, out[0].result, out[0].more), (Token(2), Err(Errno::CANCELED), false));
    assert_eq!((out[1].token, out[1].result), (Token(3), Ok(0)));
    out.clear();
    io.submit(Op::Receive { socket }, Token(4));
    io.turn(0, &mut out);
    world.client_close(client, true);
    while out.is_empty() {
        io.turn(u64::MAX, &mut out);
    }
    assert_eq!((out[0].token, out[0].result, out[0].more), (Token(4), Err(Errno::RESET), false));
}

#[test]
fn a_wake_ends_a_sleep() {
    let world = SimWorld::new(3, SimOptions::default());
    let (mut a, mut b) = (world.driver(), world.driver());
    let waker = a.waker();
    b.wake(&waker);
    b.turn(0, &mut Vec::new());
    let before = a.now();
    a.turn(u64::MAX, &mut Vec::new());
    assert!(a.now() > before);
    let until = a.now() + 5_000_000;
    a.turn(until, &mut Vec::new());
    assert!(a.now() >= until);
}
