//! What a reader of committed data needs to know of a log: where its stable part ends, and the aborted transactions to skip in it.
//!
//! The aborted transactions lie in the segments' `.txnindex` files, and, until they are known to be there, in memory. The files are read through
//! the cache like other indexes; unlike those they must not be damaged, as there is no other way to know.

use super::cache::PieceKey;
use super::names::FileKind;
use super::producer_state::ProducerState;
use super::segment::Segment;
use super::store::Storage;
use super::transaction_index::{self, AbortedTxn};
use super::types::*;
use crate::io::Io;
use crate::io::buffer::Slice;

impl Storage {
    /// Where read-committed readers stop: the first offset of an open transaction, or the high watermark. What was deleted of a
    /// transaction does not hold them.
    pub fn last_stable_offset(&self, log: LogId) -> Option<i64> {
        let log = self.logs.get(log)?;
        let unstable = log.producers.first_unstable_offset().unwrap_or(i64::MAX);
        Some(log.high_watermark.min(unstable.max(log.log_start_offset)))
    }

    /// The producers that a log knows.
    pub fn producers(&self, log: LogId) -> Option<&ProducerState> {
        self.logs.get(log).map(|log| &log.producers)
    }

    /// Adds to `out` the aborted transactions that have records from `from` on to before `to`. False while an index is being
    /// read: [`Event::ReadReady`] tells when to call again.
    pub fn aborted_transactions(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        from: i64,
        to: i64,
        out: &mut Vec<AbortedTxn>,
    ) -> Result<bool, ReadError> {
        let state = self.readable(log)?;
        let first = state.find_segment(from).unwrap_or(0);
        let with_entries = state.segments.iter().skip(first).filter(|segment| segment.entries.aborted > 0);
        let bases: Vec<i64> = with_entries.map(|segment| segment.base_offset).collect();
        for base_offset in bases {
            let Some(bytes) = self.aborted_of_segment(io, log, base_offset)? else { return Ok(false) };
            if transaction_index::collect(&bytes, from, to, out) {
                break;
            }
        }
        Ok(true)
    }

    /// All entries of a segment; `None` while its file is being read.
    fn aborted_of_segment(
        &mut self,
        io: &mut impl Io,
        id: LogId,
        base_offset: i64,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let kind = FileKind::TransactionIndex;
        let flushed = {
            let log = self.logs.get_mut(id).ok_or(ReadError::UnknownLog)?;
            let Some(segment) = log.segment_mut(base_offset) else { return Ok(Some(Vec::new())) };
            segment.flushed_entries.bytes(kind) as usize
        };
        let mut bytes = Vec::new();
        if flushed > 0 {
            let Some(file) = self.index(io, id, base_offset, kind)? else { return Ok(None) };
            let Some(known) = file.get(..flushed) else {
                return self.read_again(io, id, base_offset, file.len());
            };
            bytes.extend_from_slice(known);
        }
        let log = self.logs.get_mut(id).ok_or(ReadError::UnknownLog)?;
        if let Some(segment) = log.segment_mut(base_offset) {
            bytes.extend_from_slice(&segment.pending.aborted);
        }
        Ok(Some(bytes))
    }

    /// The index was read before its last entries were written. Should it be no longer the next time, it is damaged.
    fn read_again(
        &mut self,
        io: &mut impl Io,
        id: LogId,
        base_offset: i64,
        len: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let kind = FileKind::TransactionIndex;
        self.cache.remove(PieceKey { log: id, segment: base_offset, kind, start: 0 });
        let log = self.logs.get_mut(id).ok_or(ReadError::UnknownLog)?;
        let tp = log.tp.clone();
        let segment = log.segment_mut(base_offset).ok_or(ReadError::OutOfRange)?;
        if segment.short_index.replace(len) == Some(len) {
            segment.short_index = None;
            tracing::error!(log = %tp, segment = base_offset, "the index of aborted transactions is too short");
            return Err(ReadError::Storage);
        }
        self.index(io, id, base_offset, kind)?;
        Ok(None)
    }
}

/// What a disk read of an index has brought, if it can be right. An index that has grown since is read again by whoever needs more.
pub(super) fn usable(bytes: Slice, segment: &Segment) -> Result<Slice, String> {
    let whole = bytes.len() - bytes.len() % transaction_index::ENTRY_BYTES;
    let bytes = bytes.slice(0, whole);
    transaction_index::check(&bytes, segment.base_offset)
        .map_err(|error| format!("the index of aborted transactions: {error}"))?;
    if bytes.is_empty() && segment.flushed_entries.aborted > 0 {
        return Err("the index of aborted transactions is empty".to_string());
    }
    Ok(bytes)
}
