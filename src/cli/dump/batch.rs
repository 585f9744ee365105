//! A segment: its batches, and with `--records` what is in them. Read batch by batch, since a segment may be large.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::{Value, json};

use super::Sink;
use crate::cli::encoding::{JsonHeader, to_json};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::record::compression::DECOMPRESSED_BYTES_MAX_DEFAULT;
use crate::record::control::ControlType;
use crate::record::rfc3339::format_rfc3339;
use crate::record::{
    BATCH_OVERHEAD, BatchError, BatchHeader, Decompressor, Record, RecordBatch, TimestampType,
};

pub fn dump(path: &Path, base_offset: i64, records: bool, sink: &mut Sink) -> Result<(), Failure> {
    let failed = |error| Failure::file(path, &error);
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut walk = Walk {
        input: BufReader::with_capacity(1 << 20, file),
        size,
        position: 0,
        bytes: Vec::new(),
        next_offset: base_offset,
        decompressor: Decompressor::new(),
        scratch: Vec::new(),
    };
    let bar = output::progress(size, "{bar:40} {bytes}/{total_bytes} eta {eta}");
    while walk.position < size {
        let went_on = walk.step(records, sink).map_err(|error| match error {
            Stop::Io(error) => Failure::file(path, &error),
            Stop::Output(failure) => failure,
        })?;
        if !went_on {
            break;
        }
        bar.set_position(walk.position);
    }
    bar.finish_and_clear();
    Ok(())
}

enum Stop {
    Io(std::io::Error),
    Output(Failure),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Io(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Output(failure)
    }
}

struct Walk {
    input: BufReader<File>,
    size: u64,
    position: u64,
    bytes: Vec<u8>,
    /// No batch may begin below it.
    next_offset: i64,
    decompressor: Decompressor,
    scratch: Vec<u8>,
}

impl Walk {
    /// One batch; `false` when nothing can be found behind it.
    fn step(&mut self, records: bool, sink: &mut Sink) -> Result<bool, Stop> {
        let left = self.size - self.position;
        let header_bytes = left.min(BATCH_OVERHEAD as u64);
        self.fill(header_bytes)?;
        let header = match BatchHeader::parse(&self.bytes) {
            Ok(header) => header,
            // A preallocated segment of a running broker ends in zeros.
            Err(_) if self.bytes.iter().all(|byte| *byte == 0) && self.is_zero_to_the_end()? => {
                let text = || format!("{left} bytes of zeros from byte {} on", self.position);
                sink.line(text, || json!({ "zeros": { "position": self.position, "bytes": left } }))?;
                return Ok(false);
            }
            Err(BatchError::Incomplete { .. }) => {
                sink.damage(self.position, format!("{left} bytes, too few for a record batch"))?;
                return Ok(false);
            }
            Err(error) => {
                sink.damage(self.position, format!("{error}; the {left} bytes from here on are not read"))?;
                return Ok(false);
            }
        };
        if header.size() as u64 > left {
            let text = format!("a record batch of {} bytes is cut off after {left}", header.size());
            sink.damage(self.position, text)?;
            return Ok(false);
        }
        self.fill(header.size() as u64)?;
        self.show(records, sink)?;
        self.position += header.size() as u64;
        self.next_offset = self.next_offset.max(header.next_offset());
        Ok(true)
    }

    /// Reads `count` bytes from the position on; the file has them.
    fn fill(&mut self, count: u64) -> Result<(), std::io::Error> {
        let at = self.input.stream_position()?;
        self.input.seek_relative(self.position as i64 - at as i64)?;
        self.bytes.resize(count as usize, 0);
        self.input.read_exact(&mut self.bytes)
    }

    fn is_zero_to_the_end(&mut self) -> Result<bool, std::io::Error> {
        self.input.seek(SeekFrom::Start(self.position))?;
        let mut piece = [0; 1 << 14];
        loop {
            match self.input.read(&mut piece)? {
                0 => return Ok(true),
                count if piece[..count].iter().any(|byte| *byte != 0) => return Ok(false),
                _ => {}
            }
        }
    }

    fn show(&mut self, records: bool, sink: &mut Sink) -> Result<(), Failure> {
        let batch = match RecordBatch::parse(&self.bytes) {
            Ok(batch) => batch,
            Err(error) => return sink.damage(self.position, error),
        };
        let header = batch.header();
        sink.line(|| batch_text(self.position, header), || batch_json(self.position, header))?;
        if let Err(error) = batch.check_crc() {
            sink.damage(self.position, error)?;
        }
        if header.base_offset < self.next_offset {
            let text = format!("base offset {} is below {}", header.base_offset, self.next_offset);
            sink.damage(self.position, text)?;
        }
        if !records {
            return Ok(());
        }
        match batch.records(&mut self.decompressor, &mut self.scratch, DECOMPRESSED_BYTES_MAX_DEFAULT) {
            Err(error) => sink.damage(self.position, error)?,
            Ok(found) => {
                for record in found {
                    match record {
                        Ok(record) => show_record(header, &record, sink)?,
                        Err(error) => sink.damage(self.position, error)?,
                    }
                }
            }
        }
        Ok(())
    }
}

fn show_record(header: &BatchHeader, record: &Record<'_>, sink: &Sink) -> Result<(), Failure> {
    let control = if header.is_control() { record.key.and_then(ControlType::parse) } else { None };
    sink.line(|| record_text(header, record, control), || record_json(header, record, control))
}

fn flags(header: &BatchHeader) -> String {
    let mut text = String::new();
    for (on, name) in [
        (header.is_transactional(), " transactional"),
        (header.is_control(), " control"),
        (header.timestamp_type() == TimestampType::LogAppendTime, " log-append-time"),
    ] {
        if on {
            text.push_str(name);
        }
    }
    if header.has_producer_id() {
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        text.push_str(&format!(" producer {id} epoch {epoch} sequence {}", header.base_sequence));
    }
    if let Some(horizon) = header.delete_horizon_ms() {
        text.push_str(&format!(" delete-horizon {}", format_rfc3339(horizon)));
    }
    text
}

fn codec(header: &BatchHeader) -> &'static str {
    header.codec().map_or("unknown", |codec| codec.name())
}

fn batch_text(position: u64, header: &BatchHeader) -> String {
    format!(
        "{position:>10}  offsets {}..{}  {} records  {} bytes  {}  epoch {}  {}  crc {:08x}{}",
        header.base_offset,
        header.last_offset(),
        header.records_count,
        header.size(),
        codec(header),
        header.partition_leader_epoch,
        format_rfc3339(header.max_timestamp),
        header.crc,
        flags(header),
    )
}

fn batch_json(position: u64, header: &BatchHeader) -> Value {
    json!({ "batch": {
        "position": position,
        "base_offset": header.base_offset,
        "last_offset": header.last_offset(),
        "records": header.records_count,
        "size_bytes": header.size(),
        "codec": codec(header),
        "leader_epoch": header.partition_leader_epoch,
        "max_timestamp": header.max_timestamp,
        "log_append_time": header.timestamp_type() == TimestampType::LogAppendTime,
        "crc": header.crc,
        "transactional": header.is_transactional(),
        "control": header.is_control(),
        "producer_id": header.producer_id,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
    } })
}

fn record_text(header: &BatchHeader, record: &Record<'_>, control: Option<ControlType>) -> String {
    let shown = |bytes: Option<&[u8]>| bytes.map_or("null".into(), |bytes| bytes.escape_ascii().to_string());
    let mut text =
        format!("            {}  {}  ", record.offset(header), format_rfc3339(record.timestamp(header)));
    match control {
        Some(control) => text.push_str(&format!("control {control:?}")),
        None => text.push_str(&format!("{} = {}", shown(record.key), shown(record.value))),
    }
    for header in record.headers {
        text.push_str(&format!("  {}: {}", header.key.escape_ascii(), shown(header.value)));
    }
    text
}

fn record_json(header: &BatchHeader, record: &Record<'_>, control: Option<ControlType>) -> Value {
    let (key, key_base64) = to_json(record.key);
    let (value, value_base64) = to_json(record.value);
    let headers: Vec<_> = record
        .headers
        .iter()
        .map(|header| {
            let (value, value_base64) = to_json(header.value);
            JsonHeader { key: String::from_utf8_lossy(header.key).into_owned(), value, value_base64 }
        })
        .collect();
    json!({ "record": {
        "offset": record.offset(header),
        "timestamp": record.timestamp(header),
        "control": control.map(|control| format!("{control:?}")),
        "key": key,
        "key_base64": key_base64,
        "value": value,
        "value_base64": value_base64,
        "headers": headers,
    } })
}
