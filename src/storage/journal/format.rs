//! The bytes of a journal block, and how blocks are found again in a file.
//!
//! A block is a whole number of sectors ([`SECTOR_BYTES`]; of pages where it is written past the page cache): the batches of many
//! logs, zeros, a directory, a footer that ends the last sector. The footer stands at the end because a block is written while it
//! is still unknown what will be in it, and because batches of one log then lie side by side and are sent to consumers as one
//! piece. A reader looks at the end of each sector. What a client sends cannot pass for a footer: the journal's number, drawn at
//! random, is in it and is known to nobody outside.
//!
//! Checksums: a batch carries its own (checked on produce), so the block's covers only the directory, the footer and
//! the head of each batch that the batch's own leaves out. No byte of a record is summed twice on the way in.
//!
//! Footer, little-endian: magic 8, incarnation 8, sequence 8, first live sequence 8, block bytes 4, data bytes 4,
//! directory entries 4, flags 4, heads CRC 4, reserved 8, CRC 4 (of the directory and the footer before it).
//! Directory entry: topic id 16, partition 4, kind 4, position 4, length 4, offset 8.

use crate::protocol::Uuid;
use crate::record::batch::CHECKED_FROM;
use crate::record::{BatchHeader, batches, crc32c};

/// What blocks begin and end at multiples of. A few records fill one: with whole pages the journal of single records would be seven
/// eighths zeros, and its files, with a sync of every log in them, be freed eight times as often.
pub const SECTOR_BYTES: usize = 512;
pub const FOOTER_BYTES: usize = 64;
pub const ENTRY_BYTES: usize = 40;
/// The bytes at the head of a batch that its own checksum leaves out, and that checksum.
const HEAD_BYTES: usize = CHECKED_FROM;
const MAGIC: u64 = u64::from_le_bytes(*b"RLBLOCK1");
/// The block was asked to be on stable media before it was acknowledged.
const FLAG_SYNC: u32 = 1;

/// What an entry of the directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Batches that follow one another, the first at `offset`.
    Batches,
    /// The log start offset became `offset`.
    LogStart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub topic_id: Uuid,
    pub partition: i32,
    pub kind: EntryKind,
    /// Where the bytes lie in the block.
    pub position: u32,
    pub len: u32,
    pub offset: i64,
}

impl Entry {
    fn write(&self, out: &mut [u8]) {
        out[..16].copy_from_slice(&self.topic_id.0);
        out[16..20].copy_from_slice(&self.partition.to_le_bytes());
        let kind: u32 = match self.kind {
            EntryKind::Batches => 1,
            EntryKind::LogStart => 2,
        };
        out[20..24].copy_from_slice(&kind.to_le_bytes());
        out[24..28].copy_from_slice(&self.position.to_le_bytes());
        out[28..32].copy_from_slice(&self.len.to_le_bytes());
        out[32..40].copy_from_slice(&self.offset.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Entry> {
        let kind = match u32_at(bytes, 20) {
            1 => EntryKind::Batches,
            2 => EntryKind::LogStart,
            _ => return None,
        };
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        Some(Entry {
            topic_id: Uuid(id),
            partition: u32_at(bytes, 16) as i32,
            kind,
            position: u32_at(bytes, 24),
            len: u32_at(bytes, 28),
            offset: u64_at(bytes, 32) as i64,
        })
    }
}

/// The directory of the block being filled.
#[derive(Debug, Default)]
pub struct Directory {
    entries: Vec<Entry>,
    heads_crc: u32,
}

impl Directory {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.heads_crc = 0;
    }

    /// Notes a batch that was copied to `position` of the block; joins it to the entry before where it continues it.
    pub fn push_batch(&mut self, topic_id: Uuid, partition: i32, position: u32, batch: &[u8], offset: i64) {
        self.heads_crc = crc32c::append(self.heads_crc, &batch[..HEAD_BYTES]);
        let len = batch.len() as u32;
        if let Some(last) = self.entries.last_mut()
            && last.kind == EntryKind::Batches
            && last.position + last.len == position
            && last.partition == partition
            && last.topic_id == topic_id
        {
            last.len += len;
            return;
        }
        let kind = EntryKind::Batches;
        self.entries.push(Entry { topic_id, partition, kind, position, len, offset });
    }

    pub fn push_log_start(&mut self, topic_id: Uuid, partition: i32, offset: i64) {
        let kind = EntryKind::LogStart;
        self.entries.push(Entry { topic_id, partition, kind, position: 0, len: 0, offset });
    }

    /// The bytes of a block with `data_bytes` of batches and this directory, plus `more` entries, in whole units of `unit_bytes`.
    pub fn block_bytes(&self, data_bytes: usize, more: usize, unit_bytes: usize) -> usize {
        (data_bytes + (self.entries.len() + more) * ENTRY_BYTES + FOOTER_BYTES).next_multiple_of(unit_bytes)
    }

    /// Writes padding, directory and footer into `out`, all that follows the batches in the block.
    pub fn write(&self, seal: &Seal, out: &mut [u8]) {
        let directory_at = out.len() - FOOTER_BYTES - self.entries.len() * ENTRY_BYTES;
        let (padding, rest) = out.split_at_mut(directory_at);
        padding.fill(0);
        for (entry, space) in self.entries.iter().zip(rest.chunks_exact_mut(ENTRY_BYTES)) {
            entry.write(space);
        }
        let footer_at = rest.len() - FOOTER_BYTES;
        let footer = &mut rest[footer_at..];
        footer.fill(0);
        footer[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        footer[8..16].copy_from_slice(&seal.incarnation.to_le_bytes());
        footer[16..24].copy_from_slice(&seal.sequence.to_le_bytes());
        footer[24..32].copy_from_slice(&seal.first_live.to_le_bytes());
        footer[32..36].copy_from_slice(&seal.block_bytes.to_le_bytes());
        footer[36..40].copy_from_slice(&seal.data_bytes.to_le_bytes());
        footer[40..44].copy_from_slice(&(self.entries.len() as u32).to_le_bytes());
        footer[44..48].copy_from_slice(&u32::to_le_bytes(if seal.sync { FLAG_SYNC } else { 0 }));
        footer[48..52].copy_from_slice(&self.heads_crc.to_le_bytes());
        let crc = crc32c::checksum(&rest[..rest.len() - 4]);
        let end = rest.len();
        rest[end - 4..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// What a footer says of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The number of the journal, in the names of its files.
    pub incarnation: u64,
    /// Counts the blocks of a journal without gaps, over all its files.
    pub sequence: u64,
    /// Blocks below this hold nothing any more that the segments have not on stable media.
    pub first_live: u64,
    pub block_bytes: u32,
    pub data_bytes: u32,
    pub sync: bool,
}

/// A block found in a file: its place, and its seal and directory as checked.
#[derive(Clone, Debug)]
pub struct FoundBlock {
    pub start: usize,
    pub seal: Seal,
    pub entries: Vec<Entry>,
    heads_crc: u32,
}

/// The blocks in the bytes of a journal file that have an intact footer and directory, in the order of their places.
/// Blocks of an earlier use of the file are among them, known by their sequence numbers.
pub fn find_blocks(file: &[u8], incarnation: u64) -> Vec<FoundBlock> {
    let mut found = Vec::new();
    let mut unclaimed = 0;
    let sectors = file.len() / SECTOR_BYTES;
    for sector in 1..=sectors {
        if let Some(block) = block_ending_at(&file[..sector * SECTOR_BYTES], unclaimed, incarnation) {
            unclaimed = sector * SECTOR_BYTES;
            found.push(block);
        }
    }
    found
}

/// How many bytes behind `end`, where the newest block of the file ends, are neither a block nor what is left of an older
/// one that the newest has written over: a write that never ended, or damage.
pub fn strange_bytes(file: &[u8], end: usize, incarnation: u64) -> usize {
    let mut known = end;
    let mut strange = 0;
    for sector in end / SECTOR_BYTES + 1..=file.len() / SECTOR_BYTES {
        if let Some(block) = block_ending_at(&file[..sector * SECTOR_BYTES], 0, incarnation) {
            strange += file.get(known..block.start).map_or(0, written_bytes);
            known = sector * SECTOR_BYTES;
        }
    }
    strange + written_bytes(&file[known..])
}

/// The sectors that are not what a file is filled with before its use.
fn written_bytes(bytes: &[u8]) -> usize {
    let written = |sector: &&[u8]| **sector != [0; SECTOR_BYTES];
    bytes.chunks(SECTOR_BYTES).filter(written).map(<[u8]>::len).sum()
}

fn block_ending_at(file: &[u8], unclaimed: usize, incarnation: u64) -> Option<FoundBlock> {
    let footer_at = file.len() - FOOTER_BYTES;
    let footer = &file[footer_at..];
    if u64_at(footer, 0) != MAGIC || u64_at(footer, 8) != incarnation {
        return None;
    }
    let block_bytes = u32_at(footer, 32) as usize;
    let data_bytes = u32_at(footer, 36) as usize;
    let directory_bytes = (u32_at(footer, 40) as usize).checked_mul(ENTRY_BYTES)?;
    let start = file.len().checked_sub(block_bytes)?;
    let fits = data_bytes.checked_add(directory_bytes)?.checked_add(FOOTER_BYTES)? <= block_bytes;
    if start < unclaimed || !start.is_multiple_of(SECTOR_BYTES) || !fits {
        return None;
    }
    let directory_at = footer_at - directory_bytes;
    if crc32c::checksum(&file[directory_at..file.len() - 4]) != u32_at(footer, 60) {
        return None;
    }
    let mut entries = Vec::with_capacity(directory_bytes / ENTRY_BYTES);
    for bytes in file[directory_at..footer_at].chunks_exact(ENTRY_BYTES) {
        let entry = Entry::read(bytes)?;
        let end = (entry.position as usize).checked_add(entry.len as usize)?;
        if end > data_bytes {
            return None;
        }
        entries.push(entry);
    }
    let seal = Seal {
        incarnation,
        sequence: u64_at(footer, 16),
        first_live: u64_at(footer, 24),
        block_bytes: block_bytes as u32,
        data_bytes: data_bytes as u32,
        sync: u32_at(footer, 44) & FLAG_SYNC != 0,
    };
    Some(FoundBlock { start, seal, entries, heads_crc: u32_at(footer, 48) })
}

impl FoundBlock {
    /// The bytes of an entry, from those of the file.
    pub fn bytes<'a>(&self, file: &'a [u8], entry: &Entry) -> &'a [u8] {
        let at = self.start + entry.position as usize;
        &file[at..at + entry.len as usize]
    }

    /// Checks every batch of the block against its own checksum and the block's; the entries are then fit for replay.
    pub fn check(&self, file: &[u8]) -> Result<(), String> {
        let mut heads_crc = 0;
        for entry in self.entries.iter().filter(|entry| entry.kind == EntryKind::Batches) {
            let bytes = self.bytes(file, entry);
            let mut walk = batches(bytes);
            let mut expected = entry.offset;
            for batch in &mut walk {
                let batch = batch.map_err(|error| error.to_string())?;
                batch.check_crc().map_err(|error| error.to_string())?;
                heads_crc = crc32c::append(heads_crc, &batch.bytes()[..HEAD_BYTES]);
                expected = next_offset(batch.header(), expected)?;
            }
            if walk.consumed() != bytes.len() {
                return Err("a record batch is cut off".to_string());
            }
        }
        if heads_crc == self.heads_crc { Ok(()) } else { Err("checksum of the batch heads".to_string()) }
    }
}

fn next_offset(header: &BatchHeader, expected: i64) -> Result<i64, String> {
    let sane = header.base_offset >= expected && header.last_offset_delta >= 0;
    if sane {
        Ok(header.next_offset())
    } else {
        Err(format!("offset {} after {expected}", header.base_offset))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}
