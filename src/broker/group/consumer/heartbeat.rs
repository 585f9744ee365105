//! The heartbeat of a consumer group: it brings a member's wishes, moves the group on, and takes the member's next
//! assignment back.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{debug, info};

use super::assignment::{TopicPartitions, covers};
use super::draft::{Draft, Refusal};
use super::group::{Change, ConsumerGroup};
use super::member::{Current, LEAVE_STATIC_EPOCH, Member, Metadata};
use super::reconcile::Reconciliation;
use crate::broker::group::coordinator::Partition;
use crate::broker::group::entry::Group;
use crate::broker::group::timers::{Payload, TimerKey};
use crate::broker::group::turn::Turn;
use crate::broker::group::{AppendId, TopicLookup};
use crate::protocol::ErrorCode;

/// A heartbeat as the group needs it.
pub struct Beat<'a> {
    pub group_id: &'a str,
    /// Empty for a new member of the first version, which is given an id.
    pub member_id: &'a str,
    /// 0 joins.
    pub epoch: i32,
    pub instance_id: Option<&'a str>,
    pub rack_id: Option<&'a str>,
    pub rebalance_timeout_ms: Option<i32>,
    pub topics: Option<BTreeSet<Arc<str>>>,
    pub regex: Option<&'a str>,
    pub assignor: Option<&'a str>,
    pub owned: Option<TopicPartitions>,
    pub client_id: &'a str,
    pub client_host: &'a str,
}

/// What the answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BeatAnswer {
    pub member_id: String,
    pub epoch: i32,
    pub heartbeat_interval_ms: i32,
    /// Only where there is something new, or the member has told all there is to tell.
    pub assignment: Option<TopicPartitions>,
}

impl Beat<'_> {
    fn is_full(&self) -> bool {
        let subscribes = self.topics.is_some() || self.regex.is_some();
        self.rebalance_timeout_ms.is_some() && subscribes && self.owned.is_some()
    }

    /// About what a member that comes with it takes.
    fn bytes(&self) -> usize {
        let topics = self.topics.iter().flatten().map(|topic| 64 + topic.len()).sum::<usize>();
        2_048 + topics + 2 * self.regex.map_or(0, str::len) + 3 * self.member_id.len()
    }
}

impl Turn<'_> {
    pub fn beat(
        &mut self,
        partition: &mut Partition,
        beat: &Beat<'_>,
        topics: &dyn TopicLookup,
    ) -> Result<(BeatAnswer, Option<AppendId>), Refusal> {
        let group = self.consumer_group(partition, beat)?;
        let mut draft = Draft::new(self.now);
        let result = self.beat_in(group, beat, topics, &mut draft);
        let result = match result {
            Ok(answer) => {
                self.append_draft(group, draft).map(|append| (answer, append)).map_err(Refusal::from)
            }
            Err(refusal) => {
                if draft.roll_back(group) {
                    self.protocol_changed(group);
                }
                Err(refusal)
            }
        };
        self.account(group);
        if group.is_blank() {
            self.forget_group(partition, beat.group_id);
        }
        result
    }

    /// The group; a new one for somebody who joins.
    fn consumer_group<'p>(
        &mut self,
        partition: &'p mut Partition,
        beat: &Beat<'_>,
    ) -> Result<&'p mut Group, Refusal> {
        if beat.epoch != 0 {
            let group = partition.groups.get_mut(beat.group_id).ok_or_else(|| {
                let message = format!("Consumer group {} not found.", beat.group_id);
                Refusal::new(ErrorCode::GroupIdNotFound, message)
            })?;
            if group.consumer.is_none() {
                return Err(not_a_consumer_group(beat.group_id));
            }
            return Ok(group);
        }
        if !self.has_room(beat.bytes()) {
            return Err(ErrorCode::CoordinatorNotAvailable.into());
        }
        let group = partition.get_or_create(self, beat.group_id).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        if group.is_dead() { Err(ErrorCode::CoordinatorNotAvailable.into()) } else { Ok(group) }
    }

    fn beat_in(
        &mut self,
        group: &mut Group,
        beat: &Beat<'_>,
        topics: &dyn TopicLookup,
        draft: &mut Draft,
    ) -> Result<BeatAnswer, Refusal> {
        if group.consumer.is_none() {
            self.become_consumer_group(group, topics, draft)?;
        }
        self.check_size(group, beat.member_id)?;
        let id: Arc<str> = match beat.member_id {
            "" => self.member_ids.draw_bare().into(),
            id => id.into(),
        };
        let comer = Comer { id: &id, instance_id: beat.instance_id, joins: beat.epoch == 0, classic: false };
        let (before, is_new) = self.coming_member(group, &comer, Some((beat.epoch, &beat.owned)), draft)?;
        let metadata = updated(&before.metadata, beat);
        let change = self.change_member(group, &before, metadata, topics, draft)?;
        if change.must_bump() || group.consumer.as_ref().is_some_and(|g| g.has_stale_metadata(topics)) {
            self.update_epoch(group, change.must_bump(), topics, draft);
        }
        self.update_target(group, &id, is_new, topics, draft)?;
        self.reconcile(group, &id, change.is_any(), beat.owned.as_ref(), topics, draft)?;
        let timeout_ms = self.config.consumer.session_timeout_ms(&group.id);
        self.schedule_session(group, &id, timeout_ms);
        let consumer = group.consumer.as_ref().expect("the group became a consumer group above");
        let after = consumer.member(&id).map(|member| member.current.clone()).unwrap_or_default();
        let tells = beat.epoch == 0 || beat.is_full() || after.assigned != before.current.assigned;
        Ok(BeatAnswer {
            member_id: id.to_string(),
            epoch: after.epoch,
            heartbeat_interval_ms: self.config.consumer.heartbeat_interval_ms(&group.id),
            assignment: tells.then(|| super::assignment::without_epochs(&after.assigned)),
        })
    }

    pub fn check_size(&self, group: &Group, member_id: &str) -> Result<(), Refusal> {
        let Some(consumer) = &group.consumer else { return Ok(()) };
        let max = self.config.consumer.max_size;
        let members_max = usize::try_from(max).unwrap_or(0).min(self.config.limits.members_max);
        if consumer.members().len() >= members_max && consumer.member(member_id).is_none() {
            let message = format!("The consumer group has reached its maximum capacity of {max} members.");
            return Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message));
        }
        Ok(())
    }

    /// The member as it is before this request, and whether it is new to the group. One that takes the place of a static
    /// member gets all that one had.
    pub fn coming_member(
        &mut self,
        group: &mut Group,
        comer: &Comer<'_>,
        epoch: Option<(i32, &Option<TopicPartitions>)>,
        draft: &mut Draft,
    ) -> Result<(Member, bool), Refusal> {
        let consumer = group.consumer.as_ref().expect("the caller has made it a consumer group");
        let known = consumer.member(comer.id).cloned();
        let Some(instance_id) = comer.instance_id else {
            let is_new = known.is_none();
            let member = match known {
                Some(member) => member,
                None if comer.joins => Member::new(comer.id.clone()),
                None => return Err(unknown_member(group, comer.id)),
            };
            check_epoch(&member, epoch)?;
            return Ok((member, is_new));
        };
        let owner = consumer.static_member(instance_id).cloned();
        if !comer.joins {
            let owner = owner.ok_or_else(|| {
                let message = format!("Instance id {instance_id} is unknown.");
                Refusal::new(ErrorCode::UnknownMemberId, message)
            })?;
            check_fenced(&owner, comer.id, instance_id)?;
            check_epoch(&owner, epoch)?;
            return Ok((owner, false));
        }
        let Some(owner) = owner else {
            let is_new = known.is_none();
            return Ok((known.unwrap_or_else(|| Member::new(comer.id.clone())), is_new));
        };
        if !comer.classic && !owner.uses_classic_protocol() && owner.current.epoch != LEAVE_STATIC_EPOCH {
            let message = format!(
                "Static member {} with instance id {instance_id} cannot join the group because the instance id is \
                 owned by {} member.",
                comer.id, owner.id
            );
            return Err(Refusal::new(ErrorCode::UnreleasedInstanceId, message));
        }
        Ok((self.replace_static_member(group, &owner, comer.id, draft), true))
    }

    /// The records of a static member under another id.
    fn replace_static_member(
        &mut self,
        group: &mut Group,
        owner: &Member,
        id: &Arc<str>,
        draft: &mut Draft,
    ) -> Member {
        // The old id's deadlines find nobody; they stay in case this is undone.
        info!(group = &*group.id, old = &*owner.id, new = &**id, "a static member is replaced");
        let target = group.consumer.as_ref().and_then(|consumer| consumer.target(&owner.id)).cloned();
        let current = Arc::new(Current { epoch: 0, previous_epoch: 0, ..(*owner.current).clone() });
        remove_member(group, &owner.id, draft);
        draft.change(group, Change::Member(id.clone(), Some(owner.metadata.clone())));
        draft.change(group, Change::Target(id.clone(), Some(target.unwrap_or_default())));
        draft.change(group, Change::Current(id.clone(), Some(current.clone())));
        Member { id: id.clone(), metadata: owner.metadata.clone(), current }
    }

    /// Writes down what a member says of itself, and what that means for the patterns.
    pub fn change_member(
        &mut self,
        group: &mut Group,
        before: &Member,
        metadata: Metadata,
        topics: &dyn TopicLookup,
        draft: &mut Draft,
    ) -> Result<SubscriptionChange, Refusal> {
        let mut change = SubscriptionChange::default();
        let old = before.metadata.clone();
        change.topics = metadata.topics != old.topics;
        let metadata = Arc::new(metadata);
        if metadata != old {
            debug!(group = &*group.id, member = &*before.id, ?metadata.topics, ?metadata.regex, "subscription");
            draft.change(group, Change::Member(before.id.clone(), Some(metadata.clone())));
        }
        self.change_pattern(group, &old, &metadata, topics, draft, &mut change)?;
        Ok(change)
    }

    /// The next step of a member towards its target.
    pub fn reconcile(
        &mut self,
        group: &mut Group,
        id: &Arc<str>,
        has_changed_subscription: bool,
        owned: Option<&TopicPartitions>,
        topics: &dyn TopicLookup,
        draft: &mut Draft,
    ) -> Result<(), Refusal> {
        let Some(consumer) = &group.consumer else { return Ok(()) };
        let new;
        let member = match consumer.member(id) {
            Some(member) => member,
            None => {
                new = Member::new(id.clone());
                &new
            }
        };
        let target_epoch = consumer.target_epoch().epoch;
        if !has_changed_subscription && member.is_reconciled_to(target_epoch) {
            return Ok(());
        }
        let reconciliation = Reconciliation {
            member,
            target_epoch,
            target: consumer.target(id).map(|target| &**target),
            is_subscribed: &|topic| consumer.is_member_subscribed(&member.metadata, topic, topics),
            has_changed_subscription,
            owned,
            owner: &|topic, index| consumer.owner(topic, index).cloned(),
        };
        let next = reconciliation.next().map_err(|_| {
            let message = "The consumer group member is in a unknown state. \
                           The member must abandon all its partitions and rejoin.";
            Refusal::new(ErrorCode::FencedMemberEpoch, message)
        })?;
        if next == *member.current {
            return Ok(());
        }
        debug!(group = &*group.id, member = &**id, epoch = next.epoch, state = ?next.state, "assignment");
        let classic = member.uses_classic_protocol();
        let (state, epoch, timeout_ms) = (next.state, next.epoch, member.metadata.rebalance_timeout_ms);
        draft.change(group, Change::Current(id.clone(), Some(Arc::new(next))));
        if !classic {
            self.watch_revocation(group, id, state, epoch, timeout_ms);
        }
        Ok(())
    }

    pub fn schedule_session(&mut self, group: &Group, member: &Arc<str>, timeout_ms: i32) {
        self.schedule_heartbeat(group, member, timeout_ms);
    }

    /// A member that has to give up partitions has its own rebalance timeout to do so.
    pub fn watch_revocation(
        &mut self,
        group: &Group,
        id: &Arc<str>,
        state: super::member::MemberState,
        epoch: i32,
        timeout_ms: i32,
    ) {
        let key = self.revocation_key(group, id);
        if state == super::member::MemberState::UnrevokedPartitions {
            self.timers.schedule(key, self.deadline(timeout_ms), Payload::Generation(epoch));
        } else {
            self.timers.cancel(&key);
        }
    }

    pub fn revocation_key(&self, group: &Group, member: &Arc<str>) -> TimerKey {
        TimerKey::Revocation { partition: self.partition, group: group.id.clone(), member: member.clone() }
    }
}

/// Somebody who takes part, or wants to.
pub struct Comer<'a> {
    pub id: &'a Arc<str>,
    pub instance_id: Option<&'a str>,
    pub joins: bool,
    pub classic: bool,
}

/// What a request has changed of a member's subscription.
#[derive(Clone, Copy, Debug, Default)]
pub struct SubscriptionChange {
    pub topics: bool,
    pub pattern: bool,
    /// The pattern has been resolved before, so that a new target can be worked out at once.
    pub is_resolved: bool,
}

impl SubscriptionChange {
    pub fn is_any(self) -> bool {
        self.topics || self.pattern
    }

    fn must_bump(self) -> bool {
        self.topics || self.is_resolved
    }
}

fn updated(old: &Metadata, beat: &Beat<'_>) -> Metadata {
    let text = |new: Option<&str>, old: &Option<Arc<str>>| new.map(Arc::from).or_else(|| old.clone());
    Metadata {
        instance_id: text(beat.instance_id, &old.instance_id),
        rack_id: text(beat.rack_id, &old.rack_id),
        client_id: beat.client_id.into(),
        client_host: beat.client_host.into(),
        topics: beat.topics.clone().unwrap_or_else(|| old.topics.clone()),
        regex: text(beat.regex, &old.regex),
        rebalance_timeout_ms: beat.rebalance_timeout_ms.unwrap_or(old.rebalance_timeout_ms),
        assignor: text(beat.assignor, &old.assignor),
        classic: None,
    }
}

/// Deletes a member, what it had first.
pub fn remove_member(group: &mut Group, id: &Arc<str>, draft: &mut Draft) {
    draft.change(group, Change::Current(id.clone(), None));
    draft.change(group, Change::Target(id.clone(), None));
    draft.change(group, Change::Member(id.clone(), None));
}

pub fn not_a_consumer_group(group_id: &str) -> Refusal {
    Refusal::new(ErrorCode::GroupIdNotFound, format!("Group {group_id} is not a consumer group."))
}

pub fn unknown_member(group: &Group, member_id: &str) -> Refusal {
    let message = format!("Member {member_id} is not a member of group {}.", group.id);
    Refusal::new(ErrorCode::UnknownMemberId, message)
}

pub fn check_fenced(owner: &Member, member_id: &str, instance_id: &str) -> Result<(), Refusal> {
    if *owner.id == *member_id {
        return Ok(());
    }
    let message = format!(
        "Static member {member_id} with instance id {instance_id} was fenced by member {}.",
        owner.id
    );
    Err(Refusal::new(ErrorCode::FencedInstanceId, message))
}

/// The epoch a member comes with has to be its own, or the one before if the answer with the new one may have been lost.
fn check_epoch(member: &Member, claimed: Option<(i32, &Option<TopicPartitions>)>) -> Result<(), Refusal> {
    let Some((epoch, owned)) = claimed.filter(|(epoch, _)| *epoch != 0) else { return Ok(()) };
    let current = &member.current;
    let is_lost = || {
        let covered = owned.as_ref().is_some_and(|owned| covers(&current.assigned, owned));
        epoch == current.previous_epoch && covered
    };
    let differs = match epoch.cmp(&current.epoch) {
        std::cmp::Ordering::Greater => "greater",
        std::cmp::Ordering::Less if !is_lost() => "smaller",
        _ => return Ok(()),
    };
    let message = format!(
        "The consumer group member has a {differs} member epoch ({epoch}) than the one known by the group \
         coordinator ({}). The member must abandon all its partitions and rejoin.",
        current.epoch
    );
    Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
}

impl ConsumerGroup {
    /// Whoever asks in the name of a member is that member.
    pub fn validate(
        &self,
        group_id: &str,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<&Member, Refusal> {
        let Some(instance_id) = instance_id else {
            return self.member(member_id).ok_or_else(|| {
                let message = format!("Member {member_id} is not a member of group {group_id}.");
                Refusal::new(ErrorCode::UnknownMemberId, message)
            });
        };
        let owner = self.static_member(instance_id).ok_or_else(|| {
            let message =
                format!("Member with instance id {instance_id} is not a member of group {group_id}.");
            Refusal::new(ErrorCode::UnknownMemberId, message)
        })?;
        check_fenced(owner, member_id, instance_id)?;
        Ok(owner)
    }
}
