//! Produce, versions 3 to 13 (announced from 0: old librdkafka compresses only then; 0 to 2 end the connection as in Kafka).
//!
//! Each partition's batch is validated and appended by the shard that owns it; the answer waits until the append has
//! reached the level that `acks` stands for. A transactional batch is appended once its partition is part of the
//! transaction (`broker::admissions`).

use std::borrow::Cow;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::admissions::{self, Gate};
use crate::broker::gather::{Gather, Kind, Layout};
use crate::broker::mail::{Answer, GatherRef, Produce, Query, Rejected, Task};
use crate::broker::partition::{Partition, Waiter, WaiterTo};
use crate::broker::records::ReceivedRecords;
use crate::broker::request::{Reply, Request, Response};
use crate::broker::spares;
use crate::config::{self, Compression, TopicConfig};
use crate::io::Io;
use crate::protocol::messages::produce_request::ProduceRequest;
use crate::protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use crate::protocol::{Array, ErrorCode, Uuid};
use crate::record::batch::{BatchHeader, Codec, TimestampType};
use crate::record::compression::{CompressionLevel, DECOMPRESSED_BYTES_MAX_DEFAULT};
use crate::record::validate::{self, Rejection, Rules, ValidatedBatch};
use crate::storage::{AckLevel, AppendError, AppendOptions, Appended};

/// From this version on topics come by id.
const TOPIC_IDS: i16 = 13;
/// Names nobody: for acks=0, where no answer is gathered.
const NOBODY: u32 = u32::MAX;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<ProduceRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    if !(-1..=1).contains(&message.acks) {
        return refuse_all(&request, &message, ErrorCode::InvalidRequiredAcks);
    }
    let mut layout = Layout::of_spares(&mut broker.spares);
    let mut topics = broker.spares.topic_ids.take();
    for topic in &message.topic_data {
        let found = if head.version >= TOPIC_IDS {
            broker.image.topic_by_id(topic.topic_id).cloned()
        } else {
            broker.image.topic(&topic.name).cloned()
        };
        let name = found.as_ref().map_or_else(|| Arc::from(&*topic.name), |found| found.name.clone());
        let topic_id = found.as_ref().map_or(topic.topic_id, |found| found.id);
        layout.push_topic(name, topic_id);
        for partition in &topic.partition_data {
            layout.push_partition(partition.index);
        }
        topics.push(found.map(|found| found.id));
    }
    if layout.is_empty() {
        return Reply::Now(Response::of(&head, &ProduceResponse::default()));
    }
    let silent = message.acks == 0;
    let gather = if silent {
        GatherRef { shard: broker.shard as u16, slot: NOBODY, generation: 0 }
    } else {
        let deadline = broker.deadline_ns(io, message.timeout_ms);
        broker.open_gather(head, layout, Kind::Plain, deadline)
    };
    dispatch(broker, io, &message, &topics, gather, head.version, request.frame);
    broker.spares.topic_ids.give(topics);
    if silent { Reply::Silent } else { Reply::Later }
}

fn dispatch(
    broker: &mut Broker,
    io: &mut impl Io,
    message: &ProduceRequest<'_>,
    topics: &[Option<Uuid>],
    gather: GatherRef,
    version: i16,
    shared: Option<&Arc<Vec<u8>>>,
) {
    let unknown =
        if version >= TOPIC_IDS { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition };
    let names = &mut broker.spares.transactional_ids;
    let transactional_id = message.transactional_id.as_deref().map(|id| names.get(id));
    let mut index = 0;
    for (topic, found) in message.topic_data.iter().zip(topics) {
        for partition in &topic.partition_data {
            let records = partition.records.and_then(|records| records.bytes()).unwrap_or_default();
            match found {
                Some(topic_id) => {
                    let produce = Produce {
                        records: ReceivedRecords::Frame { records, shared },
                        version,
                        acks: message.acks,
                        transactional_id: transactional_id.clone(),
                    };
                    let query = Query::Produce(produce);
                    broker.dispatch(
                        io,
                        Task { gather, index, topic_id: *topic_id, partition: partition.index, query },
                    );
                }
                None => broker.answer(io, gather, index, Answer::Error(unknown)),
            }
            index += 1;
        }
    }
}

/// Validates and appends; `None` while the answer waits for the disk.
pub fn execute(broker: &mut Broker, io: &mut impl Io, task: Task<'_>) -> Option<Answer> {
    let Query::Produce(produce) = &task.query else { return None };
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Error(ErrorCode::UnknownTopicOrPartition));
    };
    if crate::metadata::is_internal(&partition.topic) {
        return Some(Answer::Error(ErrorCode::InvalidTopicException));
    }
    if !partition.stalled.is_empty() {
        return broker.stall(task);
    }
    let verification = broker.config.transactions.partition_verification;
    match admissions::gate(&broker.storage, partition.log, &partition.admissions, produce, verification) {
        Gate::Open => validate_and_append(broker, io, task),
        Gate::Wait { ask } => broker.await_admission(io, task, ask),
        Gate::Refused(error) => Some(Answer::Error(error)),
    }
}

/// The first batch of a producer's transaction here, now that the partition is part of it.
pub fn append_admitted(broker: &mut Broker, io: &mut impl Io, task: Task<'_>) -> Option<Answer> {
    let Query::Produce(produce) = &task.query else { return None };
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Error(ErrorCode::UnknownTopicOrPartition));
    };
    let header = BatchHeader::parse(&produce.records).ok();
    let well = |header| admissions::begins_well(&broker.storage, partition.log, produce, &header);
    if !header.is_none_or(well) {
        return Some(Answer::Error(ErrorCode::OutOfOrderSequenceNumber));
    }
    validate_and_append(broker, io, task)
}

fn validate_and_append(broker: &mut Broker, io: &mut impl Io, task: Task<'_>) -> Option<Answer> {
    let Query::Produce(produce) = &task.query else { return None };
    let partition = broker.partitions.find(task.topic_id, task.partition)?;
    let rules = partition.rules;
    let validated = match validate::validate(
        &produce.records,
        produce.version,
        &rules,
        broker.wall_ms,
        &mut broker.decompressor,
    ) {
        Ok(validated) => validated,
        Err(rejection) => {
            partition.traffic.failed_produces += 1;
            return Some(rejected(partition, &broker.storage, rejection));
        }
    };
    append(broker, io, task, &rules, &validated)
}

fn append(
    broker: &mut Broker,
    io: &mut impl Io,
    task: Task<'_>,
    rules: &Rules,
    validated: &ValidatedBatch,
) -> Option<Answer> {
    let Query::Produce(produce) = &task.query else { return None };
    let changed = match stored_bytes(broker, &produce.records, rules, validated) {
        Ok(changed) => changed,
        Err(rejection) => {
            let partition = broker.partitions.find(task.topic_id, task.partition)?;
            return Some(rejected(partition, &broker.storage, rejection));
        }
    };
    let batch = changed.as_deref().unwrap_or(&produce.records[..validated.size]);
    let acks = produce.acks;
    let wall_ms = broker.wall_ms;
    let partition = broker.partitions.find(task.topic_id, task.partition)?;
    // Kafka's way to ask for a sync before every acknowledgement.
    let level = match partition.config.flush_messages {
        1 => AckLevel::Durable,
        _ => super::ack_level(&broker.config, acks),
    };
    let options = AppendOptions {
        leader_epoch: partition.leader_epoch,
        level,
        log_append_time_ms: None,
        wall_ms,
        coordinator: false,
        transaction_version: 0,
    };
    match broker.storage.append(io, partition.log, batch, options) {
        Ok(appended) => {
            let records = validated.header.records_count.max(0) as u64;
            broker.metrics.records_produced.add(records);
            broker.metrics.bytes_produced.add(batch.len() as u64);
            partition.traffic.records_in += records;
            partition.traffic.bytes_in += batch.len() as u64;
            partition.traffic.produces += 1;
            acknowledge(broker, &task, appended, level, rules, validated)
        }
        Err(AppendError::Busy) => broker.stall(task),
        Err(error) => {
            partition.traffic.failed_produces += 1;
            Some(Answer::Error(append_error(error)))
        }
    }
}

/// The bytes to store where they are not the bytes received: another codec, or timestamps that the broker sets.
fn stored_bytes(
    broker: &mut Broker,
    records: &[u8],
    rules: &Rules,
    validated: &ValidatedBatch,
) -> Result<Option<Vec<u8>>, Rejection> {
    let header: &BatchHeader = &validated.header;
    let same_times = header.timestamp_type() == validated.timestamp_type
        && header.max_timestamp == validated.max_timestamp;
    if validated.rewrite.is_none() && same_times {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(validated.size);
    let received = &records[..validated.size];
    validate::rewrite(
        validated,
        received,
        rules,
        &mut broker.rewriter,
        &mut broker.decompressor,
        &mut bytes,
    )?;
    validated.finish(&mut bytes, 0, 0);
    Ok(Some(bytes))
}

fn acknowledge(
    broker: &mut Broker,
    task: &Task<'_>,
    appended: Appended,
    level: AckLevel,
    rules: &Rules,
    validated: &ValidatedBatch,
) -> Option<Answer> {
    let stamped = rules.timestamp_type == TimestampType::LogAppendTime;
    let answer = Answer::Produced {
        base_offset: appended.base_offset,
        log_append_time_ms: if stamped { validated.max_timestamp } else { -1 },
        log_start_offset: appended.log_start_offset,
    };
    let partition = broker.partitions.find(task.topic_id, task.partition)?;
    let reached = broker.storage.high_watermark(partition.log).unwrap_or(-1) > appended.last_offset;
    if level == AckLevel::Memory || reached {
        return Some(answer);
    }
    let to = WaiterTo::Gather(task.gather, task.index);
    partition.wait(Waiter { last_offset: appended.last_offset, to, answer });
    None
}

fn append_error(error: AppendError) -> ErrorCode {
    match error {
        AppendError::UnknownLog => ErrorCode::UnknownTopicOrPartition,
        AppendError::Offline | AppendError::NoSpace => ErrorCode::KafkaStorageError,
        AppendError::Busy => ErrorCode::RequestTimedOut,
        AppendError::TooLarge => ErrorCode::RecordListTooLarge,
        AppendError::Invalid => ErrorCode::CorruptMessage,
        AppendError::OutOfOrderSequence => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::DuplicateSequence => ErrorCode::DuplicateSequenceNumber,
        AppendError::InvalidProducerEpoch => ErrorCode::InvalidProducerEpoch,
        AppendError::InvalidTxnState => ErrorCode::InvalidTxnState,
        AppendError::CoordinatorFenced => ErrorCode::TransactionCoordinatorFenced,
        AppendError::Stopping => ErrorCode::NotLeaderOrFollower,
    }
}

fn rejected(partition: &Partition, storage: &crate::storage::Storage, rejection: Rejection) -> Answer {
    let error = ErrorCode::from_code(rejection.error.code()).unwrap_or(ErrorCode::UnknownServerError);
    Answer::Rejected(Box::new(Rejected {
        error,
        message: rejection.message,
        records: rejection.records.iter().map(|record| (record.index, record.reason.to_string())).collect(),
        log_start_offset: storage.log_start_offset(partition.log).unwrap_or(-1),
    }))
}

pub fn finish(broker: &mut Broker, mut gather: Gather) -> Response {
    let spares = &mut broker.spares;
    let mut partitions = spares.produce_partitions.take();
    let indexes = gather.layout.topics().flat_map(|(_, _, partitions)| partitions);
    let answered = indexes.zip(gather.answers.drain(..));
    partitions.extend(answered.map(|(&index, answer)| partition_response(index, answer)));
    let mut topics = spares::emptied(spares.produce_topics.take());
    topics.extend(gather.layout.topics().map(|(topic, first, indexes)| TopicProduceResponse {
        name: Cow::Borrowed(&*topic.name),
        topic_id: topic.topic_id,
        partition_responses: Array::lent(&partitions[first..first + indexes.len()]),
    }));
    let message = ProduceResponse { responses: Array::lent(&topics), ..Default::default() };
    let response = Response::of_spares(spares, &gather.head, &message);
    spares.produce_topics.give(topics);
    spares.produce_partitions.give(partitions);
    gather.give_back(spares);
    response
}

fn partition_response(index: i32, answer: Option<Answer>) -> PartitionProduceResponse<'static> {
    let failed = |error: ErrorCode| PartitionProduceResponse {
        index,
        error_code: error.code(),
        base_offset: -1,
        ..Default::default()
    };
    match answer {
        Some(Answer::Produced { base_offset, log_append_time_ms, log_start_offset }) => {
            PartitionProduceResponse {
                index,
                base_offset,
                log_append_time_ms,
                log_start_offset,
                ..Default::default()
            }
        }
        Some(Answer::Rejected(rejected)) => PartitionProduceResponse {
            log_start_offset: rejected.log_start_offset,
            record_errors: rejected
                .records
                .into_iter()
                .map(|(batch_index, text)| BatchIndexAndErrorMessage {
                    batch_index,
                    batch_index_error_message: Some(Cow::Owned(text)),
                })
                .collect(),
            error_message: Some(Cow::Owned(rejected.message)),
            ..failed(rejected.error)
        },
        Some(Answer::Error(error)) => failed(error),
        _ => failed(ErrorCode::UnknownServerError),
    }
}

fn refuse_all(request: &Request<'_>, message: &ProduceRequest<'_>, error: ErrorCode) -> Reply {
    if message.acks == 0 {
        return Reply::Close(error.to_string());
    }
    let responses = message.topic_data.iter().map(|topic| TopicProduceResponse {
        partition_responses: topic
            .partition_data
            .iter()
            .map(|partition| partition_response(partition.index, Some(Answer::Error(error))))
            .collect(),
        name: topic.name,
        topic_id: topic.topic_id,
    });
    let response = ProduceResponse { responses: responses.collect(), ..Default::default() };
    Reply::Now(Response::of(&request.head, &response))
}

/// What a topic's settings mean for its batches.
pub fn rules(config: &TopicConfig) -> Rules {
    let level = |level: i32| CompressionLevel(Some(level));
    Rules {
        message_bytes_max: config.max_message_bytes.max(0) as usize,
        segment_bytes: config.segment_bytes.max(0) as usize,
        decompressed_bytes_max: DECOMPRESSED_BYTES_MAX_DEFAULT,
        compacted: config.cleanup_compact,
        timestamp_type: match config.message_timestamp_type {
            config::TimestampType::CreateTime => TimestampType::CreateTime,
            config::TimestampType::LogAppendTime => TimestampType::LogAppendTime,
        },
        timestamp_before_max_ms: config.message_timestamp_before_max_ms,
        timestamp_after_max_ms: config.message_timestamp_after_max_ms,
        compression: match config.compression {
            Compression::Producer => None,
            Compression::Uncompressed => Some((Codec::None, CompressionLevel(None))),
            Compression::Gzip => Some((Codec::Gzip, level(config.compression_gzip_level))),
            Compression::Snappy => Some((Codec::Snappy, CompressionLevel(None))),
            Compression::Lz4 => Some((Codec::Lz4, CompressionLevel(None))),
            Compression::Zstd => Some((Codec::Zstd, level(config.compression_zstd_level))),
        },
    }
}
