//! The journal of one directory: what every append of the shard goes through before it is acknowledged.
//!
//! Appends fill a chunk of memory; what a turn has gathered is sealed as a block ([`format`]) and written in one write.
//! What arrives while writes are in flight forms the next block: group commit without a timer. Several writes may
//! be in flight, acknowledgement is in the order of the blocks. A block's batches are read by consumers from the very
//! memory that was written, small ones from copies of their own ([`chunks`], which also counts what is still needed).
//!
//! Two ways lead to the disk ([`Way`]), each with files of its own: writes of both to one file would drop each other's pages.
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

/// How a block is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Past the page cache: what must be on stable media.
    Direct,
    /// Into the page cache: what must survive the process, not a power cut. No device is waited for, and as the files are written
    /// over again and again, little of it ever reaches one.
    Cached,
}

impl Way {
    pub const ALL: [Way; 2] = [Way::Direct, Way::Cached];
}

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
    way: Way,
    /// Was written with data sync.
    synced_write: bool,
    /// File number and offset, once given.
    place: Option<(u64, u64)>,
    state: BlockState,
    touches: Vec<Touch>,
}

/// A journal file. The queue is in the order of their first blocks; of each way the last that is not closed is being written.
#[derive(Debug)]
struct File {
    number: u64,
    handle: Handle,
    way: Way,
    /// Gets no more blocks.
    closed: bool,
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
    fn new(number: u64, handle: Handle, way: Way) -> File {
        File {
            number,
            handle,
            way,
            closed: false,
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
    /// The way of blocks that need not survive a power cut.
    plain_way: Way,

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
    file_requested: Option<Way>,
    /// A block waits for a file, be the last one ever so empty.
    file_wanted: Option<Way>,
    next_file_number: u64,
    spare_touches: Vec<Vec<Touch>>,
}

impl Journal {
    pub fn new(incarnation: u64, file_bytes: u64, plain_way: Way) -> Journal {
        Journal {
            incarnation,
            file_bytes,
            plain_way,
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
            file_requested: None,
            file_wanted: None,
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
            way: if self.sync { Way::Direct } else { self.plain_way },
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

    /// Gives a block its place: behind the last one of its way, or at the front of a fresh file.
    fn place(&mut self, index: usize) -> Option<(u64, u64)> {
        let block = &self.blocks[index];
        let len = block.data.len() as u64;
        let way = block.way;
        let fits = |file: &File| file.used_bytes == 0 || file.used_bytes + len <= self.file_bytes;
        if !self.current_file(way).is_some_and(fits) {
            let Some(spare) = self.spare_files.iter().rposition(|file| file.way == way) else {
                self.file_wanted = Some(way);
                return None;
            };
            self.file_wanted = None;
            let mut file = self.spare_files.swap_remove(spare);
            file.used_bytes = 0;
            file.closed = false;
            file.first_sequence = block.sequence;
            self.files.push_back(file);
        }
        let file = self.files.iter_mut().rfind(|file| file.way == way)?;
        let offset = file.used_bytes;
        file.used_bytes += len;
        file.note(&block.touches);
        Some((file.number, offset))
    }

    /// The file that the blocks of a way go to.
    fn current_file(&self, way: Way) -> Option<&File> {
        self.files.iter().rfind(|file| file.way == way).filter(|file| !file.closed)
    }

    /// Of which way another file should be made ready: a block waits for it, or the one in use is half full.
    pub fn wants_file(&self) -> Option<Way> {
        let wanted = |way: &Way| {
            let half_full = |file: &File| file.used_bytes * 2 >= self.file_bytes;
            let soon = self.file_wanted == Some(*way) || self.current_file(*way).is_some_and(half_full);
            soon && !self.spare_files.iter().any(|file| file.way == *way)
        };
        if self.file_requested.is_some() { None } else { Way::ALL.into_iter().find(wanted) }
    }

    /// The name of the file to create; [`Journal::add_file`] follows.
    pub fn request_file(&mut self, way: Way) -> String {
        self.file_requested = Some(way);
        file_name(self.incarnation, self.next_file_number, way)
    }

    pub fn add_file(&mut self, handle: Handle) {
        let way = self.file_requested.take().expect("a file was requested");
        self.spare_files.push(File::new(self.next_file_number, handle, way));
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

    /// The last of the files that can be freed, which are all but the newest, and the logs whose data in them must be on stable
    /// media before. They get no more blocks: one that is seldom written to would keep all behind it.
    pub fn checkpoint(&mut self) -> (Option<u64>, Vec<(LogId, i64)>) {
        let old = self.files.len().saturating_sub(1);
        for file in self.files.iter_mut().take(old) {
            file.closed = true;
        }
        let mut logs: Vec<(LogId, i64)> =
            self.files.iter().take(old).flat_map(|file| file.logs.iter().copied()).collect();
        compact(&mut logs);
        (old.checked_sub(1).map(|last| self.files[last].number), logs)
    }

    /// Frees the files up to number `last` after their checkpoint, and keeps so many of each way. Returns the names and handles
    /// of the others.
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
                let alike = self.spare_files.iter().filter(|spare| spare.way == file.way).count();
                if alike < keep {
                    self.spare_files.push(file);
                } else {
                    surplus.push((file_name(self.incarnation, file.number, file.way), file.handle));
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
        files.map(|file| (file_name(self.incarnation, file.number, file.way), file.handle)).collect()
    }
}

/// The name of a journal file; the incarnation in it authenticates its blocks.
pub fn file_name(incarnation: u64, number: u64, way: Way) -> String {
    let suffix = match way {
        Way::Direct => "journal",
        Way::Cached => "cached.journal",
    };
    format!("{incarnation:016x}-{number:08}.{suffix}")
}

/// The incarnation in a file name, and its way; `None` when it is no journal's.
pub fn parse_file_name(name: &str) -> Option<(u64, Way)> {
    let name = name.strip_suffix(".journal")?;
    let (name, way) = match name.strip_suffix(".cached") {
        Some(name) => (name, Way::Cached),
        None => (name, Way::Direct),
    };
    let (incarnation, number) = name.split_once('-')?;
    number.parse::<u64>().ok()?;
    let incarnation = (incarnation.len() == 16).then(|| u64::from_str_radix(incarnation, 16).ok())??;
    Some((incarnation, way))
}

#[cfg(test)]
mod tests {
    use super::format::find_blocks;
    use super::*;

    #[test]
    fn blocks_sealed_before_the_first_file_is_there_are_live() {
        let mut journal = Journal::new(7, 1 << 20, Way::Direct);
        journal.add_chunk(AlignedBuf::unbudgeted(CHUNK_BYTES));
        for offset in 0..3 {
            journal.append(Uuid([1; 16]), 0, offset, 100, |space| space.fill(9));
            journal.seal();
        }
        assert!(journal.next_write().is_none(), "nowhere to go yet");
        journal.request_file(Way::Direct);
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

    /// A journal with a file of each way, and the block that one append gives.
    fn journal() -> Journal {
        let mut journal = Journal::new(7, 1 << 20, Way::Cached);
        for (index, way) in Way::ALL.into_iter().enumerate() {
            journal.request_file(way);
            journal.add_file(Handle(index as u32));
        }
        journal.add_chunk(AlignedBuf::unbudgeted(CHUNK_BYTES));
        journal
    }

    fn block(journal: &mut Journal, offset: i64, sync: bool) -> BlockWrite {
        if !journal.fits(100) {
            journal.add_chunk(AlignedBuf::unbudgeted(CHUNK_BYTES));
        }
        journal.append(Uuid([1; 16]), 0, offset, 100, |space| space.fill(9));
        let touch =
            Touch { log: LogId { slot: 0, generation: 0 }, end_offset: offset + 1, start_offset: None };
        journal.touch(touch, (0, 0), sync);
        journal.seal();
        journal.next_write().unwrap()
    }

    fn acknowledged(journal: &mut Journal) -> Vec<i64> {
        let mut ends = Vec::new();
        while let Some(touches) = journal.next_acknowledged() {
            ends.extend(touches.iter().map(|touch| touch.end_offset));
        }
        ends
    }

    #[test]
    fn each_way_has_its_file_and_acknowledgement_stays_in_order() {
        let mut journal = journal();
        let writes: Vec<BlockWrite> =
            [(0, false), (1, true), (2, false)].map(|(at, sync)| block(&mut journal, at, sync)).into();
        let (direct, cached) = (Handle(0), Handle(1));
        assert_eq!(writes.iter().map(|write| write.file).collect::<Vec<_>>(), [cached, direct, cached]);
        assert_eq!(writes[2].offset as usize, writes[0].data.len(), "behind the last of its way");
        assert!(!writes[1].sync, "what lies before it is on no stable media yet");
        journal.written(writes[2].sequence, true);
        journal.written(writes[1].sequence, true);
        assert!(acknowledged(&mut journal).is_empty());
        journal.written(writes[0].sequence, true);
        assert_eq!(acknowledged(&mut journal), [1]);
        // The durable one waits for both files.
        assert_eq!(journal.next_sync().unwrap(), [cached, direct]);
        journal.file_synced();
        assert!(acknowledged(&mut journal).is_empty());
        journal.file_synced();
        assert_eq!(acknowledged(&mut journal), [2, 3]);
    }

    #[test]
    fn a_file_that_is_seldom_written_to_is_freed_with_those_behind_it() {
        let mut journal = journal();
        let first = block(&mut journal, 0, true);
        journal.written(first.sequence, true);
        for offset in 1..400 {
            if let Some(way) = journal.wants_file() {
                assert_eq!(way, Way::Cached, "the other is nearly empty");
                journal.request_file(way);
                journal.add_file(Handle(1 + offset as u32));
            }
            let write = block(&mut journal, offset, false);
            journal.written(write.sequence, true);
        }
        acknowledged(&mut journal);
        let before = journal.used_bytes();
        let (last, logs) = journal.checkpoint();
        assert_eq!(logs.len(), 1);
        // What comes while the checkpoint is under way is not in it, so it must not be where it is thrown away.
        journal.request_file(Way::Direct);
        journal.add_file(Handle(1000));
        let next = block(&mut journal, 400, true);
        assert_eq!((next.file, next.offset), (Handle(1000), 0));
        journal.written(next.sequence, true);
        assert!(journal.free_files(last.unwrap(), 8).is_empty());
        assert!(journal.used_bytes() <= 1 << 20 && before > 1 << 20, "{before}, {}", journal.used_bytes());
        assert_eq!(journal.files.back().unwrap().handle, Handle(1000));
    }
}
