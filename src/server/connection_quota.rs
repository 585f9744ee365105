//! How many connections there may be: in all and from one address, over all shards (`max.connections*`).
//!
//! Shared by the shards, asked once when a connection is accepted and told once when it is closed; never on the data path.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::SocketConfig;

/// Descriptors that are not sockets: rings, directories, journal and segment files.
const OTHER_FILES: usize = 4096;

#[derive(Debug)]
pub struct ConnectionQuota {
    /// As far as the descriptors go that this process may have open.
    files_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limits: Limits,
    /// What the limits come from, or will once its names are looked up.
    settings: Settings,
    all: usize,
    by_ip: BTreeMap<IpAddr, usize>,
}

/// The limits as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settings {
    max: usize,
    max_per_ip: usize,
    /// By address or name.
    overrides: BTreeMap<String, usize>,
}

#[derive(Debug, Default)]
struct Limits {
    max: usize,
    max_per_ip: usize,
    /// Addresses with a limit of their own.
    overrides: BTreeMap<IpAddr, usize>,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Broker { max: usize },
    Address { max: usize },
}

impl ConnectionQuota {
    /// Looks names up, at start.
    pub fn new(config: &SocketConfig, open_files_max: u64) -> ConnectionQuota {
        let files = usize::try_from(open_files_max).unwrap_or(usize::MAX);
        let files_max = files.saturating_sub(OTHER_FILES).max(files / 2);
        let settings = Settings::of(config);
        let limits = settings.limits(files_max);
        ConnectionQuota { files_max, state: Mutex::new(State { limits, settings, ..State::default() }) }
    }

    /// Takes over what has been set since, if it has changed. Connections that are open stay. Where names have to be looked up,
    /// which may take its time, a thread of its own does it.
    pub fn configure(self: &Arc<ConnectionQuota>, config: &SocketConfig) {
        let settings = Settings::of(config);
        let mut state = self.lock();
        if state.settings == settings {
            return;
        }
        state.settings = settings.clone();
        if settings.overrides.keys().all(|host| address(host).is_some()) {
            state.limits = settings.limits(self.files_max);
            return;
        }
        drop(state);
        let quota = self.clone();
        std::thread::spawn(move || {
            let limits = settings.limits(quota.files_max);
            let mut state = quota.lock();
            // What was set later may have been found earlier.
            if state.settings == settings {
                state.limits = limits;
            }
        });
    }

    pub fn max(&self) -> usize {
        self.lock().limits.max
    }

    /// Counts one more connection, if the limits allow it.
    pub fn open(&self, ip: Option<IpAddr>) -> Result<(), Full> {
        let ip = ip.map(|ip| ip.to_canonical());
        let mut open = self.lock();
        let limits = &open.limits;
        let max_of_ip = ip.and_then(|ip| limits.overrides.get(&ip)).copied().unwrap_or(limits.max_per_ip);
        if open.all >= limits.max {
            return Err(Full::Broker { max: limits.max });
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settings {
    fn of(config: &SocketConfig) -> Settings {
        Settings {
            max: config.max_connections,
            max_per_ip: config.max_connections_per_ip,
            overrides: config.max_connections_per_ip_overrides.clone(),
        }
    }

    /// Looks names up.
    fn limits(&self, files_max: usize) -> Limits {
        let mut overrides = BTreeMap::new();
        for (host, &max) in &self.overrides {
            if let Some(address) = address(host) {
                overrides.insert(address.to_canonical(), max);
                continue;
            }
            match (host.as_str(), 0).to_socket_addrs() {
                Ok(found) => overrides.extend(found.map(|found| (found.ip().to_canonical(), max))),
                Err(error) => {
                    tracing::warn!(host, %error, "max.connections.per.ip.overrides names an unknown host");
                }
            }
        }
        Limits { max: self.max.min(files_max), max_per_ip: self.max_per_ip, overrides }
    }
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
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
    fn limits_may_change() {
        let quota = Arc::new(quota(3, 3, &[]));
        (0..2).for_each(|_| assert_eq!(quota.open(ip("10.0.0.1")), Ok(())));
        let mut config = crate::config::BrokerConfig::default().sockets;
        (config.max_connections, config.max_connections_per_ip) = (100, 1);
        quota.configure(&config);
        assert_eq!(quota.open(ip("10.0.0.1")), Err(Full::Address { max: 1 }));
        // Every system knows this name.
        config.max_connections_per_ip_overrides = BTreeMap::from([("localhost".to_owned(), 0)]);
        quota.configure(&config);
        while quota.lock().limits.overrides.is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(quota.open(ip("127.0.0.1")), Err(Full::Address { max: 0 }));
        assert_eq!(quota.open(ip("10.0.0.2")), Ok(()));
    }

    #[test]
    fn what_has_not_changed_is_not_resolved_again() {
        let quota = Arc::new(quota(3, 3, &[("10.0.0.1", 0)]));
        let mut config = crate::config::BrokerConfig::default().sockets;
        (config.max_connections, config.max_connections_per_ip) = (3, 3);
        config.max_connections_per_ip_overrides = BTreeMap::from([("10.0.0.1".to_owned(), 0)]);
        quota.lock().limits.overrides.clear();
        quota.configure(&config);
        assert_eq!(quota.open(ip("10.0.0.1")), Ok(()));
        config.max_connections = 4;
        quota.configure(&config);
        assert_eq!(quota.open(ip("10.0.0.1")), Err(Full::Address { max: 0 }));
    }

    #[test]
    fn descriptors_bound_what_is_configured() {
        assert_eq!(quota(usize::MAX, 1, &[]).max(), 20_000 - OTHER_FILES);
        assert_eq!(quota(7, 1, &[]).max(), 7);
    }
}
