//! A group: its protocol and its committed offsets.

use std::sync::Arc;

use super::classic::{ClassicGroup, State};
use super::consumer::ConsumerGroup;
use super::offsets::Offsets;

/// About what a group costs beside its members and offsets.
const GROUP_OVERHEAD: usize = 1024;

/// A group speaks one protocol at a time: the newer one while `consumer` is there, `classic` is then an empty shell.
#[derive(Clone, Debug)]
pub struct Group {
    pub id: Arc<str>,
    pub classic: ClassicGroup,
    pub consumer: Option<Box<ConsumerGroup>>,
    pub offsets: Offsets,
    /// What of `bytes` is in the coordinator's sum.
    pub accounted: usize,
}

impl Group {
    pub fn new(id: Arc<str>, wall_ms: i64) -> Self {
        Group {
            id,
            classic: ClassicGroup::new(wall_ms),
            consumer: None,
            offsets: Offsets::default(),
            accounted: 0,
        }
    }

    pub fn bytes(&self) -> usize {
        let consumer = self.consumer.as_ref().map_or(0, |consumer| consumer.bytes());
        GROUP_OVERHEAD + 2 * self.id.len() + self.classic.bytes() + consumer + self.offsets.bytes()
    }

    /// Being deleted.
    pub fn is_dead(&self) -> bool {
        self.classic.is(State::Dead)
    }

    /// Without members, whatever the protocol.
    pub fn is_empty(&self) -> bool {
        match &self.consumer {
            Some(consumer) => consumer.is_empty(),
            None => self.classic.is(State::Empty),
        }
    }

    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.consumer {
            Some(consumer) => consumer.is_subscribed_to(topic),
            None => self.classic.is_subscribed_to(topic),
        }
    }

    pub fn members(&self) -> usize {
        self.consumer.as_ref().map_or(self.classic.members().len(), |consumer| consumer.members().len())
    }

    /// Nothing but a name: nothing of it is in the log.
    pub fn is_blank(&self) -> bool {
        self.consumer.is_none()
            && self.classic.is(State::Empty)
            && self.classic.generation == 0
            && self.classic.protocol_type.is_none()
            && self.classic.pending_join().len() == 0
            && self.offsets.is_empty()
    }
}
