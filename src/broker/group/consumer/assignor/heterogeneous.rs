//! Uniform, where members are subscribed to different topics: what is free goes, topic by topic, to the subscribers with the
//! least; then each topic is evened out between its subscribers, over and over until nothing moves any more.

use std::collections::{BTreeMap, BTreeSet};

use super::{GroupSpec, UnknownTopic};
use crate::broker::group::consumer::assignment::TopicPartitions;
use crate::broker::group::consumer::java_order::uuid_order;
use crate::protocol::Uuid;

/// Rounds of evening out. Each is thought to halve what is uneven; subscriptions that overlap in odd ways never come to an end.
const ROUNDS_MAX: usize = 16;

struct Topic {
    id: Uuid,
    /// Members by index, ascending.
    subscribers: Vec<usize>,
    /// Of each partition; none while it is free.
    owners: Vec<Option<usize>>,
}

struct Work {
    /// Those with the most partitions a subscriber first.
    topics: Vec<Topic>,
    /// How many partitions each member has.
    sizes: Vec<usize>,
}

pub fn assign(group: &GroupSpec<'_>) -> Result<Vec<TopicPartitions>, UnknownTopic> {
    let mut work = Work::new(group)?;
    work.assign_free();
    work.even_out();
    let mut assignment = vec![TopicPartitions::new(); group.members.len()];
    for topic in &work.topics {
        for (partition, owner) in (0..).zip(&topic.owners) {
            if let Some(owner) = *owner {
                assignment[owner].entry(topic.id).or_default().insert(partition);
            }
        }
    }
    Ok(assignment)
}

impl Work {
    /// Everybody keeps what it had of the topics it is subscribed to.
    fn new(group: &GroupSpec<'_>) -> Result<Work, UnknownTopic> {
        let mut topics: BTreeMap<Uuid, Topic> = BTreeMap::new();
        for (index, member) in group.members.iter().enumerate() {
            for &id in &member.topics {
                let count = group.count(id)?.max(0) as usize;
                let new = || Topic { id, subscribers: Vec::new(), owners: vec![None; count] };
                topics.entry(id).or_insert_with(new).subscribers.push(index);
            }
        }
        let mut sizes = vec![0; group.members.len()];
        for (index, member) in group.members.iter().enumerate() {
            let subscribed: BTreeSet<Uuid> = member.topics.iter().copied().collect();
            for (id, partitions) in
                member.target.into_iter().flatten().filter(|(id, _)| subscribed.contains(id))
            {
                let Some(topic) = topics.get_mut(id) else { continue };
                for partition in partitions {
                    if let Some(owner) = topic.owners.get_mut(*partition as usize) {
                        *owner = Some(index);
                        sizes[index] += 1;
                    }
                }
            }
        }
        let mut topics: Vec<Topic> = topics.into_values().collect();
        topics.sort_by(|a, b| {
            let load = |topic: &Topic| topic.owners.len() as f64 / topic.subscribers.len() as f64;
            load(b)
                .total_cmp(&load(a))
                .then(a.subscribers.len().cmp(&b.subscribers.len()))
                .then(uuid_order(&a.id).cmp(&uuid_order(&b.id)))
        });
        Ok(Work { topics, sizes })
    }

    fn assign_free(&mut self) {
        for topic in &mut self.topics {
            let mut scale = Scale::new(&topic.subscribers, &self.sizes);
            for owner in topic.owners.iter_mut().filter(|owner| owner.is_none()) {
                let member = scale.lightest(&self.sizes);
                *owner = Some(member);
                self.sizes[member] += 1;
            }
        }
    }

    fn even_out(&mut self) {
        let shared: Vec<usize> =
            (0..self.topics.len()).filter(|&topic| self.topics[topic].subscribers.len() >= 2).collect();
        // The last topic that moved: once round without a move, and all is done.
        let mut last_moved = None;
        for _ in 0..ROUNDS_MAX {
            for &topic in &shared {
                if last_moved == Some(topic) {
                    return;
                }
                if self.even_out_topic(topic) || last_moved.is_none() {
                    last_moved = Some(topic);
                }
            }
        }
    }

    /// Whether a partition moved.
    fn even_out_topic(&mut self, topic: usize) -> bool {
        let topic = &mut self.topics[topic];
        let mut scale = Scale::new(&topic.subscribers, &self.sizes);
        if scale.difference(&self.sizes) <= 1 {
            return false;
        }
        // Each gives up its partitions from the last one on.
        let mut owned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (partition, owner) in topic.owners.iter().enumerate() {
            owned.entry(owner.unwrap_or(usize::MAX)).or_default().push(partition);
        }
        let mut has_moved = false;
        while !scale.is_even() {
            let Some((heaviest, partition)) = scale.take_from_heaviest(&self.sizes, &mut owned) else {
                break;
            };
            let lightest = scale.lightest(&self.sizes);
            if scale.is_even() {
                break;
            }
            topic.owners[partition] = Some(lightest);
            self.sizes[heaviest] -= 1;
            self.sizes[lightest] += 1;
            has_moved = true;
        }
        has_moved
    }
}

/// The subscribers of a topic by how much they have, with a run of the lightest at one end and of the heaviest at the other.
///
/// A run is gone through one partition a member, as if all its members had had the same level; when all have had their
/// turn the level moves by one, and takes in the next members that are just there.
struct Scale {
    members: Vec<usize>,
    lightest_end: usize,
    lightest_level: isize,
    lightest_next: usize,
    heaviest_start: usize,
    /// Before the end of all once members with nothing to give have been sorted out.
    heaviest_end: usize,
    heaviest_level: isize,
    /// One above the member whose turn is next.
    heaviest_next: usize,
}

impl Scale {
    fn new(subscribers: &[usize], sizes: &[usize]) -> Scale {
        let mut members = subscribers.to_vec();
        members.sort_by_key(|&member| (sizes[member], member));
        let level = |member: Option<&usize>| member.map_or(0, |&member| sizes[member] as isize);
        let count = members.len();
        Scale {
            lightest_end: 0,
            lightest_level: level(members.first()) - 1,
            lightest_next: 0,
            heaviest_start: count,
            heaviest_end: count,
            heaviest_level: level(members.last()) + 1,
            heaviest_next: count,
            members,
        }
    }

    fn difference(&self, sizes: &[usize]) -> usize {
        match (self.members.first(), self.members.last()) {
            (Some(&lightest), Some(&heaviest)) => sizes[heaviest] - sizes[lightest],
            _ => 0,
        }
    }

    fn is_even(&self) -> bool {
        self.heaviest_level - self.lightest_level <= 1
    }

    /// Who gets the next partition; counted as given.
    fn lightest(&mut self, sizes: &[usize]) -> usize {
        if self.lightest_next >= self.lightest_end {
            self.lightest_level += 1;
            let is_there = |member: Option<&usize>| {
                member.is_some_and(|&member| sizes[member] as isize == self.lightest_level)
            };
            while is_there(self.members.get(self.lightest_end)) {
                self.lightest_end += 1;
            }
            self.lightest_next = 0;
        }
        let member = self.members[self.lightest_next];
        self.lightest_next += 1;
        member
    }

    /// Who gives the next partition, and which; none if nobody has one to give.
    fn take_from_heaviest(
        &mut self,
        sizes: &[usize],
        owned: &mut BTreeMap<usize, Vec<usize>>,
    ) -> Option<(usize, usize)> {
        loop {
            let member = self.heaviest(sizes)?;
            if let Some(partition) = owned.get_mut(&member).and_then(Vec::pop) {
                return Some((member, partition));
            }
            // To the end of the run, and out of it.
            self.heaviest_end -= 1;
            self.members.swap(self.heaviest_next, self.heaviest_end);
        }
    }

    fn heaviest(&mut self, sizes: &[usize]) -> Option<usize> {
        if self.heaviest_next <= self.heaviest_start {
            let below = self.heaviest_start.checked_sub(1).map(|index| sizes[self.members[index]] as isize);
            self.heaviest_level = match below {
                // All of the run were sorted out: it starts anew where the next ones are.
                Some(below) if self.heaviest_end <= self.heaviest_start => below,
                _ => self.heaviest_level - 1,
            };
            while self.heaviest_start > 0
                && sizes[self.members[self.heaviest_start - 1]] as isize == self.heaviest_level
            {
                self.heaviest_start -= 1;
            }
            self.heaviest_next = self.heaviest_end;
        }
        self.heaviest_next = self.heaviest_next.checked_sub(1)?;
        Some(self.members[self.heaviest_next])
    }
}
