//! From the journal's memory to stable media, and the acknowledgements that follow: blocks sealed and written once a turn, files
//! synced where durable blocks need it, the next file made ready beside the writes.
//!
//! Called by the turn of [`Storage`](super::Storage), and with the completions that are the journal's.

use std::collections::VecDeque;

use super::jobs::{Step, sync_dir};
use super::journal::{CHUNK_BYTES, Way};
use super::stop::StopPhase;
use super::store::{End, KIND_JOURNAL_SYNC, KIND_JOURNAL_WRITE, RETRY_NS, Storage, token};
use super::types::{Event, LogId};
use crate::io::buffer::AlignedBuf;
use crate::io::{Errno, Io, Op, OpenMode};

impl Storage {
    /// Seals a block and submits what may be written and synced now.
    pub(super) fn write_journal(&mut self, io: &mut impl Io, dir: usize) {
        let home = &mut self.dirs[dir];
        if home.journal.wants_seal() {
            home.journal.seal();
        }
        while let Some(write) = home.journal.next_write() {
            home.clock.write_began(write.sequence, io.now(), write.sync);
            self.options.metrics.journal_bytes.add(write.data.len() as u64);
            let op = Op::Write { file: write.file, offset: write.offset, data: write.data, sync: write.sync };
            io.submit(op, token(KIND_JOURNAL_WRITE, dir, write.sequence));
        }
        for file in home.journal.next_sync().unwrap_or_default() {
            home.clock.sync_began(io.now());
            io.submit(Op::Sync { file, data_only: true }, token(KIND_JOURNAL_SYNC, dir, 0));
        }
        // The sync before may have covered a block that waited for another's write: no completion tells then.
        self.acknowledge(dir);
        if matches!(self.stop, StopPhase::Running | StopPhase::Draining)
            && let Some(way) = self.dirs[dir].journal.files().wants()
        {
            self.add_journal_file(io, dir, way);
        }
    }

    fn add_journal_file(&mut self, io: &mut impl Io, dir: usize, way: Way) {
        let files = self.dirs[dir].journal.files_mut();
        let (name, fill_bytes) = (files.request(way), files.fill_bytes(way));
        let path = self.dirs[dir].journal_path.join(name);
        let mode = journal_mode(way);
        let mut steps = VecDeque::new();
        sync_dir(&mut steps, &self.dirs[dir].journal_path);
        // Created first, synced with its directory, then opened to be kept.
        steps.push_front(Step::Open { path: path.clone(), mode });
        steps.push_back(Step::Open { path, mode });
        if fill_bytes > 0 {
            let len = CHUNK_BYTES.min(fill_bytes as usize);
            // One of this size at a time in each directory.
            let mut zeros = self.allocate(len).unwrap_or_else(|| AlignedBuf::unbudgeted(len));
            zeros.fill(0);
            steps.push_back(Step::Fill { data: zeros.freeze(), done_bytes: 0, upto_bytes: fill_bytes });
            // Or the first durable write would wait for it.
            steps.push_back(Step::Sync { data_only: true });
        }
        self.jobs.start(io, dir, None, steps, End::JournalFile);
    }

    pub(super) fn journal_written(
        &mut self,
        io: &mut impl Io,
        dir: usize,
        number: u64,
        result: Result<usize, Errno>,
    ) {
        let home = &mut self.dirs[dir];
        home.clock.write_ended(number, io.now(), &self.options.metrics);
        match result {
            Ok(_) => home.journal.written(number, true),
            Err(Errno::NO_SPACE) => {
                tracing::warn!(dir = %home.path.display(), "no space left: appends are refused until there is");
                home.journal.written(number, false);
                self.retry_ns = io.now() + RETRY_NS;
            }
            Err(error) => {
                home.journal.written(number, false);
                self.fail_dir(io, dir, format!("write to the journal: {error}"));
            }
        }
    }

    pub(super) fn journal_synced(&mut self, io: &mut impl Io, dir: usize, result: Result<usize, Errno>) {
        match result {
            Ok(_) => {
                self.dirs[dir].clock.sync_ended(io.now(), &self.options.metrics);
                self.dirs[dir].journal.file_synced();
            }
            Err(error) => self.fail_dir(io, dir, format!("sync of the journal: {error}")),
        }
    }

    /// Moves the high watermarks over the journal's completed blocks.
    pub(super) fn acknowledge(&mut self, dir: usize) {
        while let Some(touches) = self.dirs[dir].journal.next_acknowledged() {
            for touch in &touches {
                let Some(log) = self.logs.get_mut(touch.log) else { continue };
                if let Some(log_start_offset) = touch.start_offset {
                    log.safe_start_offset = log.safe_start_offset.max(log_start_offset);
                    let log_start_offset = log.safe_start_offset;
                    self.events.push_back(Event::StartAdvanced { log: touch.log, log_start_offset });
                }
                self.advance(touch.log, touch.end_offset);
            }
            self.dirs[dir].journal.recycle_touches(touches);
        }
    }

    /// Moves a log's high watermark on to `offset`, below which all has reached the level that was asked for.
    pub(super) fn advance(&mut self, id: LogId, offset: i64) {
        let Some(log) = self.logs.get_mut(id).filter(|log| offset > log.high_watermark) else { return };
        log.high_watermark = offset;
        if !std::mem::replace(&mut log.flags.advanced, true) {
            self.advanced.push_back(id);
        }
        log.producers.on_high_watermark(offset);
        let wanted =
            log.tail_bytes >= super::flush::FLUSH_BYTES || log.flush_to.max(log.sync_to) > log.flushed_offset;
        if wanted && !std::mem::replace(&mut log.flags.busy, true) {
            self.work.push_back(id);
        }
    }
}

pub(super) fn journal_mode(way: Way) -> OpenMode {
    let direct = way == Way::Direct;
    OpenMode { write: true, create: true, truncate: false, direct, directory: false }
}
