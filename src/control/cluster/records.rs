//! Records in and out: appends as a producer makes them, reads as a consumer makes them, both bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Call, CallError, Caller, Cluster, WAIT};
use crate::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use crate::protocol::messages::fetch_response::PartitionData;
use crate::protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use crate::protocol::{ErrorCode, Records};
use crate::record::compression::Compressor;
use crate::record::control::EndTxnMarker;
use crate::record::partitioner::partition_of;
use crate::record::records::Header;
use crate::record::{BatchBuilder, BatchOptions, Decompressor, Record, batches};

/// The last versions in which topics go by name.
const PRODUCE_VERSION_MAX: i16 = 12;
const FETCH_VERSION_MAX: i16 = 12;
/// A batch is closed when it has grown to this; a record that is larger has one of its own.
const BATCH_BYTES: usize = 512 << 10;
/// What one batch may unpack to here.
const UNPACKED_BYTES_MAX: usize = 32 << 20;
/// How long a produce may wait for its acknowledgement at the broker.
const PRODUCE_TIMEOUT_MS: i32 = 30_000;

/// A record's headers.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// A record to append.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// `None`: by the key, or in turn.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
    /// In ms; `None`: now.
    pub timestamp: Option<i64>,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    pub partition: i32,
    /// -1 where no acknowledgement was asked for.
    pub offset: i64,
    pub timestamp: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub error: ErrorCode,
    pub message: String,
}

/// A record that was read.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

/// What a read of one partition brought.
#[derive(Debug)]
pub struct Read {
    pub error: ErrorCode,
    pub high_watermark: i64,
    pub log_start_offset: i64,
    pub records: Vec<Fetched>,
    /// Where the next read goes on.
    pub next_offset: i64,
}

/// How to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    pub wait: Duration,
    pub bytes_max: usize,
    pub records_max: usize,
    pub committed_only: bool,
}

/// The records of one partition on their way, with their places in the caller's list.
#[derive(Default)]
struct Lane {
    batches: Vec<(Vec<usize>, Vec<u8>)>,
}

/// Where keyless records without a partition go next.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// Appends to a topic that exists; the answers are in the order of the drafts.
pub async fn append(
    cluster: &Cluster,
    caller: &Caller,
    topic: &str,
    partitions: usize,
    drafts: &[Draft],
    acks: i16,
) -> Result<Vec<Result<Appended, Failed>>, CallError> {
    let now_ms = now_ms();
    let mut answers: Vec<Option<Result<Appended, Failed>>> = vec![None; drafts.len()];
    let mut lanes = lanes(drafts, partitions, now_ms, &mut answers);
    // A batch of each partition at a time, so that the order of records stays.
    loop {
        let mut round: Vec<(i32, Vec<usize>, Vec<u8>)> = Vec::new();
        for (&partition, lane) in &mut lanes {
            if let Some((places, batch)) = lane.batches.pop() {
                round.push((partition, places, batch));
            }
        }
        if round.is_empty() {
            break;
        }
        append_round(cluster, caller, topic, &round, acks, &mut answers, drafts, now_ms).await?;
    }
    let lost = || Failed { error: ErrorCode::UnknownServerError, message: "no answer".to_owned() };
    Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost()))).collect())
}

/// Batches by partition, the last one first.
fn lanes(
    drafts: &[Draft],
    partitions: usize,
    now_ms: i64,
    answers: &mut [Option<Result<Appended, Failed>>],
) -> BTreeMap<i32, Lane> {
    let mut compressor = Compressor::new();
    let turn = TURN.fetch_add(1, Ordering::Relaxed) % partitions.max(1);
    let mut by_partition: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (place, draft) in drafts.iter().enumerate() {
        let partition = match (draft.partition, &draft.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, partitions.max(1)) as i32,
            (None, None) => turn as i32,
        };
        by_partition.entry(partition).or_default().push(place);
    }
    let mut lanes = BTreeMap::new();
    for (partition, places) in by_partition {
        let mut lane = Lane::default();
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let mut held = Vec::new();
        let mut close = |builder: &mut BatchBuilder, held: &mut Vec<usize>| {
            let mut bytes = Vec::new();
            if !held.is_empty() && builder.finish(&mut compressor, &mut bytes).is_ok() {
                lane.batches.push((std::mem::take(held), bytes));
            }
            builder.reset(BatchOptions::default());
        };
        for place in places {
            let draft = &drafts[place];
            let size = draft.key.as_ref().map_or(0, Vec::len) + draft.value.as_ref().map_or(0, Vec::len);
            if builder.uncompressed_size() + size > BATCH_BYTES {
                close(&mut builder, &mut held);
            }
            let headers: Vec<Header<'_>> = draft
                .headers
                .iter()
                .map(|(key, value)| Header { key: key.as_bytes(), value: value.as_deref() })
                .collect();
            let timestamp = draft.timestamp.unwrap_or(now_ms);
            builder.append(timestamp, draft.key.as_deref(), draft.value.as_deref(), &headers);
            held.push(place);
            answers[place] = None;
        }
        close(&mut builder, &mut held);
        lane.batches.reverse();
        lanes.insert(partition, lane);
    }
    lanes
}

// The places of one request's answer: all of it is needed to tell each record what became of it.
#[allow(clippy::too_many_arguments)]
async fn append_round(
    cluster: &Cluster,
    caller: &Caller,
    topic: &str,
    round: &[(i32, Vec<usize>, Vec<u8>)],
    acks: i16,
    answers: &mut [Option<Result<Appended, Failed>>],
    drafts: &[Draft],
    now_ms: i64,
) -> Result<(), CallError> {
    let partition_data = round.iter().map(|(index, _, batch)| PartitionProduceData {
        index: *index,
        records: Some(Records::Bytes(batch)),
    });
    let data = TopicProduceData {
        name: topic.into(),
        partition_data: partition_data.collect(),
        ..TopicProduceData::default()
    };
    let request = ProduceRequest {
        acks,
        timeout_ms: PRODUCE_TIMEOUT_MS,
        topic_data: [data].into(),
        ..ProduceRequest::default()
    };
    let timestamp_of = |place: usize| drafts[place].timestamp.unwrap_or(now_ms);
    let answer = cluster.ask(caller, Call::of(PRODUCE_VERSION_MAX, &request), WAIT * 2).await?;
    if acks == 0 {
        for (partition, places, _) in round {
            for &place in places {
                let appended = Appended { partition: *partition, offset: -1, timestamp: timestamp_of(place) };
                answers[place] = Some(Ok(appended));
            }
        }
        return Ok(());
    }
    let response = answer.read::<ProduceRequest<'_>>()?;
    for topic in &response.responses {
        for told in &topic.partition_responses {
            let Some((partition, places, _)) = round.iter().find(|(index, ..)| *index == told.index) else {
                continue;
            };
            for (delta, &place) in (0i64..).zip(places) {
                answers[place] = Some(match ErrorCode::from_code(told.error_code) {
                    Some(ErrorCode::None) => {
                        let stamped = told.log_append_time_ms;
                        let timestamp = if stamped >= 0 { stamped } else { timestamp_of(place) };
                        Ok(Appended { partition: *partition, offset: told.base_offset + delta, timestamp })
                    }
                    code => {
                        let error = code.unwrap_or(ErrorCode::UnknownServerError);
                        let message = told.error_message.as_deref().unwrap_or(error.message()).to_owned();
                        Err(Failed { error, message })
                    }
                });
            }
        }
    }
    Ok(())
}

/// Reads from each partition at its offset, in one request.
pub async fn read(
    cluster: &Cluster,
    caller: &Caller,
    from: &BTreeMap<(String, i32), i64>,
    options: ReadOptions,
) -> Result<BTreeMap<(String, i32), Read>, CallError> {
    let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
    let bytes_max = i32::try_from(options.bytes_max).unwrap_or(i32::MAX);
    for ((topic, partition), offset) in from {
        topics.entry(topic).or_default().push(FetchPartition {
            partition: *partition,
            fetch_offset: *offset,
            partition_max_bytes: bytes_max,
            ..FetchPartition::default()
        });
    }
    let topics = topics.into_iter().map(|(topic, partitions)| FetchTopic {
        topic: topic.into(),
        partitions: partitions.into(),
        ..FetchTopic::default()
    });
    let request = FetchRequest {
        max_wait_ms: i32::try_from(options.wait.as_millis()).unwrap_or(i32::MAX),
        min_bytes: 1,
        max_bytes: bytes_max,
        isolation_level: i8::from(options.committed_only),
        topics: topics.collect(),
        ..FetchRequest::default()
    };
    let answer = cluster.ask(caller, Call::of(FETCH_VERSION_MAX, &request), options.wait + WAIT).await?;
    let response = answer.read::<FetchRequest<'_>>()?;
    let mut decompressor = Decompressor::new();
    let mut scratch = Vec::new();
    let mut left = options.records_max;
    let mut found = BTreeMap::new();
    for topic in &response.responses {
        for partition in &topic.partitions {
            let place = (topic.topic.to_string(), partition.partition_index);
            let Some(&offset) = from.get(&place) else { continue };
            let read =
                read_partition(&place, offset, &partition, left, options, (&mut decompressor, &mut scratch));
            left -= read.records.len();
            found.insert(place, read);
        }
    }
    Ok(found)
}

fn read_partition(
    place: &(String, i32),
    from: i64,
    data: &PartitionData<'_>,
    records_max: usize,
    options: ReadOptions,
    (decompressor, scratch): (&mut Decompressor, &mut Vec<u8>),
) -> Read {
    let mut read = Read {
        error: ErrorCode::from_code(data.error_code).unwrap_or(ErrorCode::UnknownServerError),
        high_watermark: data.high_watermark,
        log_start_offset: data.log_start_offset,
        records: Vec::new(),
        next_offset: from,
    };
    let mut aborted: Vec<(i64, i64)> = Vec::new();
    if options.committed_only {
        let list = data.aborted_transactions.iter().flatten();
        aborted.extend(list.map(|transaction| (transaction.producer_id, transaction.first_offset)));
    }
    let bytes = data.records.and_then(|records| records.bytes()).unwrap_or_default();
    for batch in batches(bytes) {
        let Ok(batch) = batch else { break };
        let header = *batch.header();
        if header.is_control() {
            if let Ok(Some(_)) = EndTxnMarker::of_batch(&batch) {
                aborted.retain(|(id, first)| *id != header.producer_id || *first > header.base_offset);
            }
            read.next_offset = read.next_offset.max(header.next_offset());
            continue;
        }
        let is_aborted = header.is_transactional()
            && aborted.iter().any(|(id, first)| *id == header.producer_id && *first <= header.base_offset);
        if is_aborted {
            read.next_offset = read.next_offset.max(header.next_offset());
            continue;
        }
        let Ok(records) = batch.records(decompressor, scratch, UNPACKED_BYTES_MAX) else {
            // It cannot be shown; what follows can.
            read.next_offset = read.next_offset.max(header.next_offset());
            continue;
        };
        for record in records {
            let Ok(record) = record else { break };
            let offset = record.offset(&header);
            if offset < read.next_offset {
                continue;
            }
            if read.records.len() >= records_max {
                return read;
            }
            read.next_offset = offset.saturating_add(1);
            read.records.push(fetched(place, offset, record.timestamp(&header), &record));
        }
        read.next_offset = read.next_offset.max(header.next_offset());
    }
    read
}

fn fetched(place: &(String, i32), offset: i64, timestamp: i64, record: &Record<'_>) -> Fetched {
    let headers = record
        .headers
        .iter()
        .map(|header| (String::from_utf8_lossy(header.key).into_owned(), header.value.map(<[u8]>::to_vec)));
    Fetched {
        topic: place.0.clone(),
        partition: place.1,
        offset,
        timestamp,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: headers.collect(),
    }
}

/// The wall clock.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
