//! How connections come to a shard: accepted by its own listeners, or handed over by a shard that has more
//! ([`crate::server::balance`]).

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Shard;
use crate::broker::request::Peer;
use crate::io::{Completion, Handle, Io, Op, Payload};
use crate::server::balance::Arrival;
use crate::server::connection::Connection;
use crate::server::connection_quota::Full;
use crate::server::token::{Kind, Owner, Token};

impl<I: Io> Shard<I> {
    pub(super) fn accept(&mut self, index: u32) {
        let listener = self.listeners[index as usize].0;
        self.io.submit(Op::Accept { listener }, Token::new(Owner::Server, Kind::Accept, index).into());
    }

    pub(super) fn accepted(&mut self, listener: u32, completion: Completion) {
        if let Payload::Accepted { socket, peer } = completion.payload {
            self.open_connection(listener, socket, peer);
        } else if let Err(errno) = completion.result
            && !self.stopping
        {
            tracing::warn!(%errno, "a connection could not be accepted");
        }
        if !completion.more {
            if self.stopping {
                self.close_socket(self.listeners[listener as usize].0);
            } else {
                self.accept(listener);
            }
        }
    }

    /// A connection that was accepted here: refused, handed to a shard that has fewer, or served.
    fn open_connection(&mut self, listener: u32, socket: Handle, peer: Option<SocketAddr>) {
        if self.stopping || !self.admit(peer.map(|peer| peer.ip())) {
            self.metrics().connections_refused.add(1);
            return self.close_socket(socket);
        }
        let here = self.broker.shard();
        let shard = self.limits.balance.enter(here);
        if shard == here {
            return self.serve(listener, socket, peer);
        }
        match self.io.detach(socket) {
            Some(socket) => {
                self.limits.balance.send(shard, Arrival { socket, peer, listener });
                self.mail.wake(shard, &mut self.io);
            }
            None => {
                self.limits.balance.leave(shard);
                self.limits.balance.enter_at(here);
                self.serve(listener, socket, peer);
            }
        }
    }

    /// Connections that other shards have accepted for this one.
    pub(super) fn take_arrivals(&mut self) {
        let here = self.broker.shard();
        while let Some(Arrival { socket, peer, listener }) = self.limits.balance.receive(here) {
            match self.io.attach(socket) {
                Ok(socket) => {
                    self.serve(listener, socket, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, ?peer, "a connection could not be taken over");
                    self.forget_connection(peer.map(|peer| peer.ip()));
                }
            }
        }
    }

    fn serve(&mut self, listener: u32, socket: Handle, peer: Option<SocketAddr>) {
        let ip = peer.map(|peer| peer.ip());
        let host = peer.map_or_else(|| Arc::from("/unknown"), |peer| Arc::from(format!("/{}", peer.ip())));
        let peer = Peer {
            host,
            port: peer.map(|peer| peer.port()),
            listener: self.listeners[listener as usize].1,
            software: OnceCell::new(),
        };
        self.next_generation = self.next_generation.wrapping_add(1);
        let connection =
            Connection::new(socket, peer, ip, self.next_generation, self.limits.connection, self.io.now());
        let index = self.connections.insert(connection) as u32;
        self.metrics().connections_opened.add(1);
        self.receive(index);
    }

    /// What it took of the limits is free again.
    pub(super) fn forget_connection(&mut self, ip: Option<IpAddr>) {
        self.limits.connections.close(ip);
        self.limits.balance.leave(self.broker.shard());
    }

    fn admit(&mut self, ip: Option<IpAddr>) -> bool {
        match self.limits.connections.open(ip) {
            Ok(()) => return true,
            Err(Full::Broker { max }) => {
                tracing::warn!(?ip, max, "connection refused: max.connections are open")
            }
            Err(Full::Address { max }) => {
                tracing::warn!(
                    ?ip,
                    max,
                    "connection refused: max.connections.per.ip of this address are open"
                );
            }
        }
        false
    }
}
