//! The segment files: written once in full before the first request, as overwriting such blocks is the fast direct append.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::log::{ALIGN, BLOCK, HEAD, MAGIC};
use crate::wire::{PRODUCE, Produce, Request};

/// Memory whose start is aligned for direct I/O.
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    pub fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Aligned { bytes, start }
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.bytes.len() - ALIGN]
    }
}

impl AsMut<[u8]> for Aligned {
    fn as_mut(&mut self) -> &mut [u8] {
        let len = self.bytes.len() - ALIGN;
        &mut self.bytes[self.start..][..len]
    }
}

pub fn path(dir: &Path, thread: u16) -> PathBuf {
    dir.join(format!("segment-{thread}"))
}

/// A thread's segment, open for direct writes; one of that length is taken as it is.
pub fn open(dir: &Path, thread: u16, len: u64) -> io::Result<File> {
    let path = path(dir, thread);
    if !fs::metadata(&path).is_ok_and(|found| found.len() == len) {
        fs::create_dir_all(dir)?;
        let _ = fs::remove_file(&path);
        let mut file = direct(&path)?;
        let zeros = Aligned::new(BLOCK);
        for _ in 0..len / BLOCK as u64 {
            file.write_all(zeros.as_ref())?;
        }
        file.sync_all()?;
    }
    direct(&path)
}

fn direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).custom_flags(libc::O_DIRECT).open(path)
}

/// Reads a segment that has not come round and counts its produce requests; an error says what no server may have written.
pub fn check(path: &Path) -> io::Result<u64> {
    let bytes = fs::read(path)?;
    let (mut at, mut sequence, mut found, mut seen) = (0, 0u64, 0, BTreeSet::new());
    let wrong = |what: &str, at: usize| Err(io::Error::other(format!("{what} at byte {at}")));
    while let Some(head) = bytes.get(at..at + HEAD).filter(|head| head[..4] == MAGIC.to_le_bytes()) {
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if head[8..] != sequence.to_le_bytes() || !seen.insert(sequence) {
            return wrong("a block out of order", at);
        }
        let Some(mut rest) = bytes.get(at + HEAD..at + len) else { return wrong("a block cut short", at) };
        while let Some((prefix, behind)) = rest.split_first_chunk() {
            let (frame, behind) =
                behind.split_at_checked(i32::from_be_bytes(*prefix) as usize).unwrap_or((&[], &[]));
            let Ok(request) = Request::parse(frame) else { return wrong("no request", at) };
            if request.key == PRODUCE {
                match Produce::parse(request.body) {
                    Ok(produce) if whole(produce.batch) => found += 1,
                    _ => return wrong("a damaged batch", at),
                }
            }
            rest = behind;
        }
        at += len.next_multiple_of(ALIGN);
        sequence += 1;
    }
    Ok(found)
}

/// Whether a batch has the length and the checksum that it claims.
fn whole(batch: &[u8]) -> bool {
    batch.len() > 61
        && batch[8..12] == (batch.len() as u32 - 12).to_be_bytes()
        && batch[17..21] == crc32c::crc32c(&batch[21..]).to_be_bytes()
}
