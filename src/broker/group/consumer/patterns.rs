//! Subscriptions by pattern: which topics each matches is worked out for the whole group at once, some time after a pattern
//! came up or topics were created, and written down, so that all of it moves the group's epoch once.

use std::sync::Arc;

use tracing::{debug, info};

use super::draft::{Draft, Refusal};
use super::group::{Change, ConsumerGroup, GroupEpoch, Resolved};
use super::heartbeat::SubscriptionChange;
use super::member::Metadata;
use super::topic_regex::TopicRegex;
use crate::broker::group::TopicLookup;
use crate::broker::group::entry::Group;
use crate::broker::group::timers::{Payload, TimerKey};
use crate::broker::group::turn::Turn;
use crate::protocol::ErrorCode;

/// Patterns of a group are not resolved again within this time.
const REFRESH_INTERVAL_MIN_MS: i64 = 10_000;

/// How the last resolution stood before a request.
struct LastRefresh {
    timestamp_ms: i64,
    version: i64,
    patterns: usize,
}

impl LastRefresh {
    fn of(consumer: &ConsumerGroup) -> Self {
        let first = consumer.patterns().next().map(|(_, resolved)| resolved);
        LastRefresh {
            timestamp_ms: first.map_or(i64::MIN, |resolved| resolved.timestamp_ms),
            version: first.map_or(0, |resolved| resolved.version),
            patterns: consumer.patterns().len(),
        }
    }
}

impl Turn<'_> {
    /// A member may have another pattern than before, and the group may be due for a refresh of all of them.
    pub fn change_pattern(
        &mut self,
        group: &mut Group,
        old: &Metadata,
        new: &Metadata,
        topics: &dyn TopicLookup,
        draft: &mut Draft,
        change: &mut SubscriptionChange,
    ) -> Result<(), Refusal> {
        let Some(consumer) = &group.consumer else { return Ok(()) };
        let last = LastRefresh::of(consumer);
        let mut is_due = false;
        if old.regex != new.regex {
            change.pattern = true;
            let is_last = old.pattern().filter(|pattern| consumer.pattern_members(pattern) == 0).cloned();
            match new.pattern() {
                Some(pattern) if consumer.pattern_members(pattern) <= 1 => {
                    check_pattern(pattern)?;
                    is_due = true;
                }
                Some(pattern) => change.is_resolved = consumer.pattern(pattern).is_some(),
                None => change.is_resolved = old.pattern().is_some(),
            }
            if let Some(pattern) = is_last {
                draft.change(group, Change::Pattern(pattern, None));
            }
        }
        self.maybe_resolve(group, &last, is_due, topics);
        Ok(())
    }

    fn maybe_resolve(
        &mut self,
        group: &mut Group,
        last: &LastRefresh,
        is_due: bool,
        topics: &dyn TopicLookup,
    ) {
        let interval_ms = i64::from(self.config.consumer.regex_refresh_interval_ms);
        let key = TimerKey::Patterns { partition: self.partition, group: group.id.clone() };
        let Some(consumer) = &mut group.consumer else { return };
        let subscribed = consumer.subscribed_patterns().len();
        let passed_ms = self.now.since_ms(last.timestamp_ms);
        let is_recent = passed_ms.is_some_and(|passed_ms| passed_ms <= REFRESH_INTERVAL_MIN_MS);
        if subscribed == 0 || consumer.is_resolving || is_recent {
            return;
        }
        let is_due = is_due
            || subscribed != last.patterns
            || last.version < topics.created_version() as i64
            || passed_ms.is_none_or(|passed_ms| passed_ms > interval_ms);
        if is_due {
            consumer.is_resolving = true;
            self.timers.schedule(key, self.now.monotonic_ms, Payload::None);
        }
    }

    /// Looks at all topics anew.
    pub fn resolve_patterns(&mut self, group: &mut Group, topics: &dyn TopicLookup) {
        let Some(consumer) = &mut group.consumer else { return };
        consumer.is_resolving = false;
        let names = topics.names();
        let patterns: Vec<Arc<str>> =
            consumer.subscribed_patterns().map(|(pattern, _)| pattern.clone()).collect();
        let mut draft = Draft::new(self.now);
        let mut has_changed = false;
        for pattern in patterns {
            let matched = match TopicRegex::new(&pattern) {
                Ok(regex) => names.iter().filter(|name| regex.matches(name)).cloned().collect(),
                // It was checked when it came; a record of another version may hold it all the same.
                Err(_) => Vec::new(),
            };
            let old = group.consumer.as_ref().and_then(|consumer| consumer.pattern(&pattern));
            has_changed |= old.map_or(&[][..], |old| &old.topics) != matched.as_slice();
            debug!(group = &*group.id, pattern = &*pattern, topics = matched.len(), "pattern resolved");
            let (version, timestamp_ms) = (topics.version() as i64, self.now.wall_ms);
            let resolved = Resolved { topics: matched, version, timestamp_ms };
            draft.change(group, Change::Pattern(pattern, Some(Arc::new(resolved))));
        }
        let Some(consumer) = &mut group.consumer else { return };
        let metadata_hash = consumer.hash_topics(topics);
        if has_changed || metadata_hash != consumer.metadata_hash() {
            consumer.checked_version = Some(topics.version());
            let epoch = consumer.epoch().saturating_add(1);
            info!(group = &*group.id, epoch, metadata_hash, "patterns match other topics");
            draft.change(group, Change::Epoch(Some(GroupEpoch { epoch, metadata_hash })));
        }
        // What cannot be written now is found missing by the next heartbeat.
        let _ = self.append_draft(group, draft);
        self.account(group);
    }
}

fn check_pattern(pattern: &str) -> Result<(), Refusal> {
    TopicRegex::new(pattern).map(drop).map_err(|reason| {
        let message =
            format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {reason}.");
        Refusal::new(ErrorCode::InvalidRegularExpression, message)
    })
}
