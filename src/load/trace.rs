//! A trace of arrivals from a file: when how many records came, to be played again.
//!
//! One line an entry, `SECONDS,RECORDS`: that many records arrive from this time on, evenly until the next entry's time. Times are
//! seconds from any beginning, with as many decimals as wanted (or with a date's epoch), and ascend; entries of one time add up. So
//! the same format holds single records (`12.000451,1`) and counts per interval as metrics show them (`12,48211`). The
//! last entry has as long as the one before it; an entry of 0 records ends the trace where it stands. Empty lines, lines that
//! begin with `#`, and a first line that is a header are passed over. A run that is longer plays the trace again.

use std::fmt::Display;
use std::path::Path;

use super::options::SECOND_NS;
use crate::record::crc32c;

/// The most entries a file may have, and the largest file.
const ENTRIES_MAX: usize = 10_000_000;
const FILE_BYTES_MAX: u64 = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    at_ns: f64,
    /// Between two records of it.
    gap_ns: f64,
    /// The number of its first record.
    first: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Those with records.
    entries: Vec<Entry>,
    records: u64,
    length_ns: f64,
    /// Of the file's text: tells one trace from another.
    crc32c: u32,
}

impl Trace {
    pub fn read(path: &Path) -> Result<Trace, String> {
        let error = |why: &dyn Display| format!("{}: {why}", path.display());
        let bytes = std::fs::metadata(path).map_err(|why| error(&why))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(error(&format!("larger than {FILE_BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|why| error(&why))?;
        Trace::parse(&text).map_err(|why| error(&why))
    }

    pub fn parse(text: &str) -> Result<Trace, String> {
        let mut points: Vec<(f64, u64)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let point = match parse_line(line) {
                Ok(point) => point,
                Err(_) if points.is_empty() && line.starts_with(|c: char| c.is_alphabetic()) => continue,
                Err(why) => return Err(format!("line {}: {why}", index + 1)),
            };
            let full = points.len() == ENTRIES_MAX;
            match points.last_mut() {
                Some(last) if point.0 < last.0 => {
                    return Err(format!("line {}: its time is before the one above", index + 1));
                }
                Some(last) if point.0 == last.0 => last.1 = last.1.saturating_add(point.1),
                _ if full => return Err(format!("more than {ENTRIES_MAX} entries")),
                _ => points.push(point),
            }
        }
        Trace::of(&points, crc32c::checksum(text.as_bytes()))
    }

    fn of(points: &[(f64, u64)], crc32c: u32) -> Result<Trace, String> {
        let (Some(&(begin, _)), Some(&(last_at, last_count))) = (points.first(), points.last()) else {
            return Err("it has no entry".into());
        };
        let before = points.len().checked_sub(2).map(|at| points[at].0);
        let end = match (last_count, before) {
            (0, _) => last_at,
            (_, Some(before)) => last_at + (last_at - before),
            (_, None) => return Err("a single entry has no length; end it with a line `SECONDS,0`".into()),
        };
        let mut entries = Vec::with_capacity(points.len());
        let mut records = 0u64;
        for (at, &(seconds, count)) in points.iter().enumerate() {
            let next = points.get(at + 1).map_or(end, |next| next.0);
            if count > 0 {
                let gap_ns = (next - seconds) * SECOND_NS as f64 / count as f64;
                entries.push(Entry { at_ns: (seconds - begin) * SECOND_NS as f64, gap_ns, first: records });
                records = records.checked_add(count).ok_or("too many records")?;
            }
        }
        let length_ns = (end - begin) * SECOND_NS as f64;
        if records == 0 || length_ns < 1.0 {
            return Err("it has no records".into());
        }
        Ok(Trace { entries, records, length_ns, crc32c })
    }

    /// What it is, in a few words; different for different files.
    pub fn describe(&self) -> String {
        let seconds = self.length_ns / SECOND_NS as f64;
        format!("{} records in {seconds:.3} s, crc32c {:08x}", self.records, self.crc32c)
    }

    pub fn length_ns(&self) -> f64 {
        self.length_ns
    }

    /// Records a second over its whole length.
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.length_ns * SECOND_NS as f64
    }

    /// The time of record `n` from the beginning, the trace played over and over.
    pub fn time_ns(&self, n: u64) -> f64 {
        let (rounds, n) = (n / self.records, n % self.records);
        let at = self.entries.partition_point(|entry| entry.first <= n).saturating_sub(1);
        let entry = self.entries[at];
        rounds as f64 * self.length_ns + entry.at_ns + (n - entry.first) as f64 * entry.gap_ns
    }
}

fn parse_line(line: &str) -> Result<(f64, u64), String> {
    let mut fields = line.split([',', '\t', ' ']).map(str::trim).filter(|field| !field.is_empty());
    let (time, count) = (fields.next().unwrap_or_default(), fields.next().unwrap_or("1"));
    if fields.next().is_some() {
        return Err(format!("`{line}` is not SECONDS,RECORDS"));
    }
    let seconds = time.parse::<f64>().ok().filter(|seconds| (0.0..=1e12).contains(seconds));
    let seconds = seconds.ok_or_else(|| format!("`{time}` is no time in seconds"))?;
    let count = count.parse::<u64>().map_err(|_| format!("`{count}` is no number of records"))?;
    Ok((seconds, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(text: &str, count: u64) -> Vec<u64> {
        let trace = Trace::parse(text).unwrap();
        (0..count).map(|n| trace.time_ns(n).round() as u64 / 1_000_000).collect()
    }

    #[test]
    fn counts_are_spread_until_the_next_entry_and_the_trace_repeats() {
        assert_eq!(
            times("seconds,records\n# night\n100,2\n101,0\n102,4\n", 9),
            [0, 500, 2000, 2250, 2500, 2750, 3000, 3500, 5000]
        );
        let trace = Trace::parse("100,2\n101,0\n102,4\n").unwrap();
        assert_eq!((trace.records, trace.length_ns(), trace.rate()), (6, 3e9, 2.0));
        assert!(trace.describe().starts_with("6 records in 3.000 s, crc32c "));
    }

    #[test]
    fn single_records_keep_their_times() {
        assert_eq!(times("0.000\n0.010\n0.010,1\n0.500,1\n1.000,0", 4), [0, 10, 255, 500]);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        for (text, why) in [
            ("", "no entry"),
            ("5,1", "single"),
            ("1,1\n0,1", "line 2"),
            ("1,x", "line 1"),
            ("-1,1\n2,1", "line 1"),
            ("1,2,3", "line 1"),
            ("0,0\n1,0", "no records"),
            ("nan,1\n1,1", ""),
            ("0,18446744073709551615\n1,5\n2,0", "too many"),
        ] {
            let error = Trace::parse(text);
            if why.is_empty() {
                continue; // a word: taken for a header
            }
            assert!(error.clone().is_err_and(|error| error.contains(why)), "{text:?}: {error:?}");
        }
    }
}
