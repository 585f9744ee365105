//! `ringlog health`: does the broker answer? For health checks of containers and services, which want an exit code: 0, or 5
//! where no answer came in time.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::client::{Client, Connect, To};
use super::failure::{FAILED, Failure};
use super::output;
use crate::config::Settings;
use crate::protocol::messages::metadata_request::MetadataRequest;

#[derive(ClapArgs)]
pub struct Args {
    /// The broker; without it, where one configured by the file and the environment listens
    #[arg(long, value_name = "HOST:PORT", env = "RINGLOG_BOOTSTRAP")]
    bootstrap: Option<String>,
    /// The server.properties file of that broker
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long the answer may take
    #[arg(long, value_name = "MS", default_value_t = 3000)]
    timeout_ms: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let address = match &args.bootstrap {
        Some(address) => address.clone(),
        None => configured_address(&args)?,
    };
    let connect = Connect { bootstrap: vec![address], request_timeout_ms: args.timeout_ms };
    let client = &mut Client::new(&connect);
    // No topics: the least there is to ask for that every version of every broker answers.
    let request = MetadataRequest { topics: Some([].into()), ..MetadataRequest::default() };
    let answer = client.call(To::Any, i16::MAX, &request)?;
    let response = answer.read::<MetadataRequest<'_>>()?;
    match response.brokers.len() {
        0 => Err(Failure::new(FAILED, "the broker answers, but knows of no broker")),
        brokers => output::done(args.json, &format!("serving, one of {brokers} in the cluster")),
    }
}

/// The first listener, on the loopback interface where it is on all.
fn configured_address(args: &Args) -> Result<String, Failure> {
    let mut settings = Settings::new();
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
        settings.add_file(&path.display().to_string(), &text);
    }
    settings.add_environment(
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    );
    let (config, _) = settings.resolve().map_err(|error| Failure::usage(error.to_string()))?;
    let listener = config.listeners.first().ok_or_else(|| Failure::usage("no listener is configured"))?;
    let host = match listener.bind.host.as_str() {
        "" | "0.0.0.0" | "::" => "127.0.0.1".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    };
    Ok(format!("{host}:{}", listener.bind.port))
}
