//! Uniform, where all members are subscribed to the same topics: everybody gets the same number of partitions, give or take
//! one, and keeps as much as that allows of what it had.

use std::collections::{BTreeMap, BTreeSet};

use super::{GroupSpec, UnknownTopic};
use crate::broker::group::consumer::assignment::TopicPartitions;
use crate::broker::group::consumer::java_order::{grown_map, hash_of_uuid, set_of};
use crate::protocol::Uuid;

/// Members, by index, that may get this many more.
type Unfilled = Vec<(usize, usize)>;

pub fn assign(group: &GroupSpec<'_>) -> Result<Vec<TopicPartitions>, UnknownTopic> {
    let Some(first) = group.members.first() else { return Ok(Vec::new()) };
    let topics = set_of(first.topics.clone(), first.names, hash_of_uuid);
    let mut counts = BTreeMap::new();
    for &topic in &topics {
        counts.insert(topic, group.count(topic)?);
    }
    if topics.is_empty() {
        return Ok(vec![TopicPartitions::new(); group.members.len()]);
    }
    let mut unassigned = unassigned(group, &topics, &counts);
    let mut assignment = Vec::with_capacity(group.members.len());
    let unfilled = keep(group, &counts, &mut assignment, &mut unassigned);
    let mut rest = unassigned.into_iter();
    for (member, room) in unfilled {
        for (topic, partition) in rest.by_ref().take(room) {
            assignment[member].entry(topic).or_default().insert(partition);
        }
    }
    debug_assert!(rest.next().is_none(), "the quotas add up to all partitions");
    Ok(assignment)
}

/// The partitions nobody had so far, topic by topic.
fn unassigned(group: &GroupSpec<'_>, topics: &[Uuid], counts: &BTreeMap<Uuid, i32>) -> Vec<(Uuid, i32)> {
    let mut had: BTreeMap<Uuid, BTreeSet<i32>> = BTreeMap::new();
    for (topic, partitions) in group.members.iter().filter_map(|member| member.target).flatten() {
        if counts.contains_key(topic) {
            had.entry(*topic).or_default().extend(partitions);
        }
    }
    let of_topic = |topic: &Uuid| {
        let had = had.get(topic);
        let free = (0..counts[topic]).filter(|index| !had.is_some_and(|had| had.contains(index)));
        free.map(|index| (*topic, index)).collect::<Vec<_>>()
    };
    topics.iter().flat_map(of_topic).collect()
}

/// What each member keeps, and who has room for more; what goes beyond a member's quota is unassigned.
fn keep(
    group: &GroupSpec<'_>,
    counts: &BTreeMap<Uuid, i32>,
    assignment: &mut Vec<TopicPartitions>,
    unassigned: &mut Vec<(Uuid, i32)>,
) -> Unfilled {
    let members = group.members.len();
    let partitions: usize = counts.values().map(|&count| count.max(0) as usize).sum();
    let quota = partitions / members;
    // So many of those still to come get one more.
    let mut larger = partitions % members;
    let mut unfilled = Vec::new();
    for (index, member) in group.members.iter().enumerate() {
        let mut is_larger = larger > 0;
        let mut room = quota + usize::from(is_larger);
        let mut kept = TopicPartitions::new();
        let old = grown_map(member.target.into_iter().flatten().collect(), |(topic, _)| hash_of_uuid(topic));
        for (topic, partitions) in old.into_iter().filter(|(topic, _)| counts.contains_key(topic)) {
            let in_order = set_of(partitions.iter().copied().collect(), partitions.len(), |index| *index);
            let (keeps, gives) = in_order.split_at(room.min(in_order.len()));
            room -= keeps.len();
            if !keeps.is_empty() {
                kept.insert(*topic, keeps.iter().copied().collect());
            }
            unassigned.extend(gives.iter().map(|&partition| (*topic, partition)));
        }
        // One that is not full leaves being larger to another, while there are enough others.
        if room > 0 && is_larger && members - index > larger {
            room -= 1;
            is_larger = false;
        }
        if room > 0 {
            unfilled.push((index, room));
        }
        larger -= usize::from(is_larger);
        assignment.push(kept);
    }
    unfilled
}
