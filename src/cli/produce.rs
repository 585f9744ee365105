//! `ringlog produce`: lines of standard input or a file as records.
//!
//! One thread reads, so that a record typed by hand goes out at once while a pipe fills whole batches. With acks=all the
//! producer is idempotent: what is sent again after a lost answer appears once.

mod line;
mod sender;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use indicatif::ProgressBar;

use super::client::{Client, Connect};
use super::configs::parse_pair;
use super::failure::{FAILED, Failure};
use super::output;
use crate::record::Codec;
pub use line::unescape;
use line::{LineFormat, ParsedRecord};
use sender::Sender;

/// A longer line is no record any broker takes.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// How many lines may wait between the reader and the sender.
const LINES_WAITING: usize = 512;
/// How long a record waits for others.
const LINGER: Duration = Duration::from_millis(5);

#[derive(ClapArgs)]
pub struct Args {
    /// The topic; it has to exist
    topic: String,
    /// Read this file, not standard input
    #[arg(long)]
    file: Option<PathBuf>,
    /// How a line holds its record: text, hexadecimal, base64, or JSON as `consume --format json` prints it
    #[arg(long, value_enum, default_value_t = Format::String)]
    format: Format,
    /// What stands between key and value (`\t` for a tab); without it there are no keys
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// A line begins with its headers, `name=value,name=value`, and a tab
    #[arg(long)]
    headers: bool,
    /// A header of every record; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_pair)]
    fixed_headers: Vec<(String, String)>,
    /// A key or value that is this text is null
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// To this partition; else by the key's hash as Kafka does it, and in turn without a key
    #[arg(long)]
    partition: Option<i32>,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none", value_parser = parse_codec)]
    compression: Codec,
    /// 0: wait for nothing; 1: written by the leader; all: by all in-sync replicas
    #[arg(long, value_enum, default_value_t = Acks::All)]
    acks: Acks,
    /// Print JSON: how many records went to which offsets
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    String,
    Hex,
    Base64,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Acks {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    #[value(name = "all", alias = "-1")]
    All,
}

fn parse_codec(name: &str) -> Result<Codec, String> {
    Codec::from_name(name).ok_or_else(|| "none, gzip, snappy, lz4 or zstd".to_owned())
}

pub fn run(args: Args) -> Result<(), Failure> {
    let format = LineFormat::new(&args)?;
    let (input, bar): (Box<dyn Read + Send>, ProgressBar) = match &args.file {
        Some(path) => {
            let file = File::open(path).map_err(|error| Failure::file(path, &error))?;
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            let bar = output::progress(size, "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}");
            (Box::new(file), bar)
        }
        None => (Box::new(std::io::stdin()), ProgressBar::hidden()),
    };
    let client = Client::new(&args.connect);
    let mut sender = Sender::new(client, &args.topic, args.partition, args.acks, args.compression)?;
    let (lines, received) = sync_channel(LINES_WAITING);
    // It is left alone at the end: it may be waiting for a terminal.
    std::thread::spawn(move || read_lines(input, &lines));
    let sent = send_all(&received, &format, &mut sender, &bar);
    bar.finish_and_clear();
    sent?;
    sender.report(args.json)
}

fn read_lines(input: impl Read, lines: &SyncSender<std::io::Result<Vec<u8>>>) {
    let mut input = BufReader::with_capacity(1 << 16, input);
    loop {
        let mut line = Vec::new();
        let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let next = match read {
            Ok(0) => return,
            Ok(count) if count as u64 == LINE_BYTES_MAX => {
                Err(std::io::Error::other(format!("a line of more than {LINE_BYTES_MAX} bytes")))
            }
            Ok(_) => Ok(line),
            Err(error) => Err(error),
        };
        let failed = next.is_err();
        if lines.send(next).is_err() || failed {
            return;
        }
    }
}

fn send_all(
    lines: &Receiver<std::io::Result<Vec<u8>>>,
    format: &LineFormat,
    sender: &mut Sender,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    for number in 1u64.. {
        let line = match lines.recv_timeout(LINGER) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                sender.flush()?;
                match lines.recv() {
                    Ok(line) => line,
                    Err(_) => break,
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let line = line.map_err(|error| Failure::new(FAILED, format!("reading line {number}: {error}")))?;
        bar.inc(line.len() as u64);
        let record: ParsedRecord = match format.parse(line.strip_suffix(b"\n").unwrap_or(&line)) {
            Ok(record) => record,
            Err(reason) => {
                // What came before it is not lost by it.
                sender.flush()?;
                return Err(Failure::usage(format!("line {number}: {reason}")));
            }
        };
        sender.add(record)?;
    }
    sender.flush()
}
