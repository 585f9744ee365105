//! The way into a shard from within the process: the control thread's requests, through a bounded queue.
//!
//! A request is what a client would have sent, without a socket: it goes through the same handlers, with the same
//! limits and acknowledgements. Full means refused, and the caller says so to whoever asked; the answer comes through a
//! channel of its own. A caller that has gone away is no trouble: its answer is dropped.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use slab::Slab;
use tokio::sync::oneshot;

use super::clients::ClientState;
use crate::broker::request::{RequestId, Response};
use crate::broker::survey::{BrokerState, PartitionState};
use crate::broker::telemetry::TelemetryState;
use crate::protocol::ApiKey;

/// Calls that may wait for a shard's next turn.
const QUEUE_SLOTS: usize = 256;
/// Requests of the control thread that one shard works at.
const REQUESTS_MAX: usize = 1024;
/// Calls taken in one turn.
pub(super) const CALLS_A_TURN: usize = 64;
/// No socket's connection has this number.
pub(super) const CONNECTION: u32 = u32::MAX - 1;

/// The shard has too much to do for the control thread already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard has too many requests of the control thread already")]
pub struct Busy;

pub enum LocalCall {
    Request(LocalRequest),
    Survey(Survey),
}

/// A Kafka request: its header's facts, and its body in that version.
pub struct LocalRequest {
    pub api_key: ApiKey,
    pub version: i16,
    pub client_id: String,
    /// Who is behind it, as a peer's address is shown (`/127.0.0.1`).
    pub host: Arc<str>,
    pub body: Vec<u8>,
    /// Gets the whole frame; none when the request asked for no answer. Dropped when the request was refused.
    pub reply: oneshot::Sender<Option<Response>>,
}

/// Asks for the state of a shard.
pub struct Survey {
    /// A piece of its partitions, from this cursor on.
    pub partitions_from: Option<usize>,
    pub clients: bool,
    pub reply: oneshot::Sender<ShardState>,
}

pub struct ShardState {
    pub broker: BrokerState,
    pub partitions: Vec<PartitionState>,
    pub next: Option<usize>,
    pub clients: Vec<ClientState>,
    pub telemetry: TelemetryState,
    pub connections: usize,
    /// Bytes of requests that are not whole yet.
    pub input_bytes: usize,
    /// Pieces of mail of other shards that wait here, and of this one that wait elsewhere.
    pub mail_waiting: usize,
    pub mail_unsent: usize,
}

/// The control thread's end. Clones share the queue.
#[derive(Clone)]
pub struct Door {
    queue: Arc<ArrayQueue<LocalCall>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Door {
    pub fn call(&self, call: LocalCall) -> Result<(), Busy> {
        self.queue.push(call).map_err(|_| Busy)?;
        (self.wake)();
        Ok(())
    }

    /// Calls that wait for the shard.
    pub fn depth(&self) -> usize {
        self.queue.len()
    }
}

/// The shard's end.
pub struct Calls {
    queue: Arc<ArrayQueue<LocalCall>>,
    waiting: Slab<(u32, oneshot::Sender<Option<Response>>)>,
    next_generation: u32,
}

/// Both ends; `wake` wakes the shard.
pub fn door(wake: impl Fn() + Send + Sync + 'static) -> (Door, Calls) {
    let queue = Arc::new(ArrayQueue::new(QUEUE_SLOTS));
    let calls = Calls { queue: queue.clone(), waiting: Slab::new(), next_generation: 0 };
    (Door { queue, wake: Arc::new(wake) }, calls)
}

impl Calls {
    pub fn next(&self) -> Option<LocalCall> {
        self.queue.pop()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Keeps the sender until its answer is there; dropped at once where too many wait.
    pub fn wait(&mut self, reply: oneshot::Sender<Option<Response>>) -> Option<RequestId> {
        if self.waiting.len() >= REQUESTS_MAX {
            return None;
        }
        self.next_generation = self.next_generation.wrapping_add(1);
        let sequence = self.waiting.insert((self.next_generation, reply)) as u32;
        Some(RequestId { connection: CONNECTION, generation: self.next_generation, sequence })
    }

    pub fn answer(&mut self, id: RequestId, response: Option<Response>) {
        if let Some(reply) = self.take(id) {
            // Who has gone does not want it.
            let _ = reply.send(response);
        }
    }

    /// Refused: the caller sees its channel closed.
    pub fn refuse(&mut self, id: RequestId) {
        drop(self.take(id));
    }

    fn take(&mut self, id: RequestId) -> Option<oneshot::Sender<Option<Response>>> {
        let slot = id.sequence as usize;
        self.waiting.get(slot).filter(|(generation, _)| *generation == id.generation)?;
        Some(self.waiting.remove(slot).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_finds_its_caller_once() {
        let (_door, mut calls) = door(|| {});
        let (reply, mut answer) = oneshot::channel();
        let id = calls.wait(reply).unwrap();
        calls.answer(RequestId { generation: id.generation + 1, ..id }, None);
        assert!(answer.try_recv().is_err());
        calls.answer(id, Some(Response { parts: Vec::new(), held_bytes: 0 }));
        assert!(answer.try_recv().unwrap().is_some());
        calls.answer(id, None);
        let (reply, mut answer) = oneshot::channel();
        let again = calls.wait(reply).unwrap();
        calls.answer(id, None);
        assert!(answer.try_recv().is_err(), "the slot is another's now");
        calls.refuse(again);
        assert!(matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }

    #[test]
    fn a_full_queue_refuses() {
        let (door, calls) = door(|| {});
        let survey = || {
            let (reply, _) = oneshot::channel();
            LocalCall::Survey(Survey { partitions_from: None, clients: false, reply })
        };
        (0..QUEUE_SLOTS).for_each(|_| door.call(survey()).unwrap());
        assert_eq!(door.call(survey()), Err(Busy));
        assert!(calls.next().is_some());
        assert_eq!(door.call(survey()), Ok(()));
        assert_eq!(door.depth(), QUEUE_SLOTS);
    }
}
