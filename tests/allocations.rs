//! Once warm, produce and fetch ask the system for no memory: all shards of a real server run in this process, and an
//! allocator counts what their threads ask for while records go in and out.
//!
//! Flushes and the journal's blocks take some for each MiB, and now and then one comes by time: requests are counted in
//! chunks, and the chunk with the fewest tells what the requests themselves take.

#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unsafe_code)] // counting is an allocator's only work here, and allocators are unsafe

#[path = "coordinator/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "coordinator/producer.rs"]
#[allow(dead_code)]
mod producer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use client::Client;
use producer::{Producer, Version};
use ringlog::config::Settings;
use ringlog::protocol::Records;
use ringlog::protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use ringlog::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ringlog::protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ringlog::record::builder::{BatchBuilder, BatchOptions};
use ringlog::record::compression::Compressor;
use ringlog::server::Server;

const PARTITIONS: i32 = 4;
const WARM_UP: usize = 500;
const CHUNKS: usize = 10;
const CHUNK: usize = 100;
/// What a flush and a block of the journal may take between them.
const A_MIB: usize = 12;

thread_local! {
    /// Set in the test's own threads.
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it is; counting touches a number and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// TRACE=N shows where every Nth allocation of a counted run comes from.
fn count() {
    if UNCOUNTED.get() {
        return;
    }
    let nth = ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    let every = TRACE.load(Ordering::Relaxed);
    if every > 0 && nth.is_multiple_of(every) {
        UNCOUNTED.set(true);
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        let places = trace.lines().filter(|line| line.contains("./src/")).take(6);
        eprintln!("{}", places.map(str::trim).collect::<Vec<_>>().join(" < "));
        UNCOUNTED.set(false);
    }
}

static TRACE: AtomicU64 = AtomicU64::new(0);

/// Asserts that requests which write `bytes` each take no memory, once warm.
fn check(what: &str, bytes: usize, mut work: impl FnMut()) {
    (0..WARM_UP).for_each(|_| work());
    let every = std::env::var("TRACE").map_or(0, |every| every.parse().unwrap());
    TRACE.store(every, Ordering::Relaxed);
    let mut chunk = || {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..CHUNK).for_each(|_| work());
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    let found: Vec<_> = (0..CHUNKS).map(|_| chunk()).collect();
    TRACE.store(0, Ordering::Relaxed);
    eprintln!("{what}: {found:?} allocations in {CHUNK} requests");
    let fewest = found.into_iter().min().unwrap_or_default();
    assert!(fewest < (CHUNK / 4 + (CHUNK * bytes).div_ceil(1 << 20) * A_MIB) as u64, "{what}: {fewest}");
}

fn start(shards: usize, level: &str, dir: &Path) -> Server {
    let mut settings = Settings::new();
    for set in [
        &format!("log.dirs={}", dir.display()),
        "listeners=PLAINTEXT://127.0.0.1:0",
        "ringlog.http.listener=",
        "ringlog.memory.bytes=134217728",
        &format!("shards={shards}"),
        &format!("ringlog.ack.level.all={level}"),
    ] {
        settings.add_set(set);
    }
    let (config, _) = settings.resolve().unwrap();
    Server::start(config).unwrap()
}

fn create(client: &mut Client) {
    let topic = CreatableTopic {
        name: "t".into(),
        num_partitions: PARTITIONS,
        replication_factor: 1,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: [topic].into(), timeout_ms: 10_000, ..Default::default() };
    client.ask(7, &request, |response| assert_eq!(response.topics.first().unwrap().error_code, 0));
}

fn batch(value_bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(1_700_000_000_000, None, Some(&vec![7; value_bytes]), &[]);
    let mut out = Vec::new();
    builder.finish(&mut Compressor::new(), &mut out).unwrap();
    out
}

fn produce(client: &mut Client, batch: &[u8], partitions: i32) {
    let partition = |index| PartitionProduceData { index, records: Some(Records::Bytes(batch)) };
    let topic = TopicProduceData {
        name: "t".into(),
        partition_data: (0..partitions).map(partition).collect(),
        ..Default::default()
    };
    let request =
        ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: [topic].into(), ..Default::default() };
    client.ask(9, &request, |response| {
        let topic = response.responses.first().unwrap();
        assert!(topic.partition_responses.iter().all(|answer| answer.error_code == 0));
    });
}

fn fetch_request<'a>(offset: i64, partitions: i32) -> FetchRequest<'a> {
    let partition = |partition| FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: 1 << 16,
        ..Default::default()
    };
    let topic = FetchTopic {
        topic: "t".into(),
        partitions: (0..partitions).map(partition).collect(),
        ..Default::default()
    };
    FetchRequest {
        max_bytes: 1 << 20,
        max_wait_ms: 60_000,
        min_bytes: 1,
        topics: [topic].into(),
        ..Default::default()
    }
}

fn fetch(client: &mut Client, offset: i64, partitions: i32) {
    client.ask(11, &fetch_request(offset, partitions), |response| {
        let topic = response.responses.first().unwrap();
        assert!(topic.partitions.iter().all(|answer| answer.error_code == 0));
        assert!(topic.partitions.iter().any(|answer| answer.records.is_some()));
    });
}

#[test]
fn a_warm_data_path_allocates_nothing() {
    UNCOUNTED.set(true);
    for (shards, level) in [(1, "written"), (2, "durable")] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let server = start(shards, level, dir.path());
        let address = server.addresses()[0].to_string();
        let mut client = Client::connect(&address);
        create(&mut client);
        let name = |what| format!("{shards} shards, {level}, {what}");
        for (what, bytes, partitions) in [
            ("one record", 100, 1),
            ("records to four partitions", 100, PARTITIONS),
            ("a frame in pieces", 20_000, 1),
            ("a frame received whole", 66_000, 1),
        ] {
            let batch = batch(bytes);
            check(&name(what), bytes * partitions as usize, || produce(&mut client, &batch, partitions));
        }
        let mut transaction = Producer::new("transaction", Version::Two);
        transaction.init(&mut client, 60_000);
        check(&name("a transaction"), 100, || {
            transaction.produce(&mut client, "t", &[(0, vec!["x".repeat(100)])]);
        });
        for (what, partitions) in [("a fetch", 1), ("a fetch of four partitions", PARTITIONS)] {
            let mut offset = 0;
            check(&name(what), 0, || {
                fetch(&mut client, offset, partitions);
                offset = (offset + 1) % WARM_UP as i64;
            });
        }
        // Its fetch waits for the record.
        let small = batch(100);
        let mut consumer = Client::connect(&address);
        let mut end = client.ends("t", 1, false)[0];
        check(&name("a consumer at the end"), 100, || {
            consumer.send(11, &fetch_request(end, 1));
            produce(&mut client, &small, 1);
            consumer.receive();
            end += 1;
        });
        drop((client, consumer));
        server.stop();
        server.join().unwrap();
    }
}
