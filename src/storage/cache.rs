//! Pieces of segments in memory: what was flushed a while ago and what was read from disk, logs and indexes.
//!
//! Bounded by the pool: whoever finds it empty evicts pieces here one by one ([`ReadCache::evict_one`]). A piece begins at
//! a block of its segment. Pieces may overlap where a flush went on in the block that the flush before had ended in; the
//! bytes are the same, and a look-up prefers the later piece.
//!
//! Two kinds, after LIRS (Jiang and Zhang, 2002). Warm pieces, most of them, are what was written last and what proved to
//! be read again: a scan takes nothing from them, and readers that go over more than memory holds find a part of it every
//! time. Cold ones were read from the disk once; they are a queue and go first. A piece becomes warm when it is read again,
//! even after it is gone, sooner than the warm piece that is out of use for longest: that one becomes cold.

mod order;

use std::collections::BTreeMap;
use std::ops::Range;

use self::order::Order;
use super::names::FileKind;
use super::types::LogId;
use crate::io::BLOCK_BYTES;
use crate::io::buffer::Slice;

/// Warm pieces become cold beyond this part of all bytes, in eighths.
const WARM_EIGHTHS_MAX: usize = 7;
/// What is read becomes warm at once below this part: warm pieces that were deleted are made up for.
const WARM_EIGHTHS_FILL: usize = 6;
/// So many pieces that are gone are remembered for each one that is here.
const GONE_MAX: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceKey {
    pub log: LogId,
    pub segment: i64,
    pub kind: FileKind,
    pub start: u32,
}

#[derive(Debug)]
struct Piece {
    bytes: Slice,
    /// The piece holds this part of the segment as it was written, and batches that begin in it, as far as it goes.
    sound: Range<u32>,
    warm: bool,
    /// Where it stands in `warm` or `cold`.
    place: usize,
    /// Where it stands in `warm_by_use`, if it is warm.
    place_by_use: usize,
    /// When it was last begun to be read, or came.
    used: u64,
    /// The last read that entered it; 0: none has.
    read: u64,
}

/// What a look-up finds.
#[derive(Debug)]
pub struct Found {
    /// From the position asked for to the end of the piece.
    pub bytes: Slice,
    pub sound: Range<u32>,
}

/// Where a piece comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was just written, or is needed for what is.
    Written,
    Disk,
}

#[derive(Debug, Default)]
pub struct ReadCache {
    pieces: BTreeMap<PieceKey, Piece>,
    /// In the order in which they become cold: as they were written, or read again. That each is read once says nothing.
    warm: Order,
    /// By their last use, be it the first.
    warm_by_use: Order,
    /// In the order in which they became cold.
    cold: Order,
    /// Pieces that are gone: where they ended, and when they were last used; and by that.
    gone: BTreeMap<PieceKey, (u32, u64)>,
    gone_by_use: BTreeMap<u64, PieceKey>,
    bytes: usize,
    warm_bytes: usize,
    /// Counts uses; never twice the same.
    now: u64,
    reads: u64,
}

impl ReadCache {
    /// Adds a piece; it replaces the one at its place. `sound`: where its batches need no check.
    pub fn insert(&mut self, key: PieceKey, bytes: Slice, source: Source, sound: Range<u32>) {
        self.take(key);
        let again = self.take_gone(key);
        let len = bytes.len();
        let warm = source == Source::Written
            || key.kind != FileKind::Log
            || again.is_some_and(|used| self.is_warm_use(used))
            || (self.warm_bytes + len) * 8 <= (self.bytes + len) * WARM_EIGHTHS_FILL;
        let now = self.tick();
        self.bytes += len;
        let place = self.cold.push(key);
        self.pieces
            .insert(key, Piece { bytes, sound, warm: false, place, place_by_use: 0, used: now, read: 0 });
        if warm {
            self.make_warm(key);
        }
        self.cool();
    }

    /// A reader begins: a piece that a later one enters too is read again.
    pub fn begin_read(&mut self) {
        self.reads += 1;
    }

    /// The bytes from `position` of a segment's log to the end of the piece that holds it.
    pub fn get(&mut self, log: LogId, segment: i64, position: u32) -> Option<Found> {
        let reads = self.reads;
        let (start, piece) = self.piece(log, segment, position)?;
        let at = (position - start) as usize;
        let found =
            Found { bytes: piece.bytes.slice(at, piece.bytes.len() - at), sound: piece.sound.clone() };
        // Who goes on within a piece has been counted where it began.
        if at < BLOCK_BYTES && piece.read != reads {
            self.enter(PieceKey { log, segment, kind: FileKind::Log, start });
        }
        Some(found)
    }

    /// Whether memory holds `position`, and how far; no use is counted.
    pub fn end_of(&mut self, log: LogId, segment: i64, position: u32) -> Option<u32> {
        self.piece(log, segment, position).map(|(start, piece)| start + piece.bytes.len() as u32)
    }

    /// Notes that the batch at `batch` was checked, and answers where none needs it any more.
    pub fn mark_sound(&mut self, log: LogId, segment: i64, batch: Range<u32>) -> Range<u32> {
        let mut first = None;
        let mut at = batch.start;
        while at < batch.end
            && let Some((start, piece)) = self.piece(log, segment, at)
        {
            // Readers go forward: what they have checked grows at its end, or begins anew elsewhere.
            piece.sound = if piece.sound.end == at { piece.sound.start..batch.end } else { at..batch.end };
            first.get_or_insert_with(|| piece.sound.clone());
            at = start + piece.bytes.len() as u32;
        }
        first.unwrap_or(batch)
    }

    /// The piece that holds `position`, and where it starts.
    fn piece(&mut self, log: LogId, segment: i64, position: u32) -> Option<(u32, &mut Piece)> {
        let last = PieceKey { log, segment, kind: FileKind::Log, start: position };
        let first = PieceKey { start: 0, ..last };
        let (key, piece) = self.pieces.range_mut(first..=last).next_back()?;
        ((position - key.start) as usize).lt(&piece.bytes.len()).then_some((key.start, piece))
    }

    /// The whole of an index, as far as it was written when it was read.
    pub fn index(&mut self, log: LogId, segment: i64, kind: FileKind) -> Option<Slice> {
        let key = PieceKey { log, segment, kind, start: 0 };
        let bytes = self.pieces.get(&key)?.bytes.clone();
        self.enter(key);
        Some(bytes)
    }

    /// Drops a piece that has become stale.
    pub fn remove(&mut self, key: PieceKey) {
        if self.take(key).is_some() {
            self.cool();
        }
    }

    /// Where the first piece behind `position` begins.
    pub fn next_start(&self, log: LogId, segment: i64, position: u32) -> Option<u32> {
        let first = PieceKey { log, segment, kind: FileKind::Log, start: position };
        let last = PieceKey { start: u32::MAX, ..first };
        self.pieces.range(first..=last).find(|(key, _)| key.start > position).map(|(key, _)| key.start)
    }

    /// Drops the piece that is least likely to be read again; false when there is none.
    pub fn evict_one(&mut self) -> bool {
        let Some(key) = self.cold.first().or_else(|| self.warm.first()) else { return false };
        if let Some(piece) = self.take(key)
            && key.kind == FileKind::Log
        {
            self.remember(key, &piece);
        }
        self.cool();
        true
    }

    /// Drops the pieces of a log, or of one of its segments.
    pub fn forget(&mut self, log: LogId, segment: Option<i64>) {
        let (kind, start) = (FileKind::Log, 0);
        let first = PieceKey { log, segment: segment.unwrap_or(i64::MIN), kind, start };
        let (kind, start) = (FileKind::ProducerSnapshot, u32::MAX);
        let last = PieceKey { log, segment: segment.unwrap_or(i64::MAX), kind, start };
        while let Some((&key, _)) = self.pieces.range(first..=last).next() {
            self.take(key);
        }
        while let Some((&key, &(_, used))) = self.gone.range(first..=last).next() {
            self.gone.remove(&key);
            self.gone_by_use.remove(&used);
        }
        self.cool();
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Counts a use of a piece.
    fn enter(&mut self, key: PieceKey) {
        let (now, reads) = (self.tick(), self.reads);
        let Some(piece) = self.pieces.get_mut(&key) else { return };
        let again = piece.read != 0;
        let last_used = std::mem::replace(&mut piece.used, now);
        piece.read = reads;
        if piece.warm {
            self.warm_by_use.move_to_end(piece.place_by_use);
        }
        if again {
            let order = if piece.warm { &mut self.warm } else { &mut self.cold };
            order.move_to_end(piece.place);
            if !piece.warm && self.is_warm_use(last_used) {
                self.make_warm(key);
                self.cool();
            }
        }
    }

    /// Whether a piece last used then has been so since the warm piece that is out of use for longest.
    fn is_warm_use(&self, used: u64) -> bool {
        let oldest = self.warm_by_use.first().and_then(|key| self.pieces.get(&key));
        oldest.is_none_or(|oldest| used > oldest.used)
    }

    fn make_warm(&mut self, key: PieceKey) {
        let Some(piece) = self.pieces.get_mut(&key).filter(|piece| !piece.warm) else { return };
        self.cold.remove(piece.place);
        (piece.warm, piece.place, piece.place_by_use) =
            (true, self.warm.push(key), self.warm_by_use.push(key));
        self.warm_bytes += piece.bytes.len();
    }

    /// Makes the warm pieces that are out of use for longest cold, beyond the part that may be warm.
    fn cool(&mut self) {
        while self.warm_bytes * 8 > self.bytes * WARM_EIGHTHS_MAX
            && self.warm.has_several()
            && let Some(key) = self.warm.first()
            && let Some(piece) = self.pieces.get_mut(&key)
        {
            self.warm_bytes -= piece.bytes.len();
            self.warm.remove(piece.place);
            self.warm_by_use.remove(piece.place_by_use);
            (piece.warm, piece.place) = (false, self.cold.push(key));
        }
        // Who is gone and was last used before any warm piece cannot become warm by its next use.
        while let Some((&used, &key)) = self.gone_by_use.first_key_value()
            && (!self.is_warm_use(used) || self.gone.len() > GONE_MAX * self.pieces.len())
        {
            self.gone_by_use.remove(&used);
            self.gone.remove(&key);
        }
    }

    fn take(&mut self, key: PieceKey) -> Option<Piece> {
        let piece = self.pieces.remove(&key)?;
        self.bytes -= piece.bytes.len();
        if piece.warm {
            self.warm_bytes -= piece.bytes.len();
            self.warm.remove(piece.place);
            self.warm_by_use.remove(piece.place_by_use);
        } else {
            self.cold.remove(piece.place);
        }
        Some(piece)
    }

    fn remember(&mut self, key: PieceKey, piece: &Piece) {
        let end = key.start + piece.bytes.len() as u32;
        if let Some((_, used)) = self.gone.insert(key, (end, piece.used)) {
            self.gone_by_use.remove(&used);
        }
        self.gone_by_use.insert(piece.used, key);
    }

    /// When the piece that is gone from this place was last used; it is forgotten.
    fn take_gone(&mut self, key: PieceKey) -> Option<u64> {
        let first = PieceKey { start: 0, ..key };
        let (&found, &(end, used)) = self.gone.range(first..=key).next_back()?;
        if key.start >= end {
            return None;
        }
        self.gone.remove(&found);
        self.gone_by_use.remove(&used);
        Some(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buffer::AlignedBuf;
    use proptest::prelude::*;

    const PIECE: u32 = 2 * BLOCK_BYTES as u32;

    /// A cache that holds `room` pieces of a log, as the pool would bound it.
    struct Bounded {
        cache: ReadCache,
        room: usize,
    }

    fn key(segment: i64, number: u32) -> PieceKey {
        PieceKey {
            log: LogId { slot: 0, generation: 0 },
            segment,
            kind: FileKind::Log,
            start: number * PIECE,
        }
    }

    impl Bounded {
        fn new(room: usize) -> Bounded {
            Bounded { cache: ReadCache::default(), room }
        }

        fn put(&mut self, key: PieceKey, source: Source) {
            while self.cache.pieces.len() >= self.room {
                assert!(self.cache.evict_one());
            }
            let bytes = AlignedBuf::unbudgeted(PIECE as usize).freeze();
            self.cache.insert(key, bytes, source, 0..0);
        }

        /// Reads a piece in two steps; whether memory had it.
        fn read(&mut self, segment: i64, number: u32) -> bool {
            let PieceKey { log, start, .. } = key(segment, number);
            self.cache.begin_read();
            let hit = self.cache.get(log, segment, start).is_some();
            if !hit {
                self.put(key(segment, number), Source::Disk);
                self.cache.begin_read();
                assert!(self.cache.get(log, segment, start).is_some());
            }
            self.cache.begin_read();
            assert!(self.cache.get(log, segment, start + BLOCK_BYTES as u32).is_some());
            hit
        }

        /// Reads `count` pieces in order; how many memory had.
        fn pass(&mut self, segment: i64, count: u32) -> usize {
            (0..count).filter(|&number| self.read(segment, number)).count()
        }
    }

    #[test]
    fn passes_over_more_than_memory_holds_find_most_of_what_it_holds() {
        let mut bounded = Bounded::new(64);
        (0..100).for_each(|number| bounded.put(key(0, number), Source::Written));
        for pass in 0..5 {
            let hits = bounded.pass(0, 100);
            assert!(hits >= 50, "pass {pass}: {hits} hits with room for 64");
        }
        // The same without anything written before.
        let mut bounded = Bounded::new(64);
        bounded.pass(0, 100);
        let hits = bounded.pass(0, 100);
        assert!(hits >= 45, "{hits} hits with room for 64");
    }

    #[test]
    fn a_scan_takes_nothing_from_what_was_written_last() {
        let mut bounded = Bounded::new(64);
        (0..64).for_each(|number| bounded.put(key(0, number), Source::Written));
        bounded.pass(1, 1000);
        assert_eq!((10..64).filter(|&number| bounded.read(0, number)).count(), 54);
    }

    #[test]
    fn what_nobody_reads_gives_way_to_what_is_read_again() {
        let mut bounded = Bounded::new(64);
        (0..100).for_each(|number| bounded.put(key(0, number), Source::Written));
        bounded.pass(1, 40);
        bounded.pass(1, 40);
        assert_eq!(bounded.pass(1, 40), 40);
    }

    #[test]
    fn a_reader_behind_what_is_written_finds_it() {
        let mut bounded = Bounded::new(64);
        for number in 0..500 {
            bounded.put(key(0, number), Source::Written);
            if number >= 50 {
                assert!(bounded.read(0, number - 50), "{number}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_books_agree(steps in prop::collection::vec((0u8..12, 0i64..3, 0u32..40), 1..400)) {
            let mut bounded = Bounded::new(16);
            for (choice, segment, number) in steps {
                match choice {
                    0 => bounded.cache.remove(key(segment, number)),
                    1 => bounded.cache.forget(LogId { slot: 0, generation: 0 }, Some(segment)),
                    2 => { bounded.cache.evict_one(); }
                    3..6 => bounded.put(key(segment, number), Source::Written),
                    _ => { bounded.read(segment, number); }
                }
                let cache = &bounded.cache;
                let bytes = |warm: bool| cache.pieces.values().filter(|piece| piece.warm == warm).map(|piece| piece.bytes.len()).sum::<usize>();
                prop_assert_eq!((bytes(true), bytes(false)), (cache.warm_bytes, cache.bytes - cache.warm_bytes));
                let warm = cache.pieces.values().filter(|piece| piece.warm).count();
                prop_assert_eq!(cache.warm.keys().count(), warm);
                prop_assert_eq!(cache.warm_by_use.keys().count(), warm);
                prop_assert_eq!(cache.cold.keys().count(), cache.pieces.len() - warm);
                prop_assert!(cache.warm_by_use.keys().map(|(_, key)| cache.pieces[&key].used).is_sorted());
                for (place, key) in cache.warm_by_use.keys() {
                    prop_assert_eq!(cache.pieces[&key].place_by_use, place);
                }
                for (is_warm, order) in [(true, &cache.warm), (false, &cache.cold)] {
                    for (place, key) in order.keys() {
                        let piece = &cache.pieces[&key];
                        prop_assert_eq!((piece.warm, piece.place), (is_warm, place));
                    }
                }
                prop_assert_eq!(cache.gone.len(), cache.gone_by_use.len());
                prop_assert!(cache.gone.len() <= GONE_MAX * cache.pieces.len());
            }
        }
    }
}
