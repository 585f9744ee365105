//! What the workers know of the cluster: who leads which partition, and where brokers are. Made by the collecting thread,
//! which asks anew when a worker wants it to; read by the workers as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::schedule::Phases;
use crate::protocol::Uuid;

/// The versions spoken, as both sides know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub produce: i16,
    pub fetch: i16,
}

/// One look at the cluster.
#[derive(Clone, Debug)]
pub struct ClusterMap {
    pub brokers: BTreeMap<i32, SocketAddr>,
    /// By partition; `None` while there is none.
    pub leaders: Vec<Option<i32>>,
    pub topic: String,
    pub topic_id: Uuid,
    pub versions: Versions,
}

/// What the threads of a run share.
pub struct Shared {
    map: Mutex<Arc<ClusterMap>>,
    map_number: AtomicU64,
    refresh_wanted: AtomicBool,
    /// By partition: the end of what was acknowledged.
    acked_end: Vec<AtomicI64>,
    /// Threads whose producers have not finished.
    producing: AtomicUsize,
    /// By partition: where the readers may stop. Set when all producers have finished.
    read_ends: OnceLock<Vec<i64>>,
    /// Set when all threads are connected.
    phases: OnceLock<Phases>,
    /// Somebody asked for the end of the run.
    stop: AtomicBool,
}

impl Shared {
    pub fn new(map: ClusterMap, threads: usize) -> Shared {
        Shared {
            acked_end: map.leaders.iter().map(|_| AtomicI64::new(0)).collect(),
            map: Mutex::new(Arc::new(map)),
            map_number: AtomicU64::new(1),
            refresh_wanted: AtomicBool::new(false),
            producing: AtomicUsize::new(threads),
            read_ends: OnceLock::new(),
            phases: OnceLock::new(),
            stop: AtomicBool::new(false),
        }
    }

    pub fn map(&self) -> Arc<ClusterMap> {
        self.map.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Which map it is: another number, another map.
    pub fn map_number(&self) -> u64 {
        self.map_number.load(Ordering::Acquire)
    }

    pub fn set_map(&self, map: ClusterMap) {
        *self.map.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(map);
        self.map_number.fetch_add(1, Ordering::Release);
    }

    pub fn want_refresh(&self) {
        self.refresh_wanted.store(true, Ordering::Relaxed);
    }

    pub fn take_refresh(&self) -> bool {
        self.refresh_wanted.swap(false, Ordering::Relaxed)
    }

    pub fn acknowledged(&self, partition: u32, end_offset: i64) {
        if let Some(end) = self.acked_end.get(partition as usize) {
            end.fetch_max(end_offset, Ordering::Relaxed);
        }
    }

    pub fn acked_ends(&self) -> Vec<i64> {
        self.acked_end.iter().map(|end| end.load(Ordering::Acquire)).collect()
    }

    /// A thread's producers have finished.
    pub fn produced(&self) {
        self.producing.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn is_producing(&self) -> bool {
        self.producing.load(Ordering::Acquire) > 0
    }

    pub fn set_read_ends(&self, ends: Vec<i64>) {
        let _ = self.read_ends.set(ends);
    }

    pub fn read_ends(&self) -> Option<&[i64]> {
        self.read_ends.get().map(Vec::as_slice)
    }

    pub fn set_phases(&self, phases: Phases) {
        let _ = self.phases.set(phases);
    }

    pub fn phases(&self) -> Option<Phases> {
        self.phases.get().copied()
    }

    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
