//! What a producer may send to one partition, right and wrong: each case was put to a real Kafka 4.3 by `ask-kafka.py`,
//! and its answers are kept in `tests/fixtures/record/produce-answers.tsv`.

use ringlog::record::batch::{self, Attributes, BATCH_OVERHEAD, BatchHeader, LOG_OVERHEAD};
use ringlog::record::records::Header;
use ringlog::record::varint::{write_varint, write_varlong};
use ringlog::record::{BatchBuilder, BatchOptions, Codec, CompressionLevel, Compressor, TimestampType};

/// The time of the records, in the past.
pub const TIME: i64 = 1_700_000_000_000;
const FAR_FUTURE: i64 = 4_000_000_000_000;

pub struct Case {
    pub name: String,
    /// One of the topics `ask-kafka.py` makes, each with a setting of its own.
    pub topic: &'static str,
    pub version: i16,
    pub bytes: Vec<u8>,
}

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, name: impl Into<String>, bytes: Vec<u8>) {
        self.on("plain", name, bytes);
    }

    fn on(&mut self, topic: &'static str, name: impl Into<String>, bytes: Vec<u8>) {
        self.0.push(Case { name: name.into(), topic, version: 8, bytes });
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Cases::default();
    framing(&mut cases);
    headers(&mut cases);
    inner_records(&mut cases);
    compressed_streams(&mut cases);
    timestamps(&mut cases);
    settings(&mut cases);
    cases.0
}

/// A correct batch of three records.
pub fn good(codec: Codec) -> Vec<u8> {
    built(BatchOptions { codec, ..BatchOptions::default() }, &[TIME, TIME + 5, TIME + 3])
}

fn built(options: BatchOptions, times: &[i64]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(options);
    for (index, time) in times.iter().enumerate() {
        let key = format!("key-{index}");
        let value = [b'v'; 40];
        let headers = [Header { key: b"h", value: Some(b"1") }, Header { key: b"n", value: None }];
        builder.append(*time, Some(key.as_bytes()), Some(&value), &headers[..index % 3]);
    }
    let mut out = Vec::new();
    builder.finish(&mut Compressor::new(), &mut out).expect("a small batch");
    out
}

fn header(bytes: &[u8]) -> BatchHeader {
    BatchHeader::parse(bytes).expect("a batch")
}

/// Changes the header and sets the checksum right.
fn edited(mut bytes: Vec<u8>, edit: impl FnOnce(&mut BatchHeader)) -> Vec<u8> {
    let mut header = header(&bytes);
    edit(&mut header);
    header.write(&mut bytes);
    batch::update_crc(&mut bytes);
    bytes
}

/// A batch with this payload, whatever it is.
fn raw(codec: Codec, count: i32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = good(Codec::None)[..BATCH_OVERHEAD].to_vec();
    let mut header = header(&bytes);
    bytes.extend_from_slice(payload);
    header.batch_length = (bytes.len() - LOG_OVERHEAD) as i32;
    header.attributes = Attributes::default().with_codec(codec);
    header.records_count = count;
    header.last_offset_delta = count - 1;
    header.write(&mut bytes);
    batch::update_crc(&mut bytes);
    bytes
}

fn packed(codec: Codec, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Compressor::new().compress(codec, CompressionLevel::default(), records, &mut out).expect("memory");
    out
}

/// A record with the parts given; `extra` is added to its declared length.
fn record(offset_delta: i32, key: Option<&[u8]>, value: &[u8], headers: i32, extra: i32) -> Vec<u8> {
    let mut body = vec![0];
    write_varlong(&mut body, 0);
    write_varint(&mut body, offset_delta);
    write_varint(&mut body, key.map_or(-1, |key| key.len() as i32));
    body.extend_from_slice(key.unwrap_or_default());
    write_varint(&mut body, value.len() as i32);
    body.extend_from_slice(value);
    write_varint(&mut body, headers);
    let mut out = Vec::new();
    write_varint(&mut out, body.len() as i32 + extra);
    out.extend_from_slice(&body);
    out
}

fn simple(offset_delta: i32) -> Vec<u8> {
    record(offset_delta, Some(b"k"), b"value value value", 0, 0)
}

fn framing(cases: &mut Cases) {
    let good = good(Codec::None);
    cases.add("good", good.clone());
    cases.add("nothing", Vec::new());
    cases.add("11 bytes", good[..11].to_vec());
    cases.add("cut in the header", good[..40].to_vec());
    cases.add("cut in the records", good[..good.len() - 1].to_vec());
    let with = |tail: &[u8]| [&good, tail].concat();
    cases.add("followed by 5 bytes", with(&[0; 5]));
    cases.add("followed by a cut batch", with(&good[..50]));
    cases.add("followed by zeros", with(&[0; 100]));
    cases.add("two batches", with(&good));
    cases.add(
        "followed by a batch of magic 1",
        with(&{
            let mut other = good.clone();
            other[16] = 1;
            other
        }),
    );
    for (name, length) in [("13", 13), ("14", 14), ("48", 48), ("negative", -1), ("too large", i32::MAX)] {
        let mut bytes = good.clone();
        bytes[8..12].copy_from_slice(&i32::to_be_bytes(length));
        cases.add(format!("length {name}"), bytes);
    }
    for magic in [0u8, 1, 3, 0xff] {
        let mut bytes = good.clone();
        bytes[16] = magic;
        cases.add(format!("magic {}", magic as i8), bytes);
    }
    for at in [17, 22, BATCH_OVERHEAD + 3] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        cases.add(format!("byte {at} flipped"), bytes);
    }
}

fn headers(cases: &mut Cases) {
    let mut edit = |name: &str, edit: fn(&mut BatchHeader)| cases.add(name, edited(good(Codec::None), edit));
    edit("base offset 1", |header| header.base_offset = 1);
    edit("base offset -1", |header| header.base_offset = -1);
    edit("leader epoch 77", |header| header.partition_leader_epoch = 77);
    edit("codec 5", |header| header.attributes.0 |= 5);
    edit("codec 7", |header| header.attributes.0 |= 7);
    edit("control", |header| header.attributes.0 |= 0x20);
    edit("delete horizon", |header| header.attributes.0 |= 0x40);
    edit("unknown attribute bits", |header| header.attributes.0 |= 0x5080);
    edit("no records", |header| header.records_count = 0);
    edit("no records, no offsets", |header| (header.records_count, header.last_offset_delta) = (0, -1));
    edit("count -1", |header| header.records_count = -1);
    edit("count above the offsets", |header| header.records_count = 4);
    edit("offsets above the count", |header| header.last_offset_delta = 3);
    edit("negative offset delta", |header| header.last_offset_delta = -3);
    edit("largest offset delta", |header| header.last_offset_delta = i32::MAX);
    edit("count and offsets above the records", |h| (h.records_count, h.last_offset_delta) = (4, 3));
    edit("count and offsets below the records", |h| (h.records_count, h.last_offset_delta) = (2, 1));
    edit("count and offsets huge", |h| (h.records_count, h.last_offset_delta) = (i32::MAX, i32::MAX - 1));
    edit("max timestamp too low", |header| header.max_timestamp = TIME);
    edit("max timestamp too high", |header| header.max_timestamp = TIME + 500);
    edit("max timestamp negative", |header| header.max_timestamp = -1);
    edit("producer without a sequence", |header| (header.producer_id, header.producer_epoch) = (424_242, 0));
    edit("sequence without a producer", |header| header.base_sequence = 9);
    edit("producer without an epoch", |header| (header.producer_id, header.base_sequence) = (424_243, 0));
    edit("idempotent", |h| (h.producer_id, h.producer_epoch, h.base_sequence) = (424_244, 0, 17));
}

fn inner_records(cases: &mut Cases) {
    let gaps = [simple(0), simple(2), simple(5)].concat();
    let trailing = [simple(0), simple(1), vec![0]].concat();
    let shapes: [(&str, i32, Vec<u8>); 14] = [
        ("dense", 3, [simple(0), simple(1), simple(2)].concat()),
        ("gaps in the offsets", 3, gaps),
        ("offsets backwards", 2, [simple(1), simple(0)].concat()),
        ("offsets from 5", 2, [simple(5), simple(6)].concat()),
        ("a byte behind the records", 2, trailing),
        ("one record missing", 3, [simple(0), simple(1)].concat()),
        ("null key", 1, record(0, None, b"v", 0, 0)),
        ("declared length too long by one, and a byte", 1, [record(0, None, b"v", 0, 1), vec![0]].concat()),
        ("declared length too short", 1, record(0, None, b"v", 0, -1)),
        ("declared length negative", 1, {
            let mut record = record(0, None, b"v", 0, 0);
            record[0] = 1;
            record
        }),
        ("headers missing", 1, record(0, Some(b"k"), b"v", 3, 0)),
        ("header count negative", 1, record(0, Some(b"k"), b"v", -1, 0)),
        ("key longer than the record", 1, {
            let mut record = record(0, Some(b"k"), b"v", 0, 0);
            record[4] = 0x7e;
            record
        }),
        ("a number without an end", 1, vec![0xff; 30]),
    ];
    for codec in Codec::ALL {
        for (name, count, records) in &shapes {
            cases.add(format!("{codec}: {name}"), raw(codec, *count, &packed(codec, records)));
        }
        cases.add(format!("{codec}: good"), good(codec));
    }
}

fn compressed_streams(cases: &mut Cases) {
    let records = [simple(0), simple(1)].concat();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let stream = packed(codec, &records);
        cases.add(format!("{codec}: no stream"), raw(codec, 1, &[]));
        cases.add(format!("{codec}: garbage"), raw(codec, 1, b"this is no compressed data at all"));
        cases.add(format!("{codec}: cut in the middle"), raw(codec, 2, &stream[..stream.len() / 2]));
        cases.add(format!("{codec}: last byte cut"), raw(codec, 2, &stream[..stream.len() - 1]));
        cases.add(format!("{codec}: garbage behind it"), raw(codec, 2, &[&stream[..], b"garbage"].concat()));
        cases.add(format!("{codec}: empty stream"), raw(codec, 1, &packed(codec, &[])));
        let twice = [packed(codec, &simple(0)), packed(codec, &simple(1))].concat();
        cases.add(format!("{codec}: two streams"), raw(codec, 2, &twice));
    }
    let mut lz4 = packed(Codec::Lz4, &records);
    lz4[6] ^= 1;
    cases.add("lz4: wrong header checksum", raw(Codec::Lz4, 2, &lz4));
    let snappy = snap::raw::Encoder::new().compress_vec(&records).expect("memory");
    cases.add("snappy: one raw block", raw(Codec::Snappy, 2, &snappy));
    for (name, linked, checksums) in
        [("linked blocks", true, false), ("checksums", false, true), ("wrong content checksum", false, true)]
    {
        let mut info =
            lz4_flex::frame::FrameInfo::new().content_checksum(checksums).block_checksums(checksums);
        if linked {
            info = info.block_mode(lz4_flex::frame::BlockMode::Linked);
        }
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        std::io::Write::write_all(&mut encoder, &records).expect("memory");
        let mut stream = encoder.finish().expect("memory");
        if name.starts_with("wrong") {
            let last = stream.len() - 1;
            stream[last] ^= 1;
        }
        cases.add(format!("lz4: {name}"), raw(Codec::Lz4, 2, &stream));
    }
}

fn timestamps(cases: &mut Cases) {
    let at = |times: &[i64]| built(BatchOptions::default(), times);
    let marked = |bytes: Vec<u8>, max_timestamp: i64| {
        edited(bytes, |header| {
            header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
            header.max_timestamp = max_timestamp;
        })
    };
    for topic in ["plain", "lat"] {
        cases.on(topic, format!("{topic}: far future"), at(&[TIME, FAR_FUTURE, TIME, FAR_FUTURE]));
        cases.on(topic, format!("{topic}: no timestamps"), at(&[-1, -1]));
        cases.on(topic, format!("{topic}: negative timestamps"), at(&[-5, -7]));
        cases.on(topic, format!("{topic}: extreme timestamps"), at(&[i64::MIN, 0, i64::MAX]));
        cases.on(topic, format!("{topic}: marked as append time"), marked(at(&[TIME, TIME]), TIME + 1));
        cases.on(topic, format!("{topic}: marked as append time, none"), marked(at(&[TIME, TIME]), -1));
        cases.on(topic, format!("{topic}: packed, far future"), {
            let codec = Codec::Lz4;
            built(BatchOptions { codec, ..BatchOptions::default() }, &[TIME, FAR_FUTURE])
        });
    }
    cases.on("lat", "lat: good", good(Codec::None));
    cases.on("lat", "lat: packed", good(Codec::Zstd));
    cases.on("lat", "lat: packed with gaps", {
        raw(Codec::Gzip, 2, &packed(Codec::Gzip, &[simple(0), simple(2)].concat()))
    });
    cases.on("bounds", "bounds: too old", at(&[TIME]));
}

fn settings(cases: &mut Cases) {
    let records = [simple(0), record(1, None, b"v", 0, 0), simple(2), record(3, None, b"v", 0, 0)].concat();
    for codec in [Codec::None, Codec::Snappy] {
        let bytes = raw(codec, 4, &packed(codec, &records));
        cases.on("compact", format!("compact: {codec}: keys missing"), bytes);
        cases.on("compact", format!("compact: {codec}: all keys"), good(codec));
    }
    let mut late = built(BatchOptions::default(), &[TIME, FAR_FUTURE]);
    late = edited(late, |_| ());
    cases.on("compact", "compact: far future", late);
    for (name, size) in [("exactly", 300), ("one more than", 301)] {
        let value = vec![b'x'; size - BATCH_OVERHEAD - 9];
        let bytes = raw(Codec::None, 1, &record(0, None, &value, 0, 0));
        assert_eq!(bytes.len(), size);
        cases.on("small", format!("small: {name} the limit"), bytes);
    }
    let packed_small = raw(Codec::Gzip, 1, &packed(Codec::Gzip, &record(0, None, &[b'x'; 5000], 0, 0)));
    cases.on("small", "small: packed below the limit", packed_small);
    for codec in Codec::ALL {
        for topic in ["gzip", "none"] {
            cases.on(topic, format!("{topic}: {codec}"), good(codec));
        }
    }
    let gaps = raw(Codec::None, 2, &[simple(0), simple(2)].concat());
    cases.on("gzip", "gzip: gaps", gaps);
    for version in [3, 6, 7] {
        let case = Case {
            name: format!("zstd in version {version}"),
            topic: "plain",
            version,
            bytes: good(Codec::Zstd),
        };
        cases.0.push(case);
    }
}
