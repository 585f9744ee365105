//! `ringlog serve`: configuration from file, environment and flags, then the broker until a signal ends it.

use std::io::{IsTerminal, Write};
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{BrokerConfig, Settings};
use crate::control::{self, Control};
use crate::server::{ServeError, Server};

/// How often the waiting thread looks whether a shard has ended by itself.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub struct Args {
    /// A server.properties file; keys as in Apache Kafka
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key; comes last, may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Log as JSON, one object a line
    #[arg(long)]
    log_json: bool,
    /// What to log: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, value_name = "FILTER", default_value = "info", env = "RINGLOG_LOG")]
    log: String,
}

pub fn run(args: Args) -> ExitCode {
    start_logging(&args);
    let config = match configuration(&args) {
        Ok(config) => config,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringlog: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start_logging(args: &Args) {
    let filter = EnvFilter::try_new(&args.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if args.log_json {
        logs.json().try_init()
    } else {
        logs.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    if let Err(error) = started {
        eprintln!("ringlog: no log: {error}");
    }
}

fn configuration(args: &Args) -> Result<BrokerConfig, String> {
    let mut settings = Settings::new();
    if let Some(path) = &args.config {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| format!("ringlog: {name}: {error}"))?;
        settings.add_file(&name, &text);
    }
    settings.add_environment(
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    );
    for assignment in &args.set {
        settings.add_set(assignment);
    }
    let (config, warnings) = settings.resolve().map_err(|error| error.to_string())?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

fn serve(config: BrokerConfig) -> Result<(), ServeError> {
    let failed = |error: std::io::Error| ServeError::Runtime(error.to_string());
    // The control thread: HTTP and signals.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let result = runtime.block_on(run_broker(config));
    // A start that was given up may still be at its recovery.
    runtime.shutdown_background();
    result
}

async fn run_broker(config: BrokerConfig) -> Result<(), ServeError> {
    // First of all: whoever reads that it is ready, or waits no longer, may end it at once.
    let mut signals = Signals::open().map_err(|error| ServeError::Runtime(error.to_string()))?;
    let control = Control::open(&config)?;
    let url = control.as_ref().map(Control::url);
    let site = control.map(Control::serve).transpose()?;
    // Recovery blocks; health answers meanwhile.
    let starting = tokio::task::spawn_blocking(move || Server::start(config));
    let started = tokio::select! {
        started = starting => started,
        () = signals.received() => {
            tracing::info!("stopped while starting");
            return Ok(());
        }
    };
    let server = started.map_err(|error| ServeError::Runtime(error.to_string()))??;
    match site {
        Some(site) => site.begin(&server),
        None => control::without_http(&server),
    }
    say_ready(&server, url.as_deref());
    notify_service_manager("READY=1");
    until_stopped(&mut signals, &server).await;
    tracing::info!("stopping");
    notify_service_manager("STOPPING=1");
    server.stop();
    let joined = tokio::task::spawn_blocking(|| server.join()).await;
    let joined = joined.unwrap_or_else(|error| Err(ServeError::Runtime(error.to_string())));
    tracing::info!("stopped");
    joined
}

/// The one line on standard output.
fn say_ready(server: &Server, url: Option<&str>) {
    let Some(mut address) = server.addresses().first().copied() else { return };
    // All interfaces: the one that is surely there is named, so that a script can connect to what it reads.
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let url = url.map_or_else(String::new, |url| format!(" {url}"));
    let mut out = std::io::stdout().lock();
    // Whoever closed the pipe does not want to know.
    let _ = writeln!(out, "ready {address}{url}").and_then(|()| out.flush());
}

/// Tells systemd, or whoever else named a socket in the environment, what has been reached (`Type=notify`).
fn notify_service_manager(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_encoded_bytes() {
        // A name in the abstract namespace.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, state, "the service manager could not be told");
    }
}

/// SIGTERM and SIGINT; from [`Signals::open`] on they do not end the process by themselves.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn open() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Returns at a signal, or when a shard has ended.
async fn until_stopped(signals: &mut Signals, server: &Server) {
    let mut watch = tokio::time::interval(WATCH_INTERVAL);
    loop {
        tokio::select! {
            () = signals.received() => return,
            _ = watch.tick() => {
                if server.has_ended() {
                    return;
                }
            }
        }
    }
}
