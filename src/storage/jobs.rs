//! File work as short scripts: a job is a list of steps that run one after the other, one operation of the driver each.
//!
//! Flushes, syncs, disk reads, checkpoints, retention and deletes all go through here, so that handles, errors and
//! waiting for space are treated in one place. A step that finds no space keeps its job where it is until
//! [`Jobs::retry`]; any other error ends the job. Files of segments are opened on demand, shared by the jobs that use
//! them and closed when they have lain idle ([`Jobs::close_idle`]).
//!
//! Generic in `E`, what the owner wants back at the end of a job.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slab::Slab;

use super::names::{FileKind, FileName};
use super::types::LogId;
use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{Completion, Errno, Handle, Io, Op, OpenMode, Payload, Token};

/// A file of a log that may stay open between jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileKey {
    pub log: LogId,
    pub base_offset: i64,
    pub kind: FileKind,
}

impl FileKey {
    fn path(&self, dir: &Path) -> PathBuf {
        dir.join(FileName::new(self.base_offset, self.kind).to_string())
    }
}

/// One operation. Those without a path work on the file that the job opened last.
#[derive(Debug)]
pub enum Step {
    /// Opens a shared file, or takes it as it is open; `dir` is its log's.
    Use {
        key: FileKey,
        dir: Arc<Path>,
        create: bool,
    },
    /// Opens a file for this job alone.
    Open {
        path: PathBuf,
        mode: OpenMode,
    },
    Write {
        offset: u64,
        data: Slice,
    },
    /// Writes `data` again and again from the file's start on, as long as there is space: it gives blocks to a file that works
    /// without them, too.
    Fill {
        data: Slice,
        done_bytes: u64,
        upto_bytes: u64,
    },
    Read {
        offset: u64,
        len: usize,
        buf: Option<AlignedBuf>,
    },
    Truncate {
        len: u64,
    },
    Sync {
        data_only: bool,
    },
    CreateDir {
        path: PathBuf,
    },
    /// No error where `from` is not there.
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// No error where it is not there.
    Unlink {
        path: PathBuf,
    },
    /// No error where it is not there, or not empty.
    RemoveDir {
        path: PathBuf,
    },
}

impl Step {
    fn place(&self) -> Option<Place> {
        match self {
            Step::Use { key, dir, .. } => Some(Place::Shared(*key, Arc::clone(dir))),
            Step::Open { path, .. }
            | Step::CreateDir { path }
            | Step::Unlink { path }
            | Step::RemoveDir { path }
            | Step::Rename { from: path, .. } => Some(Place::Path(path.clone())),
            Step::Write { .. }
            | Step::Fill { .. }
            | Step::Read { .. }
            | Step::Truncate { .. }
            | Step::Sync { .. } => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Step::Use { .. } | Step::Open { .. } => "open",
            Step::Write { .. } | Step::Fill { .. } => "write",
            Step::Read { .. } => "read",
            Step::Truncate { .. } => "truncate",
            Step::Sync { .. } => "sync",
            Step::CreateDir { .. } => "create directory",
            Step::Rename { .. } => "rename",
            Step::Unlink { .. } => "remove",
            Step::RemoveDir { .. } => "remove directory",
        }
    }

    /// After an operation of the step: whether another follows.
    fn goes_on(&mut self) -> bool {
        let Step::Fill { data, done_bytes, upto_bytes } = self else { return false };
        *done_bytes += data.len() as u64;
        *done_bytes < *upto_bytes
    }

    fn forgives(&self, error: Errno) -> bool {
        match self {
            Step::Rename { .. } | Step::Unlink { .. } => error == Errno::NOT_FOUND,
            Step::RemoveDir { .. } => matches!(error, Errno::NOT_FOUND | Errno::NOT_EMPTY),
            _ => false,
        }
    }
}

/// Steps that replace a small file so that it is either the old one or the new one, and stays.
pub fn replace_file(steps: &mut VecDeque<Step>, path: &Path, contents: &[u8]) {
    exchange_file(steps, path, contents);
    if let Some(parent) = path.parent() {
        sync_dir(steps, parent);
    }
}

/// Steps that replace a small file; it stays the new one once its directory has been synced.
pub fn exchange_file(steps: &mut VecDeque<Step>, path: &Path, contents: &[u8]) {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mode = OpenMode { write: true, create: true, truncate: true, ..OpenMode::default() };
    steps.push_back(Step::Open { path: temporary.clone(), mode });
    if !contents.is_empty() {
        steps.push_back(Step::Write { offset: 0, data: Slice::copy_of(contents) });
    }
    steps.push_back(Step::Sync { data_only: false });
    steps.push_back(Step::Rename { from: temporary, to: path.to_owned() });
}

/// Steps that make the entries of a directory stay.
pub fn sync_dir(steps: &mut VecDeque<Step>, path: &Path) {
    let mode = OpenMode { directory: true, ..OpenMode::default() };
    steps.push_back(Step::Open { path: path.to_owned(), mode });
    steps.push_back(Step::Sync { data_only: false });
}

/// What a job works on, for its errors; shared files, which most use, are named no earlier than that.
#[derive(Debug)]
enum Place {
    Path(PathBuf),
    Shared(FileKey, Arc<Path>),
}

impl Place {
    fn path(&self) -> PathBuf {
        match self {
            Place::Path(path) => path.clone(),
            Place::Shared(key, dir) => key.path(dir),
        }
    }
}

#[derive(Debug)]
struct Job<E> {
    dir: usize,
    log: Option<LogId>,
    steps: VecDeque<Step>,
    /// The file that steps without a path mean, and whether this job alone has it open.
    file: Option<(Handle, bool)>,
    held: Vec<FileKey>,
    place: Place,
    buf: Option<(AlignedBuf, usize)>,
    end: E,
    stalled: bool,
    /// Waits for space; else finding none ends it.
    patient: bool,
}

/// How a job ended.
#[derive(Debug)]
pub struct Finished<E> {
    pub dir: usize,
    pub log: Option<LogId>,
    pub end: E,
    pub error: Option<JobError>,
    /// What the last read brought, and how many bytes of it.
    pub buf: Option<(AlignedBuf, usize)>,
    /// The file a job opened for itself and its owner wants to keep.
    pub file: Option<Handle>,
}

#[derive(Clone, Debug)]
pub struct JobError {
    pub errno: Errno,
    pub step: &'static str,
    pub path: PathBuf,
}

impl std::fmt::Display for JobError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.step, self.path.display(), self.errno)
    }
}

#[derive(Debug)]
struct OpenFile {
    handle: Handle,
    users: u32,
    last_used_ns: u64,
    /// Close it when its last user has gone.
    doomed: bool,
}

#[derive(Debug)]
pub struct Jobs<E> {
    jobs: Slab<Job<E>>,
    files: BTreeMap<FileKey, OpenFile>,
    /// Of [`Jobs::close_idle`], empty in between.
    idle: Vec<(u64, FileKey)>,
    /// Tokens of jobs and of closes that nobody waits for.
    token: u64,
    close_token: Token,
    stalled: usize,
    finished: VecDeque<Finished<E>>,
}

impl<E> Jobs<E> {
    /// `token` and `close_token` are the owner's: a job's number is added to the first.
    pub fn new(token: u64, close_token: Token) -> Jobs<E> {
        Jobs {
            jobs: Slab::new(),
            files: BTreeMap::new(),
            idle: Vec::new(),
            token,
            close_token,
            stalled: 0,
            finished: VecDeque::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Starts a job in a directory, for a log or for itself.
    pub fn start(&mut self, io: &mut impl Io, dir: usize, log: Option<LogId>, steps: VecDeque<Step>, end: E) {
        self.start_job(io, dir, log, steps, end, true);
    }

    /// Starts a job that does not wait for space: its work can be thrown away.
    pub fn start_impatient(
        &mut self,
        io: &mut impl Io,
        dir: usize,
        log: Option<LogId>,
        steps: VecDeque<Step>,
        end: E,
    ) {
        self.start_job(io, dir, log, steps, end, false);
    }

    fn start_job(
        &mut self,
        io: &mut impl Io,
        dir: usize,
        log: Option<LogId>,
        steps: VecDeque<Step>,
        end: E,
        patient: bool,
    ) {
        let (place, held) = (Place::Path(PathBuf::new()), Vec::new());
        let job = Job { dir, log, steps, file: None, held, place, buf: None, end, stalled: false, patient };
        let slot = self.jobs.insert(job);
        self.advance(io, slot);
    }

    /// The result of the step that job `slot` waits for.
    pub fn complete(&mut self, io: &mut impl Io, slot: usize, completion: Completion) {
        let now = io.now();
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let Some(step) = job.steps.front_mut() else { return };
        let error = match completion.result {
            Err(error) if !step.forgives(error) => error,
            result => {
                match (completion.payload, &*step) {
                    (Payload::Opened { file }, Step::Use { key, .. }) => {
                        let key = *key;
                        self.opened(io, slot, key, file, now);
                    }
                    (Payload::Opened { file }, _) => {
                        job.file = Some((file, true));
                    }
                    (Payload::Buffer(buf), _) => job.buf = Some((buf, result.unwrap_or(0))),
                    _ => {}
                }
                if let Some(job) = self.jobs.get_mut(slot)
                    && !job.steps.front_mut().is_some_and(Step::goes_on)
                {
                    job.steps.pop_front();
                }
                return self.advance(io, slot);
            }
        };
        if error == Errno::NO_SPACE && matches!(step, Step::Fill { .. }) {
            // Others need the space more.
            *step = Step::Truncate { len: 0 };
            return self.advance(io, slot);
        }
        let write = !matches!(step, Step::Read { .. } | Step::Sync { .. });
        if error == Errno::NO_SPACE && write && job.patient {
            job.stalled = true;
            self.stalled += 1;
            return;
        }
        let error = JobError { errno: error, step: step.name(), path: job.place.path() };
        self.finish(io, slot, Some(error));
    }

    /// The next job that has ended.
    pub fn poll(&mut self) -> Option<Finished<E>> {
        self.finished.pop_front()
    }

    /// Whether a job of `log` is under way.
    pub fn runs_for(&self, log: LogId) -> bool {
        self.jobs.iter().any(|(_, job)| job.log == Some(log))
    }

    /// Whether jobs wait for space.
    pub fn is_stalled(&self) -> bool {
        self.stalled > 0
    }

    /// Whether jobs of a directory wait for space.
    pub fn is_dir_stalled(&self, dir: usize) -> bool {
        self.stalled > 0 && self.jobs.iter().any(|(_, job)| job.stalled && job.dir == dir)
    }

    /// Tries again what found no space.
    pub fn retry(&mut self, io: &mut impl Io) {
        let slots: Vec<usize> =
            self.jobs.iter().filter(|(_, job)| job.stalled).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.jobs[slot].stalled = false;
            self.stalled -= 1;
            self.advance(io, slot);
        }
    }

    /// Ends the jobs of a failed directory that wait for space; they would wait for ever.
    pub fn abandon(&mut self, io: &mut impl Io, dir: usize) {
        let stalled = |job: &Job<E>| job.stalled && job.dir == dir;
        let slots: Vec<usize> =
            self.jobs.iter().filter(|(_, job)| stalled(job)).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.stalled -= 1;
            let path = self.jobs[slot].place.path();
            self.finish(io, slot, Some(JobError { errno: Errno::NO_SPACE, step: "write", path }));
        }
    }

    /// Lets the files of `log` that match go: closed now, or when their last job ends.
    pub fn doom_files(&mut self, io: &mut impl Io, log: LogId, matches: impl Fn(&FileKey) -> bool) {
        let first = FileKey { log, base_offset: i64::MIN, kind: FileKind::Log };
        let keys = self.files.range(first..).map(|(key, _)| *key).take_while(|key| key.log == log);
        let keys: Vec<FileKey> = keys.filter(matches).collect();
        for key in keys {
            if let Some(file) = self.files.get_mut(&key) {
                file.doomed = true;
                self.close_if_done(io, key);
            }
        }
    }

    /// Closes files that nobody has used since `before_ns`, and the longest unused beyond `max`.
    pub fn close_idle(&mut self, io: &mut impl Io, before_ns: u64, max: usize) {
        let unused = self.files.iter().filter(|(_, file)| file.users == 0);
        let mut idle = std::mem::take(&mut self.idle);
        idle.extend(unused.map(|(key, file)| (file.last_used_ns, *key)));
        idle.sort_unstable();
        let mut surplus = self.files.len().saturating_sub(max);
        for (used_ns, key) in idle.drain(..) {
            if used_ns >= before_ns && surplus == 0 {
                break;
            }
            surplus = surplus.saturating_sub(1);
            if let Some(file) = self.files.remove(&key) {
                io.submit(Op::Close { handle: file.handle }, self.close_token);
            }
        }
        self.idle = idle;
    }

    fn opened(&mut self, io: &mut impl Io, slot: usize, key: FileKey, handle: Handle, now: u64) {
        // Another job may have opened it meanwhile; a doomed one may be another file by now.
        let file = match self.files.get_mut(&key) {
            Some(file) if file.doomed => {
                self.jobs[slot].file = Some((handle, true));
                return;
            }
            Some(file) => {
                io.submit(Op::Close { handle }, self.close_token);
                file
            }
            None => self.files.entry(key).or_insert(OpenFile {
                handle,
                users: 0,
                last_used_ns: now,
                doomed: false,
            }),
        };
        file.users += 1;
        let handle = file.handle;
        let job = &mut self.jobs[slot];
        job.file = Some((handle, false));
        job.held.push(key);
    }

    /// Submits the step at the front, or ends the job.
    fn advance(&mut self, io: &mut impl Io, slot: usize) {
        loop {
            let job = &mut self.jobs[slot];
            let Some(step) = job.steps.front_mut() else { return self.finish(io, slot, None) };
            if let Some(place) = step.place() {
                job.place = place;
                if let Some((handle, true)) = job.file.take() {
                    io.submit(Op::Close { handle }, self.close_token);
                }
            }
            if let Step::Use { key, .. } = step
                && let Some(file) = self.files.get_mut(key)
                && !file.doomed
            {
                file.users += 1;
                job.file = Some((file.handle, false));
                job.held.push(*key);
                job.steps.pop_front();
                continue;
            }
            let handle = job.file.map(|(handle, _)| handle);
            let op = operation(step, handle);
            return io.submit(op, Token(self.token + slot as u64));
        }
    }

    fn finish(&mut self, io: &mut impl Io, slot: usize, error: Option<JobError>) {
        let now = io.now();
        let job = self.jobs.remove(slot);
        for key in job.held {
            if let Some(file) = self.files.get_mut(&key) {
                file.users -= 1;
                file.last_used_ns = now;
                self.close_if_done(io, key);
            }
        }
        let file = job.file.filter(|(_, own)| *own).map(|(handle, _)| handle);
        self.finished.push_back(Finished {
            dir: job.dir,
            log: job.log,
            end: job.end,
            error,
            buf: job.buf,
            file,
        });
    }

    fn close_if_done(&mut self, io: &mut impl Io, key: FileKey) {
        if let Some(file) = self.files.get(&key)
            && file.doomed
            && file.users == 0
        {
            io.submit(Op::Close { handle: file.handle }, self.close_token);
            self.files.remove(&key);
        }
    }
}

/// The operation of a step; its data stays with the step, for another try.
fn operation(step: &mut Step, handle: Option<Handle>) -> Op {
    let file = || handle.expect("a step that needs a file follows one that opens it");
    match step {
        Step::Use { key, dir, create } => {
            let direct = key.kind == FileKind::Log;
            let mode = OpenMode { write: true, create: *create, direct, ..OpenMode::default() };
            Op::Open { path: key.path(dir), mode }
        }
        Step::Open { path, mode } => Op::Open { path: path.clone(), mode: *mode },
        Step::Write { offset, data } => {
            Op::Write { file: file(), offset: *offset, data: data.clone(), sync: false }
        }
        Step::Fill { data, done_bytes, upto_bytes } => {
            let len = (data.len() as u64).min(*upto_bytes - *done_bytes) as usize;
            Op::Write { file: file(), offset: *done_bytes, data: data.slice(0, len), sync: false }
        }
        Step::Read { offset, len, buf } => Op::Read {
            file: file(),
            offset: *offset,
            buf: buf.take().unwrap_or_else(|| AlignedBuf::unbudgeted(*len)),
            len: *len,
        },
        Step::Truncate { len } => Op::Truncate { file: file(), len: *len },
        Step::Sync { data_only } => Op::Sync { file: file(), data_only: *data_only },
        Step::CreateDir { path } => Op::CreateDir { path: path.clone() },
        Step::Rename { from, to } => Op::Rename { from: from.clone(), to: to.clone() },
        Step::Unlink { path } => Op::Unlink { path: path.clone() },
        Step::RemoveDir { path } => Op::RemoveDir { path: path.clone() },
    }
}
