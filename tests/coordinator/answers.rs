//! What a coordinator answers to a producer that does things right and wrong, beside what Apache Kafka 4.3.1 answered.
//!
//! One script of requests; each line of `kafka-4.3.1.txt` is a request and its answer. Producer ids are written in the order of their
//! appearance, as `p0`, `p1`. `COORDINATOR_PEER=HOST:PORT` asks that broker instead and writes its answers into the file. The
//! peer needs `transaction.abort.timed.out.transaction.cleanup.interval.ms=100`.

use std::fmt::Write;
use std::path::Path;

use ringlog::protocol::ErrorCode;
use ringlog::protocol::messages::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use ringlog::protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use ringlog::protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use ringlog::protocol::messages::describe_transactions_request::DescribeTransactionsRequest;
use ringlog::protocol::messages::end_txn_request::EndTxnRequest;
use ringlog::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use ringlog::protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use ringlog::record::{BatchBuilder, BatchOptions, Compressor};

use super::broker::Broker;
use super::client::{Client, until};
use super::producer::{Producer, Version, codes, error};

const TOPIC: &str = "answers";
const PARTITIONS: i32 = 3;
const GROUP: &str = "answers-group";
const TIMEOUT_MS: i32 = 600_000;

#[test]
fn answers_are_those_of_apache_kafka() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/coordinator/kafka-4.3.1.txt");
    if let Ok(peer) = std::env::var("COORDINATOR_PEER") {
        std::fs::write(file, Script::new(&peer).run()).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        "transaction.abort.timed.out.transaction.cleanup.interval.ms=100",
        "transaction.state.log.num.partitions=3",
        "offsets.topic.num.partitions=2",
    ];
    let broker = Broker::start(dir.path(), &settings);
    let (ours, kafkas) = (Script::new(&broker.address).run(), std::fs::read_to_string(file).unwrap());
    let lines = (1..).zip(ours.lines().zip(kafkas.lines()));
    let other = lines.filter(|(_, (ours, kafkas))| ours != kafkas);
    let other: Vec<String> =
        other.map(|(line, (ours, kafkas))| format!("{line}: {ours}\n    Kafka: {kafkas}")).collect();
    assert!(other.is_empty(), "{}", other.join("\n"));
    assert_eq!(ours.lines().count(), kafkas.lines().count());
}

/// A producer as the script names it in its requests.
#[derive(Clone, Copy, Debug)]
struct Who {
    id: &'static str,
    producer_id: i64,
    epoch: i16,
}

impl Who {
    fn at(self, epoch: i16) -> Who {
        Who { epoch, ..self }
    }

    fn named(self, producer_id: i64) -> Who {
        Who { producer_id, ..self }
    }
}

struct Script {
    client: Client,
    out: String,
    known: Vec<i64>,
}

impl Script {
    fn new(address: &str) -> Script {
        Script { client: Client::connect(address), out: String::new(), known: Vec::new() }
    }

    fn run(mut self) -> String {
        self.create_topic();
        self.producer_ids();
        self.older_clients();
        self.newer_clients();
        self.offsets();
        self.fencing();
        self.timeouts();
        self.out
    }

    fn say(&mut self, request: &str, answer: &str) {
        writeln!(self.out, "{request}: {answer}").unwrap();
    }

    fn part(&mut self, name: &str) {
        writeln!(self.out, "# {name}").unwrap();
    }

    fn name(&mut self, producer_id: i64) -> String {
        if producer_id < 0 {
            return producer_id.to_string();
        }
        let known = self.known.iter().position(|known| *known == producer_id);
        let at = known.unwrap_or_else(|| {
            self.known.push(producer_id);
            self.known.len() - 1
        });
        format!("p{at}")
    }

    fn create_topic(&mut self) {
        let topic = CreatableTopic {
            name: TOPIC.into(),
            num_partitions: PARTITIONS,
            replication_factor: 1,
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: [topic].into(), timeout_ms: 30_000, validate_only: false };
        self.client.ask(5, &request, |response| assert_eq!(response.topics.first().unwrap().error_code, 0));
        let client = &mut self.client;
        until("the topic", || (client.topic_id(TOPIC) != ringlog::protocol::Uuid::default()).then_some(()));
        client.find_coordinator(0, GROUP);
        // So that all of both internal topics is there and loaded.
        for id in ["a", "b", "c", "d", "e", "f"] {
            let mut producer = Producer::new(id, Version::Two);
            producer.init(client, TIMEOUT_MS);
            producer.produce(client, TOPIC, &[(0, vec!["warm".into()])]);
            producer.commit_offset(client, GROUP, TOPIC, 1);
            producer.end(client, false);
        }
    }

    // ---- requests ----

    fn init(&mut self, version: i16, id: &'static str, timeout_ms: i32, known: Option<Who>) -> Who {
        let request = InitProducerIdRequest {
            transactional_id: Some(id.into()),
            transaction_timeout_ms: timeout_ms,
            producer_id: known.map_or(-1, |known| known.producer_id),
            producer_epoch: known.map_or(-1, |known| known.epoch),
            ..Default::default()
        };
        let client = &mut self.client;
        let (code, who) = until("an answer", || {
            let (code, who) = client.ask(version, &request, |found| {
                let who = Who { id, producer_id: found.producer_id, epoch: found.producer_epoch };
                (error(found.error_code), who)
            });
            (code != ErrorCode::ConcurrentTransactions).then_some((code, who))
        });
        let with = known
            .map_or(String::new(), |known| format!(" as {} {}", self.name(known.producer_id), known.epoch));
        let answer = format!("{} {} {}", code.name(), self.name(who.producer_id), who.epoch);
        self.say(&format!("InitProducerId v{version} {id} timeout {timeout_ms}{with}"), &answer);
        who
    }

    fn label(&mut self, api: &str, version: i16, who: Who) -> String {
        format!("{api} v{version} {} {} {}", who.id, self.name(who.producer_id), who.epoch)
    }

    fn add(&mut self, version: i16, who: Who, topics: &[(&str, i32)], verify_only: bool) {
        let topics = || {
            let topic = |(name, partition): &(&str, i32)| AddPartitionsToTxnTopic {
                name: (*name).to_owned().into(),
                partitions: [*partition].into(),
            };
            topics.iter().map(topic).collect::<Vec<_>>().into()
        };
        let mut request = AddPartitionsToTxnRequest::default();
        if version >= 4 {
            let transaction = AddPartitionsToTxnTransaction {
                transactional_id: who.id.into(),
                producer_id: who.producer_id,
                producer_epoch: who.epoch,
                verify_only,
                topics: topics(),
            };
            request.transactions = [transaction].into();
        } else {
            request.v3_and_below_transactional_id = who.id.into();
            request.v3_and_below_producer_id = who.producer_id;
            request.v3_and_below_producer_epoch = who.epoch;
            request.v3_and_below_topics = topics();
        }
        let client = &mut self.client;
        let answers = until("an answer", || {
            let answers = client.ask(version, &request, |response| {
                let mut found = Vec::new();
                if response.error_code != 0 {
                    found.push((String::new(), -1, error(response.error_code)));
                }
                let results =
                    response.results_by_transaction.iter().flat_map(|one| one.topic_results.to_vec());
                for topic in results.chain(response.results_by_topic_v3_and_below.to_vec()) {
                    for one in &topic.results_by_partition {
                        found.push((
                            topic.name.to_string(),
                            one.partition_index,
                            error(one.partition_error_code),
                        ));
                    }
                }
                found
            });
            let concurrent = answers.iter().any(|(.., code)| *code == ErrorCode::ConcurrentTransactions);
            (!concurrent).then_some(answers)
        });
        let mut answers: Vec<String> = answers
            .iter()
            .map(|(topic, partition, code)| format!("{topic}-{partition} {}", code.name()))
            .collect();
        answers.sort();
        let label = self.label("AddPartitionsToTxn", version, who) + if verify_only { " verify" } else { "" };
        self.say(&label, &answers.join(", "));
    }

    fn produce(&mut self, version: i16, who: Who, partition: i32, sequence: i32) {
        let mut builder = BatchBuilder::new(BatchOptions {
            producer_id: who.producer_id,
            producer_epoch: who.epoch,
            base_sequence: sequence,
            transactional: true,
            ..BatchOptions::default()
        });
        builder.append(1_700_000_000_000, None, Some(b"value"), &[]);
        let mut bytes = Vec::new();
        builder.finish(&mut Compressor::new(), &mut bytes).unwrap();
        let batches = [(partition, bytes)];
        let producer = Producer::new(who.id, Version::Two);
        let request = producer.produce_request(TOPIC, &batches);
        let client = &mut self.client;
        let code = until("an answer", || {
            let code = client.ask(version, &request, |response| codes(&response)[0]);
            (code != ErrorCode::ConcurrentTransactions).then_some(code)
        });
        let label = self.label("Produce", version, who);
        self.say(&format!("{label} partition {partition} sequence {sequence}"), code.name());
    }

    fn end(&mut self, version: i16, who: Who, commit: bool) -> Who {
        let request = EndTxnRequest {
            transactional_id: who.id.into(),
            producer_id: who.producer_id,
            producer_epoch: who.epoch,
            committed: commit,
        };
        let client = &mut self.client;
        let (code, next) = until("an answer", || {
            let (code, next) = client.ask(version, &request, |response| {
                let next = Who { producer_id: response.producer_id, epoch: response.producer_epoch, ..who };
                (error(response.error_code), next)
            });
            (code != ErrorCode::ConcurrentTransactions).then_some((code, next))
        });
        let label = self.label("EndTxn", version, who) + if commit { " commit" } else { " abort" };
        let mut answer = code.name().to_owned();
        if version >= 5 {
            write!(answer, " {} {}", self.name(next.producer_id), next.epoch).unwrap();
        }
        self.say(&label, &answer);
        next
    }

    fn add_offsets(&mut self, version: i16, who: Who) {
        let request = AddOffsetsToTxnRequest {
            transactional_id: who.id.into(),
            producer_id: who.producer_id,
            producer_epoch: who.epoch,
            group_id: GROUP.into(),
        };
        let client = &mut self.client;
        let code = until("an answer", || {
            let code = client.ask(version, &request, |response| error(response.error_code));
            (code != ErrorCode::ConcurrentTransactions).then_some(code)
        });
        let label = self.label("AddOffsetsToTxn", version, who);
        self.say(&label, code.name());
    }

    fn commit_offset(&mut self, version: i16, who: Who, member: (&str, i32)) {
        let partition = TxnOffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: 5,
            committed_leader_epoch: -1,
            committed_metadata: None,
        };
        let topic = TxnOffsetCommitRequestTopic { name: TOPIC.into(), partitions: [partition].into() };
        let request = TxnOffsetCommitRequest {
            transactional_id: who.id.into(),
            group_id: GROUP.into(),
            producer_id: who.producer_id,
            producer_epoch: who.epoch,
            member_id: member.0.to_owned().into(),
            generation_id: member.1,
            topics: [topic].into(),
            ..Default::default()
        };
        let client = &mut self.client;
        let code = until("an answer", || {
            let code = client.ask(version, &request, |response| {
                error(response.topics.first().unwrap().partitions.first().unwrap().error_code)
            });
            (code != ErrorCode::ConcurrentTransactions).then_some(code)
        });
        let label = self.label("TxnOffsetCommit", version, who);
        self.say(&format!("{label} member {:?} generation {}", member.0, member.1), code.name());
    }

    /// The state of an id, when it has left those that pass.
    fn describe(&mut self, id: &str, passing: &[&str]) {
        let request = DescribeTransactionsRequest { transactional_ids: [id.to_owned().into()].into() };
        let client = &mut self.client;
        let (code, state, producer_id, epoch, partitions) = until("the state", || {
            let found = client.ask(0, &request, |response| {
                let one = response.transaction_states.first().unwrap();
                let mut all: Vec<String> = Vec::new();
                for topic in &one.topics {
                    all.extend(
                        topic.partitions.iter().map(|partition| format!("{}-{partition}", topic.topic)),
                    );
                }
                all.sort();
                let partitions = all.join(" ");
                (
                    error(one.error_code),
                    one.transaction_state.to_string(),
                    one.producer_id,
                    one.producer_epoch,
                    partitions,
                )
            });
            let passes = found.1.starts_with("Prepare") || passing.contains(&found.1.as_str());
            (!passes).then_some(found)
        });
        let name = self.name(producer_id);
        self.say(
            &format!("DescribeTransactions {id}"),
            &format!("{} {state:?} {name} {epoch} {partitions}", code.name()),
        );
    }

    fn ends(&mut self, what: &str) {
        let (client, partitions) = (&mut self.client, PARTITIONS);
        let open = |client: &mut Client| {
            let (all, committed) =
                (client.ends(TOPIC, partitions, false), client.ends(TOPIC, partitions, true));
            all.iter().zip(&committed).map(|(all, committed)| all - committed).collect::<Vec<_>>()
        };
        // Markers come after the answer.
        let found = match what {
            "closed" => {
                until("the markers", || Some(open(client)).filter(|open| open.iter().all(|open| *open == 0)))
            }
            _ => open(client),
        };
        self.say("records in open transactions", &format!("{found:?}"));
    }

    // ---- the script ----

    fn producer_ids(&mut self) {
        self.part("producer ids");
        for version in [0, 4, 5] {
            self.init(version, "one", 0, None);
            self.init(version, "one", -1, None);
            self.init(version, "one", 900_001, None);
            self.init(version, "", TIMEOUT_MS, None);
        }
        let first = self.init(4, "one", 900_000, None);
        let second = self.init(4, "one", TIMEOUT_MS, None);
        self.init(2, "one", TIMEOUT_MS, None);
        self.init(4, "one", TIMEOUT_MS, Some(first));
        self.init(4, "one", TIMEOUT_MS, Some(second));
        let now = self.init(3, "one", TIMEOUT_MS, None);
        self.init(4, "one", TIMEOUT_MS, Some(now));
        self.init(4, "one", TIMEOUT_MS, Some(now));
        self.init(4, "one", TIMEOUT_MS, Some(now.at(30)));
        self.init(4, "one", TIMEOUT_MS, Some(now.named(now.producer_id + 100_000)));
        self.init(4, "fresh", TIMEOUT_MS, Some(now));
        self.describe("nobody", &[]);
        self.describe("one", &[]);
    }

    fn older_clients(&mut self) {
        self.part("clients that add partitions");
        let all = [(TOPIC, 0), (TOPIC, 1)];
        let who = self.init(4, "old", TIMEOUT_MS, None);
        for commit in [true, false] {
            self.end(3, who, commit);
        }
        self.produce(11, who, 0, 0);
        for version in [0, 1, 3] {
            self.add(version, who.at(7), &all, false);
            self.add(version, who.named(who.producer_id + 100_000), &all, false);
            self.add(version, Who { id: "unknown", ..who }, &all, false);
            self.add(version, who, &[(TOPIC, 0), ("no-topic", 0), (TOPIC, 9)], false);
        }
        self.add(3, who, &all, false);
        self.add(3, who, &all, false);
        self.describe("old", &[]);
        for (partition, sequence) in [(0, 0), (0, 0), (0, 5), (1, 3), (2, 0)] {
            self.produce(11, who, partition, sequence);
        }
        self.produce(11, who.at(9), 0, 1);
        self.produce(11, who.named(who.producer_id + 100_000), 0, 0);
        self.ends("open");
        for version in [0, 1, 3] {
            self.end(version, who.at(9), true);
            self.end(version, who.named(who.producer_id + 100_000), true);
            self.end(version, Who { id: "unknown", ..who }, true);
        }
        self.end(3, who, true);
        self.ends("closed");
        self.describe("old", &[]);
        self.end(3, who, true);
        self.end(3, who, false);
        self.produce(11, who, 0, 1);
        self.add(3, who, &all, false);
        self.produce(11, who, 0, 1);
        self.end(3, who, false);
        self.ends("closed");
        self.end(3, who, false);
        self.end(3, who, true);
        self.describe("old", &[]);
    }

    fn newer_clients(&mut self) {
        self.part("clients whose appends add partitions");
        let who = self.init(5, "new", TIMEOUT_MS, None);
        let who = self.end(5, who, false);
        self.end(5, who, true);
        self.produce(12, who, 0, 0);
        self.produce(12, who, 0, 0);
        self.produce(12, who, 1, 4);
        self.produce(12, who.at(who.epoch - 1), 0, 1);
        self.produce(12, who.at(who.epoch + 1), 0, 0);
        self.describe("new", &[]);
        self.add(4, who, &[(TOPIC, 0), (TOPIC, 2)], true);
        self.add(5, who, &[(TOPIC, 0), (TOPIC, 2)], true);
        self.add(5, who.at(40), &[(TOPIC, 0)], true);
        self.add(5, who, &[(TOPIC, 2)], false);
        self.end(5, who.at(who.epoch - 1), true);
        self.end(5, who.at(who.epoch + 1), true);
        self.end(5, who.named(who.producer_id + 100_000), true);
        self.end(5, Who { id: "unknown", ..who }, true);
        let next = self.end(5, who, true);
        self.ends("closed");
        self.describe("new", &[]);
        self.end(5, who, true);
        self.end(5, who, false);
        self.end(5, next, true);
        self.produce(12, who, 0, 1);
        self.produce(12, next, 0, 0);
        let last = self.end(5, next, false);
        self.end(5, next, false);
        self.end(5, next, true);
        let empty = self.end(5, last, false);
        self.end(5, last, false);
        self.produce(12, empty, 0, 0);
        self.end(5, empty, true);
        self.ends("closed");
    }

    fn offsets(&mut self) {
        self.part("offsets");
        let who = self.init(4, "offsets", TIMEOUT_MS, None);
        self.commit_offset(3, who, ("", -1));
        self.add_offsets(3, who.at(9));
        self.add_offsets(1, who.at(9));
        self.add_offsets(3, who.named(who.producer_id + 100_000));
        self.add_offsets(3, who);
        self.commit_offset(3, who, ("nobody", 3));
        self.commit_offset(3, who, ("", 3));
        self.commit_offset(3, who.at(9), ("", -1));
        self.commit_offset(3, who, ("", -1));
        self.describe("offsets", &[]);
        self.end(3, who, true);
        let who = self.init(5, "offsets", TIMEOUT_MS, None);
        self.commit_offset(5, who, ("nobody", 3));
        self.commit_offset(5, who, ("", -1));
        self.commit_offset(5, who.at(who.epoch + 3), ("", -1));
        self.describe("offsets", &[]);
        self.end(5, who, false);
        self.describe("offsets", &[]);
    }

    fn fencing(&mut self) {
        self.part("fencing");
        for (id, produce, end) in [("fenced-old", 11, 3), ("fenced-new", 12, 5)] {
            let first = self.init(4, id, TIMEOUT_MS, None);
            if produce == 11 {
                self.add(3, first, &[(TOPIC, 0)], false);
            }
            self.produce(produce, first, 0, 0);
            let second = self.init(4, id, TIMEOUT_MS, None);
            self.ends("closed");
            self.produce(produce, first, 0, 1);
            if produce == 11 {
                self.add(3, first, &[(TOPIC, 0)], false);
                self.add(1, first, &[(TOPIC, 0)], false);
                self.add_offsets(3, first);
            }
            self.commit_offset(if produce == 11 { 3 } else { 5 }, first, ("", -1));
            self.end(end, first, true);
            self.end(end, first, false);
            self.init(4, id, TIMEOUT_MS, Some(first));
            self.describe(id, &[]);
            if produce == 11 {
                self.add(3, second, &[(TOPIC, 0)], false);
            }
            self.produce(produce, second, 0, 0);
            self.end(end, second, true);
        }
    }

    fn timeouts(&mut self) {
        self.part("timeouts");
        for (id, produce, end) in [("late-old", 11, 3), ("late-new", 12, 5)] {
            let who = self.init(4, id, 3_000, None);
            if produce == 11 {
                self.add(3, who, &[(TOPIC, 0)], false);
            }
            self.produce(produce, who, 0, 0);
            self.describe(id, &["Ongoing"]);
            self.ends("closed");
            self.produce(produce, who, 0, 1);
            if produce == 11 {
                self.add(3, who, &[(TOPIC, 0)], false);
            }
            self.end(end, who, true);
            self.end(end, who, false);
            self.init(4, id, TIMEOUT_MS, Some(who));
            self.init(4, id, TIMEOUT_MS, None);
        }
    }
}
