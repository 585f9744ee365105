//! The engine of a single node: every change goes into a journal and is committed when that is on stable media; now and then
//! a snapshot takes the journal's place. It lives on shard 0 and never waits: its ops complete through the shard's turn.
//!
//! One op is in flight at a time. Changes that are proposed while a write is under way form the next one, so a burst of
//! requests costs two writes. A change is checked against all changes before it, committed or not, so the order of
//! proposals is the order of commits.
//!
//! Calls: [`Embedded::open`] once at start; then [`Embedded::propose`], [`Embedded::handle_completion`] for every
//! completion whose token's top byte is [`TOKEN_OWNER`], and [`Embedded::poll_event`] until it is empty, each turn.
//!
//! When a write fails for want of space, the journal is cut back to what is committed and the engine goes on. After any other failure
//! the state of the file is unknown: the engine refuses all changes until the next start, and the last image stays valid.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::io::buffer::Slice;
use crate::io::{Completion, Errno, Handle, Io, Op, OpenMode, Payload, Token};
use crate::protocol::ErrorCode;

use super::change::Change;
use super::image::ClusterImage;
use super::{MetadataError, TOKEN_OWNER, files, journal};

pub use super::open::{OpenError, OpenOptions, Opened};

/// Changes waiting for the write under way; beyond that proposals are refused.
const QUEUE_CHANGES_MAX: usize = 10_000;
const QUEUE_BYTES_MAX: usize = 64 << 20;
const JOURNAL_BYTES_MIN: u64 = 1 << 20;

/// Names a proposal in the event that ends it. In the order of proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// The end of a proposal; events come in the order of proposals.
#[derive(Clone, Debug)]
pub enum Event {
    /// The change is on stable media. `image` holds it, and may hold later ones.
    Committed { proposal: ProposalId, image: Arc<ClusterImage> },
    /// The change did not happen, unless the process ends and finds after all that it did.
    Failed { proposal: ProposalId, error: MetadataError },
}

pub struct Embedded {
    directory: PathBuf,
    journal: Handle,
    journal_path: PathBuf,
    snapshot_path: PathBuf,
    /// The end of what is committed.
    journal_len: u64,
    /// A snapshot is taken when the journal is this long and twice as long as the last snapshot.
    journal_bytes_min: u64,
    snapshot_len: u64,
    /// After a snapshot that failed: the journal's length before which none is tried.
    retry_at: u64,
    committed: Arc<ClusterImage>,
    /// Committed, in flight and queued changes together.
    latest: Arc<ClusterImage>,
    queue: Vec<(ProposalId, String)>,
    queue_bytes: usize,
    next_proposal: u64,
    next_op: u64,
    state: State,
    events: VecDeque<Event>,
}

enum State {
    Idle,
    Writing {
        proposals: Vec<ProposalId>,
        len: u64,
        image: Arc<ClusterImage>,
    },
    /// After a write that found no space.
    Truncating,
    SyncingTruncation,
    Snapshot(Box<Snapshot>),
    Failed(String),
}

/// A snapshot on its way: what each step needs.
struct Snapshot {
    step: Step,
    len: u64,
    path: PathBuf,
    new_journal_path: PathBuf,
    file: Option<Handle>,
    new_journal: Option<Handle>,
    header_len: u64,
}

/// The op in flight. Until the new journal is durable under its name, the old one stays in use, so a failure only means
/// to go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Write,
    Sync,
    Close,
    Rename,
    CreateJournal,
    WriteJournal,
    SyncJournal,
    OpenDirectory,
    SyncDirectory,
    CloseDirectory,
    CloseOldJournal,
    RemoveOldJournal,
    RemoveOldSnapshot,
    /// Something failed: the handles that are left are closed one by one.
    Abandon,
}

impl Embedded {
    /// Recovers what is there, or begins anew, or takes over what a stopped Apache Kafka left. Blocking: at start only.
    pub fn open(io: &mut impl Io, options: &OpenOptions) -> Result<Opened, OpenError> {
        super::open::open(io, options)
    }

    pub(super) fn new(
        directory: &Path,
        image: ClusterImage,
        journal: Handle,
        journal_len: u64,
        snapshot_len: u64,
    ) -> Embedded {
        let image = Arc::new(image);
        Embedded {
            directory: directory.to_owned(),
            journal,
            journal_path: PathBuf::new(),
            snapshot_path: PathBuf::new(),
            journal_len,
            journal_bytes_min: JOURNAL_BYTES_MIN,
            snapshot_len,
            retry_at: 0,
            committed: image.clone(),
            latest: image,
            queue: Vec::new(),
            queue_bytes: 0,
            next_proposal: 0,
            next_op: 0,
            state: State::Idle,
            events: VecDeque::new(),
        }
    }

    pub(super) fn set_paths(&mut self, snapshot: PathBuf, journal: PathBuf) {
        self.snapshot_path = snapshot;
        self.journal_path = journal;
    }

    /// The journal's size from which a snapshot may take its place, where the usual one does not do.
    pub fn set_journal_bytes_min(&mut self, bytes: u64) {
        self.journal_bytes_min = bytes;
    }

    /// What is on stable media.
    pub fn committed(&self) -> &Arc<ClusterImage> {
        &self.committed
    }

    /// With the changes on their way: what the next one is planned and checked against.
    pub fn latest(&self) -> &Arc<ClusterImage> {
        &self.latest
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle | State::Failed(_)) && self.queue.is_empty()
    }

    /// Why no change is taken any more, if so.
    pub fn failure(&self) -> Option<&str> {
        match &self.state {
            State::Failed(reason) => Some(reason),
            _ => None,
        }
    }

    /// Begins a change; its [`Event`] follows. A change that does not apply is refused at once.
    pub fn propose(&mut self, io: &mut impl Io, change: Change) -> Result<ProposalId, MetadataError> {
        if let State::Failed(reason) = &self.state {
            return Err(MetadataError::new(ErrorCode::KafkaStorageError, reason.clone()));
        }
        if self.queue.len() >= QUEUE_CHANGES_MAX || self.queue_bytes >= QUEUE_BYTES_MAX {
            let message = "Too many metadata changes are on their way.";
            return Err(MetadataError::new(ErrorCode::ThrottlingQuotaExceeded, message));
        }
        Arc::make_mut(&mut self.latest).apply_in_place(&change)?;
        let proposal = ProposalId(self.next_proposal);
        self.next_proposal += 1;
        let json = journal::change_to_json(&change);
        self.queue_bytes += json.len();
        self.queue.push((proposal, json));
        self.advance(io);
        Ok(proposal)
    }

    pub fn handle_completion(&mut self, io: &mut impl Io, completion: Completion) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Writing { proposals, len, image } => match completion.result {
                Ok(_) => self.commit(proposals, len, image),
                Err(errno) => self.write_failed(io, proposals, errno),
            },
            State::Truncating => match completion.result {
                Ok(_) => {
                    self.state = State::SyncingTruncation;
                    self.submit(io, Op::Sync { file: self.journal, data_only: false });
                }
                Err(errno) => self.fail(errno),
            },
            State::SyncingTruncation => {
                if let Err(errno) = completion.result {
                    self.fail(errno);
                }
            }
            State::Snapshot(snapshot) => self.snapshot_step(io, snapshot, completion),
            State::Idle => unreachable!("no op is in flight when idle"),
            State::Failed(reason) => self.state = State::Failed(reason),
        }
        self.advance(io);
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn advance(&mut self, io: &mut impl Io) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        let wanted = self.journal_bytes_min.max(2 * self.snapshot_len).max(self.retry_at);
        if self.journal_len >= wanted {
            return self.begin_snapshot(io);
        }
        if self.queue.is_empty() {
            return;
        }
        let first = self.committed.revision + 1;
        let (proposals, changes): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queue).into_iter().unzip();
        self.queue_bytes = 0;
        let line = journal::write_line(first, &changes);
        let len = line.len() as u64;
        self.state = State::Writing { proposals, len, image: self.latest.clone() };
        let data = Slice::copy_of(&line);
        self.submit(io, Op::Write { file: self.journal, offset: self.journal_len, data, sync: true });
    }

    fn submit(&mut self, io: &mut impl Io, op: Op) {
        let token = Token(u64::from(TOKEN_OWNER) << 56 | self.next_op);
        self.next_op = (self.next_op + 1) & (u64::MAX >> 8);
        io.submit(op, token);
    }

    fn commit(&mut self, proposals: Vec<ProposalId>, len: u64, image: Arc<ClusterImage>) {
        self.journal_len += len;
        self.committed = image;
        for proposal in proposals {
            self.events.push_back(Event::Committed { proposal, image: self.committed.clone() });
        }
    }

    fn write_failed(&mut self, io: &mut impl Io, proposals: Vec<ProposalId>, errno: Errno) {
        let error = self.error(errno);
        for proposal in proposals {
            self.events.push_back(Event::Failed { proposal, error: error.clone() });
        }
        // They were checked against changes that did not happen.
        self.fail_queue(&error);
        if errno == Errno::NO_SPACE {
            self.state = State::Truncating;
            self.submit(io, Op::Truncate { file: self.journal, len: self.journal_len });
        } else {
            self.state = State::Failed(error.message);
        }
    }

    fn fail(&mut self, errno: Errno) {
        let error = self.error(errno);
        self.fail_queue(&error);
        self.state = State::Failed(error.message);
    }

    fn fail_queue(&mut self, error: &MetadataError) {
        for (proposal, _) in self.queue.drain(..) {
            self.events.push_back(Event::Failed { proposal, error: error.clone() });
        }
        self.queue_bytes = 0;
        self.latest = self.committed.clone();
    }

    fn error(&self, errno: Errno) -> MetadataError {
        let message =
            format!("The metadata journal {} cannot be written: {errno}", self.journal_path.display());
        MetadataError::new(ErrorCode::KafkaStorageError, message)
    }

    // ---- snapshots ----

    fn begin_snapshot(&mut self, io: &mut impl Io) {
        let revision = self.committed.revision;
        let path = snapshot_path(&self.directory, revision);
        let mode = OpenMode { write: true, create: true, truncate: true, ..OpenMode::default() };
        let open = Op::Open { path: files::temporary(&path), mode };
        self.state = State::Snapshot(Box::new(Snapshot {
            step: Step::Create,
            len: 0,
            path,
            new_journal_path: journal_path(&self.directory, revision),
            file: None,
            new_journal: None,
            header_len: 0,
        }));
        self.submit(io, open);
    }

    /// Takes the result of one step and begins the next.
    fn snapshot_step(&mut self, io: &mut impl Io, mut snapshot: Box<Snapshot>, completion: Completion) {
        let opened = match completion.payload {
            Payload::Opened { file } => Some(file),
            _ => None,
        };
        let next = if snapshot.step.is_last_part() {
            self.retire_step(&mut snapshot)
        } else if completion.result.is_err() || snapshot.step == Step::Abandon {
            // The next attempt waits until the journal has grown by as much again.
            self.retry_at = self.journal_len.saturating_mul(2);
            let left = opened.or(snapshot.file.take()).or(snapshot.new_journal.take());
            left.map(|left| (Step::Abandon, Op::Close { handle: left }))
        } else {
            self.write_step(&mut snapshot, opened)
        };
        if let Some((step, op)) = next {
            snapshot.step = step;
            self.state = State::Snapshot(snapshot);
            self.submit(io, op);
        }
    }

    /// What follows a step that succeeded, until the new files are durable.
    fn write_step(&self, snapshot: &mut Snapshot, opened: Option<Handle>) -> Option<(Step, Op)> {
        let create = OpenMode { write: true, create: true, truncate: true, ..OpenMode::default() };
        match snapshot.step {
            Step::Create => {
                snapshot.file = opened;
                let bytes = journal::snapshot(&self.committed);
                snapshot.len = bytes.len() as u64;
                let data = Slice::copy_of(&bytes);
                opened.map(|file| (Step::Write, Op::Write { file, offset: 0, data, sync: false }))
            }
            Step::Write => snapshot.file.map(|file| (Step::Sync, Op::Sync { file, data_only: false })),
            Step::Sync => snapshot.file.take().map(|file| (Step::Close, Op::Close { handle: file })),
            Step::Close => {
                let (from, to) = (files::temporary(&snapshot.path), snapshot.path.clone());
                Some((Step::Rename, Op::Rename { from, to }))
            }
            Step::Rename => {
                let path = snapshot.new_journal_path.clone();
                Some((Step::CreateJournal, Op::Open { path, mode: create }))
            }
            Step::CreateJournal => {
                snapshot.new_journal = opened;
                let header = journal::journal_header(&self.committed.cluster_id, self.committed.revision);
                snapshot.header_len = header.len() as u64;
                let data = Slice::copy_of(&header);
                opened.map(|file| (Step::WriteJournal, Op::Write { file, offset: 0, data, sync: false }))
            }
            Step::WriteJournal => {
                snapshot.new_journal.map(|file| (Step::SyncJournal, Op::Sync { file, data_only: false }))
            }
            Step::SyncJournal => {
                let mode = OpenMode { directory: true, ..OpenMode::default() };
                Some((Step::OpenDirectory, Op::Open { path: self.directory.clone(), mode }))
            }
            Step::OpenDirectory => {
                snapshot.file = opened;
                opened.map(|file| (Step::SyncDirectory, Op::Sync { file, data_only: false }))
            }
            Step::SyncDirectory => {
                snapshot.file.take().map(|file| (Step::CloseDirectory, Op::Close { handle: file }))
            }
            _ => None,
        }
    }

    /// What follows then: the new journal is in use, and a failure leaves a file that the next start removes.
    fn retire_step(&mut self, snapshot: &mut Snapshot) -> Option<(Step, Op)> {
        match snapshot.step {
            Step::CloseDirectory => {
                let old = self.use_new_journal(snapshot);
                Some((Step::CloseOldJournal, Op::Close { handle: old }))
            }
            Step::CloseOldJournal => {
                let path = std::mem::replace(&mut self.journal_path, snapshot.new_journal_path.clone());
                Some((Step::RemoveOldJournal, Op::Unlink { path }))
            }
            Step::RemoveOldJournal => {
                let path = std::mem::replace(&mut self.snapshot_path, snapshot.path.clone());
                Some((Step::RemoveOldSnapshot, Op::Unlink { path }))
            }
            _ => None,
        }
    }

    /// The switch from one journal to the next; returns the old one.
    fn use_new_journal(&mut self, snapshot: &mut Snapshot) -> Handle {
        let new = snapshot.new_journal.take().expect("it was opened in an earlier step");
        self.journal_len = snapshot.header_len;
        self.snapshot_len = snapshot.len;
        self.retry_at = 0;
        std::mem::replace(&mut self.journal, new)
    }
}

impl Step {
    /// Whether the new journal is durable, so that nothing can fail any more.
    fn is_last_part(self) -> bool {
        matches!(
            self,
            Step::CloseDirectory | Step::CloseOldJournal | Step::RemoveOldJournal | Step::RemoveOldSnapshot
        )
    }
}

pub(super) fn snapshot_path(directory: &Path, revision: u64) -> PathBuf {
    directory.join(format!("{revision:020}.snapshot"))
}

pub(super) fn journal_path(directory: &Path, revision: u64) -> PathBuf {
    directory.join(format!("{revision:020}.journal"))
}
