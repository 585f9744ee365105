//! Images and changes on disk: text files of lines, each a CRC-32C in hexadecimal, a blank, and one JSON value. JSON, since
//! these files are small, read once a start, and looked at by people when something is wrong; etcd holds the same values. The
//! form is versioned by the header that every file begins with.
//!
//! - A *snapshot* is a header, a line a topic, and an end that counts them; it is valid whole or not at all.
//! - A *journal* is a header and a line a write. A write begins only when the one before it is on stable media, so a crash
//!   can harm the last line alone.
//!
//! What a crash leaves of a line is an early end of the file, or sectors of zeros in the line, which JSON never has. Any other
//! difference is damage: it is told with file and offset and never skipped.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::protocol::Uuid;

use super::change::{Change, uuid_text};
use super::image::{Broker, ClusterImage, Partition, QuotaEntity, ResourceKind, Topic};

const FORMAT: u32 = 1;
/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;
/// Eight digits and a blank.
const PREFIX_BYTES: usize = 9;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JournalLine {
    Journal { format: u32, cluster_id: String, after: u64 },
    Write { first: u64, changes: Vec<Change> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SnapshotLine {
    Snapshot {
        format: u32,
        cluster_id: String,
        node_id: i32,
        revision: u64,
        next_producer_id: i64,
        features: BTreeMap<String, i16>,
        brokers: Vec<Broker>,
        broker_configs: BTreeMap<String, BTreeMap<String, String>>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        resource_configs: BTreeMap<ResourceKind, BTreeMap<String, BTreeMap<String, String>>>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        client_quotas: Vec<(QuotaEntity, BTreeMap<String, String>)>,
    },
    Topic {
        name: String,
        #[serde(with = "uuid_text")]
        id: Uuid,
        configs: BTreeMap<String, String>,
        partitions: Vec<PartitionLine>,
    },
    End {
        topics: usize,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct PartitionLine {
    leader: i32,
    leader_epoch: i32,
    partition_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    #[serde(with = "uuid_text")]
    directory: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
}

/// Bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub offset: usize,
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at offset {}: {}", self.offset, self.reason)
    }
}

fn damage(offset: usize, reason: impl Into<String>) -> Damage {
    Damage { offset, reason: reason.into() }
}

// ---- writing ----

/// One change as it stands in a journal's line.
pub fn change_to_json(change: &Change) -> String {
    to_json(change)
}

/// The line of one write: changes from number `first` on.
pub fn write_line(first: u64, changes: &[String]) -> Vec<u8> {
    let json = format!("{{\"write\":{{\"first\":{first},\"changes\":[{}]}}}}", changes.join(","));
    let mut out = Vec::with_capacity(json.len() + PREFIX_BYTES + 1);
    push_line(&mut out, &json);
    out
}

/// The first line of a journal whose changes follow revision `after`.
pub fn journal_header(cluster_id: &str, after: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let line = JournalLine::Journal { format: FORMAT, cluster_id: cluster_id.to_owned(), after };
    push_line(&mut out, &to_json(&line));
    out
}

/// Whether there is more than a header.
pub fn holds_changes(journal: &[u8]) -> bool {
    journal.iter().position(|&byte| byte == b'\n').is_some_and(|end| end + 1 < journal.len())
}

pub fn snapshot(image: &ClusterImage) -> Vec<u8> {
    let mut out = Vec::new();
    let header = SnapshotLine::Snapshot {
        format: FORMAT,
        cluster_id: image.cluster_id.to_string(),
        node_id: image.node_id,
        revision: image.revision,
        next_producer_id: image.next_producer_id,
        features: image.features.clone(),
        brokers: image.brokers.values().cloned().collect(),
        broker_configs: image.broker_configs.clone(),
        resource_configs: image.resource_configs.clone(),
        client_quotas: image.client_quotas.iter().map(|(who, quota)| (who.clone(), quota.clone())).collect(),
    };
    push_line(&mut out, &to_json(&header));
    for topic in image.topics() {
        push_line(&mut out, &to_json(&topic_line(topic)));
    }
    push_line(&mut out, &to_json(&SnapshotLine::End { topics: image.topic_count() }));
    out
}

fn topic_line(topic: &Topic) -> SnapshotLine {
    let partition = |partition: &Partition| PartitionLine {
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        replicas: partition.replicas.clone(),
        isr: partition.isr.clone(),
        directory: partition.directory,
        shard: partition.shard,
    };
    SnapshotLine::Topic {
        name: topic.name.to_string(),
        id: topic.id,
        configs: topic.configs.clone(),
        partitions: topic.partitions.iter().map(partition).collect(),
    }
}

fn push_line(out: &mut Vec<u8>, json: &str) {
    writeln!(out, "{:08x} {json}", crc32c::crc32c(json.as_bytes()))
        .expect("a vector takes all that is written");
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("these types have no value that JSON cannot hold")
}

// ---- reading ----

/// The image of a snapshot.
pub fn read_snapshot(bytes: &[u8]) -> Result<ClusterImage, Damage> {
    let mut image: Option<ClusterImage> = None;
    let mut offset = 0;
    while offset < bytes.len() {
        let end = bytes.iter().skip(offset).position(|&byte| byte == b'\n').map(|length| offset + length);
        let end = end.ok_or_else(|| damage(offset, "the last line is cut"))?;
        let json = check_line(&bytes[offset..end]).ok_or_else(|| damage(offset, "the checksum is wrong"))?;
        let line = serde_json::from_str(json).map_err(|error| damage(offset, error.to_string()))?;
        match (line, &mut image) {
            (line @ SnapshotLine::Snapshot { .. }, None) => {
                image = Some(image_of_header(line).map_err(|reason| damage(offset, reason))?);
            }
            (SnapshotLine::Topic { name, id, configs, partitions }, Some(image)) => {
                let partitions = partitions.into_iter().map(Partition::from).collect();
                image.insert_topic(Topic { name: name.into(), id, partitions, configs });
            }
            (SnapshotLine::End { topics }, Some(found)) => {
                if topics != found.topic_count() {
                    let reason = format!("{} topics, but {topics} were written", found.topic_count());
                    return Err(damage(offset, reason));
                }
                if end + 1 != bytes.len() {
                    return Err(damage(end + 1, "there is something behind the end"));
                }
                return image.ok_or_else(|| damage(0, "there is no header"));
            }
            _ => return Err(damage(offset, "a line in the wrong place")),
        }
        offset = end + 1;
    }
    Err(damage(offset, "the end is missing"))
}

fn image_of_header(line: SnapshotLine) -> Result<ClusterImage, String> {
    let SnapshotLine::Snapshot {
        format,
        cluster_id,
        node_id,
        revision,
        next_producer_id,
        features,
        brokers,
        broker_configs,
        resource_configs,
        client_quotas,
    } = line
    else {
        return Err("there is no header".to_owned());
    };
    check_format(format)?;
    let mut image = ClusterImage::empty(&cluster_id, node_id);
    image.revision = revision;
    image.next_producer_id = next_producer_id;
    image.features = features;
    image.brokers = brokers.into_iter().map(|broker| (broker.id, broker)).collect();
    image.broker_configs = broker_configs;
    image.resource_configs = resource_configs;
    image.client_quotas = client_quotas.into_iter().collect();
    Ok(image)
}

fn check_format(format: u32) -> Result<(), String> {
    match format {
        FORMAT => Ok(()),
        other => {
            Err(format!("format {other} was written by another version, this one reads format {FORMAT}"))
        }
    }
}

impl From<PartitionLine> for Partition {
    fn from(line: PartitionLine) -> Partition {
        Partition {
            leader: line.leader,
            leader_epoch: line.leader_epoch,
            partition_epoch: line.partition_epoch,
            replicas: line.replicas,
            isr: line.isr,
            directory: line.directory,
            shard: line.shard,
        }
    }
}

/// What a journal held besides the changes that were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalEnd {
    /// Where the next line goes.
    pub len: usize,
    /// Bytes behind that, of a write that a crash cut off; nothing in it was ever acknowledged.
    pub torn_bytes: usize,
}

/// Applies the changes that `image` does not have yet.
pub fn replay_journal(bytes: &[u8], image: &mut ClusterImage) -> Result<JournalEnd, Damage> {
    let mut offset = 0;
    loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(JournalEnd { len: offset, torn_bytes: 0 });
        }
        let length = rest.iter().position(|&byte| byte == b'\n');
        let (json, length) = match length.and_then(|length| Some((check_line(&rest[..length])?, length + 1)))
        {
            Some(whole) => whole,
            // Only the end of the line is missing or wrong: what was written is all there.
            None if length.is_none() && check_unended(rest).is_some() => {
                let json = check_unended(rest).expect("just checked");
                apply_line(json, image, offset)?;
                return Ok(JournalEnd { len: offset, torn_bytes: rest.len() });
            }
            None if is_torn(rest, length, offset) => {
                return Ok(JournalEnd { len: offset, torn_bytes: rest.len() });
            }
            None => return Err(damage(offset, "the checksum is wrong")),
        };
        apply_line(json, image, offset)?;
        offset += length;
    }
}

fn apply_line(json: &str, image: &mut ClusterImage, offset: usize) -> Result<(), Damage> {
    let line = serde_json::from_str(json).map_err(|error| damage(offset, error.to_string()))?;
    match line {
        JournalLine::Journal { format, cluster_id, after } if offset == 0 => {
            check_format(format).map_err(|reason| damage(offset, reason))?;
            if *cluster_id != *image.cluster_id {
                return Err(damage(
                    offset,
                    format!("it belongs to cluster {cluster_id}, not {}", image.cluster_id),
                ));
            }
            if after > image.revision {
                let reason = format!("changes {} to {after} are missing before it", image.revision + 1);
                return Err(damage(offset, reason));
            }
            Ok(())
        }
        JournalLine::Write { first, changes } if offset > 0 => {
            for (number, change) in (first..).zip(&changes) {
                apply_change(number, change, image).map_err(|reason| damage(offset, reason))?;
            }
            Ok(())
        }
        _ => Err(damage(offset, "a line in the wrong place")),
    }
}

fn apply_change(number: u64, change: &Change, image: &mut ClusterImage) -> Result<(), String> {
    if number <= image.revision {
        return Ok(());
    }
    if number != image.revision + 1 {
        return Err(format!("changes {} to {} are missing before it", image.revision + 1, number - 1));
    }
    image.apply_in_place(change).map_err(|error| format!("change {number} does not apply: {error}"))
}

/// The JSON of a line without its end, when the checksum is right.
fn check_line(line: &[u8]) -> Option<&str> {
    let (prefix, json) = line.split_at_checked(PREFIX_BYTES)?;
    let digits = std::str::from_utf8(prefix).ok()?.strip_suffix(' ')?;
    let canonical = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let crc = u32::from_str_radix(digits, 16).ok().filter(|_| canonical)?;
    (crc == crc32c::crc32c(json)).then_some(json).and_then(|json| std::str::from_utf8(json).ok())
}

/// The same for the last line of a file when its end is missing, or is some other byte.
fn check_unended(rest: &[u8]) -> Option<&str> {
    check_line(rest).or_else(|| check_line(&rest[..rest.len().checked_sub(1)?]))
}

/// Whether a crash can have made the last line look like this: it is cut, or a sector of it never came.
fn is_torn(rest: &[u8], length: Option<usize>, offset: usize) -> bool {
    let Some(length) = length else { return true };
    let (line, behind) = rest.split_at(length + 1);
    if behind.iter().any(|&byte| byte != 0) {
        return false;
    }
    // The part of the line in its first sector is short where the line begins late in it.
    let first = (SECTOR_BYTES - offset % SECTOR_BYTES).min(line.len());
    let (head, tail) = line.split_at(first);
    let is_hole = |part: &[u8]| part.iter().all(|&byte| byte == 0);
    is_hole(head) || tail.chunks(SECTOR_BYTES).any(is_hole)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
