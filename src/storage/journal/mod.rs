//! The journal of one directory: what every append of the shard goes through before it is acknowledged.
//!
//! Appends fill a chunk of memory; what a turn has gathered is sealed as a block ([`format`]) and written in one write.
//! What arrives while writes are in flight forms the next block: group commit without a timer. Several writes may
//! be in flight, acknowledgement is in the order of the blocks. A block's batches are read by consumers from the very
//! memory that was written, small ones from copies of their own ([`chunks`], which also counts what is still needed).
//!
//! Two ways lead to the disk ([`Way`]), each with files of its own: writes of both to one file would drop each other's pages.
//!
//! Durable blocks: a write with data sync covers itself alone, so it is used only when everything of its durable logs before it
//! is on stable media ([`Touched`]); otherwise the files are synced after the write. A failed sync is never repeated: the directory
//! fails.
//! No space: the block keeps its place and is written again after a while; nothing was acknowledged, so nothing is
//! taken back, and new appends are refused meanwhile.
//!
//! Called by `Storage` alone, which owns the operations' results.

mod chunks;
mod files;
pub mod format;

use std::collections::VecDeque;

use self::chunks::Chunks;
use self::files::Files;
pub use self::files::{Way, parse_file_name};
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

/// What the journal knows of a log; kept by its owner, anew where the log comes to another journal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Touched {
    /// The last block with a part of the log, and which of the block's.
    block: u64,
    index: u32,
    /// The last block with something of the log that need not survive a power cut: what is durable and follows it must not
    /// survive it alone.
    plain: u64,
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
    /// Something unsynced of its durable logs lies before it.
    depends: bool,
    way: Way,
    /// Was written with data sync.
    synced_write: bool,
    /// File number and offset, once given.
    place: Option<(u64, u64)>,
    state: BlockState,
    touches: Vec<Touch>,
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
    /// The way of blocks that need not survive a power cut.
    plain_way: Way,

    /// What is being filled, and its number.
    chunk: Option<(u64, AppendBuf)>,
    /// Where the block being filled begins in the chunk.
    block_start: usize,
    directory: Directory,
    touches: Vec<Touch>,
    sync: bool,
    depends: bool,
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

    files: Files,
    spare_touches: Vec<Vec<Touch>>,
}

impl Journal {
    /// `fill`: direct files are filled before their use ([`files`]).
    pub fn new(incarnation: u64, file_bytes: u64, plain_way: Way, fill: bool) -> Journal {
        Journal {
            incarnation,
            plain_way,
            chunk: None,
            block_start: 0,
            directory: Directory::default(),
            touches: Vec::new(),
            sync: false,
            depends: false,
            sequence: 1,
            chunks: Chunks::default(),
            blocks: VecDeque::new(),
            in_flight: 0,
            written: 1,
            synced: 1,
            last_plain: None,
            sync_round: None,
            stalled: false,
            files: Files::new(incarnation, file_bytes, fill),
            spare_touches: Vec::new(),
        }
    }

    // ---- filling ----

    /// Whether a batch of `len` bytes fits the chunk as it is; if not, give one to [`Journal::add_chunk`] first.
    pub fn fits(&self, len: usize) -> bool {
        let Some((_, chunk)) = &self.chunk else { return false };
        let data_bytes = chunk.len() - self.block_start + len;
        self.directory.block_bytes(data_bytes, 1, BLOCK_BYTES) <= chunk.capacity() - self.block_start
    }

    /// The size of the chunk that a batch of `len` bytes needs.
    pub fn chunk_bytes(len: usize) -> usize {
        Directory::default().block_bytes(len, 1, BLOCK_BYTES).max(CHUNK_BYTES)
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

    /// Notes the log's end after what was appended for it.
    pub fn touch(&mut self, touch: Touch, touched: &mut Touched, sync: bool) {
        if sync {
            self.sync = true;
            self.depends |= touched.plain >= self.synced;
        } else {
            touched.plain = self.sequence;
        }
        if touched.block == self.sequence {
            let known = &mut self.touches[touched.index as usize];
            known.end_offset = known.end_offset.max(touch.end_offset);
            known.start_offset = touch.start_offset.or(known.start_offset);
            return;
        }
        self.touches.push(touch);
        (touched.block, touched.index) = (self.sequence, self.touches.len() as u32 - 1);
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
        let way = if self.sync { Way::Direct } else { self.plain_way };
        let block_bytes = self.directory.block_bytes(data_bytes, 0, way.unit_bytes());
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
        // The next one may be written past the page cache, from whole pages of memory.
        chunk.append_with(chunk.len().next_multiple_of(BLOCK_BYTES) - chunk.len(), |_| ());
        self.block_start = chunk.len();
        // It is needed until it has been written.
        self.chunks.hold(*number, block_bytes);
        let touches = std::mem::replace(&mut self.touches, self.spare_touches.pop().unwrap_or_default());
        self.blocks.push_back(Block {
            sequence: self.sequence,
            data,
            chunk: *number,
            sync: self.sync,
            depends: self.depends,
            way,
            synced_write: false,
            place: None,
            state: BlockState::Waiting,
            touches,
        });
        self.sequence += 1;
        self.directory.clear();
        (self.sync, self.depends) = (false, false);
        if chunk.remaining() < CHUNK_ROOM_MIN {
            self.leave_chunk();
        }
    }

    /// The oldest block that a recovery has to look at. Blocks sealed before the first file is there are all of them live.
    fn first_live(&self) -> u64 {
        let of_blocks = self.blocks.front().map_or(self.sequence, |block| block.sequence);
        self.files.first_sequence().unwrap_or(of_blocks)
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
            None => {
                let block = &self.blocks[index];
                self.files.place(block.way, block.data.len() as u64, block.sequence, &block.touches)?
            }
        };
        let everything_synced = self.last_plain.is_none_or(|plain| plain < self.synced);
        let file = self.files.get_mut(number)?;
        let block = &mut self.blocks[index];
        block.place = Some((number, offset));
        block.state = BlockState::InFlight;
        block.synced_write = sync && (everything_synced || !block.depends);
        if !block.synced_write {
            self.last_plain = self.last_plain.max(Some(block.sequence));
        }
        file.in_flight += 1;
        self.in_flight += 1;
        let (sequence, data) = (block.sequence, block.data.clone());
        Some(BlockWrite { sequence, file: file.handle, offset, data, sync: block.synced_write })
    }

    /// For what needs nothing but the files: to make them ready, count and free them.
    pub fn files(&self) -> &Files {
        &self.files
    }

    pub fn files_mut(&mut self) -> &mut Files {
        &mut self.files
    }

    /// A write has ended. `Ok(false)`: no space, it will be tried again.
    pub fn written(&mut self, sequence: u64, stored: bool) {
        self.in_flight -= 1;
        let Some(front) = self.blocks.front().map(|block| block.sequence) else { return };
        let block = &mut self.blocks[(sequence - front) as usize];
        let number = block.place.map_or(u64::MAX, |place| place.0);
        if let Some(file) = self.files.get_mut(number) {
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
        let needed = |block: &Block| {
            block.sync && !block.synced_write && (self.synced..upto).contains(&block.sequence)
        };
        if !self.blocks.iter().any(needed) {
            return None;
        }
        let handles = self.files.take_unsynced();
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
        let safe = !block.sync || block.synced_write || block.sequence < self.synced;
        let ready = block.sequence < self.written && safe;
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
}

#[cfg(test)]
mod tests {
    use super::format::find_blocks;
    use super::*;

    #[test]
    fn blocks_sealed_before_the_first_file_is_there_are_live() {
        let mut journal = Journal::new(7, 1 << 20, Way::Direct, true);
        journal.add_chunk(AlignedBuf::unbudgeted(CHUNK_BYTES));
        for offset in 0..3 {
            journal.append(Uuid([1; 16]), 0, offset, 100, |space| space.fill(9));
            journal.seal();
        }
        assert!(journal.next_write().is_none(), "nowhere to go yet");
        journal.files.request(Way::Direct);
        journal.files.add(Handle(1), true);
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
        let mut journal = Journal::new(7, 1 << 20, Way::Cached, true);
        for (index, way) in Way::ALL.into_iter().enumerate() {
            journal.files.request(way);
            journal.files.add(Handle(index as u32), true);
        }
        journal.add_chunk(AlignedBuf::unbudgeted(CHUNK_BYTES));
        journal
    }

    fn block(journal: &mut Journal, touched: &mut Touched, offset: i64, sync: bool) -> BlockWrite {
        if !journal.fits(100) {
            journal.add_chunk(AlignedBuf::unbudgeted(CHUNK_BYTES));
        }
        journal.append(Uuid([1; 16]), 0, offset, 100, |space| space.fill(9));
        let touch =
            Touch { log: LogId { slot: 0, generation: 0 }, end_offset: offset + 1, start_offset: None };
        journal.touch(touch, touched, sync);
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
        let mut log = Touched::default();
        let writes =
            [(0, false), (1, true), (2, false)].map(|(at, sync)| block(&mut journal, &mut log, at, sync));
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
    fn a_durable_block_waits_for_its_own_log_alone() {
        let mut journal = journal();
        let (mut one, mut other) = (Touched::default(), Touched::default());
        let plain = block(&mut journal, &mut one, 0, false);
        journal.written(plain.sequence, true);
        let durable = block(&mut journal, &mut other, 0, true);
        assert!(durable.sync, "what another log has unsynced is of no matter");
        journal.written(durable.sequence, true);
        assert!(journal.next_sync().is_none());
        assert_eq!(acknowledged(&mut journal), [1, 1]);
        // A part of the log itself that could be lost would leave a gap.
        let plain = block(&mut journal, &mut other, 1, false);
        journal.written(plain.sequence, true);
        let durable = block(&mut journal, &mut other, 2, true);
        assert!(!durable.sync);
        journal.written(durable.sequence, true);
        assert_eq!(acknowledged(&mut journal), [2]);
        assert_eq!(journal.next_sync().unwrap().len(), 2);
        journal.file_synced();
        journal.file_synced();
        assert_eq!(acknowledged(&mut journal), [3]);
        assert!(block(&mut journal, &mut other, 3, true).sync, "all of it is safe");
    }

    #[test]
    fn a_file_that_grows_is_left_for_one_that_is_filled_and_not_kept() {
        let mut journal = Journal::new(7, 1 << 20, Way::Direct, true);
        journal.files.request(Way::Direct);
        journal.files.add(Handle(1), false);
        journal.add_chunk(AlignedBuf::unbudgeted(CHUNK_BYTES));
        let mut log = Touched::default();
        assert_eq!(journal.files.wants(), None, "nothing has been written yet");
        let first = block(&mut journal, &mut log, 0, true);
        assert_eq!(first.file, Handle(1));
        assert_eq!(journal.files.wants(), Some(Way::Direct));
        journal.files.request(Way::Direct);
        assert_eq!(journal.files.fill_bytes(Way::Direct), 1 << 20);
        assert_eq!(block(&mut journal, &mut log, 1, true).file, Handle(1), "the other is not ready");
        journal.files.add(Handle(2), true);
        assert_eq!(journal.files.wants(), None);
        journal.written(first.sequence, true);
        let third = block(&mut journal, &mut log, 2, true);
        assert_eq!((third.file, third.offset), (Handle(2), 0));
        journal.written(2, true);
        journal.written(third.sequence, true);
        assert_eq!(acknowledged(&mut journal), [1, 2, 3]);
        let (last, _) = journal.files.checkpoint();
        let gone = journal.files.free(last.unwrap(), 8);
        assert_eq!(gone.into_iter().map(|(_, handle)| handle).collect::<Vec<_>>(), [Handle(1)]);
        assert_eq!(journal.files.wants(), None);
    }

    #[test]
    fn a_file_that_is_seldom_written_to_is_freed_with_those_behind_it() {
        let mut journal = journal();
        let mut log = Touched::default();
        let first = block(&mut journal, &mut log, 0, true);
        journal.written(first.sequence, true);
        for offset in 1..3000 {
            if let Some(way) = journal.files.wants() {
                assert_eq!(way, Way::Cached, "the other is nearly empty");
                journal.files.request(way);
                journal.files.add(Handle(1 + offset as u32), true);
            }
            let write = block(&mut journal, &mut log, offset, false);
            journal.written(write.sequence, true);
        }
        acknowledged(&mut journal);
        let before = journal.files.used_bytes();
        let (last, logs) = journal.files.checkpoint();
        assert_eq!(logs.len(), 1);
        // What comes while the checkpoint is under way is not in it, so it must not be where it is thrown away.
        journal.files.request(Way::Direct);
        journal.files.add(Handle(9000), true);
        let next = block(&mut journal, &mut log, 3000, true);
        assert_eq!((next.file, next.offset), (Handle(9000), 0));
        journal.written(next.sequence, true);
        assert!(journal.files.free(last.unwrap(), 8).is_empty());
        assert!(
            journal.files.used_bytes() <= 1 << 20 && before > 1 << 20,
            "{before}, {}",
            journal.files.used_bytes()
        );
        assert_eq!(journal.files.take()[1].1, Handle(9000), "it stays");
    }
}
