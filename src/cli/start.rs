//! Places in a log as people name them, for `consume --from` and `group reset-offsets`.

use std::collections::BTreeMap;

use super::client::Client;
use super::cluster::{self, EARLIEST, Isolation, LATEST, TopicPartition};
use super::failure::Failure;
use crate::record::rfc3339::parse_rfc3339;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Beginning,
    End,
    Offset(i64),
    /// The first record that is not earlier, in ms since 1970.
    Time(i64),
}

/// `beginning`, `end`, an offset, a time as RFC 3339 or `@` and milliseconds.
pub fn parse(text: &str) -> Result<Start, String> {
    match text {
        "beginning" | "earliest" => return Ok(Start::Beginning),
        "end" | "latest" => return Ok(Start::End),
        _ => {}
    }
    if let Some(ms) = text.strip_prefix('@') {
        let ms = ms.parse::<i64>().ok().filter(|ms| *ms >= 0);
        return ms.map(Start::Time).ok_or_else(|| "no milliseconds behind the @".to_owned());
    }
    if let Ok(offset) = text.parse::<i64>() {
        return if offset >= 0 { Ok(Start::Offset(offset)) } else { Err("a negative offset".to_owned()) };
    }
    // The negative numbers have other meanings on the wire.
    let time = parse_rfc3339(text).filter(|ms| *ms >= 0).map(Start::Time);
    time.ok_or_else(|| "neither beginning, end, an offset, a time (RFC 3339) nor @MILLISECONDS".to_owned())
}

/// The offsets that `start` means in each partition; a time behind the last record means the end.
pub fn resolve(
    client: &mut Client,
    partitions: &[TopicPartition],
    start: Start,
    isolation: Isolation,
) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
    let offsets =
        |client: &mut Client, wanted: &BTreeMap<_, _>| cluster::isolated_offsets(client, wanted, isolation);
    let at = |time| partitions.iter().map(|place| (place.clone(), time)).collect();
    match start {
        Start::Beginning => offsets(client, &at(EARLIEST)),
        Start::End => offsets(client, &at(LATEST)),
        Start::Offset(offset) => Ok(at(offset)),
        Start::Time(ms) => {
            let mut found = offsets(client, &at(ms))?;
            let missing = found.iter().filter(|(_, offset)| **offset < 0);
            let ends: BTreeMap<_, _> = missing.map(|(place, _)| (place.clone(), LATEST)).collect();
            if !ends.is_empty() {
                found.extend(offsets(client, &ends)?);
            }
            Ok(found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        for (text, start) in [
            ("beginning", Start::Beginning),
            ("latest", Start::End),
            ("42", Start::Offset(42)),
            ("@42", Start::Time(42)),
            ("1970-01-01T00:00:01Z", Start::Time(1000)),
        ] {
            assert_eq!(parse(text), Ok(start), "{text}");
        }
        for wrong in ["", "-1", "@", "@-5", "begin", "1969-12-31", "99999999999999999999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
