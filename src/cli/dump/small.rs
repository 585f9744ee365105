//! Indexes, snapshots and checkpoints.

use serde_json::json;

use super::Sink;
use crate::cli::failure::Failure;
use crate::record::rfc3339::format_rfc3339;
use crate::storage::checkpoint::{MetaProperties, parse_offsets, parse_partition_metadata};
use crate::storage::leader_epoch::LeaderEpochs;
use crate::storage::producer_state::read_snapshot;
use crate::storage::{offset_index, time_index, transaction_index};

pub fn offset_index(bytes: &[u8], base_offset: i64, log_size: u64, sink: &mut Sink) -> Result<(), Failure> {
    let used = without_zeros(bytes, offset_index::ENTRY_BYTES, sink)?;
    for entry in offset_index::entries(used, base_offset) {
        sink.line(
            || format!("offset {}  position {}", entry.offset, entry.position),
            || json!({ "offset": entry.offset, "position": entry.position }),
        )?;
    }
    match offset_index::check(used, log_size) {
        Ok(()) => Ok(()),
        Err(error) => sink.damage(corrupt_at(&error, used.len(), offset_index::ENTRY_BYTES), error),
    }
}

pub fn time_index(bytes: &[u8], base_offset: i64, sink: &mut Sink) -> Result<(), Failure> {
    let used = without_zeros(bytes, time_index::ENTRY_BYTES, sink)?;
    for entry in time_index::entries(used, base_offset) {
        sink.line(
            || format!("{} ({})  offset {}", format_rfc3339(entry.timestamp), entry.timestamp, entry.offset),
            || json!({ "timestamp": entry.timestamp, "offset": entry.offset }),
        )?;
    }
    match time_index::check(used) {
        Ok(()) => Ok(()),
        Err(error) => sink.damage(corrupt_at(&error, used.len(), time_index::ENTRY_BYTES), error),
    }
}

/// Kafka preallocates the indexes of a running broker: what is behind the last entry is zeros.
fn without_zeros<'a>(bytes: &'a [u8], entry_bytes: usize, sink: &Sink) -> Result<&'a [u8], Failure> {
    let last = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let end = last.next_multiple_of(entry_bytes).min(bytes.len());
    let zeros = bytes.len() - end;
    if zeros > entry_bytes {
        sink.line(|| format!("{zeros} bytes of zeros at the end"), || json!({ "zeros": zeros }))?;
        return Ok(&bytes[..end]);
    }
    Ok(bytes)
}

fn corrupt_at(error: &offset_index::CorruptIndex, length: usize, entry_bytes: usize) -> u64 {
    use offset_index::CorruptIndex;
    match error {
        CorruptIndex::Length(_) => (length - length % entry_bytes) as u64,
        CorruptIndex::Order(slot) | CorruptIndex::Position(slot) => (slot * entry_bytes) as u64,
    }
}

pub fn transaction_index(bytes: &[u8], base_offset: i64, sink: &mut Sink) -> Result<(), Failure> {
    for entry in transaction_index::entries(bytes) {
        sink.line(
            || {
                format!(
                    "producer {} aborted {}..{}, last stable offset {}",
                    entry.producer_id, entry.first_offset, entry.last_offset, entry.last_stable_offset
                )
            },
            || {
                json!({
                    "producer_id": entry.producer_id,
                    "first_offset": entry.first_offset,
                    "last_offset": entry.last_offset,
                    "last_stable_offset": entry.last_stable_offset,
                })
            },
        )?;
    }
    match transaction_index::check(bytes, base_offset) {
        Ok(()) => Ok(()),
        Err(error) => sink.damage(0, error),
    }
}

pub fn producer_snapshot(bytes: &[u8], sink: &mut Sink) -> Result<(), Failure> {
    let entries = match read_snapshot(bytes) {
        Ok(entries) => entries,
        Err(error) => return sink.damage(0, error),
    };
    for entry in &entries {
        let last = entry.last_batch();
        sink.line(
            || {
                format!(
                    "producer {} epoch {}  last sequence {}  last offset {}  at {}{}",
                    entry.producer_id,
                    entry.producer_epoch,
                    entry.last_sequence(),
                    last.map_or(-1, |batch| batch.last_offset),
                    format_rfc3339(entry.last_timestamp),
                    entry
                        .current_txn_first_offset
                        .map_or(String::new(), |offset| format!("  open transaction from {offset}")),
                )
            },
            || {
                json!({
                    "producer_id": entry.producer_id,
                    "producer_epoch": entry.producer_epoch,
                    "last_sequence": entry.last_sequence(),
                    "last_offset": last.map(|batch| batch.last_offset),
                    "last_timestamp": entry.last_timestamp,
                    "coordinator_epoch": entry.coordinator_epoch,
                    "current_txn_first_offset": entry.current_txn_first_offset,
                })
            },
        )?;
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, (u64, String)> {
    std::str::from_utf8(bytes).map_err(|error| (error.valid_up_to() as u64, "not UTF-8".to_owned()))
}

fn parsed<T, E: std::fmt::Display>(
    bytes: &[u8],
    parse: impl FnOnce(&str) -> Result<T, E>,
    sink: &mut Sink,
) -> Result<Option<T>, Failure> {
    let parsed = text(bytes).and_then(|text| parse(text).map_err(|error| (0, error.to_string())));
    match parsed {
        Ok(value) => Ok(Some(value)),
        Err((position, reason)) => sink.damage(position, reason).map(|()| None),
    }
}

pub fn leader_epochs(bytes: &[u8], sink: &mut Sink) -> Result<(), Failure> {
    let Some(epochs) = parsed(bytes, LeaderEpochs::parse, sink)? else { return Ok(()) };
    for entry in epochs.entries() {
        sink.line(
            || format!("epoch {} from offset {} on", entry.epoch, entry.start_offset),
            || json!({ "epoch": entry.epoch, "start_offset": entry.start_offset }),
        )?;
    }
    Ok(())
}

pub fn offset_checkpoint(bytes: &[u8], sink: &mut Sink) -> Result<(), Failure> {
    let Some(offsets) = parsed(bytes, parse_offsets, sink)? else { return Ok(()) };
    for ((topic, partition), offset) in &offsets {
        sink.line(
            || format!("{topic}-{partition}  offset {offset}"),
            || json!({ "topic": topic, "partition": partition, "offset": offset }),
        )?;
    }
    Ok(())
}

pub fn partition_metadata(bytes: &[u8], sink: &mut Sink) -> Result<(), Failure> {
    let Some(id) = parsed(bytes, parse_partition_metadata, sink)? else { return Ok(()) };
    sink.line(|| format!("topic id {id}"), || json!({ "topic_id": id.to_string() }))
}

pub fn meta_properties(bytes: &[u8], sink: &mut Sink) -> Result<(), Failure> {
    let Some(meta) = parsed(bytes, MetaProperties::parse, sink)? else { return Ok(()) };
    let directory = meta.directory_id.map(|id| id.to_string());
    sink.line(
        || {
            let directory = directory.as_deref().unwrap_or("none");
            format!("cluster {}  node {}  directory {directory}", meta.cluster_id, meta.node_id)
        },
        || json!({ "cluster_id": meta.cluster_id, "node_id": meta.node_id, "directory_id": directory }),
    )
}
