//! What a killed broker had written of a transaction, read off its journals before anybody repairs anything.

use std::collections::BTreeSet;
use std::path::Path;

use ringlog::protocol::Uuid;
use ringlog::record::control::EndTxnMarker;
use ringlog::record::{Decompressor, RecordBatch, batches};
use ringlog::storage::journal::format::{EntryKind, find_blocks};
use ringlog::storage::journal::parse_file_name;

/// How far the end of a transaction had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub state: Option<State>,
    /// Partitions of the topic with the producer's marker.
    pub markers: usize,
}

/// As `__transaction_state` keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Empty,
    Ongoing,
    Prepare { commit: bool },
    Complete { commit: bool },
    Other(u8),
}

/// The producer's markers are told from those of its earlier transactions by their epoch, `epoch_min` at least.
pub struct Wanted<'a> {
    pub transactional_id: &'a str,
    pub producer_id: i64,
    pub epoch_min: i16,
    pub transactions: Uuid,
    pub topic: Uuid,
}

pub fn look(data: &Path, wanted: &Wanted<'_>) -> Found {
    let mut newest: Option<(i64, State)> = None;
    let mut marked = BTreeSet::new();
    for (bytes, incarnation) in files(&data.join(".ringlog")) {
        for block in find_blocks(&bytes, incarnation).iter().filter(|block| block.check(&bytes).is_ok()) {
            for entry in block.entries.iter().filter(|entry| entry.kind == EntryKind::Batches) {
                for batch in batches(block.bytes(&bytes, entry)).map(Result::unwrap) {
                    if entry.topic_id == wanted.transactions
                        && let Some(state) = state_of(&batch, wanted.transactional_id)
                        && newest.is_none_or(|(offset, _)| offset < batch.header().base_offset)
                    {
                        newest = Some((batch.header().base_offset, state));
                    }
                    if entry.topic_id == wanted.topic && is_marker(&batch, wanted) {
                        marked.insert(entry.partition);
                    }
                }
            }
        }
    }
    Found { state: newest.map(|(_, state)| state), markers: marked.len() }
}

fn files(dir: &Path) -> Vec<(Vec<u8>, u64)> {
    let mut found = Vec::new();
    for journal in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if !journal.file_name().to_string_lossy().starts_with("journal-") {
            continue;
        }
        for file in std::fs::read_dir(journal.path()).unwrap().map(Result::unwrap) {
            if let Some((incarnation, _)) = parse_file_name(&file.file_name().to_string_lossy()) {
                found.push((std::fs::read(file.path()).unwrap(), incarnation));
            }
        }
    }
    found
}

fn is_marker(batch: &RecordBatch<'_>, wanted: &Wanted<'_>) -> bool {
    let header = batch.header();
    header.producer_id == wanted.producer_id
        && header.producer_epoch >= wanted.epoch_min
        && EndTxnMarker::of_batch(batch).unwrap().is_some()
}

/// The state in the last record of the id. Key and value both begin with their version; the value goes on with its fields.
fn state_of(batch: &RecordBatch<'_>, transactional_id: &str) -> Option<State> {
    use ringlog::protocol::messages::transaction_log_key::TransactionLogKey;
    use ringlog::protocol::messages::transaction_log_value::TransactionLogValue;
    use ringlog::protocol::{Message, Reader};
    let (mut decompressor, mut scratch) = (Decompressor::new(), Vec::new());
    let mut found = None;
    for record in batch.records(&mut decompressor, &mut scratch, 1 << 20).unwrap().map(Result::unwrap) {
        let mut key = Reader::new(&record.key.unwrap()[2..]);
        if TransactionLogKey::read(&mut key, 0).unwrap().transactional_id != transactional_id {
            continue;
        }
        let mut value = Reader::new(record.value?);
        let version = value.i16("version").unwrap();
        let value = TransactionLogValue::read(&mut value, version).unwrap();
        found = Some(match value.transaction_status {
            0 => State::Empty,
            1 => State::Ongoing,
            2 | 3 => State::Prepare { commit: value.transaction_status == 2 },
            4 | 5 => State::Complete { commit: value.transaction_status == 4 },
            other => State::Other(other as u8),
        });
    }
    found
}
