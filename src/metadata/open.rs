//! The start of the embedded engine: finds or makes the identity of every log directory, recovers the image, or takes it over from
//! Apache Kafka, and leaves one snapshot and one journal behind.
//!
//! Files, in `.ringlog/metadata/` of the log directory that was first when they were made, numbered by revision:
//! `N.snapshot` is the image after change N, `N.journal` holds changes after it. While one pair takes the place of another,
//! both may be there; the newest snapshot counts, and from every journal the changes that it does not have.
//! A snapshot without any journal, or the reverse, is damage: nothing leaves it behind.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::io::{DirEntry, Io};
use crate::protocol::Uuid;

use super::directories::{LogDirectory, META_PROPERTIES, MetaProperties};
use super::embedded::{Embedded, journal_path, snapshot_path};
use super::files::{self, FileError};
use super::image::ClusterImage;
use super::import;
use super::journal::{self, JournalEnd};

/// What the engine is opened with.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Created where missing. At least one.
    pub log_dirs: Vec<PathBuf>,
    /// `None`: what the directories say, else 1.
    pub node_id: Option<i32>,
    /// `None`: what the directories say, else a new one.
    pub cluster_id: Option<String>,
}

pub struct Opened {
    pub embedded: Embedded,
    pub image: Arc<ClusterImage>,
    /// One for each of `log_dirs`, in their order; one that failed carries its error.
    pub directories: Vec<LogDirectory>,
    /// What a person should know, a line each: what was dropped, taken over, or is odd.
    pub report: Vec<String>,
}

/// Why the broker cannot start on these directories. Everything is still as it was found, but for directories created.
#[derive(Debug)]
pub enum OpenError {
    File(FileError),
    /// Bytes of ours that are not what was written.
    Damaged {
        path: PathBuf,
        offset: usize,
        reason: String,
    },
    /// The directories do not fit each other or the configuration.
    Mismatch(String),
    /// A data directory of Apache Kafka that cannot be taken over.
    Import(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::File(error) => error.fmt(f),
            OpenError::Damaged { path, offset, reason } => {
                write!(f, "{} is damaged at offset {offset}: {reason}", path.display())
            }
            OpenError::Mismatch(message) | OpenError::Import(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<FileError> for OpenError {
    fn from(error: FileError) -> OpenError {
        OpenError::File(error)
    }
}

pub(super) fn open(io: &mut impl Io, options: &OpenOptions) -> Result<Opened, OpenError> {
    let mut report = Vec::new();
    let mut directories = inspect(io, options)?;
    let embedded = match find_metadata(io, &directories)? {
        Some(directory) => {
            let (image, kept) = recover(io, &directory, &mut report)?;
            check_identity(&image, options)?;
            for found in directories.iter().filter(|found| found.error.is_none()) {
                let checked = found.meta.check(&found.path, &image.cluster_id, image.node_id);
                checked.map_err(OpenError::Mismatch)?;
            }
            resume(io, &directory, image, kept)?
        }
        None => {
            let image = first_image(io, options, &mut directories, &mut report)?;
            let first = directories.iter().find(|found| found.error.is_none());
            let first =
                first.ok_or_else(|| OpenError::Mismatch("no log directory can be used".to_owned()))?;
            let directory = metadata_directory(&first.path);
            begin(io, &directory, image)?
        }
    };
    let image = embedded.committed().clone();
    write_identities(io, &image, &mut directories)?;
    let directories: Vec<_> = directories.into_iter().map(Found::into_log_directory).collect();
    check_references(&image, &directories, &mut report);
    Ok(Opened { embedded, image, directories, report })
}

/// A log directory while it is looked at.
pub(super) struct Found {
    pub path: PathBuf,
    pub meta: MetaProperties,
    /// Whether `meta.properties` has to be written.
    is_stale: bool,
    pub error: Option<String>,
}

impl Found {
    pub fn id(&self) -> Uuid {
        self.meta.directory_id.unwrap_or(Uuid::ZERO)
    }

    fn into_log_directory(self) -> LogDirectory {
        LogDirectory { id: self.id(), path: self.path, error: self.error }
    }
}

/// Creates what is missing and reads every `meta.properties`. A directory that cannot be used is noted, unless it is the only one.
fn inspect(io: &mut impl Io, options: &OpenOptions) -> Result<Vec<Found>, OpenError> {
    let mut directories = Vec::new();
    for path in &options.log_dirs {
        let mut found =
            Found { path: path.clone(), meta: MetaProperties::default(), is_stale: true, error: None };
        match read_meta(io, path) {
            Ok(Some(text)) => {
                let file = path.join(META_PROPERTIES);
                let wrong = |reason| OpenError::Mismatch(format!("{}: {reason}", file.display()));
                found.meta = MetaProperties::parse(&text).map_err(wrong)?;
                found.is_stale = found.meta.directory_id.is_none();
            }
            Ok(None) => {}
            Err(error) if options.log_dirs.len() == 1 => return Err(error.into()),
            Err(error) => found.error = Some(error.to_string()),
        }
        directories.push(found);
    }
    if directories.iter().all(|found| found.error.is_some()) {
        let errors: Vec<_> = directories.iter().filter_map(|found| found.error.clone()).collect();
        return Err(OpenError::Mismatch(format!("no log directory can be used: {}", errors.join("; "))));
    }
    Ok(directories)
}

fn read_meta(io: &mut impl Io, path: &Path) -> Result<Option<String>, FileError> {
    files::create_dirs(io, path)?;
    let bytes = files::read(io, &path.join(META_PROPERTIES))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

fn metadata_directory(log_dir: &Path) -> PathBuf {
    log_dir.join(".ringlog").join("metadata")
}

/// The one directory that holds our files.
fn find_metadata(io: &mut impl Io, directories: &[Found]) -> Result<Option<PathBuf>, OpenError> {
    let mut holders = Vec::new();
    let mut data = None;
    for found in directories.iter().filter(|found| found.error.is_none()) {
        let directory = metadata_directory(&found.path);
        let entries = files::list(io, &directory)?;
        if has_begun(io, &directory, &entries)? {
            holders.push(directory);
        }
        let ours = files::list(io, &found.path.join(".ringlog"))?;
        if ours.iter().any(|entry| entry.name.starts_with("journal")) {
            data = Some(found.path.clone());
        }
    }
    if holders.len() > 1 {
        let names: Vec<_> = holders.iter().map(|holder| holder.display().to_string()).collect();
        return Err(OpenError::Mismatch(format!(
            "several log directories hold metadata: {}",
            names.join(", ")
        )));
    }
    match (holders.pop(), data) {
        (None, Some(path)) => Err(OpenError::Mismatch(format!(
            "{} holds data of an earlier run, but no log directory holds its metadata (.ringlog/metadata): is one missing \
             from log.dirs?",
            path.display()
        ))),
        (holder, _) => Ok(holder),
    }
}

/// A first start that did not come to its end leaves a journal of nothing, which the next one replaces. Anything more is
/// ours to recover, or to complain about.
fn has_begun(io: &mut impl Io, directory: &Path, entries: &[DirEntry]) -> Result<bool, OpenError> {
    for entry in entries {
        if number(&entry.name, ".snapshot").is_some() {
            return Ok(true);
        }
        if number(&entry.name, ".journal").is_some() {
            let bytes = files::read(io, &directory.join(&entry.name))?.unwrap_or_default();
            if journal::holds_changes(&bytes) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn number(name: &str, suffix: &str) -> Option<u64> {
    name.strip_suffix(suffix)?.parse().ok()
}

/// Files that the engine goes on with; `None` when they have to be written anew.
struct Kept {
    revision: u64,
    journal: Vec<u8>,
    snapshot_len: u64,
}

fn recover(
    io: &mut impl Io,
    directory: &Path,
    report: &mut Vec<String>,
) -> Result<(ClusterImage, Option<Kept>), OpenError> {
    let names: Vec<String> = files::list(io, directory)?.into_iter().map(|entry| entry.name).collect();
    let numbers = |suffix| {
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name, suffix)).collect();
        numbers.sort_unstable();
        numbers
    };
    let (snapshots, journals) = (numbers(".snapshot"), numbers(".journal"));
    let missing = |what: &str| {
        let reason = format!("there is no {what}, though there are other files");
        OpenError::Damaged { path: directory.to_owned(), offset: 0, reason }
    };
    let newest = *snapshots.last().ok_or_else(|| missing("snapshot"))?;
    let path = snapshot_path(directory, newest);
    let bytes = read_existing(io, &path)?;
    let mut image = journal::read_snapshot(&bytes).map_err(|damage| damaged(&path, damage))?;
    if image.revision != newest {
        let reason = format!("it is the image after change {}", image.revision);
        return Err(OpenError::Damaged { path, offset: 0, reason });
    }
    let mut end = JournalEnd { len: 0, torn_bytes: 0 };
    let mut journal = Vec::new();
    if journals.is_empty() {
        return Err(missing("journal"));
    }
    for &after in &journals {
        let path = journal_path(directory, after);
        journal = read_existing(io, &path)?;
        end = journal::replay_journal(&journal, &mut image).map_err(|damage| damaged(&path, damage))?;
        if end.torn_bytes > 0 {
            report.push(format!(
                "{}: {} bytes at offset {} of a write that was cut off were dropped; it had not been acknowledged",
                path.display(),
                end.torn_bytes,
                end.len
            ));
        }
    }
    // Two files: nothing of a snapshot that was not finished is left either.
    let whole = names.len() == 2
        && snapshots.len() == 1
        && journals == [newest]
        && end.torn_bytes == 0
        && end.len > 0;
    let kept = whole.then_some(Kept { revision: newest, journal, snapshot_len: bytes.len() as u64 });
    Ok((image, kept))
}

fn read_existing(io: &mut impl Io, path: &Path) -> Result<Vec<u8>, OpenError> {
    let gone = || OpenError::Mismatch(format!("{} went away while it was read", path.display()));
    files::read(io, path)?.ok_or_else(gone)
}

fn damaged(path: &Path, damage: journal::Damage) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), offset: damage.offset, reason: damage.reason }
}

fn check_identity(image: &ClusterImage, options: &OpenOptions) -> Result<(), OpenError> {
    if let Some(node_id) = options.node_id.filter(|&id| id != image.node_id) {
        let message =
            format!("the log directories belong to node {}, but node.id is {node_id}", image.node_id);
        return Err(OpenError::Mismatch(message));
    }
    match options.cluster_id.as_deref().filter(|id| **id != *image.cluster_id) {
        Some(id) => Err(OpenError::Mismatch(format!(
            "the log directories belong to cluster {}, but ringlog.cluster.id is {id}",
            image.cluster_id
        ))),
        None => Ok(()),
    }
}

fn resume(
    io: &mut impl Io,
    directory: &Path,
    image: ClusterImage,
    kept: Option<Kept>,
) -> Result<Embedded, OpenError> {
    let Some(kept) = kept else { return begin(io, directory, image) };
    let path = journal_path(directory, kept.revision);
    if journal::holds_changes(&kept.journal) {
        // Of its end a kill may have left what was never synced, or what failed to be (the kernel calls such a page clean):
        // later changes, synced alone, would lie behind a hole after a power cut.
        files::replace(io, &path, &kept.journal)?;
    }
    let handle = files::open_for_append(io, &path)?;
    let journal_len = kept.journal.len() as u64;
    let mut embedded = Embedded::new(directory, image, handle, journal_len, kept.snapshot_len);
    embedded.set_paths(snapshot_path(directory, kept.revision), path);
    Ok(embedded)
}

/// Leaves a snapshot of `image` and an empty journal, and nothing else.
fn begin(io: &mut impl Io, directory: &Path, image: ClusterImage) -> Result<Embedded, OpenError> {
    files::create_dirs(io, directory)?;
    let (snapshot, journal) =
        (snapshot_path(directory, image.revision), journal_path(directory, image.revision));
    let bytes = journal::snapshot(&image);
    let header = journal::journal_header(&image.cluster_id, image.revision);
    let entries = files::list(io, directory)?;
    let has_snapshot = entries.iter().any(|entry| entry.name.ends_with(".snapshot"));
    if has_snapshot {
        // What is there goes on to count until the new snapshot has its name; its journal may be of the same revision.
        files::replace(io, &snapshot, &bytes)?;
        files::replace(io, &journal, &header)?;
    } else {
        // The snapshot comes last: without one, nothing has begun.
        files::replace(io, &journal, &header)?;
        files::replace(io, &snapshot, &bytes)?;
    }
    for entry in entries {
        let path = directory.join(&entry.name);
        if !entry.is_dir && path != snapshot && path != journal {
            files::remove(io, &path)?;
        }
    }
    let handle = files::open_for_append(io, &journal)?;
    let mut embedded = Embedded::new(directory, image, handle, header.len() as u64, bytes.len() as u64);
    embedded.set_paths(snapshot, journal);
    Ok(embedded)
}

/// The image of a first start.
fn first_image(
    io: &mut impl Io,
    options: &OpenOptions,
    directories: &mut [Found],
    report: &mut Vec<String>,
) -> Result<ClusterImage, OpenError> {
    let known = |found: &&Found| found.error.is_none();
    let found_cluster = directories.iter().filter(known).find_map(|found| found.meta.cluster_id.clone());
    let found_node = directories.iter().filter(known).find_map(|found| found.meta.node_id);
    let cluster_id = match options.cluster_id.clone().or(found_cluster) {
        Some(id) => id,
        None => random_uuid(io).to_string(),
    };
    let node_id = options.node_id.or(found_node).unwrap_or(1);
    for found in directories.iter().filter(known) {
        found.meta.check(&found.path, &cluster_id, node_id).map_err(OpenError::Mismatch)?;
    }
    // Before anything refers to them.
    for found in directories.iter_mut().filter(|found| found.error.is_none()) {
        if found.meta.directory_id.is_none() {
            found.meta.directory_id = Some(random_uuid(io));
        }
    }
    import::import(io, ClusterImage::empty(&cluster_id, node_id), directories, report)
}

fn random_uuid(io: &mut impl Io) -> Uuid {
    loop {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&io.random().to_ne_bytes());
        bytes[8..].copy_from_slice(&io.random().to_ne_bytes());
        if let Some(id) = Uuid::from_random(bytes) {
            return id;
        }
    }
}

/// Puts `meta.properties` where it is missing or does not name the directory.
fn write_identities(
    io: &mut impl Io,
    image: &ClusterImage,
    directories: &mut [Found],
) -> Result<(), OpenError> {
    for found in directories.iter_mut().filter(|found| found.error.is_none() && found.is_stale) {
        found.meta.cluster_id = Some(image.cluster_id.to_string());
        found.meta.node_id = Some(image.node_id);
        if found.meta.directory_id.is_none() {
            found.meta.directory_id = Some(random_uuid(io));
        }
        files::replace(io, &found.path.join(META_PROPERTIES), found.meta.to_text().as_bytes())?;
    }
    Ok(())
}

fn check_references(image: &ClusterImage, directories: &[LogDirectory], report: &mut Vec<String>) {
    let is_known = |id: &Uuid| directories.iter().any(|directory| directory.id == *id);
    for (id, count) in image.directory_counts.iter().filter(|(id, _)| !is_known(id)) {
        report.push(format!(
            "{count} partitions lie in log directory {id}, which is not among log.dirs or cannot be read"
        ));
    }
    for directory in directories {
        if let Some(error) = &directory.error {
            report.push(format!("log directory {} is offline: {error}", directory.path.display()));
        }
    }
}
