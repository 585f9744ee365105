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

use std::path::PathBuf;

use play::{Broker, InProcess, Play, Remote};

fn run(name: &str, script: fn(&mut Play)) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/groups/traces").join(format!("{name}.txt"));
    if let Ok(address) = std::env::var("RINGLOG_RECORD_GROUPS") {
        let recorded = trace(Box::new(Remote::new(&address)), name, script);
        std::fs::write(&path, recorded).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    let actual = trace(Box::new(InProcess::new()), name, script);
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

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), scripts::$name);
        })*
    };
}

scripts! {
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
