//! Fetch, versions 4 to 18: long poll, sessions (KIP-227), topic ids from 13.
//!
//! A fetch reads all its partitions, each on its shard; if that brings fewer than `min_bytes` it is parked and read again
//! when a watched partition moves, until its wait is over. Record bytes are sent by reference. A batch is never cut at its
//! front: a fetch from the middle of one returns it whole, and the first batch of an answer is whole however large. With
//! isolation level read_committed nothing behind the last stable offset is read, and the answer names the aborted
//! transactions that have a part in it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::fetch_session::{Begin, FetchKey, FetchPartition, SessionFetch};
use crate::broker::gather::{Gather, Kind, Layout};
use crate::broker::mail::{Answer, GatherRef, Query, Read, ReadAnswer, Task, Watch};
use crate::broker::reply_memory::THROTTLE_MS;
use crate::broker::request::{Head, Reply, Request, Response};
use crate::broker::spares::{self, Spares};
use crate::io::Io;
use crate::protocol::messages::fetch_request::FetchRequest;
use crate::protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchResponse, FetchableTopicResponse, PartitionData,
};
use crate::protocol::{Array, ErrorCode, Records, Writer, frame};
use crate::storage::transaction_index::AbortedTxn;
use crate::storage::{LogId, ReadError, ReadOutcome, ReadRange, Storage};

/// From this version on topics come by id.
const TOPIC_IDS: i16 = 13;
const READ_COMMITTED: i8 = 1;
/// A fetch is answered with no more than this, whatever it asks for; the client asks again.
const RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a parked fetch may wait at most.
const WAIT_MAX_MS: i32 = 300_000;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<FetchRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let updates = requested(broker, &message, head.version);
    let forgotten = forgotten(broker, &message, head.version);
    let begun =
        broker.sessions.begin(message.session_id, message.session_epoch, &updates, &forgotten, broker.now_ns);
    let (session_id, incremental, parts) = match begun {
        Begin::Error(error) => {
            let response = FetchResponse { error_code: error.code(), ..Default::default() };
            return Reply::Now(Response::of(&head, &response));
        }
        Begin::Sessionless => (0, false, updates),
        Begin::Full(id) => (id, false, of_session(broker, id, updates)),
        Begin::Incremental(id) => (id, true, of_session(broker, id, updates)),
    };
    let wait_ns = u64::from(message.max_wait_ms.clamp(0, WAIT_MAX_MS) as u32) * 1_000_000;
    let fetch = SessionFetch {
        session_id,
        incremental,
        parts,
        min_bytes: message.min_bytes.max(0) as usize,
        max_bytes: (message.max_bytes.max(0) as usize).min(RESPONSE_BYTES_MAX),
        read_committed: message.isolation_level == READ_COMMITTED,
        max_wait_until_ns: io.now() + wait_ns,
        parked: false,
        moved: false,
    };
    start(broker, io, head, fetch)
}

/// The partitions of a session, in the memory of those that were asked for.
fn of_session(
    broker: &mut Broker,
    id: i32,
    mut parts: Vec<(FetchKey, FetchPartition)>,
) -> Vec<(FetchKey, FetchPartition)> {
    parts.clear();
    broker.sessions.partitions(id, &mut parts);
    parts
}

fn requested(
    broker: &mut Broker,
    message: &FetchRequest<'_>,
    version: i16,
) -> Vec<(FetchKey, FetchPartition)> {
    let mut parts = broker.spares.fetched.take();
    for topic in &message.topics {
        let (name, topic_id) = resolve(broker, &topic.topic, topic.topic_id, version);
        for partition in &topic.partitions {
            let key = FetchKey { name: name.clone(), topic_id, partition: partition.partition };
            let part = FetchPartition {
                offset: partition.fetch_offset,
                max_bytes: partition.partition_max_bytes,
                current_leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
                told_high_watermark: -1,
                told_log_start_offset: -1,
            };
            parts.push((key, part));
        }
    }
    parts
}

fn forgotten(broker: &Broker, message: &FetchRequest<'_>, version: i16) -> Vec<FetchKey> {
    let mut keys = Vec::new();
    for topic in &message.forgotten_topics_data {
        let (name, topic_id) = resolve(broker, &topic.topic, topic.topic_id, version);
        keys.extend(topic.partitions.iter().map(|partition| FetchKey {
            name: name.clone(),
            topic_id,
            partition,
        }));
    }
    keys
}

/// Both names of a topic; what is unknown stays as the client wrote it.
fn resolve(
    broker: &Broker,
    name: &str,
    topic_id: crate::protocol::Uuid,
    version: i16,
) -> (Arc<str>, crate::protocol::Uuid) {
    let found =
        if version >= TOPIC_IDS { broker.image.topic_by_id(topic_id) } else { broker.image.topic(name) };
    found.map_or_else(|| (Arc::from(name), topic_id), |topic| (topic.name.clone(), topic.id))
}

fn start(broker: &mut Broker, io: &mut impl Io, head: Head, fetch: SessionFetch) -> Reply {
    let mut layout = Layout::of_spares(&mut broker.spares);
    let mut last: Option<&FetchKey> = None;
    for (key, _) in &fetch.parts {
        if last.is_none_or(|last| (&last.name, last.topic_id) != (&key.name, key.topic_id)) {
            layout.push_topic(key.name.clone(), key.topic_id);
        }
        layout.push_partition(key.partition);
        last = Some(key);
    }
    let empty = layout.is_empty();
    let deadline_ns = fetch.max_wait_until_ns.saturating_add(30_000_000_000);
    let wait = fetch.min_bytes > 0 && fetch.max_wait_until_ns > io.now();
    let at = broker.open_gather(head, layout, Kind::Fetch(fetch), deadline_ns);
    if !empty {
        read_all(broker, io, at);
    } else if wait {
        // A session with no partitions: the client waits all the same, or it would spin.
        park(broker, at);
    } else {
        broker.finish(io, at);
    }
    Reply::Later
}

/// Asks for every part, from the start.
fn read_all(broker: &mut Broker, io: &mut impl Io, at: GatherRef) {
    let now = io.now();
    let Some(gather) = broker.gathers.find(at) else { return };
    gather.reset(&mut broker.spares);
    let Kind::Fetch(fetch) = &mut gather.kind else { return };
    fetch.parked = false;
    fetch.moved = false;
    let waits = fetch.max_wait_until_ns > now && fetch.min_bytes > 0;
    let watch = waits.then_some(Watch { min_bytes: fetch.min_bytes, until_ns: fetch.max_wait_until_ns });
    let (max_bytes, read_committed) = (fetch.max_bytes, fetch.read_committed);
    for index in 0..fetch.parts.len() {
        // The gather stays open until the last part is answered.
        let Some(Gather { kind: Kind::Fetch(fetch), .. }) = broker.gathers.find(at) else { return };
        let (FetchKey { topic_id, partition, .. }, part) = &fetch.parts[index];
        let (topic_id, partition) = (*topic_id, *partition);
        let read = Read {
            offset: part.offset,
            max_bytes: (part.max_bytes.max(0) as usize).min(max_bytes),
            current_leader_epoch: part.current_leader_epoch,
            last_fetched_epoch: part.last_fetched_epoch,
            read_committed,
            watch,
            records: broker.spares.slices.take(),
        };
        broker.dispatch(
            io,
            Task { gather: at, index: index as u32, topic_id, partition, query: Query::Read(read) },
        );
    }
}

/// Reads one partition; `None` while the disk is asked.
pub fn execute(broker: &mut Broker, io: &mut impl Io, mut task: Task<'_>) -> Option<Answer> {
    let Query::Read(read) = &mut task.query else { return None };
    let Some(partition) = broker.partitions.find(task.topic_id, task.partition) else {
        return Some(Answer::Read(ReadAnswer::error(ErrorCode::UnknownTopicOrPartition)));
    };
    if let Err(error) = super::check_leader_epoch(read.current_leader_epoch, partition.leader_epoch) {
        return Some(Answer::Read(ReadAnswer::error(error)));
    }
    let log = partition.log;
    let storage = &mut broker.storage;
    let (Some(high_watermark), Some(log_start_offset), Some(last_stable_offset)) =
        (storage.high_watermark(log), storage.log_start_offset(log), storage.last_stable_offset(log))
    else {
        return Some(Answer::Read(ReadAnswer::error(ErrorCode::UnknownTopicOrPartition)));
    };
    let mut answer = ReadAnswer {
        high_watermark,
        last_stable_offset,
        log_start_offset,
        leader_epoch: partition.leader_epoch,
        records: std::mem::take(&mut read.records),
        ..ReadAnswer::error(ErrorCode::None)
    };
    if read.last_fetched_epoch >= 0 {
        let (epoch, end_offset) = storage.end_offset_for_epoch(log, read.last_fetched_epoch);
        if epoch < read.last_fetched_epoch || end_offset < read.offset {
            answer.diverging = Some((epoch, end_offset));
            return Some(Answer::Read(answer));
        }
    }
    let range = ReadRange {
        offset: read.offset,
        max_bytes: read.max_bytes,
        at_least_one: true,
        end_offset: if read.read_committed { last_stable_offset } else { high_watermark },
    };
    match read_records(storage, io, log, range, read.read_committed, &mut answer) {
        Ok(true) => {}
        Ok(false) => {
            answer.records.clear();
            read.records = answer.records;
            partition.parked.push(task.into_owned());
            return None;
        }
        Err(error) => {
            answer.records.clear();
            answer.bytes = 0;
            answer.error = read_error(error);
        }
    }
    // What is read again when more has come is counted then.
    if read.watch.is_none_or(|watch| answer.bytes >= watch.min_bytes) {
        partition.traffic.bytes_out += answer.bytes as u64;
        partition.traffic.fetches += 1;
    }
    partition.traffic.failed_fetches += u64::from(answer.error.is_error());
    if let Some(watch) = read.watch
        && answer.bytes < watch.min_bytes
        && !answer.error.is_error()
    {
        partition.watch(task.gather, watch, broker.now_ns);
    }
    Some(Answer::Read(answer))
}

/// Reads records, and what of them a reader of committed data has to skip. False while the disk is asked.
fn read_records(
    storage: &mut Storage,
    io: &mut impl Io,
    log: LogId,
    range: ReadRange,
    read_committed: bool,
    answer: &mut ReadAnswer,
) -> Result<bool, ReadError> {
    let ReadOutcome::Done { bytes, next_offset } = storage.read(io, log, range, &mut answer.records)? else {
        return Ok(false);
    };
    answer.bytes = bytes;
    if !read_committed {
        return Ok(true);
    }
    let mut aborted = Vec::new();
    if bytes > 0 && !storage.aborted_transactions(io, log, range.offset, next_offset, &mut aborted)? {
        return Ok(false);
    }
    answer.aborted = Some(aborted);
    Ok(true)
}

fn read_error(error: ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange => ErrorCode::OffsetOutOfRange,
        // The memory is with slow readers: nothing now, the client asks again.
        ReadError::NoMemory => ErrorCode::None,
        ReadError::Offline | ReadError::Storage => ErrorCode::KafkaStorageError,
        ReadError::UnknownLog => ErrorCode::UnknownTopicOrPartition,
    }
}

/// Whether a complete gather is a fetch that has to wait for more; if so it is parked or read again.
pub fn must_wait(broker: &mut Broker, io: &mut impl Io, at: GatherRef) -> bool {
    let now = io.now();
    let Some(gather) = broker.gathers.find(at) else { return false };
    let Kind::Fetch(fetch) = &gather.kind else { return false };
    if fetch.max_wait_until_ns <= now || has_news(fetch, &gather.answers) {
        return false;
    }
    if fetch.moved {
        read_all(broker, io, at);
    } else {
        park(broker, at);
    }
    true
}

/// Whether there is something to answer before the wait is over.
fn has_news(fetch: &SessionFetch, answers: &[Option<Answer>]) -> bool {
    let mut bytes = 0;
    for answer in answers.iter().flatten() {
        match answer {
            Answer::Read(read) if !read.error.is_error() && read.diverging.is_none() => bytes += read.bytes,
            _ => return true,
        }
    }
    bytes >= fetch.min_bytes
}

fn park(broker: &mut Broker, at: GatherRef) {
    let Some(gather) = broker.gathers.find(at) else { return };
    let Kind::Fetch(fetch) = &mut gather.kind else { return };
    fetch.parked = true;
    let until = fetch.max_wait_until_ns;
    broker.fetch_deadlines.push(Reverse((until, at.slot, at.generation)));
    broker.metrics.fetches_parked.add(1);
}

/// A partition that this fetch watches has moved.
pub fn moved(broker: &mut Broker, io: &mut impl Io, at: GatherRef) {
    let Some(gather) = broker.gathers.find(at) else { return };
    let Kind::Fetch(fetch) = &mut gather.kind else { return };
    if fetch.parked {
        read_all(broker, io, at);
    } else {
        fetch.moved = true;
    }
}

pub fn finish(broker: &mut Broker, mut gather: Gather) -> Response {
    let mut answers = broker.spares.reads.take();
    answers.extend(gather.answers.drain(..).map(read_answer));
    let Kind::Fetch(fetch) = &gather.kind else { return Response { parts: Vec::new(), held_bytes: 0 } };
    let allowance = broker.reply_memory.allowance_bytes();
    limit_bytes(&mut answers, fetch.max_bytes.min(allowance), allowance > 0);
    let told = fetch.parts.iter().zip(&answers);
    let told = told.map(|((key, _), answer)| (key, answer.high_watermark, answer.log_start_offset));
    let with_records = answers.iter().filter(|answer| answer.bytes > 0).count();
    broker.sessions.end(fetch.session_id, told, with_records);
    let bytes: usize = answers.iter().map(|answer| answer.bytes).sum();
    broker.metrics.bytes_fetched.add(bytes as u64);
    broker.reply_memory.hold(bytes);
    let throttle_time_ms = if allowance == 0 { THROTTLE_MS } else { 0 };
    let spares = &mut broker.spares;
    let writer = encode(spares, &gather.head, fetch, &gather.layout, &answers, throttle_time_ms);
    let records = |slot| std::mem::take(&mut answers[slot as usize].records);
    let response = Response::from_writer(writer, spares, records);
    answers.drain(..).for_each(|answer| spares.slices.give(answer.records));
    spares.reads.give(answers);
    gather.give_back(spares);
    Response { held_bytes: bytes, ..response }
}

fn read_answer(answer: Option<Answer>) -> ReadAnswer {
    match answer {
        Some(Answer::Read(read)) => read,
        Some(Answer::Error(error)) => ReadAnswer::error(error),
        // The wait ended while a part was still being read: nothing yet.
        _ => ReadAnswer::error(ErrorCode::None),
    }
}

/// Parts behind the limit give their records up; the first one with records keeps them if `at_least_one`.
fn limit_bytes(answers: &mut [ReadAnswer], max_bytes: usize, at_least_one: bool) {
    let mut left = max_bytes;
    let mut first = at_least_one;
    for answer in answers {
        if answer.bytes > left && !first {
            answer.records.clear();
            answer.aborted.iter_mut().for_each(Vec::clear);
            answer.bytes = 0;
        }
        first &= answer.bytes == 0;
        left = left.saturating_sub(answer.bytes);
    }
}

/// The frame, without the records.
fn encode(
    spares: &mut Spares,
    head: &Head,
    fetch: &SessionFetch,
    layout: &Layout,
    answers: &[ReadAnswer],
    throttle_time_ms: i32,
) -> Writer {
    let mut data = spares.fetch_partitions.take();
    let mut ends = spares.ends.take();
    for (_, first, partitions) in layout.topics() {
        for (index, &partition) in (first..).zip(partitions) {
            let answer = &answers[index];
            if !fetch.incremental || has_changed(answer, &fetch.parts[index].1) {
                data.push(partition_data(partition, index as u32, answer, head.version));
            }
        }
        ends.push(data.len());
    }
    let mut topics = spares::emptied(spares.fetch_topics.take());
    let mut start = 0;
    for ((topic, ..), &end) in layout.topics().zip(&ends) {
        let partitions = &data[std::mem::replace(&mut start, end)..end];
        if !partitions.is_empty() {
            topics.push(FetchableTopicResponse {
                topic: Cow::Borrowed(&*topic.name),
                topic_id: topic.topic_id,
                partitions: Array::lent(partitions),
            });
        }
    }
    let response = FetchResponse {
        throttle_time_ms,
        session_id: fetch.session_id,
        responses: Array::lent(&topics),
        ..Default::default()
    };
    let mut writer = spares.writer();
    frame::write_response(&mut writer, head.api_key, head.version, head.correlation_id, &response);
    spares.fetch_topics.give(topics);
    spares.fetch_partitions.give(data);
    spares.ends.give(ends);
    writer
}

/// Whether a session's client has to hear of it.
fn has_changed(answer: &ReadAnswer, part: &FetchPartition) -> bool {
    answer.bytes > 0
        || answer.error.is_error()
        || answer.diverging.is_some()
        || answer.high_watermark != part.told_high_watermark
        || answer.log_start_offset != part.told_log_start_offset
}

fn partition_data(partition: i32, slot: u32, answer: &ReadAnswer, version: i16) -> PartitionData<'static> {
    let mut data = PartitionData {
        partition_index: partition,
        error_code: answer.error.code(),
        high_watermark: answer.high_watermark,
        last_stable_offset: answer.last_stable_offset,
        log_start_offset: answer.log_start_offset,
        aborted_transactions: answer.aborted.as_ref().map(|aborted| {
            let named = |txn: &AbortedTxn| AbortedTransaction {
                producer_id: txn.producer_id,
                first_offset: txn.first_offset,
            };
            aborted.iter().map(named).collect()
        }),
        records: Some(Records::External { slot, len: answer.bytes as u32 }),
        ..Default::default()
    };
    if answer.error == ErrorCode::UnknownTopicOrPartition && version >= TOPIC_IDS {
        data.error_code = ErrorCode::UnknownTopicId.code();
    }
    if let Some((epoch, end_offset)) = answer.diverging {
        data.diverging_epoch = EpochEndOffset { epoch, end_offset };
    }
    data
}
