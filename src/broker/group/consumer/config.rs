//! The settings of consumer groups, those of the broker and those a group has of its own.

use std::collections::BTreeMap;

use super::assignor::ASSIGNORS;

/// Under Kafka's names in the broker's configuration: `group.consumer.…`.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Else members are refused.
    pub is_served: bool,
    pub session_timeout_ms: i32,
    pub heartbeat_interval_ms: i32,
    pub assignment_interval_ms: i32,
    pub max_size: i32,
    /// The default first; never empty.
    pub assignors: Vec<&'static str>,
    pub migration_policy: MigrationPolicy,
    pub regex_refresh_interval_ms: i32,
    /// By group id.
    pub overrides: BTreeMap<String, ConsumerOverrides>,
}

/// What is set for one group: `consumer.session.timeout.ms` and its like, within the bounds the broker sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerOverrides {
    pub session_timeout_ms: Option<i32>,
    pub heartbeat_interval_ms: Option<i32>,
    pub assignment_interval_ms: Option<i32>,
}

/// Which way a group with members may go from one protocol to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPolicy {
    Bidirectional,
    Upgrade,
    Downgrade,
    Disabled,
}

impl MigrationPolicy {
    pub fn may_upgrade(self) -> bool {
        matches!(self, MigrationPolicy::Bidirectional | MigrationPolicy::Upgrade)
    }

    pub fn may_downgrade(self) -> bool {
        matches!(self, MigrationPolicy::Bidirectional | MigrationPolicy::Downgrade)
    }
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        ConsumerConfig {
            is_served: true,
            session_timeout_ms: 45_000,
            heartbeat_interval_ms: 5_000,
            assignment_interval_ms: 1_000,
            max_size: i32::MAX,
            assignors: ASSIGNORS.to_vec(),
            migration_policy: MigrationPolicy::Bidirectional,
            regex_refresh_interval_ms: 600_000,
            overrides: BTreeMap::new(),
        }
    }
}

impl ConsumerConfig {
    pub fn session_timeout_ms(&self, group: &str) -> i32 {
        self.own(group).and_then(|own| own.session_timeout_ms).unwrap_or(self.session_timeout_ms)
    }

    pub fn heartbeat_interval_ms(&self, group: &str) -> i32 {
        self.own(group).and_then(|own| own.heartbeat_interval_ms).unwrap_or(self.heartbeat_interval_ms)
    }

    pub fn assignment_interval_ms(&self, group: &str) -> i32 {
        self.own(group).and_then(|own| own.assignment_interval_ms).unwrap_or(self.assignment_interval_ms)
    }

    pub fn default_assignor(&self) -> &'static str {
        self.assignors.first().copied().unwrap_or(ASSIGNORS[0])
    }

    fn own(&self, group: &str) -> Option<&ConsumerOverrides> {
        self.overrides.get(group)
    }
}
