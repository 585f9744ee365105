//! The Prometheus text format (0.0.4).

use std::fmt::Write;

use super::page::{Kind, Number, Page, Summary, Value};
use crate::metrics::{BUCKETS, HistogramValues, STEPS, bucket_end_ns};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page as text.
pub fn write(page: &Page) -> String {
    let mut lines = Lines::default();
    for family in &page.families {
        lines.open(&family.name, family.kind, family.help);
        for sample in &family.samples {
            let labels: Vec<Label<'_>> =
                sample.labels.iter().map(|(name, value)| (&**name, value.as_str())).collect();
            match &sample.value {
                Value::Number(number) => lines.line("", &labels, *number),
                Value::Summary(summary) => lines.summary(&labels, summary),
                Value::Histogram(values) => lines.histogram(&labels, values),
            }
        }
    }
    lines.text
}

type Label<'a> = (&'a str, &'a str);

#[derive(Default)]
struct Lines {
    text: String,
    /// The family that is open.
    name: String,
}

impl Lines {
    fn open(&mut self, name: &str, kind: Kind, help: &str) {
        name.clone_into(&mut self.name);
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
            Kind::Histogram => "histogram",
        };
        // Nothing here can fail: the text is memory.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn summary(&mut self, labels: &[Label<'_>], summary: &Summary) {
        for (quantile, value) in &summary.quantiles {
            let labels: Vec<_> = labels.iter().copied().chain([("quantile", *quantile)]).collect();
            self.line("", &labels, Number::Float(*value));
        }
        self.line("_sum", labels, Number::Float(summary.sum));
        self.line("_count", labels, summary.count.into());
    }

    fn histogram(&mut self, labels: &[Label<'_>], values: &HistogramValues) {
        for (end, seen) in octaves(values) {
            let end = end.to_string();
            let labels: Vec<_> = labels.iter().copied().chain([("le", end.as_str())]).collect();
            self.line("_bucket", &labels, seen.into());
        }
        let count = values.count();
        let labels_of_all: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        self.line("_bucket", &labels_of_all, count.into());
        self.line("_sum", labels, Number::Float(values.sum as f64 / 1e9));
        self.line("_count", labels, count.into());
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], value: Number) {
        self.text.push_str(&self.name);
        self.text.push_str(suffix);
        for (index, (name, label)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            for c in label.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = match value {
            Number::Whole(value) => writeln!(self.text, "{value}"),
            Number::Float(value) => writeln!(self.text, "{value}"),
        };
    }
}

/// A bucket a doubling: where it ends, in seconds, and how many lie up to there.
pub fn octaves(values: &HistogramValues) -> impl Iterator<Item = (f64, u64)> + '_ {
    let mut seen = 0;
    values.counts.iter().enumerate().filter_map(move |(bucket, count)| {
        seen += count;
        let ends_octave = bucket % STEPS == 0 && bucket < BUCKETS - 1;
        ends_octave.then(|| (bucket_end_ns(bucket) as f64 / 1e9, seen))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.family("x", Kind::Gauge, "X.").sample(&[("a", "q\"b\\c\nd"), ("e", "é")], 1.5);
        let text = write(&page);
        assert_eq!(text, "# HELP x X.\n# TYPE x gauge\nx{a=\"q\\\"b\\\\c\\nd\",e=\"é\"} 1.5\n");
    }

    #[test]
    fn a_histogram_counts_up_to_all() {
        let histogram = Histogram::default();
        [500, 1500, 3000, 5_000_000_000, u64::MAX / 2].into_iter().for_each(|ns| histogram.record(ns));
        let mut page = Page::default();
        page.family("t_seconds", Kind::Histogram, "T.").histogram(&[], &histogram.values());
        let text = write(&page);
        let counts: Vec<u64> = text
            .lines()
            .filter(|line| line.starts_with("t_seconds_bucket"))
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(counts.is_sorted());
        assert_eq!((counts[0], *counts.last().unwrap()), (1, 5));
        assert!(text.contains("t_seconds_bucket{le=\"0.000001024\"} 1\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{le=\"0.000002048\"} 2\n"), "{text}");
        assert!(text.contains("t_seconds_count 5\n"));
    }
}
