//! Scripts of group requests whose answers have to be those of Apache Kafka 4.3, word for word but for random ids.
//!
//! `groups/traces` holds what Kafka answered. To record anew, start a broker with the settings in `groups/play.rs` and ten
//! partitions each of the topics `orders` and `payments`, and run
//! `RINGLOG_RECORD_GROUPS=HOST:PORT cargo test --test groups -- --test-threads=1`.

#![allow(clippy::unwrap_used)]

#[path = "groups/play.rs"]
mod play;
#[path = "groups/scripts.rs"]
mod scripts;

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
        let recorded = trace(Box::new(Remote::new(&address)), name, script);
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
