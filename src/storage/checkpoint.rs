//! The small text files of a log directory: checkpoints of offsets, `partition.metadata`, `meta.properties` and the mark of
//! a clean shutdown.
//!
//! Each is parsed from and formatted to text exactly as Kafka has it; who reads and renames files is elsewhere.
//! A checkpoint is a version line (0), a line with the number of entries, then one entry a line.

use std::collections::BTreeMap;
use std::fmt::Write;

use thiserror::Error;

use crate::protocol::Uuid;

/// Offsets up to which a partition's log is known to be on disk.
pub const RECOVERY_POINT_FILE: &str = "recovery-point-offset-checkpoint";
/// High watermarks.
pub const HIGH_WATERMARK_FILE: &str = "replication-offset-checkpoint";
/// Log start offsets that DeleteRecords or retention moved past the first segment's base.
pub const LOG_START_OFFSET_FILE: &str = "log-start-offset-checkpoint";
/// Offsets up to which a log has been compacted.
pub const CLEANER_OFFSET_FILE: &str = "cleaner-offset-checkpoint";
/// Present after a clean stop, removed at start.
pub const CLEAN_SHUTDOWN_FILE: &str = ".kafka_cleanshutdown";
/// The topic id of a partition, in its directory.
pub const PARTITION_METADATA_FILE: &str = "partition.metadata";
/// Who a log directory belongs to.
pub const META_PROPERTIES_FILE: &str = "meta.properties";

/// The text is not such a file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CheckpointError {
    #[error("version {0:?} is not supported")]
    Version(String),
    #[error("line {line} is malformed: {what}")]
    Malformed { line: usize, what: &'static str },
    #[error("{expected} entries announced, {found} found")]
    Count { expected: usize, found: usize },
    #[error("{0} is missing")]
    Missing(&'static str),
}

/// Offsets by topic and partition.
pub type OffsetCheckpoint = BTreeMap<(String, i32), i64>;

/// Parses a checkpoint of offsets; a later line for the same partition wins.
pub fn parse_offsets(text: &str) -> Result<OffsetCheckpoint, CheckpointError> {
    let mut offsets = OffsetCheckpoint::new();
    for entry in parse_lines(text)? {
        let (line, entry) = entry?;
        let mut parts = entry.split_ascii_whitespace();
        let parsed = (|| {
            let topic = parts.next()?;
            let partition = parts.next()?.parse::<i32>().ok()?;
            let offset = parts.next()?.parse::<i64>().ok()?;
            (partition >= 0 && offset >= 0 && parts.next().is_none())
                .then(|| (topic.to_owned(), partition, offset))
        })();
        let (topic, partition, offset) = parsed
            .ok_or(CheckpointError::Malformed { line, what: "not a topic, a partition and an offset" })?;
        offsets.insert((topic, partition), offset);
    }
    Ok(offsets)
}

/// The text of a checkpoint of offsets.
pub fn format_offsets<'a>(offsets: impl ExactSizeIterator<Item = (&'a str, i32, i64)>) -> String {
    let mut text = format!("0\n{}\n", offsets.len());
    for (topic, partition, offset) in offsets {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{topic} {partition} {offset}");
    }
    text
}

/// The entries of a checkpoint with their line numbers, their count checked at the end.
pub(super) fn parse_lines(
    text: &str,
) -> Result<impl Iterator<Item = Result<(usize, &str), CheckpointError>>, CheckpointError> {
    let mut lines = text.lines();
    let version = lines.next().unwrap_or_default();
    if version.trim() != "0" {
        return Err(CheckpointError::Version(version.chars().take(20).collect()));
    }
    let expected = lines.next().and_then(|line| line.trim().parse::<usize>().ok());
    let expected = expected.ok_or(CheckpointError::Malformed { line: 2, what: "not a number of entries" })?;
    let mut entries = lines.filter(|line| !line.trim().is_empty()).enumerate();
    let mut found = 0;
    let mut ended = false;
    Ok(std::iter::from_fn(move || {
        if let Some((index, line)) = entries.next() {
            found = index + 1;
            return Some(Ok((index + 3, line)));
        }
        let short = found != expected && !std::mem::replace(&mut ended, true);
        short.then_some(Err(CheckpointError::Count { expected, found }))
    }))
}

/// Parses `partition.metadata`.
pub fn parse_partition_metadata(text: &str) -> Result<Uuid, CheckpointError> {
    let mut lines = text.lines();
    match lines.next().and_then(|line| line.strip_prefix("version:")).map(str::trim) {
        Some("0") => {}
        other => return Err(CheckpointError::Version(other.unwrap_or_default().chars().take(20).collect())),
    }
    let id = lines
        .next()
        .and_then(|line| line.strip_prefix("topic_id:"))
        .ok_or(CheckpointError::Missing("topic_id"))?;
    let id: Uuid = id
        .trim()
        .parse()
        .map_err(|_| CheckpointError::Malformed { line: 2, what: "the topic id is no UUID" })?;
    if id.is_zero() {
        return Err(CheckpointError::Malformed { line: 2, what: "the topic id is zero" });
    }
    Ok(id)
}

/// The text of `partition.metadata`.
pub fn format_partition_metadata(topic_id: Uuid) -> String {
    format!("version: 0\ntopic_id: {topic_id}")
}

/// `meta.properties`, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    pub cluster_id: String,
    pub node_id: i32,
    /// Absent in directories formatted before directories had ids.
    pub directory_id: Option<Uuid>,
}

impl MetaProperties {
    pub fn parse(text: &str) -> Result<MetaProperties, CheckpointError> {
        let properties = parse_properties(text);
        let version = properties.get("version").map_or("0", String::as_str);
        if version != "1" {
            return Err(CheckpointError::Version(version.chars().take(20).collect()));
        }
        let find = |name: &'static str| properties.get(name).ok_or(CheckpointError::Missing(name));
        let node_id = find("node.id")?.parse().ok().filter(|id| *id >= 0);
        let directory_id = properties.get("directory.id").map(|id| id.parse()).transpose();
        Ok(MetaProperties {
            cluster_id: find("cluster.id")?.clone(),
            node_id: node_id.ok_or(CheckpointError::Missing("a valid node.id"))?,
            directory_id: directory_id.map_err(|_| CheckpointError::Missing("a valid directory.id"))?,
        })
    }

    pub fn format(&self) -> String {
        let mut text = format!("#\ncluster.id={}\n", self.cluster_id);
        if let Some(id) = self.directory_id {
            let _ = writeln!(text, "directory.id={id}");
        }
        let _ = write!(text, "node.id={}\nversion=1\n", self.node_id);
        text
    }
}

/// Java's properties format, as far as these files use it: comments, `=` or `:`, a backslash before a character.
fn parse_properties(text: &str) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with(['#', '!'])) {
        let Some(at) = line.find(['=', ':']) else { continue };
        let (name, value) = (line[..at].trim_end(), line[at + 1..].trim());
        properties.insert(name.to_owned(), value.replace('\\', ""));
    }
    properties
}

/// The text of the mark of a clean shutdown.
pub fn format_clean_shutdown(broker_epoch: i64) -> String {
    format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}")
}

/// The broker epoch of a clean shutdown's mark. The mark counts by being there; before Kafka 3.7 it was empty.
pub fn parse_clean_shutdown(text: &str) -> Option<i64> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    (value.get("version")?.as_i64()? == 0).then(|| value.get("brokerEpoch")?.as_i64())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_as_kafka_writes_them() {
        let text = "0\n3\n__consumer_offsets 13 0\nfx-lz4 0 41\nfx.txn 2 9223372036854775807\n";
        let offsets = parse_offsets(text).unwrap();
        assert_eq!(offsets[&("fx-lz4".to_owned(), 0)], 41);
        let again = format_offsets(
            offsets.iter().map(|((topic, partition), offset)| (topic.as_str(), *partition, *offset)),
        );
        assert_eq!(again, text);
        assert_eq!(format_offsets([].into_iter()), "0\n0\n");
        assert_eq!(parse_offsets("0\n0\n"), Ok(OffsetCheckpoint::new()));
    }

    #[test]
    fn damaged_offsets_are_refused() {
        for text in
            ["", "1\n0\n", "0\n", "0\n-1\n", "0\nx\n", "0\n1\nt 0\n", "0\n1\nt 0 1 2\n", "0\n1\nt -1 1\n"]
        {
            assert!(parse_offsets(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_offsets("0\n2\nt 0 1\n"), Err(CheckpointError::Count { expected: 2, found: 1 }));
        assert_eq!(
            parse_offsets("0\n1\nt 0 1\nt 1 1\n"),
            Err(CheckpointError::Count { expected: 1, found: 2 })
        );
        assert!(parse_offsets("0\n99999999999\n").is_err());
    }

    #[test]
    fn partition_metadata() {
        let text = "version: 0\ntopic_id: 3YsiQYQISu20JFPFRUuYqQ";
        let id = parse_partition_metadata(text).unwrap();
        assert_eq!(format_partition_metadata(id), text);
        for text in
            ["", "version: 1\ntopic_id: 3YsiQYQISu20JFPFRUuYqQ", "version: 0", "version: 0\ntopic_id: x"]
        {
            assert!(parse_partition_metadata(text).is_err(), "{text:?}");
        }
        let zero = format_partition_metadata(Uuid::ZERO);
        assert!(parse_partition_metadata(&zero).is_err());
    }

    #[test]
    fn meta_properties() {
        let text = "#\n#Sat Nov 21 14:32:03 UTC 2026\nnode.id=1\ndirectory.id=kI6bzTABRWGHKLhvgt7Ycg\nversion=1\n\
                    cluster.id=b8sbtOEnTXmWgf91F0lYKQ\n";
        let meta = MetaProperties::parse(text).unwrap();
        assert_eq!((meta.cluster_id.as_str(), meta.node_id), ("b8sbtOEnTXmWgf91F0lYKQ", 1));
        assert_eq!(meta.directory_id.unwrap().to_string(), "kI6bzTABRWGHKLhvgt7Ycg");
        assert_eq!(MetaProperties::parse(&meta.format()), Ok(meta));
        assert!(MetaProperties::parse("version=0\nbroker.id=1\n").is_err());
        assert!(MetaProperties::parse("version=1\ncluster.id=a\nnode.id=x\n").is_err());
    }

    #[test]
    fn clean_shutdown() {
        assert_eq!(parse_clean_shutdown("{\"version\":0,\"brokerEpoch\":13}"), Some(13));
        assert_eq!(format_clean_shutdown(13), "{\"version\":0,\"brokerEpoch\":13}");
        assert_eq!(parse_clean_shutdown(""), None);
        assert_eq!(parse_clean_shutdown("{\"version\":0}"), None);
    }

    proptest! {
        #[test]
        fn any_text_can_be_parsed(text in "[0-9a-z \n:=#\\\\_-]{0,80}") {
            let _ = (parse_offsets(&text), parse_partition_metadata(&text), MetaProperties::parse(&text));
            let _ = parse_clean_shutdown(&text);
        }
    }
}
