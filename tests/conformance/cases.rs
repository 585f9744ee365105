//! What every driver of `io` must do, as functions over `Io`. Both ends of a connection live on the driver under test, so a
//! case needs nothing but the driver and a directory. Included by `tests/conformance.rs` (the ring) and by the simulation.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;

use ringlog::io::buffer::{AlignedBuf, BufferPool, Received, Slice};
use ringlog::io::{BLOCK_BYTES, Completion, Errno, Handle, Io, Op, OpenMode, Part, Payload, Token};

/// What a case asks of the test around it.
pub trait Env {
    /// An empty directory whose file system takes direct I/O.
    fn dir(&self) -> PathBuf;
}

pub type Case<I> = fn(&mut I, &mut dyn Env);

macro_rules! list {
    ($($name:ident)*) => { vec![$((stringify!($name), $name::<I> as Case<I>)),*] };
}

/// All cases with their names.
pub fn all<I: Io>() -> Vec<(&'static str, Case<I>)> {
    list! {
        a_turn_without_wait_returns_at_once
        a_turn_waits_for_its_deadline
        a_wake_up_ends_the_next_turn
        a_connection_is_accepted_and_knows_its_peer
        a_refused_connection_is_an_error
        an_address_in_use_is_an_error
        bytes_arrive_in_order_in_any_pieces
        pieces_stay_valid_while_they_are_held
        held_pieces_starve_nobody_once_dropped
        a_large_send_waits_for_a_slow_reader
        many_parts_go_in_one_send
        an_empty_send_completes
        a_shutdown_is_an_end_of_stream_to_both
        closing_with_unread_bytes_resets
        a_send_after_the_peer_has_gone_fails_and_returns_its_parts
        a_cancelled_accept_ends
        a_cancelled_receive_ends_and_another_goes_on
        a_cancelled_send_ends
        a_cancel_of_nothing_finds_nothing
        closing_ends_what_is_pending
        a_stale_handle_is_refused_and_returns_the_buffer
        an_exact_receive_fills_its_buffer
        a_detached_socket_is_taken_over
        a_thousand_connections
        a_missing_file_is_an_error
        a_file_is_written_and_read_back_directly
        a_read_is_short_only_at_the_end
        a_buffered_file_takes_any_length
        a_file_is_truncated_and_grown
        files_are_renamed_and_unlinked
        directories_are_made_listed_and_removed
        a_directory_is_synced
        many_writes_in_flight
        buffers_of_a_pool_are_written_and_read
        a_lock_is_exclusive
        block_on_keeps_other_completions
        block_on_keeps_a_wake_up
    }
}

/// Long enough for any machine; a case that needs it has failed.
const PATIENCE_NS: u64 = 20_000_000_000;
const MILLISECOND_NS: u64 = 1_000_000;
/// Short enough that nothing is waited for in vain.
const MOMENT_NS: u64 = 20 * MILLISECOND_NS;

const CREATE: OpenMode =
    OpenMode { write: true, create: true, truncate: false, direct: false, directory: false };
const DIRECT: OpenMode = OpenMode { direct: true, ..CREATE };
const READ: OpenMode =
    OpenMode { write: false, create: false, truncate: false, direct: false, directory: false };

/// A driver with a queue of the completions not asked for yet.
struct Driver<'a, I: Io> {
    io: &'a mut I,
    arrived: VecDeque<Completion>,
    tokens: u64,
}

impl<'a, I: Io> Driver<'a, I> {
    fn new(io: &'a mut I) -> Self {
        Driver { io, arrived: VecDeque::new(), tokens: 100 }
    }

    fn submit(&mut self, op: Op) -> Token {
        self.tokens += 1;
        self.io.submit(op, Token(self.tokens));
        Token(self.tokens)
    }

    /// The next completion of an op.
    fn next(&mut self, token: Token) -> Completion {
        let deadline = self.io.now() + PATIENCE_NS;
        loop {
            if let Some(at) = self.arrived.iter().position(|completion| completion.token == token) {
                return self.arrived.remove(at).unwrap();
            }
            assert!(self.io.now() < deadline, "no completion of {token:?}; there are {:?}", self.arrived);
            self.turn(deadline);
        }
    }

    fn turn(&mut self, wait_until_ns: u64) {
        let mut out = Vec::new();
        self.io.turn(wait_until_ns, &mut out);
        self.arrived.extend(out);
    }

    /// Lets everything happen that needs no more of us.
    fn settle(&mut self) {
        let until = self.io.now() + MOMENT_NS;
        while self.io.now() < until {
            self.turn(until);
        }
    }

    /// The only completion of an op.
    fn run(&mut self, op: Op) -> Completion {
        let token = self.submit(op);
        let completion = self.next(token);
        assert!(!completion.more, "one completion: {completion:?}");
        completion
    }

    fn ok(&mut self, op: Op) -> usize {
        self.run(op).result.unwrap()
    }

    fn error(&mut self, op: Op) -> i32 {
        self.run(op).result.unwrap_err().0
    }

    fn open(&mut self, path: PathBuf, mode: OpenMode) -> Handle {
        let completion = self.run(Op::Open { path, mode });
        match completion {
            Completion { result: Ok(0), payload: Payload::Opened { file }, .. } => file,
            other => panic!("not opened: {other:?}"),
        }
    }

    fn read(&mut self, file: Handle, offset: u64, len: usize) -> Vec<u8> {
        let completion = self.run(Op::Read { file, offset, buf: AlignedBuf::unbudgeted(len), len });
        let Payload::Buffer(buf) = completion.payload else { panic!("no buffer") };
        buf[..completion.result.unwrap()].to_vec()
    }

    fn write(&mut self, file: Handle, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        self.run(Op::Write { file, offset, data: Slice::copy_of(bytes), sync: false }).result
    }

    fn listen(&mut self) -> (Token, Handle, SocketAddr) {
        let (listener, address) = self.io.listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        assert_ne!(address.port(), 0);
        (self.submit(Op::Accept { listener }), listener, address)
    }

    /// The two ends of a connection: who asked for it, and who accepted it.
    fn connect(&mut self, accept: Token, address: SocketAddr) -> (Handle, Handle) {
        let token = self.submit(Op::Connect { address });
        let completion = self.next(token);
        let Payload::Connected { socket: client } = completion.payload else {
            panic!("not connected: {completion:?}")
        };
        let completion = self.next(accept);
        assert!(completion.more && completion.result == Ok(0));
        let Payload::Accepted { socket: server, .. } = completion.payload else {
            panic!("not accepted: {completion:?}")
        };
        (client, server)
    }

    fn pair(&mut self) -> (Handle, Handle) {
        let (accept, _, address) = self.listen();
        self.connect(accept, address)
    }

    fn send(&mut self, socket: Handle, bytes: &[u8]) -> Token {
        self.submit(Op::Send { socket, parts: vec![Part::Bytes(bytes.to_vec())] })
    }

    /// The next `len` bytes of a receive at least.
    fn receive(&mut self, receive: Token, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.extend_from_slice(&self.piece(receive));
        }
        bytes
    }

    fn piece(&mut self, receive: Token) -> Received {
        let completion = self.next(receive);
        assert!(completion.more, "more follows a piece: {completion:?}");
        let Payload::Received(piece) = completion.payload else { panic!("no piece") };
        assert_eq!(completion.result, Ok(piece.len()));
        assert!(!piece.is_empty());
        piece
    }
}

/// Bytes that tell their place.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn a_turn_without_wait_returns_at_once<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut out = Vec::new();
    let before = io.now();
    io.turn(0, &mut out);
    assert!(out.is_empty());
    assert!(io.now() >= before);
    assert!(io.wall_ms() > 0);
}

fn a_turn_waits_for_its_deadline<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut out = Vec::new();
    let until = io.now() + 5 * MILLISECOND_NS;
    while io.now() < until {
        io.turn(until, &mut out);
    }
    assert!(out.is_empty());
    // A deadline that has passed is no reason to sleep.
    io.turn(until, &mut out);
}

fn a_wake_up_ends_the_next_turn<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let waker = io.waker();
    let far = io.now() + PATIENCE_NS;
    io.wake(&waker);
    io.wake(&waker.clone());
    let mut out = Vec::new();
    io.turn(far, &mut out);
    assert!(out.is_empty() && io.now() < far);
    // Two wake-ups before a turn are one: this one waits.
    let until = io.now() + 2 * MILLISECOND_NS;
    while io.now() < until {
        io.turn(until, &mut out);
    }
    assert!(out.is_empty());
}

fn a_connection_is_accepted_and_knows_its_peer<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (accept, _, address) = io.listen();
    let connect = io.submit(Op::Connect { address });
    assert!(matches!(io.next(connect).payload, Payload::Connected { .. }));
    let completion = io.next(accept);
    let Payload::Accepted { peer: Some(peer), .. } = completion.payload else { panic!("{completion:?}") };
    assert_eq!(peer.ip(), address.ip());
    assert_ne!(peer.port(), address.port());
    // Multishot: the same accept takes the next one.
    io.connect(accept, address);
}

fn a_refused_connection_is_an_error<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (accept, listener, address) = io.listen();
    io.ok(Op::Close { handle: listener });
    let end = io.next(accept);
    assert_eq!((end.result, end.more), (Err(Errno::CANCELED), false));
    assert_eq!(io.error(Op::Connect { address }), libc::ECONNREFUSED);
}

fn an_address_in_use_is_an_error<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let (_, address) = io.listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let error = io.listen(address, false).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let (_, address) = io.listen("127.0.0.1:0".parse().unwrap(), true).unwrap();
    assert_eq!(io.listen(address, true).unwrap().1, address);
}

fn bytes_arrive_in_order_in_any_pieces<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let receive = io.submit(Op::Receive { socket: server });
    let sent = pattern(3 << 20, 1);
    for (step, chunk) in [1, 7, 4096, 100_000, 1 << 20].into_iter().cycle().zip(0..).scan(
        0usize,
        |at, (len, step): (usize, usize)| {
            let end = (*at + len).min(sent.len());
            let chunk = &sent[*at..end];
            *at = end;
            (!chunk.is_empty()).then_some((step, chunk))
        },
    ) {
        let token = io.send(client, chunk);
        let got = io.receive(receive, chunk.len());
        assert!(got == chunk, "chunk {step}");
        assert_eq!(io.next(token).result, Ok(chunk.len()));
    }
}

fn pieces_stay_valid_while_they_are_held<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let receive = io.submit(Op::Receive { socket: server });
    let mut held = Vec::new();
    for step in 0..50 {
        let sent = pattern(1000, step);
        io.send(client, &sent);
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let piece = io.piece(receive);
            got.extend_from_slice(&piece);
            let copy = piece.to_vec();
            held.push((piece, copy));
        }
        assert_eq!(got, sent);
    }
    for (piece, copy) in held {
        assert_eq!(&*piece, copy);
    }
}

fn held_pieces_starve_nobody_once_dropped<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (accept, _, address) = io.listen();
    let (client, server) = io.connect(accept, address);
    let (other_client, other_server) = io.connect(accept, address);
    let receive = io.submit(Op::Receive { socket: server });
    let other_receive = io.submit(Op::Receive { socket: other_server });
    // More than any driver buffers; what it cannot take stays in the socket.
    let sent = pattern(16 << 20, 3);
    let send = io.send(client, &sent);
    io.settle();
    io.send(other_client, b"hello");
    io.settle();
    assert_eq!(io.receive(receive, sent.len()), sent);
    assert_eq!(io.receive(other_receive, 5), b"hello");
    assert_eq!(io.next(send).result, Ok(sent.len()));
}

fn a_large_send_waits_for_a_slow_reader<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let bytes = pattern(24 << 20, 5);
    let slice = Slice::copy_of(&bytes);
    let parts = vec![
        Part::Bytes(b"head".to_vec()),
        Part::Shared(slice.slice(0, 10 << 20)),
        Part::Shared(slice.slice(10 << 20, 14 << 20)),
        Part::Bytes(b"tail".to_vec()),
    ];
    let send = io.submit(Op::Send { socket: client, parts });
    io.settle();
    assert!(io.arrived.is_empty(), "nobody reads yet");
    let receive = io.submit(Op::Receive { socket: server });
    let got = io.receive(receive, bytes.len() + 8);
    assert!(got[..4] == *b"head" && got[4..4 + bytes.len()] == bytes && got[4 + bytes.len()..] == *b"tail");
    let done = io.next(send);
    assert_eq!((done.result, done.more), (Ok(got.len()), false));
    let Payload::Parts(parts) = done.payload else { panic!("no parts") };
    assert!(
        matches!(&parts[..], [Part::Bytes(_), Part::Shared(_), Part::Shared(_), Part::Bytes(tail)] if tail == b"tail")
    );
}

fn many_parts_go_in_one_send<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let bytes = pattern(5000 * 3, 6);
    let slice = Slice::copy_of(&bytes);
    let parts = (0..5000)
        .flat_map(|at| {
            let shared = Part::Shared(slice.slice(at * 3, 2));
            [shared, Part::Bytes(vec![]), Part::Bytes(bytes[at * 3 + 2..at * 3 + 3].to_vec())]
        })
        .collect();
    let send = io.submit(Op::Send { socket: client, parts });
    let receive = io.submit(Op::Receive { socket: server });
    assert_eq!(io.receive(receive, bytes.len()), bytes);
    assert_eq!(io.next(send).result, Ok(bytes.len()));
}

fn an_empty_send_completes<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, _) = io.pair();
    assert_eq!(io.ok(Op::Send { socket: client, parts: vec![] }), 0);
    assert_eq!(io.ok(Op::Send { socket: client, parts: vec![Part::Bytes(vec![]), Part::Bytes(vec![])] }), 0);
}

fn a_shutdown_is_an_end_of_stream_to_both<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let at_server = io.submit(Op::Receive { socket: server });
    let at_client = io.submit(Op::Receive { socket: client });
    let send = io.send(client, b"last words");
    assert_eq!(io.next(send).result, Ok(10));
    assert_eq!(io.ok(Op::Shutdown { socket: client }), 0);
    assert_eq!(io.receive(at_server, 10), b"last words");
    for receive in [at_server, at_client] {
        let end = io.next(receive);
        assert_eq!((end.result, end.more), (Ok(0), false));
    }
    assert_eq!(io.ok(Op::Shutdown { socket: client }), 0, "once more is no error");
    for handle in [client, server] {
        assert_eq!(io.ok(Op::Close { handle }), 0);
    }
}

fn closing_with_unread_bytes_resets<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let receive = io.submit(Op::Receive { socket: client });
    let send = io.send(client, b"never read");
    io.next(send).result.unwrap();
    io.ok(Op::Close { handle: server });
    let end = io.next(receive);
    assert_eq!((end.result, end.more), (Err(Errno::RESET), false));
}

fn a_send_after_the_peer_has_gone_fails_and_returns_its_parts<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    io.ok(Op::Close { handle: server });
    for _ in 0..100 {
        let token = io.send(client, b"anybody?");
        let completion = io.next(token);
        let Payload::Parts(parts) = completion.payload else { panic!("no parts") };
        assert!(matches!(&parts[..], [Part::Bytes(bytes)] if bytes == b"anybody?"));
        match completion.result {
            // The first may still go out: only its answer tells that nobody is there.
            Ok(8) => io.settle(),
            Ok(other) => panic!("{other} bytes sent"),
            Err(errno) => return assert!([libc::EPIPE, libc::ECONNRESET].contains(&errno.0), "{errno}"),
        }
    }
    panic!("a hundred sends to nobody");
}

fn a_cancelled_accept_ends<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (accept, listener, address) = io.listen();
    io.connect(accept, address);
    assert_eq!(io.ok(Op::Cancel { target: accept }), 0);
    let end = io.next(accept);
    assert_eq!((end.result, end.more), (Err(Errno::CANCELED), false));
    let accept = io.submit(Op::Accept { listener });
    io.connect(accept, address);
}

fn a_cancelled_receive_ends_and_another_goes_on<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let first = io.submit(Op::Receive { socket: server });
    io.send(client, b"one");
    assert_eq!(io.receive(first, 3), b"one");
    io.ok(Op::Cancel { target: first });
    let end = io.next(first);
    assert_eq!((end.result, end.more), (Err(Errno::CANCELED), false));
    io.send(client, b"two");
    io.settle();
    let second = io.submit(Op::Receive { socket: server });
    assert_eq!(io.receive(second, 3), b"two");
    // In the turn of its own submission as well.
    let (client, server) = io.pair();
    let third = io.submit(Op::Receive { socket: server });
    let cancel = io.submit(Op::Cancel { target: third });
    assert_eq!(io.next(cancel).result, Ok(0));
    assert_eq!(io.next(third).result, Err(Errno::CANCELED));
    io.ok(Op::Close { handle: client });
}

fn a_cancelled_send_ends<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, _server) = io.pair();
    let send = io.send(client, &vec![1; 24 << 20]);
    io.settle();
    assert!(io.arrived.is_empty(), "nobody reads");
    io.ok(Op::Cancel { target: send });
    let end = io.next(send);
    assert_eq!((end.result, end.more), (Err(Errno::CANCELED), false));
    let Payload::Parts(parts) = end.payload else { panic!("no parts") };
    assert!(matches!(&parts[..], [Part::Bytes(bytes)] if bytes.len() == 24 << 20));
}

fn a_cancel_of_nothing_finds_nothing<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    assert_eq!(io.error(Op::Cancel { target: Token(5) }), Errno::NOT_FOUND.0);
    let (client, _server) = io.pair();
    let send = io.send(client, b"done");
    io.next(send).result.unwrap();
    assert_eq!(io.error(Op::Cancel { target: send }), Errno::NOT_FOUND.0);
}

fn closing_ends_what_is_pending<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let receive = io.submit(Op::Receive { socket: client });
    let at_server = io.submit(Op::Receive { socket: server });
    let send = io.send(server, &vec![1; 24 << 20]);
    let first = io.piece(receive);
    drop(first);
    io.ok(Op::Cancel { target: receive });
    while io.next(receive).more {}
    // The send still waits for its reader.
    io.settle();
    assert_eq!(io.ok(Op::Close { handle: server }), 0);
    for pending in [send, at_server] {
        let end = io.next(pending);
        assert_eq!((end.result, end.more), (Err(Errno::CANCELED), false));
    }
    io.ok(Op::Close { handle: client });
}

fn a_stale_handle_is_refused_and_returns_the_buffer<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let file = io.open(env.dir().join("file"), CREATE);
    let (client, server) = io.pair();
    for handle in [file, client] {
        assert_eq!(io.ok(Op::Close { handle }), 0);
        assert_eq!(io.error(Op::Close { handle }), libc::EBADF);
    }
    // Something new, perhaps in the same place.
    io.open(env.dir().join("other"), CREATE);
    let completion = io.run(Op::Read { file, offset: 0, buf: AlignedBuf::unbudgeted(1), len: 1 });
    assert_eq!(completion.result, Err(Errno(libc::EBADF)));
    assert!(matches!(completion.payload, Payload::Buffer(buf) if buf.len() == BLOCK_BYTES));
    let completion =
        io.run(Op::Read { file, offset: 0, buf: AlignedBuf::unbudgeted(1), len: BLOCK_BYTES + 1 });
    assert_eq!(completion.result, Err(Errno(libc::EINVAL)), "more than the buffer holds");
    assert!(matches!(completion.payload, Payload::Buffer(_)));
    let completion = io.run(Op::Send { socket: client, parts: vec![Part::Bytes(vec![1])] });
    assert_eq!(completion.result, Err(Errno(libc::EBADF)));
    assert!(matches!(completion.payload, Payload::Parts(parts) if parts.len() == 1));
    assert_eq!(io.error(Op::Receive { socket: client }), libc::EBADF);
    assert_eq!(io.error(Op::Sync { file, data_only: true }), libc::EBADF);
    assert_eq!(io.write(file, 0, b"x"), Err(Errno(libc::EBADF)));
    io.ok(Op::Close { handle: server });
}

fn an_exact_receive_fills_its_buffer<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let sent = pattern(300_000, 3);
    let with = |front: &[u8], len: usize| {
        let mut buf = Vec::with_capacity(front.len() + len);
        buf.extend_from_slice(front);
        buf
    };
    let filled = |completion: Completion| match completion.payload {
        Payload::Filled(buf) => (completion.result, buf),
        other => panic!("no buffer: {other:?}"),
    };
    // What comes in many parts, what waits already, what is more than asked for.
    let receive = io.submit(Op::ReceiveExact { socket: server, buf: with(b"front", 200_000), len: 200_000 });
    for part in sent[..199_980].chunks(9_999) {
        let token = io.send(client, part);
        assert_eq!(io.next(token).result, Ok(part.len()));
    }
    let rest = io.send(client, &sent[199_980..]);
    let (result, buf) = filled(io.next(receive));
    assert!(result == Ok(200_000) && buf[..5] == *b"front" && buf[5..] == sent[..200_000]);
    let (result, buf) =
        filled(io.run(Op::ReceiveExact { socket: server, buf: with(b"", 99_999), len: 99_999 }));
    assert!(result == Ok(99_999) && buf == sent[200_000..299_999]);
    // The last byte lies in front of what a plain receive brings; then exactly again.
    let receive = io.submit(Op::Receive { socket: server });
    assert_eq!(io.receive(receive, 1), sent[299_999..]);
    assert_eq!(io.next(rest).result, Ok(300_000 - 199_980));
    io.ok(Op::Cancel { target: receive });
    while io.next(receive).more {}
    let refused = io.run(Op::ReceiveExact { socket: server, buf: with(b"xy", 1), len: 2 });
    assert_eq!(filled(refused), (Err(Errno(libc::EINVAL)), b"xy".to_vec()));
    let nothing = io.run(Op::ReceiveExact { socket: server, buf: with(b"xy", 1), len: 0 });
    assert_eq!(filled(nothing), (Ok(0), b"xy".to_vec()));
    // A cancel and the end of the stream bring what has come.
    let receive = io.submit(Op::ReceiveExact { socket: server, buf: with(b"", 100), len: 100 });
    io.settle();
    io.ok(Op::Cancel { target: receive });
    assert_eq!(filled(io.next(receive)), (Err(Errno::CANCELED), Vec::new()));
    let receive = io.submit(Op::ReceiveExact { socket: server, buf: with(b"", 100), len: 100 });
    let token = io.send(client, b"the end");
    assert_eq!(io.next(token).result, Ok(7));
    io.ok(Op::Shutdown { socket: client });
    assert_eq!(filled(io.next(receive)), (Ok(7), b"the end".to_vec()));
    io.ok(Op::Close { handle: server });
    let refused = io.run(Op::ReceiveExact { socket: server, buf: with(b"xy", 1), len: 1 });
    assert_eq!(filled(refused), (Err(Errno(libc::EBADF)), b"xy".to_vec()));
}

fn a_detached_socket_is_taken_over<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (client, server) = io.pair();
    let pending = io.submit(Op::Receive { socket: client });
    io.settle();
    assert!(io.io.detach(client).is_none(), "an op is in flight");
    let sent = io.send(server, b"before");
    assert_eq!(io.receive(pending, 6), b"before");
    assert_eq!(io.next(sent).result, Ok(6));
    // What has no descriptor stays where it is.
    let Some(socket) = io.io.detach(server) else { return };
    assert_eq!(io.error(Op::Receive { socket: server }), libc::EBADF);
    assert!(io.io.detach(server).is_none());
    let sent = io.send(client, b"meanwhile");
    assert_eq!(io.next(sent).result, Ok(9));
    let server = io.io.attach(socket).unwrap();
    let receive = io.submit(Op::Receive { socket: server });
    assert_eq!(io.receive(receive, 9), b"meanwhile");
    let answer = io.send(server, b"after");
    assert_eq!(io.receive(pending, 5), b"after");
    assert_eq!(io.next(answer).result, Ok(5));
}

fn a_thousand_connections<I: Io>(io: &mut I, _env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let (accept, _, address) = io.listen();
    let mut pairs = Vec::new();
    for _ in 0..1000 {
        let (client, server) = io.connect(accept, address);
        let receive = io.submit(Op::Receive { socket: server });
        pairs.push((client, server, receive));
    }
    let sends: Vec<_> = pairs
        .iter()
        .enumerate()
        .map(|(at, &(client, ..))| io.send(client, &pattern(100, at as u32)))
        .collect();
    for (at, &(_, _, receive)) in pairs.iter().enumerate() {
        assert_eq!(io.receive(receive, 100), pattern(100, at as u32));
    }
    for send in sends {
        assert_eq!(io.next(send).result, Ok(100));
    }
    let closes: Vec<_> = pairs.iter().map(|&(client, ..)| io.submit(Op::Close { handle: client })).collect();
    for (close, (_, server, receive)) in closes.into_iter().zip(pairs) {
        assert_eq!(io.next(close).result, Ok(0));
        let end = io.next(receive);
        assert_eq!((end.result, end.more), (Ok(0), false));
        io.ok(Op::Close { handle: server });
    }
}

fn a_missing_file_is_an_error<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let path = env.dir().join("missing");
    assert_eq!(io.error(Op::Open { path: path.clone(), mode: READ }), libc::ENOENT);
    assert_eq!(io.error(Op::Unlink { path: path.clone() }), libc::ENOENT);
    assert_eq!(io.error(Op::RemoveDir { path: path.clone() }), libc::ENOENT);
    assert_eq!(io.error(Op::Rename { from: path.clone(), to: env.dir().join("other") }), libc::ENOENT);
    assert_eq!(io.error(Op::CreateDir { path: path.join("below") }), libc::ENOENT);
    assert_eq!(io.error(Op::Open { path: path.join("below"), mode: CREATE }), libc::ENOENT);
    assert_eq!(io.io.list_dir(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

fn a_file_is_written_and_read_back_directly<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let file = io.open(env.dir().join("file"), DIRECT);
    let bytes = pattern(1 << 20, 9);
    for sync in [false, true] {
        let data = Slice::copy_of(&bytes);
        assert_eq!(io.ok(Op::Write { file, offset: 8 << 10, data, sync }), bytes.len());
        assert_eq!(io.read(file, 8 << 10, 1 << 20), bytes);
    }
    // In the middle, from the middle of a buffer.
    let patch = Slice::copy_of(&pattern(16 << 10, 10)).slice(4096, 8192);
    assert_eq!(io.ok(Op::Write { file, offset: 64 << 10, data: patch.clone(), sync: true }), 8192);
    assert_eq!(io.read(file, 64 << 10, 8192), &*patch);
    assert_eq!(io.read(file, 60 << 10, 4096), bytes[52 << 10..56 << 10]);
    assert_eq!(io.read(file, 0, 8 << 10), vec![0; 8 << 10], "a hole reads as zeros");
    assert_eq!(io.ok(Op::Sync { file, data_only: true }), 0);
    assert_eq!(io.ok(Op::Sync { file, data_only: false }), 0);
    // It outlives its handle.
    io.ok(Op::Close { handle: file });
    let file = io.open(env.dir().join("file"), OpenMode { direct: true, ..READ });
    assert_eq!(io.read(file, 64 << 10, 8192), &*patch);
    assert_eq!(io.write(file, 0, &bytes[..4096]), Err(Errno(libc::EBADF)), "opened for reading");
}

fn a_read_is_short_only_at_the_end<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let path = env.dir().join("file");
    let bytes = pattern(100_000, 11);
    let file = io.open(path.clone(), CREATE);
    assert_eq!(io.write(file, 0, &bytes), Ok(bytes.len()));
    let direct = io.open(path, OpenMode { direct: true, ..READ });
    for file in [file, direct] {
        assert_eq!(io.read(file, 0, 96 << 10), bytes[..96 << 10]);
        assert_eq!(io.read(file, 0, 1 << 20), bytes);
        assert_eq!(io.read(file, 96 << 10, 8192), bytes[96 << 10..]);
        assert_eq!(io.read(file, 100 << 10, 4096), b"", "just behind the end");
        assert_eq!(io.read(file, 1 << 30, 4096), b"", "far behind the end");
    }
    let completion = io.run(Op::Read { file, offset: 0, buf: AlignedBuf::unbudgeted(1), len: 0 });
    assert_eq!(completion.result, Ok(0));
    assert!(matches!(completion.payload, Payload::Buffer(_)));
}

fn a_buffered_file_takes_any_length<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let file = io.open(env.dir().join("file"), CREATE);
    assert_eq!(io.write(file, 0, b"hello, world"), Ok(12));
    assert_eq!(io.write(file, 7, b"there"), Ok(5));
    assert_eq!(io.write(file, 7, b""), Ok(0));
    assert_eq!(io.read(file, 0, 100), b"hello, there");
    assert_eq!(io.read(file, 3, 4), b"lo, ");
    io.ok(Op::Close { handle: file });
    let file = io.open(env.dir().join("file"), OpenMode { truncate: true, ..CREATE });
    assert_eq!(io.read(file, 0, 100), b"");
}

fn a_file_is_truncated_and_grown<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let file = io.open(env.dir().join("file"), CREATE);
    assert_eq!(io.write(file, 0, &pattern(10_000, 12)), Ok(10_000));
    assert_eq!(io.ok(Op::Truncate { file, len: 5_000 }), 0);
    assert_eq!(io.read(file, 0, 20_000), pattern(10_000, 12)[..5_000]);
    assert_eq!(io.ok(Op::Truncate { file, len: 6_000 }), 0);
    let mut grown = pattern(10_000, 12)[..5_000].to_vec();
    grown.resize(6_000, 0);
    assert_eq!(io.read(file, 0, 20_000), grown, "what was cut off does not come back");
    assert_eq!(io.io.list_dir(&env.dir()).unwrap()[0].len, 6_000);
}

fn files_are_renamed_and_unlinked<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let path = |name: &str| env.dir().join(name);
    let a = io.open(path("a"), CREATE);
    io.write(a, 0, b"a").unwrap();
    let b = io.open(path("b"), CREATE);
    io.write(b, 0, b"bb").unwrap();
    assert_eq!(io.ok(Op::Rename { from: path("a"), to: path("b") }), 0);
    let entries = io.io.list_dir(&env.dir()).unwrap();
    assert_eq!(entries.iter().map(|entry| (&*entry.name, entry.len)).collect::<Vec<_>>(), [("b", 1)]);
    assert_eq!(io.read(b, 0, 10), b"bb", "the replaced file lives while it is open");
    assert_eq!(io.read(a, 0, 10), b"a");
    assert_eq!(io.ok(Op::Unlink { path: path("b") }), 0);
    assert!(io.io.list_dir(&env.dir()).unwrap().is_empty());
    assert_eq!(io.read(a, 0, 10), b"a", "so does the unlinked one");
    assert_eq!(io.error(Op::Open { path: path("b"), mode: READ }), libc::ENOENT);
}

fn directories_are_made_listed_and_removed<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let path = |name: &str| env.dir().join(name);
    assert_eq!(io.ok(Op::CreateDir { path: path("b") }), 0);
    assert_eq!(io.error(Op::CreateDir { path: path("b") }), libc::EEXIST);
    io.open(path("c"), CREATE);
    io.open(path("b/inside"), CREATE);
    assert_eq!(io.ok(Op::CreateDir { path: path("a") }), 0);
    let entries = io.io.list_dir(&env.dir()).unwrap();
    let entries: Vec<_> = entries.iter().map(|entry| (&*entry.name, entry.is_dir)).collect();
    assert_eq!(entries, [("a", true), ("b", true), ("c", false)]);
    assert_eq!(io.error(Op::RemoveDir { path: path("b") }), libc::ENOTEMPTY);
    assert_eq!(io.error(Op::RemoveDir { path: path("c") }), libc::ENOTDIR);
    assert_eq!(io.error(Op::Unlink { path: path("a") }), libc::EISDIR);
    assert_eq!(io.ok(Op::RemoveDir { path: path("a") }), 0);
    assert_eq!(io.ok(Op::Rename { from: path("b"), to: path("d") }), 0);
    assert_eq!(io.io.list_dir(&path("d")).unwrap()[0].name, "inside");
}

fn a_directory_is_synced<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let directory = OpenMode { directory: true, ..READ };
    let dir = io.open(env.dir(), directory);
    assert_eq!(io.ok(Op::Sync { file: dir, data_only: false }), 0);
    assert_eq!(io.ok(Op::Close { handle: dir }), 0);
    io.open(env.dir().join("file"), CREATE);
    let op = Op::Open { path: env.dir().join("file"), mode: directory };
    assert_eq!(io.error(op), libc::ENOTDIR);
}

fn many_writes_in_flight<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let file = io.open(env.dir().join("file"), DIRECT);
    let writes: Vec<_> = (0..64u64)
        .map(|at| {
            let data = Slice::copy_of(&pattern(64 << 10, at as u32));
            io.submit(Op::Write { file, offset: at * (64 << 10), data, sync: at % 8 == 0 })
        })
        .collect();
    for write in writes {
        assert_eq!(io.next(write).result, Ok(64 << 10));
    }
    let reads: Vec<_> = (0..64u64)
        .map(|at| {
            let buf = AlignedBuf::unbudgeted(64 << 10);
            io.submit(Op::Read { file, offset: at * (64 << 10), buf, len: 64 << 10 })
        })
        .collect();
    for (at, read) in reads.into_iter().enumerate() {
        let completion = io.next(read);
        let Payload::Buffer(buf) = completion.payload else { panic!("no buffer") };
        assert!(completion.result == Ok(64 << 10) && *buf == *pattern(64 << 10, at as u32));
    }
}

fn buffers_of_a_pool_are_written_and_read<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut io = Driver::new(io);
    let file = io.open(env.dir().join("file"), DIRECT);
    // Two pools, as two shards have; the sizes mix small and large, odd starts, and one larger than an arena.
    let pools = [BufferPool::new(12 << 20), BufferPool::new(72 << 20)];
    let mut offset = 0;
    let mut written = Vec::new();
    for (at, len) in [4096, 1 << 20, 8192, 300 << 10, 4096, 16 << 20].into_iter().enumerate() {
        let Some(mut buf) = pools[at % 2].allocate(len + BLOCK_BYTES) else { panic!("within the budget") };
        let bytes = pattern(len + BLOCK_BYTES, at as u32);
        buf.copy_from_slice(&bytes);
        let data = buf.freeze().slice(BLOCK_BYTES, len);
        written.push((io.submit(Op::Write { file, offset, data, sync: at == 1 }), offset, bytes));
        offset += len as u64;
    }
    for (write, offset, bytes) in written {
        let bytes = &bytes[BLOCK_BYTES..];
        assert_eq!(io.next(write).result, Ok(bytes.len()));
        let buf = pools[1].allocate(bytes.len()).unwrap();
        let completion = io.run(Op::Read { file, offset, buf, len: bytes.len() });
        let Payload::Buffer(buf) = completion.payload else { panic!("no buffer") };
        assert_eq!(completion.result, Ok(bytes.len()));
        assert!(*buf == *bytes);
    }
    assert!(pools.iter().all(|pool| pool.used_bytes() == 0), "all came home");
}

fn a_lock_is_exclusive<I: Io>(io: &mut I, env: &mut dyn Env) {
    let path = env.dir().join(".lock");
    assert!(io.lock_file(&path).unwrap());
    assert!(!io.lock_file(&path).unwrap());
    assert!(io.lock_file(&env.dir().join("missing/.lock")).is_err());
}

fn block_on_keeps_other_completions<I: Io>(io: &mut I, env: &mut dyn Env) {
    let mut out = Vec::new();
    let path = env.dir().join("dir");
    io.submit(Op::Unlink { path: path.clone() }, Token(77));
    assert_eq!(io.block_on(Op::CreateDir { path: path.clone() }).result, Ok(0));
    assert_eq!(io.block_on(Op::CreateDir { path }).result, Err(Errno::EXISTS));
    let far = io.now() + PATIENCE_NS;
    while out.is_empty() && io.now() < far {
        io.turn(far, &mut out);
    }
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].token, Token(77));
}

fn block_on_keeps_a_wake_up<I: Io>(io: &mut I, env: &mut dyn Env) {
    let waker = io.waker();
    io.wake(&waker);
    for name in ["a", "b"] {
        assert_eq!(io.block_on(Op::CreateDir { path: env.dir().join(name) }).result, Ok(0));
    }
    let far = io.now() + PATIENCE_NS;
    let mut out = Vec::new();
    io.turn(far, &mut out);
    assert!(out.is_empty() && io.now() < far);
}
