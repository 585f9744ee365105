//! One producer's life: a transaction after the other, each tried again as a client does until its end is known.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::requests::Refused;
use super::{Done, Ended, Outcome, Piece, Times, interval_ns, leader};
use crate::io::Io;
use crate::load::admin::Admin;
use crate::load::batch::ProducerId;
use crate::load::cluster::ClusterMap;
use crate::load::options::{Length, Options, TransactionOptions};
use crate::load::payload::{self, Filler, Identity, Random, mix};
use crate::protocol::ErrorCode;
use crate::record::{BatchBuilder, BatchOptions, Codec, CompressionLevel, Compressor};

/// As the Java client waits while the transaction before is being ended.
const CONCURRENT_BACKOFF_NS: u64 = 20_000_000;

/// Partitions and their batches.
type Batches = Vec<(u32, Vec<u8>)>;

/// What a producer is to do.
pub struct Task {
    number: u16,
    run: u32,
    id: String,
    version: i16,
    records: u32,
    partitions: u32,
    aborts_percent: u32,
    interval_ns: Option<u64>,
    transactions_max: u64,
    timeout_ms: i32,
    delivery_timeout_ns: u64,
    backoff_ns: u64,
    record_bytes: usize,
    codec: Codec,
    map: Arc<ClusterMap>,
    random: Random,
}

impl Task {
    pub fn new(
        number: u16,
        run: u32,
        seed: u64,
        version: i16,
        options: &Options,
        transactions: &TransactionOptions,
        map: Arc<ClusterMap>,
    ) -> Task {
        let all = map.leaders.len() as u32;
        Task {
            number,
            run,
            id: format!("ringlog-load-{run:08x}-{number}"),
            version,
            records: transactions.records,
            partitions: transactions.partitions.unwrap_or(all).min(all).min(transactions.records),
            aborts_percent: transactions.aborts_percent,
            interval_ns: interval_ns(options, transactions),
            transactions_max: match options.length {
                Length::Records(records) => {
                    records.div_ceil(u64::from(transactions.records) * u64::from(options.producers))
                }
                Length::DurationNs(_) => u64::MAX,
            },
            timeout_ms: transactions.timeout_ms,
            delivery_timeout_ns: options.delivery_timeout_ns,
            backoff_ns: options.retry_backoff_ns,
            record_bytes: options.record_bytes,
            codec: options.codec,
            map,
            random: Random::new(mix(seed ^ u64::from(number))),
        }
    }
}

pub struct Producer<I: Io> {
    admin: Admin<I>,
    task: Task,
    filler: Filler,
    coordinator: Option<SocketAddr>,
    id: ProducerId,
    /// The sequence of the next record of each partition, as the records say it, over all transactions.
    sequences: Vec<u64>,
    /// The same as the broker counts it: from 0 with every epoch.
    of_epoch: BTreeMap<u32, i32>,
    outcome: Outcome,
}

impl<I: Io> Producer<I> {
    pub fn new(admin: Admin<I>, task: Task) -> Producer<I> {
        Producer {
            admin,
            filler: Filler::new(task.run, task.record_bytes),
            coordinator: None,
            id: ProducerId::NONE,
            sequences: vec![0; task.map.leaders.len()],
            of_epoch: BTreeMap::new(),
            outcome: Outcome::new(),
            task,
        }
    }

    /// Becomes the one producer of its id; what an earlier life left open is aborted.
    pub fn init(&mut self) -> Result<(), String> {
        let init = |producer: &mut Self, coordinator| {
            let timeout_ms = producer.task.timeout_ms;
            producer.admin.init_transactions(coordinator, &producer.task.id, timeout_ms)
        };
        let id = self.coordinated(init).map_err(|refused| format!("InitProducerId: {}", refused.name()))?;
        self.begin_epoch(id);
        Ok(())
    }

    pub fn run(mut self, times: Times) -> Outcome {
        let mut planned_ns = times.start_ns;
        for count in 0..self.task.transactions_max {
            self.admin.wait_until(planned_ns);
            if self.admin.now_ns().max(planned_ns) >= times.stop_ns {
                break;
            }
            if let Err(refused) = self.transaction(planned_ns, times) {
                self.outcome.gave_up =
                    Some(format!("{} after {count} transactions: {refused}", self.task.id));
                break;
            }
            planned_ns = match self.task.interval_ns {
                Some(interval_ns) => planned_ns + interval_ns,
                None => self.admin.now_ns(),
            };
        }
        self.outcome
    }

    /// One transaction. `Err`: not even the next can be begun.
    fn transaction(&mut self, planned_ns: u64, times: Times) -> Result<(), String> {
        let began_ns = self.admin.now_ns();
        let commit = self.task.random.below(100) >= u64::from(self.task.aborts_percent);
        let (pieces, batches) = self.batches(planned_ns)?;
        let written = self.write(&batches);
        let end_ns = self.admin.now_ns();
        let wants_commit = commit && written.is_ok();
        let end = |producer: &mut Self, coordinator| {
            let task = &producer.task;
            let id = (task.id.as_str(), task.version);
            producer.admin.end_transaction(coordinator, id, producer.id, wants_commit)
        };
        let answer = self.coordinated(end);
        let now_ns = self.admin.now_ns();
        let ended = match (&answer, wants_commit) {
            (Ok(_), true) => Ended::Committed,
            (Ok(_), false) => Ended::Aborted,
            // Refused as a whole, it cannot have been committed; without an answer it can.
            (Err(Refused::Code(code)), true) if !code.is_retriable() => Ended::Aborted,
            (Err(_), true) => Ended::Unknown,
            (Err(_), false) => Ended::Aborted,
        };
        if ended == Ended::Committed && planned_ns >= times.measure_ns {
            self.outcome.whole.saturating_record(now_ns.saturating_sub(planned_ns));
            self.outcome.uncorrected.saturating_record(now_ns.saturating_sub(began_ns));
            self.outcome.end.saturating_record(now_ns.saturating_sub(end_ns));
        }
        if ended == Ended::Committed && (times.measure_ns..times.stop_ns).contains(&now_ns) {
            self.outcome.committed_measured += 1;
            self.outcome.records_measured += u64::from(self.task.records);
        }
        self.outcome.done.push(Done { producer: self.task.number, ended, pieces });
        match answer {
            Ok(id) if id != self.id => self.begin_epoch(id),
            Ok(_) => {}
            Err(_) => self.init()?,
        }
        Ok(())
    }

    fn begin_epoch(&mut self, id: ProducerId) {
        self.id = id;
        self.of_epoch.clear();
    }

    /// The records of the next transaction.
    fn batches(&mut self, intended_ns: u64) -> Result<(Vec<Piece>, Batches), String> {
        let all = self.task.map.leaders.len() as u32;
        let first = self.task.random.below(u64::from(all)) as u32;
        let (mut pieces, mut batches) = (Vec::new(), Vec::new());
        for at in 0..self.task.partitions {
            let partition = (first + at) % all;
            let share = self.task.records / self.task.partitions
                + u32::from(at < self.task.records % self.task.partitions);
            let from = self.sequences[partition as usize];
            batches.push((partition, self.batch(partition, share, intended_ns)?));
            self.sequences[partition as usize] += u64::from(share);
            pieces.push((partition, from, from + u64::from(share)));
            *self.of_epoch.entry(partition).or_default() += share as i32;
        }
        Ok((pieces, batches))
    }

    fn batch(&self, partition: u32, records: u32, intended_ns: u64) -> Result<Vec<u8>, String> {
        let mut builder = BatchBuilder::new(BatchOptions {
            codec: self.task.codec,
            level: CompressionLevel::default(),
            producer_id: self.id.id,
            producer_epoch: self.id.epoch,
            base_sequence: self.of_epoch.get(&partition).copied().unwrap_or(0),
            transactional: true,
            ..BatchOptions::default()
        });
        let (now_ns, wall_ms) = (self.admin.now_ns(), self.admin.wall_ms());
        let mut value = vec![0; self.task.record_bytes];
        for slot in 0..records {
            let identity = Identity {
                run: self.task.run,
                producer: self.task.number,
                slot: slot as u16,
                partition,
                sequence: self.sequences[partition as usize] + u64::from(slot),
                intended_ns,
                sent_ns: 0,
            };
            identity.write(&mut value);
            payload::seal(&mut value, now_ns);
            value[payload::IDENTITY_BYTES..].copy_from_slice(self.filler.piece(slot as u16));
            builder.append(wall_ms, None, Some(&value), &[]);
        }
        let mut bytes = Vec::with_capacity(builder.uncompressed_size());
        builder.finish(&mut Compressor::new(), &mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn write(&mut self, batches: &[(u32, Vec<u8>)]) -> Result<(), Refused> {
        if self.task.version < 2 {
            let partitions: Vec<u32> = batches.iter().map(|(partition, _)| *partition).collect();
            self.coordinated(|producer, coordinator| {
                let (task, id) = (&producer.task, producer.id);
                producer.admin.add_partitions(coordinator, &task.id, id, &task.map.topic, &partitions)
            })?;
        }
        let mut by_leader: BTreeMap<SocketAddr, Vec<&(u32, Vec<u8>)>> = BTreeMap::new();
        for batch in batches {
            by_leader.entry(leader(&self.task.map, batch.0).map_err(Refused::Lost)?).or_default().push(batch);
        }
        for (leader, batches) in by_leader {
            self.patiently(|producer| {
                let task = &producer.task;
                let (id, timeout_ms) = ((task.id.as_str(), task.version), task.timeout_ms);
                producer.admin.produce_in_transaction(leader, &task.map, id, &batches, timeout_ms)
            })?;
        }
        Ok(())
    }

    /// Asks the coordinator, which may have to be looked for.
    fn coordinated<T>(
        &mut self,
        mut ask: impl FnMut(&mut Self, SocketAddr) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.patiently(|producer| {
            let coordinator = match producer.coordinator {
                Some(coordinator) => coordinator,
                None => producer.admin.find_transaction_coordinator(&producer.task.id)?,
            };
            producer.coordinator = Some(coordinator);
            let answer = ask(producer, coordinator);
            let moved = matches!(
                answer,
                Err(Refused::Lost(_)
                    | Refused::Code(ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable))
            );
            if moved {
                producer.coordinator = None;
            }
            answer
        })
    }

    /// Tries again what may pass, for as long as a record may take to be delivered.
    fn patiently<T>(&mut self, mut ask: impl FnMut(&mut Self) -> Result<T, Refused>) -> Result<T, Refused> {
        let until_ns = self.admin.now_ns() + self.task.delivery_timeout_ns;
        loop {
            let refused = match ask(self) {
                Ok(answer) => return Ok(answer),
                Err(refused) => refused,
            };
            *self.outcome.errors.entry(refused.name()).or_default() += 1;
            let now_ns = self.admin.now_ns();
            if !refused.passes() || now_ns >= until_ns {
                return Err(refused);
            }
            let concurrent = refused == Refused::Code(ErrorCode::ConcurrentTransactions);
            let backoff_ns = if concurrent {
                CONCURRENT_BACKOFF_NS.min(self.task.backoff_ns)
            } else {
                self.task.backoff_ns
            };
            self.admin.wait_until(now_ns + backoff_ns);
        }
    }
}
