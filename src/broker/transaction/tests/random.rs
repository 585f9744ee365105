//! Any schedule keeps the invariants: whatever producers ask, in whatever order appends and markers come back or fail, and whenever the
//! coordinator is started anew, every transaction has one end on all of its partitions, and the log says what is known.

use proptest::prelude::*;

use super::*;

/// What happens next; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Init { id: u8, as_known: bool },
    Admit { client: u8, partition: u8, add: bool },
    Add { client: u8, partition: u8 },
    End { client: u8, version: bool, commit: bool },
    Append { ok: bool },
    Marks { failing: u8 },
    Pass { ms: u32 },
    Jump { ms: i32 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (any::<u8>(), any::<bool>()).prop_map(|(id, as_known)| Step::Init { id, as_known }),
        4 => (any::<u8>(), any::<u8>(), any::<bool>())
            .prop_map(|(client, partition, add)| Step::Admit { client, partition, add }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(client, partition)| Step::Add { client, partition }),
        3 => (any::<u8>(), any::<bool>(), any::<bool>())
            .prop_map(|(client, version, commit)| Step::End { client, version, commit }),
        8 => prop::bool::weighted(0.9).prop_map(|ok| Step::Append { ok }),
        6 => any::<u8>().prop_map(|failing| Step::Marks { failing }),
        2 => (0..100_000u32).prop_map(|ms| Step::Pass { ms }),
        1 => any::<i32>().prop_map(|ms| Step::Jump { ms }),
        1 => Just(Step::Restart),
    ]
}

const IDS: [&str; 3] = ["one", "two", "three"];
const TOPICS: [&str; 2] = ["a", "b"];

/// Producers with what each has heard, and what they have asked.
struct Clients {
    known: Vec<(usize, Producer)>,
    inits: BTreeMap<ReplyTo, usize>,
    asked_ends: BTreeMap<ReplyTo, (usize, i16)>,
    admissions: BTreeMap<AdmitTo, (Producer, TopicPartition)>,
    /// What each partition has open: by producer id, the epoch of the records.
    open: BTreeMap<(TopicPartition, i64), i16>,
    marks_seen: usize,
    /// The ends that were told, by producer id and epoch: no other may follow.
    ends: BTreeMap<(i64, i16), bool>,
}

impl Clients {
    fn pick(&self, number: u8) -> Option<(usize, Producer)> {
        self.known.get(usize::from(number) % self.known.len().max(1)).copied()
    }

    fn take(&mut self, world: &mut World, step: Step) {
        match step {
            Step::Init { id, as_known } => self.init(world, id, as_known),
            Step::Admit { client, partition, add } => {
                let Some((index, producer)) = self.pick(client) else { return };
                let at = (TOPICS[usize::from(partition) % 2], i32::from(partition) % 4);
                let to = world.ask_admission(IDS[index], producer, at, add);
                self.admissions.insert(to, (producer, (at.0.into(), at.1)));
            }
            Step::Add { client, partition } => {
                let Some((index, producer)) = self.pick(client) else { return };
                let at = (TOPICS[usize::from(partition) % 2], i32::from(partition) % 4);
                world.send(3, &World::add_request(IDS[index], producer, &[at]));
            }
            Step::End { client, version, commit } => {
                let Some((index, producer)) = self.pick(client) else { return };
                let version = if version { 5 } else { 4 };
                let to = world.send(version, &World::end_request(IDS[index], producer, commit));
                self.asked_ends.insert(to, (index, version));
            }
            Step::Append { ok } => {
                let result = if ok { Ok(()) } else { Err(ErrorCode::CoordinatorNotAvailable) };
                world.report_append(result);
            }
            Step::Marks { failing } => {
                let fails = |at: &TopicPartition| failing & (1 << (at.1 + i32::from(&*at.0 == "b") * 4)) != 0;
                world.report_marks(|at| if fails(at) { Err(ErrorCode::NotEnoughReplicas) } else { Ok(()) });
            }
            Step::Pass { ms } => world.pass(i64::from(ms)),
            Step::Jump { ms } => world.now.wall_ms += i64::from(ms) * 10,
            Step::Restart => {
                // They hear nothing; what they have asked may have happened.
                self.inits.clear();
                self.asked_ends.clear();
                self.admissions.clear();
                world.answers.clear();
                world.restart();
            }
        }
    }

    fn init(&mut self, world: &mut World, id: u8, as_known: bool) {
        let index = usize::from(id) % IDS.len();
        let producer = self.pick(id).filter(|(of, _)| as_known && *of == index);
        let producer = producer.map_or(Producer { id: -1, epoch: -1 }, |(_, producer)| producer);
        let request = InitProducerIdRequest {
            transactional_id: Some(IDS[index].into()),
            transaction_timeout_ms: TIMEOUT_MS,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            ..Default::default()
        };
        self.inits.insert(world.send(5, &request), index);
    }

    /// Appends that were admitted open a transaction, markers end it.
    fn look(&mut self, world: &mut World) {
        for (at, marker) in &world.written[self.marks_seen..] {
            if let Some(epoch) = self.open.remove(&(at.clone(), marker.producer_id)) {
                assert!(epoch <= marker.producer_epoch, "a marker below its records");
                // With an epoch a transaction all partitions are told the same.
                if marker.transaction_version >= 2 {
                    let end = self.ends.entry((marker.producer_id, marker.producer_epoch));
                    assert_eq!(*end.or_insert(marker.commit), marker.commit, "{marker:?}");
                }
            }
        }
        self.marks_seen = world.written.len();
        for (to, result) in std::mem::take(&mut world.admitted) {
            if let (Some((producer, at)), Ok(())) = (self.admissions.remove(&to), result) {
                // The append is made: the transaction is open on the partition.
                self.open.insert((at, producer.id), producer.epoch);
            }
        }
        for to in world.answers.keys().copied().collect::<Vec<_>>() {
            if let Some(index) = self.inits.remove(&to) {
                let answer = world.answer::<InitProducerIdRequest<'_>>(5, to);
                let producer = Producer { id: answer.producer_id, epoch: answer.producer_epoch };
                self.known.extend((answer.error_code == 0).then_some((index, producer)));
            } else if let Some((index, version)) = self.asked_ends.remove(&to) {
                let answer = world.answer::<EndTxnRequest<'_>>(version, to);
                let producer = Producer { id: answer.producer_id, epoch: answer.producer_epoch };
                self.known.extend((answer.error_code == 0 && version == 5).then_some((index, producer)));
            }
        }
    }
}

fn run(steps: Vec<Step>) {
    let mut world = World::new();
    world.prompt = false;
    let mut clients = Clients {
        known: Vec::new(),
        inits: BTreeMap::new(),
        asked_ends: BTreeMap::new(),
        admissions: BTreeMap::new(),
        open: BTreeMap::new(),
        marks_seen: 0,
        ends: BTreeMap::new(),
    };
    for step in steps {
        clients.take(&mut world, step);
        clients.look(&mut world);
    }
    settle(world, clients);
}

/// Everything is allowed to finish: then nothing is open anywhere, and the log says what is known.
fn settle(mut world: World, mut clients: Clients) {
    for _ in 0..20 {
        while world.step(Ok(())) {
            clients.look(&mut world);
        }
        world.pass(10_000);
        clients.look(&mut world);
    }
    for (id, metadata) in world.known() {
        assert!(metadata.state.may_expire(), "{id} hangs: {metadata:?}");
    }
    assert_eq!(clients.open, BTreeMap::new(), "transactions hang on partitions");
    assert_eq!(world.known(), world.replayed());
    assert_eq!(world.coordinator.stats().appends_pending, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule(steps in prop::collection::vec(step(), 1..200)) {
        run(steps);
    }
}
