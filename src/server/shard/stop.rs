//! The clean stop of a shard, as all shards do it together.
//!
//! A shard takes no more requests, answers those under way, ends its connections, and says so to its peers. Its storage
//! stops once every peer has: until then one may still ask it for an append, and would have to answer its client with an
//! error. Mail keeps its order, so what a peer asked for comes before its word.

use super::Shard;
use crate::broker::mail::Mail;
use crate::io::{Io, Op};
use crate::server::connection::Connection;
use crate::server::token::{Kind, Owner, Token};

/// How long a stop waits for answers under way to reach their clients, its own and those of its peers.
const LINGER_NS: u64 = 500_000_000;

#[derive(Default)]
pub(super) struct Stop {
    /// Until when it waits.
    linger_ns: u64,
    /// Its peers know that it asks for nothing more.
    said: bool,
    /// Peers that ask for nothing more.
    pub(super) quiet_peers: usize,
}

impl<I: Io> Shard<I> {
    /// Takes no new connection and no new request, and stops when nothing is under way. Idempotent.
    ///
    /// Clients see their connections close, as with Kafka, and not errors: one that is told to look for another leader or
    /// coordinator asks this broker for it, and some give up when that question goes unanswered.
    pub fn begin_stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.stop.linger_ns = self.io.now().saturating_add(LINGER_NS);
        for index in 0..self.listeners.len() {
            self.io.submit(
                Op::Cancel { target: Token::new(Owner::Server, Kind::Accept, index as u32).into() },
                Token::new(Owner::Server, Kind::Other, 0).into(),
            );
        }
    }

    /// Whether all is on disk, the clean stop is marked, and the clients have had their answers.
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.broker.is_stopped() && (self.connections.is_empty() || self.linger_is_over())
    }

    fn linger_is_over(&self) -> bool {
        self.io.now() >= self.stop.linger_ns
    }

    pub(super) fn stop_deadline_ns(&self) -> u64 {
        if self.stopping && !self.linger_is_over() { self.stop.linger_ns } else { u64::MAX }
    }

    /// Once the broker stops, a connection ends as soon as nothing is under way on it but waiting.
    pub(super) fn close_for_stop(&mut self) {
        if !self.stopping {
            return;
        }
        let ends =
            |connection: &Connection| !connection.closing && !connection.sending && connection.only_waits();
        let ended = self.connections.iter().filter(|(_, connection)| ends(connection));
        for index in ended.map(|(index, _)| index as u32).collect::<Vec<_>>() {
            self.begin_close(index, "the broker stops");
        }
    }

    /// Has the broker flush its logs when no shard asks for anything more. After the turn's mail has been given away.
    pub(super) fn stop_broker(&mut self) {
        if !self.stopping {
            return;
        }
        let over = self.linger_is_over();
        if (over || self.connections.is_empty()) && !std::mem::replace(&mut self.stop.said, true) {
            let me = self.broker.shard();
            (0..self.limits.shards)
                .filter(|peer| *peer != me)
                .for_each(|peer| self.mail.send(peer, Mail::Quiet));
        }
        if over || (self.stop.said && self.stop.quiet_peers + 1 >= self.limits.shards) {
            self.broker.begin_stop(&mut self.io);
        }
    }
}
