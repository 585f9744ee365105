//! The logs of a shard, each under an id that is never valid twice.

use super::log::Log;
use super::types::LogId;

/// The logs by slot; a slot's generation tells its present log from earlier ones.
#[derive(Debug, Default)]
pub(super) struct Logs {
    slots: Vec<(u32, Option<Box<Log>>)>,
    free: Vec<u32>,
}

impl Logs {
    pub fn insert(&mut self, make: impl FnOnce(LogId) -> Log) -> LogId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.0 += 1;
        let id = LogId { slot, generation: entry.0 };
        entry.1 = Some(Box::new(make(id)));
        id
    }

    pub fn remove(&mut self, id: LogId) -> Option<Box<Log>> {
        let entry = self.slots.get_mut(id.slot as usize).filter(|entry| entry.0 == id.generation)?;
        let log = entry.1.take()?;
        self.free.push(id.slot);
        Some(log)
    }

    #[inline]
    pub fn get(&self, id: LogId) -> Option<&Log> {
        self.slots.get(id.slot as usize).filter(|entry| entry.0 == id.generation)?.1.as_deref()
    }

    #[inline]
    pub fn get_mut(&mut self, id: LogId) -> Option<&mut Log> {
        self.slots.get_mut(id.slot as usize).filter(|entry| entry.0 == id.generation)?.1.as_deref_mut()
    }

    /// In order of slots.
    pub fn iter(&self) -> impl Iterator<Item = &Log> {
        self.slots.iter().filter_map(|entry| entry.1.as_deref())
    }

    pub fn at(&self, slot: usize) -> Option<&Log> {
        self.slots.get(slot)?.1.as_deref()
    }

    pub fn slots(&self) -> usize {
        self.slots.len()
    }
}
