//! The addresses that a shard listens on, and what clients are told of them. Called once, when a shard starts.

use std::net::{SocketAddr, ToSocketAddrs};

use super::ServeError;
use crate::config::{BrokerConfig, Listener, Routing};
use crate::io::driver::Driver;
use crate::io::{Handle, Io};

/// Opens the configured listeners; on a further shard the same addresses again, or with `ringlog.routing=direct` the ports
/// behind them.
pub fn listen(
    io: &mut Driver,
    config: &BrokerConfig,
    bound: Option<&[SocketAddr]>,
    shard: usize,
    shards: usize,
) -> Result<(Vec<Handle>, Vec<SocketAddr>), ServeError> {
    let direct = config.routing == Routing::Direct;
    let mut handles = Vec::new();
    let mut addresses = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let mut address = match bound {
            Some(bound) => bound[index],
            None => resolve(listener)?,
        };
        if direct {
            let port = u16::try_from(shard).ok().and_then(|shard| address.port().checked_add(shard));
            let port = port.ok_or_else(|| {
                let bind = &listener.bind;
                ServeError::Listen(format!(
                    "listener {bind}: no ports behind it for {shards} shards (ringlog.routing=direct)"
                ))
            })?;
            address.set_port(port);
        }
        let (handle, address) = io
            .listen(address, shards > 1 && !direct)
            .map_err(|error| ServeError::Listen(format!("listener {}: {address}: {error}", listener.bind)))?;
        handles.push(handle);
        addresses.push(address);
    }
    Ok((handles, addresses))
}

fn resolve(listener: &Listener) -> Result<SocketAddr, ServeError> {
    let bind = &listener.bind;
    let host = match bind.host.as_str() {
        "" => "::",
        host => host,
    };
    let found = (host, bind.port).to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| ServeError::Listen(format!("listener {bind}: the host name has no address")))
}

/// What clients are told to connect to.
pub fn advertised(listener: &Listener, port: u16) -> (String, i32) {
    let host = match listener.advertised.host.as_str() {
        "" => host_name(),
        host => host.to_owned(),
    };
    let port = if listener.advertised.port == 0 { port } else { listener.advertised.port };
    (host, i32::from(port))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
