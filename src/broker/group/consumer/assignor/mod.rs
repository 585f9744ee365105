//! The assignors that run in the broker: pure functions from who is subscribed to what, and who had what, to who gets what.
//!
//! Given the same members in the same order they assign as Kafka 4.3 does, partition by partition. No partition is given
//! twice, and none of a topic that somebody is subscribed to is left over.

mod heterogeneous; // uniform, members with different subscriptions
mod homogeneous; // uniform, all members with the same
mod range;
#[cfg(test)]
mod tests;

use super::assignment::TopicPartitions;
use crate::protocol::Uuid;

/// The names, the default first.
pub const ASSIGNORS: &[&str] = &[UNIFORM, RANGE];
pub const UNIFORM: &str = "uniform";
pub const RANGE: &str = "range";

/// One member, as an assignor sees it.
#[derive(Clone, Debug)]
pub struct MemberSpec<'a> {
    pub id: &'a str,
    pub instance_id: Option<&'a str>,
    /// The topics it is subscribed to that exist, none twice, in the order of Kafka's set of their names.
    pub topics: Vec<Uuid>,
    /// How many names that set has, topics that do not exist among them.
    pub names: usize,
    /// What it was to have so far.
    pub target: Option<&'a TopicPartitions>,
}

/// A group, as an assignor sees it.
pub struct GroupSpec<'a> {
    /// In the order of Kafka's map of members.
    pub members: Vec<MemberSpec<'a>>,
    /// All members are subscribed to the same topics.
    pub homogeneous: bool,
    /// None for a topic that does not exist.
    pub partition_count: &'a dyn Fn(Uuid) -> Option<i32>,
}

/// A topic vanished between the look at the subscriptions and the look at its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownTopic(pub Uuid);

/// What each member is to have, in the order of the members.
pub fn assign(assignor: &str, group: &GroupSpec<'_>) -> Result<Vec<TopicPartitions>, UnknownTopic> {
    match assignor {
        _ if group.members.is_empty() => Ok(Vec::new()),
        RANGE => range::assign(group),
        _ if group.homogeneous => homogeneous::assign(group),
        _ => heterogeneous::assign(group),
    }
}

impl GroupSpec<'_> {
    fn count(&self, topic: Uuid) -> Result<i32, UnknownTopic> {
        (self.partition_count)(topic).ok_or(UnknownTopic(topic))
    }
}
