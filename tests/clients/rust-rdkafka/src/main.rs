//! rust rdkafka against a broker; see ../../README.md for what each check means.

mod kit;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_executor::block_on;
use kit::{BASE_MS, BOOTSTRAP, Outcome, Tally, headers_of, record, restart_broker, until};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_secs(30);

fn config(extra: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    // Lost connections are logged at 3 and below: the restart is wanted.
    config
        .set("bootstrap.servers", BOOTSTRAP.as_str())
        .set("log_level", "2")
        .set("reconnect.backoff.max.ms", "1000");
    for (key, value) in extra {
        config.set(*key, *value);
    }
    config
}

fn admin() -> Result<AdminClient<DefaultClientContext>, KafkaError> {
    config(&[]).create()
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}

fn partition_count(topic: &str) -> Result<usize, Box<dyn Error>> {
    let metadata = admin()?.inner().fetch_metadata(None, TIMEOUT)?;
    Ok(metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len()))
}

fn create(topic: &str, partitions: i32) -> Outcome {
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for result in block_on(admin()?.create_topics(&[new], &options()))? {
        result.map_err(|(topic, code)| format!("{topic}: {code}"))?;
    }
    until("topic in metadata", || Ok(partition_count(topic)? == partitions as usize))
}

/// Counts the records that were not acknowledged.
#[derive(Clone, Default)]
struct Failures(Arc<AtomicUsize>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn producer(extra: &[(&str, &str)]) -> Result<(BaseProducer<Failures>, Failures), KafkaError> {
    let failures = Failures::default();
    let mut config = config(&[("linger.ms", "5"), ("message.timeout.ms", "100000")]);
    for (key, value) in extra {
        config.set(*key, *value);
    }
    Ok((config.create_with_context(failures.clone())?, failures))
}

fn produce(producer: &BaseProducer<Failures>, topic: &str, i: usize) -> Outcome {
    let r = record(i);
    let mut message = BaseRecord::to(topic).key(&r.key).headers(headers_of(&r)).timestamp(r.timestamp_ms);
    if let Some(value) = &r.value {
        message = message.payload(value);
    }
    producer.send(message).map_err(|(e, _)| e)?;
    producer.poll(Duration::ZERO);
    Ok(())
}

/// Records `from` to `to`, acknowledged.
fn send(topic: &str, from: usize, to: usize, extra: &[(&str, &str)]) -> Outcome {
    let (producer, failures) = producer(extra)?;
    for i in from..to {
        produce(&producer, topic, i)?;
    }
    producer.flush(Duration::from_secs(60))?;
    ensure!(failures.0.load(Ordering::Relaxed) == 0, "failed deliveries");
    Ok(())
}

fn member(group: &str, topic: &str, extra: &[(&str, &str)]) -> Result<BaseConsumer, KafkaError> {
    let mut config = config(&[
        ("group.id", group),
        ("auto.offset.reset", "earliest"),
        ("enable.auto.commit", "false"),
        ("session.timeout.ms", "10000"),
        ("heartbeat.interval.ms", "300"),
    ]);
    for (key, value) in extra {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

/// Some polls, up to the first that brings nothing. With `again` the broker may be away and come back.
fn take(consumer: &BaseConsumer, tally: &mut Tally, again: bool) -> Outcome {
    for _ in 0..50 {
        match consumer.poll(Duration::from_millis(1)) {
            Some(Ok(message)) => tally.add(&message, again)?,
            Some(Err(e)) if !again => return Err(e.into()),
            _ => break,
        }
    }
    Ok(())
}

/// Polls until the tally holds `n` records, then commits.
fn drain(consumers: &[&BaseConsumer], tally: &mut Tally, n: usize) -> Outcome {
    until(&format!("{n} records"), || {
        for c in consumers {
            take(c, tally, false)?;
        }
        Ok(tally.len() >= n)
    })?;
    for c in consumers {
        commit(c)?;
    }
    tally.expect(n)
}

/// A member that has read nothing has nothing to commit.
fn commit(consumer: &BaseConsumer) -> Outcome {
    match consumer.commit_consumer_state(CommitMode::Sync) {
        Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn held(consumer: &BaseConsumer) -> Result<Vec<i32>, KafkaError> {
    Ok(consumer.assignment()?.elements().iter().map(|e| e.partition()).collect())
}

fn main() {
    let mut checks: Vec<(String, Box<dyn Fn() -> Outcome>)> =
        vec![("create topic and metadata".into(), Box::new(create_topic))];
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        checks
            .push((format!("produce and consume by group, {codec}"), Box::new(move || through_group(codec))));
    }
    checks.push(("committed offsets are where the group goes on".into(), Box::new(committed)));
    for strategy in ["range", "cooperative-sticky"] {
        checks.push((format!("rebalance, {strategy}"), Box::new(move || rebalance(strategy))));
    }
    checks.push((
        "transactions: commit, abort, read_committed, offsets in a transaction".into(),
        Box::new(transactions),
    ));
    checks.push(("seek by timestamp".into(), Box::new(seek)));
    checks.push(("admin: describe and alter configs".into(), Box::new(configs)));
    checks.push(("admin: create partitions, delete records, delete topic".into(), Box::new(partitions)));
    checks.push(("admin: groups".into(), Box::new(groups)));
    checks.push(("broker restart in the middle, idempotent producer".into(), Box::new(restart)));
    std::process::exit(i32::from(!kit::run(checks)));
}

fn create_topic() -> Outcome {
    create("rr-create", 4)?;
    let again = NewTopic::new("rr-create", 1, TopicReplication::Fixed(1));
    let results = block_on(admin()?.create_topics(&[again], &options()))?;
    ensure!(
        matches!(&results[0], Err((_, RDKafkaErrorCode::TopicAlreadyExists))),
        "second creation: {results:?}"
    );
    Ok(())
}

fn through_group(codec: &str) -> Outcome {
    let topic = format!("rr-{codec}");
    create(&topic, 3)?;
    send(&topic, 0, 500, &[("compression.type", codec)])?;
    drain(&[&member(&format!("{topic}-g"), &topic, &[])?], &mut Tally::default(), 500)
}

fn committed() -> Outcome {
    create("rr-commit", 3)?;
    send("rr-commit", 0, 600, &[])?;
    let mut tally = Tally::default();
    let first = member("rr-commit-g", "rr-commit", &[])?;
    until("some records", || take(&first, &mut tally, false).map(|()| tally.len() >= 200))?;
    commit(&first)?;
    drop(first);
    let second = member("rr-commit-g", "rr-commit", &[])?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range("rr-commit", 0, 2);
    let found = second.committed_offsets(asked, TIMEOUT)?;
    let sum: i64 = found.elements().iter().filter_map(|e| e.offset().to_raw()).filter(|o| *o > 0).sum();
    ensure!(sum == tally.len() as i64, "committed offsets add up to {sum}, not {}", tally.len());
    drain(&[&second], &mut tally, 600)
}

fn rebalance(strategy: &str) -> Outcome {
    let topic = format!("rr-rebalance-{strategy}");
    let join = || member(&format!("{topic}-g"), &topic, &[("partition.assignment.strategy", strategy)]);
    create(&topic, 4)?;
    let mut tally = Tally::default();
    let a = join()?;
    send(&topic, 0, 200, &[])?;
    drain(&[&a], &mut tally, 200)?;
    let b = join()?;
    until("they share", || {
        take(&a, &mut tally, false)?;
        take(&b, &mut tally, false)?;
        let mut both = [held(&a)?, held(&b)?].concat();
        both.sort_unstable();
        Ok(held(&a)?.len() == 2 && both == [0, 1, 2, 3])
    })?;
    send(&topic, 200, 400, &[])?;
    drain(&[&a, &b], &mut tally, 400)?;
    drop(b);
    until("the one left has all", || take(&a, &mut tally, false).and_then(|()| Ok(held(&a)?.len() == 4)))?;
    send(&topic, 400, 600, &[])?;
    drain(&[&a], &mut tally, 600)
}

/// Sends records and ends the transaction that [`Producer::begin_transaction`] has begun.
fn transaction(
    producer: &BaseProducer<Failures>,
    topic: &str,
    from: usize,
    to: usize,
    commit: bool,
) -> Outcome {
    for i in from..to {
        produce(producer, topic, i)?;
    }
    producer.flush(TIMEOUT)?;
    if commit {
        producer.commit_transaction(TIMEOUT)?
    } else {
        producer.abort_transaction(TIMEOUT)?
    }
    Ok(())
}

fn transactions() -> Outcome {
    create("rr-txn-in", 3)?;
    create("rr-txn-out", 3)?;
    let transactional = || -> Result<BaseProducer<Failures>, KafkaError> {
        let (producer, _) = producer(&[("transactional.id", "rr-txn"), ("message.timeout.ms", "30000")])?;
        producer.init_transactions(TIMEOUT)?;
        Ok(producer)
    };
    let producer = transactional()?;
    for (from, to, commit) in [(0, 100, true), (100, 160, false), (100, 200, true)] {
        producer.begin_transaction()?;
        transaction(&producer, "rr-txn-in", from, to, commit)?;
    }
    let everything = member("rr-txn-all", "rr-txn-in", &[("isolation.level", "read_uncommitted")])?;
    let mut all = 0;
    until("all that was sent", || {
        all += usize::from(everything.poll(Duration::from_millis(10)).transpose()?.is_some());
        Ok(all >= 260)
    })?;
    drop(everything);
    let consumer = member("rr-txn-g", "rr-txn-in", &[("isolation.level", "read_committed")])?;
    let mut tally = Tally::default();
    until("what was committed", || take(&consumer, &mut tally, false).map(|()| tally.len() >= 200))?;
    tally.expect(200)?;
    let (positions, metadata) = (consumer.position()?, consumer.group_metadata().ok_or("no group")?);
    for commit in [false, true] {
        producer.begin_transaction()?;
        producer.send_offsets_to_transaction(&positions, &metadata, TIMEOUT)?;
        transaction(&producer, "rr-txn-out", 0, 200, commit)?;
        for committed in consumer.committed_offsets(positions.clone(), TIMEOUT)?.elements() {
            let position =
                positions.find_partition("rr-txn-in", committed.partition()).ok_or("no position")?;
            let want = if commit { position.offset() } else { Offset::Invalid };
            ensure!(committed.offset() == want, "{:?} is committed, not {want:?}", committed.offset());
        }
    }
    // The list holds on to the consumer's partitions: the client's end would wait for it.
    drop(positions);
    drop(consumer);
    let consumer = member("rr-txn-out-g", "rr-txn-out", &[("isolation.level", "read_committed")])?;
    drain(&[&consumer], &mut Tally::default(), 200)?;
    let _second = transactional()?;
    producer.begin_transaction()?;
    match transaction(&producer, "rr-txn-out", 200, 210, true) {
        Ok(()) => Err("a producer goes on whose id another has taken".into()),
        Err(_) => Ok(()),
    }
}

fn seek() -> Outcome {
    create("rr-time", 1)?;
    send("rr-time", 0, 100, &[])?;
    send("rr-time", 100, 200, &[("compression.type", "zstd")])?;
    let consumer: BaseConsumer = config(&[("group.id", "rr-time-g")]).create()?;
    for at in [-5, 37, 150, 199] {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_offset("rr-time", 0, Offset::Offset(*BASE_MS + at))?;
        let found = consumer.offsets_for_times(asked, TIMEOUT)?;
        let want = Offset::Offset(at.max(0));
        ensure!(
            found.elements()[0].offset() == want,
            "offset at {at} ms: {:?}",
            found.elements()[0].offset()
        );
        consumer.assign(&found)?;
        let mut first = None;
        until("a record", || {
            let polled = consumer.poll(Duration::from_millis(100)).transpose()?;
            first = polled.map(|m| Offset::Offset(m.offset()));
            Ok(first.is_some())
        })?;
        ensure!(first == Some(want), "the first from {at} ms is at {first:?}");
    }
    Ok(())
}

fn configs() -> Outcome {
    create("rr-admin", 1)?;
    let admin = admin()?;
    let topic = ResourceSpecifier::Topic("rr-admin");
    let retention = || -> Result<Option<String>, Box<dyn Error>> {
        let found = block_on(admin.describe_configs([&topic], &options()))?.remove(0)?;
        Ok(found.get("retention.ms").and_then(|e| e.value.clone()))
    };
    ensure!(retention()?.as_deref() == Some("604800000"), "retention.ms is {:?}", retention()?);
    let alter = |value| -> Outcome {
        let change = AlterConfig::new(topic).set("retention.ms", value);
        block_on(admin.alter_configs([&change], &options()))?;
        Ok(())
    };
    alter("123456789")?;
    until("the changed value", || Ok(retention()?.as_deref() == Some("123456789")))?;
    // This crate reports success whatever the broker says of a resource: what counts is that the value stays.
    alter("a week")?;
    ensure!(retention()?.as_deref() == Some("123456789"), "a wrong value was taken: {:?}", retention()?);
    Ok(())
}

fn partitions() -> Outcome {
    create("rr-admin2", 3)?;
    let admin = admin()?;
    block_on(admin.create_partitions(&[NewPartitions::new("rr-admin2", 5)], &options()))?
        .remove(0)
        .map_err(|(_, code)| code)?;
    until("five partitions", || Ok(partition_count("rr-admin2")? == 5))?;
    send("rr-admin2", 0, 100, &[])?;
    let consumer: BaseConsumer = config(&[("group.id", "rr-admin2-g")]).create()?;
    let mut halves = TopicPartitionList::new();
    for partition in 0..5 {
        let (_, end) = consumer.fetch_watermarks("rr-admin2", partition, TIMEOUT)?;
        halves.add_partition_offset("rr-admin2", partition, Offset::Offset(end / 2))?;
    }
    block_on(admin.delete_records(&halves, &options()))?;
    for half in halves.elements() {
        let (start, _) = consumer.fetch_watermarks("rr-admin2", half.partition(), TIMEOUT)?;
        ensure!(Offset::Offset(start) == half.offset(), "partition {} begins at {start}", half.partition());
    }
    block_on(admin.delete_topics(&["rr-admin2"], &options()))?.remove(0).map_err(|(_, code)| code)?;
    until("the topic is gone", || Ok(partition_count("rr-admin2")? == 0))
}

fn groups() -> Outcome {
    create("rr-groups", 1)?;
    send("rr-groups", 0, 50, &[])?;
    let consumer = member("rr-groups-g", "rr-groups", &[])?;
    drain(&[&consumer], &mut Tally::default(), 50)?;
    let found = consumer.fetch_group_list(Some("rr-groups-g"), TIMEOUT)?;
    let group = found.groups().first().ok_or("the group is not listed")?;
    ensure!(
        group.state() == "Stable" && group.members().len() == 1,
        "{} {}",
        group.state(),
        group.members().len()
    );
    drop(consumer);
    block_on(admin()?.delete_groups(&["rr-groups-g"], &options()))?.remove(0).map_err(|(_, code)| code)?;
    Ok(())
}

fn restart() -> Outcome {
    const N: usize = 4000;
    create("rr-restart", 3)?;
    let mut tally = Tally::default();
    let consumer = member("rr-restart-g", "rr-restart", &[])?;
    let (producer, failures) = producer(&[("enable.idempotence", "true"), ("compression.type", "lz4")])?;
    let mut restarting = None;
    for i in 0..N {
        produce(&producer, "rr-restart", i)?;
        if i == N / 4 {
            until("some of them read", || {
                producer.poll(Duration::ZERO);
                take(&consumer, &mut tally, false).map(|()| tally.len() >= N / 8)
            })?;
            restarting = Some(restart_broker()?);
        }
        if i % 10 == 0 {
            take(&consumer, &mut tally, true)?;
        }
    }
    producer.flush(Duration::from_secs(100))?;
    ensure!(failures.0.load(Ordering::Relaxed) == 0, "failed deliveries");
    let status = restarting.ok_or("no restart")?.wait()?;
    ensure!(status.success(), "the restart ended with {status}");
    until("all of them", || take(&consumer, &mut tally, true).map(|()| tally.len() >= N))?;
    tally.expect(N)?;
    let mut sum = 0;
    for partition in 0..3 {
        sum += consumer.fetch_watermarks("rr-restart", partition, TIMEOUT)?.1;
    }
    ensure!(sum == N as i64, "end offsets add up to {sum}");
    Ok(())
}
