//! Sockets as the drivers open them. Options set on a listener are inherited by what it accepts (Linux), so a connection
//! costs no system call of its own for them.

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Connections that wait to be accepted; the kernel's `net.core.somaxconn` caps it.
    pub backlog: i32,
    /// SO_SNDBUF in bytes; `None` leaves it to the kernel's auto-tuning.
    pub send_buffer_bytes: Option<usize>,
    /// SO_RCVBUF in bytes; `None` leaves it to the kernel's auto-tuning.
    pub receive_buffer_bytes: Option<usize>,
    pub keepalive: bool,
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions { backlog: 1024, send_buffer_bytes: None, receive_buffer_bytes: None, keepalive: true }
    }
}

impl SocketOptions {
    /// A listening socket and the address it is bound to.
    pub fn listen(&self, address: SocketAddr, shared: bool) -> io::Result<(OwnedFd, SocketAddr)> {
        let socket = self.open(address)?;
        socket.set_reuse_address(true)?;
        if shared {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() && address.ip().is_unspecified() {
            // As the JVM does: `::` serves IPv4 too.
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(self.backlog)?;
        let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok((socket.into(), bound))
    }

    /// A socket to connect to `address` with.
    pub fn open(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(self.keepalive)?;
        if let Some(bytes) = self.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(socket)
    }
}

/// The peer's address; `None` when it has already gone.
pub(super) fn peer_of(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: needed to ask by number. The caller owns `fd`, which is open; `ManuallyDrop` keeps this from closing it.
    let socket = ManuallyDrop::new(unsafe { Socket::from_raw_fd(fd) });
    socket.peer_addr().ok()?.as_socket()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_share_a_port_only_when_both_say_so() {
        let options = SocketOptions::default();
        let (_first, address) = options.listen("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let (_second, same) = options.listen(address, true).unwrap();
        assert_eq!(same, address);
        assert_eq!(options.listen(address, false).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    }

    #[test]
    fn what_a_listener_accepts_inherits_its_options() {
        let options = SocketOptions { send_buffer_bytes: Some(64 << 10), ..SocketOptions::default() };
        let (listener, address) = options.listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, peer) = Socket::from(listener).accept().unwrap();
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.send_buffer_size().unwrap(), 128 << 10, "the kernel doubles what it is told");
        assert_eq!(peer.as_socket(), Some(client.local_addr().unwrap()));
        use std::os::fd::AsRawFd;
        assert_eq!(peer_of(accepted.as_raw_fd()), Some(client.local_addr().unwrap()));
    }

    #[test]
    fn the_unspecified_ipv6_address_serves_ipv4() {
        let Ok((listener, address)) = SocketOptions::default().listen("[::]:0".parse().unwrap(), false)
        else {
            return; // a machine without IPv6
        };
        std::net::TcpStream::connect(("127.0.0.1", address.port())).unwrap();
        drop(listener);
    }
}
