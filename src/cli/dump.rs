//! `ringlog dump`: the files of a data directory in words, and where they are damaged. Touches nothing.
//!
//! What a file is, its name says. Files are read as they lie there: those of a running broker are whole up to some point.

mod batch;
mod journal;
mod metadata;
mod small;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::failure::Failure;
use super::output;
use crate::storage::journal::parse_file_name;
use crate::storage::names::{FileKind, FileName};

/// `dump` found damage.
const DAMAGED: u8 = 7;
/// Files other than segments are read whole; none of them grows past this.
const FILE_BYTES_MAX: u64 = 4 << 30;

#[derive(clap::Args)]
pub struct Args {
    /// .log, .index, .timeindex, .txnindex, .snapshot, .journal, leader-epoch-checkpoint, partition.metadata,
    /// meta.properties, one of the offset checkpoints, or a file of the metadata directory
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Of a segment: every record, too, and whether it can be read
    #[arg(long, visible_alias = "deep")]
    records: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Where the lines go.
struct Sink {
    json: bool,
    damages: u64,
}

impl Sink {
    /// A line as text or as JSON, whichever is asked for.
    fn line(&self, text: impl FnOnce() -> String, value: impl FnOnce() -> Value) -> Result<(), Failure> {
        let line = if self.json { value().to_string() } else { text() };
        output::print(&format!("{line}\n"))
    }

    fn damage(&mut self, position: u64, what: impl std::fmt::Display) -> Result<(), Failure> {
        self.damages += 1;
        self.line(
            || format!("DAMAGED at byte {position}: {what}"),
            || json!({ "damaged": { "position": position, "reason": what.to_string() } }),
        )
    }
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut sink = Sink { json: args.json, damages: 0 };
    for path in &args.files {
        if args.json || args.files.len() > 1 {
            let shown = path.display().to_string();
            sink.line(|| format!("== {shown}"), || json!({ "file": shown }))?;
        }
        dump(path, args.records, &mut sink)?;
    }
    match sink.damages {
        0 => Ok(()),
        1 => Err(Failure::new(DAMAGED, "1 damage found")),
        count => Err(Failure::new(DAMAGED, format!("{count} damages found"))),
    }
}

fn dump(path: &Path, records: bool, sink: &mut Sink) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The names of its files mean something else elsewhere.
    if path.parent().and_then(Path::file_name).is_some_and(|dir| dir == "metadata") {
        return metadata::dump(&read(path)?, sink);
    }
    if let Some((incarnation, _)) = parse_file_name(&name) {
        return journal::dump(&read(path)?, incarnation, sink);
    }
    if let Some(file) = FileName::parse(&name) {
        return match file.kind {
            FileKind::Log => batch::dump(path, file.base_offset, records, sink),
            FileKind::OffsetIndex => {
                let log = path.with_extension("log");
                let log_size = std::fs::metadata(&log).map_or(u64::MAX, |metadata| metadata.len());
                small::offset_index(&read(path)?, file.base_offset, log_size, sink)
            }
            FileKind::TimeIndex => small::time_index(&read(path)?, file.base_offset, sink),
            FileKind::TransactionIndex => small::transaction_index(&read(path)?, file.base_offset, sink),
            FileKind::ProducerSnapshot => small::producer_snapshot(&read(path)?, sink),
        };
    }
    match name.as_ref() {
        "leader-epoch-checkpoint" => small::leader_epochs(&read(path)?, sink),
        "partition.metadata" => small::partition_metadata(&read(path)?, sink),
        "meta.properties" => small::meta_properties(&read(path)?, sink),
        // Ours have the number of a shard behind their name.
        name if name.contains("-offset-checkpoint") => small::offset_checkpoint(&read(path)?, sink),
        _ => Err(Failure::usage(format!("{}: not the name of a file that can be dumped", path.display()))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::file(path, &error);
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > FILE_BYTES_MAX {
        return Err(Failure::new(super::failure::DATA, format!("{}: too large", path.display())));
    }
    std::fs::read(path).map_err(failed)
}
