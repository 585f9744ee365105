//! SIGKILL in every phase of a transaction.
//!
//! A round: a producer brings a transaction to a phase, the broker is killed, and what it had written is read off its
//! journals: that alone decides how the transaction may end. The broker starts again; the producer goes on, or
//! another one takes its id, or nobody comes and the transaction's time runs out. Then readers of committed data see exactly
//! what was committed, each record once, the group's offset is that of the last commit, and nothing is left open.
//!
//! The phases behind the decision are reached by a kill at some moment after EndTxn was sent; which one it was, the
//! journals say. `TRANSACTION_KILLS` is how many rounds there are, `TRANSACTION_SEED` decides what they do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ringlog::load::payload::Random;
use ringlog::protocol::{ErrorCode, Uuid};

use super::broker::Broker;
use super::client::{Client, until};
use super::journal::{Found, State, Wanted, look};
use super::producer::{Producer, Version, codes};

const ROUNDS_DEFAULT: u32 = 20;
const PARTITIONS: i32 = 24;
const RECORDS: usize = 3;
const TOPIC: &str = "data";
const GROUP: &str = "readers";
const TRANSACTIONS: &str = "__transaction_state";
/// Of transactions that nobody ends.
const SHORT_MS: i32 = 1_000;
const LONG_MS: i32 = 600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The producer has its id and epoch.
    Begun,
    /// Partitions are in the transaction; of today's clients: the first append is under way.
    Added,
    /// Data and offsets are acknowledged.
    Written,
    /// The end is asked for.
    Ending,
    /// The end is acknowledged.
    Ended,
}

/// Who comes after the kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    TheSame,
    Another,
    Nobody,
}

const PHASES: [Phase; 5] = [Phase::Begun, Phase::Added, Phase::Written, Phase::Ending, Phase::Ended];
const NEXTS: [Next; 3] = [Next::TheSame, Next::Another, Next::Nobody];

#[test]
fn a_kill_in_any_phase_loses_and_doubles_nothing() {
    let rounds = std::env::var("TRANSACTION_KILLS").ok().and_then(|rounds| rounds.parse().ok());
    let seed = std::env::var("TRANSACTION_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path(), seed);
    let rounds = rounds.unwrap_or(ROUNDS_DEFAULT);
    let mut round = 0;
    // Chance may want some more to have come to every moment.
    while round < rounds || round < 10 * rounds && world.seen.values().any(|seen| *seen == 0) {
        world.round(round);
        round += 1;
    }
    println!("{:#?}", world.seen);
    for (what, seen) in &world.seen {
        assert!(*seen > 0, "no kill came when {what}");
    }
}

struct World<'d> {
    data: &'d Path,
    /// There but for moments.
    broker: Option<Broker>,
    topics: (Uuid, Uuid),
    random: Random,
    /// Of every committed transaction, by partition, in order.
    committed: BTreeMap<i32, Vec<String>>,
    offset: i64,
    /// How long the end of a transaction takes here.
    end_ns: u64,
    seen: BTreeMap<&'static str, u32>,
}

fn start(data: &Path) -> Broker {
    let settings = [
        "transaction.abort.timed.out.transaction.cleanup.interval.ms=100",
        "transaction.state.log.num.partitions=3",
        "offsets.topic.num.partitions=2",
        "group.initial.rebalance.delay.ms=0",
    ];
    Broker::start(data, &settings)
}

impl<'d> World<'d> {
    fn new(data: &'d Path, seed: u64) -> World<'d> {
        let broker = start(data);
        broker.run(&["topic", "create", TOPIC, "--partitions", &PARTITIONS.to_string()]);
        let mut client = Client::connect(&broker.address);
        Producer::new("first", Version::Two).init(&mut client, LONG_MS);
        let topics = (client.topic_id(TRANSACTIONS), client.topic_id(TOPIC));
        let whats = [
            "nothing is written",
            "it is open",
            "its end is decided, and no partition knows",
            "some partitions know its end",
            "all partitions know its end",
            "it is complete",
        ];
        World {
            data,
            broker: Some(broker),
            topics,
            random: Random::new(seed),
            committed: BTreeMap::new(),
            offset: -1,
            end_ns: 2_000_000,
            seen: whats.into_iter().map(|what| (what, 0)).collect(),
        }
    }

    fn connect(&self) -> Client {
        Client::connect(&self.broker.as_ref().unwrap().address)
    }

    fn round(&mut self, round: u32) {
        let version = if self.random.below(2) == 0 { Version::One } else { Version::Two };
        // The first rounds go through the phases; behind them most are spent where chance decides.
        let phase = match PHASES.get(round as usize) {
            Some(phase) => *phase,
            None if self.random.below(3) > 0 => Phase::Ending,
            None => PHASES[self.random.below(5) as usize],
        };
        let next = NEXTS[self.random.below(3) as usize];
        let commit = self.random.below(4) > 0;
        // Some ids come again and again.
        let id = format!("id-{}", self.random.below(5));
        let mut producer = Producer::new(&id, version);
        let mut client = self.connect();
        producer.init(&mut client, if next == Next::Nobody { SHORT_MS } else { LONG_MS });
        let values: Vec<(i32, Vec<String>)> = (0..PARTITIONS)
            .map(|partition| {
                (partition, (0..RECORDS).map(|at| format!("{round}-{partition}-{at}")).collect())
            })
            .collect();
        let before = producer.clone();
        self.bring(&mut client, &mut producer, phase, &values, i64::from(round), commit);
        let found = self.kill(&before);
        self.note(found);
        println!("round {round}: {version:?} {phase:?}, commit {commit}; {found:?}; then {next:?}");
        let mut client = self.connect();
        let decided = match found.state {
            Some(State::Prepare { commit } | State::Complete { commit }) => Some(commit),
            _ => None,
        };
        assert!(phase != Phase::Ended || decided == Some(commit), "an acknowledged end is lost");
        let committed = match next {
            Next::TheSame => {
                self.go_on(&mut client, &mut producer, phase, &values, i64::from(round), commit);
                assert!(decided.is_none_or(|decided| decided == commit));
                commit
            }
            Next::Another => {
                let mut another = Producer::new(&id, version);
                another.init(&mut client, LONG_MS);
                assert_refused(&mut client, &producer, &values);
                decided.unwrap_or(false)
            }
            Next::Nobody => decided.unwrap_or(false),
        };
        if committed {
            self.offset = i64::from(round);
            for (partition, values) in values {
                self.committed.entry(partition).or_default().extend(values);
            }
        }
        self.check(&mut client);
    }

    /// Brings a transaction to a phase.
    fn bring(
        &mut self,
        client: &mut Client,
        producer: &mut Producer,
        phase: Phase,
        values: &[(i32, Vec<String>)],
        offset: i64,
        commit: bool,
    ) {
        if phase == Phase::Begun {
            return;
        }
        if producer.version == Version::One {
            producer.add_partitions(client, TOPIC, PARTITIONS);
        }
        if phase == Phase::Added {
            if producer.version == Version::Two {
                producer.send(client, TOPIC, &producer.batches(values));
                self.wait(5_000_000);
            }
            return;
        }
        producer.produce(client, TOPIC, values);
        producer.commit_offset(client, GROUP, TOPIC, offset);
        match phase {
            Phase::Ending => {
                producer.send_end(client, commit);
                self.wait(self.end_ns * 3 / 2);
            }
            Phase::Ended => {
                let began = Instant::now();
                producer.clone().end(client, commit);
                self.end_ns = began.elapsed().as_nanos() as u64;
            }
            _ => {}
        }
    }

    /// Some time up to this.
    fn wait(&mut self, max_ns: u64) {
        std::thread::sleep(Duration::from_nanos(self.random.below(max_ns)));
    }

    /// Kills the broker, looks at what it had written, and starts it again.
    fn kill(&mut self, producer: &Producer) -> Found {
        if let Some(broker) = self.broker.take() {
            broker.kill();
        }
        let wanted = Wanted {
            transactional_id: &producer.id,
            producer_id: producer.producer_id,
            epoch_min: producer.epoch,
            transactions: self.topics.0,
            topic: self.topics.1,
        };
        let found = look(self.data, &wanted);
        self.broker = Some(start(self.data));
        found
    }

    fn note(&mut self, found: Found) {
        let what = match (found.state, found.markers as i32) {
            (None | Some(State::Empty), _) => "nothing is written",
            (Some(State::Ongoing), _) => "it is open",
            (Some(State::Prepare { .. }), 0) => "its end is decided, and no partition knows",
            (Some(State::Prepare { .. }), PARTITIONS) => "all partitions know its end",
            (Some(State::Prepare { .. }), _) => "some partitions know its end",
            (Some(State::Complete { .. }), _) => "it is complete",
            (Some(other), _) => panic!("{other:?}"),
        };
        *self.seen.entry(what).or_default() += 1;
    }

    /// The producer comes back and does what it had not been told is done.
    fn go_on(
        &mut self,
        client: &mut Client,
        producer: &mut Producer,
        phase: Phase,
        values: &[(i32, Vec<String>)],
        offset: i64,
        commit: bool,
    ) {
        client.find_coordinator(1, &producer.id);
        if phase == Phase::Begun && producer.version == Version::One {
            producer.add_partitions(client, TOPIC, PARTITIONS);
        }
        if matches!(phase, Phase::Begun | Phase::Added) {
            producer.produce(client, TOPIC, values);
            producer.commit_offset(client, GROUP, TOPIC, offset);
        }
        producer.end(client, commit);
    }

    /// Nothing stays open, and readers see what was committed.
    fn check(&mut self, client: &mut Client) {
        until("no transaction is open", || {
            let open =
                client.transactions(&["Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence"]);
            open?.is_empty().then_some(())
        });
        until("no producer is in a transaction", || {
            client.open_producers(TOPIC, PARTITIONS).is_empty().then_some(())
        });
        assert_eq!(client.ends(TOPIC, PARTITIONS, true), client.ends(TOPIC, PARTITIONS, false));
        client.find_coordinator(0, GROUP);
        let offset = until("a stable offset", || client.committed(GROUP, TOPIC));
        assert_eq!(offset, self.offset, "the group's offset");
        let read = self.broker.as_ref().unwrap().run(&[
            "consume",
            TOPIC,
            "--isolation-level",
            "read_committed",
            "--from",
            "beginning",
            "--no-follow",
            "--format",
            "{partition} {value}",
        ]);
        let mut found: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for line in read.lines() {
            let (partition, value) = line.split_once(' ').unwrap();
            found.entry(partition.parse().unwrap()).or_default().push(value.to_owned());
        }
        assert_eq!(found, self.committed);
    }
}

/// Whose id has been taken over writes nothing any more.
fn assert_refused(client: &mut Client, producer: &Producer, values: &[(i32, Vec<String>)]) {
    let batches = producer.batches(&values[..1]);
    let version = if producer.version == Version::One { 11 } else { 12 };
    let request = producer.produce_request(TOPIC, &batches);
    let codes = client.ask(version, &request, |response| codes(&response));
    let fenced = [ErrorCode::InvalidProducerEpoch, ErrorCode::ProducerFenced, ErrorCode::InvalidTxnState];
    assert!(codes.iter().all(|code| fenced.contains(code)), "a fenced producer is told {codes:?}");
}
