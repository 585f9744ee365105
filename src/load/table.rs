//! The report as a table that a person reads.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};

use super::machine::Machine;
use super::many::{Document, Searched};
use super::report::{Asked, Flow, Percentiles, Report, RunVerdict};

pub fn render(report: &Report) -> String {
    let mut out = String::new();
    heading(&report.asked, &report.machine, &mut out);
    let _ = writeln!(out, "\n{}", flows(report));
    if !report.latency.is_empty() {
        let _ = writeln!(out, "{}", latencies(report));
    }
    let _ = writeln!(out, "{}", costs(report));
    verification(report, &mut out);
    if let Some(noise) = &report.noise {
        let other = noise.other_cpu.map_or("unknown".into(), |part| format!("{:.1} %", part * 100.0));
        let steal = noise.steal_cpu * 100.0;
        let _ = writeln!(out, "machine: {other} taken by other processes, {steal:.1} % by the hypervisor");
    }
    closing(report.verdict, &report.reasons, &mut out);
    if let Some(error) = report.last_error.as_ref().filter(|_| report.verdict != RunVerdict::Ok) {
        let _ = writeln!(out, "last error: {error}");
    }
    out
}

/// A run in one line.
pub fn line(report: &Report) -> String {
    let mut out = String::new();
    if let Some(rate) = report.asked.records_per_second {
        let _ = write!(out, "offered {rate:.0} records/s, ");
    }
    match (&report.produced, &report.consumed) {
        (Some(it), _) => {
            let _ = write!(out, "{:.0} records/s, ", it.flow.records_per_second);
            let _ = write!(out, "{:.2} MB/s", it.flow.megabytes_per_second);
        }
        (None, Some(flow)) => {
            let _ = write!(out, "read {:.0} records/s", flow.records_per_second);
        }
        (None, None) => {}
    }
    if let Some(it) = report.latency.get("ack").or(report.latency.get("e2e")) {
        let ms = |ns: u64| ns as f64 / 1e6;
        let _ = write!(
            out,
            "; p50 {:.3}, p99 {:.3}, p99.9 {:.3} ms",
            ms(it.p50_ns),
            ms(it.p99_ns),
            ms(it.p99_9_ns)
        );
    }
    if report.verdict != RunVerdict::Ok {
        let _ = write!(out, "; {}: {}", word(report.verdict), report.reasons.join("; "));
    }
    out
}

fn word(verdict: RunVerdict) -> &'static str {
    match verdict {
        RunVerdict::Ok => "OK",
        RunVerdict::Failed => "FAILED",
        RunVerdict::Invalid => "INVALID",
    }
}

fn heading(asked: &Asked, machine: &Machine, out: &mut String) {
    let _ = writeln!(
        out,
        "{} on {}: {} partitions, {} B records, acks={}{}, {}, keys {}, arrivals {}",
        asked.mode,
        asked.bootstrap,
        asked.partitions,
        asked.record_bytes,
        asked.acks,
        if asked.idempotent { " idempotent" } else { "" },
        if asked.compression == "none" { "uncompressed" } else { asked.compression },
        asked.keys,
        asked.arrivals,
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
}

fn closing(verdict: RunVerdict, reasons: &[String], out: &mut String) {
    let _ = write!(out, "{}", word(verdict));
    for (at, reason) in reasons.iter().enumerate() {
        let _ = write!(out, "{} {reason}", if at == 0 { ":" } else { ";" });
    }
    let _ = writeln!(out);
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

/// Several runs: a line each, and what they come to.
pub fn render_many(document: &Document) -> String {
    let mut out = String::new();
    heading(&document.asked, &document.machine, &mut out);
    if let Some(rate) = document.closed_loop_records_per_second {
        let _ = writeln!(out, "the closed loop reaches {rate:.0} records/s");
    }
    let mut table = table(&[
        "run",
        "offered/s",
        "records/s",
        "MB/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "e2e p99 ms",
        "core-s/GB",
        "",
    ]);
    let ms = |ns: u64| format!("{:.3}", ns as f64 / 1e6);
    for (at, report) in document.runs.iter().enumerate() {
        let flow = report.produced.as_ref().map(|it| &it.flow);
        let ack = report.latency.get("ack").cloned().unwrap_or_default();
        let e2e = report.latency.get("e2e");
        let trial = document.search.as_ref().and_then(|it| it.trials.get(at));
        let note = match (report.verdict, trial) {
            (RunVerdict::Ok, Some(trial)) => {
                let held = if trial.held { "held" } else { "failed" };
                format!("{held}{}", if trial.confirming { ", confirming" } else { "" })
            }
            (RunVerdict::Ok, None) if report.sustained == Some(false) => "not reached".into(),
            (RunVerdict::Ok, None) => String::new(),
            (verdict, _) => word(verdict).into(),
        };
        table.add_row(vec![
            (at + 1).to_string(),
            report.asked.records_per_second.map_or(String::new(), |rate| format!("{rate:.0}")),
            flow.map_or(String::new(), |it| format!("{:.0}", it.records_per_second)),
            flow.map_or(String::new(), |it| format!("{:.2}", it.megabytes_per_second)),
            ms(ack.p50_ns),
            ms(ack.p99_ns),
            ms(ack.p99_9_ns),
            ms(ack.max_ns),
            e2e.map_or(String::new(), |it| ms(it.p99_ns)),
            report.broker.as_ref().map_or(String::new(), |it| format!("{:.3}", it.cost.core_seconds_per_gb)),
            note,
        ]);
    }
    let _ = writeln!(out, "\n{table}");
    let other = document
        .runs
        .iter()
        .filter_map(|report| report.noise?.other_cpu)
        .fold(None, |most, part| Some(most.map_or(part, |most: f64| most.max(part))));
    if let Some(part) = other {
        let _ = writeln!(out, "machine: up to {:.1} % of a run taken by other processes", part * 100.0);
    }
    if let Some(search) = &document.search {
        searched(search, document, &mut out);
    }
    closing(document.verdict, &document.reasons, &mut out);
    out
}

fn searched(search: &Searched, document: &Document, out: &mut String) {
    let found = &search.found;
    let objectives = search.objectives.join(", ");
    let Some(rate) = found.records_per_second else {
        let _ = writeln!(out, "{objectives}: held at no rate down to a thousandth of the closed loop's");
        return;
    };
    let megabytes = rate * document.asked.record_bytes as f64 / 1e6;
    let _ = write!(out, "{objectives} holds up to {rate:.0} records/s ({megabytes:.2} MB/s)");
    let _ = match found.fails_at_records_per_second {
        Some(failed) => writeln!(out, ", and fails at {failed:.0} (twice)"),
        None => writeln!(out, ", and failed nowhere"),
    };
    let _ = match search.limited_by {
        Some("generator") => {
            writeln!(out, "the limit is the generator's, not the broker's: give it more --threads")
        }
        Some("throughput") => {
            writeln!(out, "the limit is throughput: above it the offered rate is not reached")
        }
        _ => Ok(()),
    };
    let _ = write!(out, "held in {} of {} further runs", found.held_runs, found.confirming_runs);
    let _ = match found.holds_at_least {
        Some(part) => writeln!(
            out,
            ": with {:.0} % confidence a run of this length holds in at least {:.0} % of cases",
            found.confidence * 100.0,
            part * 100.0
        ),
        None => writeln!(out, ": it does not always hold"),
    };
    if found.cut_short {
        let _ = writeln!(out, "the search was cut short after {} trials", found.trials);
    }
}

/// Several runs as a line each; latencies in microseconds.
pub fn csv_many(document: &Document) -> String {
    let mut out = String::from(
        "run,started_ms,verdict,offered_per_second,records_per_second,megabytes_per_second,ack_p50_us,ack_p99_us,\
         ack_p999_us,ack_max_us,e2e_p50_us,e2e_p99_us,e2e_p999_us,e2e_max_us,broker_core_s_per_gb\n",
    );
    for (at, report) in document.runs.iter().enumerate() {
        let flow = report.produced.as_ref().map(|it| &it.flow);
        let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
        let _ = write!(
            out,
            "{},{},{},{},{},{}",
            at + 1,
            report.started_ms,
            word(report.verdict).to_lowercase(),
            number(report.asked.records_per_second),
            number(flow.map(|it| it.records_per_second)),
            number(flow.map(|it| it.megabytes_per_second)),
        );
        for series in ["ack", "e2e"] {
            let it = report.latency.get(series);
            let us = |of: fn(&Percentiles) -> u64| number(it.map(|it| of(it) as f64 / 1e3));
            let four = [us(|it| it.p50_ns), us(|it| it.p99_ns), us(|it| it.p99_9_ns), us(|it| it.max_ns)];
            let _ = write!(out, ",{}", four.join(","));
        }
        let cost = report.broker.as_ref().map(|it| it.cost.core_seconds_per_gb);
        let _ = writeln!(out, ",{}", number(cost));
    }
    out
}
