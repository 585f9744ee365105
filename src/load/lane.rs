//! A connection that carries produce requests: those in flight, what waits to be sent, and the way of the batches' memory
//! into a send and back.
//!
//! Invariant: a batch in flight is in exactly one request; its bytes are in the request, in the outbox or with the driver, and
//! back in the request before the request is settled.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::batch::Batch;
use super::link::Link;
use super::request::ProduceShape;
use crate::io::{Io, Part};
use crate::protocol::{Records, Writer};

/// Batches up to this size are copied into the request: cheaper than a part of their own.
const COPY_BYTES_MAX: usize = 8 << 10;
/// Spare vectors for the bytes between batches.
const SPARE_MAX: usize = 64;

/// Where the memory of a part belongs.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Scratch,
    Batch { serial: u64, index: usize },
}

/// A produce request in flight.
#[derive(Debug)]
pub struct Request {
    serial: u64,
    /// The producer's index in its thread.
    pub producer: u32,
    pub batches: Vec<Batch>,
    /// An answer that came before the send was completed, and when.
    answer: Option<(u64, Vec<u8>)>,
}

/// What a connection is asked at the very end with acks=0: its answer says that all before it has been handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    None,
    Sent,
    Passed,
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    pub link: Link,
    pub node: i32,
    pub in_flight: VecDeque<Request>,
    /// Partitions with a ripe batch: producer, partition.
    pub ready: VecDeque<(u32, u32)>,
    pub reopen_ns: u64,
    pub fence: Fence,
    outbox: Vec<Part>,
    outbox_origins: Vec<Origin>,
    sending_origins: Vec<Origin>,
    next_serial: u64,
    /// Requests below this are wholly in the outbox or further.
    written_serial: u64,
    sending_serial: u64,
    /// Requests below this are sent.
    sent_serial: u64,
    spare: Vec<Vec<u8>>,
}

impl Lane {
    pub fn new(number: usize, node: i32, address: SocketAddr) -> Lane {
        Lane {
            link: Link::new(number, address),
            node,
            in_flight: VecDeque::new(),
            ready: VecDeque::new(),
            reopen_ns: 0,
            fence: Fence::None,
            outbox: Vec::new(),
            outbox_origins: Vec::new(),
            sending_origins: Vec::new(),
            next_serial: 0,
            written_serial: 0,
            sending_serial: 0,
            sent_serial: 0,
            spare: Vec::new(),
        }
    }

    /// Puts a request of these batches into the outbox; the bytes it takes on the wire.
    pub fn write(
        &mut self,
        shape: &ProduceShape,
        producer: u32,
        batches: Vec<Batch>,
        packed: bool,
        writer: &mut Writer,
    ) -> usize {
        let serial = self.next_serial;
        self.next_serial += 1;
        let mut request = Request { serial, producer, batches, answer: None };
        writer.clear();
        let records = request.batches.iter().enumerate().map(|(index, batch)| {
            let bytes = if packed { &batch.packed } else { &batch.bytes };
            let records = match bytes.len() {
                len if len <= COPY_BYTES_MAX => Records::Bytes(bytes),
                len => Records::External { slot: index as u32, len: len as u32 },
            };
            (batch.partition, records)
        });
        shape.write(writer, serial as i32, records);
        let mut from = 0;
        let mut total = writer.buf.len();
        for splice in &writer.splices {
            self.put_bytes(&writer.buf[from..splice.position]);
            from = splice.position;
            let index = splice.slot as usize;
            let batch = &mut request.batches[index];
            let bytes = std::mem::take(if packed { &mut batch.packed } else { &mut batch.bytes });
            total += bytes.len();
            self.outbox.push(Part::Bytes(bytes));
            self.outbox_origins.push(Origin::Batch { serial, index });
        }
        self.put_bytes(&writer.buf[from..]);
        self.written_serial = self.next_serial;
        self.in_flight.push_back(request);
        total
    }

    /// Puts a request into the outbox that carries no batch.
    pub fn write_plain(&mut self, frame: &[u8]) {
        self.put_bytes(frame);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        if let (Some(Part::Bytes(last)), Some(Origin::Scratch)) =
            (self.outbox.last_mut(), self.outbox_origins.last())
        {
            last.extend_from_slice(bytes);
            return;
        }
        let mut scratch = self.spare.pop().unwrap_or_default();
        scratch.clear();
        scratch.extend_from_slice(bytes);
        self.outbox.push(Part::Bytes(scratch));
        self.outbox_origins.push(Origin::Scratch);
    }

    /// Sends what is in the outbox if the connection is free.
    pub fn flush<I: Io>(&mut self, io: &mut I) {
        if !self.outbox.is_empty() && self.link.can_send() {
            std::mem::swap(&mut self.outbox_origins, &mut self.sending_origins);
            self.outbox_origins.clear();
            self.sending_serial = self.written_serial;
            self.link.send(io, std::mem::take(&mut self.outbox));
        }
    }

    /// Puts the memory of a completed send back where it belongs.
    pub fn sent(&mut self, mut parts: Vec<Part>, ok: bool, packed: bool) {
        let origins = std::mem::take(&mut self.sending_origins);
        self.restore(parts.drain(..), &origins, packed);
        self.sending_origins = origins;
        self.sending_origins.clear();
        if self.outbox.is_empty() {
            self.outbox = parts;
        }
        if ok {
            self.sent_serial = self.sending_serial;
        }
    }

    fn restore(&mut self, parts: impl Iterator<Item = Part>, origins: &[Origin], packed: bool) {
        let first = self.in_flight.front().map_or(0, |request| request.serial);
        for (part, origin) in parts.zip(origins) {
            let Part::Bytes(bytes) = part else { continue };
            match *origin {
                Origin::Scratch if self.spare.len() < SPARE_MAX => self.spare.push(bytes),
                Origin::Scratch => {}
                Origin::Batch { serial, index } => {
                    let request = self.in_flight.get_mut(serial.wrapping_sub(first) as usize);
                    if let Some(batch) = request.and_then(|request| request.batches.get_mut(index)) {
                        *(if packed { &mut batch.packed } else { &mut batch.bytes }) = bytes;
                    }
                }
            }
        }
    }

    /// Keeps an answer until its request is settled. `Err`: it is the answer to nothing.
    pub fn answered(&mut self, correlation_id: i32, now_ns: u64, frame: &[u8]) -> Result<(), String> {
        let waiting = self.in_flight.iter_mut().find(|request| request.answer.is_none());
        match waiting {
            Some(request) if request.serial as i32 == correlation_id => {
                request.answer = Some((now_ns, frame.to_vec()));
                Ok(())
            }
            _ => Err(format!("an answer to request {correlation_id}, which is not the next one")),
        }
    }

    /// Whether the answer with this id is to the oldest request, which is sent: it may be settled at once.
    pub fn is_next(&self, correlation_id: i32) -> bool {
        self.in_flight.front().is_some_and(|request| {
            request.serial as i32 == correlation_id
                && request.serial < self.sent_serial
                && request.answer.is_none()
        })
    }

    /// The oldest request if it was answered before its send was completed, and now that is done.
    pub fn take_settled(&mut self) -> Option<(Request, u64, Vec<u8>)> {
        let front = self.in_flight.front_mut().filter(|request| request.serial < self.sent_serial)?;
        let (at_ns, answer) = front.answer.take()?;
        Some((self.in_flight.pop_front()?, at_ns, answer))
    }

    /// The oldest request if it is wholly sent; with acks=0 that is all there is to wait for.
    pub fn take_sent(&mut self) -> Option<Request> {
        self.in_flight.front().filter(|request| request.serial < self.sent_serial)?;
        self.in_flight.pop_front()
    }

    /// All that was in flight on a connection that is gone, its memory complete, and whether each was wholly sent.
    pub fn take_all(&mut self, packed: bool) -> Vec<(Request, bool)> {
        let parts = std::mem::take(&mut self.outbox);
        let origins = std::mem::take(&mut self.outbox_origins);
        self.restore(parts.into_iter(), &origins, packed);
        let sent = self.sent_serial;
        let all = self.in_flight.drain(..).map(|request| (request.serial < sent, request));
        let all = all.map(|(sent, request)| (request, sent)).collect();
        self.sending_serial = self.next_serial;
        self.sent_serial = self.next_serial;
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Uuid;

    fn lane() -> Lane {
        Lane::new(0, 1, "127.0.0.1:1".parse().unwrap())
    }

    fn batch(partition: u32, size: usize) -> Batch {
        Batch::new(vec![partition as u8; size], Vec::new(), partition, 0)
    }

    fn write(lane: &mut Lane, batches: Vec<Batch>) {
        let shape =
            ProduceShape { version: 9, topic: "t".into(), topic_id: Uuid([0; 16]), acks: 1, timeout_ms: 1 };
        lane.write(&shape, 0, batches, false, &mut Writer::new());
    }

    fn bytes(parts: &[Part]) -> Vec<u8> {
        let of = |part: &Part| match part {
            Part::Bytes(bytes) => bytes.clone(),
            Part::Shared(slice) => slice.to_vec(),
        };
        parts.iter().flat_map(of).collect()
    }

    #[test]
    fn large_batches_go_by_reference_and_come_back() {
        let mut lane = lane();
        write(&mut lane, vec![batch(1, 100), batch(2, 10_000), batch(3, 20_000)]);
        write(&mut lane, vec![batch(4, 50), batch(5, 9_000)]);
        assert_eq!(lane.in_flight[0].batches[1].bytes.len(), 0, "with the send");
        assert_eq!(lane.in_flight[0].batches[0].bytes.len(), 100, "copied");
        let wire = bytes(&lane.outbox);
        let first = i32::from_be_bytes(wire[..4].try_into().unwrap()) as usize + 4;
        let second = i32::from_be_bytes(wire[first..first + 4].try_into().unwrap()) as usize + 4;
        assert_eq!(first + second, wire.len(), "two frames");
        let (parts, origins) = (std::mem::take(&mut lane.outbox), std::mem::take(&mut lane.outbox_origins));
        lane.sending_origins = origins;
        lane.sending_serial = 2;
        lane.sent(parts, true, false);
        for request in &lane.in_flight {
            for batch in &request.batches {
                assert!(!batch.bytes.is_empty());
                assert!(batch.bytes.iter().all(|&byte| u32::from(byte) == batch.partition));
            }
        }
        assert_eq!(lane.in_flight[0].batches[2].bytes.len(), 20_000);
    }

    #[test]
    fn an_answer_before_the_end_of_its_send_waits_for_it() {
        let mut lane = lane();
        write(&mut lane, vec![batch(1, 10_000)]);
        write(&mut lane, vec![batch(1, 10_000)]);
        assert!(!lane.is_next(0));
        lane.answered(0, 55, b"yes").unwrap();
        assert!(lane.take_settled().is_none());
        assert!(lane.answered(5, 55, b"yes").is_err());
        let parts = std::mem::take(&mut lane.outbox);
        lane.sending_origins = std::mem::take(&mut lane.outbox_origins);
        lane.sending_serial = 2;
        lane.sent(parts, true, false);
        let (request, at_ns, answer) = lane.take_settled().unwrap();
        assert_eq!((request.batches[0].bytes.len(), at_ns, answer), (10_000, 55, b"yes".to_vec()));
        assert!(lane.is_next(1) && !lane.is_next(0));
    }

    #[test]
    fn a_lost_connection_gives_everything_back() {
        let mut lane = lane();
        write(&mut lane, vec![batch(1, 10_000)]);
        lane.sending_origins = std::mem::take(&mut lane.outbox_origins);
        lane.sending_serial = 1;
        let parts = std::mem::take(&mut lane.outbox);
        write(&mut lane, vec![batch(2, 10_000)]);
        lane.sent(parts, false, false);
        let all = lane.take_all(false);
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|(request, sent)| !sent && request.batches[0].bytes.len() == 10_000));
    }
}
