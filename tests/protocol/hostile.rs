//! Bytes that nobody should send: each is refused with a typed error, without a panic, and nothing is allocated for it.

use ringlog::protocol::{DecodeError, DecodeErrorKind as Kind};

use crate::codec::{self, Codec};
use crate::counting::allocated;
use crate::sample::{Choices, Mark, MarkKind, Sample, noise, put_length, sample, varint};
use crate::schema::Message;

/// A few well-filled samples of every message in every version.
fn each_sample(mut check: impl FnMut(&Message, &Codec, i16, &Sample)) {
    codec::each(|message, codec, version| {
        for seed in 0..3 {
            let noise = noise(seed * 1000 + version as u64, 1500);
            let mut sample = sample(message, version, &mut Choices::new(&noise));
            // Some draws are huge; every byte of them costs a run.
            if sample.bytes.len() > 2000 {
                sample = crate::sample::sample(message, version, &mut Choices::new(&noise[..120]));
            }
            check(message, codec, version, &sample);
        }
    });
}

/// Decodes what should not be decodable, and checks that this took no memory.
fn refused(codec: &Codec, version: i16, bytes: &[u8]) -> DecodeError {
    let (result, allocated) = allocated(|| (codec.decode)(bytes, version));
    assert_eq!(allocated, 0, "{} version {version} allocated", codec.name);
    match result {
        Err(error) => error,
        Ok(()) => panic!("{} version {version} took {bytes:x?}", codec.name),
    }
}

/// The sample with the length at `mark` replaced, and `tail` instead of what follows if there is one.
fn lie(sample: &Sample, mark: &Mark, length: &[u8], tail: Option<&[u8]>) -> Vec<u8> {
    let rest = &sample.bytes[mark.position + mark.width..];
    [&sample.bytes[..mark.position], length, tail.unwrap_or(rest)].concat()
}

fn length(mark: &Mark, length: Option<usize>) -> Vec<u8> {
    let mut out = Vec::new();
    put_length(&mut out, length, mark.flexible, mark.width.min(4));
    out
}

#[test]
fn cut_at_every_byte() {
    each_sample(|_, codec, version, sample| {
        for end in 0..sample.bytes.len() {
            refused(codec, version, &sample.bytes[..end]);
        }
    });
}

#[test]
fn bytes_behind_the_end() {
    each_sample(|_, codec, version, sample| {
        let error = refused(codec, version, &[&*sample.bytes, &[0]].concat());
        assert_eq!(error.kind, Kind::TrailingBytes(1), "{}", codec.name);
    });
}

#[test]
fn versions_that_are_not_served() {
    codec::each(|message, codec, _| {
        for version in [message.versions.min - 1, message.versions.max + 1, i16::MIN, i16::MAX] {
            assert_eq!(refused(codec, version, &[0; 64]).kind, Kind::UnsupportedVersion(version));
        }
    });
}

#[test]
fn lengths_beyond_the_end() {
    each_sample(|_, codec, version, sample| {
        for mark in sample.marks.iter().filter(|mark| mark.kind != MarkKind::Tags) {
            let most = if mark.width == 2 && !mark.flexible { 32_767 } else { i32::MAX as usize };
            let left = sample.bytes.len() - mark.position - mark.width;
            for count in [left + 1, 100_000, most] {
                if count > most {
                    continue;
                }
                let error = refused(codec, version, &lie(sample, mark, &length(mark, Some(count)), None));
                let expected = match mark.kind {
                    MarkKind::Array => matches!(error.kind, Kind::TooManyElements { .. }),
                    _ => matches!(error.kind, Kind::Truncated { .. } | Kind::StringTooLong(_)),
                };
                assert!(mark.tagged || expected, "{} version {version}: {error}, {mark:?}", codec.name);
            }
        }
    });
}

#[test]
fn negative_lengths() {
    each_sample(|_, codec, version, sample| {
        for mark in sample.marks.iter().filter(|mark| !mark.flexible) {
            for negative in [-2i32, -1000, i32::MIN] {
                let bytes = negative.to_be_bytes();
                // A string's length of two bytes is cut to its low ones, which are negative but for the last.
                let bytes = &bytes[4 - mark.width..];
                if bytes == [0, 0] {
                    continue;
                }
                let error = refused(codec, version, &lie(sample, mark, bytes, None));
                assert!(matches!(error.kind, Kind::NegativeLength(_)), "{} {version}: {error}", codec.name);
            }
        }
    });
}

#[test]
fn null_where_there_is_none() {
    each_sample(|_, codec, version, sample| {
        let marks = sample.marks.iter().filter(|mark| mark.kind != MarkKind::Tags && !mark.nullable);
        for mark in marks {
            let error = refused(codec, version, &lie(sample, mark, &length(mark, None), None));
            let expected = mark.tagged || error.kind == Kind::UnexpectedNull;
            assert!(expected, "{} version {version}: {error}", codec.name);
        }
    });
}

#[test]
fn a_million_and_one_elements_that_are_all_there() {
    let zeros = vec![0; 1_000_001 * 17];
    codec::each(|message, codec, version| {
        let sample = sample(message, version, &mut Choices::new(&noise(7, 300)));
        let marks = sample.marks.iter().filter(|mark| mark.kind == MarkKind::Array && !mark.tagged);
        for mark in marks.take(3) {
            let bytes = lie(&sample, mark, &length(mark, Some(1_000_001)), Some(&zeros));
            let kind = refused(codec, version, &bytes).kind;
            assert_eq!(kind, Kind::TooManyElements { count: 1_000_001, limit: 1_000_000 }, "{}", codec.name);
        }
    });
}

#[test]
fn ten_thousand_and_one_tags_that_are_all_there() {
    each_sample(|_, codec, version, sample| {
        // The last count of tags is the message's own, and nothing follows it but tags.
        let Some(mark) = sample.marks.iter().rev().find(|mark| mark.kind == MarkKind::Tags && !mark.tagged)
        else {
            return;
        };
        for count in [10_000u32, 10_001, u32::MAX] {
            let mut length = Vec::new();
            varint(&mut length, count);
            let tags: Vec<u8> = (0..count.min(10_001)).flat_map(|_| [0x7f, 0]).collect();
            let bytes = lie(sample, mark, &length, Some(&tags));
            if count == 10_000 {
                assert_eq!((codec.decode)(&bytes, version), Ok(()), "{} version {version}", codec.name);
            } else {
                assert_eq!(refused(codec, version, &bytes).kind, Kind::TooManyTags(count as usize));
            }
        }
    });
}

#[test]
fn tags_whose_size_is_a_lie() {
    use ringlog::protocol::Message as _;
    use ringlog::protocol::messages::fetch_request::FetchRequest;
    let bytes = FetchRequest { cluster_id: Some("c".into()), ..Default::default() }.to_bytes(12);
    // Tag 0, three bytes: a compact string of one.
    let at = bytes.len() - 4;
    assert_eq!(bytes[at..], [0, 2, 2, b'c']);
    let refused = |size: u8, value: &[u8]| {
        let bytes = [&bytes[..at], &[0, size], value].concat();
        FetchRequest::decode_exact(&bytes, 12).map(|_| ()).map_err(|error| error.kind)
    };
    assert_eq!(refused(2, b"\x02c"), Ok(()));
    assert_eq!(refused(3, b"\x02c\0"), Err(Kind::TagSize { declared: 3, used: 2 }));
    assert_eq!(refused(1, b"\x02"), Err(Kind::Truncated { needed: 1, left: 0 }));
}

/// Bytes flipped at random are either refused or give a message that is a fixed point: its own bytes decode to themselves.
#[test]
fn flipped_bytes() {
    each_sample(|message, codec, version, sample| {
        let flips = noise(version as u64 + message.name.len() as u64, 300);
        for flip in flips.chunks_exact(3) {
            let mut bytes = sample.bytes.clone();
            if bytes.is_empty() {
                continue;
            }
            let at = (usize::from(flip[0]) << 8 | usize::from(flip[1])) % bytes.len();
            bytes[at] ^= flip[2];
            let (result, allocated) = allocated(|| (codec.decode)(&bytes, version));
            assert_eq!(allocated, 0);
            if result.is_ok() {
                let once = (codec.round_trip)(&bytes, version).expect("it decoded before");
                assert_eq!((codec.round_trip)(&once, version).as_deref(), Ok(&*once), "{}", codec.name);
            }
        }
    });
}
