//! How many connections there may be: in all and from one address, over all shards (`max.connections*`).
//!
//! Shared by the shards, asked once when a connection is accepted and told once when it is closed; never on the data path.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::SocketConfig;

/// Descriptors that are not sockets: rings, directories, journal and segment files.
const OTHER_FILES: usize = 4096;

#[derive(Debug)]
pub struct ConnectionQuota {
    max: usize,
    max_per_ip: usize,
    /// Addresses with a limit of their own.
    overrides: BTreeMap<IpAddr, usize>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_ip: BTreeMap<IpAddr, usize>,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Broker { max: usize },
    Address { max: usize },
}

impl ConnectionQuota {
    /// What is configured, as far as the descriptors go that this process may have open.
    pub fn new(config: &SocketConfig, open_files_max: u64) -> ConnectionQuota {
        let files = usize::try_from(open_files_max).unwrap_or(usize::MAX);
        let files_max = files.saturating_sub(OTHER_FILES).max(files / 2);
        let mut overrides = BTreeMap::new();
        for (host, &max) in &config.max_connections_per_ip_overrides {
            let addresses = (host.trim_matches(['[', ']']), 0).to_socket_addrs();
            match addresses {
                Ok(addresses) => {
                    overrides.extend(addresses.map(|address| (address.ip().to_canonical(), max)))
                }
                Err(error) => {
                    tracing::warn!(host, %error, "max.connections.per.ip.overrides names an unknown host");
                }
            }
        }
        ConnectionQuota {
            max: config.max_connections.min(files_max),
            max_per_ip: config.max_connections_per_ip,
            overrides,
            open: Mutex::default(),
        }
    }

    pub fn max(&self) -> usize {
        self.max
    }

    /// Counts one more connection, if the limits allow it.
    pub fn open(&self, ip: Option<IpAddr>) -> Result<(), Full> {
        let ip = ip.map(|ip| ip.to_canonical());
        let max_of_ip = ip.and_then(|ip| self.overrides.get(&ip)).copied().unwrap_or(self.max_per_ip);
        let mut open = self.lock();
        if open.all >= self.max {
            return Err(Full::Broker { max: self.max });
        }
        if let Some(ip) = ip {
            let count = open.by_ip.get(&ip).copied().unwrap_or(0);
            if count >= max_of_ip {
                return Err(Full::Address { max: max_of_ip });
            }
            open.by_ip.insert(ip, count + 1);
        }
        open.all += 1;
        Ok(())
    }

    pub fn close(&self, ip: Option<IpAddr>) {
        let mut open = self.lock();
        open.all -= 1;
        let Some(ip) = ip.map(|ip| ip.to_canonical()) else { return };
        match open.by_ip.get_mut(&ip) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.by_ip.remove(&ip)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(max: usize, max_per_ip: usize, overrides: &[(&str, usize)]) -> ConnectionQuota {
        let mut config = crate::config::BrokerConfig::default().sockets;
        config.max_connections = max;
        config.max_connections_per_ip = max_per_ip;
        config.max_connections_per_ip_overrides =
            overrides.iter().map(|(host, max)| (host.to_string(), *max)).collect();
        ConnectionQuota::new(&config, 20_000)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn limits_hold_in_all_and_by_address() {
        let quota = quota(3, 2, &[("10.0.0.9", 1), ("[::1]", 0)]);
        assert_eq!(quota.open(ip("10.0.0.1")), Ok(()));
        assert_eq!(quota.open(ip("::ffff:10.0.0.1")), Ok(()));
        assert_eq!(quota.open(ip("10.0.0.1")), Err(Full::Address { max: 2 }));
        assert_eq!(quota.open(ip("::1")), Err(Full::Address { max: 0 }));
        assert_eq!(quota.open(ip("10.0.0.9")), Ok(()));
        assert_eq!(quota.open(ip("10.0.0.2")), Err(Full::Broker { max: 3 }));
        quota.close(ip("10.0.0.9"));
        assert_eq!(quota.open(ip("10.0.0.9")), Ok(()));
        quota.close(ip("10.0.0.1"));
        quota.close(ip("10.0.0.1"));
        quota.close(ip("10.0.0.9"));
        assert!(quota.lock().by_ip.is_empty());
        assert_eq!(quota.lock().all, 0);
    }

    #[test]
    fn descriptors_bound_what_is_configured() {
        assert_eq!(quota(usize::MAX, 1, &[]).max(), 20_000 - OTHER_FILES);
        assert_eq!(quota(7, 1, &[]).max(), 7);
    }
}
