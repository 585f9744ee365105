//! Appends that wait for room in the journal, in their order.

use super::Broker;
use super::mail::{Answer, Query, Task};
use crate::io::Io;
use crate::protocol::ErrorCode;

/// Bytes of appends that may wait: for room, or to be part of their transaction.
pub const STALLED_BYTES_MAX: usize = 64 << 20;

impl Broker {
    /// Keeps an append until the journal has room again; beyond the limit it is refused, and the client tries again.
    pub(super) fn stall(&mut self, task: Task<'_>) -> Option<Answer> {
        let Query::Produce(produce) = &task.query else { return None };
        let bytes = produce.records.len();
        if self.stalled_bytes + bytes > STALLED_BYTES_MAX {
            return Some(Answer::Error(ErrorCode::RequestTimedOut));
        }
        let key = (task.topic_id, task.partition);
        let partition = self.partitions.find(key.0, key.1)?;
        if partition.stalled.is_empty() {
            self.stalled.push(key);
        }
        partition.stalled.push_back(task.into_owned());
        self.stalled_bytes += bytes;
        None
    }

    pub(super) fn retry_stalled(&mut self, io: &mut impl Io) {
        for (topic_id, index) in std::mem::take(&mut self.stalled) {
            let Some(partition) = self.partitions.find(topic_id, index) else { continue };
            if !self.storage.has_room(partition.log) {
                self.stalled.push((topic_id, index));
                continue;
            }
            for task in std::mem::take(&mut partition.stalled) {
                self.stalled_bytes -= task.produce_bytes();
                self.execute(io, task);
            }
        }
    }
}
