//! A simulated Kafka client's connection: frames over a simulated socket, answers matched to requests in order.

use std::collections::VecDeque;

use ringlog::protocol::frame::{decode_response_header, encode_request, parse_length};
use ringlog::protocol::{ApiKey, Message, Request};

use super::clients::Context;
use super::sim_io::ClientState;
use super::sim_io::sim_net::SocketId;

const FRAME_BYTES_MAX: usize = 64 << 20;
/// Virtual time after which an unanswered request on an open connection is a failure.
const STUCK_NS: u64 = 200_000_000_000;

pub struct Wire {
    name: String,
    socket: Option<SocketId>,
    out: VecDeque<u8>,
    input: Vec<u8>,
    waiting: VecDeque<Waiting>,
    next_correlation: i32,
    window_bytes: usize,
    retry_at_ns: u64,
    /// The power cuts before it was connected.
    power_cuts: u32,
    /// The life of the broker that it was connected in.
    life: u32,
}

struct Waiting {
    correlation: i32,
    api: ApiKey,
    version: i16,
    tag: u64,
    since_ns: u64,
}

/// An answer and the caller's name of its request.
pub struct Answer {
    pub api: ApiKey,
    pub version: i16,
    pub tag: u64,
    frame: Vec<u8>,
}

impl Answer {
    /// The message in it, which has to be all there is.
    pub fn read<'a, M: Message<'a>>(&'a self) -> Result<M, String> {
        let read = decode_response_header(&self.frame, self.api, self.version)
            .and_then(|(_, reader)| M::decode_exact(reader.rest(), self.version));
        read.map_err(|error| {
            format!("{:?} v{}: an answer that nobody can read: {error}", self.api, self.version)
        })
    }
}

/// What a look at the connection brought.
#[derive(Default)]
pub struct Polled {
    pub answers: Vec<Answer>,
    /// The connection is gone; what was unanswered stays so.
    pub lost: bool,
}

impl Wire {
    pub fn new(name: String, window_bytes: usize) -> Wire {
        Wire {
            name,
            socket: None,
            out: VecDeque::new(),
            input: Vec::new(),
            waiting: VecDeque::new(),
            next_correlation: 1,
            window_bytes,
            retry_at_ns: 0,
            power_cuts: 0,
            life: 0,
        }
    }

    pub fn socket(&self) -> Option<SocketId> {
        self.socket
    }

    /// The life of the broker that its answers come from, at the latest.
    pub fn life(&self) -> u32 {
        self.life
    }

    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    /// When it wants to be looked at although nothing happened on it.
    pub fn wake_ns(&self) -> u64 {
        match self.socket {
            None => self.retry_at_ns,
            Some(_) => self.waiting.front().map_or(u64::MAX, |first| first.since_ns + STUCK_NS + 1),
        }
    }

    pub fn is_open(&self, context: &Context) -> bool {
        self.socket.is_some_and(|socket| context.world.client_state(socket) == ClientState::Open)
    }

    /// Queues a request; with `silent` no answer is expected.
    pub fn request<'a, R: Request<'a>>(
        &mut self,
        context: &Context,
        version: i16,
        tag: u64,
        silent: bool,
        message: &R,
    ) {
        let correlation = self.next_correlation;
        self.next_correlation = self.next_correlation.wrapping_add(1);
        self.out.extend(encode_request(version, correlation, Some(&self.name), message));
        if !silent {
            let since_ns = context.now_ns();
            self.waiting.push_back(Waiting { correlation, api: R::API_KEY, version, tag, since_ns });
        }
        self.flush(context);
    }

    /// Sends bytes that need not be a request.
    pub fn send_raw(&mut self, context: &Context, bytes: &[u8]) {
        self.out.extend(bytes);
        self.flush(context);
    }

    fn flush(&mut self, context: &Context) {
        let Some(socket) = self.socket else { return };
        let sent = context.world.client_send(socket, self.out.make_contiguous());
        self.out.drain(..sent);
    }

    /// Connects where there is no connection, moves bytes, takes answers.
    pub fn poll(&mut self, context: &mut Context) -> Result<Polled, String> {
        let now = context.now_ns();
        let Some(socket) = self.socket else {
            if now >= self.retry_at_ns {
                self.socket = Some(context.world.client_connect(context.address, self.window_bytes));
                (self.power_cuts, self.life) = (context.history.power_cuts, context.life);
            }
            return Ok(Polled::default());
        };
        let mut polled = Polled::default();
        if self.power_cuts != context.history.power_cuts {
            // What was on its way told of records that may be gone with the power.
            self.drop_connection(context, true);
            polled.lost = true;
            return Ok(polled);
        }
        let state = context.world.client_state(socket);
        if state == ClientState::Connecting {
            return Ok(polled);
        }
        self.flush(context);
        while context.world.client_receive(socket, 1 << 20, &mut self.input) > 0 {}
        self.take_frames(&mut polled)?;
        if context.world.client_state(socket) != ClientState::Open {
            self.drop_connection(context, false);
            polled.lost = true;
        } else if let Some(first) = self.waiting.front().filter(|first| now > first.since_ns + STUCK_NS) {
            return Err(format!("{}: {:?} v{} is never answered", self.name, first.api, first.version));
        }
        Ok(polled)
    }

    fn take_frames(&mut self, polled: &mut Polled) -> Result<(), String> {
        let mut at = 0;
        while let Some(length) = parse_length(&self.input[at..], FRAME_BYTES_MAX)
            .map_err(|error| format!("{}: {error}", self.name))?
        {
            let Some(frame) = self.input.get(at + 4..at + 4 + length) else { break };
            let correlation = frame.first_chunk().map_or(-1, |id| i32::from_be_bytes(*id));
            let Some(first) = self.waiting.pop_front().filter(|first| first.correlation == correlation)
            else {
                return Err(format!("{}: answer {correlation} comes out of order or twice", self.name));
            };
            let Waiting { api, version, tag, .. } = first;
            polled.answers.push(Answer { api, version, tag, frame: frame.to_vec() });
            at += 4 + length;
        }
        self.input.drain(..at);
        Ok(())
    }

    /// Ends the connection from this side; the next look connects again, a little later.
    pub fn drop_connection(&mut self, context: &mut Context, abort: bool) {
        if let Some(socket) = self.socket.take() {
            context.world.client_close(socket, abort);
        }
        self.out.clear();
        self.input.clear();
        self.waiting.clear();
        self.retry_at_ns = context.now_ns() + context.rng.range(1_000_000, 500_000_000);
    }

    /// The machine of the client is gone, without a word.
    pub fn vanish(&mut self, context: &mut Context) {
        if let Some(socket) = self.socket.take() {
            context.world.client_vanish(socket);
        }
        self.drop_connection(context, true);
    }
}
