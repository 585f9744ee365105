//! A request on its way through the broker, and the response on its way back.

use std::cell::OnceCell;
use std::sync::Arc;

use super::spares::Spares;
use crate::io::Part;
use crate::io::buffer::Slice;
use crate::protocol::api_key::ApiKey;
use crate::protocol::frame;
use crate::protocol::messages::Message;
use crate::protocol::writer::Writer;

/// Where a response belongs: a place in the order of answers of one connection of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    pub connection: u32,
    /// Of the connection's slot, so that an answer to a connection that is gone finds nobody.
    pub generation: u32,
    pub sequence: u32,
}

/// What every answer needs to know of its request.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub id: RequestId,
    pub api_key: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
}

impl Head {
    /// For what the broker asks of itself: its answer finds no connection.
    pub fn of_nobody() -> Head {
        let id = RequestId { connection: u32::MAX, generation: 0, sequence: 0 };
        Head { id, api_key: ApiKey::CreateTopics, version: 0, correlation_id: 0 }
    }
}

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Address without the port, as DescribeGroups shows it (`/127.0.0.1`).
    pub host: Arc<str>,
    /// None of who is no socket.
    pub port: Option<u16>,
    /// The listener it came in by: an index into the configured ones.
    pub listener: usize,
    /// What it said it is, in its ApiVersions.
    pub software: OnceCell<Arc<Software>>,
}

/// What a client says it is (KIP-511).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Software {
    pub name: String,
    pub version: String,
}

/// A request as its connection's shard sees it; borrowed from the received bytes.
pub struct Request<'a> {
    pub head: Head,
    pub client_id: Option<&'a str>,
    pub peer: &'a Peer,
    pub body: &'a [u8],
    /// The frame that holds `body`, where it lies in memory that may be shared.
    pub frame: Option<&'a Arc<Vec<u8>>>,
}

/// A request that another shard answers as a whole.
#[derive(Debug)]
pub struct Forwarded {
    pub head: Head,
    /// The shard that holds the connection.
    pub shard: usize,
    pub client_id: Option<String>,
    pub host: Arc<str>,
    pub port: Option<u16>,
    pub software: Option<Arc<Software>>,
    pub listener: usize,
    pub body: Vec<u8>,
}

/// A whole frame, ready to be sent; `parts` may point into another shard's logs.
#[derive(Debug)]
pub struct Response {
    pub parts: Vec<Part>,
    /// What it holds of the memory for replies; `Broker::release_reply` when it has gone.
    pub held_bytes: usize,
}

/// What became of a request.
pub enum Reply {
    Now(Response),
    /// The answer comes through `Broker::take_done`.
    Later,
    /// No answer at all (acks=0).
    Silent,
    /// The request breaks the protocol: the connection ends, as Kafka does it. The reason goes to the log.
    Close(String),
}

impl Response {
    /// `message` in the request's version, framed.
    pub fn of<'a, M: Message<'a>>(head: &Head, message: &M) -> Response {
        let mut writer = Writer::with_capacity(128);
        frame::write_response(&mut writer, head.api_key, head.version, head.correlation_id, message);
        Response { parts: vec![Part::Bytes(writer.buf)], held_bytes: 0 }
    }

    /// The same, in memory that others have left.
    pub fn of_spares<'a, M: Message<'a>>(spares: &mut Spares, head: &Head, message: &M) -> Response {
        let mut writer = spares.writer();
        frame::write_response(&mut writer, head.api_key, head.version, head.correlation_id, message);
        Response::from_writer(writer, spares, |_| Vec::new())
    }

    /// An encoded message, framed.
    pub fn of_body(head: &Head, body: &[u8]) -> Response {
        let mut writer = Writer::with_capacity(body.len() + 16);
        let open = frame::begin_response(&mut writer, head.api_key, head.version, head.correlation_id);
        writer.put_slice(body);
        frame::finish_response(&mut writer, open);
        Response { parts: vec![Part::Bytes(writer.buf)], held_bytes: 0 }
    }

    /// What `writer` holds, with the slices of its splices, by slot, put where they belong. Short ones are copied: below a few
    /// KiB an entry of a gathered send costs more than the copy.
    pub fn from_writer(
        writer: Writer,
        spares: &mut Spares,
        mut external: impl FnMut(u32) -> Vec<Slice>,
    ) -> Response {
        const COPY_MAX_BYTES: usize = 4096;
        /// Copies go on in another buffer beyond this: those of the pool need not grow.
        const PART_BYTES: usize = 64 << 10;
        let Writer { buf, splices } = writer;
        let mut parts = spares.parts.take();
        if splices.is_empty() {
            parts.push(Part::Bytes(buf));
            spares.splices.give(splices);
            return Response { parts, held_bytes: 0 };
        }
        let mut bytes = spares.bytes.take();
        let mut from = 0;
        for splice in &splices {
            bytes.extend_from_slice(&buf[from..splice.position]);
            from = splice.position;
            let mut slices = external(splice.slot);
            for slice in slices.drain(..) {
                let small = slice.len() <= COPY_MAX_BYTES;
                let room = if small { PART_BYTES.saturating_sub(slice.len()) } else { 0 };
                if bytes.len() > room {
                    parts.push(Part::Bytes(std::mem::replace(&mut bytes, spares.bytes.take())));
                }
                match small {
                    true => bytes.extend_from_slice(&slice),
                    false => parts.push(Part::Shared(slice)),
                }
            }
            spares.slices.give(slices);
        }
        bytes.extend_from_slice(&buf[from..]);
        spares.bytes.give(buf);
        spares.splices.give(splices);
        match bytes.is_empty() {
            true => spares.bytes.give(bytes),
            false => parts.push(Part::Bytes(bytes)),
        }
        Response { parts, held_bytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(part_len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In one piece, for who has no socket.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut parts = self.parts.into_iter();
        let mut bytes = match parts.next() {
            Some(Part::Bytes(bytes)) => bytes,
            Some(Part::Shared(slice)) => slice.to_vec(),
            None => Vec::new(),
        };
        for part in parts {
            match part {
                Part::Bytes(more) => bytes.extend_from_slice(&more),
                Part::Shared(slice) => bytes.extend_from_slice(&slice),
            }
        }
        bytes
    }
}

pub fn part_len(part: &Part) -> usize {
    match part {
        Part::Bytes(bytes) => bytes.len(),
        Part::Shared(slice) => slice.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::writer::Splice;

    #[test]
    fn records_lie_where_they_belong_in_parts_that_do_not_grow() {
        let (small, large) = (vec![1; 3000], vec![2; 5000]);
        let splices =
            vec![Splice { position: 2, slot: 0, len: 300_000 }, Splice { position: 4, slot: 1, len: 11_000 }];
        let writer = Writer { buf: b"abcdef".to_vec(), splices };
        let (mut spares, mut expected) = (Spares::default(), Vec::new());
        let slices = |slot| match slot {
            0 => vec![Slice::copy_of(&small); 100],
            _ => vec![Slice::copy_of(&small), Slice::copy_of(&large), Slice::copy_of(&small)],
        };
        for part in
            [b"ab".to_vec(), small.repeat(100), b"cd".to_vec(), small.clone(), large.clone(), small.clone()]
        {
            expected.extend_from_slice(&part);
        }
        expected.extend_from_slice(b"ef");
        let response = Response::from_writer(writer, &mut spares, slices);
        let mut found = Vec::new();
        for part in &response.parts {
            match part {
                Part::Bytes(bytes) => {
                    assert!(bytes.len() <= 64 << 10, "{}", bytes.len());
                    found.extend_from_slice(bytes);
                }
                Part::Shared(slice) => found.extend_from_slice(slice),
            }
        }
        assert!(found == expected && response.len() == expected.len());
    }
}
