//! Random schedules: clients that come, go, fall silent, retry and restart, time that passes, appends that are late or
//! fail, and a broker that restarts. After every step the group is whole; at the end the log rebuilds it.

use proptest::prelude::*;

use super::*;
use crate::broker::group::classic::State;
use crate::broker::group::timers::TimerKey;

#[derive(Clone, Debug)]
enum Step {
    Join(usize),
    /// Under other metadata, with another protocol first.
    JoinChanged(usize),
    Sync(usize),
    Heartbeat(usize),
    Leave(usize),
    /// The client's process starts anew: it knows no member id.
    Forget(usize),
    Commit(usize),
    /// Group, producer, partition.
    CommitIn(usize, i64, i32),
    End(usize, i64, bool),
    Pass(i64),
    Report,
    Fail,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        8 => client.clone().prop_map(Step::Join),
        1 => client.clone().prop_map(Step::JoinChanged),
        8 => client.clone().prop_map(Step::Sync),
        3 => client.clone().prop_map(Step::Heartbeat),
        1 => client.clone().prop_map(Step::Leave),
        1 => client.clone().prop_map(Step::Forget),
        3 => client.prop_map(Step::Commit),
        3 => (0usize..2, 1i64..4, 0i32..3).prop_map(|(group, producer, index)| {
            Step::CommitIn(group, producer, index)
        }),
        2 => (0usize..2, 1i64..4, any::<bool>()).prop_map(|(group, producer, commit)| {
            Step::End(group, producer, commit)
        }),
        4 => (0i64..12_000).prop_map(Step::Pass),
        6 => Just(Step::Report),
        1 => Just(Step::Fail),
        1 => Just(Step::Restart),
    ]
}

const CLIENTS: usize = 6;
/// Of members by dynamic id only, and of static and dynamic ones.
const GROUPS: [&str; 2] = ["dynamic", "mixed"];

struct Run {
    world: World,
    clients: Vec<Member>,
    joins: Vec<Option<(Ticket, i64)>>,
    syncs: Vec<Option<(Ticket, i64)>>,
    commits: Vec<(Ticket, usize, i64)>,
    /// The highest commit that was answered, by group.
    committed: [i64; 2],
    next_offset: i64,
    /// Leader and protocol of every generation of the dynamic group that somebody heard of, since the last restart.
    generations: BTreeMap<i32, (String, String)>,
    generation_before: [i32; 2],
    has_failed: bool,
}

impl Run {
    fn new() -> Self {
        let mut clients: Vec<_> = (0..3).map(|_| Member::new(GROUPS[0])).collect();
        clients.push(Member::fixed(GROUPS[1], "one"));
        clients.push(Member::fixed(GROUPS[1], "two"));
        clients.push(Member::new(GROUPS[1]));
        for (index, client) in clients.iter_mut().enumerate() {
            client.protocols =
                vec![("sticky", subscription(&["orders"])), ("range", subscription(&["orders"]))];
            client.rebalance_ms = REBALANCE_MS - 1_000 * index as i32;
        }
        let mut world =
            World::with(GroupConfig { initial_rebalance_delay_ms: 3_000, ..GroupConfig::default() });
        world.prompt = false;
        Run {
            world,
            clients,
            joins: vec![None; CLIENTS],
            syncs: vec![None; CLIENTS],
            commits: Vec::new(),
            committed: [-1; 2],
            next_offset: 0,
            generations: BTreeMap::new(),
            generation_before: [0; 2],
            has_failed: false,
        }
    }

    fn take(&mut self, step: &Step) {
        let now = self.world.now.monotonic_ms;
        match *step {
            Step::Join(client) => self.joins[client] = Some((self.world.join(&self.clients[client]), now)),
            Step::JoinChanged(client) => {
                self.clients[client].protocols.reverse();
                self.joins[client] = Some((self.world.join(&self.clients[client]), now));
            }
            Step::Sync(client) => {
                let all = self.clients.clone();
                let group = self.clients[client].group;
                let own: Vec<_> =
                    all.iter().filter(|member| member.group == group).map(|m| (m, m.id.as_str())).collect();
                let mut member = self.clients[client].clone();
                let known = self.world.coordinator.active(group).ok().and_then(|p| p.groups.get(group));
                if let Some(protocol) = known.and_then(|group| group.classic.protocol.clone()) {
                    member.protocols[0].0 = protocol.to_string().leak();
                }
                self.syncs[client] = Some((self.world.sync(&member, &own), now));
            }
            Step::Heartbeat(client) => drop(self.world.heartbeat(&self.clients[client])),
            Step::Leave(client) => {
                let identity = MemberIdentity {
                    member_id: self.clients[client].id.clone().into(),
                    ..Default::default()
                };
                let request = LeaveGroupRequest {
                    group_id: self.clients[client].group.into(),
                    members: [identity].into(),
                    ..LeaveGroupRequest::default()
                };
                self.world.send(&request, 5);
            }
            Step::Forget(client) => self.clients[client].id.clear(),
            Step::Commit(client) => {
                self.next_offset += 1;
                let offset = self.next_offset;
                let ticket = self.world.commit_as(&self.clients[client], &[("orders", 0, offset)]);
                self.commits.push((ticket, client, offset));
            }
            Step::CommitIn(group, producer, index) => {
                self.next_offset += 1;
                let offsets = [("orders", index, self.next_offset)];
                self.world.commit_in(producer, &Member::new(GROUPS[group]), &offsets);
            }
            Step::End(group, producer, commit) => drop(self.world.end(producer, GROUPS[group], commit)),
            Step::Pass(ms) => self.world.pass(ms),
            Step::Report => self.world.report(),
            Step::Fail => {
                self.has_failed |= !self.world.appends.is_empty();
                self.world.fail(ErrorCode::KafkaStorageError);
            }
            Step::Restart => self.restart(),
        }
        self.hear();
    }

    fn restart(&mut self) {
        self.world.restart();
        self.joins = vec![None; CLIENTS];
        self.syncs = vec![None; CLIENTS];
        self.commits.clear();
        self.generations.clear();
        self.generation_before = [0; 2];
        for (index, group) in GROUPS.iter().enumerate() {
            let offsets = self.world.fetch(group);
            let found = offsets.first().map_or(-1, |(_, _, offset)| *offset);
            assert!(
                found >= self.committed[index],
                "{group}: {found} after {} was answered",
                self.committed[index]
            );
        }
    }

    /// Clients learn what has been answered.
    fn hear(&mut self) {
        for (client, member) in self.clients.iter_mut().enumerate() {
            let Some((ticket, _)) = self.joins[client].filter(|(ticket, _)| !self.world.is_waiting(*ticket))
            else {
                continue;
            };
            self.joins[client] = None;
            let response: JoinGroupResponse<'_> = self.world.answer(ticket);
            match ErrorCode::from_code(response.error_code) {
                Some(ErrorCode::None) => {
                    member.id = response.member_id.to_string();
                    member.generation = response.generation_id;
                    if member.group == GROUPS[0] {
                        let agreed =
                            (response.leader.into_owned(), response.protocol_name.unwrap().into_owned());
                        let known = self.generations.entry(response.generation_id).or_insert(agreed.clone());
                        assert_eq!(*known, agreed, "two leaders or protocols in one generation");
                    }
                }
                Some(ErrorCode::MemberIdRequired) => member.id = response.member_id.into_owned(),
                Some(ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId) => member.id.clear(),
                _ => {}
            }
        }
        for sync in &mut self.syncs {
            *sync = sync.filter(|(ticket, _)| self.world.is_waiting(*ticket));
        }
        let world = &mut self.world;
        let committed = &mut self.committed;
        let clients = &self.clients;
        self.commits.retain(|(ticket, client, offset)| {
            if world.is_waiting(*ticket) {
                return true;
            }
            if world.committed(*ticket) == [0] {
                let group = usize::from(clients[*client].group == GROUPS[1]);
                committed[group] = *offset;
            }
            false
        });
    }

    fn check(&mut self) {
        let mut usage = 0;
        for (index, id) in GROUPS.iter().enumerate() {
            let partition = self.world.coordinator.active(id).unwrap();
            let Some(group) = partition.groups.get(*id) else { continue };
            group.classic.check_counts();
            assert_eq!(group.accounted, group.bytes());
            usage += group.accounted;
            self.check_group(partition_for(id, PARTITIONS), group);
            let generation = group.classic.generation;
            assert!(generation >= self.generation_before[index], "the generation of {id} fell");
            self.generation_before[index] = generation;
        }
        assert_eq!(self.world.coordinator.stats().bytes, usage);
        self.check_waits();
    }

    fn check_group(&self, partition: i32, group: &super::super::entry::Group) {
        let classic = &group.classic;
        let has_timer = |key: &TimerKey| self.world.coordinator.has_timer(key);
        let has_leader = classic.leader.as_deref().is_some_and(|leader| classic.has_member(leader));
        assert_eq!(has_leader, classic.members().len() > 0, "a leader, and it is a member");
        match classic.state() {
            State::Empty => assert_eq!(classic.members().len(), 0),
            State::PreparingRebalance => {
                assert!(
                    has_timer(&TimerKey::Join { partition, group: group.id.clone() }),
                    "the join phase has an end"
                );
                assert!(classic.pending_sync.is_empty());
            }
            State::CompletingRebalance | State::Stable => {
                let protocol = classic.protocol.as_deref().unwrap();
                assert!(
                    classic.members().all(|member| member.metadata(protocol).is_some()),
                    "all know the protocol"
                );
                let has_end = has_timer(&TimerKey::Sync { partition, group: group.id.clone() });
                assert!(has_end || classic.pending_sync.is_empty(), "the sync phase has an end");
            }
            State::Dead => unreachable!("nobody deletes"),
        }
        for member in classic.members() {
            let (group, id) = (group.id.clone(), member.id.clone());
            let is_watched = has_timer(&TimerKey::Heartbeat { partition, group, member: id });
            assert!(is_watched || member.awaiting_join.is_some() || member.awaiting_sync.is_some());
            let joins = matches!(classic.state(), State::PreparingRebalance)
                || classic.is(State::Stable) && member.is_static();
            assert!(member.awaiting_join.is_none() || joins);
            assert!(member.awaiting_sync.is_none() || classic.is(State::CompletingRebalance));
        }
        for id in classic.pending_join() {
            let (group, member) = (group.id.clone(), id.clone());
            assert!(has_timer(&TimerKey::Heartbeat { partition, group, member }));
        }
    }

    /// Nobody waits for other clients longer than the longest timeout any of them asked for.
    fn check_waits(&self) {
        if !self.world.appends.is_empty() {
            return; // Somebody may wait for the log.
        }
        for (_, since) in self.joins.iter().chain(&self.syncs).flatten() {
            let waited = self.world.now.monotonic_ms - since;
            assert!(waited <= i64::from(REBALANCE_MS), "somebody has waited for {waited} ms");
        }
    }

    /// What a restart has to keep: of every group its offsets, and, if it is settled, itself.
    fn picture(&self) -> Vec<(String, Option<String>)> {
        GROUPS.iter().map(|id| self.picture_group(id)).collect()
    }

    fn picture_group(&self, id: &str) -> (String, Option<String>) {
        let Some(group) = self.world.coordinator.active(id).unwrap().groups.get(id) else {
            return (format!("{:?}", super::super::offsets::Offsets::default()), None);
        };
        let offsets = format!("{:?}", group.offsets);
        let classic = &group.classic;
        if self.has_failed || !matches!(classic.state(), State::Stable | State::Empty) {
            return (offsets, None);
        }
        let since = classic.state_timestamp_ms.filter(|_| classic.is(State::Empty) && classic.generation > 0);
        let agreed = (classic.generation, &classic.protocol_type, &classic.protocol, &classic.leader);
        let mut picture = format!("{:?} {since:?} {agreed:?}", classic.state());
        for member in classic.members() {
            let protocol = classic.protocol.as_deref().unwrap();
            let said = (member.metadata(protocol), &member.assignment, member.session_timeout_ms);
            picture += &format!(" {} {:?} {said:?}", member.id, member.instance_id);
        }
        (offsets, Some(picture))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule(steps in prop::collection::vec(step(), 1..160)) {
        play(&steps);
    }
}

/// The leader synced twice before its first assignment was written: the log ended with the second.
#[test]
fn the_leader_decides_once() {
    use Step::{Forget, Join, Pass, Sync};
    play(&[Join(4), Join(0), Join(5), Join(5), Pass(6000), Sync(4), Forget(5), Sync(4)]);
}

/// Whatever happens, the rules hold after each step, and a restart rebuilds what was live.
fn play(steps: &[Step]) {
    let mut run = Run::new();
    for step in steps {
        run.take(step);
        run.check();
    }
    while !run.world.appends.is_empty() {
        run.world.report();
        run.hear();
        run.check();
    }
    let live = run.picture();
    run.restart();
    run.check();
    for (live, rebuilt) in live.into_iter().zip(run.picture()) {
        assert_eq!(live.0, rebuilt.0);
        if live.1.is_some() {
            assert_eq!(live.1, rebuilt.1);
        }
    }
    // Everybody goes silent: the groups empty themselves.
    run.world.prompt = true;
    run.world.pass(600_000);
    assert_eq!(run.world.coordinator.stats().members, 0);
    run.check();
}
