//! Scripts of group requests whose answers have to be those of Apache Kafka 4.3, word for word but for random ids.
//!
//! `groups/traces` holds what Kafka answered. To record anew, start a broker with the settings in `groups/play.rs` and ten
//! partitions each of the topics `orders` and `payments`, and run
//! `RINGLOG_RECORD_GROUPS=HOST:PORT cargo test --test groups -- --test-threads=1`. The scripts whose names begin with
//! `consumer` have to be recorded together: what they show hangs on the ids of the topics. `groups/consumer_log` is the
//! offsets topic of the broker that played `consumer_before_restart` and nothing else, and was stopped at once; it was
//! started again for `consumer_after_restart`, and for the rest.

#![allow(clippy::unwrap_used)]

#[path = "groups/consumer_scripts.rs"]
mod consumer_scripts;
#[path = "groups/lives.rs"]
mod lives;
#[path = "groups/play.rs"]
mod play;
#[path = "groups/records.rs"]
mod records;
#[path = "groups/scripts.rs"]
mod scripts;
#[path = "transactions/shard.rs"]
mod shard;
#[path = "simulation/sim_io.rs"]
mod sim_io;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use play::{Broker, InProcess, Log, Play, Remote};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/groups")
}

/// Plays the script on what the log holds, and compares with what Kafka answered.
fn run(name: &str, script: fn(&mut Play), log: &Rc<RefCell<Log>>) {
    let path = directory().join(format!("traces/{name}.txt"));
    if let Ok(address) = std::env::var("RINGLOG_RECORD_GROUPS") {
        let mut remote = Remote::new(&address);
        let ids = play::TOPICS.iter().map(|name| format!("{name} {}\n", remote.topic_id(name)));
        let ids: String = ids.collect();
        std::fs::write(directory().join("traces/topic_ids.txt"), ids).unwrap();
        let recorded = trace(Box::new(remote), name, script);
        std::fs::write(&path, recorded).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    let actual = trace(Box::new(InProcess::new(log)), name, script);
    for (line, (expected, actual)) in expected.lines().zip(actual.lines()).enumerate() {
        assert_eq!(actual, expected, "line {} of {name}", line + 1);
    }
    assert_eq!(actual.lines().count(), expected.lines().count());
}

fn trace(broker: Box<dyn Broker>, name: &str, script: fn(&mut Play)) -> String {
    let mut play = Play::new(broker, name);
    script(&mut play);
    play.trace()
}

/// What a restart leaves of a group: read from our own records and from Kafka's, as Kafka reads its own.
///
/// `groups/log` is the offsets topic of the broker that played `before_restart` and was stopped at once; it was started
/// again to play `after_restart`.
#[test]
fn before_and_after_restart() {
    let own = Rc::new(RefCell::new(Log::new()));
    trace(Box::new(InProcess::new(&own)), "before_restart", scripts::before_restart);
    let kafkas = (0..5).map(|partition| {
        let path = directory().join(format!("log/{partition}.log"));
        (partition, std::fs::read(path).unwrap())
    });
    let kafkas = Rc::new(RefCell::new(kafkas.collect()));
    run("after_restart", scripts::after_restart, &kafkas);
    run("after_restart", scripts::after_restart, &own);
}

/// The same of consumer groups; and the records themselves are Kafka's.
#[test]
fn consumers_before_and_after_restart() {
    let own = Rc::new(RefCell::new(Log::new()));
    let script = consumer_scripts::consumer_before_restart;
    trace(Box::new(InProcess::new(&own)), "consumer_before_restart", script);
    let kafkas = (0..5).map(|partition| {
        let path = directory().join(format!("consumer_log/{partition}.log"));
        (partition, std::fs::read(path).unwrap())
    });
    let kafkas: Log = kafkas.collect();
    run(
        "consumer_after_restart",
        consumer_scripts::consumer_after_restart,
        &Rc::new(RefCell::new(kafkas.clone())),
    );
    run("consumer_after_restart", consumer_scripts::consumer_after_restart, &own);
    let (ours, theirs) = (records::of_groups(&own.borrow()), records::of_groups(&kafkas));
    assert!(theirs.values().map(Vec::len).sum::<usize>() > 30);
    for (group, theirs) in &theirs {
        assert_eq!(&ours[group], theirs, "{group}");
    }
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), scripts::$name, &Rc::default());
        })*
    };
}

scripts! {
    before_restart
    every_version
    refused_at_once
    two_members
    static_members
    silence
    full_group
    protocol_vote
    offsets
    offsets_by_id
    offsets_of_members
    deletion
    descriptions
}

macro_rules! consumer_scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), consumer_scripts::$name, &Rc::default());
        })*
    };
}

consumer_scripts! {
    consumer_before_restart
    consumer_refusals
    consumer_life
    consumer_assignors
    consumer_static
    consumer_patterns
    consumer_offsets
    consumer_silence
    consumer_full
    consumer_upgrade
    consumer_static_downgrade
}
