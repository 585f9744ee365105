//! Members that speak the classic protocol in a consumer group: their joins and syncs go through the same steps as a
//! heartbeat of the newer protocol, and nobody waits for anybody.

use std::sync::Arc;

use tracing::info;

use super::assignment::{TopicPartitions, without_epochs};
use super::config::MigrationPolicy;
use super::convert::{read_subscription, subscription_version, write_assignment};
use super::draft::{Draft, Refusal};
use super::group::ConsumerGroup;
use super::heartbeat::Comer;
use super::member::{ClassicMetadata, Member, MemberState, Metadata};
use crate::broker::group::classic::CONSUMER_PROTOCOL;
use crate::broker::group::entry::Group;
use crate::broker::group::member::MemberProtocol;
use crate::broker::group::timers::Payload;
use crate::broker::group::turn::Turn;
use crate::broker::group::{AppendId, TopicLookup};
use crate::protocol::ErrorCode;
use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;

/// A JoinGroup as a consumer group needs it.
pub struct ClassicJoin<'a> {
    /// Empty for a new member.
    pub member_id: &'a str,
    pub instance_id: Option<&'a str>,
    /// A new dynamic member of this version has to be told its id first.
    pub needs_known_id: bool,
    pub client_id: &'a str,
    pub client_host: &'a str,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: &'a str,
    pub protocols: &'a [MemberProtocol],
}

/// What a join comes to.
pub enum ClassicJoined {
    /// The member is to come again with this id.
    IdRequired(String),
    Joined {
        member_id: Arc<str>,
        generation: i32,
        protocol: Arc<str>,
    },
}

impl Turn<'_> {
    pub fn join_consumer_group(
        &mut self,
        group: &mut Group,
        join: &ClassicJoin<'_>,
        topics: &dyn TopicLookup,
    ) -> Result<(ClassicJoined, Option<AppendId>), Refusal> {
        if self.config.consumer.migration_policy == MigrationPolicy::Disabled {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        let id: Arc<str> = match join.member_id {
            "" => self.member_ids.draw_bare().into(),
            id => id.into(),
        };
        self.check_size(group, &id)?;
        let consumer = group.consumer.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
        if !supports(consumer, join) {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        if join.member_id.is_empty() && join.instance_id.is_none() && join.needs_known_id {
            return Ok((ClassicJoined::IdRequired(id.to_string()), None));
        }
        let bytes: usize = join.protocols.iter().map(|p| 2 * p.metadata.len() + p.name.len()).sum();
        if !self.has_room(bytes + 2_048) {
            return Err(ErrorCode::CoordinatorNotAvailable.into());
        }
        let mut draft = Draft::new(self.now);
        let (generation, is_down) = match self.join_in(group, join, &id, topics, &mut draft) {
            Ok(done) => done,
            Err(refusal) => {
                draft.roll_back(group);
                return Err(refusal);
            }
        };
        let append = self.append_draft(group, draft)?;
        self.timers.cancel(&self.member_join_key(group, &id));
        match is_down {
            None => {
                self.schedule_session(group, &id, join.session_timeout_ms);
                let (key, deadline) =
                    (self.member_sync_key(group, &id), self.deadline(join.rebalance_timeout_ms));
                self.timers.schedule(key, deadline, Payload::None);
            }
            Some(rebalances) => {
                self.classic_sessions(group);
                if rebalances {
                    self.prepare_rebalance(group, "the group has become classic with a stale assignment");
                }
            }
        }
        let protocol = join.protocols.first().map(|protocol| protocol.name.clone());
        let protocol = protocol.ok_or(ErrorCode::InconsistentGroupProtocol)?;
        Ok((ClassicJoined::Joined { member_id: id, generation, protocol }, append))
    }

    /// The member's epoch; and some if the group has become a classic one, true within if that has to rebalance.
    fn join_in(
        &mut self,
        group: &mut Group,
        join: &ClassicJoin<'_>,
        id: &Arc<str>,
        topics: &dyn TopicLookup,
        draft: &mut Draft,
    ) -> Result<(i32, Option<bool>), Refusal> {
        let comer = Comer {
            id,
            instance_id: join.instance_id,
            joins: join.instance_id.is_none() || join.member_id.is_empty(),
            classic: true,
        };
        let consumer = group.consumer.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
        let replaced = join.instance_id.and_then(|instance_id| consumer.static_member(instance_id)).cloned();
        let goes_down = replaced.as_ref().is_some_and(|old| self.goes_down_with(group, old));
        let said = join.protocols.first().map_or(&[][..], |protocol| &protocol.metadata);
        let subscription = read_subscription(said).map_err(|_| ErrorCode::UnknownServerError)?;
        let (before, is_new) = self.coming_member(group, &comer, None, draft)?;
        let metadata = metadata(&before.metadata, join, &subscription);
        let change = self.change_member(group, &before, metadata, topics, draft)?;
        let must_bump = change.is_any();
        if must_bump || group.consumer.as_ref().is_some_and(|consumer| consumer.has_stale_metadata(topics)) {
            self.update_epoch(group, must_bump, topics, draft);
        }
        let owned = owned(&subscription, topics);
        if goes_down {
            let is_stale = |consumer: &ConsumerGroup| consumer.target_epoch().epoch < consumer.epoch();
            let rebalances = group.consumer.as_deref().is_some_and(is_stale);
            if !rebalances {
                self.reconcile(group, id, must_bump, Some(&owned), topics, draft)?;
            }
            let epoch = epoch(group, id);
            self.become_classic_group(group, &[], Some(id), topics, draft)
                .map_err(|_| ErrorCode::GroupIdNotFound)?;
            return Ok((epoch, Some(rebalances)));
        }
        self.update_target(group, id, is_new, topics, draft)?;
        self.reconcile(group, id, must_bump, Some(&owned), topics, draft)?;
        Ok((epoch(group, id), None))
    }

    /// Whether the group has only classic members once this one is replaced by one.
    fn goes_down_with(&self, group: &Group, old: &Member) -> bool {
        let Some(consumer) = &group.consumer else { return false };
        let members = consumer.members().len();
        consumer.classic_members() == members - 1
            && !old.uses_classic_protocol()
            && self.config.consumer.migration_policy.may_downgrade()
            && members <= usize::try_from(self.config.max_size).unwrap_or(0)
    }

    /// What a member's SyncGroup fetches.
    pub fn sync_consumer_group(
        &mut self,
        group: &Group,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
        protocol: (Option<&str>, Option<&str>),
        topics: &dyn TopicLookup,
    ) -> Result<Vec<u8>, Refusal> {
        let (consumer, member) = classic_member(group, member_id, instance_id)?;
        check_generation(member, generation)?;
        let (said_type, said_name) = protocol;
        let (name, said) = member.metadata.protocol().ok_or(ErrorCode::UnknownServerError)?;
        if said_type.is_some_and(|said| said != CONSUMER_PROTOCOL)
            || said_name.is_some_and(|said| *said != **name)
        {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        let current = &member.current;
        if consumer.target_epoch().epoch > current.epoch && current.state != MemberState::UnrevokedPartitions
        {
            self.schedule_member_join(group, &member.id, member.metadata.rebalance_timeout_ms);
            return Err(ErrorCode::RebalanceInProgress.into());
        }
        let version = subscription_version(said).map_err(|_| ErrorCode::UnknownServerError)?;
        let assignment = write_assignment(&without_epochs(&current.assigned), version, topics);
        let timeout_ms = member.metadata.classic.as_ref().map_or(0, |classic| classic.session_timeout_ms);
        self.timers.cancel(&self.member_sync_key(group, &member.id));
        self.schedule_session(group, &member.id, timeout_ms);
        Ok(assignment)
    }

    /// Whether a member of the classic protocol may go on as it is.
    pub fn heartbeat_consumer_group(
        &mut self,
        group: &Group,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), Refusal> {
        let (consumer, member) = classic_member(group, member_id, instance_id)?;
        check_generation(member, generation)?;
        let timeout_ms = member.metadata.classic.as_ref().map_or(0, |classic| classic.session_timeout_ms);
        self.schedule_session(group, &member.id, timeout_ms);
        let must_rejoin = member.current.epoch < consumer.target_epoch().epoch
            || match member.current.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !waits_for_others(consumer, member),
                _ => false,
            };
        if must_rejoin {
            self.schedule_member_join(group, &member.id, member.metadata.rebalance_timeout_ms);
            return Err(ErrorCode::RebalanceInProgress.into());
        }
        Ok(())
    }

    /// LeaveGroup in a consumer group: what is said to each, and who of them is out.
    pub fn leave_as_classic(
        &mut self,
        group: &mut Group,
        identities: &[(&str, Option<&str>)],
        topics: &dyn TopicLookup,
    ) -> Result<(Vec<ErrorCode>, Option<AppendId>), ErrorCode> {
        let Some(consumer) = &group.consumer else { return Err(ErrorCode::UnknownMemberId) };
        let mut leaving: Vec<Arc<str>> = Vec::new();
        let mut errors = Vec::new();
        for &(member_id, instance_id) in identities {
            let found = match instance_id {
                // An administrator names static members by their instance id only.
                Some(instance_id) if member_id.is_empty() => {
                    consumer.static_member(instance_id).ok_or(ErrorCode::UnknownMemberId)
                }
                _ => consumer.validate(&group.id, member_id, instance_id).map_err(|refusal| refusal.error),
            };
            match found {
                Ok(member) => {
                    info!(group = &*group.id, member = &*member.id, "the member has left");
                    if !leaving.contains(&member.id) {
                        leaving.push(member.id.clone());
                    }
                    errors.push(ErrorCode::None);
                }
                Err(error) => errors.push(error),
            }
        }
        let append = self.fence(group, &leaving, topics)?;
        Ok((errors, append))
    }
}

fn supports(consumer: &ConsumerGroup, join: &ClassicJoin<'_>) -> bool {
    join.protocol_type == CONSUMER_PROTOCOL
        && join.protocols.iter().any(|protocol| consumer.is_common_protocol(&protocol.name))
}

fn metadata(
    old: &Metadata,
    join: &ClassicJoin<'_>,
    subscription: &ConsumerProtocolSubscription<'_>,
) -> Metadata {
    let text = |new: Option<&str>, old: &Option<Arc<str>>| new.map(Arc::from).or_else(|| old.clone());
    let rack_id = subscription.rack_id.as_deref().filter(|rack| !rack.is_empty());
    let protocols = join.protocols.iter().map(|p| (p.name.clone(), p.metadata.clone()));
    Metadata {
        instance_id: text(join.instance_id, &old.instance_id),
        rack_id: text(rack_id, &old.rack_id),
        client_id: join.client_id.into(),
        client_host: join.client_host.into(),
        topics: subscription.topics.iter().map(|topic| Arc::from(&*topic)).collect(),
        regex: Some("".into()),
        rebalance_timeout_ms: match join.rebalance_timeout_ms {
            -1 => old.rebalance_timeout_ms,
            timeout_ms => timeout_ms,
        },
        assignor: old.assignor.clone(),
        classic: Some(ClassicMetadata {
            session_timeout_ms: join.session_timeout_ms,
            protocols: protocols.collect(),
        }),
    }
}

/// What the member says it owns.
fn owned(subscription: &ConsumerProtocolSubscription<'_>, topics: &dyn TopicLookup) -> TopicPartitions {
    let known = subscription
        .owned_partitions
        .iter()
        .filter_map(|topic| Some((topics.topic_id(&topic.topic)?, topic.partitions.iter().collect())));
    known.collect()
}

fn epoch(group: &Group, id: &str) -> i32 {
    let member = group.consumer.as_ref().and_then(|consumer| consumer.member(id));
    member.map_or(0, |member| member.current.epoch)
}

fn classic_member<'g>(
    group: &'g Group,
    member_id: &str,
    instance_id: Option<&str>,
) -> Result<(&'g ConsumerGroup, &'g Member), Refusal> {
    let consumer = group.consumer.as_deref().ok_or(ErrorCode::UnknownMemberId)?;
    let member = consumer.validate(&group.id, member_id, instance_id)?;
    match member.uses_classic_protocol() {
        true => Ok((consumer, member)),
        false => Err(ErrorCode::UnknownMemberId.into()),
    }
}

fn check_generation(member: &Member, generation: i32) -> Result<(), Refusal> {
    match member.current.epoch == generation {
        true => Ok(()),
        false => Err(ErrorCode::IllegalGeneration.into()),
    }
}

/// Whether some of what a member is to have is still somebody else's.
fn waits_for_others(consumer: &ConsumerGroup, member: &Member) -> bool {
    let target = consumer.target(&member.id);
    let mut all = target
        .into_iter()
        .flat_map(|target| target.iter())
        .flat_map(|(topic, indexes)| indexes.iter().map(|index| (*topic, *index)));
    all.any(|(topic, index)| {
        !super::assignment::contains(&member.current.assigned, topic, index)
            && consumer.owner(topic, index).is_some()
    })
}
