//! Gathers records into a batch a partition and sends them to the leaders, one request at a time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Acks;
use super::line::ParsedRecord;
use crate::cli::client::{Client, To};
use crate::cli::cluster::{self, Topic};
use crate::cli::failure::{FAILED, Failure};
use crate::cli::output;
use crate::io::clock::Clock;
use crate::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use crate::protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use crate::protocol::{ErrorCode, Records};
use crate::record::partitioner::partition_of;
use crate::record::records::Header;
use crate::record::{BatchBuilder, BatchOptions, Codec, Compressor};

/// A partition's batch goes out before it grows past this, unless one record alone is larger.
const BATCH_BYTES: usize = 256 << 10;
/// All batches together.
const PENDING_BYTES: usize = 2 << 20;
/// The last version in which topics go by name.
const VERSION_MAX: i16 = 12;

/// What has become of a partition's records.
#[derive(Clone, Debug, Default, Serialize)]
struct Outcome {
    partition: i32,
    records: u64,
    /// Unknown with acks=0.
    first_offset: Option<i64>,
    last_offset: Option<i64>,
}

pub struct Sender {
    client: Client,
    topic: Topic,
    partition: Option<i32>,
    acks: Acks,
    /// The batches being filled, by partition.
    pending: BTreeMap<i32, BatchBuilder>,
    pending_bytes: usize,
    options: BatchOptions,
    sequences: BTreeMap<i32, i32>,
    compressor: Compressor,
    /// Where records without a key go until the next flush.
    sticky: usize,
    outcomes: BTreeMap<i32, Outcome>,
}

impl Sender {
    pub fn new(
        mut client: Client,
        name: &str,
        partition: Option<i32>,
        acks: Acks,
        codec: Codec,
    ) -> Result<Sender, Failure> {
        let topic = cluster::topic(&mut client, name)?;
        let mut options = BatchOptions { codec, ..BatchOptions::default() };
        if acks == Acks::All {
            (options.producer_id, options.producer_epoch) = init_producer_id(&mut client)?;
        }
        let sender = Sender {
            sticky: Clock::read().now_ns as usize % topic.partitions.len().max(1),
            client,
            topic,
            partition,
            acks,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            options,
            sequences: BTreeMap::new(),
            compressor: Compressor::new(),
            outcomes: BTreeMap::new(),
        };
        if let Some(partition) = partition {
            sender.check_partition(partition)?;
        }
        Ok(sender)
    }

    fn check_partition(&self, partition: i32) -> Result<(), Failure> {
        if self.topic.partitions.iter().any(|known| known.index == partition) {
            return Ok(());
        }
        let count = self.topic.partitions.len();
        Err(Failure::not_found(format!(
            "topic {} has no partition {partition}, it has {count}",
            self.topic.name
        )))
    }

    /// Takes a record, and sends what has gathered when it is enough.
    pub fn add(&mut self, record: ParsedRecord) -> Result<(), Failure> {
        let count = self.topic.partitions.len().max(1);
        let partition = match (self.partition.or(record.partition), &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, count) as i32,
            (None, None) => self.sticky as i32,
        };
        if record.partition.is_some() {
            self.check_partition(partition)?;
        }
        let size = record.size();
        let in_batch = self.pending.get(&partition).map_or(0, BatchBuilder::uncompressed_size);
        if in_batch > 0 && in_batch + size > BATCH_BYTES || self.pending_bytes + size > PENDING_BYTES {
            self.flush()?;
        }
        let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
        let options = match self.acks {
            Acks::All => BatchOptions { base_sequence: sequence, ..self.options },
            _ => self.options,
        };
        let batch = self.pending.entry(partition).or_insert_with(|| BatchBuilder::new(options));
        let headers: Vec<_> =
            record.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
        let timestamp = record.timestamp.unwrap_or_else(|| Clock::read().wall_ms);
        batch.append(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
        self.pending_bytes += size;
        Ok(())
    }

    /// Sends everything and waits until it is acknowledged.
    pub fn flush(&mut self) -> Result<(), Failure> {
        let mut batches: BTreeMap<i32, (Vec<u8>, i32)> = BTreeMap::new();
        for (partition, builder) in std::mem::take(&mut self.pending) {
            let mut bytes = Vec::new();
            builder
                .finish(&mut self.compressor, &mut bytes)
                .map_err(|error| Failure::new(FAILED, format!("packing a batch: {error}")))?;
            batches.insert(partition, (bytes, builder.records_count()));
        }
        self.pending_bytes = 0;
        if batches.is_empty() {
            return Ok(());
        }
        self.sticky = (self.sticky + 1) % self.topic.partitions.len().max(1);
        let (acks, topic) = (self.acks, &mut self.topic);
        let (outcomes, sequences) = (&mut self.outcomes, &mut self.sequences);
        let mut attempts = 0;
        self.client.retry(|client| {
            attempts += 1;
            if attempts > 1 {
                *topic = cluster::topic(client, &topic.name)?;
            }
            let mut round = Round { topic, acks, batches: &mut batches, outcomes, sequences, failed: None };
            round.send(client)
        })
    }

    pub fn report(&self, json: bool) -> Result<(), Failure> {
        let records: u64 = self.outcomes.values().map(|outcome| outcome.records).sum();
        if json {
            let partitions: Vec<_> = self.outcomes.values().collect();
            let topic = &self.topic.name;
            return output::print_json(
                &serde_json::json!({ "topic": topic, "records": records, "partitions": partitions }),
            );
        }
        // Not the data anybody asked for, so it stays out of a pipe.
        eprintln!("{records} records produced to {}", self.topic.name);
        Ok(())
    }
}

fn init_producer_id(client: &mut Client) -> Result<(i64, i16), Failure> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        ..InitProducerIdRequest::default()
    };
    client.retry(|client| {
        let answer = client.call(To::Any, i16::MAX, &request)?;
        let response = answer.read::<InitProducerIdRequest<'_>>()?;
        Failure::check("InitProducerId", response.error_code, None)?;
        Ok((response.producer_id, response.producer_epoch))
    })
}

/// One attempt at what is not acknowledged yet.
struct Round<'a> {
    topic: &'a Topic,
    acks: Acks,
    /// Bytes and number of records, by partition; what is acknowledged is taken out.
    batches: &'a mut BTreeMap<i32, (Vec<u8>, i32)>,
    outcomes: &'a mut BTreeMap<i32, Outcome>,
    sequences: &'a mut BTreeMap<i32, i32>,
    failed: Option<Failure>,
}

impl Round<'_> {
    fn send(&mut self, client: &mut Client) -> Result<(), Failure> {
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        let unsent: Vec<i32> = self.batches.keys().copied().collect();
        for partition in unsent {
            let known = self.topic.partitions.iter().find(|known| known.index == partition);
            match known.and_then(|known| known.leader) {
                Some(leader) => by_leader.entry(leader).or_default().push(partition),
                None => self.fail(partition, ErrorCode::LeaderNotAvailable.code(), None),
            }
        }
        for (leader, partitions) in by_leader {
            self.send_to(client, leader, &partitions)?;
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    fn send_to(&mut self, client: &mut Client, leader: i32, partitions: &[i32]) -> Result<(), Failure> {
        let parts: Vec<_> =
            partitions.iter().filter_map(|p| Some((*p, self.batches.get(p)?.0.clone()))).collect();
        let data = parts.iter().map(|(index, bytes)| PartitionProduceData {
            index: *index,
            records: Some(Records::Bytes(bytes)),
        });
        let sent_to: &Topic = self.topic;
        let topic = TopicProduceData {
            name: sent_to.name.as_str().into(),
            partition_data: data.collect(),
            ..TopicProduceData::default()
        };
        let request = ProduceRequest {
            transactional_id: None,
            acks: match self.acks {
                Acks::None => 0,
                Acks::Leader => 1,
                Acks::All => -1,
            },
            timeout_ms: client.timeout_ms(),
            topic_data: [topic].into(),
        };
        if self.acks == Acks::None {
            client.send(To::Broker(leader), VERSION_MAX, &request)?;
            partitions.iter().for_each(|partition| self.acknowledged(*partition, None));
            return Ok(());
        }
        let answer = client.call(To::Broker(leader), VERSION_MAX, &request)?;
        let response = answer.read::<ProduceRequest<'_>>()?;
        for topic in &response.responses {
            for partition in &topic.partition_responses {
                match ErrorCode::from_code(partition.error_code) {
                    Some(ErrorCode::None) => self.acknowledged(partition.index, Some(partition.base_offset)),
                    Some(ErrorCode::DuplicateSequenceNumber) => self.acknowledged(partition.index, None),
                    _ => self.fail(partition.index, partition.error_code, partition.error_message.as_deref()),
                }
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, partition: i32, base_offset: Option<i64>) {
        let Some((_, count)) = self.batches.remove(&partition) else { return };
        let sequence = self.sequences.entry(partition).or_default();
        *sequence = crate::record::batch::increment_sequence(*sequence, count);
        let outcome = self.outcomes.entry(partition).or_default();
        outcome.partition = partition;
        outcome.records += u64::from(count.unsigned_abs());
        if let Some(base) = base_offset.filter(|offset| *offset >= 0) {
            outcome.first_offset.get_or_insert(base);
            outcome.last_offset = Some(base + i64::from(count) - 1);
        }
    }

    /// A failure that may not pass wins over those that may.
    fn fail(&mut self, partition: i32, code: i16, message: Option<&str>) {
        let what = format!("{}-{partition}", self.topic.name);
        if let Err(failure) = Failure::check(what, code, message)
            && self.failed.as_ref().is_none_or(Failure::is_retriable)
        {
            self.failed = Some(failure);
        }
    }
}
