//! Input that lies: nothing panics, nothing is allocated that a limit does not cover, and what is accepted can be read.

use proptest::prelude::*;
use ringlog::record::batch::{self, BATCH_OVERHEAD, LOG_OVERHEAD};
use ringlog::record::compression::{CompressionError, CompressionLevel, Compressor, Decompressor};
use ringlog::record::control::EndTxnMarker;
use ringlog::record::records::{RecordError, Records};
use ringlog::record::validate::{Rules, validate};
use ringlog::record::{Codec, RecordBatch, batches};

use crate::cases::{cases, good};
use crate::counting::allocated;
use crate::{NOW, append, rules};

const LIMIT: usize = 1 << 20;

fn limited(topic: &str) -> Rules {
    Rules { decompressed_bytes_max: LIMIT, ..rules(topic) }
}

/// What `validate` lets through holds as many records as it says, in order, within its offsets; it may be stored.
fn check(bytes: &[u8], decompressor: &mut Decompressor) -> bool {
    for topic in ["plain", "compact"] {
        let rules = limited(topic);
        let Ok(validated) = validate(bytes, 9, &rules, NOW, decompressor) else { continue };
        let stored = append(bytes, 9, &rules, NOW, None).expect("valid a moment ago");
        let batch = RecordBatch::parse(&stored).expect("stored");
        let mut scratch = Vec::new();
        let records = batch.records(decompressor, &mut scratch, LIMIT).expect("unpacked before");
        let mut count = 0;
        let mut latest = -1;
        for record in records {
            let record = record.expect("seen before");
            assert_eq!(record.offset_delta, count);
            latest = latest.max(record.timestamp(batch.header()));
            count += 1;
        }
        assert_eq!(count, batch.header().records_count);
        assert_eq!((latest, latest), (validated.max_timestamp, batch.header().max_timestamp));
        return true;
    }
    // Refused or not, it can be looked at.
    for batch in batches(bytes).flatten() {
        let mut scratch = Vec::new();
        if let Ok(records) = batch.records(decompressor, &mut scratch, LIMIT) {
            records
                .flatten()
                .for_each(|record| assert_eq!(record.headers.iter().count(), record.headers.len()));
        }
        let _ = EndTxnMarker::of_batch(&batch);
        assert!(scratch.capacity() <= 2 * LIMIT);
    }
    false
}

#[test]
fn cut_and_flipped_at_every_byte() {
    let mut decompressor = Decompressor::new();
    for codec in Codec::ALL {
        let bytes = good(codec);
        for at in 0..bytes.len() {
            assert!(!check(&bytes[..at], &mut decompressor), "{codec} cut at {at}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                // Leader epoch and, as far as it stays in range, nothing else may change under the same checksum.
                let accepted = check(&flipped, &mut decompressor);
                assert!(!accepted || (12..16).contains(&at), "{codec} bit {bit} of byte {at}");
                // The same with the checksum set right.
                if at >= BATCH_OVERHEAD || (21..BATCH_OVERHEAD).contains(&at) {
                    batch::update_crc(&mut flipped);
                    check(&flipped, &mut decompressor);
                }
            }
        }
    }
}

#[test]
fn every_case_cut_anywhere() {
    let mut decompressor = Decompressor::new();
    for case in cases() {
        for at in (0..case.bytes.len()).step_by(3) {
            // As a batch that is whole: its length and checksum match what is left.
            let mut bytes = case.bytes[..at].to_vec();
            check(&bytes, &mut decompressor);
            if at > BATCH_OVERHEAD {
                bytes[8..12].copy_from_slice(&((at - LOG_OVERHEAD) as i32).to_be_bytes());
                batch::update_crc(&mut bytes);
                check(&bytes, &mut decompressor);
            }
        }
    }
}

#[test]
fn a_bomb_costs_no_more_than_the_limit() {
    let zeros = vec![0; 64 << 20];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut bomb = Vec::new();
        Compressor::new().compress(codec, CompressionLevel::default(), &zeros, &mut bomb).expect("memory");
        let mut decompressor = Decompressor::new();
        let (result, bytes) = allocated(|| decompressor.decompress(codec, &bomb, &mut Vec::new(), LIMIT));
        assert_eq!(result, Err(CompressionError::TooLarge { limit: LIMIT }), "{codec}");
        assert!(bytes < 6 * LIMIT, "{codec}: {bytes}");
    }
    // A raw block of snappy's that claims 4 GiB.
    let claim = [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0; 100]].concat();
    let (result, bytes) =
        allocated(|| Decompressor::new().decompress(Codec::Snappy, &claim, &mut Vec::new(), LIMIT));
    assert!(result.is_err() && bytes < 1 << 16, "{bytes}");
}

#[test]
fn a_count_is_not_believed() {
    let bytes = good(Codec::None);
    let payload = &bytes[BATCH_OVERHEAD..];
    let (last, allocations) = allocated(|| Records::new(payload, i32::MAX).unwrap().last());
    assert!(matches!(last, Some(Err(RecordError::Malformed(_) | RecordError::Truncated))), "{last:?}");
    assert_eq!(allocations, 0);
    assert_eq!(Records::new(payload, -1).unwrap_err(), RecordError::NegativeCount(-1));
    assert_eq!(Records::new(payload, 0).unwrap().last(), Some(Err(RecordError::TrailingBytes)));
}

#[test]
fn validation_allocates_nothing_once_warm() {
    let mut decompressor = Decompressor::new();
    let rules = limited("compact");
    for codec in Codec::ALL {
        let bytes = good(codec);
        validate(&bytes, 9, &rules, NOW, &mut decompressor).unwrap();
        let (result, allocations) = allocated(|| validate(&bytes, 9, &rules, NOW, &mut decompressor));
        assert!(result.is_ok());
        assert_eq!(allocations, 0, "{codec}");
    }
}

#[test]
fn the_named_faults_are_bounded() {
    use ringlog::record::{BatchBuilder, BatchOptions};
    let mut builder = BatchBuilder::new(BatchOptions { codec: Codec::Zstd, ..BatchOptions::default() });
    for _ in 0..50_000 {
        builder.append(0, None, None, &[]);
    }
    let mut bytes = Vec::new();
    builder.finish(&mut Compressor::new(), &mut bytes).unwrap();
    let rejection = validate(&bytes, 9, &limited("compact"), NOW, &mut Decompressor::new()).unwrap_err();
    assert_eq!((rejection.error.code(), rejection.records.len()), (87, 1000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_payload(codec in 0usize..5, count in -2i32..20, payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = good(Codec::None)[..BATCH_OVERHEAD].to_vec();
        bytes.extend_from_slice(&payload);
        let length = (bytes.len() - LOG_OVERHEAD) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[22] = Codec::ALL[codec] as u8;
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        batch::update_crc(&mut bytes);
        check(&bytes, &mut Decompressor::new());
    }

    #[test]
    fn damage_inside_a_stream(codec in 1usize..5, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = good(Codec::ALL[codec]);
        for (at, value) in edits {
            let at = BATCH_OVERHEAD + at.index(bytes.len() - BATCH_OVERHEAD);
            bytes[at] = value;
        }
        batch::update_crc(&mut bytes);
        check(&bytes, &mut Decompressor::new());
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes, &mut Decompressor::new());
    }

    /// What is packed comes back, at any size around the codecs' block sizes.
    #[test]
    fn round_trip(codec in 1usize..5, size in prop_oneof![0usize..100, 32_700usize..32_800, 65_500usize..65_600, 0usize..300_000], noise in any::<u32>(), shift in 0u32..32) {
        let mut word = noise | 1;
        let input: Vec<u8> = std::iter::repeat_with(|| {
            word ^= word << 13;
            word ^= word >> 17;
            word ^= word << 5;
            (word >> shift) as u8
        }).take(size).collect();
        let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
        Compressor::new().compress(Codec::ALL[codec], CompressionLevel::default(), &input, &mut packed).unwrap();
        Decompressor::new().decompress(Codec::ALL[codec], &packed, &mut unpacked, LIMIT).unwrap();
        prop_assert_eq!(input, unpacked);
    }
}
