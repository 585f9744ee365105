//! Against what Kafka's own assignors did (`golden.txt`, made by `tests/groups/kafka/Assignors.java`), and the rules that hold
//! for any group.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::broker::group::consumer::java_order::{hash_of_text, set_of};

#[derive(Clone, Debug)]
struct Topic {
    id: Uuid,
    count: i32,
}

#[derive(Clone, Debug, Default)]
struct Member {
    id: String,
    instance_id: Option<String>,
    names: Vec<String>,
    before: TopicPartitions,
    after: TopicPartitions,
}

#[derive(Clone, Debug, Default)]
struct Group {
    assignor: String,
    homogeneous: bool,
    topics: BTreeMap<String, Topic>,
    members: Vec<Member>,
}

impl Group {
    fn assign(&self) -> Vec<TopicPartitions> {
        let spec = |member: &'_ Member| {
            let names = set_of(member.names.clone(), member.names.len(), |name| hash_of_text(name));
            let topics = names.iter().filter_map(|name| Some(self.topics.get(name)?.id)).collect();
            (topics, names.len())
        };
        let members = self.members.iter().map(|member| {
            let (topics, names) = spec(member);
            let (id, instance_id) = (member.id.as_str(), member.instance_id.as_deref());
            MemberSpec { id, instance_id, topics, names, target: Some(&member.before) }
        });
        let count = |id| self.topics.values().find(|topic| topic.id == id).map(|topic| topic.count);
        let group =
            GroupSpec { members: members.collect(), homogeneous: self.homogeneous, partition_count: &count };
        assign(&self.assignor, &group).unwrap()
    }

    /// Whoever is subscribed, and nobody else, has the partitions, each once.
    fn check(&self, assignment: &[TopicPartitions]) {
        for (name, topic) in &self.topics {
            let mut owners = vec![0; topic.count as usize];
            for (member, partitions) in self.members.iter().zip(assignment) {
                let partitions = partitions.get(&topic.id).into_iter().flatten();
                for &partition in partitions {
                    assert!(member.names.contains(name));
                    owners[partition as usize] += 1;
                }
            }
            let wanted = i32::from(self.members.iter().any(|member| member.names.contains(name)));
            assert!(owners.iter().all(|&owners| owners == wanted), "{name}: {owners:?}");
        }
        assert!(assignment.iter().all(|partitions| partitions.values().all(|indexes| !indexes.is_empty())));
    }
}

fn partitions(text: &str, topics: &BTreeMap<String, Topic>) -> TopicPartitions {
    let of_topic = |part: &str| {
        let (name, indexes) = part.split_once(':').unwrap();
        (topics[name].id, indexes.split('.').map(|index| index.parse().unwrap()).collect())
    };
    text.split(';').filter(|part| *part != "-").map(of_topic).collect()
}

fn golden() -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for line in include_str!("golden.txt").lines() {
        match *line.split(' ').collect::<Vec<_>>() {
            ["group", assignor, kind] => {
                let (assignor, homogeneous) = (assignor.to_string(), kind == "homogeneous");
                groups.push(Group { assignor, homogeneous, ..Group::default() });
            }
            ["topic", name, id, count] => {
                let topic = Topic { id: id.parse().unwrap(), count: count.parse().unwrap() };
                groups.last_mut().unwrap().topics.insert(name.into(), topic);
            }
            ["member", id, instance, names, before, after] => {
                let group = groups.last_mut().unwrap();
                let names = names.split(',').filter(|name| *name != "-").map(str::to_string);
                group.members.push(Member {
                    id: id.into(),
                    instance_id: Some(instance).filter(|text| *text != "-").map(str::to_string),
                    names: names.collect(),
                    before: partitions(before, &group.topics),
                    after: partitions(after, &group.topics),
                });
            }
            _ => panic!("{line}"),
        }
    }
    groups
}

#[test]
fn as_kafka_assigns() {
    let groups = golden();
    assert!(groups.len() > 200);
    for (number, group) in groups.iter().enumerate() {
        let assignment = group.assign();
        group.check(&assignment);
        for (member, assigned) in group.members.iter().zip(&assignment) {
            let kind = if group.homogeneous { "homogeneous" } else { "heterogeneous" };
            assert_eq!(*assigned, member.after, "group {number}, {} {kind}, {}", group.assignor, member.id);
        }
    }
}

fn topic_names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set(0..6u8, 0..6)
        .prop_map(|set| set.into_iter().map(|topic| topic.to_string()).collect())
}

fn group() -> impl Strategy<Value = Group> {
    let member = (any::<u32>(), prop::option::weighted(0.2, any::<u16>()), topic_names());
    (prop::collection::vec(1..30i32, 6), prop::collection::vec(member, 1..12), any::<bool>(), 0..2usize)
        .prop_map(|(counts, members, homogeneous, assignor)| {
            let topics = (0u8..).zip(counts).map(|(topic, count)| {
                (topic.to_string(), Topic { id: Uuid([topic.wrapping_mul(77) + 1; 16]), count })
            });
            let common = members[0].2.clone();
            let members = members.into_iter().enumerate().map(|(index, (id, instance, names))| Member {
                id: format!("{id}-{index}"),
                instance_id: instance.map(|instance| format!("{instance}-{index}")),
                names: if homogeneous { common.clone() } else { names },
                ..Member::default()
            });
            Group {
                assignor: ASSIGNORS[assignor].into(),
                homogeneous,
                topics: topics.collect(),
                members: members.collect(),
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Over a life of the group: members come, go and change, topics grow.
    #[test]
    fn every_partition_has_one_owner(mut group in group(), steps in prop::collection::vec((0..4u8, any::<u8>()), 1..6)) {
        for (step, which) in steps {
            let assignment = group.assign();
            group.check(&assignment);
            if group.homogeneous && group.assignor == UNIFORM {
                let sizes = assignment.iter().map(|all| all.values().map(|set| set.len()).sum::<usize>());
                let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
                prop_assert!(most - least <= 1);
            }
            for (member, partitions) in group.members.iter_mut().zip(assignment.iter()) {
                member.before = partitions.clone();
            }
            // Nothing has changed: nothing moves.
            if group.homogeneous || group.assignor == RANGE {
                prop_assert_eq!(&group.assign(), &assignment);
            }
            let index = usize::from(which) % group.members.len();
            match step {
                0 if group.members.len() > 1 => drop(group.members.remove(index)),
                1 => {
                    let names = group.members[index].names.clone();
                    group.members.push(Member { id: format!("new {which}"), names, ..Member::default() });
                }
                2 => group.topics.values_mut().for_each(|topic| topic.count += i32::from(which % 3)),
                _ if !group.homogeneous => drop(group.members[index].names.pop()),
                _ => group.members.iter_mut().for_each(|member| drop(member.names.pop())),
            }
        }
    }
}
