//! Range: each topic's partitions in one run a member, the members in the order of their ids, static ones first by their
//! instance ids. Topics of the same size with the same subscribers are cut alike.

use std::collections::BTreeMap;

use super::{GroupSpec, MemberSpec, UnknownTopic};
use crate::broker::group::consumer::assignment::TopicPartitions;
use crate::protocol::Uuid;

/// What is left of a topic for the members that come later.
struct Rest {
    next: i32,
    quota: i32,
    /// Members that get one more.
    longer: i32,
}

pub fn assign(group: &GroupSpec<'_>) -> Result<Vec<TopicPartitions>, UnknownTopic> {
    let mut subscribers: BTreeMap<Uuid, i32> = BTreeMap::new();
    for topic in group.members.iter().flat_map(|member| &member.topics) {
        *subscribers.entry(*topic).or_default() += 1;
    }
    let mut rests: BTreeMap<Uuid, Rest> = BTreeMap::new();
    for (topic, subscribers) in subscribers {
        let count = group.count(topic)?;
        rests.insert(topic, Rest { next: 0, quota: count / subscribers, longer: count % subscribers });
    }
    let mut order: Vec<usize> = (0..group.members.len()).collect();
    order.sort_by(|&a, &b| rank(&group.members[a]).cmp(&rank(&group.members[b])));
    let mut assignment = vec![TopicPartitions::new(); group.members.len()];
    for index in order {
        for topic in &group.members[index].topics {
            let Some(rest) = rests.get_mut(topic) else { continue };
            let run = rest.quota + i32::from(rest.longer > 0);
            rest.longer -= i32::from(rest.longer > 0);
            let partitions = rest.next..rest.next + run;
            rest.next = partitions.end;
            if !partitions.is_empty() {
                assignment[index].insert(*topic, partitions.collect());
            }
        }
    }
    Ok(assignment)
}

/// Java compares strings by their UTF-16 units.
fn rank(member: &MemberSpec<'_>) -> (bool, Vec<u16>) {
    let name = member.instance_id.unwrap_or(member.id);
    (member.instance_id.is_none(), name.encode_utf16().collect())
}
