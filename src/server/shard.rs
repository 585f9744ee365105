//! A shard: one thread's driver, its connections and its broker, and the turn that moves them.
//!
//! [`Shard::turn`] is the only entry: submit and take completions, take mail, run what is due, answer. Nothing in it
//! blocks but the driver's wait for the next event. Threads (`server::run`) and the simulation call it in a loop.

mod accept; // how connections come
mod calls; // what the control thread asks
mod dynamic; // what is configured while it runs
mod stop; // the clean stop

use std::sync::Arc;

use slab::Slab;

use stop::Stop;

use super::balance::Balance;
use super::clients::Clients;
use super::connection::{Connection, Limits, Next, Receive};
use super::connection_quota::ConnectionQuota;
use super::frames::Frames;
use super::local::{self, Calls};
use super::mailbox::Mailbox;
use super::token::{Kind, Owner, Token};
use crate::broker::Broker;
use crate::broker::mail::Mail;
use crate::broker::request::{Head, Reply, Request, RequestId, Response};
use crate::config::BrokerConfig;
use crate::io::buffer::Received;
use crate::io::{Completion, Errno, Handle, Io, Op, Payload};
use crate::metrics::ShardMetrics;
use crate::protocol::frame::{LENGTH_BYTES, RequestHeader};
use crate::protocol::reader::Reader;
use crate::tune::measure::Measured;

/// Pieces of mail taken in one turn, so that a busy peer cannot keep the sockets waiting.
const MAIL_A_TURN: usize = 256;
/// Connections looked at for idleness in one turn.
const IDLE_CHECKS_A_TURN: usize = 64;

/// Requests from here on are handed to other shards where they lie; smaller ones are copied, which costs less than it.
const SHARED_FRAME_BYTES_MIN: usize = 16 << 10;
/// A client that has taken nothing of a reply for so long may lose its connection when replies lack memory.
const SLOW_READER_NS: u64 = 10_000_000_000;

/// Limits of a shard, set at start.
#[derive(Clone, Debug)]
pub struct ShardLimits {
    /// All shards' connections together.
    pub connections: Arc<ConnectionQuota>,
    pub balance: Arc<Balance>,
    pub connection: Limits,
    /// Bytes of requests that all connections may hold before they are whole.
    pub input_bytes_max: usize,
    /// Idle longer than this a connection is closed.
    pub idle_ns: u64,
    /// What their measurement said of the disks; `None`: storage keeps the settings it was given.
    pub disks: Option<Arc<[Measured]>>,
    pub shards: usize,
}

pub struct Shard<I: Io> {
    pub io: I,
    pub broker: Broker,
    mail: Mailbox<I::Waker>,
    limits: ShardLimits,
    listeners: Vec<(Handle, usize)>,
    connections: Slab<Connection>,
    next_generation: u32,
    input_bytes: usize,
    frames: Frames,
    idle_cursor: usize,
    /// Connections with an answer to send, or with input that may start now.
    dirty: Vec<u32>,
    completions: Vec<Completion>,
    done: Vec<(RequestId, Option<Response>)>,
    stopping: bool,
    stop: Stop,
    /// The configuration that was taken over last.
    followed: Option<Arc<BrokerConfig>>,
    /// What the control thread asks.
    calls: Option<Calls>,
    clients: Clients,
    waited_ns: u64,
}

impl<I: Io> Shard<I> {
    /// `listeners` are listening sockets of `io`, each with the index of its configured listener.
    pub fn new(
        io: I,
        broker: Broker,
        mail: Mailbox<I::Waker>,
        listeners: Vec<(Handle, usize)>,
        limits: ShardLimits,
    ) -> Shard<I> {
        let mut shard = Shard {
            io,
            broker,
            mail,
            limits,
            listeners,
            connections: Slab::new(),
            next_generation: 0,
            input_bytes: 0,
            frames: Frames::default(),
            idle_cursor: 0,
            dirty: Vec::new(),
            completions: Vec::new(),
            done: Vec::new(),
            stopping: false,
            stop: Stop::default(),
            followed: None,
            calls: None,
            clients: Clients::default(),
            waited_ns: 0,
        };
        for index in 0..shard.listeners.len() {
            shard.accept(index as u32);
        }
        // What had been set before the start counts when logs are first looked at.
        shard.follow_config();
        shard
    }

    /// One turn. Waits for an event, but not beyond `wait_until_ns`.
    pub fn turn(&mut self, wait_until_ns: u64) {
        let wait = if self.has_work() { 0 } else { wait_until_ns.min(self.next_deadline_ns()) };
        let mut completions = std::mem::take(&mut self.completions);
        let before_ns = self.io.now();
        self.io.turn(wait, &mut completions);
        self.count_turn(before_ns, completions.len());
        self.broker.begin_turn(&self.io);
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        // After the wait, so that what mail asks for is submitted with this turn and not with the next event.
        self.take_mail();
        self.take_arrivals();
        self.take_calls();
        self.close_idle();
        self.frames.rest(self.io.now());
        self.close_slow_reader();
        self.close_for_stop();
        self.broker.end_turn(&mut self.io);
        // Before whoever changed it hears that it is done.
        self.follow_config();
        self.deliver();
        self.run_dirty();
        // Answers of requests that started just now.
        self.deliver();
        self.run_dirty();
        self.broker.submit(&mut self.io);
        self.broker.take_outgoing(|to, mail| self.mail.send(to, mail));
        self.stop_broker();
        self.mail.flush(&mut self.io);
    }

    pub fn set_waker(&mut self, peer: usize, waker: I::Waker) {
        self.mail.set_waker(peer, waker);
    }

    /// Opens the way for the control thread.
    pub fn set_calls(&mut self, calls: Calls) {
        self.calls = Some(calls);
    }

    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn metrics(&self) -> &Arc<ShardMetrics> {
        self.broker.metrics()
    }

    fn has_work(&self) -> bool {
        !self.dirty.is_empty()
            || self.mail.has_mail()
            || self.limits.balance.has_arrivals(self.broker.shard())
            || self.broker.has_work()
            || self.calls.as_ref().is_some_and(|calls| !calls.is_empty())
    }

    fn next_deadline_ns(&self) -> u64 {
        self.stop_deadline_ns().min(self.broker.next_deadline_ns())
    }

    fn take_mail(&mut self) {
        for _ in 0..MAIL_A_TURN {
            let Some((from, mail)) = self.mail.receive() else { break };
            match mail {
                Mail::Quiet => self.stop.quiet_peers += 1,
                mail => self.broker.mail(&mut self.io, from, mail),
            }
        }
    }

    fn complete(&mut self, completion: Completion) {
        let token = Token::from(completion.token);
        match token.owner() {
            Owner::Server => self.complete_socket(token, completion),
            Owner::Storage => self.broker.storage_completion(&mut self.io, completion),
            Owner::Metadata => self.broker.metadata_completion(&mut self.io, completion),
        }
    }

    fn complete_socket(&mut self, token: Token, completion: Completion) {
        match token.kind() {
            Kind::Accept => self.accepted(token.index(), completion),
            Kind::Receive => self.received(token.index(), completion),
            Kind::Send => self.sent(token.index(), completion),
            Kind::Shutdown => {
                self.connections[token.index() as usize].shutting_down = false;
                self.finish_close(token.index());
            }
            Kind::Other => {}
        }
    }

    fn receive(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let socket = connection.socket;
        let before = connection.input_bytes();
        let op = match connection.next_receive(&mut self.frames) {
            Receive::Pieces => Op::Receive { socket },
            Receive::Exact { buf, len } => Op::ReceiveExact { socket, buf, len },
            Receive::Later => return,
        };
        connection.receiving = true;
        self.input_bytes = self.input_bytes + connection.input_bytes() - before;
        self.io.submit(op, Token::new(Owner::Server, Kind::Receive, index).into());
        self.check_input(index);
    }

    fn received(&mut self, index: u32, completion: Completion) {
        if !completion.more {
            let connection = &mut self.connections[index as usize];
            connection.receiving = false;
            connection.cancelling = false;
        }
        match (completion.result, completion.payload) {
            (result, Payload::Filled(buf)) => self.take_exact(index, result, buf),
            (Ok(bytes), Payload::Received(piece)) if bytes > 0 => self.take_piece(index, &piece),
            (Err(Errno::CANCELED | Errno::NO_BUFFERS), _) => {}
            (Ok(_), _) => self.begin_close(index, "the client closed it"),
            (Err(errno), _) => self.begin_close(index, &errno.to_string()),
        }
        self.keep_receiving(index);
        self.finish_close(index);
    }

    /// The length of a large frame has come, or all of it.
    fn take_exact(&mut self, index: u32, result: Result<usize, Errno>, buf: Vec<u8>) {
        let connection = &mut self.connections[index as usize];
        connection.put_exact(buf);
        connection.active_at_ns = self.io.now();
        match result {
            Ok(bytes) => {
                self.metrics().bytes_received.add(bytes as u64);
                if self.connections[index as usize].is_exact(bytes) {
                    self.run_input(index);
                } else {
                    self.begin_close(index, "the client closed it");
                }
            }
            Err(errno) => self.begin_close(index, &errno.to_string()),
        }
    }

    fn take_piece(&mut self, index: u32, piece: &Received) {
        let connection = &mut self.connections[index as usize];
        if connection.closing || self.stopping {
            return;
        }
        connection.active_at_ns = self.io.now();
        self.metrics().bytes_received.add(piece.len() as u64);
        let mut rest = &piece[..];
        while !rest.is_empty() && !self.connections[index as usize].closing {
            let connection = &self.connections[index as usize];
            if connection.input_is_empty() {
                let consumed = self.start_frames(index, rest);
                if consumed < rest.len() {
                    self.keep_input(index, &rest[consumed..]);
                }
                return;
            }
            // The frame that was begun is filled up first, and nothing put behind it: then it can start where it lies.
            let lacks = connection.lacks_bytes();
            let taken = if lacks == 0 { rest.len() } else { lacks.min(rest.len()) };
            self.keep_input(index, &rest[..taken]);
            rest = &rest[taken..];
            self.run_input(index);
        }
    }

    /// Keeps bytes within the shard's budget; beyond it the connection ends, for all waiting would wait for ever.
    fn keep_input(&mut self, index: u32, bytes: &[u8]) {
        let connection = &mut self.connections[index as usize];
        let before = connection.input_bytes();
        connection.keep(bytes, &mut self.frames);
        self.input_bytes += connection.input_bytes() - before;
        self.check_input(index);
    }

    fn check_input(&mut self, index: u32) {
        if self.input_bytes > self.limits.input_bytes_max {
            tracing::warn!(limit = self.limits.input_bytes_max, "no memory left for unfinished requests");
            self.begin_close(index, "no memory left for unfinished requests");
        }
    }

    /// Starts what may start of the kept input.
    fn run_input(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if connection.closing || self.stopping || connection.input_is_empty() {
            return;
        }
        if connection.lacks_bytes() > 0 {
            return;
        }
        let before = connection.input_bytes();
        let input = connection.take_input();
        if let Next::Frame { len } = connection.next(&input)
            && LENGTH_BYTES + len == input.len()
            && len >= SHARED_FRAME_BYTES_MIN
        {
            self.input_bytes -= before;
            let frame = self.frames.share(input);
            return self.start_request(index, &frame[LENGTH_BYTES..], Some(&frame));
        }
        let consumed = self.start_frames(index, &input);
        let connection = &mut self.connections[index as usize];
        connection.put_input(input, consumed);
        self.input_bytes = self.input_bytes + connection.input_bytes() - before;
    }

    /// Starts the requests at the front of `bytes`; answers how many bytes they took.
    fn start_frames(&mut self, index: u32, bytes: &[u8]) -> usize {
        let mut consumed = 0;
        loop {
            match self.connections[index as usize].next(&bytes[consumed..]) {
                Next::Wait => return consumed,
                Next::Broken(error) => {
                    self.begin_close(index, &error.to_string());
                    return bytes.len();
                }
                Next::Frame { len } => {
                    consumed += LENGTH_BYTES;
                    self.start_request(index, &bytes[consumed..consumed + len], None);
                    consumed += len;
                }
            }
        }
    }

    /// Starts the request in a frame; `shared` is memory that holds it and may be kept.
    fn start_request(&mut self, index: u32, frame: &[u8], shared: Option<&Arc<Vec<u8>>>) {
        let mut reader = Reader::new(frame);
        let header = match RequestHeader::decode(&mut reader) {
            Ok(header) => header,
            Err(error) => return self.begin_close(index, &error.to_string()),
        };
        let now_ns = self.io.now();
        let connection = &mut self.connections[index as usize];
        connection.note_frame(frame.len());
        connection.client =
            self.clients.received(connection.client, header.client_id, frame.len() + LENGTH_BYTES, now_ns);
        self.broker.metrics().api(header.api_key.code()).request_bytes.add(frame.len() as u64);
        let id = connection.begin_request(index, header.api_key, now_ns);
        let head = Head {
            id,
            api_key: header.api_key,
            version: header.version,
            correlation_id: header.correlation_id,
        };
        let body = reader.rest();
        tracing::trace!(index, id.sequence, api = %head.api_key, head.version, "request");
        let request =
            Request { head, client_id: header.client_id, peer: &connection.peer, body, frame: shared };
        match self.broker.request(&mut self.io, request) {
            Reply::Now(response) => self.answer(id, Some(response)),
            Reply::Silent => self.answer(id, None),
            Reply::Later => {}
            Reply::Close(reason) => self.begin_close(index, &reason),
        }
    }

    fn deliver(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        self.broker.take_done(&mut done);
        for (id, response) in done.drain(..) {
            self.answer(id, response);
        }
        self.done = done;
    }

    fn answer(&mut self, id: RequestId, response: Option<Response>) {
        tracing::trace!(id.connection, id.sequence, "answer");
        let bytes = response.as_ref().map_or(0, Response::len);
        if id.connection == local::CONNECTION {
            // The control thread copies it at once.
            self.broker.release_reply(response.as_ref().map_or(0, |response| response.held_bytes));
            if let Some(calls) = &mut self.calls {
                calls.answer(id, response);
            }
            return;
        }
        let connection = self.connections.get_mut(id.connection as usize);
        let Some(connection) = connection.filter(|connection| connection.generation() == id.generation)
        else {
            return self.broker.release_reply(response.map_or(0, |response| response.held_bytes));
        };
        match connection.answer(id.sequence, response) {
            Ok((api_key, began_ns)) => {
                self.clients.sent(connection.client, bytes);
                let api = self.broker.metrics().api(api_key.code());
                api.response_bytes.add(bytes as u64);
                api.time.record(self.io.now().saturating_sub(began_ns));
                self.dirty.push(id.connection);
            }
            Err(response) => self.broker.release_reply(response.map_or(0, |response| response.held_bytes)),
        }
    }

    /// Sends the answers of connections that have some, and starts requests that waited for them.
    fn run_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            if !self.connections.contains(index as usize) {
                continue;
            }
            self.send(index);
            self.run_input(index);
            self.keep_receiving(index);
            self.finish_close(index);
        }
        // Requests that started just now may be answered already: that is the next round's work.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn send(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if connection.sending || connection.closing {
            return;
        }
        let spares = self.broker.spares();
        let parts = connection.take_output(spares);
        if parts.is_empty() {
            return spares.parts.give(parts);
        }
        connection.sending = true;
        connection.sent_at_ns = self.io.now();
        let socket = connection.socket;
        self.io.submit(Op::Send { socket, parts }, Token::new(Owner::Server, Kind::Send, index).into());
    }

    fn sent(&mut self, index: u32, completion: Completion) {
        let connection = &mut self.connections[index as usize];
        connection.sending = false;
        connection.active_at_ns = self.io.now();
        self.broker.release_reply(std::mem::take(&mut connection.sending_held_bytes));
        if let Payload::Parts(parts) = completion.payload {
            self.broker.spares().give_parts(parts);
        }
        match completion.result {
            Ok(bytes) => {
                self.metrics().bytes_sent.add(bytes as u64);
                self.dirty.push(index);
            }
            Err(errno) => self.begin_close(index, &errno.to_string()),
        }
        self.finish_close(index);
    }

    /// Stops receiving from a connection that holds enough, resumes when it has room.
    fn keep_receiving(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let flooded = connection.is_flooded();
        if connection.receiving && (flooded || connection.leaves_pieces()) && !connection.cancelling {
            connection.cancelling = true;
            self.io.submit(
                Op::Cancel { target: Token::new(Owner::Server, Kind::Receive, index).into() },
                Token::new(Owner::Server, Kind::Other, 0).into(),
            );
        } else if !connection.receiving && !flooded && !connection.closing {
            self.receive(index);
        }
    }

    fn begin_close(&mut self, index: u32, reason: &str) {
        let connection = &mut self.connections[index as usize];
        if std::mem::replace(&mut connection.closing, true) {
            return;
        }
        tracing::debug!(peer = %connection.peer.host, reason, "connection closed");
        let socket = connection.socket;
        for sequence in connection.unanswered() {
            self.broker.forget(RequestId {
                connection: index,
                generation: connection.generation(),
                sequence,
            });
        }
        // Ends the ops in flight. The socket is closed only after it: a shutdown runs late, and would find the next
        // connection under the same descriptor.
        if !connection.is_quiet() {
            connection.shutting_down = true;
            self.io.submit(Op::Shutdown { socket }, Token::new(Owner::Server, Kind::Shutdown, index).into());
        }
        // The slot is given up later: the caller may still be at work on this connection.
        self.dirty.push(index);
    }

    fn finish_close(&mut self, index: u32) {
        let connection = &self.connections[index as usize];
        if connection.closing && connection.is_quiet() {
            let connection = self.connections.remove(index as usize);
            self.input_bytes -= connection.input_bytes();
            self.broker.release_reply(connection.held_bytes());
            self.forget_connection(connection.ip);
            self.metrics().connections_closed.add(1);
            self.close_socket(connection.socket);
        }
    }

    fn close_socket(&mut self, handle: Handle) {
        self.io.submit(Op::Close { handle }, Token::new(Owner::Server, Kind::Other, 0).into());
    }

    /// Where replies have no memory left, the client that has taken nothing for longest loses its connection: it must not
    /// keep the others waiting.
    fn close_slow_reader(&mut self) {
        if !self.broker.take_reply_refused() {
            return;
        }
        let now = self.io.now();
        let slow = self.connections.iter().filter(|(_, connection)| {
            let stalled = now.saturating_sub(connection.sent_at_ns) > SLOW_READER_NS;
            connection.sending && !connection.closing && stalled
        });
        if let Some((index, _)) = slow.min_by_key(|(_, connection)| connection.sent_at_ns) {
            tracing::warn!(peer = %self.connections[index].peer.host, "the client reads too slowly, and replies lack memory");
            self.begin_close(index as u32, "it reads too slowly, and replies lack memory");
        }
    }

    fn close_idle(&mut self) {
        let now = self.io.now();
        let slots = self.connections.capacity();
        for _ in 0..slots.min(IDLE_CHECKS_A_TURN) {
            self.idle_cursor = (self.idle_cursor + 1) % slots;
            if let Some(connection) = self.connections.get(self.idle_cursor)
                && now.saturating_sub(connection.active_at_ns) > self.limits.idle_ns
                && !connection.closing
            {
                self.begin_close(self.idle_cursor as u32, "idle for too long");
            }
        }
    }
}
