//! Reports as one HTML page each: figures and plots in one file that loads nothing, opens anywhere and can be kept. Made from
//! what the JSON holds; the JSON itself is at the page's end, so that a page is enough to compare with later.

use std::fmt::Write;

use serde::Serialize;

use super::many::Document;
use super::plot::{Line, Plot, Scale, escape, number_text};
use super::recorder::Series;
use super::report::Report;
use super::table;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--grid:#d8dee4;--a:#0969da;--b:#1a7f37;--c:#bc4c00;--d:#8250df;--e:#bf3989;--f:#57606a}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--grid:#30363d;--a:#58a6ff;--b:#3fb950;--c:#f0883e;--d:#bc8cff;--e:#f778ba;--f:#8b949e}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}pre{overflow-x:auto;font-size:12.5px;line-height:1.35}\
figure{margin:1.5rem 0}figcaption{font-weight:600}svg{width:100%;height:auto}\
svg text{font-size:11px;fill:var(--ink)}svg text.x{text-anchor:middle}svg text.y{text-anchor:end}\
.grid{stroke:var(--grid)}polyline{fill:none;stroke-width:1.6}\
line.l0,polyline.l0{stroke:var(--a)}circle.l0{fill:var(--a)}line.l1,polyline.l1{stroke:var(--b)}circle.l1{fill:var(--b)}\
line.l2,polyline.l2{stroke:var(--c)}circle.l2{fill:var(--c)}line.l3,polyline.l3{stroke:var(--d)}circle.l3{fill:var(--d)}\
line.l4,polyline.l4{stroke:var(--e)}circle.l4{fill:var(--e)}line.l5,polyline.l5{stroke:var(--f)}circle.l5{fill:var(--f)}\
.verdict{font-weight:600;padding:.1rem .5rem;border:1px solid var(--grid);border-radius:.3rem}";

/// The page of one run.
pub fn run_page(report: &Report) -> String {
    let title = format!("ringlog load: {} on {}", report.asked.mode, report.asked.bootstrap);
    let mut body = format!("<pre>{}</pre>\n", escape(&table::render(report)));
    run_plots(report, &mut body);
    page(&title, &body, report)
}

/// The page of several runs.
pub fn document_page(document: &Document) -> String {
    let title = format!("ringlog load: {} on {}", document.kind, document.asked.bootstrap);
    let mut body = format!("<pre>{}</pre>\n", escape(&table::render_many(document)));
    if document.kind == "runs" {
        body.push_str(&repeats(document));
    } else {
        body.push_str(&load_curve(document));
    }
    body.push_str(&distributions(document));
    if let Some(report) = document.shown_run() {
        let _ = write!(body, "<h2>{}</h2>", escape(&document.shown_title(report)));
        run_plots(report, &mut body);
    }
    page(&title, &body, document)
}

fn page(title: &str, body: &str, data: &impl Serialize) -> String {
    // Within a script element only `</` could end it early.
    let json = serde_json::to_string(data).unwrap_or_default().replace("</", "<\\/");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\
         <script type=\"application/json\" id=\"report\">{json}</script></body></html>\n",
        title = escape(title),
    )
}

fn run_plots(report: &Report, body: &mut String) {
    body.push_str(&throughput(report));
    for (series, title) in [
        (Series::Ack, "Latency to the acknowledgement over time"),
        (Series::EndToEnd, "Latency to the consumer over time"),
    ] {
        body.push_str(&latency_over_time(report, series, title));
    }
    body.push_str(&distribution(report));
}

fn throughput(report: &Report) -> String {
    let line = |name: &str, of: &dyn Fn(&super::seconds::Second) -> u64| Line {
        name: name.into(),
        points: whole_seconds(report).map(|it| (it.second as f64, of(it) as f64)).collect(),
    };
    let mut lines = Vec::new();
    if report.produced.is_some() {
        lines.push(line("acknowledged", &|it| it.acked));
    }
    if report.consumed.is_some() {
        lines.push(line("read", &|it| it.read));
    }
    if let Some(rate) = report.asked.records_per_second {
        let ends = [whole_seconds(report).next(), whole_seconds(report).last()];
        let points = ends.into_iter().flatten().map(|it| (it.second as f64, rate)).collect();
        lines.push(Line { name: "offered (mean)".into(), points });
    }
    Plot {
        title: "Throughput over time",
        x_label: "seconds from the end of the warm-up",
        y_label: "records/s",
        x_scale: Scale::Linear,
        y_scale: Scale::Linear,
        lines,
    }
    .svg()
}

/// Without the last second, which the end of the run cuts short.
fn whole_seconds(report: &Report) -> impl Iterator<Item = &super::seconds::Second> {
    let end = report.measured_seconds.floor() as i64;
    report.seconds.iter().filter(move |it| it.second < end.max(1))
}

fn latency_over_time(report: &Report, series: Series, title: &str) -> String {
    type Of = fn(&super::seconds::Moments) -> u64;
    let which: [(&str, Of); 4] = [
        ("p50", |it| it.p50_ns),
        ("p99", |it| it.p99_ns),
        ("p99.9", |it| it.p99_9_ns),
        ("max", |it| it.max_ns),
    ];
    let line = |(name, of): (&str, Of)| Line {
        name: name.into(),
        points: report
            .seconds
            .iter()
            .filter_map(|it| Some((it.second as f64, of(it.latency.get(series.name())?) as f64 / 1e6)))
            .collect(),
    };
    Plot {
        title,
        x_label: "seconds from the end of the warm-up",
        y_label: "ms",
        x_scale: Scale::Linear,
        y_scale: Scale::Log,
        lines: which.into_iter().map(line).collect(),
    }
    .svg()
}

fn distribution(report: &Report) -> String {
    let lines = report.distribution.iter().map(|(name, points)| Line {
        name: (*name).to_owned(),
        points: points.iter().map(|&(quantile, ns)| (quantile, ns as f64 / 1e6)).collect(),
    });
    Plot {
        title: "Latency by percentile",
        x_label: "percentile",
        y_label: "ms",
        x_scale: Scale::Nines,
        y_scale: Scale::Log,
        lines: lines.collect(),
    }
    .svg()
}

/// The distributions of several runs over each other, at most six of them.
fn distributions(document: &Document) -> String {
    const LINES_MAX: usize = 6;
    let step = document.runs.len().div_ceil(LINES_MAX).max(1);
    let lines = document.runs.iter().enumerate().step_by(step).filter_map(|(at, report)| {
        let points = report.distribution.get(Series::Ack.name())?;
        let name = match report.asked.records_per_second {
            Some(rate) => format!("{}/s", number_text(rate)),
            None => format!("run {}", at + 1),
        };
        let points = points.iter().map(|&(quantile, ns)| (quantile, ns as f64 / 1e6)).collect();
        Some(Line { name, points })
    });
    Plot {
        title: "Latency to the acknowledgement by percentile, of each run",
        x_label: "percentile",
        y_label: "ms",
        x_scale: Scale::Nines,
        y_scale: Scale::Log,
        lines: lines.collect(),
    }
    .svg()
}

fn load_curve(document: &Document) -> String {
    type Of = fn(&super::report::Percentiles) -> u64;
    let which: [(&str, Of); 4] = [
        ("p50", |it| it.p50_ns),
        ("p99", |it| it.p99_ns),
        ("p99.9", |it| it.p99_9_ns),
        ("max", |it| it.max_ns),
    ];
    let line = |(name, of): (&str, Of)| {
        let mut points: Vec<(f64, f64)> = document
            .runs
            .iter()
            .filter_map(|it| {
                let latency = it.latency.get(Series::Ack.name())?;
                Some((it.asked.records_per_second?, of(latency) as f64 / 1e6))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Line { name: name.into(), points }
    };
    Plot {
        title: "Latency to the acknowledgement at the offered rate",
        x_label: "offered, records/s",
        y_label: "ms",
        x_scale: Scale::Linear,
        y_scale: Scale::Log,
        lines: which.into_iter().map(line).collect(),
    }
    .svg()
}

fn repeats(document: &Document) -> String {
    let points = |of: &dyn Fn(&Report) -> Option<f64>| {
        let runs = document.runs.iter().enumerate();
        runs.filter_map(|(at, report)| Some((at as f64 + 1.0, of(report)?))).collect()
    };
    let lines = vec![
        Line {
            name: "acknowledged".into(),
            points: points(&|it| Some(it.produced.as_ref()?.flow.records_per_second)),
        },
        Line { name: "read".into(), points: points(&|it| Some(it.consumed.as_ref()?.records_per_second)) },
    ];
    Plot {
        title: "Throughput of each run",
        x_label: "run",
        y_label: "records/s",
        x_scale: Scale::Linear,
        y_scale: Scale::Linear,
        lines,
    }
    .svg()
}
