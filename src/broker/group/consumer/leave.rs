//! Members that go: those who say so, and those who fall silent or hold up the others.

use std::sync::Arc;

use tracing::info;

use super::assignment::{PartitionEpochs, with_epoch, without_epochs};
use super::draft::{Draft, Refusal};
use super::group::{Change, GroupEpoch};
use super::heartbeat::{Beat, BeatAnswer, check_fenced, not_a_consumer_group, remove_member, unknown_member};
use super::member::{Current, LEAVE_STATIC_EPOCH};
use crate::broker::group::coordinator::Partition;
use crate::broker::group::entry::Group;
use crate::broker::group::timers::{Payload, TimerKey};
use crate::broker::group::turn::Turn;
use crate::broker::group::{AppendId, TopicLookup};
use crate::protocol::ErrorCode;

impl Turn<'_> {
    pub fn leave_consumer_group(
        &mut self,
        partition: &mut Partition,
        beat: &Beat<'_>,
        topics: &dyn TopicLookup,
    ) -> Result<(BeatAnswer, Option<AppendId>), Refusal> {
        let group = partition.groups.get_mut(beat.group_id).ok_or_else(|| {
            let message = format!("Group {} not found.", beat.group_id);
            Refusal::new(ErrorCode::GroupIdNotFound, message)
        })?;
        let Some(consumer) = &group.consumer else { return Err(not_a_consumer_group(beat.group_id)) };
        let member = match beat.instance_id {
            None => consumer.member(beat.member_id).ok_or_else(|| unknown_member(group, beat.member_id))?,
            Some(instance_id) => {
                let member = consumer.static_member(instance_id).ok_or_else(|| {
                    let message = format!("Instance id {instance_id} is unknown.");
                    Refusal::new(ErrorCode::UnknownMemberId, message)
                })?;
                check_fenced(member, beat.member_id, instance_id)?;
                member
            }
        };
        let id = member.id.clone();
        let comes_back = beat.instance_id.is_some() && beat.epoch == LEAVE_STATIC_EPOCH;
        let append = if comes_back {
            let current = gone_for_a_while(&member.current);
            let mut draft = Draft::new(self.now);
            draft.change(group, Change::Current(id.clone(), Some(Arc::new(current))));
            self.append_draft(group, draft)
        } else {
            info!(group = &*group.id, member = &*id, "the member has left");
            self.fence(group, std::slice::from_ref(&id), topics)
        };
        self.account(group);
        let answer = BeatAnswer { member_id: id.to_string(), epoch: beat.epoch, ..BeatAnswer::default() };
        Ok((answer, append?))
    }

    /// Takes members out of the group. Only classic ones left may make it a classic group again.
    pub fn fence(
        &mut self,
        group: &mut Group,
        members: &[Arc<str>],
        topics: &dyn TopicLookup,
    ) -> Result<Option<AppendId>, ErrorCode> {
        if members.is_empty() {
            return Ok(None);
        }
        let mut draft = Draft::new(self.now);
        let becomes_classic = self.may_become_classic(group, members);
        let converted =
            becomes_classic && self.become_classic_group(group, members, None, topics, &mut draft).is_ok();
        if !converted {
            self.remove_members(group, members, topics, &mut draft);
        }
        let append = self.append_draft(group, draft)?;
        for member in members {
            self.cancel_member(group, member);
        }
        if converted {
            self.classic_sessions(group);
            self.prepare_rebalance(group, "the last member of the newer protocol has left");
        }
        Ok(append)
    }

    fn remove_members(
        &mut self,
        group: &mut Group,
        members: &[Arc<str>],
        topics: &dyn TopicLookup,
        draft: &mut Draft,
    ) {
        let mut patterns = Vec::new();
        for id in members {
            let member = group.consumer.as_ref().and_then(|consumer| consumer.member(id));
            patterns.extend(member.and_then(|member| member.metadata.pattern().cloned()));
            remove_member(group, id, draft);
        }
        patterns.sort_unstable();
        patterns.dedup();
        for pattern in patterns {
            if group.consumer.as_ref().is_some_and(|consumer| consumer.pattern_members(&pattern) == 0) {
                draft.change(group, Change::Pattern(pattern, None));
            }
        }
        let Some(consumer) = &group.consumer else { return };
        let (epoch, metadata_hash) = (consumer.epoch().saturating_add(1), consumer.hash_topics(topics));
        draft.change(group, Change::Epoch(Some(GroupEpoch { epoch, metadata_hash })));
    }

    // Deadlines

    pub fn consumer_expired(
        &mut self,
        group: &mut Group,
        key: &TimerKey,
        payload: &Payload,
        topics: &dyn TopicLookup,
    ) {
        match (key, payload) {
            (TimerKey::Heartbeat { member, .. }, _) => {
                self.member_expired(group, member, "its session has expired", topics);
            }
            (TimerKey::MemberJoin { member, .. }, _) => {
                self.member_expired(group, member, "it has not rejoined in time", topics);
            }
            (TimerKey::MemberSync { member, .. }, _) => {
                self.member_expired(group, member, "it has not fetched its assignment in time", topics);
            }
            (TimerKey::Revocation { member, .. }, Payload::Generation(epoch)) => {
                self.revocation_expired(group, member, *epoch, topics);
            }
            (TimerKey::Patterns { .. }, _) => self.resolve_patterns(group, topics),
            // Of the classic group it was.
            _ => {}
        }
    }

    /// No sign of life, or no rejoining, or no fetching of the assignment, in time.
    fn member_expired(&mut self, group: &mut Group, id: &Arc<str>, why: &str, topics: &dyn TopicLookup) {
        if group.consumer.as_ref().is_some_and(|consumer| consumer.member(id).is_some()) {
            info!(group = &*group.id, member = &**id, why, "the member is fenced");
            // What cannot be written leaves the member in the group: it is looked at again.
            if self.fence(group, std::slice::from_ref(id), topics).is_err() {
                let timeout_ms = self.config.consumer.session_timeout_ms(&group.id);
                self.schedule_session(group, id, timeout_ms);
            }
        }
    }

    /// The member had to give up partitions of this epoch.
    fn revocation_expired(&mut self, group: &mut Group, id: &Arc<str>, epoch: i32, topics: &dyn TopicLookup) {
        let member = group.consumer.as_ref().and_then(|consumer| consumer.member(id));
        if member.is_some_and(|member| member.current.epoch == epoch) {
            self.member_expired(group, id, "it has not given up its partitions in time", topics);
        }
    }

    pub fn cancel_member(&mut self, group: &Group, id: &Arc<str>) {
        self.timers.cancel(&self.heartbeat_key(group, id));
        self.timers.cancel(&self.revocation_key(group, id));
        self.timers.cancel(&self.member_join_key(group, id));
        self.timers.cancel(&self.member_sync_key(group, id));
    }

    pub fn member_join_key(&self, group: &Group, member: &Arc<str>) -> TimerKey {
        TimerKey::MemberJoin { partition: self.partition, group: group.id.clone(), member: member.clone() }
    }

    pub fn member_sync_key(&self, group: &Group, member: &Arc<str>) -> TimerKey {
        TimerKey::MemberSync { partition: self.partition, group: group.id.clone(), member: member.clone() }
    }

    /// Members of a loaded group have a session's time to show up, and theirs to give up what they owe.
    pub fn consumer_group_loaded(&mut self, group: &Group) {
        let Some(consumer) = &group.consumer else { return };
        for member in consumer.members() {
            let timeout_ms = self.config.consumer.session_timeout_ms(&group.id);
            self.schedule_session(group, &member.id, timeout_ms);
            let (state, epoch) = (member.current.state, member.current.epoch);
            self.watch_revocation(group, &member.id, state, epoch, member.metadata.rebalance_timeout_ms);
        }
    }

    /// Members that are back, as their leaving was undone, may have no deadline any more.
    pub fn ensure_sessions(&mut self, group: &Group) {
        for member in group.consumer.iter().flat_map(|consumer| consumer.members()) {
            if !self.timers.is_set(&self.heartbeat_key(group, &member.id)) {
                let timeout_ms = self.config.consumer.session_timeout_ms(&group.id);
                self.schedule_session(group, &member.id, timeout_ms);
            }
        }
    }

    pub fn schedule_member_join(&mut self, group: &Group, member: &Arc<str>, timeout_ms: i32) {
        let key = self.member_join_key(group, member);
        if !self.timers.is_set(&key) {
            self.timers.schedule(key, self.deadline(timeout_ms), Payload::None);
        }
    }
}

/// A static member keeps its partitions for the one that comes in its place, as given to it from the start.
fn gone_for_a_while(current: &Current) -> Current {
    Current {
        epoch: LEAVE_STATIC_EPOCH,
        assigned: with_epoch(&without_epochs(&current.assigned), 0),
        revoking: PartitionEpochs::new(),
        ..current.clone()
    }
}
