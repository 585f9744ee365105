//! One connection to a broker: connects, sends one piece of work at a time, cuts what comes into frames, and comes to a
//! clean end whatever happens, so that its owner can begin anew.
//!
//! The owner names ops by tokens that hold the link's number ([`token`], [`split`]), hands their completions to
//! [`Link::complete`], and gets an [`Event`]. After [`Event::Lost`] no op of the link is in flight and it may be opened again.

use std::net::SocketAddr;

use crate::io::buffer::Received;
use crate::io::{Completion, Handle, Io, Op, Part, Payload, Token};
use crate::protocol::frame::{LENGTH_BYTES, parse_length};

/// Larger answers than this come from no broker that we asked for less.
pub const FRAME_BYTES_MAX: usize = 1 << 30;

/// What an op of a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connect = 0,
    Receive = 1,
    Send = 2,
    Close = 3,
}

/// The token of an op of link number `link`.
pub fn token(link: usize, kind: Kind) -> Token {
    Token((link as u64) << 2 | kind as u64)
}

/// The link and the purpose of a token.
pub fn split(token: Token) -> (usize, Kind) {
    let kind = match token.0 & 3 {
        0 => Kind::Connect,
        1 => Kind::Receive,
        2 => Kind::Send,
        _ => Kind::Close,
    };
    ((token.0 >> 2) as usize, kind)
}

#[derive(Debug)]
pub enum Event {
    Nothing,
    Opened,
    /// Bytes for [`Link::feed`].
    Received(Received),
    /// What was given to [`Link::send`] is with the kernel, or (`false`) the connection is going down; here are its parts.
    Sent(Vec<Part>, bool),
    /// The connection is gone and nothing of it is left; see [`Link::was_open`].
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Connecting,
    Open,
    /// Closed; waiting for the ends of what was in flight.
    Ending,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    number: usize,
    pub address: SocketAddr,
    state: State,
    socket: Option<Handle>,
    ops: u32,
    sending: bool,
    was_open: bool,
    /// The beginning of a frame.
    inbox: Vec<u8>,
    pub error: Option<String>,
}

impl Link {
    pub fn new(number: usize, address: SocketAddr) -> Link {
        Link {
            number,
            address,
            state: State::Down,
            socket: None,
            ops: 0,
            sending: false,
            was_open: false,
            inbox: Vec::new(),
            error: None,
        }
    }

    pub fn is_down(&self) -> bool {
        self.state == State::Down
    }

    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether the connection, gone by now, had been made.
    pub fn was_open(&self) -> bool {
        self.was_open
    }

    /// Whether [`Link::send`] may be called.
    pub fn can_send(&self) -> bool {
        self.state == State::Open && !self.sending
    }

    /// Begins to connect a link that is down.
    pub fn open<I: Io>(&mut self, io: &mut I) {
        debug_assert!(self.is_down());
        self.state = State::Connecting;
        self.was_open = false;
        self.inbox.clear();
        self.submit(io, Op::Connect { address: self.address }, Kind::Connect);
    }

    pub fn send<I: Io>(&mut self, io: &mut I, parts: Vec<Part>) {
        debug_assert!(self.can_send());
        if let Some(socket) = self.socket {
            self.sending = true;
            self.submit(io, Op::Send { socket, parts }, Kind::Send);
        }
    }

    /// Ends the connection; [`Event::Lost`] follows, at once for a link without ops in flight.
    pub fn close<I: Io>(&mut self, io: &mut I, why: &str) {
        if matches!(self.state, State::Down | State::Ending) {
            return;
        }
        self.error.get_or_insert_with(|| why.to_owned());
        self.state = State::Ending;
        if let Some(handle) = self.socket.take() {
            self.submit(io, Op::Close { handle }, Kind::Close);
        }
    }

    fn submit<I: Io>(&mut self, io: &mut I, op: Op, kind: Kind) {
        self.ops += 1;
        io.submit(op, token(self.number, kind));
    }

    /// Takes a completion of one of the link's ops.
    pub fn complete<I: Io>(&mut self, io: &mut I, kind: Kind, completion: Completion) -> Event {
        if !completion.more {
            self.ops -= 1;
        }
        let failed = completion.result.err();
        match (kind, completion.payload) {
            (Kind::Connect, Payload::Connected { socket }) => {
                self.socket = Some(socket);
                if self.state == State::Connecting {
                    self.state = State::Open;
                    self.was_open = true;
                    self.submit(io, Op::Receive { socket }, Kind::Receive);
                    return Event::Opened;
                }
                self.submit(io, Op::Close { handle: socket }, Kind::Close);
            }
            (Kind::Receive, Payload::Received(bytes)) if self.state == State::Open => {
                return Event::Received(bytes);
            }
            (Kind::Receive, _) if completion.more => {}
            (Kind::Send, Payload::Parts(parts)) => {
                self.sending = false;
                if let Some(errno) = failed {
                    self.close(io, &errno.to_string());
                }
                return Event::Sent(parts, failed.is_none());
            }
            (Kind::Connect | Kind::Receive, _) => {
                let why = failed.map_or("the peer closed the connection".into(), |errno| errno.to_string());
                self.close(io, &why);
            }
            _ => {}
        }
        self.end()
    }

    /// [`Event::Lost`] once nothing is in flight any more. Asked again after an event that may have been the last.
    pub fn end(&mut self) -> Event {
        if self.state == State::Ending && self.ops == 0 {
            self.state = State::Down;
            self.sending = false;
            return Event::Lost;
        }
        Event::Nothing
    }

    /// Cuts received bytes into frames (without their lengths). `Err`: no frame can begin like this.
    pub fn feed(&mut self, mut bytes: &[u8], frame: &mut impl FnMut(&[u8])) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.inbox.is_empty() {
                match parse_length(bytes, FRAME_BYTES_MAX).map_err(|error| error.to_string())? {
                    Some(length) if bytes.len() >= LENGTH_BYTES + length => {
                        let (whole, rest) = bytes.split_at(LENGTH_BYTES + length);
                        frame(&whole[LENGTH_BYTES..]);
                        bytes = rest;
                    }
                    length => {
                        self.inbox.reserve(length.map_or(0, |length| LENGTH_BYTES + length));
                        self.inbox.extend_from_slice(bytes);
                        return Ok(());
                    }
                }
                continue;
            }
            if self.inbox.len() < LENGTH_BYTES {
                let take = (LENGTH_BYTES - self.inbox.len()).min(bytes.len());
                self.inbox.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
            }
            let length = parse_length(&self.inbox, FRAME_BYTES_MAX).map_err(|error| error.to_string())?;
            let Some(length) = length else { return Ok(()) };
            let take = (LENGTH_BYTES + length - self.inbox.len()).min(bytes.len());
            self.inbox.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.inbox.len() == LENGTH_BYTES + length {
                frame(&self.inbox[LENGTH_BYTES..]);
                self.inbox.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link::new(3, "127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn tokens_name_link_and_purpose() {
        for kind in [Kind::Connect, Kind::Receive, Kind::Send, Kind::Close] {
            assert_eq!(split(token(12345, kind)), (12345, kind));
        }
    }

    #[test]
    fn frames_come_whole_however_the_bytes_are_cut() {
        let mut stream = Vec::new();
        for size in [0usize, 1, 5, 300] {
            stream.extend_from_slice(&(size as u32).to_be_bytes());
            stream.extend(vec![size as u8; size]);
        }
        for step in 1..stream.len() + 1 {
            let (mut link, mut sizes) = (link(), Vec::new());
            for piece in stream.chunks(step) {
                link.feed(piece, &mut |frame: &[u8]| {
                    assert!(frame.iter().all(|&byte| byte == frame.len() as u8));
                    sizes.push(frame.len());
                })
                .unwrap();
            }
            assert_eq!(sizes, [0, 1, 5, 300], "in pieces of {step}");
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        assert!(link().feed(&[0xff; 4], &mut |_| {}).is_err());
        assert!(link().feed(b"HTTP/1.1 400", &mut |_| {}).is_err());
        let mut cut = link();
        cut.feed(&[0x7f], &mut |_| {}).unwrap();
        assert!(cut.feed(&[0xff; 3], &mut |_| {}).is_err());
    }
}
