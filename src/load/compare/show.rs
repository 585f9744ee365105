//! A comparison as a table, as JSON and in Bencher's metric format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

use super::figures::{Values, Verdict};
use super::history::Change;
use super::{Args, Comparison};
use crate::load::options::Outputs;

pub fn show(args: &Args, comparison: &Comparison) -> Result<(), String> {
    let to_stdout = [&args.json, &args.bencher].into_iter().flatten().any(|path| path == Path::new("-"));
    let text = render(comparison);
    match (args.quiet, to_stdout) {
        (true, _) => {}
        (false, true) => eprint!("{text}"),
        (false, false) => print!("{text}"),
    }
    if let Some(path) = &args.json {
        write_json(path, comparison)?;
    }
    if let Some(path) = &args.bencher {
        write_json(path, &bencher(comparison))?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), String> {
    let json = serde_json::to_string_pretty(value).map_err(|error| format!("{}: {error}", path.display()))?;
    Outputs::write(path, (json + "\n").as_bytes())
}

fn render(comparison: &Comparison) -> String {
    let mut out = String::new();
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(vec![
        "figure",
        "unit",
        "base: min / median / max",
        "candidate: min / median / max",
        "ratio",
        "interval",
        "verdict",
    ]);
    for column in table.column_iter_mut().skip(2).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for it in &comparison.figures {
        table.add_row(vec![
            it.name.clone(),
            it.unit.to_owned(),
            spread(&it.base),
            spread(&it.candidate),
            format!("{:.3}", it.ratio),
            format!("{:.3} to {:.3} ({:.1} %)", it.ratio_low, it.ratio_high, it.confidence * 100.0),
            word(it.verdict).to_owned(),
        ]);
    }
    if !comparison.figures.is_empty() {
        let _ = writeln!(out, "{table}");
    }
    let most = comparison.figures.iter().map(|it| it.confidence).fold(1.0, f64::min);
    if most < comparison.confidence && !comparison.figures.is_empty() {
        let _ = writeln!(
            out,
            "so few runs reach {:.1} % confidence, not {:.1} %: nothing is decided by them",
            most * 100.0,
            comparison.confidence * 100.0
        );
    }
    for note in &comparison.notes {
        let _ = writeln!(out, "note: {note}");
    }
    for reason in &comparison.reasons {
        let _ = writeln!(out, "refused: {reason}");
    }
    out.extend(comparison.changes.iter().map(line));
    if comparison.kind == "history" {
        if comparison.changes.is_empty() {
            out.push_str("no figure has changed\n");
        }
        return out;
    }
    let threshold = comparison.threshold * 100.0;
    let _ = match comparison.verdict {
        "worse" => writeln!(out, "WORSE by more than {threshold} %"),
        "undecided" => {
            writeln!(out, "UNDECIDED: worse by more than {threshold} % is neither shown nor ruled out")
        }
        "invalid" => writeln!(out, "INVALID: nothing can be said"),
        "better" => writeln!(out, "BETTER, and nothing worse by more than {threshold} %"),
        _ => writeln!(out, "SAME: nothing worse by more than {threshold} %"),
    };
    out
}

/// A change of the history.
fn line(change: &Change) -> String {
    format!(
        "changed for the {}: {} from {} to {} ({:+.1} %) at {}, {} results ago (p {:.2e})\n",
        if change.worse { "worse" } else { "better" },
        change.figure,
        number(change.before),
        number(change.after),
        (change.after / change.before - 1.0) * 100.0,
        change.commit,
        change.results_since,
        change.p
    )
}

fn number(value: f64) -> String {
    match value {
        it if it >= 1000.0 => format!("{it:.0}"),
        it if it >= 10.0 => format!("{it:.1}"),
        it => format!("{it:.3}"),
    }
}

fn spread(values: &Values) -> String {
    format!("{} / {} / {}", number(values.min), number(values.median), number(values.max))
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Same => "same",
        Verdict::Undecided => "undecided",
        Verdict::Worse => "WORSE",
    }
}

#[derive(Serialize)]
struct Metric {
    value: f64,
    lower_value: f64,
    upper_value: f64,
}

/// Benchmark, measure, metric: the candidate's median, with its extremes.
fn bencher(comparison: &Comparison) -> BTreeMap<&'static str, BTreeMap<String, Metric>> {
    let metric =
        |values: &Values| Metric { value: values.median, lower_value: values.min, upper_value: values.max };
    let figures = comparison.figures.iter();
    let measures = figures.map(|it| (format!("{} ({})", it.name, it.unit), metric(&it.candidate))).collect();
    BTreeMap::from([("ringlog load", measures)])
}
