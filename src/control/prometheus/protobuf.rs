//! The delimited protobuf format of Prometheus (io.prometheus.client.MetricFamily), for scrapers that ask for it: the one in
//! which native histograms exist. Written by hand, as it is few messages and only in this direction.
//!
//! Our buckets are four even steps a doubling; native ones (schema 3) are eight even factors. A count goes where the middle of
//! its bucket lies, so a value is off by at most an eighth of itself, as in our own. The classic buckets are there as well.

use super::page::{Family, Kind, Page, Summary, Value};
use super::text::octaves;
use crate::metrics::{BUCKETS, HistogramValues, bucket_end_ns};

pub const CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// Native buckets a doubling: two to this power.
const SCHEMA: i32 = 3;

/// Whether a scraper's Accept header would rather have this format than text.
pub fn is_wanted(accept: &str) -> bool {
    let quality = |fits: &dyn Fn(&str) -> bool| {
        accept.split(',').map(str::trim).find(|range| fits(range)).map_or(0.0, |range| {
            let quality = range.split(';').find_map(|part| part.trim().strip_prefix("q="));
            quality.map_or(1.0, |text| text.parse::<f64>().unwrap_or(0.0))
        })
    };
    let ours = quality(&|range| {
        range.starts_with("application/vnd.google.protobuf")
            && range.contains("io.prometheus.client.MetricFamily")
            && range.contains("encoding=delimited")
    });
    ours > quality(&|range| range.starts_with("text/plain"))
}

/// A page: each family behind its length.
pub fn write(page: &Page) -> Vec<u8> {
    let mut all = Vec::new();
    for family in page.families.iter().filter(|family| !family.samples.is_empty()) {
        let message = self::family(family);
        varint(&mut all, message.0.len() as u64);
        all.extend_from_slice(&message.0);
    }
    all
}

fn family(family: &Family) -> Out {
    let mut out = Out::default();
    out.bytes(1, family.name.as_bytes());
    out.bytes(2, family.help.as_bytes());
    let kind = match family.kind {
        Kind::Counter => 0,
        Kind::Gauge => 1,
        Kind::Summary => 2,
        Kind::Histogram => 4,
    };
    out.number(3, kind);
    for sample in &family.samples {
        let mut metric = Out::default();
        for (name, value) in &sample.labels {
            let mut pair = Out::default();
            pair.bytes(1, name.as_bytes());
            pair.bytes(2, value.as_bytes());
            metric.message(1, &pair);
        }
        match &sample.value {
            Value::Number(number) => {
                let mut value = Out::default();
                value.double(1, number.float());
                metric.message(if family.kind == Kind::Counter { 3 } else { 2 }, &value);
            }
            Value::Summary(summary) => metric.message(4, &self::summary(summary)),
            Value::Histogram(values) => metric.message(7, &histogram(values)),
        }
        out.message(4, &metric);
    }
    out
}

fn summary(summary: &Summary) -> Out {
    let mut out = Out::default();
    out.number(1, summary.count);
    out.double(2, summary.sum);
    for (quantile, value) in &summary.quantiles {
        let mut one = Out::default();
        one.double(1, quantile.parse().unwrap_or(0.0));
        one.double(2, *value);
        out.message(3, &one);
    }
    out
}

fn histogram(values: &HistogramValues) -> Out {
    let mut out = Out::default();
    out.number(1, values.count());
    out.double(2, values.sum as f64 / 1e9);
    for (end, seen) in octaves(values) {
        let mut bucket = Out::default();
        bucket.number(1, seen);
        bucket.double(2, end);
        out.message(3, &bucket);
    }
    out.number(5, zigzag(i64::from(SCHEMA)));
    out.double(6, bucket_end_ns(0) as f64 / 1e9);
    out.number(7, values.counts[0]);
    let mut next: Option<i32> = None;
    let (mut spans, mut deltas, mut last): (Vec<(i32, u64)>, Vec<i64>, i64) = (Vec::new(), Vec::new(), 0);
    for (index, count) in native(values) {
        match (next, spans.last_mut()) {
            (Some(next), Some(span)) if next == index => span.1 += 1,
            (next, _) => spans.push((index - next.unwrap_or(0), 1)),
        }
        let count = count.cast_signed();
        deltas.push(count.wrapping_sub(last));
        (next, last) = (Some(index + 1), count);
    }
    if spans.is_empty() {
        // What tells a native histogram without records from a classic one.
        spans.push((0, 0));
    }
    for (offset, length) in spans {
        let mut span = Out::default();
        span.number(1, zigzag(i64::from(offset)));
        span.number(2, length);
        out.message(12, &span);
    }
    for delta in deltas {
        out.number(13, zigzag(delta));
    }
    out
}

/// The native buckets that hold something, in order: bucket `i` ends at 2^(i/8) seconds.
fn native(values: &HistogramValues) -> Vec<(i32, u64)> {
    let mut native: Vec<(i32, u64)> = Vec::new();
    for bucket in (1..BUCKETS).filter(|bucket| values.counts[*bucket] > 0) {
        let start = bucket_end_ns(bucket - 1) as f64;
        let middle = match bucket {
            // It has no end.
            bucket if bucket == BUCKETS - 1 => start * 1.01,
            _ => (start + bucket_end_ns(bucket) as f64) / 2.0,
        };
        let index = ((middle / 1e9).log2() * f64::from(1 << SCHEMA)).ceil() as i32;
        match native.last_mut() {
            Some((last, count)) if *last == index => *count += values.counts[bucket],
            _ => native.push((index, values.counts[bucket])),
        }
    }
    native
}

/// A message being written.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn tag(&mut self, field: u32, wire_type: u32) {
        varint(&mut self.0, u64::from(field << 3 | wire_type));
    }

    fn number(&mut self, field: u32, value: u64) {
        self.tag(field, 0);
        varint(&mut self.0, value);
    }

    fn double(&mut self, field: u32, value: f64) {
        self.tag(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, 2);
        varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: &Out) {
        self.bytes(field, &message.0);
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn the_format_is_what_is_liked_best() {
        let proto =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, wanted) in [
            (
                format!(
                    "{proto},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
                ),
                true,
            ),
            (
                format!("application/openmetrics-text;q=0.6,text/plain;version=0.0.4;q=0.4,{proto};q=0.3"),
                false,
            ),
            (format!("{proto};q=x"), false),
            ("application/vnd.google.protobuf".to_owned(), false),
            ("*/*".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_wanted(&accept), wanted, "{accept}");
        }
    }

    /// Every bucket's middle lies in the native bucket it went to.
    #[test]
    fn counts_go_where_they_belong() {
        let histogram = Histogram::default();
        let samples = [1025, 1500, 2_000_000, 2_000_001, 68_000_000_000, u64::MAX / 2];
        samples.into_iter().for_each(|ns| histogram.record(ns));
        let native = native(&histogram.values());
        assert!(native.is_sorted());
        assert_eq!(native.iter().map(|(_, count)| count).sum::<u64>(), 6);
        for ns in &samples[..5] {
            let seconds = *ns as f64 / 1e9;
            let near = native.iter().any(|(index, _)| {
                let end = (f64::from(*index) / 8.0).exp2();
                seconds < end * 1.13 && seconds > end / 1.1 / 1.13
            });
            assert!(near, "{ns}: {native:?}");
        }
    }

    #[test]
    fn numbers_are_written_as_the_format_has_them() {
        let mut out = Vec::new();
        [0, 127, 128, u64::MAX].into_iter().for_each(|value| varint(&mut out, value));
        assert_eq!(out[..4], [0, 127, 128, 1]);
        assert_eq!(out.len(), 14);
        assert_eq!([0, -1, 1, i64::MIN].map(zigzag), [0, 1, 2, u64::MAX]);
    }
}
