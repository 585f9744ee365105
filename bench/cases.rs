//! The small hot code of the produce and the fetch path, one case each: prepared once, then run as often as wanted. Timed by
//! `bench/micro.rs`, counted in instructions by `bench/instructions`, and run once each by `cargo test`. Every case checks its own
//! outcome, so none can be optimised away or measure a refusal.

use std::borrow::Cow;
use std::hint::black_box;

use ringlog::io::BLOCK_BYTES;
use ringlog::load::batch::{Batch, ProducerId, Template};
use ringlog::load::request::ProduceShape;
use ringlog::metrics::Histogram;
use ringlog::protocol::frame::{RequestHeader, encode_request, write_response};
use ringlog::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ringlog::protocol::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};
use ringlog::protocol::messages::produce_request::ProduceRequest;
use ringlog::protocol::{ApiKey, Message, Reader, Records, Uuid, Writer};
use ringlog::record::partitioner::partition_of;
use ringlog::record::validate::{Rules, validate};
use ringlog::record::{
    BatchBuilder, BatchOptions, Codec, CompressionLevel, Compressor, Decompressor, RecordBatch,
    TimestampType, batches, crc32c,
};
use ringlog::storage::journal::format::{Directory, Seal};
use ringlog::storage::offset_index::OffsetIndex;

/// A case, ready to run.
pub type Ready = Box<dyn FnMut()>;

/// A case's name, and what prepares it.
pub type Case = (&'static str, fn() -> Ready);

pub const CASES: &[Case] = &[
    ("crc32c-64k", crc_64k),
    ("validate-100x100", || validate_batch(100, 100, Codec::None)),
    ("validate-1x1024", || validate_batch(1, 1024, Codec::None)),
    ("validate-lz4-100x100", || validate_batch(100, 100, Codec::Lz4)),
    ("produce-decode-1", || produce_decode(1)),
    ("produce-decode-100", || produce_decode(100)),
    ("fetch-decode-100", || fetch_decode(100)),
    ("fetch-answer-1", || fetch_answer(1)),
    ("fetch-answer-100", || fetch_answer(100)),
    ("records-walk-100x100", records_walk),
    ("journal-block-100", journal_block),
    ("index-lookup", index_lookup),
    ("histogram-1000", histogram),
    ("partition-of-key", partition),
    ("load-batch-100x100", load_batch),
];

const NOW_MS: i64 = 1_767_225_600_000;
const FETCH_VERSION: i16 = 13;
const PRODUCE_VERSION: i16 = 11;

fn crc_64k() -> Ready {
    let bytes = text(64 << 10);
    let expected = crc32c::checksum(&bytes);
    Box::new(move || assert_eq!(crc32c::checksum(black_box(&bytes)), expected))
}

fn validate_batch(records: usize, bytes: usize, codec: Codec) -> Ready {
    let batch = batch(records, bytes, codec);
    let rules = Rules {
        message_bytes_max: 1 << 20,
        segment_bytes: 1 << 30,
        decompressed_bytes_max: 1 << 20,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        compression: None,
    };
    let mut decompressor = Decompressor::default();
    Box::new(move || {
        let valid = validate(black_box(&batch), PRODUCE_VERSION, &rules, NOW_MS, &mut decompressor);
        assert_eq!(valid.expect("a valid batch").size, batch.len());
    })
}

fn produce_decode(partitions: u32) -> Ready {
    let batch = batch(1, 100, Codec::None);
    let shape = ProduceShape {
        version: PRODUCE_VERSION,
        topic: "orders".into(),
        topic_id: Uuid([7; 16]),
        acks: -1,
        timeout_ms: 30_000,
    };
    let mut writer = Writer::new();
    let all: Vec<(u32, Records<'_>)> = (0..partitions).map(|index| (index, Records::Bytes(&batch))).collect();
    shape.write(&mut writer, 5, all.into_iter());
    let frame = writer.buf[4..].to_vec();
    Box::new(move || {
        let mut reader = Reader::new(black_box(&frame));
        let header = RequestHeader::decode(&mut reader).expect("a header");
        let request = ProduceRequest::decode_prefix(&mut reader, header.version).expect("a request");
        let mut found = 0;
        for data in request.topic_data.iter().flat_map(|topic| topic.partition_data) {
            let bytes = data.records.and_then(|records| records.bytes()).expect("records");
            found += RecordBatch::parse(bytes).expect("a batch").header().records_count as u32;
        }
        assert_eq!(found, partitions);
    })
}

fn fetch_decode(partitions: i32) -> Ready {
    let each = |partition| FetchPartition {
        partition,
        fetch_offset: i64::from(partition) * 1000,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let topic = FetchTopic {
        topic_id: Uuid([7; 16]),
        partitions: (0..partitions).map(each).collect(),
        ..FetchTopic::default()
    };
    let request = FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 50 << 20,
        topics: [topic].into(),
        ..FetchRequest::default()
    };
    let frame = encode_request(FETCH_VERSION, 5, Some("bench"), &request)[4..].to_vec();
    Box::new(move || {
        let mut reader = Reader::new(black_box(&frame));
        let header = RequestHeader::decode(&mut reader).expect("a header");
        let request = FetchRequest::decode_prefix(&mut reader, header.version).expect("a request");
        let offsets = request.topics.iter().flat_map(|topic| topic.partitions).map(|it| it.fetch_offset);
        assert_eq!(offsets.sum::<i64>(), (0..i64::from(partitions)).sum::<i64>() * 1000);
    })
}

fn fetch_answer(partitions: u32) -> Ready {
    let mut writer = Writer::with_capacity(64 << 10);
    Box::new(move || {
        let each = |index: u32| PartitionData {
            partition_index: index as i32,
            high_watermark: 1000,
            last_stable_offset: 1000,
            records: Some(Records::External { slot: index, len: 16_384 }),
            ..PartitionData::default()
        };
        let topic = FetchableTopicResponse {
            topic: Cow::Borrowed(""),
            topic_id: Uuid([7; 16]),
            partitions: (0..black_box(partitions)).map(each).collect::<Vec<_>>().into(),
        };
        let response = FetchResponse { responses: [topic].into(), ..FetchResponse::default() };
        writer.clear();
        write_response(&mut writer, ApiKey::Fetch, FETCH_VERSION, 5, &response);
        assert_eq!(writer.splices.len(), partitions as usize);
    })
}

fn records_walk() -> Ready {
    let bytes = batch(100, 100, Codec::None);
    let (mut decompressor, mut scratch) = (Decompressor::default(), Vec::new());
    Box::new(move || {
        let mut values = 0;
        for batch in batches(black_box(&bytes)) {
            let batch = batch.expect("a batch");
            let records = batch.records(&mut decompressor, &mut scratch, 1 << 20).expect("records");
            values +=
                records.map(|record| record.expect("a record").value.map_or(0, <[u8]>::len)).sum::<usize>();
        }
        assert_eq!(values, 100 * 100);
    })
}

fn journal_block() -> Ready {
    let batch = batch(1, 100, Codec::None);
    let mut directory = Directory::default();
    let data_bytes = 100 * batch.len();
    let mut out = vec![0; 1 << 20];
    Box::new(move || {
        directory.clear();
        for index in 0..100u32 {
            let position = index * batch.len() as u32;
            directory.push_batch(
                Uuid([7; 16]),
                (index % 50) as i32,
                position,
                black_box(&batch),
                i64::from(index),
            );
        }
        let block_bytes = directory.block_bytes(data_bytes, 0, BLOCK_BYTES);
        let seal = Seal {
            incarnation: 1,
            sequence: 2,
            first_live: 1,
            block_bytes: block_bytes as u32,
            data_bytes: data_bytes as u32,
            sync: true,
        };
        directory.write(&seal, &mut out[data_bytes..block_bytes]);
        assert_eq!(directory.len(), 100);
    })
}

fn index_lookup() -> Ready {
    let mut index = OffsetIndex::new(0, 1 << 20);
    (1..10_000).for_each(|entry| assert!(index.append(entry * 100, entry as u32 * 4096)));
    let mut target = 0;
    Box::new(move || {
        for _ in 0..100 {
            target = (target + 7919) % 900_000;
            let found = index.lookup(black_box(target));
            assert!(found.offset <= target && target < found.offset + 100);
        }
    })
}

fn histogram() -> Ready {
    let histogram = Histogram::default();
    Box::new(move || {
        let before = histogram.values().count();
        (1..=1000u64).for_each(|step| histogram.record(black_box(step * 7919)));
        assert_eq!(histogram.values().count(), before + 1000);
    })
}

fn partition() -> Ready {
    Box::new(|| {
        let sum: usize = (0..100u64).map(|key| partition_of(&black_box(key).to_be_bytes(), 12)).sum();
        assert!(sum > 100);
    })
}

fn load_batch() -> Ready {
    let template = Template::new(7, 100, Some(8), 16 << 10, Codec::None);
    let mut compressor = Compressor::new();
    let mut memory = Vec::new();
    Box::new(move || {
        let mut batch = Batch::new(std::mem::take(&mut memory), Vec::new(), 3, 0);
        (0..100).for_each(|key| batch.push(&template, 1, black_box(key), key));
        batch.seal(&template, ProducerId::NONE, (5, NOW_MS), &mut compressor).expect("no codec, no failure");
        assert_eq!(batch.count, 100);
        memory = batch.bytes;
    })
}

/// Records of this many bytes each.
fn batch(records: usize, bytes: usize, codec: Codec) -> Vec<u8> {
    let options = BatchOptions { codec, level: CompressionLevel::default(), ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    let text = text(records * bytes);
    for value in text.chunks(bytes) {
        builder.append(NOW_MS, Some(b"key-0001"), Some(value), &[]);
    }
    let mut out = Vec::new();
    builder.finish(&mut Compressor::new(), &mut out).expect("a batch");
    out
}

/// Bytes that compress about as text does, the same every time.
fn text(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % 500
    };
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(format!("w{} ", word()).as_bytes());
    }
    out.truncate(len);
    out
}
