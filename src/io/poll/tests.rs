//! What the conformance suite does not see: wake-ups by other threads, memory that runs out, sockets that nobody waits for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::*;
use crate::io::buffer::{AlignedBuf, Received, Slice};
use crate::io::{OpenMode, Part};

const FAR_NS: u64 = 20_000_000_000;

fn driver() -> PollIo {
    PollIo::new(PollOptions::default()).unwrap()
}

fn next(io: &mut PollIo) -> Completion {
    let deadline = io.now() + FAR_NS;
    let mut out = Vec::new();
    while out.is_empty() {
        assert!(io.now() < deadline, "nothing came");
        io.turn(deadline, &mut out);
    }
    assert_eq!(out.len(), 1, "{out:?}");
    out.remove(0)
}

/// An accepted socket, and the peer's end of it.
fn accepted(io: &mut PollIo) -> (Handle, TcpStream) {
    let (listener, address) = io.listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    io.submit(Op::Accept { listener }, Token(1));
    let peer = TcpStream::connect(address).unwrap();
    let Payload::Accepted { socket, .. } = next(io).payload else { panic!("not accepted") };
    (socket, peer)
}

#[test]
fn no_wake_up_is_slept_over() {
    let mut io = driver();
    for round in 0..2000u32 {
        let waker = io.waker();
        let thread = thread::spawn(move || {
            if round % 3 == 0 {
                thread::sleep(Duration::from_micros(u64::from(round % 100)));
            }
            waker.wake();
        });
        let before = io.now();
        let mut out = Vec::new();
        io.turn(before + FAR_NS, &mut out);
        assert!(out.is_empty() && io.now() < before + FAR_NS, "round {round}");
        thread.join().unwrap();
    }
}

#[test]
fn a_waker_outlives_its_driver() {
    let io = driver();
    let waker = io.waker();
    drop(io);
    waker.wake();
    driver().wake(&waker);
}

#[test]
fn jobs_end_while_the_driver_goes_to_sleep() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let mut io = driver();
    for round in 0..2000 {
        io.submit(Op::CreateDir { path: dir.path().join(round.to_string()) }, Token(round));
        let completion = next(&mut io);
        assert_eq!((completion.token, completion.result), (Token(round), Ok(0)));
    }
}

#[test]
fn a_socket_that_nobody_waits_for_does_not_end_the_sleep() {
    let mut io = driver();
    let (_socket, mut peer) = accepted(&mut io);
    peer.write_all(b"hello").unwrap();
    peer.shutdown(std::net::Shutdown::Both).unwrap();
    let mut out = Vec::new();
    let mut turns = 0;
    let until = io.now() + 50_000_000;
    while io.now() < until {
        io.turn(until, &mut out);
        turns += 1;
    }
    assert!(out.is_empty() && turns < 20, "{turns} turns for nothing");
}

#[test]
fn a_starved_receive_sleeps_and_goes_on() {
    let mut io = PollIo::new(PollOptions { receive_bytes: 1, ..PollOptions::default() }).unwrap();
    let (socket, mut peer) = accepted(&mut io);
    let sender = thread::spawn(move || {
        let bytes: Vec<u8> = (0..4u32 << 20).map(|at| at as u8).collect();
        peer.write_all(&bytes).unwrap();
        peer
    });
    io.submit(Op::Receive { socket }, Token(2));
    let mut held: Vec<Received> = Vec::new();
    let (mut got, mut hungry) = (0usize, 0);
    while got < 4 << 20 {
        let mut out = Vec::new();
        io.turn(io.now() + 20_000_000, &mut out);
        if out.is_empty() {
            assert!(held.iter().map(|piece| piece.len()).sum::<usize>() <= io.receive_bytes());
            held.clear();
            hungry += 1;
        }
        for completion in out {
            let Payload::Received(piece) = completion.payload else { panic!("no piece") };
            assert!(piece.iter().enumerate().all(|(at, &byte)| byte == (got + at) as u8));
            got += piece.len();
            held.push(piece);
        }
    }
    assert!(hungry > 5, "it was never starved");
    sender.join().unwrap();
}

#[test]
fn a_second_op_of_a_kind_on_a_socket_is_refused() {
    let mut io = driver();
    let (socket, mut peer) = accepted(&mut io);
    io.submit(Op::Receive { socket }, Token(2));
    io.submit(Op::Receive { socket }, Token(3));
    let refused = next(&mut io);
    assert_eq!((refused.token, refused.result), (Token(3), Err(Errno(libc::EBUSY))));
    io.submit(Op::Send { socket, parts: vec![Part::Bytes(b"well".to_vec())] }, Token(4));
    assert_eq!(next(&mut io).result, Ok(4));
    let mut bytes = [0; 4];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"well");
}

#[test]
fn what_was_written_is_there_when_the_driver_has_ended() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("file");
    let mut io = driver();
    let mode = OpenMode { write: true, create: true, direct: true, ..OpenMode::default() };
    let opened = io.block_on(Op::Open { path: path.clone(), mode });
    let Payload::Opened { file } = opened.payload else { panic!("{opened:?}") };
    for at in 0..64 {
        let data = Slice::copy_of(&[at as u8 + 1; 4096]);
        io.submit(Op::Write { file, offset: at * 4096, data, sync: true }, Token(at));
    }
    // Closed with writes in flight: they end as they would have.
    io.submit(Op::Close { handle: file }, Token(64));
    let mut out = Vec::new();
    while out.len() < 65 {
        io.turn(u64::MAX, &mut out);
    }
    assert!(out.iter().all(|completion| completion.result.is_ok()));
    drop(io);
    let bytes = std::fs::read(path).unwrap();
    assert!((0..64).all(|at| bytes[at * 4096..][..4096] == [at as u8 + 1; 4096]));
}

#[test]
fn a_driver_ends_with_ops_in_flight() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let mut io = driver();
    let (socket, _peer) = accepted(&mut io);
    io.submit(Op::Receive { socket }, Token(1));
    let mode = OpenMode { write: true, create: true, ..OpenMode::default() };
    let opened = io.block_on(Op::Open { path: dir.path().join("file"), mode });
    let Payload::Opened { file } = opened.payload else { panic!("{opened:?}") };
    for at in 0..200 {
        let data = Slice::copy_of(&[7; 65536]);
        io.submit(Op::Write { file, offset: at << 16, data, sync: true }, Token(2));
    }
    io.submit(Op::Read { file, offset: 0, buf: AlignedBuf::unbudgeted(4096), len: 4096 }, Token(3));
    io.turn(0, &mut Vec::new());
    drop(io);
}

#[test]
fn where_direct_io_is_refused_writes_are_synced_ones() {
    // procfs refuses O_DIRECT as tmpfs once did; nothing there can be created, so a file that exists is opened.
    let path = PathBuf::from("/proc/self/comm");
    let mut io = driver();
    let mode = OpenMode { write: true, direct: true, ..OpenMode::default() };
    let opened = io.block_on(Op::Open { path, mode });
    let Payload::Opened { file } = opened.payload else { panic!("{opened:?}") };
    let Some(Entry::File(fd)) = io.handles.get(file).map(|open| &open.file) else { panic!("no file") };
    let flags = rustix::fs::fcntl_getfl(fd).unwrap();
    assert!(flags.contains(rustix::fs::OFlags::DSYNC) && !flags.contains(rustix::fs::OFlags::DIRECT));
}
