//! What a run of transactions says of itself: JSON, and a table for people.

use std::collections::BTreeMap;
use std::io::Write;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

use super::check::Verification;
use super::{Ended, Outcome, interval_ns};
use crate::load::machine::{Machine, ProcessUsage};
use crate::load::options::{Options, Outputs, TransactionOptions};
use crate::load::report::{Percentiles, RunVerdict};

pub struct Gathered {
    pub started_ms: i64,
    pub seconds: f64,
    pub topic: String,
    pub partitions: usize,
    pub version: i16,
    pub run: u32,
    pub seed: u64,
    pub sum: Outcome,
    pub broker: Option<(ProcessUsage, ProcessUsage)>,
    pub verification: Option<Verification>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub verdict: RunVerdict,
    pub reasons: Vec<String>,
    started_ms: i64,
    machine: Machine,
    asked: Asked,
    measured_seconds: f64,
    committed: u64,
    aborted: u64,
    unknown: u64,
    /// Committed in the measured time.
    transactions_per_second: f64,
    records_per_second: f64,
    megabytes_per_second: f64,
    latency: BTreeMap<&'static str, Percentiles>,
    /// What was tried again, or not.
    errors: BTreeMap<String, u64>,
    broker_cpu_seconds: Option<f64>,
    broker_rss_bytes: Option<u64>,
    verification: Option<Verification>,
}

#[derive(Debug, Serialize)]
struct Asked {
    bootstrap: String,
    topic: String,
    partitions: usize,
    transaction_version: i16,
    producers: u32,
    records_per_transaction: u32,
    partitions_per_transaction: u32,
    aborts_percent: u32,
    interval_ns: Option<u64>,
    record_bytes: usize,
    compression: &'static str,
    warmup_ns: u64,
    run: u32,
    seed: u64,
}

impl Report {
    pub fn new(options: &Options, transactions: &TransactionOptions, it: Gathered) -> Report {
        let count = |ended| it.sum.done.iter().filter(|done| done.ended == ended).count() as u64;
        let mut reasons: Vec<String> = it.sum.gave_up.iter().cloned().collect();
        if it.verification.as_ref().is_some_and(|found| !found.passed) {
            reasons.push("what was read is not what was committed".into());
        }
        if it.sum.committed_measured == 0 {
            reasons.push("nothing was committed in the measured time".into());
        }
        let per_second = |count: f64| if it.seconds > 0.0 { count / it.seconds } else { 0.0 };
        let records = it.sum.records_measured as f64;
        let all = it.partitions as u32;
        Report {
            verdict: if reasons.is_empty() { RunVerdict::Ok } else { RunVerdict::Failed },
            reasons,
            started_ms: it.started_ms,
            machine: Machine::read(),
            measured_seconds: it.seconds,
            committed: count(Ended::Committed),
            aborted: count(Ended::Aborted),
            unknown: count(Ended::Unknown),
            transactions_per_second: per_second(it.sum.committed_measured as f64),
            records_per_second: per_second(records),
            megabytes_per_second: per_second(records * options.record_bytes as f64 / 1e6),
            latency: BTreeMap::from([
                ("transaction", Percentiles::of(&it.sum.whole)),
                ("transaction-uncorrected", Percentiles::of(&it.sum.uncorrected)),
                ("end", Percentiles::of(&it.sum.end)),
            ]),
            errors: it.sum.errors,
            broker_cpu_seconds: it.broker.map(|(before, after)| after.cpu_seconds - before.cpu_seconds),
            broker_rss_bytes: it.broker.map(|(_, after)| after.rss_bytes),
            verification: it.verification,
            asked: Asked {
                bootstrap: options.bootstrap.join(","),
                topic: it.topic,
                partitions: it.partitions,
                transaction_version: it.version,
                producers: options.producers,
                records_per_transaction: transactions.records,
                partitions_per_transaction: transactions
                    .partitions
                    .unwrap_or(all)
                    .min(all)
                    .min(transactions.records),
                aborts_percent: transactions.aborts_percent,
                interval_ns: interval_ns(options, transactions),
                record_bytes: options.record_bytes,
                compression: options.codec.name(),
                warmup_ns: options.warmup_ns,
                run: it.run,
                seed: it.seed,
            },
        }
    }

    pub fn show(&self, outputs: &Outputs) -> Result<(), String> {
        if let Some(path) = &outputs.json {
            let json = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
            let written = match path.to_str() {
                Some("-") => std::io::stdout().write_all(format!("{json}\n").as_bytes()),
                _ => std::fs::write(path, format!("{json}\n")),
            };
            written.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        if !outputs.quiet {
            eprintln!("{}", self.table());
        }
        Ok(())
    }

    fn table(&self) -> String {
        let asked = &self.asked;
        let pace = asked.interval_ns.map_or("one after the other".into(), |ns| format!("every {}", ms(ns)));
        let mut out = format!(
            "transactions (version {}) on {}: {} producers, {pace}, {} records of {} B over {} of {} partitions\n",
            asked.transaction_version,
            asked.bootstrap,
            asked.producers,
            asked.records_per_transaction,
            asked.record_bytes,
            asked.partitions_per_transaction,
            asked.partitions,
        );
        out += &format!(
            "\n{:.1} transactions/s, {:.0} records/s, {:.1} MB/s; {} committed, {} aborted, {} unknown\n\n",
            self.transactions_per_second,
            self.records_per_second,
            self.megabytes_per_second,
            self.committed,
            self.aborted,
            self.unknown,
        );
        let mut table = Table::new();
        table
            .load_style(UTF8_BORDERS_ONLY)
            .set_header(["latency", "mean", "p50", "p90", "p99", "p99.9", "max"]);
        for (name, found) in &self.latency {
            let values = [found.p50_ns, found.p90_ns, found.p99_ns, found.p99_9_ns, found.max_ns];
            let mut row = vec![(*name).to_owned(), ms(found.mean_ns as u64)];
            row.extend(values.into_iter().map(ms));
            table.add_row(row);
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        out += &format!("{table}\n");
        if let Some(cpu) = self.broker_cpu_seconds {
            out += &format!("broker: {cpu:.2} CPU seconds\n");
        }
        if !self.errors.is_empty() {
            out += &format!("errors: {:?}\n", self.errors);
        }
        if let Some(found) = &self.verification {
            let records = &found.records;
            out += &format!(
                "read: {} records; {} lost, {} twice, {} out of order, {} corrupt, {} of aborted transactions, {} torn, {} partitions left open\n",
                records.read.records,
                records.lost,
                records.read.duplicated,
                records.read.reordered,
                records.read.corrupt,
                found.aborted_read,
                found.torn,
                found.open_partitions,
            );
        }
        let word = if self.verdict == RunVerdict::Ok { "OK" } else { "FAILED" };
        out + word + &self.reasons.iter().map(|reason| format!(": {reason}")).collect::<String>()
    }
}

fn ms(ns: u64) -> String {
    format!("{:.3} ms", ns as f64 / 1e6)
}
