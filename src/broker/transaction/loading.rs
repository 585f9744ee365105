//! Rebuilds a partition's ids from its records, in the order of the log. Records that cannot be read are counted and left alone.

use std::sync::Arc;

use super::Now;
use super::coordinator::{Partition, Transaction};
use super::records::TransactionRecord;
use crate::record::{Decompressor, RecordBatch, batches};

/// The most a compressed batch may unpack to.
const UNPACKED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// What loading needs to keep from batch to batch.
#[derive(Default)]
pub struct Loader {
    decompressor: Decompressor,
    scratch: Vec<u8>,
    /// Records and batches that could not be read.
    pub unreadable: u64,
}

impl Loader {
    pub fn load(&mut self, partition: &mut Partition, bytes: &[u8], now: Now) {
        for batch in batches(bytes) {
            match batch {
                Ok(batch) => self.load_batch(partition, &batch, now),
                Err(_) => self.unreadable += 1,
            }
        }
    }

    fn load_batch(&mut self, partition: &mut Partition, batch: &RecordBatch<'_>, now: Now) {
        if batch.header().is_control() {
            return;
        }
        let Ok(records) = batch.records(&mut self.decompressor, &mut self.scratch, UNPACKED_BYTES_MAX) else {
            self.unreadable += 1;
            return;
        };
        for record in records {
            let Ok(record) = record else {
                self.unreadable += 1;
                return;
            };
            match TransactionRecord::parse(record.key, record.value) {
                Some(TransactionRecord::Id { transactional_id, metadata: None }) => {
                    partition.transactions.remove(&*transactional_id);
                }
                Some(TransactionRecord::Id { transactional_id, metadata: Some(metadata) }) => {
                    let idle_ms = now.wall_ms.saturating_sub(metadata.last_update_timestamp_ms).max(0);
                    let idle_since_ms = now.monotonic_ms.saturating_sub(idle_ms);
                    let id: Arc<str> = match partition.transactions.get_key_value(&*transactional_id) {
                        Some((id, _)) => id.clone(),
                        None => transactional_id.into(),
                    };
                    partition.transactions.insert(id, Transaction::new(*metadata, idle_since_ms));
                }
                Some(TransactionRecord::Other) => {}
                None => self.unreadable += 1,
            }
        }
    }
}
