//! The group's epoch and its target: the epoch moves when subscriptions or topics have changed, the target follows it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::info;

use super::assignment::TopicPartitions;
use super::assignor::{ASSIGNORS, GroupSpec, MemberSpec, assign};
use super::draft::{Draft, Refusal};
use super::group::{Change, ConsumerGroup, GroupEpoch, TargetEpoch};
use super::java_order::{grown_map, hash_of_text, set_of, timeline_map};
use super::member::{Member, Metadata};
use super::topic_hash::metadata_hash;
use crate::broker::group::TopicLookup;
use crate::broker::group::entry::Group;
use crate::broker::group::turn::Turn;
use crate::protocol::{ErrorCode, Uuid};

impl ConsumerGroup {
    /// The topics have changed since the group last looked at them.
    pub fn has_stale_metadata(&self, topics: &dyn TopicLookup) -> bool {
        self.checked_version != Some(topics.version())
    }

    pub fn hash_topics(&self, topics: &dyn TopicLookup) -> i64 {
        metadata_hash(self.subscribed_topics().map(|(topic, _)| &**topic), topics)
    }

    /// Whether a member is subscribed to a topic that exists, by name or by pattern.
    pub fn is_member_subscribed(&self, metadata: &Metadata, topic: Uuid, topics: &dyn TopicLookup) -> bool {
        let Some(name) = topics.topic_name(topic) else { return false };
        let resolved = metadata.pattern().and_then(|pattern| self.pattern(pattern));
        metadata.topics.contains(&name)
            || resolved.is_some_and(|resolved| resolved.topics.binary_search(&name).is_ok())
    }

    /// Whether all members are subscribed to the same topics, as Kafka finds it out.
    fn is_homogeneous(&self) -> bool {
        let members = self.members().len();
        let mut subscribers = self.subscribed_topics().map(|(_, subscribers)| subscribers);
        match self.subscribed_patterns().next() {
            None => subscribers.all(|topic| topic.by_name == members),
            Some((_, by)) => {
                by == members && subscribers.all(|topic| (topic.by_name, topic.by_pattern) == (0, 1))
            }
        }
    }

    /// The assignor most members want; the default if none wants one.
    pub fn preferred_assignor(&self, default: &'static str) -> &'static str {
        let wanted = grown_map(self.assignors().collect(), |(name, _)| hash_of_text(name));
        let most = wanted.iter().map(|(_, members)| *members).max();
        let preferred = wanted.iter().find(|(_, members)| Some(*members) == most).map(|(name, _)| &***name);
        let known = |name: &str| ASSIGNORS.iter().copied().find(|known| *known == name);
        preferred.and_then(known).unwrap_or(default)
    }

    /// The topics of a member that exist, in the order of Kafka's set, and how many names the set has.
    fn subscribed_ids(&self, metadata: &Metadata, topics: &dyn TopicLookup) -> (Vec<Uuid>, usize) {
        fn in_set(names: Vec<&Arc<str>>) -> Vec<&Arc<str>> {
            let count = names.len();
            set_of(names, count, |name| hash_of_text(name))
        }
        let named = in_set(metadata.topics.iter().collect());
        let matched = metadata.pattern().and_then(|pattern| self.pattern(pattern));
        let matched = in_set(matched.into_iter().flat_map(|resolved| &resolved.topics).collect());
        let (large, small) = if named.len() > matched.len() { (named, matched) } else { (matched, named) };
        let both: BTreeSet<&Arc<str>> = large.iter().copied().collect();
        let names: Vec<_> =
            large.into_iter().chain(small.into_iter().filter(|name| !both.contains(name))).collect();
        (names.iter().filter_map(|name| topics.topic_id(name)).collect(), names.len())
    }

    /// In the order of the map of which Kafka's assignors walk; `last` has just come.
    fn members_in_order(&self, last: &str, is_new: bool) -> Vec<&Member> {
        let known = self.members().filter(|member| !is_new || *member.id != *last);
        let mut members = timeline_map(known.collect(), |member| hash_of_text(&member.id));
        if is_new {
            members.extend(self.member(last));
        }
        grown_map(members, |member| hash_of_text(&member.id))
    }

    /// What each member is to have from now on.
    fn assign(
        &self,
        assignor: &str,
        last: &str,
        is_new: bool,
        topics: &dyn TopicLookup,
    ) -> Result<Vec<(Arc<str>, TopicPartitions)>, String> {
        let members = self.members_in_order(last, is_new);
        let specs = members.iter().map(|member| {
            let (ids, names) = self.subscribed_ids(&member.metadata, topics);
            MemberSpec {
                id: &member.id,
                instance_id: member.metadata.instance_id.as_deref(),
                topics: ids,
                names,
                target: self.target(&member.id).map(|target| &**target),
            }
        });
        let partition_count = |id| topics.partition_count(&topics.topic_name(id)?);
        let group = GroupSpec {
            members: specs.collect(),
            homogeneous: self.is_homogeneous(),
            partition_count: &partition_count,
        };
        let assigned = assign(assignor, &group).map_err(|unknown| {
            format!(
                "Members are subscribed to topic {} which doesn't exist in the topic metadata.",
                unknown.0
            )
        })?;
        Ok(members.iter().map(|member| member.id.clone()).zip(assigned).collect())
    }
}

impl Turn<'_> {
    /// Bumps the epoch if it has to be, or if the topics have changed.
    pub fn update_epoch(
        &mut self,
        group: &mut Group,
        must_bump: bool,
        topics: &dyn TopicLookup,
        draft: &mut Draft,
    ) {
        let Some(consumer) = &mut group.consumer else { return };
        consumer.checked_version = Some(topics.version());
        let metadata_hash = consumer.hash_topics(topics);
        let has_partition_metadata = consumer.has_partition_metadata;
        if must_bump || metadata_hash != consumer.metadata_hash() {
            let epoch = consumer.epoch().saturating_add(1);
            info!(group = &*group.id, epoch, metadata_hash, "the group's epoch has moved");
            draft.change(group, Change::Epoch(Some(GroupEpoch { epoch, metadata_hash })));
        }
        if has_partition_metadata {
            draft.change(group, Change::PartitionMetadata(false));
        }
    }

    /// Works out a new target if the epoch has moved since the last one, which must not have been just now.
    pub fn update_target(
        &mut self,
        group: &mut Group,
        member: &str,
        is_new: bool,
        topics: &dyn TopicLookup,
        draft: &mut Draft,
    ) -> Result<(), Refusal> {
        let Some(consumer) = &group.consumer else { return Ok(()) };
        let (epoch, target) = (consumer.epoch(), consumer.target_epoch());
        let interval_ms = i64::from(self.config.consumer.assignment_interval_ms(&group.id));
        let passed_ms = self.now.since_ms(target.timestamp_ms);
        let is_due = target.timestamp_ms == 0 || passed_ms.is_none_or(|passed_ms| passed_ms >= interval_ms);
        if target.epoch >= epoch || !is_due {
            return Ok(());
        }
        let assignor = consumer.preferred_assignor(self.config.consumer.default_assignor());
        let assigned = consumer.assign(assignor, member, is_new, topics).map_err(|reason| {
            tracing::error!(group = &*group.id, epoch, reason, "no target assignment");
            Refusal::from(ErrorCode::UnknownServerError)
        })?;
        info!(group = &*group.id, epoch, assignor, members = assigned.len(), "a new target assignment");
        for (id, target) in assigned {
            let old = group.consumer.as_ref().and_then(|consumer| consumer.target(&id));
            if old.is_none_or(|old| **old != target) {
                draft.change(group, Change::Target(id, Some(Arc::new(target))));
            }
        }
        let timestamp_ms = self.now.wall_ms;
        draft.change(group, Change::TargetEpoch(Some(TargetEpoch { epoch, timestamp_ms })));
        Ok(())
    }
}
