//! The report as a table that a person reads.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};

use super::report::{Flow, Percentiles, Report, RunVerdict};

pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let asked = &report.asked;
    let machine = &report.machine;
    let _ = writeln!(
        out,
        "{} on {}: {} partitions, {} B records, acks={}{}, {}, keys {}",
        asked.mode,
        asked.bootstrap,
        asked.partitions,
        asked.record_bytes,
        asked.acks,
        if asked.idempotent { " idempotent" } else { "" },
        if asked.compression == "none" { "uncompressed" } else { asked.compression },
        asked.keys,
    );
    let _ = writeln!(
        out,
        "{} producers, {} connections, {} consumers, {} threads; batches to {} B, linger {}, {} in flight",
        asked.producers,
        asked.connections,
        asked.consumers,
        asked.threads,
        asked.batch_bytes,
        milliseconds(asked.linger_ns),
        asked.max_in_flight,
    );
    let _ = writeln!(
        out,
        "{}, {} cores, {:.1} GiB, Linux {}; run {:08x}, seed {}",
        machine.cpu,
        machine.cores,
        machine.memory_bytes as f64 / f64::from(1 << 30),
        machine.kernel,
        asked.run,
        asked.seed,
    );
    let _ = writeln!(out, "\n{}", flows(report));
    if !report.latency.is_empty() {
        let _ = writeln!(out, "{}", latencies(report));
    }
    let _ = writeln!(out, "{}", costs(report));
    verification(report, &mut out);
    let word = match report.verdict {
        RunVerdict::Ok => "OK",
        RunVerdict::Failed => "FAILED",
        RunVerdict::Invalid => "INVALID",
    };
    let _ = write!(out, "{word}");
    for (at, reason) in report.reasons.iter().enumerate() {
        let _ = write!(out, "{} {reason}", if at == 0 { ":" } else { ";" });
    }
    let _ = writeln!(out);
    if let Some(error) = report.last_error.as_ref().filter(|_| report.verdict != RunVerdict::Ok) {
        let _ = writeln!(out, "last error: {error}");
    }
    out
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn flows(report: &Report) -> Table {
    let mut table =
        table(&["", "records", "records/s", "MB/s", "requests", "records/batch", "retries", "errors"]);
    let errors = |flow: &Flow| {
        let list: Vec<String> = flow.errors.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if list.is_empty() { "0".to_owned() } else { list.join("\n") }
    };
    let row = |name: &str, flow: &Flow, more: [String; 3]| {
        let [requests, per_batch, retries] = more;
        vec![
            name.to_owned(),
            flow.records.to_string(),
            format!("{:.0}", flow.records_per_second),
            format!("{:.2}", flow.megabytes_per_second),
            requests,
            per_batch,
            retries,
            errors(flow),
        ]
    };
    if let Some(rate) = report.asked.records_per_second {
        let mb = rate * report.asked.record_bytes as f64 / 1e6;
        table.add_row(vec!["offered".into(), String::new(), format!("{rate:.0}"), format!("{mb:.2}")]);
    }
    if let Some(it) = &report.produced {
        let name = if it.unacknowledged > 0 { "sent (acks=0)" } else { "acknowledged" };
        let per_batch = format!("{:.1}", it.records_per_batch);
        table.add_row(row(name, &it.flow, [it.requests.to_string(), per_batch, it.retries.to_string()]));
    }
    if let Some(flow) = &report.consumed {
        table.add_row(row("read", flow, Default::default()));
    }
    table
}

fn latencies(report: &Report) -> Table {
    let mut table = table(&["latency (ms)", "p50", "p90", "p99", "p99.9", "p99.99", "max", "samples"]);
    let corrected = report.asked.records_per_second.is_some();
    let names = [
        (
            "ack",
            if corrected { "acknowledged, from the plan" } else { "acknowledged, from the batch's start" },
        ),
        ("ack-uncorrected", "acknowledged, from the send"),
        ("e2e", if corrected { "end to end, from the plan" } else { "end to end, from the batch's start" }),
        ("e2e-uncorrected", "end to end, from the send"),
    ];
    for (series, name) in names {
        if let Some(it) = report.latency.get(series) {
            table.add_row(percentiles(name, it));
        }
    }
    if corrected {
        table.add_row(percentiles("the generator's own lag", &report.generator.lag));
    }
    table
}

fn percentiles(name: &str, it: &Percentiles) -> Vec<String> {
    let ms = |ns: u64| format!("{:.3}", ns as f64 / 1e6);
    vec![
        name.to_owned(),
        ms(it.p50_ns),
        ms(it.p90_ns),
        ms(it.p99_ns),
        ms(it.p99_9_ns),
        ms(it.p99_99_ns),
        ms(it.max_ns),
        it.count.to_string(),
    ]
}

fn costs(report: &Report) -> Table {
    let mut table = table(&["cost", "CPU s", "core-s/GB", "core-s/M records", "RSS MiB", "peak MiB"]);
    let number = |value: f64| format!("{value:.3}");
    let mebibytes = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let cost = &report.generator.cost;
    table.add_row(vec![
        "generator".to_owned(),
        number(cost.cpu_seconds),
        number(cost.core_seconds_per_gb),
        number(cost.core_seconds_per_million_records),
    ]);
    if let Some(broker) = &report.broker {
        table.add_row(vec![
            "broker".to_owned(),
            number(broker.cost.cpu_seconds),
            number(broker.cost.core_seconds_per_gb),
            number(broker.cost.core_seconds_per_million_records),
            mebibytes(broker.rss_bytes),
            mebibytes(broker.rss_peak_bytes),
        ]);
    }
    table
}

fn verification(report: &Report, out: &mut String) {
    match &report.verification {
        None => {
            let _ = writeln!(out, "verification: not asked for");
        }
        Some(it) => {
            let allowed = |count: u64, allowed: bool| {
                if count > 0 && allowed {
                    format!("{count} (allowed: retries, not idempotent)")
                } else {
                    count.to_string()
                }
            };
            let _ = writeln!(
                out,
                "verification: {} acknowledged, {} read; lost {}, duplicated {}, reordered {}, corrupt {}",
                it.acknowledged,
                it.read.records,
                it.lost,
                allowed(it.read.duplicated, it.duplicates_allowed),
                allowed(it.read.reordered, it.reordering_allowed),
                it.read.corrupt,
            );
            if it.unanswered > 0 {
                let _ = writeln!(
                    out,
                    "without an answer: {}, of which {} were read",
                    it.unanswered, it.unanswered_read
                );
            }
            if !it.passed {
                it.examples.iter().for_each(|example| {
                    let _ = writeln!(out, "  {example}");
                });
            }
        }
    }
    if report.sustained == Some(false) {
        let _ = writeln!(out, "the offered rate was not reached");
    }
}

fn milliseconds(ns: u64) -> String {
    format!("{} ms", ns as f64 / 1e6)
}
