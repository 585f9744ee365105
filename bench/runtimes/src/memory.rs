//! The batches kept in memory, for the floor of what a fetch costs: the bytes lie in chunks that a send names by reference,
//! with their offsets assigned as they came. Produce fills it, slowly; fetch is what is measured.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::{self, FETCH, Malformed, PRODUCE, Produce, Request};

/// A chunk ends before the batch that would make it longer, so that a fetch of 1 MiB is one or two pieces.
const CHUNK: usize = 4 << 20;
const BATCH_HEAD: usize = 61;

/// Shared by all threads: what is there is only looked up under the lock, never copied.
pub struct Memory {
    kept: Mutex<Kept>,
    bytes_max: usize,
}

#[derive(Default)]
struct Kept {
    /// By topic and number.
    partitions: BTreeMap<(Vec<u8>, i32), Partition>,
    bytes: usize,
}

#[derive(Default)]
struct Partition {
    next_offset: i64,
    chunks: Vec<Arc<Vec<u8>>>,
    /// Where each batch starts and ends.
    batches: Vec<Batch>,
}

struct Batch {
    last_offset: i64,
    chunk: usize,
    range: Range<usize>,
}

/// Bytes of an answer that lie elsewhere: to be sent behind the first `after` of its own.
pub struct Piece {
    pub after: usize,
    pub chunk: Arc<Vec<u8>>,
    pub range: Range<usize>,
}

impl Memory {
    pub fn new(bytes_max: usize) -> Memory {
        Memory { kept: Mutex::default(), bytes_max }
    }

    /// Answers a request, with the pieces to be sent between the bytes of `out`.
    pub fn answer(&self, frame: &[u8], out: &mut Vec<u8>, pieces: &mut Vec<Piece>) -> Result<(), Malformed> {
        let request = Request::parse(frame)?;
        match request.key {
            PRODUCE => {
                self.keep(&Produce::parse(request.body)?)?;
                wire::answer(frame, out)
            }
            FETCH => self.fetch(&request, out, pieces),
            _ => wire::answer(frame, out),
        }
    }

    fn keep(&self, produce: &Produce) -> Result<(), Malformed> {
        let batch = produce.batch;
        let records = batch.get(23..27).and_then(|delta| delta.first_chunk()).ok_or(Malformed)?;
        let records = i64::from(i32::from_be_bytes(*records)) + 1;
        if batch.len() < BATCH_HEAD || records < 1 {
            return Err(Malformed);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes + batch.len() > self.bytes_max {
            return Err(Malformed);
        }
        kept.bytes += batch.len();
        let partition = kept.partitions.entry((produce.topic.to_vec(), produce.partition)).or_default();
        if partition.chunks.last().is_none_or(|chunk| chunk.len() + batch.len() > CHUNK) {
            partition.chunks.push(Arc::new(Vec::with_capacity(CHUNK.max(batch.len()))));
        }
        let chunk = partition.chunks.last_mut().expect("pushed above");
        if Arc::get_mut(chunk).is_none() {
            // A send has it: what comes now goes into another.
            partition.chunks.push(Arc::new(Vec::with_capacity(CHUNK.max(batch.len()))));
        }
        let at = partition.chunks.len() - 1;
        let bytes = Arc::get_mut(&mut partition.chunks[at]).expect("nobody else has it");
        let start = bytes.len();
        bytes.extend_from_slice(&partition.next_offset.to_be_bytes());
        bytes.extend_from_slice(&batch[8..]);
        partition.next_offset += records;
        let range = start..bytes.len();
        partition.batches.push(Batch { last_offset: partition.next_offset - 1, chunk: at, range });
        Ok(())
    }

    fn fetch(&self, request: &Request, out: &mut Vec<u8>, pieces: &mut Vec<Piece>) -> Result<(), Malformed> {
        let (topic, wanted) = wire::parse_fetch(request.body)?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let start = wire::begin(out, request.correlation);
        wire::begin_fetched(out, topic, wanted.len());
        let mut elsewhere = 0;
        for want in wanted {
            let first = pieces.len();
            let found = kept.partitions.get(&(topic.to_vec(), want.partition));
            let len = found.map_or(0, |partition| partition.pieces(want.offset, want.bytes_max, pieces));
            wire::fetched(out, want.partition, found.map_or(0, |partition| partition.next_offset), len);
            pieces[first..].iter_mut().for_each(|piece| piece.after = out.len());
            elsewhere += len;
        }
        let len = i32::try_from(out.len() - start - 4 + elsewhere).map_err(|_| Malformed)?;
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }
}

impl Partition {
    /// Whole batches from the one with the offset on, up to the limit but at least one; their bytes.
    fn pieces(&self, offset: i64, bytes_max: usize, pieces: &mut Vec<Piece>) -> usize {
        let (first, mut len) = (self.batches.partition_point(|batch| batch.last_offset < offset), 0);
        let begun = pieces.len();
        for batch in &self.batches[first..] {
            if len > 0 && len + batch.range.len() > bytes_max {
                break;
            }
            len += batch.range.len();
            let chunk = &self.chunks[batch.chunk];
            match pieces[begun..].last_mut() {
                Some(last) if Arc::ptr_eq(&last.chunk, chunk) => last.range.end = batch.range.end,
                _ => pieces.push(Piece { after: 0, chunk: chunk.clone(), range: batch.range.clone() }),
            }
        }
        len
    }
}
