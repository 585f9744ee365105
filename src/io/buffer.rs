//! Memory for direct I/O: block-aligned, drawn from a pool with a budget, shared by reference count.
//!
//! [`AlignedBuf`] has one owner and can be written; [`AlignedBuf::freeze`] turns it into [`Slice`]s, which are immutable,
//! cheap to clone and may cross threads (a shard sends what another shard's log holds). [`AppendBuf`] is filled front
//! to back while slices of its filled part are already in use: the journal block and the tail of a log.
//! A budget counts what is allocated; the last owner to drop a buffer gives it back, on whatever thread.

use std::alloc::{Layout, alloc, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::BLOCK_BYTES;
use super::arena::{Arena, BlockMap};
use super::grower::Grower;

/// Arenas are at least so large, unless the budget is smaller.
const ARENA_BYTES_MIN: usize = 4 << 20;
/// What a pool settles with has about so many arenas at most: a ring registers each of them. No fewer, as whoever needs a new one waits
/// until all of its pages are there.
const ARENAS: usize = 128;
/// Buffers from here on come from the other end of the arenas, so that small ones do not break up the long runs.
const LARGE_BYTES: usize = 256 << 10;
/// This part of a budget is for buffers that no arena holds: larger than one, or no run is left. The rest is for arenas, so
/// that both together never take more than the budget, however broken up the arenas are.
const HEAP_PART: usize = 4;

fn heap_part(max_bytes: usize) -> usize {
    max_bytes / HEAP_PART
}

/// A bounded source of buffers. Clones share the budget, which bounds the memory taken from the system, not only the buffers
/// handed out. Arenas are kept for reuse, not zeroed again.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    used_bytes: AtomicUsize,
    max_bytes: usize,
    settled_bytes: usize,
    /// Maps what goes beyond the settled bytes; without one, whoever needs it does.
    grower: Option<Grower>,
    growing: AtomicBool,
    heap_bytes: AtomicUsize,
    arena_bytes: usize,
    arenas: Mutex<Vec<(Arc<Arena>, BlockMap)>>,
}

impl BufferPool {
    pub fn new(max_bytes: usize) -> BufferPool {
        BufferPool::settling(max_bytes, max_bytes)
    }

    /// With arenas for `settled_bytes` of the budget [`BufferPool::allocate_settled`] is content.
    pub fn settling(max_bytes: usize, settled_bytes: usize) -> BufferPool {
        BufferPool::with(max_bytes, settled_bytes, None)
    }

    /// As [`BufferPool::settling`], and what goes beyond the settled bytes is mapped by `grower`: refused until that is done.
    pub fn growing(max_bytes: usize, settled_bytes: usize, grower: Grower) -> BufferPool {
        BufferPool::with(max_bytes, settled_bytes, Some(grower))
    }

    fn with(max_bytes: usize, settled_bytes: usize, grower: Option<Grower>) -> BufferPool {
        let share = (settled_bytes / ARENAS).checked_next_power_of_two().unwrap_or(ARENA_BYTES_MIN);
        let arena_bytes = share
            .clamp(ARENA_BYTES_MIN, 1 << 30)
            .min((max_bytes - heap_part(max_bytes)) / BLOCK_BYTES * BLOCK_BYTES);
        BufferPool {
            shared: Arc::new(Shared {
                used_bytes: AtomicUsize::new(0),
                max_bytes,
                settled_bytes: settled_bytes.min(max_bytes),
                grower,
                growing: AtomicBool::new(false),
                heap_bytes: AtomicUsize::new(0),
                arena_bytes,
                arenas: Mutex::default(),
            }),
        }
    }

    /// A buffer of at least `len` bytes, rounded up to blocks, its contents unspecified; `None` when the budget is spent, or
    /// what is left of it is too broken up. What an arena can hold comes from an arena.
    pub fn allocate(&self, len: usize) -> Option<AlignedBuf> {
        let len = len.max(1).checked_next_multiple_of(BLOCK_BYTES)?;
        let found = self.shared.take(len, self.shared.max_bytes);
        let large = len > self.shared.arena_bytes;
        let alone = || if large { self.shared.take_heap(len, self.shared.max_bytes) } else { None };
        self.hand_out(len, found.or_else(alone))
    }

    /// As [`BufferPool::allocate`], and where the arenas have no room, from the part for what no arena holds: memory that
    /// has to be zeroed and that no ring knows, so for whoever can make no room in the arenas.
    pub fn allocate_anywhere(&self, len: usize) -> Option<AlignedBuf> {
        self.allocate_within(len, self.shared.max_bytes, true)
    }

    /// As [`BufferPool::allocate`] or, `anywhere`, [`BufferPool::allocate_anywhere`], but beyond the settled bytes from the arenas there
    /// are: for whoever can make room there, and would pay for fresh memory with each page.
    pub fn allocate_settled(&self, len: usize, anywhere: bool) -> Option<AlignedBuf> {
        self.allocate_within(len, self.shared.settled_bytes, anywhere)
    }

    fn allocate_within(&self, len: usize, max_bytes: usize, anywhere: bool) -> Option<AlignedBuf> {
        let len = len.max(1).checked_next_multiple_of(BLOCK_BYTES)?;
        let alone = || if anywhere { self.shared.take_heap(len, max_bytes) } else { None };
        self.hand_out(len, self.shared.take(len, max_bytes).or_else(alone))
    }

    fn hand_out(&self, len: usize, found: Option<(NonNull<u8>, Memory)>) -> Option<AlignedBuf> {
        let (ptr, memory) = found?;
        self.shared.used_bytes.fetch_add(len, Ordering::Relaxed);
        Some(AlignedBuf { region: Region { ptr, len, memory, pool: Some(self.shared.clone()) } })
    }

    /// The largest buffer that can ever be had.
    pub fn largest_bytes(&self) -> usize {
        self.shared.arena_bytes.max(heap_part(self.shared.max_bytes))
    }

    /// Maps arenas of `bytes` in all now rather than on demand, within the budget.
    pub fn reserve(&self, bytes: usize) {
        let mut arenas = self.shared.arenas();
        while arenas.len() * self.shared.arena_bytes < bytes {
            if !self.shared.may_grow(&arenas, self.shared.max_bytes) || !self.shared.grow(&mut arenas) {
                return;
            }
        }
    }

    pub(super) fn arenas(&self) -> Vec<Arc<Arena>> {
        self.shared.arenas().iter().map(|(arena, _)| arena.clone()).collect()
    }

    pub fn used_bytes(&self) -> usize {
        self.shared.used_bytes.load(Ordering::Relaxed)
    }

    pub fn max_bytes(&self) -> usize {
        self.shared.max_bytes
    }

    pub fn settled_bytes(&self) -> usize {
        self.shared.settled_bytes
    }
}

impl Shared {
    fn arenas(&self) -> MutexGuard<'_, Vec<(Arc<Arena>, BlockMap)>> {
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts `len` bytes from an arena, a new one if need be and a budget of `max_bytes` allows it.
    fn take(self: &Arc<Self>, len: usize, max_bytes: usize) -> Option<(NonNull<u8>, Memory)> {
        let blocks = len / BLOCK_BYTES;
        let cut = |(number, (arena, map)): (usize, &mut (Arc<Arena>, BlockMap))| {
            let block = map.take(blocks)?;
            // SAFETY: needed to name the part. The map covers the arena, so the part lies within.
            let ptr = unsafe { NonNull::new_unchecked(arena.as_ptr().add(block * BLOCK_BYTES)) };
            Some((ptr, Memory::Arena { arena: arena.clone(), number, block }))
        };
        if len > self.arena_bytes {
            return None;
        }
        let mut arenas = self.arenas();
        let found = match len < LARGE_BYTES {
            true => arenas.iter_mut().enumerate().find_map(cut),
            false => arenas.iter_mut().enumerate().rev().find_map(cut),
        };
        if found.is_some() || !self.may_grow(&arenas, max_bytes) {
            return found;
        }
        if let Some(grower) = &self.grower
            && !self.may_grow(&arenas, self.settled_bytes)
        {
            if !self.growing.swap(true, Ordering::Relaxed) && !grower.ask(Arc::downgrade(self)) {
                self.growing.store(false, Ordering::Relaxed);
            }
            return None;
        }
        if !self.grow(&mut arenas) {
            return None;
        }
        arenas.iter_mut().enumerate().next_back().and_then(cut)
    }

    /// Whether a budget of `max_bytes` leaves room for one more arena.
    fn may_grow(&self, arenas: &[(Arc<Arena>, BlockMap)], max_bytes: usize) -> bool {
        self.arena_bytes > 0 && (arenas.len() + 1) * self.arena_bytes <= max_bytes - heap_part(max_bytes)
    }

    fn grow(&self, arenas: &mut Vec<(Arc<Arena>, BlockMap)>) -> bool {
        let Ok(arena) = Arena::new(self.arena_bytes) else { return false };
        arenas.push((Arc::new(arena), BlockMap::new(self.arena_bytes)));
        true
    }

    /// Adds an arena whose pages are there; called by the grower when it was asked.
    pub(super) fn grow_touched(&self) {
        if let Ok(arena) = Arena::new(self.arena_bytes) {
            arena.touch();
            let mut arenas = self.arenas();
            if self.may_grow(&arenas, self.max_bytes) {
                arenas.push((Arc::new(arena), BlockMap::new(self.arena_bytes)));
            }
        }
        self.growing.store(false, Ordering::Relaxed);
    }

    /// Memory of its own for a buffer that no arena has room for, as far as a budget of `max_bytes` has some for that.
    fn take_heap(&self, len: usize, max_bytes: usize) -> Option<(NonNull<u8>, Memory)> {
        let within = |used: usize| used.checked_add(len).filter(|&sum| sum <= heap_part(max_bytes));
        self.heap_bytes.try_update(Ordering::Relaxed, Ordering::Relaxed, within).ok()?;
        let memory = Memory::heap(len);
        if memory.is_none() {
            self.heap_bytes.fetch_sub(len, Ordering::Relaxed);
        }
        memory
    }

    fn give_back(&self, number: usize, block: usize, len: usize) {
        let mut arenas = self.arenas();
        // Arenas are never taken away, so the number still names the one it was cut from.
        arenas[number].1.give_back(block, len / BLOCK_BYTES);
    }
}

/// The memory of one buffer; given back, and its bytes to the budget, on drop.
struct Region {
    ptr: NonNull<u8>,
    len: usize,
    memory: Memory,
    pool: Option<Arc<Shared>>,
}

enum Memory {
    Heap,
    /// Blocks from `block` on of the pool's arena with this number.
    Arena {
        arena: Arc<Arena>,
        number: usize,
        block: usize,
    },
}

// SAFETY: needed so that a shard can send what another shard's log holds. A region is plain memory owned by this
// value; who may write which byte is settled by the types around it.
unsafe impl Send for Region {}
// SAFETY: as above; shared access only reads bytes that nobody writes any more (see `AppendBuf`).
unsafe impl Sync for Region {}

impl Memory {
    fn heap(len: usize) -> Option<(NonNull<u8>, Memory)> {
        let layout = Layout::from_size_align(len, BLOCK_BYTES).ok()?;
        // SAFETY: needed for block alignment, which `Vec` cannot give. `len` is at least one block, so the layout is
        // not empty; a null result is handled.
        let ptr = NonNull::new(unsafe { alloc(layout) })?;
        // SAFETY: the memory was just allocated with `len` bytes. Zeroed so that no uninitialised byte is ever read
        // or written to disk; `alloc_zeroed` ignores that large alignments defeat its shortcut.
        unsafe { ptr.as_ptr().write_bytes(0, len) };
        Some((ptr, Memory::Heap))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match &self.memory {
            Memory::Heap => {
                let layout =
                    Layout::from_size_align(self.len, BLOCK_BYTES).expect("the layout it was allocated with");
                // SAFETY: allocated in `Memory::heap` with this layout, freed once.
                unsafe { dealloc(self.ptr.as_ptr(), layout) };
                if let Some(pool) = &self.pool {
                    pool.heap_bytes.fetch_sub(self.len, Ordering::Relaxed);
                }
            }
            Memory::Arena { number, block, .. } => {
                let pool = self.pool.as_ref().expect("a part of an arena has its pool");
                pool.give_back(*number, *block, self.len);
            }
        }
        if let Some(pool) = &self.pool {
            pool.used_bytes.fetch_sub(self.len, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region({} bytes)", self.len)
    }
}

impl Region {
    fn arena(&self) -> Option<&Arc<Arena>> {
        match &self.memory {
            Memory::Heap => None,
            Memory::Arena { arena, .. } => Some(arena),
        }
    }
}

/// A block-aligned buffer with one owner.
#[derive(Debug)]
pub struct AlignedBuf {
    region: Region,
}

impl AlignedBuf {
    /// A buffer outside any budget, for start-up and tools. Panics when the machine has no memory left.
    pub fn unbudgeted(len: usize) -> AlignedBuf {
        let len = len.max(1).next_multiple_of(BLOCK_BYTES);
        let (ptr, memory) = Memory::heap(len).expect("memory for a start-up buffer");
        AlignedBuf { region: Region { ptr, len, memory, pool: None } }
    }

    /// The whole buffer as an immutable, shareable slice.
    pub fn freeze(self) -> Slice {
        let len = self.region.len;
        Slice { region: Arc::new(self.region), start: 0, len }
    }

    /// Gives back what lies behind the first `len` bytes, rounded up to blocks, if it is part of an arena.
    pub fn shrink(&mut self, len: usize) {
        let len = len.max(1).next_multiple_of(BLOCK_BYTES);
        let Region { memory: Memory::Arena { number, block, .. }, pool: Some(pool), .. } = &self.region
        else {
            return;
        };
        let Some(spare) = self.region.len.checked_sub(len).filter(|spare| *spare > 0) else { return };
        pool.give_back(*number, *block + len / BLOCK_BYTES, spare);
        pool.used_bytes.fetch_sub(spare, Ordering::Relaxed);
        self.region.len = len;
    }

    pub(super) fn arena(&self) -> Option<&Arc<Arena>> {
        self.region.arena()
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the region holds `len` initialised bytes and this value is its only owner.
        unsafe { std::slice::from_raw_parts(self.region.ptr.as_ptr(), self.region.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` excludes any other access.
        unsafe { std::slice::from_raw_parts_mut(self.region.ptr.as_ptr(), self.region.len) }
    }
}

/// Immutable shared bytes.
#[derive(Clone, Debug)]
pub struct Slice {
    region: Arc<Region>,
    start: usize,
    len: usize,
}

impl Slice {
    /// A copy of `bytes` outside any budget, block-aligned and of its exact length.
    pub fn copy_of(bytes: &[u8]) -> Slice {
        let mut buf = AlignedBuf::unbudgeted(bytes.len());
        buf[..bytes.len()].copy_from_slice(bytes);
        buf.freeze().slice(0, bytes.len())
    }

    /// `len` bytes from `start` on. Panics when they are not within.
    pub fn slice(&self, start: usize, len: usize) -> Slice {
        assert!(start <= self.len && len <= self.len - start, "slice out of bounds");
        Slice { region: self.region.clone(), start: self.start + start, len }
    }

    /// Whether `next` begins in the same buffer where this one ends.
    pub fn adjoins(&self, next: &Slice) -> bool {
        Arc::ptr_eq(&self.region, &next.region) && self.start + self.len == next.start
    }

    /// This slice grown over `next`, which must adjoin.
    pub fn join(&self, next: &Slice) -> Slice {
        assert!(self.adjoins(next), "only adjoining slices join");
        Slice { region: self.region.clone(), start: self.start, len: self.len + next.len }
    }

    pub(super) fn arena(&self) -> Option<&Arc<Arena>> {
        self.region.arena()
    }

    /// The memory of the buffer that this slice keeps alive.
    pub fn retained_bytes(&self) -> usize {
        self.region.len
    }
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + len` lies in the region (checked when made), is initialised, and is never written
        // again: only frozen buffers and the filled part of an `AppendBuf` become slices.
        unsafe { std::slice::from_raw_parts(self.region.ptr.as_ptr().add(self.start), self.len) }
    }
}

/// A buffer filled front to back whose filled part is already shared.
#[derive(Debug)]
pub struct AppendBuf {
    region: Arc<Region>,
    filled: usize,
}

impl AppendBuf {
    pub fn new(buf: AlignedBuf) -> AppendBuf {
        AppendBuf { region: Arc::new(buf.region), filled: 0 }
    }

    pub fn capacity(&self) -> usize {
        self.region.len
    }

    pub fn len(&self) -> usize {
        self.filled
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn remaining(&self) -> usize {
        self.region.len - self.filled
    }

    /// Copies `bytes` behind what is there and returns them as a slice. Panics when they do not fit.
    pub fn append(&mut self, bytes: &[u8]) -> Slice {
        self.append_with(bytes.len(), |space| space.copy_from_slice(bytes))
    }

    /// Lets `fill` write the next `len` bytes (they hold zeros or old contents), then shares them.
    pub fn append_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Slice {
        assert!(len <= self.remaining(), "the append fits");
        let start = self.filled;
        // SAFETY: needed to fill a buffer whose front is already shared. `start..start + len` lies in the region; no
        // slice covers it, as slices are only made of `..filled`, and `&mut self` makes this the only writer.
        let space = unsafe { std::slice::from_raw_parts_mut(self.region.ptr.as_ptr().add(start), len) };
        fill(space);
        self.filled += len;
        Slice { region: self.region.clone(), start, len }
    }

    /// What has been filled so far.
    pub fn filled(&self) -> Slice {
        Slice { region: self.region.clone(), start: 0, len: self.filled }
    }
}

/// A piece of received bytes. Dropping it gives its memory back to the driver's receive buffers, which are few: copy out
/// what must outlive the turn.
pub struct Received(Piece);

enum Piece {
    Lent {
        lender: Rc<dyn Lender>,
        loan: Loan,
    },
    /// In memory of its own.
    Owned(Box<dyn AsRef<[u8]>>),
}

/// Part of a receive buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loan {
    pub buffer: u16,
    pub start: usize,
    pub len: usize,
}

/// Receive buffers that lend parts of themselves, so that a piece takes no memory of its own.
pub(super) trait Lender {
    fn bytes(&self, loan: Loan) -> &[u8];

    /// Called once a loan.
    fn take_back(&self, loan: Loan);
}

impl Received {
    /// `lender` has just lent it, to nobody else.
    pub(super) fn lent(lender: Rc<dyn Lender>, loan: Loan) -> Received {
        Received(Piece::Lent { lender, loan })
    }

    pub fn owned(bytes: Box<dyn AsRef<[u8]>>) -> Received {
        Received(Piece::Owned(bytes))
    }
}

impl Deref for Received {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Piece::Lent { lender, loan } => lender.bytes(*loan),
            Piece::Owned(bytes) => (**bytes).as_ref(),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Piece::Lent { lender, loan } = &self.0 {
            lender.take_back(*loan);
        }
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Received({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_refuses_and_recovers() {
        // One block for buffers on their own, three in an arena.
        let pool = BufferPool::new(4 * BLOCK_BYTES);
        let first = pool.allocate(1).unwrap();
        let second = pool.allocate(2 * BLOCK_BYTES).unwrap();
        assert!(pool.allocate(1).is_none());
        let third = pool.allocate_anywhere(1).unwrap();
        assert!(first.arena().is_some() && second.arena().is_some() && third.arena().is_none());
        assert!(pool.allocate_anywhere(1).is_none());
        assert!(pool.allocate_anywhere(usize::MAX).is_none());
        let slice = first.freeze().slice(10, 20);
        drop((second, third));
        assert_eq!(pool.used_bytes(), BLOCK_BYTES);
        drop(slice);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn a_settled_pool_maps_no_more_for_who_can_do_without() {
        let pool = BufferPool::settling(16 * ARENA_BYTES_MIN, 4 * ARENA_BYTES_MIN);
        let settled: Vec<_> = std::iter::from_fn(|| pool.allocate_settled(1 << 20, false)).collect();
        assert_eq!(settled.len(), (3 * ARENA_BYTES_MIN) >> 20);
        let alone: Vec<_> = std::iter::from_fn(|| pool.allocate_settled(1 << 20, true)).collect();
        assert_eq!(alone.len(), ARENA_BYTES_MIN >> 20);
        let more = pool.allocate(1 << 20).unwrap();
        // Of what has been mapped meanwhile everybody may take.
        assert!(pool.allocate_settled(1 << 20, false).is_some());
        drop((settled, alone, more));
        assert_eq!(pool.arenas().len(), 4);
    }

    #[test]
    fn beyond_what_is_settled_a_pool_grows_beside_its_user() {
        let grower = Grower::start().unwrap();
        let pool = BufferPool::growing(16 * ARENA_BYTES_MIN, 4 * ARENA_BYTES_MIN, grower);
        let mut bufs: Vec<_> = std::iter::from_fn(|| pool.allocate_settled(1 << 20, false)).collect();
        assert_eq!(bufs.len(), (3 * ARENA_BYTES_MIN) >> 20);
        // Refused until the memory is there: whoever asks has other things to do.
        while bufs.len() < (12 * ARENA_BYTES_MIN) >> 20 {
            match pool.allocate(1 << 20) {
                Some(buf) => bufs.push(buf),
                None => std::thread::yield_now(),
            }
        }
        assert!(pool.allocate(1 << 20).is_none());
        assert_eq!(pool.arenas().len(), 12);
    }

    #[test]
    fn a_buffer_gives_back_its_end() {
        let pool = BufferPool::new(16 * BLOCK_BYTES);
        let mut buf = pool.allocate(4 * BLOCK_BYTES).unwrap();
        buf[0] = 7;
        buf.shrink(BLOCK_BYTES + 1);
        assert_eq!((buf.len(), buf[0], pool.used_bytes()), (2 * BLOCK_BYTES, 7, 2 * BLOCK_BYTES));
        buf.shrink(5 * BLOCK_BYTES);
        assert_eq!(buf.len(), 2 * BLOCK_BYTES, "it does not grow");
        // Ten of the twelve blocks that arenas have are free, side by side.
        let rest = pool.allocate(10 * BLOCK_BYTES).unwrap();
        assert!(rest.arena().is_some());
        drop(buf.freeze());
        drop(rest);
        assert_eq!(pool.used_bytes(), 0);
        let mut alone = AlignedBuf::unbudgeted(2 * BLOCK_BYTES);
        alone.shrink(1);
        assert_eq!(alone.len(), 2 * BLOCK_BYTES);
    }

    #[test]
    fn what_no_run_fits_has_a_part_of_the_budget() {
        let pool = BufferPool::new(4 * ARENA_BYTES_MIN);
        let mut blocks = Vec::new();
        while let Some(buf) = pool.allocate(1) {
            assert!(buf.arena().is_some());
            blocks.push(buf);
        }
        assert_eq!(blocks.len(), 3 * ARENA_BYTES_MIN / BLOCK_BYTES);
        // Every other block: half of the arenas, no two neighbours.
        let mut keep = false;
        blocks.retain(|_| {
            keep = !keep;
            keep
        });
        let mut broken_up: Vec<_> = std::iter::from_fn(|| pool.allocate_anywhere(64 << 10)).collect();
        assert_eq!(broken_up.iter().map(|buf| buf.len()).sum::<usize>(), ARENA_BYTES_MIN);
        assert!(broken_up.iter().all(|buf| buf.arena().is_none() && buf.iter().all(|&byte| byte == 0)));
        broken_up.clear();
        drop(blocks);
        let large = pool.allocate(1 << 20).unwrap();
        assert!(large.arena().is_some());
        drop(large);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn buffers_of_a_pool_do_not_overlap() {
        let pool = BufferPool::new(64 << 20);
        let mut bufs: Vec<_> = (0..200u8)
            .map(|at| {
                let mut buf = pool.allocate_anywhere((usize::from(at) % 7 + 1) * 30_000).unwrap();
                buf.fill(at);
                (at, buf)
            })
            .collect();
        let mut odd = false;
        bufs.retain(|_| {
            odd = !odd;
            odd
        });
        for at in 200..=255 {
            let mut buf = pool.allocate_anywhere(usize::from(at) * 2000).unwrap();
            assert_eq!(buf.as_ptr() as usize % BLOCK_BYTES, 0);
            buf.fill(at);
            bufs.push((at, buf));
        }
        for (at, buf) in &bufs {
            assert!(buf.iter().all(|byte| byte == at));
        }
        drop(bufs);
        assert_eq!(pool.used_bytes(), 0);
        assert!(pool.arenas().len() <= 16);
    }

    #[test]
    fn buffers_come_home_from_other_threads() {
        let pool = BufferPool::new(8 << 20);
        let slice = pool.allocate(1 << 20).unwrap().freeze();
        let copy = slice.clone();
        std::thread::spawn(move || drop(copy)).join().unwrap();
        assert_eq!(pool.used_bytes(), 1 << 20);
        std::thread::spawn(move || drop(slice)).join().unwrap();
        assert_eq!(pool.used_bytes(), 0);
        let outlives = pool.allocate(5000).unwrap();
        drop(pool);
        assert_eq!(outlives.len(), 8192);
    }

    #[test]
    fn buffers_are_block_aligned() {
        let buf = AlignedBuf::unbudgeted(5000);
        assert_eq!(buf.as_ptr() as usize % BLOCK_BYTES, 0);
        assert_eq!(buf.len(), 2 * BLOCK_BYTES);
    }

    #[test]
    fn an_append_buffer_shares_its_front_while_it_grows() {
        let mut buf = AppendBuf::new(AlignedBuf::unbudgeted(BLOCK_BYTES));
        let a = buf.append(b"abc");
        let b = buf.append(b"defg");
        assert_eq!((&*a, &*b), (&b"abc"[..], &b"defg"[..]));
        assert!(a.adjoins(&b) && !b.adjoins(&a));
        assert_eq!(&*a.join(&b), b"abcdefg");
        assert_eq!(&*buf.filled(), b"abcdefg");
        assert_eq!(buf.remaining(), BLOCK_BYTES - 7);
    }

    #[test]
    #[should_panic(expected = "slice out of bounds")]
    fn a_slice_stays_within() {
        Slice::copy_of(b"abc").slice(2, 2);
    }
}
