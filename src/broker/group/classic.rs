//! A classic group: its members, its state, and what follows from them alone. Who waits, timers and the log are in
//! `rebalance`, which is the only one to move a group from state to state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use crate::protocol::{ErrorCode, Message, Reader};

use super::java_hash;
use super::member::{Member, MemberProtocol, Waiting};

/// The protocol type of consumers; others (Connect's) are opaque.
pub const CONSUMER_PROTOCOL: &str = "consumer";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No members; may have offsets.
    Empty,
    /// Members are joining.
    PreparingRebalance,
    /// The leader is working out the assignment.
    CompletingRebalance,
    Stable,
    /// Being deleted.
    Dead,
}

impl State {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
            State::Dead => "Dead",
        }
    }

    fn may_follow(self, previous: State) -> bool {
        use State::{CompletingRebalance, Dead, Empty, PreparingRebalance, Stable};
        match self {
            Empty => matches!(previous, PreparingRebalance),
            PreparingRebalance => matches!(previous, Stable | CompletingRebalance | Empty),
            CompletingRebalance => matches!(previous, PreparingRebalance),
            Stable => matches!(previous, CompletingRebalance),
            Dead => true,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ClassicGroup {
    state: State,
    previous_state: State,
    /// When the state was entered; none for a group read from an old record.
    pub state_timestamp_ms: Option<i64>,
    pub generation: i32,
    /// None for a group that only ever had offsets committed.
    pub protocol_type: Option<Arc<str>>,
    pub protocol: Option<Arc<str>>,
    pub leader: Option<Arc<str>>,
    /// One of the members joined while the first join phase was on: it may be extended.
    pub new_member_added: bool,
    members: BTreeMap<Arc<str>, Member>,
    /// Instance id to member id.
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Member ids given out that have not joined yet.
    pending_join: BTreeSet<Arc<str>>,
    /// Members that have not fetched this generation's assignment yet.
    pub pending_sync: BTreeSet<Arc<str>>,
    /// The generation whose assignment is being written down: the leader decides once, or the log would end with another
    /// assignment than the members were told.
    pub assigning: Option<i32>,
    awaiting_join: usize,
    /// How many members can work with a protocol.
    supported: BTreeMap<Arc<str>, usize>,
    /// None where it cannot be known.
    subscribed: Option<BTreeSet<Arc<str>>>,
    bytes: usize,
}

impl ClassicGroup {
    pub fn new(wall_ms: i64) -> Self {
        ClassicGroup {
            state: State::Empty,
            previous_state: State::Dead,
            state_timestamp_ms: Some(wall_ms),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            new_member_added: false,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            assigning: None,
            awaiting_join: 0,
            supported: BTreeMap::new(),
            subscribed: None,
            bytes: 0,
        }
    }

    /// A group as a record in the log describes it, before its members are added.
    pub fn loaded(
        generation: i32,
        protocol_type: Option<Arc<str>>,
        protocol: Option<Arc<str>>,
        leader: Option<Arc<str>>,
        state_timestamp_ms: Option<i64>,
    ) -> Self {
        ClassicGroup {
            generation,
            protocol_type,
            protocol,
            leader,
            state_timestamp_ms,
            ..ClassicGroup::new(0)
        }
    }

    /// All members of a loaded group have been added.
    pub fn finish_loading(&mut self) {
        self.state = if self.members.is_empty() { State::Empty } else { State::Stable };
        self.subscribed = self.compute_subscribed();
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn previous_state(&self) -> State {
        self.previous_state
    }

    pub fn is(&self, state: State) -> bool {
        self.state == state
    }

    pub fn can_rebalance(&self) -> bool {
        State::PreparingRebalance.may_follow(self.state)
    }

    pub fn transition_to(&mut self, state: State, wall_ms: i64) {
        debug_assert!(state.may_follow(self.state), "{:?} after {:?}", state, self.state);
        self.previous_state = self.state;
        self.state = state;
        self.state_timestamp_ms = Some(wall_ms);
    }

    /// The deletion of an empty group begins; its timestamp stays for `undo_delete`.
    pub fn begin_delete(&mut self) {
        debug_assert!(self.is(State::Empty));
        self.state = State::Dead;
    }

    pub fn undo_delete(&mut self) {
        self.state = State::Empty;
    }

    // Members

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    pub fn member_ids(&self) -> Vec<Arc<str>> {
        self.members.keys().cloned().collect()
    }

    pub fn has_member(&self, id: &str) -> bool {
        self.members.contains_key(id)
    }

    pub fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    pub fn static_member_id(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.static_members.get(instance_id)
    }

    /// The caller has checked that the group supports the member's protocols and that its instance id is free.
    pub fn add(&mut self, member: Member) {
        if self.members.is_empty() {
            self.protocol_type = Some(member.protocol_type.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), member.id.clone());
        }
        self.remove_pending_join(&member.id.clone());
        self.count_protocols(&member.protocols, 1);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        self.bytes += member.bytes();
        self.members.insert(member.id.clone(), member);
    }

    /// Removes a member or a pending id; the member is handed back so that who waits for it can be answered.
    pub fn remove(&mut self, id: &str) -> Option<Member> {
        let removed = self.members.remove(id);
        if let Some(member) = &removed {
            self.forget(member);
            if let Some(instance_id) = &member.instance_id {
                self.static_members.remove(instance_id);
            }
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.remove_pending_join(id);
        self.pending_sync.remove(id);
        removed
    }

    fn forget(&mut self, member: &Member) {
        self.count_protocols(&member.protocols, -1);
        self.awaiting_join -= usize::from(member.awaiting_join.is_some());
        self.bytes -= member.bytes();
    }

    /// Gives a static member another id and hands back the member as it was.
    pub fn replace_static(
        &mut self,
        instance_id: &Arc<str>,
        old_id: &str,
        new_id: &Arc<str>,
    ) -> Option<Member> {
        let old = self.members.remove(old_id)?;
        self.forget(&old);
        let new = Member {
            id: new_id.clone(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
            ..old.clone()
        };
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(new_id.clone());
        }
        self.static_members.insert(instance_id.clone(), new_id.clone());
        self.count_protocols(&new.protocols, 1);
        self.bytes += new.bytes();
        self.members.insert(new_id.clone(), new);
        Some(old)
    }

    /// Changes a member; nothing else does, so that all that is counted stays right.
    pub fn update<R>(&mut self, id: &str, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let mut member = self.members.remove(id)?;
        self.forget(&member);
        let result = change(&mut member);
        self.count_protocols(&member.protocols, 1);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        self.bytes += member.bytes();
        self.members.insert(member.id.clone(), member);
        Some(result)
    }

    /// Takes the waiting join of a member, to answer it.
    pub fn take_awaiting_join(&mut self, id: &str) -> Option<Waiting> {
        let waiting = self.members.get_mut(id)?.awaiting_join.take();
        self.awaiting_join -= usize::from(waiting.is_some());
        waiting
    }

    /// Takes the waiting sync of a member, to answer it.
    pub fn take_awaiting_sync(&mut self, id: &str) -> Option<Waiting> {
        self.members.get_mut(id)?.awaiting_sync.take()
    }

    pub fn add_pending_join(&mut self, id: Arc<str>) {
        self.bytes += id.len();
        self.pending_join.insert(id);
    }

    fn remove_pending_join(&mut self, id: &str) {
        if self.pending_join.remove(id) {
            self.bytes -= id.len();
        }
    }

    pub fn is_pending_join(&self, id: &str) -> bool {
        self.pending_join.contains(id)
    }

    pub fn pending_join(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.pending_join.iter()
    }

    pub fn awaiting_join(&self) -> usize {
        self.awaiting_join
    }

    pub fn all_members_joined(&self) -> bool {
        self.members.len() == self.awaiting_join && self.pending_join.is_empty()
    }

    /// The longest any member asks for.
    pub fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0).max(0)
    }

    /// About what the group holds in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a request comes from who it says: a member, and the owner of its instance id.
    pub fn validate_member(&self, id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(owner) if **owner != *id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.has_member(id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// The leader, if it has not joined, is replaced by a member that has. False if none has.
    pub fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = &self.leader else { return false };
        if self.members.get(leader).is_some_and(|member| member.awaiting_join.is_some()) {
            return true;
        }
        match self.members.values().find(|member| member.awaiting_join.is_some()) {
            Some(member) => {
                self.leader = Some(member.id.clone());
                true
            }
            None => false,
        }
    }

    // Protocols

    fn count_protocols(&mut self, protocols: &[MemberProtocol], change: isize) {
        for protocol in protocols {
            let count = self.supported.entry(protocol.name.clone()).or_default();
            *count = count.saturating_add_signed(change);
            if *count == 0 {
                self.supported.remove(&protocol.name);
            }
        }
    }

    fn is_common(&self, protocol: &str) -> bool {
        self.supported.get(protocol).copied().unwrap_or(0) == self.members.len()
    }

    /// Whether a member with these protocols could take part.
    pub fn supports(&self, protocol_type: &str, protocols: &[MemberProtocol]) -> bool {
        if self.is(State::Empty) {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|p| self.is_common(&p.name))
    }

    /// The protocol all members know that most of them want. Of equals, the one Kafka's hash map comes upon first.
    pub fn select_protocol(&self) -> Option<Arc<str>> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            *votes.entry(member.vote(|name| self.is_common(name))?).or_default() += 1;
        }
        let buckets = (votes.len() * 4 / 3 + 1).next_power_of_two().max(16);
        let bucket = |name: &str| {
            let hash = java_hash(name) as u32;
            (hash ^ hash >> 16) as usize & (buckets - 1)
        };
        let first = votes.iter().min_by_key(|(name, count)| (std::cmp::Reverse(**count), bucket(name)));
        first.map(|(name, _)| (*name).clone())
    }

    /// The join phase is over: the next generation, empty if nobody is left.
    pub fn init_next_generation(&mut self, wall_ms: i64) {
        self.generation = self.generation.wrapping_add(1).max(0);
        self.protocol = self.select_protocol();
        self.subscribed = self.compute_subscribed();
        self.pending_sync.clear();
        let state = if self.members.is_empty() { State::Empty } else { State::CompletingRebalance };
        self.transition_to(state, wall_ms);
    }

    // Subscriptions

    pub fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL)
    }

    pub fn subscriptions_known(&self) -> bool {
        self.subscribed.is_some()
    }

    /// A consumer group whose topics cannot be known counts as subscribed to all.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    fn compute_subscribed(&self) -> Option<BTreeSet<Arc<str>>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut all = BTreeSet::new();
        for member in self.members.values() {
            add_subscription(member.metadata(protocol)?, &mut all)?;
        }
        Some(all)
    }
}

/// The topics in a consumer's metadata. Version 0 is a prefix of every later one.
fn add_subscription(metadata: &[u8], all: &mut BTreeSet<Arc<str>>) -> Option<()> {
    let mut reader = Reader::new(metadata);
    let version = reader.i16("version").ok()?;
    let subscription = ConsumerProtocolSubscription::read(&mut reader, 0).ok()?;
    if version < 0 {
        return None;
    }
    for topic in subscription.topics.iter() {
        if !all.contains(&*topic) {
            all.insert(topic.as_ref().into());
        }
    }
    Some(())
}

#[cfg(test)]
impl ClassicGroup {
    /// What is counted is what is there.
    pub fn check_counts(&self) {
        let awaiting = self.members.values().filter(|member| member.awaiting_join.is_some()).count();
        assert_eq!(self.awaiting_join, awaiting);
        let pending: usize = self.pending_join.iter().map(|id| id.len()).sum();
        assert_eq!(self.bytes, pending + self.members.values().map(Member::bytes).sum::<usize>());
        let mut supported: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut instances = BTreeMap::new();
        for member in self.members.values() {
            assert_eq!(Some(&member.protocol_type), self.protocol_type.as_ref());
            member.protocols.iter().for_each(|p| *supported.entry(p.name.clone()).or_default() += 1);
            member.instance_id.iter().for_each(|id| drop(instances.insert(id.clone(), member.id.clone())));
        }
        assert_eq!(self.supported, supported);
        assert_eq!(self.static_members, instances);
        assert!(self.pending_sync.iter().all(|id| self.members.contains_key(id)));
        assert!(self.pending_join.iter().all(|id| !self.members.contains_key(id)));
    }
}
