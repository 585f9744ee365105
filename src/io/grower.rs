//! A thread that maps memory for pools, so that no shard waits for pages: the first touch of memory that a virtual machine's host has
//! to find first takes some ms a MiB. It yields to the shards, by priority; whoever needs memory meanwhile does with what there is.
//! Started by `server`, asked by [`super::buffer::BufferPool`].

use std::io;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::buffer::Shared;

/// Requests that wait; a pool has one at most under way.
const REQUESTS_MAX: usize = 1024;
/// Of the thread: a shard gets nine times its share of a core.
const NICE: libc::c_int = 10;

/// Ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Grower {
    requests: SyncSender<Weak<Shared>>,
}

impl Grower {
    pub fn start() -> io::Result<Grower> {
        let (requests, asked) = sync_channel(REQUESTS_MAX);
        std::thread::Builder::new().name("memory".to_owned()).spawn(move || run(&asked))?;
        Ok(Grower { requests })
    }

    /// Whether the pool gets another arena in a while.
    pub(super) fn ask(&self, pool: Weak<Shared>) -> bool {
        self.requests.try_send(pool).is_ok()
    }
}

fn run(asked: &Receiver<Weak<Shared>>) {
    // SAFETY: needed as the standard library has no call for it. It takes plain numbers and, on Linux, changes the
    // calling thread alone; a refusal leaves the priority as it is.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    while let Ok(pool) = asked.recv() {
        if let Some(pool) = pool.upgrade() {
            pool.grow_touched();
        }
    }
}
