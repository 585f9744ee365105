//! The control thread: HTTP with metrics, health, REST and the web page, beside the data path and never on it.
//!
//! It runs on the one tokio thread that `cli::serve` also waits for signals on. The listener is open before the broker
//! has recovered, so that health can say "starting"; [`Control::begin`] hands it the running broker. Invariants: every
//! wait has a limit, every table a bound; a request reaches the shards only as a client's would (`cluster`), so nothing
//! asked over HTTP can do what a client could not.

mod body; // request bodies within a budget
pub mod cluster; // the broker, as it is asked from here
mod error; // errors as JSON
mod guard; // who may call: hosts, origins, content types
mod health;
mod http; // connections: limits and slow clients
mod otlp; // metrics to an OpenTelemetry collector
mod prometheus;
mod rest; // v2, v3 and /produce
mod ui; // the web page

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::config::{BrokerConfig, HttpConfig};
use crate::server::{ServeError, Server};
use cluster::Cluster;
use cluster::observer::Observer;
use error::ApiError;

/// The HTTP side of a broker.
pub struct Control {
    listener: std::net::TcpListener,
    address: SocketAddr,
    site: Arc<Site>,
}

/// What every handler sees.
pub struct Site {
    config: HttpConfig,
    /// All interfaces were asked for, so any name may be ours.
    wildcard: bool,
    /// There once the broker serves.
    running: OnceLock<Running>,
    budget: body::Budget,
}

struct Running {
    cluster: Arc<Cluster>,
    observer: Arc<Observer>,
    instances: Arc<rest::Instances>,
    loads: Arc<ui::Loads>,
    /// What the shards run on.
    driver: String,
    began: Instant,
}

impl Control {
    /// Opens the listener. `Ok(None)`: none is wanted, or the default one is taken by someone else.
    pub fn open(config: &BrokerConfig) -> Result<Option<Control>, ServeError> {
        let http = config.http.clone();
        let Some(endpoint) = http.listener.clone() else { return Ok(None) };
        let host = match endpoint.host.as_str() {
            "" => "::",
            host => host,
        };
        match std::net::TcpListener::bind((host, endpoint.port)) {
            Ok(listener) => Control::on(listener, http, endpoint.is_wildcard()).map(Some),
            Err(error) if http.listener_is_default => {
                tracing::warn!(
                    "no HTTP: {} is not free ({error}); set ringlog.http.listener to http://HOST:PORT for another place, \
                     or to nothing for none",
                    endpoint.address()
                );
                Ok(None)
            }
            Err(error) => Err(ServeError::Listen(format!(
                "ringlog.http.listener: {}: {error}; set it to another http://HOST:PORT, or to nothing for no HTTP",
                endpoint.address()
            ))),
        }
    }

    fn on(
        listener: std::net::TcpListener,
        config: HttpConfig,
        wildcard: bool,
    ) -> Result<Control, ServeError> {
        let failed = |error: std::io::Error| ServeError::Listen(format!("ringlog.http.listener: {error}"));
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let budget = body::Budget::new(config.request_bytes_max);
        let site = Site { config, wildcard, running: OnceLock::new(), budget };
        Ok(Control { listener, address, site: Arc::new(site) })
    }

    /// What a browser on this machine calls.
    pub fn url(&self) -> String {
        format!("http://{}", local(self.address))
    }

    /// Serves, on the runtime that this is called on; the broker follows with the answer's [`Site::begin`].
    pub fn serve(self) -> Result<Arc<Site>, ServeError> {
        let listener = tokio::net::TcpListener::from_std(self.listener)
            .map_err(|error| ServeError::Listen(format!("ringlog.http.listener: {error}")))?;
        let site = self.site;
        tokio::spawn(http::serve(listener, router(site.clone()), site.config.connections_max));
        Ok(site)
    }
}

impl Site {
    /// The broker serves from now on.
    pub fn begin(&self, server: &Server) {
        let (cluster, observer) = observe(server);
        let instances = Arc::new(rest::Instances::new(&self.config));
        tokio::spawn(instances.clone().expire());
        let address = server.addresses().first().copied();
        let bootstrap = address.map_or_else(String::new, |address| local(address).to_string());
        let running = Running {
            loads: Arc::new(ui::Loads::new(server.config(), bootstrap)),
            driver: server.driver().to_string(),
            began: Instant::now(),
            cluster,
            observer,
            instances,
        };
        // Called once; a second broker there is not.
        let _ = self.running.set(running);
    }

    fn running(&self) -> Result<&Running, ApiError> {
        self.running.get().ok_or_else(ApiError::starting)
    }

    /// Whether the name in a request's Host header is one of ours. A page of someone else's whose name was made to point here
    /// must not be taken for ours (DNS rebinding).
    fn knows_host(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => return address.parse::<Ipv6Addr>().is_ok(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        self.wildcard
            || name.parse::<Ipv4Addr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.config.listener.as_ref().is_some_and(|own| own.host.eq_ignore_ascii_case(name))
            || self.config.hosts.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(name))
    }
}

/// What is done where no HTTP is served.
pub fn without_http(server: &Server) {
    if server.config().otlp.endpoint.is_some() {
        observe(server);
    }
}

/// Watches the broker, and tells a collector where one is named.
fn observe(server: &Server) -> (Arc<Cluster>, Arc<Observer>) {
    let cluster = Arc::new(Cluster::new(server.shards().to_vec(), server.config().clone()));
    let observer = Arc::new(Observer::new(cluster.clone()));
    tokio::spawn(observer.clone().run());
    tokio::spawn(otlp::run(server.config().otlp.clone(), cluster.clone(), observer.clone()));
    (cluster, observer)
}

/// An address that this machine itself can connect to.
fn local(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .merge(rest::routes())
        .merge(ui::routes())
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(axum::middleware::from_fn_with_state(site.clone(), guard::check))
        .with_state(site)
}

async fn metrics(State(site): State<Arc<Site>>, headers: HeaderMap) -> Result<Response, ApiError> {
    use prometheus::{protobuf, text};
    let running = site.running()?;
    let page = prometheus::page(&running.cluster, &running.observer).await?;
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (media, body) = match protobuf::is_wanted(accept) {
        true => (protobuf::CONTENT_TYPE, protobuf::write(&page)),
        false => (text::CONTENT_TYPE, text::write(&page).into_bytes()),
    };
    Ok(([(CONTENT_TYPE, media), (CACHE_CONTROL, "no-store"), (VARY, "accept")], body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(hosts: &[&str], wildcard: bool) -> Site {
        let config = BrokerConfig::default().http;
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let config = HttpConfig { hosts, ..config };
        Site { config, wildcard, running: OnceLock::new(), budget: body::Budget::new(1024) }
    }

    #[test]
    fn a_strangers_name_is_not_ours() {
        let ours = site(&["ringlog.example"], false);
        for host in ["localhost", "LOCALHOST:9000", "127.0.0.1:9000", "[::1]:9000", "ringlog.example:80"] {
            assert!(ours.knows_host(host), "{host}");
        }
        for host in ["evil.example", "evil.example:9000", "", "localhost.evil.example", "[evil]:1"] {
            assert!(!ours.knows_host(host), "{host}");
        }
        assert!(site(&["*"], false).knows_host("x"));
        assert!(site(&[], true).knows_host("ringlog-0.ringlog"));
    }
}
