//! One client connection as a pure state machine: received bytes become frames, answers leave in request order.
//!
//! A client may send ahead. As in Kafka the requests of a connection take effect one after the other; only produce
//! requests may follow unanswered produce requests, since their order is fixed when they are appended. Everything else
//! waits in `input`, which is bounded: the shard stops receiving when a connection holds enough.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::frames::Frames;
use crate::broker::request::{Peer, RequestId, Response, part_len};
use crate::broker::spares::Spares;
use crate::io::{Handle, Part};
use crate::protocol::api_key::ApiKey;
use crate::protocol::error::DecodeError;
use crate::protocol::frame::{self, LENGTH_BYTES};

/// Bytes of waiting requests above which a connection that cannot start them is no longer received from.
const INPUT_HIGH_BYTES: usize = 256 * 1024;
/// The memory of a frame that is still to come is taken when this many times what is here suffices.
const GROWTH_MAX: usize = 4;
/// A client that has sent so many frames of [`EXACT_FRAME_BYTES`] in a row has the next ones received where they are used,
/// without a copy; a client of small requests would pay two receives for each.
const EXACT_AFTER_FRAMES: u32 = 4;
const EXACT_FRAME_BYTES: RangeInclusive<usize> = 64 << 10..=2 << 20;
/// Memory that is kept for a length alone.
const LENGTH_KEPT_MAX: usize = 64;
/// Bytes of answers put into one send; more go with the next.
const SEND_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Parts of one gathered send.
const SEND_PARTS_MAX: usize = 256;

pub struct Connection {
    pub socket: Handle,
    /// Where its client's traffic is counted.
    pub client: u32,
    pub peer: Peer,
    /// Whose share of the connections it is.
    pub ip: Option<IpAddr>,
    pub receiving: bool,
    pub cancelling: bool,
    pub sending: bool,
    /// The end has begun: no request starts and no answer is sent any more.
    pub closing: bool,
    /// A shutdown of the socket is under way.
    pub shutting_down: bool,
    /// When it last sent or took something.
    pub active_at_ns: u64,
    /// When the send under way, or the last one, began.
    pub sent_at_ns: u64,
    /// What the send under way holds of the memory for replies.
    pub sending_held_bytes: usize,
    generation: u32,
    next_sequence: u32,
    input: Vec<u8>,
    /// Memory for the length of the next large frame.
    length: Vec<u8>,
    /// The capacity of the input while an exact receive fills it, in the driver's hands.
    exact_bytes: usize,
    /// What the last exact receive was to bring.
    exact_lacks: usize,
    /// Frames of [`EXACT_FRAME_BYTES`] in a row.
    large_frames: u32,
    slots: VecDeque<Slot>,
    in_flight_max: usize,
    frame_bytes_max: usize,
}

struct Slot {
    sequence: u32,
    api_key: ApiKey,
    began_ns: u64,
    state: State,
}

enum State {
    Waiting,
    Ready(Response),
    /// Answered by nothing.
    Silent,
}

/// How to go on receiving.
pub enum Receive {
    /// Whatever comes.
    Pieces,
    /// `len` bytes behind what `buf` holds; it comes back with [`Connection::put_exact`].
    Exact { buf: Vec<u8>, len: usize },
    /// Not before the frame that waits has started.
    Later,
}

/// What the front of the input holds.
pub enum Next {
    /// A whole frame that may start: its content is `input[LENGTH_BYTES..][..len]`.
    Frame {
        len: usize,
    },
    /// More bytes are needed, or an answer has to leave first.
    Wait,
    Broken(DecodeError),
}

impl Connection {
    pub fn new(
        socket: Handle,
        peer: Peer,
        ip: Option<IpAddr>,
        generation: u32,
        limits: Limits,
        now_ns: u64,
    ) -> Connection {
        Connection {
            socket,
            client: 0,
            peer,
            ip,
            receiving: false,
            cancelling: false,
            sending: false,
            closing: false,
            shutting_down: false,
            active_at_ns: now_ns,
            sent_at_ns: now_ns,
            sending_held_bytes: 0,
            generation,
            next_sequence: 0,
            input: Vec::new(),
            length: Vec::new(),
            exact_bytes: 0,
            exact_lacks: 0,
            large_frames: 0,
            slots: VecDeque::new(),
            in_flight_max: limits.in_flight_max,
            frame_bytes_max: limits.frame_bytes_max,
        }
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The front of `bytes`, which follow what was consumed before.
    pub fn next(&self, bytes: &[u8]) -> Next {
        if self.closing {
            return Next::Wait;
        }
        match frame::parse_length(bytes, self.frame_bytes_max) {
            Err(error) => Next::Broken(error),
            Ok(Some(len)) if bytes.len() - LENGTH_BYTES >= len => {
                if self.may_start(&bytes[LENGTH_BYTES..]) {
                    Next::Frame { len }
                } else {
                    Next::Wait
                }
            }
            Ok(_) => Next::Wait,
        }
    }

    fn may_start(&self, frame: &[u8]) -> bool {
        if self.slots.is_empty() {
            return true;
        }
        let produce =
            frame.first_chunk().is_some_and(|key| i16::from_be_bytes(*key) == ApiKey::Produce.code());
        produce
            && self.slots.len() < self.in_flight_max
            && self.slots.iter().all(|slot| slot.api_key == ApiKey::Produce)
    }

    /// Opens the place of the next request in the order of answers.
    pub fn begin_request(&mut self, connection: u32, api_key: ApiKey, now_ns: u64) -> RequestId {
        let sequence = self.next_sequence;
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.slots.push_back(Slot { sequence, api_key, began_ns: now_ns, state: State::Waiting });
        RequestId { connection, generation: self.generation, sequence }
    }

    /// Puts an answer (or the lack of one) in its place; gives it back when nobody waits for it. What was asked, and when.
    pub fn answer(
        &mut self,
        sequence: u32,
        response: Option<Response>,
    ) -> Result<(ApiKey, u64), Option<Response>> {
        let first = self.slots.front().map_or(sequence, |front| front.sequence);
        match self.slots.get_mut(sequence.wrapping_sub(first) as usize) {
            Some(slot) if matches!(slot.state, State::Waiting) => {
                slot.state = response.map_or(State::Silent, State::Ready);
                Ok((slot.api_key, slot.began_ns))
            }
            _ => Err(response),
        }
    }

    /// What its answers, sent and unsent, hold of the memory for replies.
    pub fn held_bytes(&self) -> usize {
        let ready = self.slots.iter().map(|slot| match &slot.state {
            State::Ready(response) => response.held_bytes,
            State::Waiting | State::Silent => 0,
        });
        self.sending_held_bytes + ready.sum::<usize>()
    }

    /// The answers that may leave now, for one send; `sending_held_bytes` is what they hold. Empty when there are none.
    pub fn take_output(&mut self, spares: &mut Spares) -> Vec<Part> {
        let mut parts = spares.parts.take();
        let mut bytes = 0;
        while bytes < SEND_BYTES_MAX && parts.len() < SEND_PARTS_MAX {
            match self.slots.front() {
                Some(Slot { state: State::Silent, .. }) => {}
                Some(Slot { state: State::Ready(response), .. })
                    if parts.is_empty() || parts.len() + response.parts.len() <= SEND_PARTS_MAX => {}
                _ => break,
            }
            if let Some(Slot { state: State::Ready(response), .. }) = self.slots.pop_front() {
                self.sending_held_bytes += response.held_bytes;
                let mut more = response.parts;
                for part in more.drain(..) {
                    bytes += part_len(&part);
                    push_part(&mut parts, part, spares);
                }
                spares.parts.give(more);
            }
        }
        parts
    }

    /// Whether requests are under way or waiting.
    pub fn is_busy(&self) -> bool {
        !self.slots.is_empty() || !self.input.is_empty()
    }

    /// Whether no request is under way except those which wait for something to happen.
    pub fn only_waits(&self) -> bool {
        let waits = |api_key| matches!(api_key, ApiKey::Fetch | ApiKey::JoinGroup | ApiKey::SyncGroup);
        self.slots.iter().all(|slot| matches!(slot.state, State::Waiting) && waits(slot.api_key))
    }

    /// The sequences of requests that still wait for an answer.
    pub fn unanswered(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().filter(|slot| matches!(slot.state, State::Waiting)).map(|slot| slot.sequence)
    }

    pub fn input_is_empty(&self) -> bool {
        self.input.is_empty()
    }

    pub fn input_bytes(&self) -> usize {
        self.input.capacity() + self.exact_bytes
    }

    /// Takes note of a frame's size.
    pub fn note_frame(&mut self, len: usize) {
        let large = EXACT_FRAME_BYTES.contains(&len);
        self.large_frames = if large { self.large_frames.saturating_add(1) } else { 0 };
    }

    /// Whether to receive piece by piece no longer.
    pub fn leaves_pieces(&self) -> bool {
        self.large_frames >= EXACT_AFTER_FRAMES && self.exact_bytes == 0
    }

    /// What the next receive is to be. For large frames first the length alone, then the rest.
    pub fn next_receive(&mut self, frames: &mut Frames) -> Receive {
        if self.large_frames < EXACT_AFTER_FRAMES {
            return Receive::Pieces;
        }
        let lacks = match frame::parse_length(&self.input, self.frame_bytes_max) {
            Ok(None) => LENGTH_BYTES - self.input.len(),
            Ok(Some(len)) if EXACT_FRAME_BYTES.contains(&len) => {
                (LENGTH_BYTES + len).saturating_sub(self.input.len())
            }
            // It, or what is wrong with it, is found piece by piece.
            _ => {
                self.large_frames = 0;
                return Receive::Pieces;
            }
        };
        if lacks == 0 {
            return Receive::Later;
        }
        if self.input.capacity() == 0 {
            self.input = std::mem::take(&mut self.length);
            self.input.reserve_exact(lacks);
        } else {
            self.make_room(lacks, frames);
        }
        let buf = std::mem::take(&mut self.input);
        self.exact_bytes = buf.capacity();
        self.exact_lacks = lacks;
        Receive::Exact { buf, len: lacks }
    }

    pub fn put_exact(&mut self, buf: Vec<u8>) {
        self.exact_bytes = 0;
        self.input = buf;
    }

    /// Whether an exact receive, of which `bytes` have come, has brought all that it was to.
    pub fn is_exact(&self, bytes: usize) -> bool {
        bytes == self.exact_lacks
    }

    /// Takes the kept input out, to be consumed and put back with [`Connection::put_input`].
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// Puts back what is left of `input` behind the first `consumed` bytes.
    pub fn put_input(&mut self, mut input: Vec<u8>, consumed: usize) {
        input.drain(..consumed);
        // A big frame's memory is not kept for a connection that may be idle from now on.
        if input.is_empty() && input.capacity() > INPUT_HIGH_BYTES {
            input = Vec::new();
        }
        self.input = input;
    }

    /// How much the first frame of the kept input (or its length) lacks; 0 when it is whole, broken, or there is none.
    pub fn lacks_bytes(&self) -> usize {
        match frame::parse_length(&self.input, self.frame_bytes_max) {
            Ok(Some(len)) => (LENGTH_BYTES + len).saturating_sub(self.input.len()),
            Ok(None) if !self.input.is_empty() => LENGTH_BYTES - self.input.len(),
            _ => 0,
        }
    }

    /// Keeps bytes for later. Memory grows with what arrives, not with what a length announces: to a whole frame at once
    /// only where a good part of it is here.
    pub fn keep(&mut self, bytes: &[u8], frames: &mut Frames) {
        let here = self.input.len() + bytes.len();
        if here > self.input.capacity()
            && let Some(Ok(Some(len))) = self.first_length(bytes)
            && (here..=GROWTH_MAX * here).contains(&(LENGTH_BYTES + len))
        {
            self.make_room(LENGTH_BYTES + len - self.input.len(), frames);
        }
        self.input.extend_from_slice(bytes);
    }

    /// Memory for `more` bytes behind the input; from `frames` what does not fit.
    fn make_room(&mut self, more: usize, frames: &mut Frames) {
        if self.input.capacity() - self.input.len() >= more {
            return;
        }
        let mut room = frames.memory(self.input.len() + more);
        room.extend_from_slice(&self.input);
        let mut old = std::mem::replace(&mut self.input, room);
        if (LENGTH_BYTES..=LENGTH_KEPT_MAX).contains(&old.capacity()) {
            old.clear();
            self.length = old;
        }
    }

    /// The length of the first frame, of which `next` may be the first bytes.
    fn first_length(&self, next: &[u8]) -> Option<Result<Option<usize>, DecodeError>> {
        let bytes = if self.input.is_empty() { next } else { &self.input };
        (bytes.len() >= LENGTH_BYTES).then(|| frame::parse_length(bytes, self.frame_bytes_max))
    }

    /// Whether to stop receiving: whole requests wait and enough bytes are here.
    pub fn is_flooded(&self) -> bool {
        self.input.len() > INPUT_HIGH_BYTES
            && matches!(frame::parse_length(&self.input, self.frame_bytes_max),
                Ok(Some(len)) if self.input.len() - LENGTH_BYTES >= len)
    }

    /// Whether the driver holds nothing of this connection, so that its socket may be closed.
    pub fn is_quiet(&self) -> bool {
        !self.receiving && !self.sending && !self.shutting_down
    }
}

/// Small answers of one send share one buffer, so that a pipeline of acknowledgements is one plain send.
fn push_part(parts: &mut Vec<Part>, part: Part, spares: &mut Spares) {
    const JOIN_MAX_BYTES: usize = 4096;
    match (parts.last_mut(), part) {
        (Some(Part::Bytes(last)), Part::Bytes(bytes)) if bytes.len() <= JOIN_MAX_BYTES => {
            last.extend_from_slice(&bytes);
            spares.bytes.give(bytes);
        }
        (_, part) => parts.push(part),
    }
}

/// What one connection may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub in_flight_max: usize,
    pub frame_bytes_max: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn connection() -> Connection {
        let peer =
            Peer { host: Arc::from("/127.0.0.1"), port: None, listener: 0, software: Default::default() };
        Connection::new(Handle(1), peer, None, 7, Limits { in_flight_max: 2, frame_bytes_max: 100 }, 0)
    }

    fn response(text: &str) -> Option<Response> {
        Some(Response { parts: vec![Part::Bytes(text.as_bytes().to_vec())], held_bytes: text.len() })
    }

    fn frame(api_key: i16) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 2];
        bytes.extend(api_key.to_be_bytes());
        bytes
    }

    fn text(parts: Vec<Part>) -> String {
        let bytes = parts.into_iter().flat_map(|part| match part {
            Part::Bytes(bytes) => bytes,
            Part::Shared(slice) => slice.to_vec(),
        });
        String::from_utf8(bytes.collect()).unwrap()
    }

    #[test]
    fn answers_leave_in_request_order() {
        let mut connection = connection();
        let first = connection.begin_request(0, ApiKey::Produce, 0);
        let second = connection.begin_request(0, ApiKey::Produce, 0);
        assert!(connection.answer(second.sequence, response("two")).is_ok());
        assert!(connection.take_output(&mut Spares::default()).is_empty());
        assert!(connection.answer(first.sequence, response("one")).is_ok());
        assert_eq!(connection.held_bytes(), 6);
        assert_eq!(text(connection.take_output(&mut Spares::default())), "onetwo");
        assert_eq!((connection.held_bytes(), connection.sending_held_bytes), (6, 6));
        let refused = connection.answer(first.sequence, response("again")).unwrap_err();
        assert_eq!(refused.unwrap().held_bytes, 5);
    }

    #[test]
    fn large_frames_in_a_row_are_received_exactly() {
        const LEN: usize = 70_000;
        let mut connection = connection();
        let mut frames = Frames::default();
        connection.frame_bytes_max = 100 << 20;
        for _ in 0..EXACT_AFTER_FRAMES {
            assert!(
                matches!(connection.next_receive(&mut frames), Receive::Pieces)
                    && !connection.leaves_pieces()
            );
            connection.note_frame(LEN);
        }
        assert!(connection.leaves_pieces());
        // A part of the next frame has come already; its length is complete.
        connection.keep(&[0, 1, 0x11], &mut frames);
        for (bytes, lacks) in [(&[0x70u8][..], 1), (&vec![7; LEN][..], LEN)] {
            let Receive::Exact { mut buf, len } = connection.next_receive(&mut frames) else {
                panic!("exact")
            };
            assert_eq!(len, lacks);
            assert!(!connection.leaves_pieces() && connection.input_bytes() >= buf.len() + len);
            buf.extend_from_slice(bytes);
            connection.put_exact(buf);
            assert!(connection.is_exact(lacks) && !connection.is_exact(lacks - 1));
        }
        assert!(matches!(connection.next_receive(&mut frames), Receive::Later));
        assert_eq!(connection.take_input().len(), LENGTH_BYTES + LEN);
        // A small frame ends it; an announcement beyond the limit takes no memory.
        for length in [[0, 0, 0, 9], [0x7f, 0xff, 0xff, 0xff], [0xff; 4]] {
            connection.large_frames = EXACT_AFTER_FRAMES;
            let Receive::Exact { mut buf, len } = connection.next_receive(&mut frames) else {
                panic!("exact")
            };
            assert_eq!(len, LENGTH_BYTES);
            buf.extend_from_slice(&length);
            connection.put_exact(buf);
            assert!(
                matches!(connection.next_receive(&mut frames), Receive::Pieces)
                    && !connection.leaves_pieces()
            );
            assert_eq!(connection.take_input(), length);
        }
    }

    #[test]
    fn only_produce_follows_produce() {
        let mut connection = connection();
        let (produce, fetch) = (frame(0), frame(1));
        assert!(matches!(connection.next(&fetch), Next::Frame { len: 2 }));
        connection.begin_request(0, ApiKey::Produce, 0);
        assert!(matches!(connection.next(&fetch), Next::Wait));
        assert!(matches!(connection.next(&produce), Next::Frame { .. }));
        connection.begin_request(0, ApiKey::Produce, 0);
        assert!(matches!(connection.next(&produce), Next::Wait), "the limit of requests in flight");
    }

    #[test]
    fn a_silent_request_holds_nobody_up() {
        let mut connection = connection();
        let silent = connection.begin_request(0, ApiKey::Produce, 0);
        let loud = connection.begin_request(0, ApiKey::Produce, 0);
        connection.answer(silent.sequence, None).unwrap();
        connection.answer(loud.sequence, response("x")).unwrap();
        assert_eq!(text(connection.take_output(&mut Spares::default())), "x");
        assert!(!connection.is_busy());
    }

    #[test]
    fn a_frame_too_long_is_broken_before_it_arrives() {
        let connection = connection();
        assert!(matches!(connection.next(&[0x7f, 0xff, 0xff, 0xff]), Next::Broken(_)));
        assert!(matches!(connection.next(&[0xff, 0xff, 0xff, 0xff]), Next::Broken(_)));
        assert!(matches!(connection.next(&[0, 0, 0]), Next::Wait));
    }
}
