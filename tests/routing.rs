//! `ringlog.routing=direct` as clients see it: each shard of the built binary is a broker of its own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "coordinator/client.rs"]
#[allow(dead_code)]
mod client;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use client::{Client, until};
use ringlog::protocol::ErrorCode;
use ringlog::protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest,
};
use ringlog::protocol::messages::describe_cluster_request::DescribeClusterRequest;
use ringlog::protocol::messages::describe_log_dirs_request::DescribeLogDirsRequest;
use ringlog::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use ringlog::protocol::messages::list_groups_request::ListGroupsRequest;
use ringlog::protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};

const BINARY: &str = env!("CARGO_BIN_EXE_ringlog");

struct Broker {
    child: Child,
    port: u16,
}

impl Broker {
    fn start(data: &Path, port: u16, routing: &str) -> Broker {
        let mut child = Command::new(BINARY)
            .args(["serve", "--log", "warn", "--set", &format!("log.dirs={}", data.display())])
            .args(["--set", &format!("listeners=PLAINTEXT://127.0.0.1:{port}"), "--set", "shards=2"])
            .args(["--set", &format!("ringlog.routing={routing}"), "--set", "ringlog.http.listener="])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready "), "{line}");
        Broker { child, port }
    }

    /// A connection to the broker that the shard is seen as.
    fn client(&self, shard: u16) -> Client {
        Client::connect(&format!("127.0.0.1:{}", self.port + shard))
    }

    fn run(&self, args: &[&str]) {
        let address = format!("127.0.0.1:{}", self.port);
        let output = Command::new(BINARY).args(args).env("RINGLOG_BOOTSTRAP", address).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Two ports behind each other that were free just now.
fn two_ports() -> u16 {
    until("two free ports", || {
        let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        (first < u16::MAX && free(first) && free(first + 1)).then_some(first)
    })
}

fn create(client: &mut Client, topic: &str, replicas: &[&[i32]]) -> i16 {
    let assignments = replicas.iter().zip(0..).map(|(replicas, partition_index)| {
        CreatableReplicaAssignment { partition_index, broker_ids: replicas.to_vec().into() }
    });
    let topic = CreatableTopic {
        name: topic.into(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: assignments.collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: [topic].into(), timeout_ms: 10_000, ..Default::default() };
    client.ask(7, &request, |response| response.topics.first().unwrap().error_code)
}

/// The leader of each partition, which is its only replica.
fn leaders(client: &mut Client, topic: &str) -> Vec<i32> {
    let topic = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some([topic].into()), ..Default::default() };
    client.ask(12, &request, |response| {
        let topic = response.topics.first().unwrap();
        let leader =
            |partition: ringlog::protocol::messages::metadata_response::MetadataResponsePartition| {
                assert_eq!(partition.replica_nodes.to_vec(), [partition.leader_id]);
                (partition.partition_index, partition.leader_id)
            };
        let mut leaders: Vec<_> = topic.partitions.iter().map(leader).collect();
        leaders.sort_unstable();
        leaders.into_iter().map(|(_, leader)| leader).collect()
    })
}

/// The partitions that a broker says it has.
fn partitions(client: &mut Client, topic: &str) -> BTreeSet<i32> {
    client.ask(4, &DescribeLogDirsRequest { topics: None }, |response| {
        let dir = response.results.first().unwrap();
        let topics = dir.topics.iter().filter(|found| found.name == topic);
        topics
            .flat_map(|found| found.partitions.iter().map(|p| p.partition_index).collect::<Vec<_>>())
            .collect()
    })
}

#[test]
fn each_shard_is_a_broker() {
    let dir = tempfile::tempdir().unwrap();
    let port = two_ports();
    let broker = Broker::start(dir.path(), port, "direct");
    let mut clients = [broker.client(0), broker.client(1)];
    for client in &mut clients {
        let brokers = client.ask(0, &DescribeClusterRequest::default(), |response| {
            assert_eq!(response.controller_id, 1);
            response.brokers.iter().map(|one| (one.broker_id, one.port)).collect::<Vec<_>>()
        });
        assert_eq!(brokers, [(1, i32::from(port)), (1001, i32::from(port) + 1)]);
    }

    // Placed by hand, also from the other broker; not on what is not there, nor on two shards at once.
    let [first, second] = &mut clients;
    assert_eq!(create(second, "placed", &[&[1001], &[1001], &[1]]), 0);
    let invalid = ErrorCode::InvalidReplicaAssignment.code();
    assert_eq!(create(first, "nowhere", &[&[2]]), invalid);
    assert_eq!(create(first, "twice", &[&[1, 1001]]), invalid);
    assert_eq!(leaders(first, "placed"), [1001, 1001, 1]);
    assert_eq!(leaders(second, "placed"), [1001, 1001, 1]);
    assert_eq!(partitions(first, "placed"), [2].into());
    assert_eq!(partitions(second, "placed"), [0, 1].into());

    // Groups are with the node's first broker, and named once.
    let request = FindCoordinatorRequest { key: "readers".into(), ..Default::default() };
    second.find_coordinator(0, "readers");
    let coordinator = second.ask(2, &request, |response| (response.node_id, response.port));
    assert_eq!(coordinator, (1, i32::from(port)));

    // Clients that follow the metadata: every record is verified.
    broker.run(&["topic", "create", "spread", "--partitions", "4"]);
    assert_eq!(leaders(first, "spread").into_iter().collect::<BTreeSet<_>>(), [1, 1001].into());
    broker.run(&["load", "--topic", "spread", "--max", "--records", "20000"]);
    broker.run(&["consume", "spread", "--group", "readers", "--from", "beginning", "--max-messages", "100"]);
    let groups = |client: &mut Client| {
        client.ask(4, &ListGroupsRequest::default(), |response| response.groups.iter().count())
    };
    let [first, second] = &mut clients;
    assert_eq!((groups(first), groups(second)), (1, 0));

    // The same data by one address, where it was put by hand included.
    let placed = partitions(second, "placed");
    drop(broker);
    let broker = Broker::start(dir.path(), port, "shared");
    let mut client = broker.client(0);
    assert_eq!(leaders(&mut client, "placed"), [1, 1, 1]);
    assert_eq!(partitions(&mut client, "placed"), [0, 1, 2].into());
    drop((client, broker));
    let broker = Broker::start(dir.path(), port, "direct");
    assert_eq!(partitions(&mut broker.client(1), "placed"), placed);
}

#[test]
fn a_node_id_without_room_for_the_shards_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(BINARY)
        .args(["serve", "--set", &format!("log.dirs={}", dir.path().display()), "--set", "node.id=1000"])
        .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "ringlog.routing=direct"])
        .args(["--set", "ringlog.http.listener="])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(errors.contains("node.id 1000 must be below 1000"), "{errors}");
}
