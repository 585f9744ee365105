//! The message browser: records of a topic from a place on, those that hold a text, within limits of bytes and time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::answer;
use crate::control::Site;
use crate::control::cluster::records::{Fetched, ReadOptions, read};
use crate::control::cluster::topics::{self, EARLIEST, LATEST};
use crate::control::cluster::{Caller, Cluster};
use crate::control::error::ApiError;
use crate::protocol::ErrorCode;

const RECORDS_MAX: usize = 500;
/// Records among which the newest are looked for.
const NEWEST_MAX: usize = 20_000;
/// Bytes of one read, and of all reads for one answer.
const READ_BYTES: usize = 1 << 20;
const SCAN_BYTES_MAX: usize = 64 << 20;
const TIME_MAX: Duration = Duration::from_secs(5);
/// Of a key or value, no more is handed over.
const SHOWN_BYTES_MAX: usize = 64 << 10;
/// Partitions looked through for one answer.
const PARTITIONS_MAX: usize = 1000;

type Place = (String, i32);

#[derive(serde::Deserialize)]
pub struct Browse {
    /// All, if it is not given.
    partition: Option<i32>,
    /// `beginning`, `end` (the last records), `offset`, `time`, or `next` with `positions`.
    #[serde(default)]
    from: String,
    at: Option<i64>,
    /// `partition:offset,…` as an earlier answer gave them.
    positions: Option<String>,
    #[serde(default)]
    limit: usize,
    #[serde(default)]
    filter: String,
    #[serde(default)]
    committed: bool,
}

pub async fn browse(
    State(site): State<Arc<Site>>,
    Path(topic): Path<String>,
    Query(browse): Query<Browse>,
) -> Result<Response, ApiError> {
    let cluster = &site.running()?.cluster;
    let found = super::super::rest::find_topic(cluster, &topic).await?;
    let count = found.partitions.len() as i32;
    let partitions: Vec<i32> = match browse.partition {
        Some(partition) if (0..count).contains(&partition) => vec![partition],
        Some(_) => return Err(ApiError::partition_not_found()),
        None => (0..count).take(PARTITIONS_MAX).collect(),
    };
    let places: Vec<Place> = partitions.iter().map(|partition| (topic.clone(), *partition)).collect();
    let starts = ends(cluster, &places, EARLIEST).await?;
    let ends = ends(cluster, &places, LATEST).await?;
    let limit = if browse.limit == 0 { 50 } else { browse.limit.min(RECORDS_MAX) };
    let positions = begin(cluster, &browse, &places, &starts, &ends, limit).await?;
    let newest = browse.from == "end";
    // The newest of all partitions are among the newest of each.
    let wanted = if newest { (limit * partitions.len()).min(NEWEST_MAX) } else { limit };
    let filter = browse.filter.to_lowercase().into_bytes();
    let mut scan = Scan { positions, ends, limit: wanted, filter, ..Scan::default() };
    scan.run(cluster, browse.committed).await?;
    Ok(answer(&scan.told(newest.then_some(limit), &starts)))
}

async fn ends(cluster: &Cluster, places: &[Place], time: i64) -> Result<BTreeMap<Place, i64>, ApiError> {
    let wanted = places.iter().map(|place| (place.clone(), time)).collect();
    Ok(topics::offsets(cluster, &Caller::own(), &wanted).await?)
}

/// Where to begin in each partition.
async fn begin(
    cluster: &Cluster,
    browse: &Browse,
    places: &[Place],
    starts: &BTreeMap<Place, i64>,
    ends: &BTreeMap<Place, i64>,
    limit: usize,
) -> Result<BTreeMap<Place, i64>, ApiError> {
    let start = |place: &Place| starts.get(place).copied().unwrap_or(0);
    let end = |place: &Place| ends.get(place).copied().unwrap_or(0);
    let each = |at: &dyn Fn(&Place) -> i64| places.iter().map(|place| (place.clone(), at(place))).collect();
    Ok(match browse.from.as_str() {
        "end" => each(&|place| (end(place) - limit as i64).max(start(place))),
        "offset" => {
            let at = browse.at.unwrap_or(0);
            each(&|place| at.max(start(place)))
        }
        "time" => {
            let at = browse.at.unwrap_or(0).max(0);
            let wanted = places.iter().map(|place| (place.clone(), at)).collect();
            let found = topics::offsets(cluster, &Caller::own(), &wanted).await?;
            let known = |place: &Place| found.get(place).copied().filter(|offset| *offset >= 0);
            each(&|place| known(place).unwrap_or_else(|| end(place)))
        }
        "next" => {
            let text = browse.positions.as_deref().unwrap_or_default();
            let pairs = text.split(',').filter_map(|pair| pair.split_once(':'));
            let known: BTreeMap<i32, i64> = pairs
                .filter_map(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
                .collect();
            each(&|place| known.get(&place.1).copied().unwrap_or_else(|| end(place)).max(start(place)))
        }
        _ => each(&start),
    })
}

#[derive(Default)]
struct Scan {
    positions: BTreeMap<Place, i64>,
    ends: BTreeMap<Place, i64>,
    limit: usize,
    filter: Vec<u8>,
    found: Vec<Fetched>,
    scanned_records: usize,
    scanned_bytes: usize,
    /// Nothing is left up to the ends as they were.
    done: bool,
}

impl Scan {
    /// Partition by partition a piece, so that none hides the others.
    async fn run(&mut self, cluster: &Cluster, committed_only: bool) -> Result<(), ApiError> {
        let began = Instant::now();
        let share = self.limit.div_ceil(self.positions.len().max(1)).max(1);
        let mut taken: BTreeMap<Place, usize> = BTreeMap::new();
        loop {
            let open: BTreeMap<Place, i64> = self
                .positions
                .iter()
                .filter(|(place, at)| **at < self.ends.get(*place).copied().unwrap_or(0))
                .map(|(place, at)| (place.clone(), *at))
                .collect();
            self.done = open.is_empty();
            let full = self.found.len() >= self.limit;
            let tired = self.scanned_bytes > SCAN_BYTES_MAX || began.elapsed() > TIME_MAX;
            if self.done || full || tired {
                return Ok(());
            }
            // Those that have given their share let others go first.
            let hungry = open.keys().any(|place| taken.get(place).copied().unwrap_or(0) < share);
            for (place, at) in open {
                if hungry && taken.get(&place).copied().unwrap_or(0) >= share {
                    continue;
                }
                let count = self.read_some(cluster, &place, at, committed_only).await?;
                *taken.entry(place).or_default() += count;
                if self.found.len() >= self.limit {
                    break;
                }
            }
        }
    }

    /// How many records of a partition were found.
    async fn read_some(
        &mut self,
        cluster: &Cluster,
        place: &Place,
        at: i64,
        committed_only: bool,
    ) -> Result<usize, ApiError> {
        let options = ReadOptions {
            wait: Duration::ZERO,
            bytes_max: READ_BYTES,
            records_max: if self.filter.is_empty() { self.limit - self.found.len() } else { usize::MAX },
            committed_only,
        };
        let from = BTreeMap::from([(place.clone(), at)]);
        let mut answer = read(cluster, &Caller::own(), &from, options).await?;
        let end = self.ends.get(place).copied().unwrap_or(0);
        let read = answer.remove(place).filter(|read| read.error == ErrorCode::None && read.next_offset > at);
        let Some(read) = read else {
            // It cannot be read, or holds nothing more: no use in asking again.
            self.positions.insert(place.clone(), end);
            return Ok(0);
        };
        let mut next = read.next_offset;
        let mut count = 0;
        for record in read.records {
            let size = record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len);
            self.scanned_bytes += size + 16;
            self.scanned_records += 1;
            if record.offset < end && self.fits(&record) {
                let offset = record.offset;
                self.found.push(record);
                count += 1;
                if self.found.len() >= self.limit {
                    next = offset + 1;
                    break;
                }
            }
        }
        self.positions.insert(place.clone(), next);
        Ok(count)
    }

    fn fits(&self, record: &Fetched) -> bool {
        let holds = |bytes: &[u8]| {
            let lower: Vec<u8> = bytes.to_ascii_lowercase();
            lower.windows(self.filter.len()).any(|part| part == self.filter)
        };
        self.filter.is_empty()
            || record.key.as_deref().is_some_and(holds)
            || record.value.as_deref().is_some_and(holds)
            || record
                .headers
                .iter()
                .any(|(key, value)| holds(key.as_bytes()) || value.as_deref().is_some_and(holds))
    }

    fn told(mut self, newest: Option<usize>, starts: &BTreeMap<Place, i64>) -> Value {
        self.found.sort_by_key(|record| (record.timestamp, record.offset, record.partition));
        if let Some(count) = newest {
            self.found.reverse();
            self.found.truncate(count);
            self.done = true;
        }
        let offsets = |of: &BTreeMap<Place, i64>| -> Map<String, Value> {
            of.iter().map(|((_, partition), at)| (partition.to_string(), (*at).into())).collect()
        };
        json!({
            "records": self.found.iter().map(shown).collect::<Vec<_>>(),
            "next": offsets(&self.positions),
            "starts": offsets(starts),
            "ends": offsets(&self.ends),
            "scanned_records": self.scanned_records,
            "scanned_bytes": self.scanned_bytes,
            "done": self.done,
        })
    }
}

fn shown(record: &Fetched) -> Value {
    let cut = |bytes: &[u8]| STANDARD.encode(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]);
    let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(Vec::len);
    json!({
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": record.key.as_deref().map(cut),
        "key_bytes": size(&record.key),
        "value": record.value.as_deref().map(cut),
        "value_bytes": size(&record.value),
        "headers": record
            .headers
            .iter()
            .map(|(key, value)| json!({ "name": key, "value": value.as_deref().map(cut) }))
            .collect::<Vec<_>>(),
    })
}
