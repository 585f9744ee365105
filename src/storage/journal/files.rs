//! The files of a journal: which one a block goes to, and when one may be used again.
//!
//! Files are written once from front to end, then freed in the order of their first blocks and written over. Each is of one
//! [`Way`] for good.
//!
//! A direct write with data sync is cheap only where the file's blocks have been written before: a file that grows takes one at
//! a time, and a commit of the file system with each. So a direct file is filled with zeros before it is used
//! ([`Files::wants`], [`Files::add`]). The first is not, as many brokers never need one; it is left as soon as another is ready.
//!
//! Called by [`Journal`](super::Journal) for places and syncs, and by `Storage`, which creates, counts and frees the files.

use std::collections::VecDeque;

use super::Touch;
use super::format::SECTOR_BYTES;
use crate::io::{BLOCK_BYTES, Handle};
use crate::storage::types::LogId;

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

    /// What its blocks begin and end at multiples of.
    pub fn unit_bytes(self) -> usize {
        match self {
            Way::Direct => BLOCK_BYTES,
            Way::Cached => SECTOR_BYTES,
        }
    }
}

/// A journal file. The queue is in the order of their first blocks; of each way the last that is not closed is being written.
#[derive(Debug)]
pub struct File {
    pub number: u64,
    pub handle: Handle,
    way: Way,
    /// All its blocks have been written before, or it makes no difference here.
    filled: bool,
    /// Gets no more blocks.
    closed: bool,
    /// Bytes given to blocks.
    used_bytes: u64,
    pub first_sequence: u64,
    pub in_flight: u32,
    /// Holds completed writes that nothing has synced.
    pub unsynced: bool,
    /// The logs with data in it and their last end offset; compacted when it has doubled.
    logs: Vec<(LogId, i64)>,
    compact_at: usize,
}

impl File {
    fn new(number: u64, handle: Handle, way: Way, filled: bool) -> File {
        File {
            number,
            handle,
            way,
            filled,
            closed: false,
            used_bytes: 0,
            first_sequence: 0,
            in_flight: 0,
            unsynced: false,
            logs: Vec::new(),
            compact_at: 1024,
        }
    }

    /// Whether what is written to it is slow, for want of a file that is filled.
    fn is_makeshift(&self) -> bool {
        self.way == Way::Direct && !self.filled
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
pub struct Files {
    incarnation: u64,
    file_bytes: u64,
    /// Whether direct files are to be filled.
    fill: bool,
    /// Those that hold blocks.
    used: VecDeque<File>,
    spare: Vec<File>,
    requested: Option<Way>,
    /// A block waits for a file, be the last one ever so empty.
    wanted: Option<Way>,
    next_number: u64,
}

impl Files {
    pub fn new(incarnation: u64, file_bytes: u64, fill: bool) -> Files {
        let (used, spare) = (VecDeque::new(), Vec::new());
        Files { incarnation, file_bytes, fill, used, spare, requested: None, wanted: None, next_number: 0 }
    }

    /// Gives a block of `len` bytes its place, behind the last one of its way or at the front of a fresh file: its file's number, and
    /// the offset. `None` where there is no file yet.
    pub fn place(&mut self, way: Way, len: u64, sequence: u64, touches: &[Touch]) -> Option<(u64, u64)> {
        let spare = self.spare_of(way);
        let better = spare.is_some_and(|spare| !self.spare[spare].is_makeshift());
        let fits = |file: &File| {
            let room = file.used_bytes == 0 || file.used_bytes + len <= self.file_bytes;
            room && !(file.is_makeshift() && better)
        };
        if !self.current(way).is_some_and(fits) {
            let Some(spare) = spare else {
                self.wanted = Some(way);
                return None;
            };
            self.wanted = None;
            let mut file = self.spare.swap_remove(spare);
            file.used_bytes = 0;
            file.closed = false;
            file.first_sequence = sequence;
            self.used.push_back(file);
        }
        let file = self.used.iter_mut().rfind(|file| file.way == way)?;
        let offset = file.used_bytes;
        file.used_bytes += len;
        file.note(touches);
        Some((file.number, offset))
    }

    /// The next file of a way, one that is filled if there is.
    fn spare_of(&self, way: Way) -> Option<usize> {
        let of_way = |file: &File| file.way == way;
        let filled = self.spare.iter().rposition(|file| of_way(file) && !file.is_makeshift());
        filled.or_else(|| self.spare.iter().rposition(of_way))
    }

    /// The file that the blocks of a way go to.
    fn current(&self, way: Way) -> Option<&File> {
        self.used.iter().rfind(|file| file.way == way).filter(|file| !file.closed)
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut File> {
        self.used.iter_mut().find(|file| file.number == number)
    }

    /// The first block of the oldest file.
    pub fn first_sequence(&self) -> Option<u64> {
        self.used.front().map(|file| file.first_sequence)
    }

    /// Takes the files that hold what nothing has synced.
    pub fn take_unsynced(&mut self) -> Vec<Handle> {
        let unsynced =
            self.used.iter_mut().filter_map(|file| std::mem::take(&mut file.unsynced).then_some(file.handle));
        unsynced.collect()
    }

    /// Of which way another file should be made ready: a block waits for it, or the one in use is half full or slow.
    pub fn wants(&self) -> Option<Way> {
        let wanted = |way: &Way| {
            let ends = |file: &File| file.is_makeshift() || file.used_bytes * 2 >= self.file_bytes;
            let soon = self.wanted == Some(*way) || self.current(*way).is_some_and(ends);
            soon && self.spare_of(*way).is_none_or(|spare| self.spare[spare].is_makeshift())
        };
        if self.requested.is_some() { None } else { Way::ALL.into_iter().find(wanted) }
    }

    /// How many bytes of zeros a new file of a way is to be filled with.
    pub fn fill_bytes(&self, way: Way) -> u64 {
        let fill = self.fill && way == Way::Direct;
        if fill { self.file_bytes - self.file_bytes % BLOCK_BYTES as u64 } else { 0 }
    }

    /// The name of the file to create; [`Files::add`] follows.
    pub fn request(&mut self, way: Way) -> String {
        self.requested = Some(way);
        file_name(self.incarnation, self.next_number, way)
    }

    /// Adds the file that was requested; `filled` if [`Files::fill_bytes`] have been written to it.
    pub fn add(&mut self, handle: Handle, filled: bool) {
        let way = self.requested.take().expect("a file was requested");
        self.spare.push(File::new(self.next_number, handle, way, filled || !self.fill));
        self.next_number += 1;
    }

    /// The bytes of all files that hold blocks.
    pub fn used_bytes(&self) -> u64 {
        self.used.iter().map(|file| file.used_bytes).sum()
    }

    /// The last of the files that can be freed, which are all but the newest, and the logs whose data in them must be on stable
    /// media before. They get no more blocks: one that is seldom written to would keep all behind it.
    pub fn checkpoint(&mut self) -> (Option<u64>, Vec<(LogId, i64)>) {
        let old = self.used.len().saturating_sub(1);
        for file in self.used.iter_mut().take(old) {
            file.closed = true;
        }
        let mut logs: Vec<(LogId, i64)> =
            self.used.iter().take(old).flat_map(|file| file.logs.iter().copied()).collect();
        compact(&mut logs);
        (old.checked_sub(1).map(|last| self.used[last].number), logs)
    }

    /// Frees the files up to number `last` after their checkpoint, and keeps so many of each way that are fit. Returns the names
    /// and handles of the others.
    pub fn free(&mut self, last: u64, keep: usize) -> Vec<(String, Handle)> {
        let mut surplus = Vec::new();
        while let Some(file) = self.used.front()
            && file.in_flight == 0
            && self.used.len() > 1
        {
            let is_last = file.number == last;
            if let Some(mut file) = self.used.pop_front() {
                file.logs.clear();
                file.unsynced = false;
                let alike = self.spare.iter().filter(|spare| spare.way == file.way).count();
                if alike < keep && !file.is_makeshift() {
                    self.spare.push(file);
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
    pub fn take(&mut self) -> Vec<(String, Handle)> {
        let files = self.used.drain(..).chain(self.spare.drain(..));
        files.map(|file| (file_name(self.incarnation, file.number, file.way), file.handle)).collect()
    }
}

/// The name of a journal file; the incarnation in it authenticates its blocks.
fn file_name(incarnation: u64, number: u64, way: Way) -> String {
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
