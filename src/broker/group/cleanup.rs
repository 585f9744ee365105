//! What goes away: offsets past their retention, groups that hold nothing, offsets of deleted topics.
//!
//! An offset expires a retention time after its group became empty, or, in a group without members of its own and for
//! topics a stable consumer group no longer subscribes to, after its last commit. Everything is deleted by tombstones,
//! which count once they are in the log.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use tracing::debug;

use crate::protocol::ErrorCode;

use super::appends::{OffsetChange, Pending, Then, coordinator_error};
use super::classic::State;
use super::coordinator::Partition;
use super::entry::Group;
use super::offsets::{CommittedOffset, View};
use super::records::BatchWriter;
use super::timers::{Payload, TimerKey};
use super::turn::Turn;
use super::{AppendId, DeletedTopic};

/// Groups looked at in one go, so that no call takes long.
const GROUPS_A_STEP: usize = 500;
/// What a record takes beside its key, at most.
const RECORD_OVERHEAD: usize = 64;

impl Turn<'_> {
    pub fn schedule_cleanup(&mut self, delay_ms: i64, payload: Payload) {
        let deadline_ms = self.now.monotonic_ms.saturating_add(delay_ms.max(1));
        self.timers.schedule(TimerKey::Cleanup { partition: self.partition }, deadline_ms, payload);
    }

    /// Looks at some groups, and asks to be called for the rest.
    pub fn clean_up(&mut self, partition: &mut Partition, payload: Payload) {
        let after = match payload {
            Payload::After(group) => Bound::Excluded(group),
            _ => Bound::Unbounded,
        };
        let range = partition.groups.range_mut((after, Bound::Unbounded));
        let mut last = None;
        for (id, group) in range.take(GROUPS_A_STEP) {
            last = Some(id.clone());
            self.clean_up_group(group);
        }
        let next = last.filter(|id| {
            let rest = (Bound::Excluded(id.clone()), Bound::Unbounded);
            partition.groups.range(rest).next().is_some()
        });
        match next {
            Some(id) => self.schedule_cleanup(1, Payload::After(id)),
            None => self.schedule_cleanup(self.config.offsets_retention_check_interval_ms, Payload::None),
        }
    }

    fn clean_up_group(&mut self, group: &mut Group) {
        let Some(since) = retention_start(group) else { return };
        let mut expired = Vec::new();
        let mut is_done = !group.offsets.has_open();
        for (topic, partition, value) in group.offsets.iter(View::Latest) {
            let is_expired = match value.expire_timestamp_ms {
                Some(expire_ms) => self.now.wall_ms >= expire_ms,
                None => self.now.wall_ms.saturating_sub(since.of(value)) >= self.config.offsets_retention_ms,
            };
            let is_free = !group.offsets.is_unstable(topic, partition);
            if is_expired && is_free && !group.is_subscribed_to(topic) {
                expired.push((topic.clone(), partition));
            } else {
                is_done = false;
            }
        }
        let delete_group = is_done && group.is_empty();
        if !expired.is_empty() || delete_group {
            debug!(group = &*group.id, offsets = expired.len(), delete_group, "expired");
            // What cannot be written now is found again next time.
            let _ = self.append_tombstones(group, &expired, delete_group);
            self.account(group);
        }
    }

    /// Deletes these offsets, and the group itself behind them, in as many batches as it takes.
    pub fn append_tombstones(
        &mut self,
        group: &mut Group,
        offsets: &[(Arc<str>, i32)],
        delete_group: bool,
    ) -> Result<Vec<AppendId>, ErrorCode> {
        let mut appends = Vec::new();
        let mut left = offsets.iter().peekable();
        while left.peek().is_some() || delete_group && appends.is_empty() {
            let mut batch = BatchWriter::new(self.now.wall_ms);
            let mut pending = Pending::new(self.partition, Then::Nothing);
            let fits = |batch: &BatchWriter, key: usize| {
                batch.size() + group.id.len() + key + 2 * RECORD_OVERHEAD + group.id.len()
                    <= self.config.batch_bytes_max
            };
            while let Some((topic, partition)) =
                left.next_if(|(t, _)| batch.is_empty() || fits(&batch, t.len()))
            {
                batch.offset_tombstone(&group.id, topic, *partition);
                let index = pending.offsets.len() as i32;
                let (group, topic) = (group.id.clone(), topic.clone());
                pending.offsets.push(OffsetChange { group, topic, partition: *partition, index });
            }
            if delete_group {
                pending.deleted_groups.push(group.id.clone());
                match &group.consumer {
                    _ if left.peek().is_some() => {}
                    Some(consumer) => {
                        consumer.deletion().iter().for_each(|change| batch.change(&group.id, change));
                    }
                    None => batch.group_tombstone(&group.id),
                }
            }
            let changes = pending.offsets.clone();
            let append = self.append(batch, pending).map_err(|(error, _)| coordinator_error(error))?;
            for change in changes {
                group.offsets.begin(&change.topic, change.partition, append, None);
            }
            appends.push(append);
        }
        if delete_group {
            group.classic.begin_delete();
        }
        Ok(appends)
    }

    /// The offsets of topics that are gone, unless they are of a younger topic of the same name.
    pub fn forget_topics(&mut self, group: &mut Group, topics: &BTreeMap<&str, &DeletedTopic>) {
        let mut gone = Vec::new();
        for (topic, partition, value) in group.offsets.iter(View::Latest) {
            let deleted = topics.get(&**topic);
            if deleted.is_some_and(|deleted| value.topic_id.is_zero() || value.topic_id == deleted.id) {
                gone.push((topic.clone(), partition));
            }
        }
        if !gone.is_empty() {
            // Refused only by a log that takes nothing; the offsets then expire like others.
            let _ = self.append_tombstones(group, &gone, false);
            self.account(group);
        }
    }
}

/// From when on the retention of a group's offsets counts.
enum RetentionStart {
    /// When the group became empty.
    At(i64),
    Commit,
}

impl RetentionStart {
    fn of(&self, value: &CommittedOffset) -> i64 {
        match self {
            RetentionStart::At(ms) => *ms,
            RetentionStart::Commit => value.commit_timestamp_ms,
        }
    }
}

/// None while nothing of the group may expire.
fn retention_start(group: &Group) -> Option<RetentionStart> {
    let classic = &group.classic;
    match classic.state() {
        State::Dead => None,
        _ if group.consumer.is_some() => Some(RetentionStart::Commit),
        _ if classic.protocol_type.is_none() => Some(RetentionStart::Commit),
        State::Empty => Some(classic.state_timestamp_ms.map_or(RetentionStart::Commit, RetentionStart::At)),
        State::Stable if classic.uses_consumer_protocol() && classic.subscriptions_known() => {
            Some(RetentionStart::Commit)
        }
        _ => None,
    }
}
