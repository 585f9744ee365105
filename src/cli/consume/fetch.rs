//! Fetches from the leaders of some partitions in turn and prints what comes, position by position.

use std::collections::BTreeMap;

use super::Printer;
use super::format::Shown;
use crate::cli::client::{Client, To};
use crate::cli::cluster::{self, EARLIEST, Isolation, LATEST, TopicPartition, named};
use crate::cli::failure::{FAILED, Failure};
use crate::protocol::ErrorCode;
use crate::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use crate::protocol::messages::fetch_response::PartitionData;
use crate::record::compression::DECOMPRESSED_BYTES_MAX_DEFAULT;
use crate::record::isolation::Aborted;
use crate::record::{Decompressor, batches};

/// The last version in which topics go by name.
const VERSION_MAX: i16 = 12;
/// How long brokers wait for records: short enough for heartbeats and an interruption.
const WAIT_MS: i32 = 500;
const BYTES_MAX: i32 = 16 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;

pub struct Fetcher {
    /// The offset of the next record of each partition.
    positions: BTreeMap<TopicPartition, i64>,
    /// Empty: to be asked.
    leaders: BTreeMap<TopicPartition, i32>,
    isolation: Isolation,
    decompressor: Decompressor,
    scratch: Vec<u8>,
}

impl Fetcher {
    pub fn new(positions: BTreeMap<TopicPartition, i64>, isolation: Isolation) -> Fetcher {
        Fetcher {
            positions,
            leaders: BTreeMap::new(),
            isolation,
            decompressor: Decompressor::new(),
            scratch: Vec::new(),
        }
    }

    pub fn positions(&self) -> &BTreeMap<TopicPartition, i64> {
        &self.positions
    }

    /// One fetch from each leader; prints `count_max` records at most, and none at or behind its partition's end.
    pub fn poll(
        &mut self,
        client: &mut Client,
        count_max: u64,
        ends: Option<&BTreeMap<TopicPartition, i64>>,
        printer: &mut Printer,
    ) -> Result<(), Failure> {
        if self.positions.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(200));
            return Ok(());
        }
        let polled = self.try_poll(client, count_max, ends, printer);
        if polled.is_err() {
            // Another broker may lead now.
            self.leaders.clear();
        }
        polled
    }

    fn try_poll(
        &mut self,
        client: &mut Client,
        count_max: u64,
        ends: Option<&BTreeMap<TopicPartition, i64>>,
        printer: &mut Printer,
    ) -> Result<(), Failure> {
        self.find_leaders(client)?;
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        for (place, &leader) in &self.leaders {
            by_leader.entry(leader).or_default().push(place.clone());
        }
        let wait_ms = WAIT_MS / by_leader.len().max(1) as i32;
        let count_end = printer.count + count_max;
        for (leader, places) in by_leader {
            let request = self.request(&places, wait_ms);
            let answer = client.call(To::Broker(leader), VERSION_MAX, &request)?;
            let response = answer.read::<FetchRequest<'_>>()?;
            Failure::check("Fetch", response.error_code, None)?;
            for topic in &response.responses {
                for partition in &topic.partitions {
                    let place = (topic.topic.to_string(), partition.partition_index);
                    if partition.error_code == ErrorCode::OffsetOutOfRange.code() {
                        self.recover_position(client, &place)?;
                        continue;
                    }
                    Failure::check(named(&place), partition.error_code, None)?;
                    let end = ends.and_then(|ends| ends.get(&place)).copied().unwrap_or(i64::MAX);
                    self.print(&place, &partition, end, count_end, printer)?;
                }
            }
        }
        Ok(())
    }

    fn find_leaders(&mut self, client: &mut Client) -> Result<(), Failure> {
        if !self.leaders.is_empty() {
            return Ok(());
        }
        let mut names: Vec<String> = self.positions.keys().map(|(topic, _)| topic.clone()).collect();
        names.dedup();
        let mut leaders = cluster::leaders(&cluster::topics(client, Some(&names))?);
        leaders.retain(|place, _| self.positions.contains_key(place));
        if let Some(without) = self.positions.keys().find(|place| !leaders.contains_key(place)) {
            Failure::check(named(without), ErrorCode::LeaderNotAvailable.code(), None)?;
        }
        self.leaders = leaders;
        Ok(())
    }

    fn request(&self, places: &[TopicPartition], max_wait_ms: i32) -> FetchRequest<'static> {
        let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        for place in places {
            topics.entry(&place.0).or_default().push(FetchPartition {
                partition: place.1,
                fetch_offset: self.positions.get(place).copied().unwrap_or(0),
                partition_max_bytes: PARTITION_BYTES_MAX,
                ..FetchPartition::default()
            });
        }
        let topics = topics.into_iter().map(|(name, partitions)| FetchTopic {
            topic: name.to_owned().into(),
            partitions: partitions.into(),
            ..FetchTopic::default()
        });
        FetchRequest {
            max_wait_ms,
            min_bytes: 1,
            max_bytes: BYTES_MAX,
            isolation_level: self.isolation.level(),
            topics: topics.collect(),
            ..FetchRequest::default()
        }
    }

    /// Records may have been deleted below the position; an offset behind the end is a mistake of whoever named it.
    fn recover_position(&mut self, client: &mut Client, place: &TopicPartition) -> Result<(), Failure> {
        let position = self.positions.get(place).copied().unwrap_or(0);
        let mut at = |time| {
            let found = cluster::offsets(client, &BTreeMap::from([(place.clone(), time)]))?;
            Ok::<i64, Failure>(found.get(place).copied().unwrap_or(0))
        };
        let (start, end) = (at(EARLIEST)?, at(LATEST)?);
        if position > end {
            let text = format!("{}: offset {position} is out of range {start} to {end}", named(place));
            return Err(Failure::new(FAILED, text));
        }
        eprintln!("ringlog: {}: offset {position} is gone, going on at {start}", named(place));
        self.positions.insert(place.clone(), start);
        Ok(())
    }

    fn print(
        &mut self,
        place: &TopicPartition,
        partition: &PartitionData<'_>,
        end: i64,
        count_end: u64,
        printer: &mut Printer,
    ) -> Result<(), Failure> {
        let bytes = partition.records.and_then(|records| records.bytes()).unwrap_or_default();
        let Some(position) = self.positions.get_mut(place) else { return Ok(()) };
        let corrupt = |offset: i64, error: &dyn std::fmt::Display| {
            Failure::new(FAILED, format!("{}: at offset {offset}: {error}", named(place)))
        };
        let transactions = partition.aborted_transactions.iter().flatten();
        let mut aborted = Aborted::new(transactions.map(|txn| (txn.producer_id, txn.first_offset)));
        let mut walk = batches(bytes);
        for batch in &mut walk {
            let batch = batch.map_err(|error| corrupt(*position, &error))?;
            let header = *batch.header();
            batch.check_crc().map_err(|error| corrupt(header.base_offset, &error))?;
            let skipped = aborted.skips(&batch).map_err(|error| corrupt(header.base_offset, &error))?;
            if header.is_control() || skipped {
                *position = (*position).max(header.next_offset());
                continue;
            }
            let records = batch
                .records(&mut self.decompressor, &mut self.scratch, DECOMPRESSED_BYTES_MAX_DEFAULT)
                .map_err(|error| corrupt(header.base_offset, &error))?;
            for record in records {
                let record = record.map_err(|error| corrupt(header.base_offset, &error))?;
                let offset = record.offset(&header);
                if offset < *position {
                    continue;
                }
                if offset >= end || printer.count >= count_end {
                    return Ok(());
                }
                let timestamp = record.timestamp(&header);
                let shown = Shown { topic: &place.0, partition: place.1, offset, timestamp, record: &record };
                printer.print(&shown)?;
                *position = offset.saturating_add(1);
            }
            // Compaction leaves gaps behind the last record.
            *position = (*position).max(header.next_offset());
        }
        if walk.consumed() == 0 && !bytes.is_empty() {
            return Err(corrupt(*position, &"the record batch is cut off"));
        }
        Ok(())
    }
}
