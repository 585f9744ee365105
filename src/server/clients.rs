//! What each client id has moved, for a bounded number of them: those beyond it are counted together.

use std::collections::HashMap;
use std::sync::Arc;

/// Client ids told apart by a shard.
const CLIENTS_MAX: usize = 1000;
/// Bytes of a client id that are kept.
const NAME_BYTES_MAX: usize = 256;
/// A client that sent nothing for so long gives its place to a new one.
const IDLE_NS: u64 = 600_000_000_000;
/// All for whom there was no place.
const OTHERS: u32 = 0;

#[derive(Clone, Debug)]
pub struct ClientState {
    /// `None`: all that are not told apart.
    pub name: Option<Arc<str>>,
    pub requests: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
}

struct Client {
    name: Arc<str>,
    active_at_ns: u64,
    requests: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

impl Client {
    fn new(name: &str) -> Client {
        Client { name: name.into(), active_at_ns: 0, requests: 0, bytes_received: 0, bytes_sent: 0 }
    }
}

pub struct Clients {
    /// The first one is the others'.
    slots: Vec<Client>,
    by_name: HashMap<Arc<str>, u32, foldhash::fast::RandomState>,
}

impl Default for Clients {
    fn default() -> Clients {
        Clients { slots: vec![Client::new("")], by_name: HashMap::default() }
    }
}

impl Clients {
    /// Counts a request. `slot` is where this connection's last one was counted, which is nearly always right.
    pub fn received(&mut self, slot: u32, name: Option<&str>, bytes: usize, now_ns: u64) -> u32 {
        let name = cut(name.unwrap_or_default());
        let known =
            self.slots.get(slot as usize).is_some_and(|client| slot != OTHERS && *client.name == *name);
        let slot = if known { slot } else { self.find(name, now_ns) };
        let client = &mut self.slots[slot as usize];
        client.active_at_ns = now_ns;
        client.requests += 1;
        client.bytes_received += bytes as u64;
        slot
    }

    pub fn sent(&mut self, slot: u32, bytes: usize) {
        if let Some(client) = self.slots.get_mut(slot as usize) {
            client.bytes_sent += bytes as u64;
        }
    }

    pub fn states(&self) -> Vec<ClientState> {
        let state = |(slot, client): (usize, &Client)| ClientState {
            name: (slot != OTHERS as usize).then(|| client.name.clone()),
            requests: client.requests,
            bytes_received: client.bytes_received,
            bytes_sent: client.bytes_sent,
        };
        self.slots.iter().enumerate().map(state).collect()
    }

    fn find(&mut self, name: &str, now_ns: u64) -> u32 {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let slot = if self.slots.len() < CLIENTS_MAX {
            self.slots.push(Client::new(name));
            self.slots.len() - 1
        } else {
            let idle = |client: &Client| now_ns.saturating_sub(client.active_at_ns) > IDLE_NS;
            let Some(slot) = self.slots.iter().skip(1).position(idle).map(|at| at + 1) else { return OTHERS };
            let gone = std::mem::replace(&mut self.slots[slot], Client::new(name));
            self.by_name.remove(&gone.name);
            // Its traffic is not forgotten, only its name: totals never shrink.
            let others = &mut self.slots[OTHERS as usize];
            others.requests += gone.requests;
            others.bytes_received += gone.bytes_received;
            others.bytes_sent += gone.bytes_sent;
            slot
        };
        self.by_name.insert(self.slots[slot].name.clone(), slot as u32);
        slot as u32
    }
}

/// The front of a name that is too long, up to a character's end.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_apart_up_to_the_limit() {
        let mut clients = Clients::default();
        let first = clients.received(0, Some("a"), 10, 1);
        assert_eq!(clients.received(first, Some("a"), 10, 2), first);
        let second = clients.received(first, Some("b"), 5, 3);
        assert_ne!(first, second);
        clients.sent(first, 7);
        let states = clients.states();
        let a = states.iter().find(|state| state.name.as_deref() == Some("a")).unwrap();
        assert_eq!((a.requests, a.bytes_received, a.bytes_sent), (2, 20, 7));
        for n in 0..2 * CLIENTS_MAX {
            clients.received(0, Some(&n.to_string()), 1, 4);
        }
        assert_eq!(clients.states().len(), CLIENTS_MAX);
        assert!(clients.states()[0].requests > 0, "those beyond the limit are counted together");
        // Much later the idle ones make room, and nothing is lost of the totals.
        let total = |clients: &Clients| clients.states().iter().map(|state| state.requests).sum::<u64>();
        let before = total(&clients);
        assert_ne!(clients.received(0, Some("new"), 1, 2 * IDLE_NS), OTHERS);
        assert_eq!(total(&clients), before + 1);
    }

    #[test]
    fn long_names_are_cut() {
        let mut clients = Clients::default();
        clients.received(0, Some(&"é".repeat(1000)), 1, 1);
        assert_eq!(clients.states()[1].name.as_ref().unwrap().len(), NAME_BYTES_MAX);
    }
}
