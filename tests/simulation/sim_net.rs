//! A simulated network of byte streams: bounded socket buffers, any split of bytes, delays, resets, silent peers.
//!
//! State only: [`super::World`] decides when an effect takes place and which op it completes.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

pub type SocketId = usize;

#[derive(Clone, Debug)]
pub struct NetOptions {
    pub delay_min_ns: u64,
    pub delay_max_ns: u64,
    /// The chance that a piece is handed over in two or more parts.
    pub split: f64,
    /// The chance of a connection reset, a send.
    pub reset: f64,
    /// The chance that a multishot receive ends with ENOBUFS.
    pub no_buffers: f64,
    pub socket_buffer_bytes: usize,
    /// Bytes of received pieces that a driver may hold before it takes no more.
    pub receive_bytes: usize,
    pub backlog: usize,
}

impl Default for NetOptions {
    fn default() -> NetOptions {
        NetOptions {
            delay_min_ns: 5_000,
            delay_max_ns: 200_000,
            split: 0.1,
            reset: 0.0,
            no_buffers: 0.0,
            socket_buffer_bytes: 64 * 1024,
            receive_bytes: 2 << 20,
            backlog: 1024,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    Connecting,
    Open,
    Refused,
    Closed,
    /// Gone without a word: what is sent to it disappears.
    Vanished,
}

/// How far a send op has come.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    pub op: u64,
    pub part: usize,
    pub offset: usize,
    pub taken: usize,
}

pub struct Socket {
    /// The driver that owns it; `None` for a client of the harness.
    pub driver: Option<usize>,
    pub address: SocketAddr,
    pub peer: Option<SocketId>,
    pub state: SocketState,
    /// Arrived and not yet taken by the owner.
    pub arrived: VecDeque<u8>,
    pub capacity_bytes: usize,
    /// Bytes on their way to this socket.
    pub flying_bytes: usize,
    pub last_arrival_ns: u64,
    /// The peer's end of stream has arrived.
    pub fin: bool,
    pub reset: bool,
    /// This side has ended its direction.
    pub ended: bool,
    /// This side takes nothing more.
    pub deaf: bool,
    pub receive: Option<u64>,
    pub send: Option<Sending>,
    /// In the owner's list of sockets to look at.
    pub queued: bool,
    /// A client of the harness could not send all and wants to hear when it can go on.
    pub blocked: bool,
}

impl Socket {
    pub fn new(driver: Option<usize>, address: SocketAddr, capacity_bytes: usize) -> Socket {
        Socket {
            driver,
            address,
            peer: None,
            state: SocketState::Connecting,
            arrived: VecDeque::new(),
            capacity_bytes,
            flying_bytes: 0,
            last_arrival_ns: 0,
            fin: false,
            reset: false,
            ended: false,
            deaf: false,
            receive: None,
            send: None,
            queued: false,
            blocked: false,
        }
    }

    /// Bytes that a peer may still send towards this socket.
    pub fn window(&self) -> usize {
        match self.state {
            SocketState::Open => self.capacity_bytes.saturating_sub(self.arrived.len() + self.flying_bytes),
            SocketState::Vanished => self.capacity_bytes.saturating_sub(self.flying_bytes),
            _ => usize::MAX, // the answer is a reset, not a full window
        }
    }

    /// Whether a close now would leave bytes unread, which makes it a reset.
    pub fn has_unread(&self) -> bool {
        !self.arrived.is_empty() || self.flying_bytes > 0
    }

    /// Whether a receive would end or yield.
    pub fn readable(&self) -> bool {
        self.reset || self.fin || self.deaf || !self.arrived.is_empty()
    }
}

pub struct Listener {
    pub driver: usize,
    pub address: SocketAddr,
    pub shared: bool,
    pub accept: Option<u64>,
    pub backlog: VecDeque<SocketId>,
    pub open: bool,
}

pub struct Net {
    pub options: NetOptions,
    pub sockets: Vec<Socket>,
    pub listeners: Vec<Listener>,
    /// Clients of the harness with something to look at.
    pub active: VecDeque<SocketId>,
    next_port: u16,
    hosts: BTreeMap<usize, u8>,
}

impl Net {
    pub fn new(options: NetOptions) -> Net {
        Net {
            options,
            sockets: Vec::new(),
            listeners: Vec::new(),
            active: VecDeque::new(),
            next_port: 40_000,
            hosts: BTreeMap::new(),
        }
    }

    /// An address nobody has yet.
    pub fn fresh_address(&mut self, driver: Option<usize>) -> SocketAddr {
        self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
        let hosts = self.hosts.len() as u8;
        let host = driver.map_or(200, |driver| *self.hosts.entry(driver).or_insert(hosts.wrapping_add(1)));
        SocketAddr::from(([10, 0, 0, host], self.next_port))
    }

    /// Adds a listener, or says that the address is taken.
    pub fn listen(&mut self, driver: usize, mut address: SocketAddr, shared: bool) -> Option<usize> {
        if address.port() == 0 {
            address.set_port(self.fresh_address(Some(driver)).port());
        }
        let same =
            |l: &&Listener| l.open && l.address.port() == address.port() && overlap(l.address, address);
        if self.listeners.iter().filter(same).any(|other| !(shared && other.shared)) {
            return None;
        }
        let backlog = VecDeque::new();
        self.listeners.push(Listener { driver, address, shared, accept: None, backlog, open: true });
        Some(self.listeners.len() - 1)
    }

    /// The listeners that a connection to `address` may reach.
    pub fn listening(&self, address: SocketAddr) -> Vec<usize> {
        let reaches =
            |l: &Listener| l.open && l.address.port() == address.port() && overlap(l.address, address);
        (0..self.listeners.len()).filter(|&at| reaches(&self.listeners[at])).collect()
    }

    /// Two ends of a connection yet to be opened; the first belongs to the caller.
    pub fn connect_pair(&mut self, caller: SocketId, driver: usize, address: SocketAddr) -> SocketId {
        let mut accepted = Socket::new(Some(driver), address, self.options.socket_buffer_bytes);
        accepted.peer = Some(caller);
        accepted.state = SocketState::Open;
        self.sockets.push(accepted);
        let id = self.sockets.len() - 1;
        self.sockets[caller].peer = Some(id);
        id
    }
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()
}
