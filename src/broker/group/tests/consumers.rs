//! Random schedules of consumer groups: members of both protocols that come, go, fall silent, subscribe anew and restart;
//! topics that grow; appends that are late or fail; a broker that restarts. After every step no partition has two owners and
//! all that is counted is right; at the end the log rebuilds what was live.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::broker::group::consumer::group::GroupState;
use crate::broker::group::timers::TimerKey;
use crate::protocol::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions,
};
use crate::protocol::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;

const GROUP: &str = "g";
const CLIENTS: usize = 5;
/// Clients from this one on have an instance id; two share one.
const STATIC: usize = 3;
const TOPICS: [&str; 3] = ["orders", "payments", "audit"];

#[derive(Clone, Debug)]
enum Step {
    Join(usize),
    /// Owns what it was told, and says so.
    Beat(usize),
    /// Says all there is to say.
    Full(usize),
    Subscribe(usize, u8),
    Pattern(usize, u8),
    Leave(usize),
    /// The process starts anew, under another id.
    Forget(usize),
    Commit(usize),
    /// A join of the classic protocol.
    Classic(usize),
    ClassicSync(usize),
    ClassicLeave(usize),
    Pass(i64),
    Grow,
    Report,
    /// The log takes nothing any more: all that is under way is lost.
    Fail,
    /// It would not take the newest.
    Refuse,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        6 => client.clone().prop_map(Step::Join),
        12 => client.clone().prop_map(Step::Beat),
        2 => client.clone().prop_map(Step::Full),
        2 => (client.clone(), any::<u8>()).prop_map(|(client, topics)| Step::Subscribe(client, topics)),
        1 => (client.clone(), any::<u8>()).prop_map(|(client, which)| Step::Pattern(client, which)),
        1 => client.clone().prop_map(Step::Leave),
        1 => client.clone().prop_map(Step::Forget),
        1 => client.clone().prop_map(Step::Commit),
        2 => client.clone().prop_map(Step::Classic),
        1 => client.clone().prop_map(Step::ClassicSync),
        1 => client.prop_map(Step::ClassicLeave),
        5 => (0i64..20_000).prop_map(Step::Pass),
        1 => Just(Step::Grow),
        8 => Just(Step::Report),
        1 => Just(Step::Fail),
        1 => Just(Step::Refuse),
        1 => Just(Step::Restart),
    ]
}

type Owned = BTreeSet<(Uuid, i32)>;

#[derive(Clone, Debug)]
struct Client {
    id: String,
    /// How often it has started.
    starts: usize,
    epoch: i32,
    topics: Vec<&'static str>,
    regex: Option<&'static str>,
    assigned: Owned,
    owned: Owned,
    waiting: Option<Ticket>,
    classic: Member,
}

struct Run {
    world: World,
    clients: Vec<Client>,
}

impl Run {
    fn new() -> Self {
        let clients = (0..CLIENTS).map(|index| Client {
            id: format!("{index}-0"),
            starts: 0,
            epoch: 0,
            topics: vec!["orders"],
            regex: None,
            assigned: Owned::new(),
            owned: Owned::new(),
            waiting: None,
            classic: Member {
                protocols: vec![("range", subscription(&["orders"]))],
                ..match index {
                    index if index >= STATIC => Member::fixed(GROUP, "one"),
                    _ => Member::new(GROUP),
                }
            },
        });
        let mut world = World::with(GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() });
        world.prompt = false;
        Run { clients: clients.collect(), world }
    }

    fn request(&self, client: usize, epoch: i32, full: bool) -> ConsumerGroupHeartbeatRequest<'static> {
        let me = &self.clients[client];
        let mut owned: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        me.owned.iter().for_each(|(topic, index)| owned.entry(*topic).or_default().push(*index));
        let owned = owned
            .into_iter()
            .map(|(topic_id, partitions)| TopicPartitions { topic_id, partitions: partitions.into() });
        let mut request = ConsumerGroupHeartbeatRequest {
            group_id: GROUP.into(),
            member_id: me.id.clone().into(),
            member_epoch: epoch,
            instance_id: (client >= STATIC).then(|| "one".into()),
            topic_partitions: Some(owned.collect()),
            ..ConsumerGroupHeartbeatRequest::default()
        };
        if full {
            request.rebalance_timeout_ms = 25_000;
            request.subscribed_topic_names = Some(me.topics.iter().map(|topic| (*topic).into()).collect());
            request.subscribed_topic_regex = me.regex.map(Into::into);
        }
        request
    }

    fn beat(&mut self, client: usize, epoch: i32, full: bool) {
        let request = self.request(client, epoch, full);
        self.clients[client].waiting = Some(self.world.send(&request, 1));
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Join(client) => {
                self.clients[client].owned.clear();
                self.beat(client, 0, true);
            }
            Step::Beat(client) => {
                // A real client gives up first, and only then takes what is new.
                self.clients[client].owned = self.clients[client].assigned.clone();
                self.beat(client, self.clients[client].epoch, false);
            }
            Step::Full(client) => self.beat(client, self.clients[client].epoch, true),
            Step::Subscribe(client, topics) => {
                let chosen = TOPICS.iter().enumerate().filter(|(bit, _)| topics >> bit & 1 == 1);
                self.clients[client].topics = chosen.map(|(_, topic)| *topic).collect();
            }
            Step::Pattern(client, which) => {
                self.clients[client].regex =
                    [None, Some(""), Some("pay.*"), Some("o.*|a.*"), Some("(")][usize::from(which) % 5];
            }
            Step::Leave(client) => {
                let epoch = if client >= STATIC { -2 } else { -1 };
                self.beat(client, epoch, false);
                self.clients[client].owned.clear();
            }
            Step::Forget(client) => {
                let me = &mut self.clients[client];
                me.starts += 1;
                me.id = format!("{client}-{}", me.starts);
                (me.epoch, me.owned, me.assigned) = (0, Owned::new(), Owned::new());
                me.classic.id.clear();
            }
            Step::Commit(client) => {
                let mut member = self.clients[client].classic.clone();
                member.id.clone_from(&self.clients[client].id);
                member.generation = self.clients[client].epoch;
                self.world.commit_as(&member, &[("orders", 0, 1)]);
            }
            Step::Classic(client) | Step::ClassicSync(client) | Step::ClassicLeave(client) => {
                self.take_classic(step, client);
            }
            Step::Pass(ms) => self.world.pass(ms),
            Step::Grow => self.world.topics.1 += 1,
            Step::Report => self.world.report(),
            Step::Fail => {
                while !self.world.appends.is_empty() {
                    self.world.fail(ErrorCode::KafkaStorageError);
                }
            }
            Step::Refuse => self.world.refuse(ErrorCode::CoordinatorNotAvailable),
            Step::Restart => self.restart(),
        }
        self.hear();
    }

    fn take_classic(&mut self, step: &Step, client: usize) {
        match step {
            Step::Classic(_) => {
                let ticket = self.world.join(&self.clients[client].classic);
                self.hear_classic(client, ticket);
            }
            Step::ClassicSync(_) => {
                let member = self.clients[client].classic.clone();
                self.world.sync(&member, &[(&member, "")]);
            }
            _ => {
                let identity = MemberIdentity {
                    member_id: self.clients[client].classic.id.clone().into(),
                    ..MemberIdentity::default()
                };
                let request = LeaveGroupRequest {
                    group_id: GROUP.into(),
                    members: [identity].into(),
                    ..LeaveGroupRequest::default()
                };
                self.world.send(&request, 5);
            }
        }
    }

    fn restart(&mut self) {
        self.world.restart();
        self.clients.iter_mut().for_each(|client| client.waiting = None);
    }

    fn hear_classic(&mut self, client: usize, ticket: Ticket) {
        if self.world.is_waiting(ticket) {
            return;
        }
        let response: JoinGroupResponse<'_> = self.world.answer(ticket);
        let member = &mut self.clients[client].classic;
        match ErrorCode::from_code(response.error_code) {
            Some(ErrorCode::None) => {
                member.id = response.member_id.into_owned();
                member.generation = response.generation_id;
            }
            Some(ErrorCode::MemberIdRequired) => member.id = response.member_id.into_owned(),
            _ => member.id.clear(),
        }
    }

    fn hear(&mut self) {
        for index in 0..CLIENTS {
            let Some(ticket) = self.clients[index].waiting.filter(|ticket| !self.world.is_waiting(*ticket))
            else {
                continue;
            };
            self.clients[index].waiting = None;
            let response: ConsumerGroupHeartbeatResponse<'_> = self.world.answer(ticket);
            let client = &mut self.clients[index];
            match ErrorCode::from_code(response.error_code) {
                Some(ErrorCode::None) => {
                    client.epoch = response.member_epoch.max(0);
                    if let Some(assignment) = response.assignment {
                        let topics = assignment.topic_partitions.iter();
                        let pairs = topics.flat_map(|topic| {
                            let id = topic.topic_id;
                            topic.partitions.to_vec().into_iter().map(move |partition| (id, partition))
                        });
                        client.assigned = pairs.collect();
                    }
                }
                Some(ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId) => {
                    (client.epoch, client.owned, client.assigned) = (0, Owned::new(), Owned::new());
                }
                _ => {}
            }
        }
    }

    fn check(&self) {
        let partition = self.world.coordinator.active(GROUP).unwrap();
        let Some(group) = partition.groups.get(GROUP) else {
            assert_eq!(self.world.coordinator.stats().bytes, 0);
            return;
        };
        assert_eq!(group.accounted, group.bytes());
        assert_eq!(self.world.coordinator.stats().bytes, group.accounted);
        let Some(consumer) = &group.consumer else {
            group.classic.check_counts();
            return;
        };
        consumer.check_counts();
        let index = partition_for(GROUP, PARTITIONS);
        for member in consumer.members() {
            let (group, member) = (group.id.clone(), member.id.clone());
            let session = TimerKey::Heartbeat { partition: index, group, member };
            assert!(self.world.coordinator.has_timer(&session), "a session has an end");
        }
    }

    fn picture(&self) -> Option<String> {
        let group = self.world.coordinator.active(GROUP).unwrap().groups.get(GROUP)?;
        let consumer = group.consumer.as_ref()?;
        Some(consumer.picture())
    }
}

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
    if live.is_some() {
        assert_eq!(live, run.picture());
    }
    // Whoever is heard of again comes to what it is to have.
    run.world.prompt = true;
    run.world.pass(600_000);
    run.check();
    assert_eq!(run.world.coordinator.stats().members, 0, "everybody has fallen silent");
    settle(&mut run);
}

/// Members of the newer protocol alone agree, and have everything they are subscribed to.
fn settle(run: &mut Run) {
    let dynamic = 0..STATIC;
    for client in dynamic.clone() {
        run.clients[client].topics = vec!["orders", "payments"];
        run.clients[client].regex = Some("");
        run.take(&Step::Forget(client));
        run.take(&Step::Join(client));
    }
    for _ in 0..12 {
        run.world.pass(1_000);
        dynamic.clone().for_each(|client| run.take(&Step::Beat(client)));
        run.check();
    }
    let group = &run.world.coordinator.active(GROUP).unwrap().groups[GROUP];
    assert_eq!(group.consumer.as_ref().map(|consumer| consumer.state()), Some(GroupState::Stable));
    let all: usize = dynamic.clone().map(|client| run.clients[client].owned.len()).sum();
    let union: Owned = dynamic.flat_map(|client| run.clients[client].owned.clone()).collect();
    assert_eq!((all, union.len()), (2 * run.world.topics.1 as usize, all));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule(steps in prop::collection::vec(step(), 1..200)) {
        play(&steps);
    }
}

/// As a real client does that is told of it at once.
fn beats(run: &mut Run, clients: std::ops::Range<usize>) {
    for _ in 0..12 {
        run.world.pass(1_000);
        clients.clone().for_each(|client| run.take(&Step::Beat(client)));
        run.check();
    }
}

#[test]
fn a_clock_that_is_set_back_holds_up_no_target() {
    let mut run = Run::new();
    run.world.prompt = true;
    run.take(&Step::Join(0));
    beats(&mut run, 0..1);
    assert_eq!(run.clients[0].owned.len(), 10);
    run.world.now.wall_ms -= 3_600_000;
    run.take(&Step::Join(1));
    beats(&mut run, 0..2);
    assert_eq!((run.clients[0].owned.len(), run.clients[1].owned.len()), (5, 5));
}

#[test]
fn a_clock_that_is_set_back_hides_no_topic_from_a_pattern() {
    let mut run = Run::new();
    run.world.prompt = true;
    (run.clients[0].topics, run.clients[0].regex) = (Vec::new(), Some("o.*|a.*"));
    run.take(&Step::Join(0));
    beats(&mut run, 0..1);
    assert_eq!(run.clients[0].owned.len(), 20);
    run.world.now.wall_ms -= 3_600_000;
    run.world.topics.0.push(("another", Uuid([4; 16])));
    run.world.topics.2 = 11;
    beats(&mut run, 0..1);
    assert_eq!(run.clients[0].owned.len(), 30);
}
