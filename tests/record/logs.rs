//! Files a real Kafka wrote: see `tests/fixtures/kafka/README.md`.

use ringlog::record::compression::{Compressor, DECOMPRESSED_BYTES_MAX_DEFAULT, Decompressor};
use ringlog::record::control::EndTxnMarker;
use ringlog::record::{
    BatchBuilder, BatchHeader, BatchOptions, Codec, Record, RecordBatch, TimestampType, batches,
};
use ringlog::storage::checkpoint::parse_partition_metadata;
use ringlog::storage::cleaner::filter::{Filter, FilterOptions, decide, keep_record};
use ringlog::storage::cleaner::offset_map::OffsetMap;
use ringlog::storage::leader_epoch::LeaderEpochs;
use ringlog::storage::offset_index::{self, Indexer, OffsetIndex};
use ringlog::storage::producer_state::{
    AppendOrigin, MarkerAppend, ProducerAppend, ProducerState, ProducerStateConfig, SequenceCheck,
    read_snapshot,
};
use ringlog::storage::time_index::{self, TimeIndex, TimestampOffset};

use crate::read;

macro_rules! fixture {
    ($name:literal) => {
        &include_bytes!(concat!("../fixtures/kafka/", $name))[..]
    };
}

fn all(log: &[u8]) -> Vec<RecordBatch<'_>> {
    let mut batches = batches(log);
    let all: Vec<_> = batches.by_ref().map(|batch| batch.unwrap()).collect();
    assert_eq!(batches.consumed(), log.len());
    for batch in &all {
        batch.check_crc().unwrap();
    }
    all
}

/// The 41 records of the console producer.
fn check_lines(log: &[u8], codec: Codec) {
    let mut index = 0;
    for batch in all(log) {
        assert_eq!(batch.header().codec(), Some(codec));
        let (header, records) = read(batch.bytes());
        assert_eq!(records.len(), header.records_count as usize);
        for (offset, (timestamp, key, value, headers)) in records {
            assert_eq!(offset, index);
            assert!((1_790_000_000_000..1_800_000_000_000).contains(&timestamp));
            let text = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8(bytes).unwrap());
            if index == 40 {
                assert_eq!(text(key).as_deref(), Some("key-1"));
                assert!(headers.contains("Header { key: [104, 78, 117, 108, 108]"));
            } else {
                let line = "lorem ipsum dolor sit amet lorem ipsum";
                assert_eq!(text(key), Some(format!("key-{}", index % 7)));
                assert_eq!(text(value), Some(format!("value {index} {line} {}", index * index)));
                assert_eq!(headers.matches("Header").count(), 2);
            }
            index += 1;
        }
    }
    assert_eq!(index, 41);
}

#[test]
fn every_codec_of_java() {
    check_lines(fixture!("none.log"), Codec::None);
    check_lines(fixture!("gzip.log"), Codec::Gzip);
    check_lines(fixture!("snappy.log"), Codec::Snappy);
    check_lines(fixture!("lz4.log"), Codec::Lz4);
    check_lines(fixture!("zstd.log"), Codec::Zstd);
    check_lines(fixture!("re-uncompressed.log"), Codec::None);
    check_lines(fixture!("re-gzip.log"), Codec::Gzip);
    check_lines(fixture!("re-snappy.log"), Codec::Snappy);
    check_lines(fixture!("re-lz4.log"), Codec::Lz4);
    check_lines(fixture!("re-zstd.log"), Codec::Zstd);
    check_lines(fixture!("lat.log"), Codec::Lz4);
    assert!(
        all(fixture!("lat.log")).iter().all(|b| b.header().timestamp_type() == TimestampType::LogAppendTime)
    );
}

/// What the builder makes of the records of a batch is that batch.
fn rebuild(batch: &RecordBatch<'_>) -> Vec<u8> {
    let header = batch.header();
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: header.base_offset,
        partition_leader_epoch: header.partition_leader_epoch,
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        transactional: header.is_transactional(),
        control: header.is_control(),
        ..BatchOptions::default()
    });
    let (mut decompressor, mut scratch) = (Decompressor::new(), Vec::new());
    for record in batch.records(&mut decompressor, &mut scratch, DECOMPRESSED_BYTES_MAX_DEFAULT).unwrap() {
        let record = record.unwrap();
        let timestamp = record.timestamp(header);
        builder.append_with_offset(
            record.offset(header),
            timestamp,
            record.key,
            record.value,
            record.headers.iter(),
        );
    }
    let mut out = Vec::new();
    builder.finish(&mut Compressor::new(), &mut out).unwrap();
    out
}

#[test]
fn the_builder_writes_javas_bytes() {
    let mut rebuilt = 0;
    for log in [
        fixture!("none.log"),
        fixture!("txn.log"),
        fixture!("consumer-offsets.log"),
        fixture!("indexed-0/00000000000000000000.log"),
    ] {
        for batch in all(log) {
            assert_eq!(rebuild(&batch), batch.bytes());
            rebuilt += 1;
        }
    }
    assert!(rebuilt > 50, "{rebuilt}");
}

#[test]
fn transactions_and_their_markers() {
    let mut state = ProducerState::new(ProducerStateConfig::default());
    let mut completed = 0;
    for batch in all(fixture!("txn.log")) {
        let header = batch.header();
        assert!(header.is_transactional());
        if let Some((marker, timestamp)) = EndTxnMarker::of_batch(&batch).unwrap() {
            assert!(marker.commit);
            let append = MarkerAppend {
                producer_id: header.producer_id,
                producer_epoch: header.producer_epoch,
                marker,
                offset: header.base_offset,
                timestamp,
                transaction_version: 2,
            };
            assert_eq!(state.check_marker(&append, AppendOrigin::Coordinator), Ok(()));
            let txn = state.append_marker(&append).expect("each had data");
            state.complete_txn(&txn);
            completed += 1;
        } else {
            let append = ProducerAppend::new(header, header.base_offset, header.max_timestamp).unwrap();
            assert_eq!(state.check(&append, AppendOrigin::Client), Ok(SequenceCheck::Append));
            state.append(&append);
        }
    }
    assert_eq!((completed, state.end_offset(), state.first_unstable_offset().is_some()), (2, 62, true));
    state.on_high_watermark(62);
    assert_eq!(state.first_unstable_offset(), None);
}

#[test]
fn the_indexes_of_a_segment() {
    let log = fixture!("indexed-0/00000000000000000000.log");
    let (mut offsets, mut times) = (OffsetIndex::new(0, 10 << 20), TimeIndex::new(0, 10 << 20));
    let mut indexer = Indexer::new(400);
    let mut position = 0;
    for batch in all(log) {
        let header = batch.header();
        indexer.on_batch(
            header.last_offset(),
            header.max_timestamp,
            position,
            header.size(),
            &mut offsets,
            &mut times,
        );
        position += header.size() as u32;
    }
    indexer.on_close(&mut times);
    assert_eq!(offsets.bytes(), fixture!("indexed-0/00000000000000000000.index"));
    assert_eq!(times.bytes(), fixture!("indexed-0/00000000000000000000.timeindex"));
    assert_eq!(offset_index::check(offsets.bytes(), log.len() as u64), Ok(()));
    assert_eq!(time_index::check(times.bytes()), Ok(()));
    for target in 0..400 {
        let found = offsets.lookup(target);
        let batch = BatchHeader::parse(&log[found.position as usize..]).unwrap();
        assert!(batch.base_offset <= target && batch.last_offset() >= found.offset);
    }
    let largest = indexer.largest();
    assert_eq!(time_index::lookup(times.bytes(), 0, i64::MAX), largest);
    assert_eq!(times.lookup(0), TimestampOffset { timestamp: -1, offset: 0 });
}

#[test]
fn the_other_files_of_a_partition() {
    let snapshot = fixture!("indexed-0/00000000000000000400.snapshot");
    let entries = read_snapshot(snapshot).unwrap();
    let mut state = ProducerState::new(ProducerStateConfig::default());
    for batch in all(fixture!("indexed-0/00000000000000000000.log")) {
        let header = batch.header();
        state.append(&ProducerAppend::new(header, header.base_offset, header.max_timestamp).unwrap());
    }
    assert_eq!((state.end_offset(), entries.len()), (400, 1));
    assert_eq!(state.snapshot(), snapshot);

    let text = |bytes: &'static [u8]| std::str::from_utf8(bytes).unwrap();
    let epochs = text(fixture!("indexed-0/leader-epoch-checkpoint"));
    assert_eq!(LeaderEpochs::parse(epochs).unwrap().format(), epochs);
    assert!(parse_partition_metadata(text(fixture!("indexed-0/partition.metadata"))).is_ok());
}

/// Runs our cleaner's parts over what Kafka's cleaner got; the time of the delete horizon is taken from its result.
fn clean(dirty: &[u8], cleaned: &[u8]) -> Vec<u8> {
    let horizon =
        all(cleaned).iter().find_map(|batch| batch.header().delete_horizon_ms()).expect("a tombstone");
    let mut map = OffsetMap::new(1 << 16, 0.9, [7, 9]);
    let mut state = ProducerState::new(ProducerStateConfig::default());
    for batch in all(dirty) {
        let header = batch.header();
        state.append(&ProducerAppend::new(header, header.base_offset, header.max_timestamp).unwrap());
        for (offset, (_, key, ..)) in read(batch.bytes()).1 {
            map.put(&key.unwrap(), offset).unwrap();
        }
    }
    let (mut filter, mut out) = (Filter::new(), Vec::new());
    for batch in all(dirty) {
        let now_ms = horizon - 1_000_000;
        let decision = decide(batch.header(), false, state.entry(batch.header().producer_id), now_ms);
        let options = FilterOptions {
            now_ms,
            delete_retention_ms: 1_000_000,
            decision,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX_DEFAULT,
        };
        let keep = |header: &BatchHeader, record: &Record<'_>| keep_record(&map, header, record, now_ms);
        filter.filter_batch(&batch, &options, keep, &mut out).unwrap();
    }
    out
}

#[test]
fn cleaning_leaves_what_kafka_leaves() {
    let cleaned = fixture!("cleaned-none.log");
    assert_eq!(clean(fixture!("dirty-none.log"), cleaned), cleaned);
    let cleaned = fixture!("cleaned-lz4.log");
    let ours = clean(fixture!("dirty-lz4.log"), cleaned);
    let (ours, kafkas) = (all(&ours), all(cleaned));
    assert_eq!(ours.len(), kafkas.len());
    for (ours, kafkas) in ours.iter().zip(kafkas) {
        let ((our_header, our_records), (mut kafka_header, kafka_records)) =
            (read(ours.bytes()), read(kafkas.bytes()));
        // Another compressor, other bytes.
        (kafka_header.batch_length, kafka_header.crc) = (our_header.batch_length, our_header.crc);
        assert_eq!((our_header, our_records), (kafka_header, kafka_records));
    }
}
