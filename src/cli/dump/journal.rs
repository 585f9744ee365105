//! A journal file: its blocks, what each holds, and where one is broken.

use serde_json::json;

use super::Sink;
use crate::cli::failure::Failure;
use crate::io::BLOCK_BYTES;
use crate::storage::journal::format::{Entry, EntryKind, FoundBlock, find_blocks};

pub fn dump(bytes: &[u8], incarnation: u64, sink: &mut Sink) -> Result<(), Failure> {
    let blocks = find_blocks(bytes, incarnation);
    let newest = blocks.iter().map(|block| block.seal.sequence).max();
    let live = blocks.iter().map(|block| block.seal.first_live).max().unwrap_or(0);
    sink.line(
        || {
            let found = blocks.len();
            let newest =
                newest.map_or(String::new(), |newest| format!(", newest {newest}, live from {live} on"));
            format!("journal {incarnation:016x}: {} bytes, {found} blocks{newest}", bytes.len())
        },
        || {
            json!({ "journal": {
                "incarnation": format!("{incarnation:016x}"),
                "bytes": bytes.len(),
                "blocks": blocks.len(),
                "newest_sequence": newest,
                "first_live": live,
            } })
        },
    )?;
    let mut end = 0;
    let mut previous: Option<u64> = None;
    for block in &blocks {
        gap(bytes, end, block.start, sink)?;
        // Behind the newest block lie those of the file's use before; they say nothing any more.
        let is_old = previous.is_some_and(|previous| block.seal.sequence < previous);
        show_block(bytes, block, is_old || block.seal.sequence < live, sink)?;
        previous = previous.max(Some(block.seal.sequence));
        end = block.start + block.seal.block_bytes as usize;
    }
    gap(bytes, end, bytes.len(), sink)
}

/// What no block claims: zeros of a file not yet used to its end, the rest of an earlier use, or a torn write.
fn gap(bytes: &[u8], from: usize, to: usize, sink: &mut Sink) -> Result<(), Failure> {
    let Some(piece) = bytes.get(from..to).filter(|piece| !piece.is_empty()) else { return Ok(()) };
    let pages = piece.chunks(BLOCK_BYTES).filter(|page| page.iter().any(|byte| *byte != 0)).count();
    let what = if pages == 0 { "unused" } else { "no block: torn, overwritten in part, or never finished" };
    sink.line(
        || format!("{from:>10}  {} bytes, {what}", piece.len()),
        || json!({ "gap": { "position": from, "bytes": piece.len(), "pages_in_use": pages } }),
    )
}

fn show_block(bytes: &[u8], block: &FoundBlock, is_old: bool, sink: &mut Sink) -> Result<(), Failure> {
    let seal = &block.seal;
    sink.line(
        || {
            let sync = if seal.sync { "  sync" } else { "" };
            let old = if is_old { "  no longer needed" } else { "" };
            format!(
                "{:>10}  block {}  {} bytes  {} of data  {} entries  live from {}{sync}{old}",
                block.start,
                seal.sequence,
                seal.block_bytes,
                seal.data_bytes,
                block.entries.len(),
                seal.first_live
            )
        },
        || {
            json!({ "block": {
                "position": block.start,
                "sequence": seal.sequence,
                "first_live": seal.first_live,
                "block_bytes": seal.block_bytes,
                "data_bytes": seal.data_bytes,
                "entries": block.entries.len(),
                "sync": seal.sync,
                "needed": !is_old,
            } })
        },
    )?;
    for entry in &block.entries {
        show_entry(entry, sink)?;
    }
    match block.check(bytes) {
        Ok(()) => Ok(()),
        // Pages of it may have been written over since.
        Err(reason) if is_old => sink.line(
            || format!("            overwritten in part: {reason}"),
            || json!({ "overwritten": { "sequence": seal.sequence, "reason": reason } }),
        ),
        Err(reason) => sink.damage(block.start as u64, format!("block {}: {reason}", seal.sequence)),
    }
}

fn show_entry(entry: &Entry, sink: &Sink) -> Result<(), Failure> {
    let kind = match entry.kind {
        EntryKind::Batches => "batches",
        EntryKind::LogStart => "log start",
    };
    sink.line(
        || {
            let bytes = if entry.len > 0 { format!("  {} bytes", entry.len) } else { String::new() };
            format!(
                "            {} {} {kind} at offset {}{bytes}",
                entry.topic_id, entry.partition, entry.offset
            )
        },
        || {
            json!({ "entry": {
                "topic_id": entry.topic_id.to_string(),
                "partition": entry.partition,
                "kind": kind,
                "offset": entry.offset,
                "bytes": entry.len,
            } })
        },
    )
}
