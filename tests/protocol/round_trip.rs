//! What goes in comes out: schema, our code and the oracle agree byte for byte.

use proptest::prelude::*;

use crate::codec::{self, ALL, Codec};
use crate::sample::{Choices, Sample, noise, sample};
use crate::schema::{Kind, Message};

fn check(message: &Message, codec: &Codec, version: i16, sample: &Sample) -> Result<(), String> {
    let same = |what: &str, got: Result<Vec<u8>, String>| match got {
        Ok(bytes) if bytes == sample.bytes => Ok(()),
        got => Err(format!("{} version {version}, {what}: {got:x?} for {:x?}", message.name, sample.bytes)),
    };
    let ours = |bytes: &[u8]| (codec.round_trip)(bytes, version).map_err(|e| e.to_string());
    same("ours", ours(&sample.bytes))?;
    // What is not known is not kept.
    same("ours with unknown tags", ours(&sample.with_unknown_tags))?;
    match codec.oracle {
        Some((versions, oracle)) if versions.min <= version && version <= versions.max => {
            same("the oracle", oracle(&sample.bytes, version))
        }
        _ => Ok(()),
    }
}

/// Large samples, the same in every run.
#[test]
fn every_message_in_every_version() {
    let mut seed = 0;
    codec::each(|message, codec, version| {
        for _ in 0..20 {
            seed += 1;
            let noise = noise(seed, 2000);
            check(message, codec, version, &sample(message, version, &mut Choices::new(&noise))).unwrap();
        }
        // The smallest message, too.
        check(message, codec, version, &sample(message, version, &mut Choices::new(&[]))).unwrap();
    });
}

/// The versions of requests and responses for which the oracle has no say: what Kafka 4 dropped and what is newer than 4.1.
const WITHOUT_ORACLE: &[(&str, &[i16])] = &[
    ("CreateTopics", &[0, 1]),
    ("DeleteTopics", &[0]),
    ("DescribeConfigs", &[0]),
    ("DescribeLogDirs", &[0, 5]),
    ("InitProducerId", &[6]),
    ("ListOffsets", &[0, 11]),
    ("OffsetCommit", &[10]),
    ("OffsetFetch", &[10]),
    ("OffsetForLeaderEpoch", &[0, 1]),
    ("WriteTxnMarkers", &[2]),
];

#[test]
fn the_oracle_knows_the_others() {
    codec::each(|message, codec, version| {
        let known = codec.oracle.is_some_and(|(known, _)| known.min <= version && version <= known.max);
        let listed =
            |(name, versions): &(&str, &[i16])| *name == message.family && versions.contains(&version);
        let excused = message.kind == Kind::Data || WITHOUT_ORACLE.iter().any(listed);
        assert!(known || excused, "{} version {version}", message.name);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the values; a failure shrinks to the least message that shows it.
    #[test]
    fn any_values(at in any::<prop::sample::Index>(), version in any::<prop::sample::Index>(),
                  choices in prop::collection::vec(any::<u8>(), 0..600)) {
        let (message, codec) = at.get(&ALL);
        let versions: Vec<_> = (message.versions.min..=message.versions.max).collect();
        let version = *version.get(&versions);
        let sample = sample(message, version, &mut Choices::new(&choices));
        prop_assert_eq!(check(message, codec, version, &sample), Ok(()));
    }
}
