//! The journal of one directory: what every append of the shard goes through before it is acknowledged.
//!
//! Appends fill a chunk of memory; what a turn has gathered is sealed as a block ([`format`]) and written in one direct
//! write. What arrives while writes are in flight forms the next block: group commit without a timer. Several writes may
//! be in flight, acknowledgement is in the order of the blocks. A block's batches are read by consumers from the very
//! memory that was written, small ones from copies of their own ([`chunks`], which also counts what is still needed).
//!
//! Durable blocks: a write with data sync covers itself alone, so it is used only when everything before it is on
//! stable media; otherwise the file is synced after the write. A failed sync is never repeated: the directory fails.
//! No space: the block keeps its place and is written again after a while; nothing was acknowledged, so nothing is
//! taken back, and new appends are refused meanwhile.
//!
//! Called by `Storage` alone, which owns the operations' results.

mod chunks;
pub mod format;

use std::collections::VecDeque;

use self::chunks::Chunks;
use self::format::{Directory, Seal};
use super::types::LogId;
use crate::io::buffer::{AlignedBuf, AppendBuf, Slice};
use crate::io::{BLOCK_BYTES, Handle};
use crate::protocol::Uuid;

/// The size of a chunk of journal memory and the largest usual block.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Direct writes in flight; fewer when they sync, as each then waits for the device anyway.
const WRITES_MAX: usize = 4;
const SYNC_WRITES_MAX: usize = 2;
/// A chunk with less room than this is left.
const CHUNK_ROOM_MIN: usize = 2 * BLOCK_BYTES;

/// A log's part in a block: its end offset after it, and its new start where one was set.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    pub log: LogId,
    pub end_offset: i64,
    pub start_offset: Option<i64>,
}

/// Where an append landed.
#[derive(Debug)]
pub struct Placed {
    pub slice: Slice,
    pub chunk: u64,
}

/// A write to submit.
#[derive(Debug)]
pub struct BlockWrite {
    pub sequence: u64,
    pub file: Handle,
    pub offset: u64,
    pub data: Slice,
    pub sync: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockState {
    Waiting,
    InFlight,
    Written,
}

#[derive(Debug)]
struct Block {
    sequence: u64,
    data: Slice,
    chunk: u64,
    /// Must be on stable media before it is acknowledged.
    sync: bool,
    /// Was written with data sync.
    synced_write: bool,
    /// File number and offset, once given.
    place: Option<(u64, u64)>,
    state: BlockState,
    touches: Vec<Touch>,
}

/// A journal file. The oldest is at the front of the queue, the one being written at the back.
#[derive(Debug)]
struct File {
    number: u64,
    handle: Handle,
    /// Bytes given to blocks.
    used_bytes: u64,
    first_sequence: u64,
    in_flight: u32,
    /// Holds completed writes that nothing has synced.
    unsynced: bool,
    /// The logs with data in it and their last end offset; compacted when it has doubled.
    logs: Vec<(LogId, i64)>,
    compact_at: usize,
}

impl File {
    fn new(number: u64, handle: Handle) -> File {
        File {
            number,
            handle,
            used_bytes: 0,
            first_sequence: 0,
            in_flight: 0,
            unsynced: false,
            logs: Vec::new(),
            compact_at: 1024,
        }
    }

    fn note(&mut self, touches: &[Touch]) {
        self.logs.extend(touches.iter().map(|touch| (touch.log, touch.end_offset)));
        if self.logs.len() >= self.compact_at {
            compact(&mut self.logs);
            self.compact_at = (self.logs.len() * 2).max(1024);
        }
    }
}

/// Keeps the largest end offset of each log.
fn compact(logs: &mut Vec<(LogId, i64)>) {
    logs.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    logs.dedup_by_key(|entry| entry.0);
}

#[derive(Debug)]
struct SyncRound {
    /// Blocks below this are on stable media when it ends.
    upto: u64,
    outstanding: usize,
}

#[derive(Debug)]
pub struct Journal {
    incarnation: u64,
    file_bytes: u64,

    /// What is being filled, and its number.
    chunk: Option<(u64, AppendBuf)>,
    /// Where the block being filled begins in the chunk.
    block_start: usize,
    directory: Directory,
    touches: Vec<Touch>,
    sync: bool,
    /// The number of the block being filled.
    sequence: u64,

    chunks: Chunks,

    /// Sealed and not yet acknowledged.
    blocks: VecDeque<Block>,
    in_flight: usize,
    /// Blocks below this have been written.
    written: u64,
    /// Blocks below this are on stable media.
    synced: u64,
    /// The last block written without data sync.
    last_plain: Option<u64>,
    sync_round: Option<SyncRound>,
    /// Writes that found no space and wait for another try.
    stalled: bool,

    files: VecDeque<File>,
    spare_files: Vec<File>,
    file_requested: bool,
    /// A block waits for a file, be the last one ever so empty.
    file_wanted: bool,
    next_file_number: u64,
    spare_touches: Vec<Vec<Touch>>,
}

impl Journal {
    pub fn new(incarnation: u64, file_bytes: u64) -> Journal {
        Journal {
            incarnation,
            file_bytes,
            chunk: None,
            block_start: 0,
            directory: Directory::default(),
            touches: Vec::new(),
            sync: false,
            sequence: 1,
            chunks: Chunks::default(),
            blocks: VecDeque::new(),
            in_flight: 0,
            written: 1,
            synced: 1,
            last_plain: None,
            sync_round: None,
            stalled: false,
            files: VecDeque::new(),
            spare_files: Vec::new(),
            file_requested: false,
            file_wanted: false,
            next_file_number: 0,
            spare_touches: Vec::new(),
        }
    }

    // ---- filling ----

    /// Whether a batch of `len` bytes fits the chunk as it is; if not, give one to [`Journal::add_chunk`] first.
    pub fn fits(&self, len: usize) -> bool {
        let Some((_, chunk)) = &self.chunk else { return false };
        let data_bytes = chunk.len() - self.block_start + len;
        self.directory.block_bytes(data_bytes, 1) <= chunk.capacity() - self.block_start
    }

    /// The size of the chunk that a batch of `len` bytes needs.
    pub fn chunk_bytes(len: usize) -> usize {
        Directory::default().block_bytes(len, 1).max(CHUNK_BYTES)
    }

    /// Seals the block being filled and goes on in `buf`.
    pub fn add_chunk(&mut self, buf: AlignedBuf) {
        self.seal();
        self.leave_chunk();
        self.chunk = Some((self.chunks.open(buf.len()), AppendBuf::new(buf)));
        self.block_start = 0;
    }

    /// Whether a batch of `len` bytes had better be copied for its log's tail, and [`Journal::add_tail_memory`] be called first.
    pub fn lacks_tail_memory(&self, len: usize) -> bool {
        self.chunks.lacks_memory(len)
    }

    pub fn add_tail_memory(&mut self, buf: AlignedBuf) {
        self.chunks.add_memory(buf);
    }

    /// Appends a batch of `len` bytes, written by `fill`, which fits.
    pub fn append(
        &mut self,
        topic_id: Uuid,
        partition: i32,
        offset: i64,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Placed {
        let (number, chunk) = self.chunk.as_mut().expect("the caller has made room");
        let position = (chunk.len() - self.block_start) as u32;
        let slice = chunk.append_with(len, fill);
        self.directory.push_batch(topic_id, partition, position, &slice, offset);
        self.chunks.keep(*number, slice)
    }

    /// Notes a new log start in the block being filled, for which [`Journal::fits`] an empty batch.
    pub fn append_log_start(&mut self, topic_id: Uuid, partition: i32, offset: i64) {
        self.directory.push_log_start(topic_id, partition, offset);
    }

    /// Notes the log's end after what was appended for it. `last` is what the call before gave for this log.
    pub fn touch(&mut self, touch: Touch, last: (u64, u32), sync: bool) -> (u64, u32) {
        self.sync |= sync;
        if last.0 == self.sequence {
            let known = &mut self.touches[last.1 as usize];
            known.end_offset = touch.end_offset;
            known.start_offset = touch.start_offset.or(known.start_offset);
            return last;
        }
        self.touches.push(touch);
        (self.sequence, self.touches.len() as u32 - 1)
    }

    /// Says that `bytes` of a chunk back no tail any more.
    pub fn release(&mut self, chunk: u64, bytes: usize) {
        self.chunks.release(chunk, bytes);
    }

    /// The memory of the chunks that logs or blocks still need, and of those being filled.
    pub fn pinned_bytes(&self) -> usize {
        self.chunks.pinned_bytes()
    }

    fn leave_chunk(&mut self) {
        if let Some((number, _)) = self.chunk.take() {
            self.chunks.close(number);
        }
    }

    /// Whether a sealed block could be written at once.
    pub fn wants_seal(&self) -> bool {
        let max = if self.sync { SYNC_WRITES_MAX } else { WRITES_MAX };
        !self.directory.is_empty() && !self.stalled && self.blocks_unwritten() < max
    }

    fn blocks_unwritten(&self) -> usize {
        (self.sequence - self.written) as usize
    }

    /// Ends the block being filled and queues it for writing.
    pub fn seal(&mut self) {
        let first_live = self.first_live();
        let Some((number, chunk)) = self.chunk.as_mut() else { return };
        if self.directory.is_empty() {
            return;
        }
        let data_bytes = chunk.len() - self.block_start;
        let block_bytes = self.directory.block_bytes(data_bytes, 0);
        let seal = Seal {
            incarnation: self.incarnation,
            sequence: self.sequence,
            first_live,
            block_bytes: block_bytes as u32,
            data_bytes: data_bytes as u32,
            sync: self.sync,
        };
        let directory = &self.directory;
        chunk.append_with(block_bytes - data_bytes, |space| directory.write(&seal, space));
        let data = chunk.filled().slice(self.block_start, block_bytes);
        self.block_start = chunk.len();
        // It is needed until it has been written.
        self.chunks.hold(*number, block_bytes);
        let touches = std::mem::replace(&mut self.touches, self.spare_touches.pop().unwrap_or_default());
        self.blocks.push_back(Block {
            sequence: self.sequence,
            data,
            chunk: *number,
            sync: self.sync,
            synced_write: false,
            place: None,
            state: BlockState::Waiting,
            touches,
        });
        self.sequence += 1;
        self.directory.clear();
        self.sync = false;
        if chunk.remaining() < CHUNK_ROOM_MIN {
            self.leave_chunk();
        }
    }

    /// The oldest block that a recovery has to look at. Blocks sealed before the first file is there are all of them live.
    fn first_live(&self) -> u64 {
        let of_files = self.files.front().map(|file| file.first_sequence);
        let of_blocks = self.blocks.front().map_or(self.sequence, |block| block.sequence);
        of_files.unwrap_or(of_blocks)
    }

    // ---- writing ----

    /// The next write that may start now.
    pub fn next_write(&mut self) -> Option<BlockWrite> {
        let index = self.blocks.iter().position(|block| block.state == BlockState::Waiting)?;
        let sync = self.blocks[index].sync;
        if self.stalled || self.in_flight >= if sync { SYNC_WRITES_MAX } else { WRITES_MAX } {
            return None;
        }
        let (number, offset) = match self.blocks[index].place {
            Some(place) => place,
            None => self.place(index)?,
        };
        let everything_synced = self.last_plain.is_none_or(|plain| plain < self.synced);
        let file = self.files.iter_mut().find(|file| file.number == number)?;
        let block = &mut self.blocks[index];
        block.place = Some((number, offset));
        block.state = BlockState::InFlight;
        block.synced_write = sync && everything_synced;
        if !block.synced_write {
            self.last_plain = self.last_plain.max(Some(block.sequence));
        }
        file.in_flight += 1;
        self.in_flight += 1;
        let (sequence, data) = (block.sequence, block.data.clone());
        Some(BlockWrite { sequence, file: file.handle, offset, data, sync: block.synced_write })
    }

    /// Gives a block its place: behind the last one, or at the front of a fresh file.
    fn place(&mut self, index: usize) -> Option<(u64, u64)> {
        let block = &self.blocks[index];
        let len = block.data.len() as u64;
        let full = |file: &File| file.used_bytes > 0 && file.used_bytes + len > self.file_bytes;
        if self.files.back().is_none_or(full) {
            self.file_wanted = self.spare_files.is_empty();
            let mut file = self.spare_files.pop()?;
            file.used_bytes = 0;
            file.first_sequence = block.sequence;
            self.files.push_back(file);
        }
        let file = self.files.back_mut()?;
        let offset = file.used_bytes;
        file.used_bytes += len;
        file.note(&block.touches);
        Some((file.number, offset))
    }

    /// Whether another file should be made ready: the one in use is half full, or there is none.
    pub fn wants_file(&self) -> bool {
        let half_full = self.files.back().is_none_or(|file| file.used_bytes * 2 >= self.file_bytes);
        (half_full || self.file_wanted) && self.spare_files.is_empty() && !self.file_requested
    }

    /// The name of the file to create; [`Journal::add_file`] follows.
    pub fn request_file(&mut self) -> String {
        self.file_requested = true;
        file_name(self.incarnation, self.next_file_number)
    }

    pub fn add_file(&mut self, handle: Handle) {
        self.file_requested = false;
        self.spare_files.push(File::new(self.next_file_number, handle));
        self.next_file_number += 1;
    }

    /// The bytes of all files that hold blocks.
    pub fn used_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.used_bytes).sum()
    }

    /// A write has ended. `Ok(false)`: no space, it will be tried again.
    pub fn written(&mut self, sequence: u64, stored: bool) {
        self.in_flight -= 1;
        let Some(front) = self.blocks.front().map(|block| block.sequence) else { return };
        let block = &mut self.blocks[(sequence - front) as usize];
        let number = block.place.map_or(u64::MAX, |place| place.0);
        if let Some(file) = self.files.iter_mut().find(|file| file.number == number) {
            file.in_flight -= 1;
            file.unsynced |= stored && !block.synced_write;
        }
        if stored {
            block.state = BlockState::Written;
            self.advance_written();
        } else {
            block.state = BlockState::Waiting;
            self.stalled = true;
        }
    }

    fn advance_written(&mut self) {
        let Some(front) = self.blocks.front().map(|block| block.sequence) else { return };
        while let Some(block) = self.blocks.get((self.written - front) as usize)
            && block.state == BlockState::Written
        {
            self.written += 1;
        }
        self.advance_synced();
    }

    /// Writes with data sync need no round as long as nothing plain lies before them.
    fn advance_synced(&mut self) {
        let Some(front) = self.blocks.front().map(|block| block.sequence) else { return };
        while self.synced >= front
            && self.synced < self.written
            && self.blocks[(self.synced - front) as usize].synced_write
        {
            self.synced += 1;
        }
    }

    /// The files to sync when a durable block needs it now.
    pub fn next_sync(&mut self) -> Option<Vec<Handle>> {
        if self.sync_round.is_some() {
            return None;
        }
        let upto = self.written;
        let needed = |block: &Block| block.sync && (self.synced..upto).contains(&block.sequence);
        if !self.blocks.iter().any(needed) {
            return None;
        }
        let mut handles = Vec::new();
        for file in self.files.iter_mut().filter(|file| file.unsynced) {
            file.unsynced = false;
            handles.push(file.handle);
        }
        if handles.is_empty() {
            // All of it lies in files that were checkpointed and reused since.
            self.synced = upto;
            return None;
        }
        self.sync_round = Some(SyncRound { upto, outstanding: handles.len() });
        Some(handles)
    }

    /// One of the syncs has succeeded.
    pub fn file_synced(&mut self) {
        let Some(round) = self.sync_round.as_mut() else { return };
        round.outstanding -= 1;
        if round.outstanding == 0 {
            self.synced = self.synced.max(round.upto);
            self.sync_round = None;
            self.advance_synced();
        }
    }

    /// Takes the logs' parts in the next block that may be acknowledged; hand the list back to [`Journal::recycle_touches`].
    pub fn next_acknowledged(&mut self) -> Option<Vec<Touch>> {
        let block = self.blocks.front()?;
        let ready = block.sequence < self.written && (!block.sync || block.sequence < self.synced);
        if !ready {
            return None;
        }
        let block = self.blocks.pop_front()?;
        self.chunks.release(block.chunk, block.data.len());
        Some(block.touches)
    }

    pub fn recycle_touches(&mut self, mut touches: Vec<Touch>) {
        touches.clear();
        if self.spare_touches.len() < 16 {
            self.spare_touches.push(touches);
        }
    }

    /// Whether the last write found no space.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Lets the refused writes be tried again.
    pub fn retry(&mut self) {
        self.stalled = false;
    }

    /// Whether everything appended has been acknowledged.
    pub fn is_idle(&self) -> bool {
        self.directory.is_empty() && self.blocks.is_empty() && self.sync_round.is_none()
    }

    // ---- reuse of files ----

    /// The files but the one in use, and the logs whose data in them must be on stable media before they are reused.
    pub fn checkpoint(&self) -> (Option<u64>, Vec<(LogId, i64)>) {
        let full = self.files.len().saturating_sub(1);
        let mut logs: Vec<(LogId, i64)> =
            self.files.iter().take(full).flat_map(|file| file.logs.iter().copied()).collect();
        compact(&mut logs);
        (full.checked_sub(1).map(|last| self.files[last].number), logs)
    }

    /// Frees the files up to number `last` after their checkpoint. Returns the names and handles of those not kept.
    pub fn free_files(&mut self, last: u64, keep: usize) -> Vec<(String, Handle)> {
        let mut surplus = Vec::new();
        while let Some(file) = self.files.front()
            && file.in_flight == 0
            && self.files.len() > 1
        {
            let is_last = file.number == last;
            if let Some(mut file) = self.files.pop_front() {
                file.logs.clear();
                file.unsynced = false;
                if self.spare_files.len() < keep {
                    self.spare_files.push(file);
                } else {
                    surplus.push((file_name(self.incarnation, file.number), file.handle));
                }
            }
            if is_last {
                break;
            }
        }
        surplus
    }

    /// Every file, at the end: its name and handle.
    pub fn take_files(&mut self) -> Vec<(String, Handle)> {
        let files = self.files.drain(..).chain(self.spare_files.drain(..));
        files.map(|file| (file_name(self.incarnation, file.number), file.handle)).collect()
    }
}

/// The name of a journal file; the incarnation in it authenticates its blocks.
pub fn file_name(incarnation: u64, number: u64) -> String {
    format!("{incarnation:016x}-{number:08}.journal")
}

/// The incarnation in a file name; `None` when it is no journal's.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let (incarnation, number) = name.strip_suffix(".journal")?.split_once('-')?;
    number.parse::<u64>().ok()?;
    (incarnation.len() == 16).then(|| u64::from_str_radix(incarnation, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::format::find_blocks;
    use super::*;

    #[test]
    fn blocks_sealed_before_the_first_file_is_there_are_live() {
        let mut journal = Journal::new(7, 1 << 20);
        journal.add_chunk(AlignedBuf::unbudgeted(CHUNK_BYTES));
        for offset in 0..3 {
            journal.append(Uuid([1; 16]), 0, offset, 100, |space| space.fill(9));
            journal.seal();
        }
        assert!(journal.next_write().is_none(), "nowhere to go yet");
        journal.add_file(Handle(1));
        let mut file = Vec::new();
        while let Some(write) = journal.next_write() {
            assert_eq!(write.offset as usize, file.len());
            file.extend_from_slice(&write.data);
        }
        let live: Vec<(u64, u64)> =
            find_blocks(&file, 7).iter().map(|block| (block.seal.sequence, block.seal.first_live)).collect();
        assert_eq!(live, [(1, 1), (2, 1), (3, 1)]);
    }
}
