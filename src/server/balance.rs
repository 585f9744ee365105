//! Spreads the connections over the shards. The kernel gives a new connection to one of the listening shards by a hash, so
//! that four busy clients of two shards are as often three and one as two and two, and the fuller core then limits all. The
//! shard that accepts keeps a connection unless another has fewer; that one is handed the descriptor. With
//! `ringlog.routing=direct` a client has chosen its shard, and each keeps what it accepts.
//!
//! Shared by the shards, asked once when a connection is accepted and told once when it is closed; never on the data path.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam::queue::SegQueue;

use crate::config::Routing;

/// A connection on its way to the shard that will serve it. The quota has admitted it.
#[derive(Debug)]
pub struct Arrival {
    pub socket: OwnedFd,
    pub peer: Option<SocketAddr>,
    /// The index of the configured listener.
    pub listener: u32,
}

#[derive(Debug)]
pub struct Balance {
    /// Connections that each shard serves, or that are on their way to it.
    taken: Mutex<Vec<usize>>,
    direct: bool,
    /// On their way to each shard; no more than the quota admits.
    arrivals: Vec<SegQueue<Arrival>>,
}

impl Balance {
    pub fn new(shards: usize, routing: Routing) -> Balance {
        let arrivals = (0..shards).map(|_| SegQueue::new()).collect();
        Balance { taken: Mutex::new(vec![0; shards]), direct: routing == Routing::Direct, arrivals }
    }

    /// Takes a seat for a connection that shard `here` has accepted; the shard that is to serve it.
    pub fn enter(&self, here: usize) -> usize {
        let mut taken = self.lock();
        if self.direct {
            taken[here] += 1;
            return here;
        }
        let least = (0..taken.len()).min_by_key(|&shard| (taken[shard], shard != here)).unwrap_or(here);
        taken[least] += 1;
        least
    }

    /// Takes a seat at a shard that keeps a connection it cannot hand over.
    pub fn enter_at(&self, shard: usize) {
        self.lock()[shard] += 1;
    }

    /// Gives the seat of a connection of `shard` back.
    pub fn leave(&self, shard: usize) {
        self.lock()[shard] -= 1;
    }

    /// Hands a connection over; that shard has to be woken.
    pub fn send(&self, shard: usize, arrival: Arrival) {
        self.arrivals[shard].push(arrival);
    }

    pub fn receive(&self, shard: usize) -> Option<Arrival> {
        self.arrivals[shard].pop()
    }

    pub fn has_arrivals(&self, shard: usize) -> bool {
        !self.arrivals[shard].is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_unless_another_shard_has_fewer() {
        let balance = Balance::new(3, Routing::Shared);
        assert_eq!(balance.enter(1), 1);
        assert_eq!(balance.enter(1), 0);
        assert_eq!(balance.enter(2), 2);
        assert_eq!(balance.enter(2), 2);
        balance.leave(2);
        balance.leave(2);
        assert_eq!(balance.enter(0), 2);
    }

    #[test]
    fn with_direct_routing_it_stays_where_it_came_in() {
        let balance = Balance::new(2, Routing::Direct);
        assert_eq!([1, 1, 0].map(|here| balance.enter(here)), [1, 1, 0]);
    }

    #[test]
    fn an_arrival_reaches_its_shard_once() {
        let balance = Balance::new(2, Routing::Shared);
        let socket = std::fs::File::open("/dev/null").unwrap().into();
        balance.send(1, Arrival { socket, peer: None, listener: 3 });
        assert!(balance.has_arrivals(1) && !balance.has_arrivals(0));
        assert_eq!(balance.receive(1).map(|arrival| arrival.listener), Some(3));
        assert!(balance.receive(1).is_none());
    }
}
