//! A produced batch: what validation lets through is stored, and can then be read, record by record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlog::record::batch::{self, BATCH_OVERHEAD, LOG_OVERHEAD};
use ringlog::record::compression::{CompressionLevel, Decompressor};
use ringlog::record::control::EndTxnMarker;
use ringlog::record::validate::{Rewriter, Rules, rewrite, validate};
use ringlog::record::{Codec, RecordBatch, TimestampType, batches};

const LIMIT: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let [mode, bytes @ ..] = input else { return };
    let mut decompressor = Decompressor::new();
    look(bytes, &mut decompressor);
    // Half of the runs get length and checksum put right, so that what lies behind them is reached.
    let mut bytes = bytes.to_vec();
    if mode & 1 == 1 && bytes.len() >= BATCH_OVERHEAD {
        let length = (bytes.len() - LOG_OVERHEAD) as i32;
        bytes[..8].fill(0);
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        batch::update_crc(&mut bytes);
    }
    append(&bytes, &rules(*mode), &mut decompressor);
});

fn rules(mode: u8) -> Rules {
    let target = Codec::ALL.get(usize::from(mode >> 4)).copied();
    Rules {
        message_bytes_max: LIMIT,
        segment_bytes: LIMIT,
        decompressed_bytes_max: LIMIT,
        compacted: mode & 2 != 0,
        timestamp_type: if mode & 4 == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime },
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        compression: target.map(|codec| (codec, CompressionLevel::default())),
    }
}

fn look(bytes: &[u8], decompressor: &mut Decompressor) {
    for batch in batches(bytes).flatten() {
        let mut scratch = Vec::new();
        if let Ok(records) = batch.records(decompressor, &mut scratch, LIMIT) {
            records
                .flatten()
                .for_each(|record| assert_eq!(record.headers.iter().count(), record.headers.len()));
        }
        let _ = EndTxnMarker::of_batch(&batch);
    }
}

fn append(bytes: &[u8], rules: &Rules, decompressor: &mut Decompressor) {
    let Ok(validated) = validate(bytes, 9, rules, 0, decompressor) else { return };
    let mut stored = Vec::new();
    if rewrite(&validated, bytes, rules, &mut Rewriter::default(), decompressor, &mut stored).is_err() {
        return;
    }
    validated.finish(&mut stored, 1000, 5);
    let batch = RecordBatch::parse(&stored).expect("stored");
    batch.check_crc().expect("stored");
    let mut scratch = Vec::new();
    let records = batch.records(decompressor, &mut scratch, LIMIT).expect("unpacked before");
    let count = records.enumerate().map(|(index, record)| {
        assert_eq!(record.expect("seen before").offset(batch.header()), 1000 + index as i64);
    });
    assert_eq!(count.count(), batch.header().records_count as usize);
}
