//! The embedded metadata engine against a simulated disk: crashes at every op, faults, damage, and directories that a real
//! Apache Kafka 4.3.1 left behind (`tests/metadata/`).

#![allow(clippy::unwrap_used)]

#[path = "simulation/sim_io.rs"]
mod sim_io;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringlog::config::BrokerConfig;
use ringlog::io::buffer::Slice;
use ringlog::io::{Completion, Errno, Io, Op, OpenMode, Payload};
use ringlog::metadata::{
    Change, ClusterImage, Embedded, Event, NewPartition, NewTopic, Nodes, OpenError, OpenOptions, Opened,
    Planner, ProposalId, TopicRequest,
};
use ringlog::protocol::{ErrorCode, Uuid};
use sim_io::sim_disk::{Action, FaultRule};
use sim_io::{Crash, SimIo, SimOptions, SimWorld};

fn id(number: u64) -> Uuid {
    let mut bytes = [0x41; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Uuid(bytes)
}

fn options() -> OpenOptions {
    OpenOptions { log_dirs: vec!["/a".into(), "/b".into()], node_id: None, cluster_id: None }
}

fn open(io: &mut SimIo) -> Opened {
    let mut opened = Embedded::open(io, &options()).unwrap_or_else(|error| panic!("{error}"));
    opened.embedded.set_journal_bytes_min(2048);
    opened
}

fn create(number: u64, partitions: usize, directory: Uuid) -> Change {
    Change::CreateTopic(NewTopic {
        name: format!("topic-{number}"),
        topic_id: id(number),
        partitions: vec![NewPartition { replicas: vec![1], directory, shard: None }; partitions],
        configs: BTreeMap::new(),
    })
}

/// Runs turns until the engine is idle; the events that came.
fn settle(io: &mut SimIo, embedded: &mut Embedded) -> Vec<Event> {
    let mut events = Vec::new();
    let mut completions = Vec::new();
    while !embedded.is_idle() {
        io.turn(u64::MAX, &mut completions);
        assert!(!completions.is_empty(), "the engine waits for nothing");
        for completion in completions.drain(..) {
            assert_eq!(completion.token.0 >> 56, u64::from(ringlog::metadata::TOKEN_OWNER));
            embedded.handle_completion(io, completion);
        }
        events.extend(std::iter::from_fn(|| embedded.poll_event()));
    }
    events
}

fn committed(events: &[Event]) -> Vec<ProposalId> {
    let is_committed = |event: &Event| match event {
        Event::Committed { proposal, .. } => Some(*proposal),
        Event::Failed { .. } => None,
    };
    events.iter().filter_map(is_committed).collect()
}

fn read(io: &mut SimIo, path: &Path) -> Vec<u8> {
    let done = io.block_on(Op::Open { path: path.to_owned(), mode: OpenMode::default() });
    let Payload::Opened { file } = done.payload else { panic!("{} is missing", path.display()) };
    let buf = ringlog::io::buffer::AlignedBuf::unbudgeted(1 << 20);
    let done = io.block_on(Op::Read { file, offset: 0, buf, len: 1 << 20 });
    let (Ok(len), Payload::Buffer(buf)) = (done.result, done.payload) else { panic!("a read") };
    io.block_on(Op::Close { handle: file });
    buf[..len].to_vec()
}

fn write(io: &mut SimIo, path: &Path, bytes: &[u8]) {
    let mode = OpenMode { write: true, create: true, truncate: true, ..OpenMode::default() };
    let Completion { payload: Payload::Opened { file }, .. } =
        io.block_on(Op::Open { path: path.to_owned(), mode })
    else {
        panic!("{} cannot be created", path.display())
    };
    io.block_on(Op::Write { file, offset: 0, data: Slice::copy_of(bytes), sync: true });
    io.block_on(Op::Close { handle: file });
}

fn metadata_files(io: &mut SimIo) -> Vec<String> {
    let entries = io.list_dir(Path::new("/a/.ringlog/metadata")).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

#[test]
fn a_first_start_makes_an_identity_and_a_second_one_keeps_it() {
    let world = SimWorld::new(1, SimOptions::default());
    let mut io = world.driver();
    let first = open(&mut io);
    assert_eq!(first.report, Vec::<String>::new());
    assert_eq!((first.image.node_id, first.image.cluster_id.len()), (1, 22));
    let second = open(&mut world.driver());
    assert_eq!(second.image, first.image);
    assert_eq!(second.directories, first.directories);
    assert_ne!(first.directories[0].id, first.directories[1].id);
    let other = OpenOptions { node_id: Some(2), ..options() };
    assert!(matches!(Embedded::open(&mut io, &other), Err(OpenError::Mismatch(_))));
    let other = OpenOptions { cluster_id: Some("x".to_owned()), ..options() };
    assert!(matches!(Embedded::open(&mut io, &other), Err(OpenError::Mismatch(_))));
    // Without the directory that has the metadata, the other one is no data of a new cluster.
    write(&mut io, Path::new("/b/meta.properties"), b"cluster.id=other\nnode.id=1\nversion=1\n");
    assert!(matches!(Embedded::open(&mut io, &options()), Err(OpenError::Mismatch(_))));
}

#[test]
fn changes_are_committed_in_order_and_survive() {
    let world = SimWorld::new(2, SimOptions::default());
    let mut io = world.driver();
    let Opened { mut embedded, directories, .. } = open(&mut io);
    let directory = directories[0].id;
    let proposals: Vec<_> =
        (0..5).map(|number| embedded.propose(&mut io, create(number, 2, directory)).unwrap()).collect();
    let refused = embedded.propose(&mut io, create(3, 1, directory)).unwrap_err();
    assert_eq!(refused.code, ErrorCode::TopicAlreadyExists);
    assert_eq!(embedded.latest().topic_count(), 5);
    let events = settle(&mut io, &mut embedded);
    assert_eq!(committed(&events), proposals);
    let Some(Event::Committed { image, .. }) = events.last() else { panic!("an event") };
    assert_eq!((image.topic_count(), image.partition_count(), image.revision), (5, 10, 5));
    assert_eq!(image.directory_partition_count(directory), 10);
    let image = image.clone();
    world.crash(&[io.id()], Crash::Power);
    assert_eq!(open(&mut world.driver()).image, image);
}

#[test]
fn a_snapshot_takes_the_journals_place() {
    let world = SimWorld::new(3, SimOptions::default());
    let mut io = world.driver();
    let Opened { mut embedded, directories, .. } = open(&mut io);
    for number in 0..80 {
        embedded.propose(&mut io, create(number, 2, directories[0].id)).unwrap();
        settle(&mut io, &mut embedded);
    }
    let names = metadata_files(&mut io);
    assert_eq!(names.len(), 2, "{names:?}");
    assert_ne!(names[0], "00000000000000000000.journal");
    let image = embedded.committed().clone();
    assert_eq!(open(&mut world.driver()).image, image);
}

/// What a run of [`workload`] promised.
#[derive(Default)]
struct Promised {
    /// Every image that was ever proposed, by revision.
    images: Vec<ClusterImage>,
    committed: u64,
}

/// Opens, then commits changes that pass the size of two snapshots, until the end or the first op that fails.
fn workload(io: &mut SimIo, promised: &mut Promised) {
    let Ok(Opened { mut embedded, image, directories, .. }) = Embedded::open(io, &options()) else { return };
    embedded.set_journal_bytes_min(2048);
    promised.images = vec![ClusterImage::clone(&image)];
    let mut completions = Vec::new();
    for number in 0..40 {
        for change in [create(number, 4, directories[0].id), Change::BumpLeaderEpochs { broker: 1 }] {
            if embedded.propose(io, change).is_err() {
                return;
            }
            promised.images.push(ClusterImage::clone(embedded.latest()));
        }
        while !embedded.is_idle() {
            io.turn(u64::MAX, &mut completions);
            for completion in completions.drain(..) {
                embedded.handle_completion(io, completion);
            }
            while let Some(event) = embedded.poll_event() {
                match event {
                    Event::Committed { image, .. } => promised.committed = image.revision,
                    Event::Failed { .. } => return,
                }
            }
        }
    }
}

/// Runs until the machine hangs after `ops` ops, crashes, crashes again on the way back up, and checks what is left. Whether it
/// hung, and whether a snapshot had been taken.
fn crash_after(seed: u64, ops: u64) -> (bool, bool) {
    let at = format!("seed {seed}, after {ops} ops");
    let crash = if (seed + ops).is_multiple_of(3) { Crash::Kill } else { Crash::Power };
    let world = SimWorld::new(seed << 32 | ops, SimOptions::default());
    world.create_dir_all(Path::new("/a"));
    let mut io = world.driver();
    let mut promised = Promised::default();
    world.hang_after_ops(Some(ops));
    workload(&mut io, &mut promised);
    let hung = world.hangs();
    world.crash(&[io.id()], crash);
    let mut io = world.driver();
    world.hang_after_ops(Some((seed * 7 + ops) % 40));
    // It fails where it hangs.
    let _ = Embedded::open(&mut io, &options());
    world.crash(&[io.id()], crash);
    world.hang_after_ops(None);
    let mut io = world.driver();
    let opened = Embedded::open(&mut io, &options()).unwrap_or_else(|error| panic!("{at}: {error}"));
    let revision = opened.image.revision;
    assert!(revision >= promised.committed, "{at}: {revision} of {}", promised.committed);
    if let Some(image) = promised.images.get(revision as usize) {
        assert_eq!(*opened.image, *image, "{at}");
    } else {
        assert!(promised.images.is_empty() && revision == 0, "{at}");
    }
    let names = metadata_files(&mut io);
    assert_eq!(names.len(), 2, "{at}: {names:?}");
    // And once more, now that the recovery has put things in order.
    assert_eq!(open(&mut world.driver()).image, opened.image, "{at}");
    (hung, !names[0].starts_with("00000000000000000000"))
}

/// `RINGLOG_SEEDS` runs more of it.
#[test]
fn a_crash_between_any_two_ops_loses_nothing_committed() {
    let seeds = std::env::var("RINGLOG_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in 0..seeds {
        let mut snapshots = 0;
        let mut ops = 0;
        loop {
            let (hung, snapshot) = crash_after(seed, ops);
            snapshots += usize::from(snapshot);
            if !hung {
                break;
            }
            ops += 1;
        }
        assert!(ops > 100 && snapshots > 30, "{ops} ops, {snapshots} runs after a snapshot");
    }
}

#[test]
fn a_full_disk_refuses_and_then_goes_on() {
    let world = SimWorld::new(4, SimOptions::default());
    let mut io = world.driver();
    let Opened { mut embedded, directories, .. } = open(&mut io);
    embedded.propose(&mut io, create(1, 1, directories[0].id)).unwrap();
    settle(&mut io, &mut embedded);
    let before = embedded.committed().clone();
    let rule = FaultRule {
        action: Action::Write,
        path: ".journal".into(),
        skip: 0,
        times: 1,
        error: Errno::NO_SPACE,
    };
    world.script(Path::new("/a"), rule);
    embedded.propose(&mut io, create(2, 1, directories[0].id)).unwrap();
    embedded.propose(&mut io, create(3, 1, directories[0].id)).unwrap();
    let events = settle(&mut io, &mut embedded);
    for event in &events {
        assert!(
            matches!(event, Event::Failed { error, .. } if error.code == ErrorCode::KafkaStorageError),
            "{event:?}"
        );
    }
    assert_eq!((events.len(), embedded.failure()), (2, None));
    assert_eq!(embedded.latest(), &before);
    embedded.propose(&mut io, create(4, 1, directories[0].id)).unwrap();
    assert_eq!(committed(&settle(&mut io, &mut embedded)).len(), 1);
    let image = embedded.committed().clone();
    world.crash(&[io.id()], Crash::Power);
    assert_eq!(open(&mut world.driver()).image, image);
}

#[test]
fn a_failed_write_stops_all_changes_and_keeps_the_image() {
    let world = SimWorld::new(5, SimOptions::default());
    let mut io = world.driver();
    let Opened { mut embedded, directories, .. } = open(&mut io);
    let rule =
        FaultRule { action: Action::Write, path: ".journal".into(), skip: 0, times: 1, error: Errno::IO };
    world.script(Path::new("/a"), rule);
    embedded.propose(&mut io, create(1, 1, directories[0].id)).unwrap();
    let events = settle(&mut io, &mut embedded);
    assert_eq!((events.len(), committed(&events).len()), (1, 0));
    assert!(embedded.failure().is_some_and(|reason| reason.contains("00000000000000000000.journal")));
    let error = embedded.propose(&mut io, create(2, 1, directories[0].id)).unwrap_err();
    assert_eq!(error.code, ErrorCode::KafkaStorageError);
    assert_eq!(embedded.committed().topic_count(), 0);
}

/// A kill may leave a write readable that was never synced. What came behind it in the next life was synced alone, and the
/// power cut after that made a hole before it: the broker did not start again.
#[test]
fn a_kill_in_a_write_and_a_power_cut_later_leave_a_journal_without_holes() {
    let mut kept = 0;
    for seed in 0..40 {
        let world = SimWorld::new(seed, SimOptions::default());
        let mut io = world.driver();
        let Opened { mut embedded, directories, .. } = open(&mut io);
        embedded.propose(&mut io, create(1, 1, directories[0].id)).unwrap();
        // So far it came.
        let until = io.now() + seed * 50_000;
        io.turn(until, &mut Vec::new());
        world.crash(&[io.id()], Crash::Kill);
        let mut io = world.driver();
        let Opened { mut embedded, directories, image, .. } = open(&mut io);
        kept += image.topic_count();
        embedded.propose(&mut io, create(2, 1, directories[0].id)).unwrap();
        assert_eq!(committed(&settle(&mut io, &mut embedded)).len(), 1);
        let image = embedded.committed().clone();
        world.crash(&[io.id()], Crash::Power);
        assert_eq!(open(&mut world.driver()).image, image, "seed {seed}");
    }
    assert!(kept > 0, "no kill left its write");
}

#[test]
fn a_snapshot_that_fails_is_tried_again_later() {
    for (action, path) in [
        (Action::Open, ".snapshot.tmp"),
        (Action::Write, ".snapshot.tmp"),
        (Action::Sync, ".snapshot.tmp"),
        (Action::Rename, ".snapshot"),
        (Action::Sync, "metadata"),
    ] {
        let world = SimWorld::new(6, SimOptions::default());
        let mut io = world.driver();
        let Opened { mut embedded, directories, .. } = open(&mut io);
        world.script(
            Path::new("/a"),
            FaultRule { action, path: path.into(), skip: 0, times: 1, error: Errno::IO },
        );
        for number in 0..80 {
            embedded.propose(&mut io, create(number, 2, directories[0].id)).unwrap();
            let events = settle(&mut io, &mut embedded);
            assert_eq!(committed(&events).len(), 1, "{action:?} {path}");
        }
        let image = embedded.committed().clone();
        assert_eq!(open(&mut world.driver()).image, image, "{action:?} {path}");
    }
}

#[test]
fn damage_is_an_error_with_file_and_offset() {
    let world = SimWorld::new(7, SimOptions::default());
    let mut io = world.driver();
    let Opened { mut embedded, directories, .. } = open(&mut io);
    for number in 0..3 {
        embedded.propose(&mut io, create(number, 1, directories[0].id)).unwrap();
        settle(&mut io, &mut embedded);
    }
    let directory = PathBuf::from("/a/.ringlog/metadata");
    for name in metadata_files(&mut io) {
        let path = directory.join(&name);
        let whole = read(&mut io, &path);
        for at in (0..whole.len() - 1).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            write(&mut io, &path, &bytes);
            match Embedded::open(&mut io, &options()) {
                Err(OpenError::Damaged { path: named, offset, .. }) => {
                    assert_eq!(named, path);
                    assert!(offset <= at, "{name}: {offset} for {at}");
                }
                Err(error) => panic!("{name} at {at}: {error}"),
                Ok(_) => panic!("{name}: a flip at {at} was not noticed"),
            }
        }
        write(&mut io, &path, &whole);
        // Without one of the pair, what is left is damage too.
        io.block_on(Op::Unlink { path: path.clone() });
        assert!(matches!(Embedded::open(&mut io, &options()), Err(OpenError::Damaged { .. })), "{name}");
        write(&mut io, &path, &whole);
    }
    assert_eq!(open(&mut io).image.topic_count(), 3);
}

// ---- directories of Apache Kafka ----

/// Copies a fixture into the simulated disk: `data` to /a, `data2` to /b.
fn load(io: &mut SimIo, world: &SimWorld, fixture: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metadata").join(fixture);
    for (from, to) in [("data", "/a"), ("data2", "/b")] {
        world.create_dir_all(Path::new(to));
        copy(io, world, &root.join(from), Path::new(to));
    }
}

fn copy(io: &mut SimIo, world: &SimWorld, from: &Path, to: &Path) {
    let entries = std::fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    for entry in entries {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            world.create_dir_all(&target);
            copy(io, world, &entry.path(), &target);
        } else {
            write(io, &target, &std::fs::read(entry.path()).unwrap());
        }
    }
}

fn summary(image: &ClusterImage) -> Vec<(String, String, usize)> {
    let line = |topic: &Arc<ringlog::metadata::Topic>| {
        (topic.name.to_string(), topic.id.to_string(), topic.partitions.len())
    };
    image.topics().map(line).collect()
}

#[test]
fn a_stopped_kafka_is_taken_over() {
    let world = SimWorld::new(8, SimOptions::default());
    let mut io = world.driver();
    load(&mut io, &world, "kafka-4.3");
    let Opened { image, directories, report, .. } = open(&mut io);
    assert_eq!((&*image.cluster_id, image.node_id), ("j907agOuQEu4I3SMmZOGfw", 1));
    let [a, b] = &directories[..] else { panic!("two directories") };
    assert_eq!(
        (a.id.to_string(), b.id.to_string()),
        ("Be5I0ohASH2LeTTRJqxciA".into(), "GAOUlXoZSz4TYRDySnKHkQ".into())
    );
    assert_eq!(
        summary(&image),
        [
            ("__consumer_offsets".to_owned(), "617ZodfnS9uTQF2e6SS71g".to_owned(), 3),
            ("events.v1".to_owned(), "Z2z5_A-AR5iy9KZLdn6zHA".to_owned(), 3),
            ("orders".to_owned(), "WhBa8vzTRdKg19HJuKNkHQ".to_owned(), 4),
        ]
    );
    let topic = image.topic("events.v1").unwrap();
    assert_eq!(topic.configs, BTreeMap::from([("retention.ms".to_owned(), "86400000".to_owned())]));
    // As on disk.
    let places: Vec<_> = topic.partitions.iter().map(|partition| partition.directory == b.id).collect();
    assert_eq!(places, [true, false, true]);
    assert!(topic.partitions.iter().all(|partition| partition.leader == 1 && partition.isr == [1]));
    let orders = image.topic("orders").unwrap();
    assert_eq!(orders.configs.get("cleanup.policy").map(String::as_str), Some("compact"));
    assert_eq!(image.broker_config(1).get("log.cleaner.backoff.ms").map(String::as_str), Some("1000"));
    assert_eq!(image.default_broker_config().get("message.max.bytes").map(String::as_str), Some("2097152"));
    assert_eq!(image.next_producer_id, 1000);
    assert!(image.features.contains_key("metadata.version"), "{:?}", image.features);
    assert_eq!(report.len(), 1, "{report:?}");
    assert!(report[0].contains("3 topics, 10 partitions"), "{report:?}");
    // Once: from now on it is ours.
    let again = open(&mut world.driver());
    assert_eq!((again.image, again.report), (image, vec![]));
}

#[test]
fn a_checkpoint_and_what_follows_it_count() {
    let world = SimWorld::new(9, SimOptions::default());
    let mut io = world.driver();
    load(&mut io, &world, "kafka-4.3-checkpoint");
    // The log still has everything from its beginning; only the checkpoint's tail of it may be used.
    let Opened { image, .. } = open(&mut io);
    let names: Vec<_> = summary(&image).into_iter().map(|(name, _, partitions)| (name, partitions)).collect();
    assert_eq!(
        names,
        [("__consumer_offsets".to_owned(), 3), ("events.v1".to_owned(), 3), ("late".to_owned(), 1)]
    );
    assert_eq!(image.topic("events.v1").unwrap().configs.len(), 1);
    assert_eq!(image.next_producer_id, 1000);
}

#[test]
fn without_a_metadata_log_the_directories_tell() {
    let world = SimWorld::new(10, SimOptions::default());
    let mut io = world.driver();
    load(&mut io, &world, "kafka-4.3");
    let log = Path::new("/a/__cluster_metadata-0");
    for entry in io.list_dir(log).unwrap() {
        io.block_on(Op::Unlink { path: log.join(entry.name) });
    }
    let Opened { image, report, .. } = open(&mut io);
    assert_eq!(
        image.topic("orders").map(|topic| topic.id.to_string()).as_deref(),
        Some("WhBa8vzTRdKg19HJuKNkHQ")
    );
    assert_eq!((image.topic_count(), image.partition_count()), (3, 10));
    assert!(report[0].contains("without their configuration"), "{report:?}");
}

#[test]
fn damage_in_kafkas_metadata_is_an_error() {
    let path = PathBuf::from("/a/__cluster_metadata-0/00000000000000000000.log");
    for at in [3, 20, 90, 500, 5000, 11_047] {
        let world = SimWorld::new(11, SimOptions::default());
        let mut io = world.driver();
        load(&mut io, &world, "kafka-4.3");
        let mut bytes = read(&mut io, &path);
        bytes[at] ^= 1;
        write(&mut io, &path, &bytes);
        match Embedded::open(&mut io, &options()) {
            Err(OpenError::Import(message)) => assert!(message.contains(".log"), "{message}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("a flip at {at} was not noticed"),
        }
    }
}

// ---- planning ----

#[test]
fn plans_are_checked_as_kafka_checks_them() {
    let image = ClusterImage::empty("cluster", 1);
    let config = BrokerConfig::default();
    let directories = [id(101), id(102)];
    let planner = Planner { image: &image, config: &config, nodes: Nodes::one(1), directories: &directories };
    let image = image.apply(&planner.auto_create_topic("a.b", id(1)).unwrap()).unwrap();
    let image = image.apply(&planner.auto_create_topic("__consumer_offsets", id(2)).unwrap()).unwrap();
    assert_eq!(
        image.topic("__consumer_offsets").map(|topic| (topic.partitions.len(), topic.is_internal())),
        Some((50, true))
    );
    assert_eq!(image.directory_partition_count(id(101)), 26);
    let planner = Planner { image: &image, ..planner };
    let base =
        TopicRequest { name: "n", num_partitions: 1, replication_factor: 1, ..TopicRequest::default() };
    let manual = |assignments: &[(i32, &[i32])]| TopicRequest {
        num_partitions: -1,
        replication_factor: -1,
        assignments: assignments
            .iter()
            .map(|(partition, replicas)| (*partition, replicas.to_vec()))
            .collect(),
        ..base.clone()
    };
    let long = "x".repeat(250);
    use ErrorCode as E;
    let cases: Vec<(TopicRequest<'_>, E, &str)> = vec![
        (TopicRequest { name: "a.b", ..base.clone() }, E::TopicAlreadyExists, "Topic 'a.b' already exists."),
        (
            TopicRequest { name: "a_b", ..base.clone() },
            E::InvalidTopicException,
            "Topic 'a_b' collides with existing topic: a.b",
        ),
        (
            TopicRequest { name: "..", ..base.clone() },
            E::InvalidTopicException,
            "Topic name is invalid: '..' is not allowed",
        ),
        (
            TopicRequest { name: "a b", ..base.clone() },
            E::InvalidTopicException,
            "Topic name is invalid: 'a b' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'",
        ),
        (
            TopicRequest { name: &long, ..base.clone() },
            E::InvalidTopicException,
            "is longer than the max allowed length 249",
        ),
        (
            TopicRequest { name: "__cluster_metadata", ..base.clone() },
            E::InvalidRequest,
            "Creation of internal topic __cluster_metadata is prohibited.",
        ),
        (
            TopicRequest { num_partitions: 0, ..base.clone() },
            E::InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        ),
        (
            TopicRequest { num_partitions: -2, ..base.clone() },
            E::InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        ),
        (
            TopicRequest { num_partitions: 10_001, ..base.clone() },
            E::PolicyViolation,
            "Excessively large number of partitions per request.",
        ),
        (
            TopicRequest { replication_factor: 0, ..base.clone() },
            E::InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        (
            TopicRequest { replication_factor: 2, ..base.clone() },
            E::InvalidReplicationFactor,
            "Unable to replicate the partition 2 time(s): The target replication factor of 2 cannot be reached because only 1 broker(s) are registered.",
        ),
        (
            manual(&[(0, &[2])]),
            E::InvalidReplicaAssignment,
            "The manual partition assignment includes broker 2, but no such broker is registered.",
        ),
        (
            manual(&[(0, &[1, 1])]),
            E::InvalidReplicaAssignment,
            "The manual partition assignment includes the broker 1 more than once.",
        ),
        (
            manual(&[(1, &[1])]),
            E::InvalidReplicaAssignment,
            "partitions should be a consecutive 0-based integer sequence",
        ),
        (
            manual(&[(0, &[])]),
            E::InvalidReplicaAssignment,
            "The manual partition assignment includes an empty replica list.",
        ),
        (
            TopicRequest { configs: vec![("foo", Some("bar"))], ..base.clone() },
            E::InvalidConfig,
            "Unknown topic config name: foo",
        ),
        (
            TopicRequest { configs: vec![("retention.ms", Some("bar"))], ..base.clone() },
            E::InvalidConfig,
            "Invalid value bar for configuration retention.ms: Not a number of type LONG",
        ),
        (
            TopicRequest { configs: vec![("retention.ms", None)], ..base.clone() },
            E::InvalidConfig,
            "Null value not supported for topic configs: retention.ms",
        ),
    ];
    for (request, code, message) in cases {
        let error = planner.create_topic(&request, id(9)).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.ends_with(message), "{error}");
    }
    assert!(planner.create_topic(&manual(&[(0, &[1]), (1, &[1])]), id(9)).is_ok());
    for (count, assignments, message) in [
        (1, None, "Topic already has 1 partition(s)."),
        (0, None, "The topic a.b currently has 1 partition(s); 0 would not be an increase."),
        (
            2,
            Some(vec![]),
            "Attempted to add 1 additional partition(s), but only 0 assignment(s) were specified.",
        ),
        (
            2,
            Some(vec![vec![2]]),
            "The manual partition assignment includes broker 2, but no such broker is registered.",
        ),
    ] {
        let error = planner.add_partitions("a.b", count, assignments.as_deref()).unwrap_err();
        assert_eq!(error.message, message);
    }
    let grown = image.apply(&planner.add_partitions("a.b", 4, None).unwrap()).unwrap();
    assert_eq!(grown.topic("a.b").map(|topic| topic.partitions.len()), Some(4));
    assert_eq!(
        planner.delete_topic_by_name("nope").map_err(|error| error.code),
        Err(E::UnknownTopicOrPartition)
    );
    assert_eq!(planner.delete_topic_by_id(id(77)).map_err(|error| error.code), Err(E::UnknownTopicId));
}
