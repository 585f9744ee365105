//! The Prometheus text format (0.0.4), written by hand: a page is families, a family is samples with labels.

use std::fmt::Write;

use crate::metrics::{BUCKETS, HistogramValues, STEPS, bucket_end_ns};

/// What kind of value a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Summary,
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
            Kind::Histogram => "histogram",
        }
    }
}

/// A name and a value of a label.
pub type Label<'a> = (&'a str, &'a str);

#[derive(Default)]
pub struct Page {
    text: String,
    /// The family that is open.
    name: String,
}

impl Page {
    pub fn into_text(self) -> String {
        self.text
    }

    /// Opens a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> &mut Page {
        name.clone_into(&mut self.name);
        // Nothing here can fail: the text is memory.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {}", kind.word());
        self
    }

    /// A sample of the open family.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Number) -> &mut Page {
        self.line("", labels, value)
    }

    /// A family of one sample.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Number) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// A summary's quantiles, sum and count, in units of `unit_ns`.
    pub fn summary(
        &mut self,
        labels: &[Label<'_>],
        quantiles: &[&str],
        window: &HistogramValues,
        total: &HistogramValues,
        unit_ns: f64,
    ) {
        for quantile in quantiles {
            let part: f64 = quantile.parse().unwrap_or(0.0);
            let labels: Vec<_> = labels.iter().copied().chain([("quantile", *quantile)]).collect();
            self.line("", &labels, window.quantile_ns(part) as f64 / unit_ns);
        }
        self.line("_sum", labels, total.sum as f64 / unit_ns);
        self.line("_count", labels, total.count());
    }

    /// A histogram in seconds, a bucket a doubling.
    pub fn histogram(&mut self, labels: &[Label<'_>], values: &HistogramValues) {
        let mut seen = 0;
        for (bucket, count) in values.counts.iter().enumerate() {
            seen += count;
            let ends_octave = bucket % STEPS == 0;
            if ends_octave && bucket < BUCKETS - 1 {
                let end = (bucket_end_ns(bucket) as f64 / 1e9).to_string();
                let labels: Vec<_> = labels.iter().copied().chain([("le", end.as_str())]).collect();
                self.line("_bucket", &labels, seen);
            }
        }
        let labels_of_all: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        self.line("_bucket", &labels_of_all, seen);
        self.line("_sum", labels, values.sum as f64 / 1e9);
        self.line("_count", labels, seen);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Number) -> &mut Page {
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
        value.write(&mut self.text);
        self.text.push('\n');
        self
    }
}

/// What a sample's value may be.
pub trait Number {
    fn write(self, text: &mut String);
}

macro_rules! numbers {
    ($($name:ty),*) => {
        $(impl Number for $name {
            fn write(self, text: &mut String) {
                let _ = write!(text, "{self}");
            }
        })*
    };
}

numbers!(u64, i64, u32, i32, usize, f64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.family("x", Kind::Gauge, "X.").sample(&[("a", "q\"b\\c\nd"), ("e", "é")], 1.5);
        let text = page.into_text();
        assert_eq!(text, "# HELP x X.\n# TYPE x gauge\nx{a=\"q\\\"b\\\\c\\nd\",e=\"é\"} 1.5\n");
    }

    #[test]
    fn a_histogram_counts_up_to_all() {
        let histogram = Histogram::default();
        [500, 1500, 3000, 5_000_000_000, u64::MAX / 2].into_iter().for_each(|ns| histogram.record(ns));
        let mut page = Page::default();
        page.family("t_seconds", Kind::Histogram, "T.").histogram(&[], &histogram.values());
        let text = page.into_text();
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
