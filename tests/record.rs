//! Record batches: what a real Kafka answers to them, and what it wrote itself.

#![allow(clippy::unwrap_used)]

#[path = "record/cases.rs"]
mod cases;
#[path = "protocol/counting.rs"]
mod counting;
#[path = "record/hostile.rs"]
mod hostile;
#[path = "record/logs.rs"]
mod logs;

use std::collections::BTreeMap;
use std::fmt::Write;

use ringlog::record::compression::{CompressionLevel, DECOMPRESSED_BYTES_MAX_DEFAULT, Decompressor};
use ringlog::record::validate::{Rejection, Rewriter, Rules, rewrite, validate};
use ringlog::record::{BatchHeader, Codec, RecordBatch, TimestampType};

/// What the broker's clock said, nearly.
const NOW: i64 = 1_795_000_000_000;

/// Where we answer otherwise than Kafka, on purpose: the case, Kafka's code, ours.
const DIFFERENCES: [(&str, i16, i16); 12] = [
    // Exceptions that Kafka does not turn into an answer of its own.
    ("length too large", -1, 87),
    ("codec 5", -1, 76),
    ("codec 7", -1, 76),
    ("none: a number without an end", -1, 87),
    ("lz4: wrong header checksum", -1, 87),
    ("lz4: linked blocks", -1, 87),
    ("lat: packed with gaps", -1, 87),
    // The same for each codec.
    ("*: gaps in the offsets", -1, 87),
    ("*: offsets backwards", -1, 87),
    ("*: offsets from 5", -1, 87),
    // Kafka stores what no consumer can read.
    ("*: declared length too short", 0, 87),
    ("*: declared length negative", 0, 87),
];

/// And for data that cannot be unpacked.
const BROKEN_STREAMS: [&str; 5] =
    ["no stream", "garbage", "cut in the middle", "last byte cut", "garbage behind it"];

/// Not a test: writes the cases for `ask-kafka.py`.
#[test]
#[ignore = "writes a file, see tests/record/ask-kafka.py"]
fn write_cases() {
    let path = std::env::var("RECORD_CASES_OUT").expect("RECORD_CASES_OUT names the file");
    let mut out = String::new();
    for case in cases::cases() {
        writeln!(out, "{}\t{}\t{}\t{}", case.name, case.topic, case.version, to_hex(&case.bytes)).unwrap();
    }
    std::fs::write(path, out).expect("the file is written");
}

#[test]
fn answers_are_kafkas() {
    let mut asked = 0;
    for answer in answers() {
        let rules = rules(&answer.topic);
        let now = answer.stored.as_deref().map_or(NOW, |stored| now_of(stored, &rules));
        let ours = append(&answer.request, answer.version, &rules, now, answer.stored.as_deref());
        let code = ours.as_ref().map_or_else(|rejection| rejection.error.code(), |_| 0);
        assert_eq!(code, expected(&answer), "{}: {ours:?}", answer.name);
        if code == answer.code
            && let Err(rejection) = &ours
        {
            let faulty: Vec<i32> = rejection.records.iter().map(|record| record.index).collect();
            assert_eq!(faulty, answer.faulty, "{}: {rejection}", answer.name);
        }
        if let (Ok(ours), Some(kafkas)) = (&ours, &answer.stored) {
            compare(&answer, ours, kafkas);
        }
        asked += 1;
    }
    assert!(asked > 190, "{asked}");
}

struct Answer {
    name: String,
    topic: String,
    version: i16,
    request: Vec<u8>,
    code: i16,
    faulty: Vec<i32>,
    stored: Option<Vec<u8>>,
}

fn answers() -> impl Iterator<Item = Answer> {
    include_str!("fixtures/record/produce-answers.tsv").lines().map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, topic, version, request, code, faulty, stored] = columns[..] else { panic!("{line}") };
        let list = |text: &str| text.split(',').filter_map(|index| index.parse().ok()).collect();
        Answer {
            name: name.to_owned(),
            topic: topic.to_owned(),
            version: version.parse().unwrap(),
            request: if request == "-" { Vec::new() } else { from_hex(request) },
            code: code.parse().unwrap(),
            faulty: list(faulty),
            stored: (stored != "-").then(|| from_hex(stored)),
        }
    })
}

fn expected(answer: &Answer) -> i16 {
    let packed = Codec::ALL[1..].iter().find_map(|codec| answer.name.strip_prefix(&format!("{codec}: ")));
    for (name, kafkas, ours) in DIFFERENCES {
        let same = match name.strip_prefix("*: ") {
            Some(suffix) => packed == Some(suffix),
            None => answer.name == name,
        };
        if same {
            assert_eq!(answer.code, kafkas, "{name}: no difference any more");
            return ours;
        }
    }
    match packed {
        Some(name) if answer.code == -1 && BROKEN_STREAMS.contains(&name) => 87,
        _ => answer.code,
    }
}

fn rules(topic: &str) -> Rules {
    let bounds = if topic == "bounds" { (1000, 1000) } else { (i64::MAX, 3_600_000) };
    Rules {
        message_bytes_max: if topic == "small" { 300 } else { 1_048_588 },
        segment_bytes: 1 << 30,
        decompressed_bytes_max: DECOMPRESSED_BYTES_MAX_DEFAULT,
        compacted: topic == "compact",
        timestamp_type: if topic == "lat" { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
        timestamp_before_max_ms: bounds.0,
        timestamp_after_max_ms: bounds.1,
        compression: match topic {
            "gzip" => Some((Codec::Gzip, CompressionLevel::default())),
            "none" => Some((Codec::None, CompressionLevel::default())),
            _ => None,
        },
    }
}

/// Kafka's clock when it stored the batch, where that shows.
fn now_of(stored: &[u8], rules: &Rules) -> i64 {
    match rules.timestamp_type {
        TimestampType::CreateTime => NOW,
        TimestampType::LogAppendTime => BatchHeader::parse(stored).unwrap().max_timestamp,
    }
}

/// Validates, and stores where Kafka did.
fn append(
    request: &[u8],
    version: i16,
    rules: &Rules,
    now: i64,
    stored: Option<&[u8]>,
) -> Result<Vec<u8>, Rejection> {
    let mut decompressor = Decompressor::new();
    let validated = validate(request, version, rules, now, &mut decompressor)?;
    let mut out = Vec::new();
    rewrite(&validated, request, rules, &mut Rewriter::default(), &mut decompressor, &mut out)?;
    let place = stored.map(|stored| BatchHeader::parse(stored).unwrap());
    let (base_offset, epoch) =
        place.map_or((0, 0), |place| (place.base_offset, place.partition_leader_epoch));
    validated.finish(&mut out, base_offset, epoch);
    RecordBatch::parse(&out).unwrap().check_crc().unwrap();
    Ok(out)
}

/// Byte for byte where Kafka stored what it got; else the same header and records.
fn compare(answer: &Answer, ours: &[u8], kafkas: &[u8]) {
    let name = &answer.name;
    if answer.topic != "gzip" && answer.topic != "none" && !name.starts_with("none: ") {
        assert_eq!(to_hex(ours), to_hex(kafkas), "{name}");
        return;
    }
    let (our_header, our_records) = read(ours);
    let (mut kafka_header, kafka_records) = read(kafkas);
    (kafka_header.batch_length, kafka_header.crc) = (our_header.batch_length, our_header.crc);
    assert_eq!(our_header, kafka_header, "{name}");
    if ["none: gaps in the offsets", "none: offsets backwards", "none: offsets from 5"].contains(&&**name) {
        let offsets: Vec<i64> = our_records.keys().copied().collect();
        let dense: Vec<i64> = (our_header.base_offset..=our_header.last_offset()).collect();
        assert_eq!(offsets, dense, "{name}");
    } else {
        assert_eq!(our_records, kafka_records, "{name}");
    }
}

type Shown = (i64, Option<Vec<u8>>, Option<Vec<u8>>, String);

fn read(bytes: &[u8]) -> (BatchHeader, BTreeMap<i64, Shown>) {
    let batch = RecordBatch::parse(bytes).unwrap();
    let header = *batch.header();
    let (mut decompressor, mut scratch) = (Decompressor::new(), Vec::new());
    let records = batch.records(&mut decompressor, &mut scratch, DECOMPRESSED_BYTES_MAX_DEFAULT).unwrap();
    let records = records.map(|record| {
        let record = record.unwrap();
        let copy = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let shown = (
            record.timestamp(&header),
            copy(record.key),
            copy(record.value),
            format!("{:?}", record.headers),
        );
        (record.offset(&header), shown)
    });
    (header, records.collect())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
