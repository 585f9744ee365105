//! A group: its protocol and its committed offsets.

use std::sync::Arc;

use super::classic::{ClassicGroup, State};
use super::offsets::Offsets;

/// About what a group costs beside its members and offsets.
const GROUP_OVERHEAD: usize = 1024;

/// The classic protocol is the only one so far; a group of another one would hold that in its place.
#[derive(Clone, Debug)]
pub struct Group {
    pub id: Arc<str>,
    pub classic: ClassicGroup,
    pub offsets: Offsets,
    /// What of `bytes` is in the coordinator's sum.
    pub accounted: usize,
}

impl Group {
    pub fn new(id: Arc<str>, wall_ms: i64) -> Self {
        Group { id, classic: ClassicGroup::new(wall_ms), offsets: Offsets::default(), accounted: 0 }
    }

    pub fn bytes(&self) -> usize {
        GROUP_OVERHEAD + 2 * self.id.len() + self.classic.bytes() + self.offsets.bytes()
    }

    pub fn is_dead(&self) -> bool {
        self.classic.is(State::Dead)
    }
}
