//! A member of a classic group.

use std::sync::Arc;

use super::ReplyTo;

/// A request that is answered later, in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub to: ReplyTo,
    pub version: i16,
}

/// A protocol (assignor) a member can work with, and what it says for it; opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberProtocol {
    pub name: Arc<str>,
    pub metadata: Box<[u8]>,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub id: Arc<str>,
    /// `group.instance.id`: set for static members.
    pub instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub protocol_type: Arc<str>,
    /// Most wanted first; no name twice.
    pub protocols: Vec<MemberProtocol>,
    pub assignment: Box<[u8]>,
    pub awaiting_join: Option<Waiting>,
    pub awaiting_sync: Option<Waiting>,
    /// Until its first join is answered: it cannot send heartbeats, for it does not know its id.
    pub is_new: bool,
}

/// About what a member costs beside its strings and bytes.
const MEMBER_OVERHEAD: usize = 512;

impl Member {
    pub fn is_static(&self) -> bool {
        self.instance_id.is_some()
    }

    /// Waiting for us is as good as a heartbeat, except for a new member, which may be gone for good.
    pub fn has_satisfied_heartbeat(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    pub fn metadata(&self, protocol: &str) -> Option<&[u8]> {
        self.protocols.iter().find(|p| &*p.name == protocol).map(|p| &*p.metadata)
    }

    /// The first of its protocols that `candidate` accepts.
    pub fn vote(&self, candidate: impl Fn(&str) -> bool) -> Option<&Arc<str>> {
        self.protocols.iter().map(|p| &p.name).find(|name| candidate(name))
    }

    pub fn bytes(&self) -> usize {
        let protocols: usize = self.protocols.iter().map(|p| p.name.len() + p.metadata.len() + 48).sum();
        MEMBER_OVERHEAD
            + 2 * self.id.len()
            + self.instance_id.as_ref().map_or(0, |id| id.len())
            + self.client_id.len()
            + self.client_host.len()
            + protocols
            + self.assignment.len()
    }
}
