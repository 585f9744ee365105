//! A group moves between the protocols while its members work: up when the first member of the newer one joins, down when
//! the last one leaves. Its members, what they have and its epoch go along.

use std::borrow::Cow;
use std::sync::Arc;

use tracing::info;

use super::assignment::{TopicPartitions, with_epoch};
use super::draft::{Draft, Refusal};
use super::group::{Change, ConsumerGroup, GroupEpoch, TargetEpoch};
use super::java_order::{grown_map, hash_of_text, hash_of_uuid, set_of, timeline_map};
use super::member::{ClassicMetadata, Current, Member, MemberState, Metadata};
use crate::broker::group::classic::{CONSUMER_PROTOCOL, ClassicGroup, State};
use crate::broker::group::entry::Group;
use crate::broker::group::member::{Member as ClassicMember, MemberProtocol};
use crate::broker::group::timers::Payload;
use crate::broker::group::turn::Turn;
use crate::broker::group::{Now, TopicLookup};
use crate::protocol::messages::consumer_protocol_assignment::{ConsumerProtocolAssignment, TopicPartition};
use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use crate::protocol::{ErrorCode, Message, Reader, Writer};

impl Turn<'_> {
    // Up

    /// Makes a classic group, or a new one, a consumer group.
    pub fn become_consumer_group(
        &mut self,
        group: &mut Group,
        topics: &dyn TopicLookup,
        draft: &mut Draft,
    ) -> Result<(), Refusal> {
        if group.classic.is(State::Empty) {
            if !group.is_blank() {
                draft.batch.group_tombstone(&group.id);
            }
            let pending: Vec<_> = group.classic.pending_join().cloned().collect();
            pending.iter().for_each(|id| self.timers.cancel(&self.heartbeat_key(group, id)));
            draft.make_consumer(group, ConsumerGroup::default());
            return Ok(());
        }
        self.check_upgrade(group)?;
        self.fail_waiting(group, ErrorCode::RebalanceInProgress);
        let members = classic_members(group, topics)?;
        info!(group = &*group.id, members = members.len(), "a classic group becomes a consumer group");
        let generation = group.classic.generation;
        self.timers.cancel(&self.join_key(group));
        self.timers.cancel(&self.sync_key(group));
        draft.batch.group_tombstone(&group.id);
        draft.make_consumer(group, ConsumerGroup::default());
        for (id, metadata, _) in &members {
            draft.change(group, Change::Member(id.clone(), Some(metadata.clone())));
        }
        let metadata_hash = group.consumer.as_ref().map_or(0, |consumer| consumer.hash_topics(topics));
        draft.change(group, Change::Epoch(Some(GroupEpoch { epoch: generation, metadata_hash })));
        for (id, _, partitions) in &members {
            draft.change(group, Change::Target(id.clone(), Some(Arc::new(partitions.clone()))));
        }
        let target = TargetEpoch { epoch: generation, timestamp_ms: 0 };
        draft.change(group, Change::TargetEpoch(Some(target)));
        for (id, metadata, partitions) in &members {
            let current = Current {
                epoch: generation,
                previous_epoch: generation,
                state: MemberState::Stable,
                assigned: with_epoch(partitions, generation),
                ..Current::default()
            };
            draft.change(group, Change::Current(id.clone(), Some(Arc::new(current))));
            let timeout_ms = metadata.classic.as_ref().map_or(0, |classic| classic.session_timeout_ms);
            self.schedule_session(group, id, timeout_ms);
        }
        Ok(())
    }

    fn check_upgrade(&self, group: &Group) -> Result<(), Refusal> {
        let refuse = |reason: &str| {
            let message =
                format!("Cannot upgrade classic group {} to consumer group because {reason}.", group.id);
            Err(Refusal::new(ErrorCode::GroupIdNotFound, message))
        };
        let config = &self.config.consumer;
        if !config.migration_policy.may_upgrade() {
            refuse("online upgrade is disabled")
        } else if !group.classic.uses_consumer_protocol() {
            refuse("the group does not use the consumer embedded protocol")
        } else if group.classic.members().len() > usize::try_from(config.max_size).unwrap_or(0) {
            refuse("the group size exceeds the consumer group maximum size")
        } else {
            Ok(())
        }
    }

    /// Who waits in a rebalance of the classic protocol is told that there is another.
    pub fn fail_waiting(&mut self, group: &mut Group, error: ErrorCode) {
        for id in group.classic.member_ids() {
            if let Some(waiting) = group.classic.take_awaiting_join(&id) {
                self.fail_join(waiting, &id, error);
            }
            if let Some(waiting) = group.classic.take_awaiting_sync(&id) {
                self.fail_sync(waiting, error);
            }
        }
    }

    // Down

    /// Whether the group is to become a classic one once these members are gone.
    pub fn may_become_classic(&self, group: &Group, leaving: &[Arc<str>]) -> bool {
        let Some(consumer) = &group.consumer else { return false };
        let leaving_classic = leaving
            .iter()
            .filter(|id| consumer.member(id).is_some_and(Member::uses_classic_protocol))
            .count();
        let left = consumer.members().len().saturating_sub(leaving.len());
        let all_classic = consumer.classic_members() - leaving_classic == left;
        all_classic
            && left > 0
            && self.config.consumer.migration_policy.may_downgrade()
            && left <= usize::try_from(self.config.max_size).unwrap_or(0)
    }

    /// Makes a consumer group a classic one of its classic members, without those that leave. A member that joins takes the
    /// place of the static one whose instance id it has, and is in the group already.
    pub fn become_classic_group(
        &mut self,
        group: &mut Group,
        leaving: &[Arc<str>],
        joining: Option<&Arc<str>>,
        topics: &dyn TopicLookup,
        draft: &mut Draft,
    ) -> Result<(), Malformed> {
        let Some(consumer) = &group.consumer else { return Err(Malformed) };
        let classic = classic_group(consumer, leaving, joining, self.now, topics)?;
        info!(
            group = &*group.id,
            members = classic.members().len(),
            "a consumer group becomes a classic group"
        );
        consumer.deletion().iter().for_each(|change| draft.batch.change(&group.id, change));
        draft.make_classic(group, classic);
        draft.batch.group(group, |member| &member.assignment);
        Ok(())
    }

    pub fn classic_sessions(&mut self, group: &Group) {
        for id in group.classic.member_ids() {
            self.renew_session(group, &id);
        }
    }

    /// A conversion has been undone: the deadlines of the protocol the group is back at.
    pub fn protocol_changed(&mut self, group: &mut Group) {
        if let Some(consumer) = &group.consumer {
            let ids: Vec<_> = consumer.members().map(|member| member.id.clone()).collect();
            let timeout_ms = self.config.consumer.session_timeout_ms(&group.id);
            ids.iter().for_each(|id| self.schedule_session(group, id, timeout_ms));
            return;
        }
        self.classic_sessions(group);
        let timeout_ms = group.classic.rebalance_timeout_ms();
        match group.classic.state() {
            State::PreparingRebalance => {
                let (key, deadline) = (self.join_key(group), self.deadline(timeout_ms));
                self.timers.schedule(key, deadline, Payload::None);
            }
            State::CompletingRebalance | State::Stable => {
                let (key, deadline) = (self.sync_key(group), self.deadline(timeout_ms));
                self.timers.schedule(key, deadline, Payload::Generation(group.classic.generation));
            }
            State::Empty | State::Dead => {}
        }
        let pending: Vec<_> = group.classic.pending_join().cloned().collect();
        pending.iter().for_each(|id| self.schedule_heartbeat(group, id, timeout_ms));
    }
}

/// What a classic member sent cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A member on its way up: its id, what it said, and what it has.
type Converted = (Arc<str>, Arc<Metadata>, TopicPartitions);

/// The members of a classic group as those of a consumer group.
fn classic_members(group: &Group, topics: &dyn TopicLookup) -> Result<Vec<Converted>, Refusal> {
    let refuse = |reason: &str| {
        let message =
            format!("Cannot upgrade classic group {} to consumer group because {reason}.", group.id);
        Refusal::new(ErrorCode::GroupIdNotFound, message)
    };
    let malformed = || refuse("the embedded consumer protocol is malformed");
    // A group that is in its first rebalance has agreed on nothing yet.
    let protocol = group.classic.protocol.as_deref().ok_or(ErrorCode::UnknownServerError)?;
    let members = group.classic.members().map(|member| {
        let partitions = match &*member.assignment {
            [] => TopicPartitions::new(),
            assignment => {
                let assignment = read_assignment(assignment).map_err(|_| malformed())?;
                if assignment.user_data.is_some_and(|data| !data.is_empty()) {
                    return Err(refuse(
                        "an unsupported custom assignor is in use. Please refer to the documentation or switch to a \
                         default assignor before re-attempting the upgrade",
                    ));
                }
                let known = assignment.assigned_partitions.iter().filter_map(|topic| {
                    Some((topics.topic_id(&topic.topic)?, topic.partitions.iter().collect()))
                });
                known.filter(|(_, partitions): &(_, std::collections::BTreeSet<i32>)| !partitions.is_empty()).collect()
            }
        };
        let said = member.metadata(protocol).ok_or_else(malformed)?;
        let subscription = read_subscription(said).map_err(|_| malformed())?;
        let protocols = member.protocols.iter().map(|p| (p.name.clone(), p.metadata.clone()));
        let metadata = Metadata {
            instance_id: member.instance_id.clone(),
            rack_id: subscription.rack_id.as_deref().filter(|rack| !rack.is_empty()).map(Arc::from),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            topics: subscription.topics.iter().map(|topic| Arc::from(&*topic)).collect(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            classic: Some(ClassicMetadata {
                session_timeout_ms: member.session_timeout_ms,
                protocols: protocols.collect(),
            }),
            ..Metadata::default()
        };
        Ok((member.id.clone(), Arc::new(metadata), partitions))
    });
    members.collect()
}

fn classic_group(
    consumer: &ConsumerGroup,
    leaving: &[Arc<str>],
    joining: Option<&Arc<str>>,
    now: Now,
    topics: &dyn TopicLookup,
) -> Result<ClassicGroup, Malformed> {
    let protocol_type: Arc<str> = CONSUMER_PROTOCOL.into();
    let state_timestamp_ms = Some(now.wall_ms);
    let mut classic =
        ClassicGroup::loaded(consumer.epoch(), Some(protocol_type.clone()), None, None, state_timestamp_ms);
    // The first one leads; who has just come, comes last.
    let stays = |member: &&Member| !leaving.contains(&member.id) && Some(&member.id) != joining;
    let mut members = timeline_map(consumer.members().filter(stays).collect(), |m| hash_of_text(&m.id));
    members.extend(joining.and_then(|id| consumer.member(id)));
    for member in members {
        let said = member.metadata.classic.as_ref().ok_or(Malformed)?;
        let protocols = said.protocols.iter();
        classic.add(ClassicMember {
            id: member.id.clone(),
            instance_id: member.metadata.instance_id.clone(),
            client_id: member.metadata.client_id.clone(),
            client_host: member.metadata.client_host.clone(),
            rebalance_timeout_ms: member.metadata.rebalance_timeout_ms,
            session_timeout_ms: said.session_timeout_ms,
            protocol_type: protocol_type.clone(),
            protocols: protocols
                .map(|(name, metadata)| MemberProtocol { name: name.clone(), metadata: metadata.clone() })
                .collect(),
            assignment: Box::default(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        });
    }
    classic.protocol = classic.select_protocol();
    let protocol = classic.protocol.clone().ok_or(Malformed)?;
    for id in classic.member_ids() {
        let target = consumer.target(&id).map(|target| (**target).clone()).unwrap_or_default();
        let said = classic.member(&id).and_then(|member| member.metadata(&protocol)).ok_or(Malformed)?;
        let assignment = write_assignment(&target, subscription_version(said)?, topics);
        classic.update(&id, |member| member.assignment = assignment.into());
    }
    classic.finish_loading();
    Ok(classic)
}

// The consumers' embedded protocol

/// The highest version of it.
const EMBEDDED_VERSION_MAX: i16 = 3;

pub fn subscription_version(subscription: &[u8]) -> Result<i16, Malformed> {
    let version = Reader::new(subscription).i16("version").map_err(|_| Malformed)?;
    if version < 0 { Err(Malformed) } else { Ok(version.min(EMBEDDED_VERSION_MAX)) }
}

/// Later versions than we know only add to the end.
pub fn read_subscription(bytes: &[u8]) -> Result<ConsumerProtocolSubscription<'_>, Malformed> {
    let version = subscription_version(bytes)?;
    let mut reader = Reader::new(&bytes[2..]);
    ConsumerProtocolSubscription::read(&mut reader, version).map_err(|_| Malformed)
}

fn read_assignment(bytes: &[u8]) -> Result<ConsumerProtocolAssignment<'_>, Malformed> {
    let version = subscription_version(bytes)?;
    let mut reader = Reader::new(&bytes[2..]);
    ConsumerProtocolAssignment::read(&mut reader, version).map_err(|_| Malformed)
}

/// In the order in which Kafka's maps have topics and partitions.
pub fn write_assignment(partitions: &TopicPartitions, version: i16, topics: &dyn TopicLookup) -> Vec<u8> {
    let in_order = grown_map(partitions.iter().collect(), |(id, _)| hash_of_uuid(id));
    let of_topic = in_order.into_iter().filter_map(|(id, indexes)| {
        let indexes = set_of(indexes.iter().copied().collect(), indexes.len(), |index| *index);
        let topic = Cow::Owned(topics.topic_name(*id)?.to_string());
        Some(TopicPartition { topic, partitions: indexes.into() })
    });
    let message = ConsumerProtocolAssignment { assigned_partitions: of_topic.collect(), user_data: None };
    let mut writer = Writer::new();
    writer.put_i16(version);
    message.write(&mut writer, version);
    writer.buf
}
