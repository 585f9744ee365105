use proptest::prelude::*;

use super::*;
use crate::metadata::{BrokerEndpoint, NewPartition, NewTopic, ResourceKind};

fn id(number: u8) -> Uuid {
    let mut bytes = [0; 16];
    bytes[0] = 0x41;
    bytes[15] = number;
    Uuid(bytes)
}

fn new_partitions(count: usize) -> Vec<NewPartition> {
    (0..count)
        .map(|index| NewPartition {
            replicas: vec![1],
            directory: id(200 + (index % 2) as u8),
            shard: (index % 3 == 2).then_some(1),
        })
        .collect()
}

fn changes() -> impl Strategy<Value = Change> {
    let values = || proptest::collection::btree_map("[a-c]", proptest::option::of("[ -~ä]{0,6}"), 0..3);
    let topic_id = || (0..6_u8).prop_map(id);
    prop_oneof![
        4 => (0..6_u8, 1..4_usize, proptest::collection::btree_map("[a-c]", "[ -~]{0,6}", 0..3)).prop_map(
            |(number, count, configs)| Change::CreateTopic(NewTopic {
                name: format!("t{number}"),
                topic_id: id(number),
                partitions: new_partitions(count),
                configs,
            })
        ),
        1 => topic_id().prop_map(|topic_id| Change::DeleteTopic { topic_id }),
        2 => (topic_id(), 0..5, 1..3_usize).prop_map(|(topic_id, first, count)| Change::AddPartitions {
            topic_id,
            first,
            partitions: new_partitions(count),
        }),
        2 => (topic_id(), values()).prop_map(|(topic_id, values)| Change::SetTopicConfig { topic_id, values }),
        1 => (proptest::option::of(1..3), values())
            .prop_map(|(broker, values)| Change::SetBrokerConfig { broker, values }),
        1 => (any::<bool>(), "[gh]", values()).prop_map(|(group, name, values)| {
            let kind = if group { ResourceKind::Group } else { ResourceKind::ClientMetrics };
            Change::SetResourceConfig { kind, name, values }
        }),
        1 => (proptest::collection::btree_map("[uv]", proptest::option::of("[ -~]{0,3}"), 1..3), values())
            .prop_map(|(entity, values)| Change::SetClientQuota { entity, values }),
        1 => (0..3_i64, 0..3).prop_map(|(blocks, count)| Change::AllocateProducerIds {
            first: blocks * 1000,
            count: count * 1000,
        }),
        1 => (1..3, any::<u16>(), proptest::option::of("[a-z]{1,3}")).prop_map(|(id, port, rack)| {
            let endpoint = BrokerEndpoint { listener: "PLAINTEXT".to_owned(), host: "h".to_owned(), port };
            Change::RegisterBroker(Broker { id, rack, endpoints: vec![endpoint] })
        }),
        1 => (1..3).prop_map(|broker| Change::BumpLeaderEpochs { broker }),
        1 => (topic_id(), 0..3, any::<Option<u16>>()).prop_map(|(topic_id, partition, shard)| {
            Change::PlacePartition { topic_id, partition, directory: id(201), shard }
        }),
        1 => ("[a-c]", 0..3_i16).prop_map(|(name, level)| Change::SetFeature { name, level }),
    ]
}

/// The images after each change that applies, and the journal that leads from the first to the last.
fn run(changes: &[Change], per_line: usize) -> (Vec<ClusterImage>, Vec<u8>) {
    let mut images = vec![ClusterImage::empty("cluster", 1)];
    let mut applied = Vec::new();
    for change in changes {
        let last = images.last().unwrap();
        if let Ok(next) = last.apply(change) {
            images.push(next);
            applied.push(change_to_json(change));
        }
    }
    let mut journal = journal_header("cluster", 0);
    for (index, chunk) in applied.chunks(per_line).enumerate() {
        journal.extend(write_line((index * per_line) as u64 + 1, chunk));
    }
    (images, journal)
}

fn replay(bytes: &[u8]) -> Result<(ClusterImage, JournalEnd), Damage> {
    let mut image = ClusterImage::empty("cluster", 1);
    let end = replay_journal(bytes, &mut image)?;
    Ok((image, end))
}

/// The counts and the second map agree with the topics.
fn check(image: &ClusterImage) {
    let partitions: usize = image.topics().map(|topic| topic.partitions.len()).sum();
    assert_eq!(image.partition_count(), partitions);
    assert_eq!(image.topics_by_id.len(), image.topic_count());
    for topic in image.topics() {
        assert_eq!(image.topic_by_id(topic.id), Some(topic));
    }
    let in_directories: usize = image.directory_counts.values().sum();
    assert_eq!(in_directories, partitions);
}

proptest! {
    #[test]
    fn what_is_read_back_is_what_was_applied(
        changes in proptest::collection::vec(changes(), 0..40),
        per_line in 1..5_usize,
    ) {
        let (images, journal) = run(&changes, per_line);
        let last = images.last().unwrap();
        check(last);
        let (image, end) = replay(&journal).unwrap();
        prop_assert_eq!(&image, last);
        prop_assert_eq!(end, JournalEnd { len: journal.len(), torn_bytes: 0 });
        // From a snapshot in the middle, the journal adds what follows.
        let mut image = read_snapshot(&snapshot(&images[images.len() / 2])).unwrap();
        prop_assert_eq!(&image, &images[images.len() / 2]);
        replay_journal(&journal, &mut image).unwrap();
        prop_assert_eq!(&image, last);
    }

    #[test]
    fn a_refused_change_leaves_no_trace(
        changes in proptest::collection::vec(changes(), 0..30),
        refused in changes(),
    ) {
        let (images, _) = run(&changes, 1);
        let before = images.last().unwrap();
        let mut image = before.clone();
        match image.apply_in_place(&refused) {
            Ok(()) => prop_assert_eq!(image.revision, before.revision + 1),
            Err(_) => prop_assert_eq!(&image, before),
        }
        check(&image);
    }

    #[test]
    fn any_bytes_end_in_a_value(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = replay(&bytes);
        let _ = read_snapshot(&bytes);
    }
}

fn sample() -> (Vec<ClusterImage>, Vec<u8>) {
    let create = |number: u8| {
        Change::CreateTopic(NewTopic {
            name: format!("topic {number}").replace(' ', "-"),
            topic_id: id(number),
            partitions: new_partitions(8),
            configs: BTreeMap::from([("k".to_owned(), "a b".to_owned())]),
        })
    };
    let (images, journal) = run(&[create(1), create(2), Change::BumpLeaderEpochs { broker: 1 }], 1);
    assert_eq!(images.len(), 4);
    (images, journal)
}

/// Where the lines of `journal` begin, and its end.
fn line_starts(journal: &[u8]) -> Vec<usize> {
    let ends = journal.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(ends).collect()
}

#[test]
fn a_journal_cut_anywhere_keeps_every_whole_line() {
    let (images, journal) = sample();
    let starts = line_starts(&journal);
    for cut in 0..journal.len() {
        let whole = starts.iter().filter(|&&start| start <= cut).count() - 1;
        // A line that lacks nothing but its end counts.
        let almost = usize::from(starts.contains(&(cut + 1)));
        let (image, end) = replay(&journal[..cut]).unwrap();
        assert_eq!(image, images[(whole + almost).saturating_sub(1)], "cut at {cut}");
        assert_eq!(end, JournalEnd { len: starts[whole], torn_bytes: cut - starts[whole] });
    }
}

#[test]
fn a_flipped_bit_is_damage_and_named() {
    let (images, journal) = sample();
    let starts = line_starts(&journal);
    for at in 0..journal.len() {
        for bit in 0..8 {
            let mut bytes = journal.clone();
            bytes[at] ^= 1 << bit;
            let line = starts.iter().rposition(|&start| start <= at).unwrap();
            match replay(&bytes) {
                Err(damage) => assert_eq!(damage.offset, starts[line], "bit {bit} of {at}"),
                // The last end of line alone says nothing that is not known.
                Ok((image, end)) => {
                    assert_eq!(at, journal.len() - 1, "bit {bit} of {at} was not noticed");
                    assert_eq!((&image, end.len), (&images[3], starts[3]));
                }
            }
        }
    }
}

#[test]
fn sectors_that_never_came_are_no_damage_in_the_last_line_alone() {
    let (images, journal) = sample();
    let starts = line_starts(&journal);
    let last = starts[2];
    let sectors = |range: std::ops::Range<usize>| {
        (range.start / 512..=(range.end - 1) / 512)
            .map(move |sector| (sector * 512).max(range.start)..(sector * 512 + 512).min(range.end))
    };
    let bytes_until = |end: usize| journal[..starts[end]].to_vec();
    let mut holes = 0;
    for hole in sectors(last..starts[3]) {
        let mut bytes = bytes_until(3);
        bytes[hole].fill(0);
        assert_eq!(replay(&bytes).map(|(image, end)| (image, end.len)), Ok((images[1].clone(), last)));
        holes += 1;
    }
    assert!(holes > 1, "the line spans sectors");
    for hole in sectors(starts[1]..starts[2]) {
        let mut bytes = bytes_until(3);
        bytes[hole].fill(0);
        assert!(replay(&bytes).is_err());
    }
    // Space that was allocated and never written.
    let mut bytes = journal.clone();
    bytes.extend([0; 700]);
    assert_eq!(replay(&bytes).map(|(image, end)| (image, end.torn_bytes)), Ok((images[3].clone(), 700)));
}

#[test]
fn a_snapshot_is_valid_whole_or_not_at_all() {
    let (images, _) = sample();
    let bytes = snapshot(&images[3]);
    assert_eq!(read_snapshot(&bytes).as_ref(), Ok(&images[3]));
    for cut in 0..bytes.len() {
        assert!(read_snapshot(&bytes[..cut]).is_err(), "cut at {cut}");
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[cut] ^= 1 << bit;
            assert!(read_snapshot(&flipped).is_err(), "bit {bit} of {cut}");
        }
    }
    assert!(read_snapshot(&[bytes.clone(), b"x".to_vec()].concat()).is_err());
    // A line left out is counted.
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<_> =
        text.lines().enumerate().filter(|(number, _)| *number != 1).map(|(_, line)| line).collect();
    assert_eq!(
        read_snapshot(format!("{}\n", lines.join("\n")).as_bytes()).map_err(|damage| damage.reason),
        Err("1 topics, but 2 were written".to_owned())
    );
}

#[test]
fn lines_out_of_place_are_named() {
    let header = journal_header("cluster", 0);
    let line = |first| write_line(first, &[change_to_json(&Change::BumpLeaderEpochs { broker: 1 })]);
    for (bytes, reason) in [
        (line(1), "a line in the wrong place"),
        ([header.clone(), header.clone()].concat(), "a line in the wrong place"),
        ([header.clone(), line(2)].concat(), "changes 1 to 1 are missing before it"),
        (journal_header("cluster", 7), "changes 1 to 7 are missing before it"),
        (journal_header("other", 0), "it belongs to cluster other, not cluster"),
    ] {
        assert_eq!(replay(&bytes).map_err(|damage| damage.reason), Err(reason.to_owned()));
    }
    let mut newer = Vec::new();
    push_line(&mut newer, r#"{"journal":{"format":2,"cluster_id":"cluster","after":0}}"#);
    assert!(replay(&newer).unwrap_err().reason.contains("another version"));
    let mut refused = header;
    refused.extend(write_line(1, &[change_to_json(&Change::DeleteTopic { topic_id: id(9) })]));
    assert!(replay(&refused).unwrap_err().reason.contains("does not apply"));
}

/// The form on disk is a promise to later versions.
#[test]
fn the_form_of_a_line() {
    let change = Change::CreateTopic(NewTopic {
        name: "a".to_owned(),
        topic_id: id(1),
        partitions: new_partitions(1),
        configs: BTreeMap::new(),
    });
    let line = String::from_utf8(write_line(7, &[change_to_json(&change)])).unwrap();
    assert_eq!(
        line.split_once(' ').unwrap().1,
        "{\"write\":{\"first\":7,\"changes\":[{\"create_topic\":{\"name\":\"a\",\"topic_id\":\"QQAAAAAAAAAAAAAAAAAAAQ\",\
         \"partitions\":[{\"replicas\":[1],\"directory\":\"QQAAAAAAAAAAAAAAAAAAyA\"}]}}]}}\n"
    );
    assert_eq!(
        String::from_utf8(journal_header("c", 3)).unwrap().split_once(' ').unwrap().1,
        "{\"journal\":{\"format\":1,\"cluster_id\":\"c\",\"after\":3}}\n"
    );
}
