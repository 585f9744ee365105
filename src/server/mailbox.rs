//! Mail between shards: a bounded single-producer single-consumer queue for each ordered pair, and a wake-up for a peer
//! that sleeps.
//!
//! A full queue never blocks and never drops: mail waits in the sender's outbox, in order. The outbox is bounded by
//! what may be in flight at all, for every piece of mail belongs to an admitted request or to a cluster change.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::broker::mail::Mail;
use crate::io::Io;

/// Pieces of mail a queue holds; one piece carries all that a turn has for a peer, so few are ever in it.
const QUEUE_SLOTS: usize = 256;

/// All queues between the shards, made before their threads start.
pub struct PostOffice {
    /// `queues[from][to]`.
    queues: Vec<Vec<Arc<ArrayQueue<Mail>>>>,
}

impl PostOffice {
    pub fn new(shards: usize) -> PostOffice {
        let row = || (0..shards).map(|_| Arc::new(ArrayQueue::new(QUEUE_SLOTS))).collect();
        PostOffice { queues: (0..shards).map(|_| row()).collect() }
    }

    /// The two ends of `shard`; wakers come later, when all drivers exist.
    pub fn mailbox<W>(&self, shard: usize) -> Mailbox<W> {
        Mailbox {
            inboxes: self.queues.iter().map(|row| row[shard].clone()).collect(),
            outboxes: self.queues[shard]
                .iter()
                .map(|queue| Outbox { queue: queue.clone(), waiting: VecDeque::new(), waker: None })
                .collect(),
        }
    }
}

/// One shard's end of all its queues.
pub struct Mailbox<W> {
    inboxes: Vec<Arc<ArrayQueue<Mail>>>,
    outboxes: Vec<Outbox<W>>,
}

struct Outbox<W> {
    queue: Arc<ArrayQueue<Mail>>,
    waiting: VecDeque<Mail>,
    waker: Option<W>,
}

impl<W: Clone> Mailbox<W> {
    pub fn set_waker(&mut self, peer: usize, waker: W) {
        self.outboxes[peer].waker = Some(waker);
    }

    /// The next piece of mail and who sent it.
    pub fn receive(&mut self) -> Option<(usize, Mail)> {
        self.inboxes.iter().enumerate().find_map(|(from, queue)| queue.pop().map(|mail| (from, mail)))
    }

    pub fn has_mail(&self) -> bool {
        self.inboxes.iter().any(|queue| !queue.is_empty())
    }

    /// Pieces that wait here, and those that wait to leave.
    pub fn depths(&self) -> (usize, usize) {
        let inboxes = self.inboxes.iter().map(|queue| queue.len()).sum();
        (inboxes, self.outboxes.iter().map(|outbox| outbox.waiting.len()).sum())
    }

    /// Wakes a peer that is given something by another way.
    pub fn wake<I: Io<Waker = W>>(&self, peer: usize, io: &mut I) {
        if let Some(waker) = &self.outboxes[peer].waker {
            io.wake(waker);
        }
    }

    pub fn send(&mut self, to: usize, mail: Mail) {
        self.outboxes[to].waiting.push_back(mail);
    }

    /// Moves what waits into the queues and wakes the peers that got something. Answers whether all mail has left.
    pub fn flush<I: Io<Waker = W>>(&mut self, io: &mut I) -> bool {
        let mut all_left = true;
        for outbox in &mut self.outboxes {
            let mut moved = false;
            while let Some(mail) = outbox.waiting.pop_front() {
                if let Err(back) = outbox.queue.push(mail) {
                    outbox.waiting.push_front(back);
                    all_left = false;
                    break;
                }
                moved = true;
            }
            if let (true, Some(waker)) = (moved, &outbox.waker) {
                io.wake(waker);
            }
        }
        all_left
    }
}
