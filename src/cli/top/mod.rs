//! `ringlog top`: a live view of a broker in a terminal: how busy each shard is, requests, bytes, latency by API, the journal,
//! the busiest clients. From `/metrics` alone, so it works on any broker whose HTTP can be reached.

mod frame;
mod scrape;

use std::io::IsTerminal;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args as ClapArgs;

use super::failure::{FAILED, Failure};
use super::output;
use crate::load::units::parse_duration_ns;
use frame::Frame;
use scrape::Page;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(ClapArgs)]
pub struct Args {
    /// Where the broker serves HTTP (its ringlog.http.listener)
    #[arg(default_value = "http://127.0.0.1:9000", value_name = "URL")]
    url: String,
    /// Time between two pictures (100ms to 1h)
    #[arg(long, default_value = "1s", value_parser = parse_duration_ns, value_name = "TIME")]
    interval: u64,
    /// Pictures before it ends; 0: until it is interrupted
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// One picture of everything since the broker's start, then end
    #[arg(long, conflicts_with = "count")]
    once: bool,
    /// Shards, APIs and clients shown, each at most (1 to 1000)
    #[arg(long, default_value_t = 8)]
    rows: usize,
    /// A line of JSON a picture
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let interval = Duration::from_nanos(args.interval);
    if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
        return Err(Failure::usage("--interval is from 100ms to 1h"));
    }
    if !(1..=1000).contains(&args.rows) {
        return Err(Failure::usage("--rows is from 1 to 1000"));
    }
    let address = scrape::address(&args.url)?;
    let mut before = scrape::fetch(&address, TIMEOUT)?;
    if args.once {
        let frame = Frame::between(&Page::default(), &before, age_seconds(&before));
        return show(&args, &address, &frame);
    }
    let mut looked = Instant::now();
    let mut shown = 0;
    while args.count == 0 || shown < args.count {
        std::thread::sleep(interval.saturating_sub(looked.elapsed()));
        let after = scrape::fetch(&address, TIMEOUT)?;
        let now = Instant::now();
        show(&args, &address, &Frame::between(&before, &after, (now - looked).as_secs_f64()))?;
        (before, looked) = (after, now);
        shown += 1;
    }
    Ok(())
}

/// How long ago the broker started.
fn age_seconds(page: &Page) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    now - page.sum("process_start_time_seconds")
}

fn show(args: &Args, address: &str, frame: &Frame) -> Result<(), Failure> {
    if args.json {
        let line = serde_json::to_string(frame)
            .map_err(|error| Failure::new(FAILED, format!("no JSON: {error}")))?;
        return output::print(&format!("{line}\n"));
    }
    let text = frame.text(&format!("ringlog {address}"), args.rows);
    // A person sees one picture that changes; a file gets them one below the other.
    if std::io::stdout().is_terminal() && !args.once {
        output::print(&format!("\x1b[H\x1b[2J{text}"))
    } else {
        output::print(&format!("{text}\n"))
    }
}
