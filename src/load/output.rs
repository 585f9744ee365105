//! The files of a run: a HdrHistogram log and a CSV, both second by second, and the report as JSON, page and table.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::Serialize;

use super::options::{self, SECOND_NS};
use super::recorder::{Interval, Latencies, Series};
use super::report::Report;
use super::schedule::Phases;
use super::seconds::{Moments, Second, Seconds};
use super::{html, table};

/// See the module.
pub struct Outputs {
    options: options::Outputs,
    seconds: Seconds,
    histograms: BTreeMap<i64, Latencies>,
    /// When second 0 began.
    measure_ms: i64,
}

impl Outputs {
    /// Opens nothing yet, but finds out now whether the files can be written.
    pub fn open(options: &options::Outputs, started_ms: i64, phases: Phases) -> Result<Outputs, String> {
        options.check()?;
        Ok(Outputs {
            options: options.clone(),
            seconds: Seconds::new(options.hdr.is_some()),
            histograms: BTreeMap::new(),
            measure_ms: started_ms + ((phases.measure_ns - phases.start_ns) / 1_000_000) as i64,
        })
    }

    /// Takes a second of one thread.
    pub fn add(&mut self, interval: &Interval) {
        self.seconds.add(interval);
    }

    /// All seconds, for the report; none come after this.
    pub fn take_seconds(&mut self) -> Vec<Second> {
        let (seconds, histograms) = std::mem::take(&mut self.seconds).finish();
        self.histograms = histograms;
        seconds
    }

    /// Writes everything.
    pub fn finish(&mut self, report: &Report) -> Result<(), String> {
        if let Some(path) = &self.options.hdr {
            self.write_hdr(path).map_err(|why| format!("{}: {why}", path.display()))?;
        }
        if let Some(path) = &self.options.csv {
            let mut bytes = Vec::new();
            self.csv(&report.seconds, &mut bytes).map_err(|why| format!("{}: {why}", path.display()))?;
            options::Outputs::write(path, &bytes)?;
        }
        let page = || html::run_page(report);
        self.options.finish(report, &table::render(report), page)
    }

    /// A line a second and series, as HistogramLogProcessor reads it (with `-tag`); values in nanoseconds.
    fn write_hdr(&self, path: &Path) -> Result<(), String> {
        let mut file = BufWriter::new(File::create(path).map_err(|error| error.to_string())?);
        let mut serializer = V2DeflateSerializer::new();
        let started = SystemTime::UNIX_EPOCH + Duration::from_millis(self.measure_ms.max(0) as u64);
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("ringlog load: values in nanoseconds; the warm-up is left out")
            .with_start_time(started)
            .with_base_time(started)
            .with_max_value_divisor(1e6)
            .begin_log_with(&mut file, &mut serializer)
            .map_err(|error| error.to_string())?;
        for (second, latencies) in &self.histograms {
            for series in Series::ALL {
                let histogram = latencies.of(series);
                if !histogram.is_empty() {
                    let (from, length) = (Duration::from_secs(*second as u64), Duration::from_secs(1));
                    log.write_histogram(histogram, from, length, Tag::new(series.name()))
                        .map_err(|error| error.to_string())?;
                }
            }
        }
        file.flush().map_err(|error| error.to_string())
    }

    fn csv(&self, seconds: &[Second], out: &mut impl Write) -> std::io::Result<()> {
        write!(out, "second,time_ms,acked,read,retries,connections_lost,failed")?;
        for series in Series::ALL {
            let name = series.name().replace('-', "_");
            for what in ["p50", "p99", "p999", "max"] {
                write!(out, ",{name}_{what}_us")?;
            }
        }
        writeln!(out)?;
        for it in seconds {
            let time_ms = self.measure_ms + it.second * (SECOND_NS / 1_000_000) as i64;
            write!(out, "{},{time_ms},{},{},{}", it.second, it.acked, it.read, it.retries)?;
            write!(out, ",{},{}", it.connections_lost, it.failed)?;
            for series in Series::ALL {
                let it: Moments = it.latency.get(series.name()).copied().unwrap_or_default();
                for ns in [it.p50_ns, it.p99_ns, it.p99_9_ns, it.max_ns] {
                    write!(out, ",{:.1}", ns as f64 / 1000.0)?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

impl options::Outputs {
    /// Whether a file was asked for.
    pub fn is_any(&self) -> bool {
        [&self.json, &self.html, &self.hdr, &self.csv].into_iter().flatten().next().is_some()
    }

    /// Whether every file can be written; makes them empty.
    pub fn check(&self) -> Result<(), String> {
        for path in [&self.json, &self.html, &self.hdr, &self.csv].into_iter().flatten() {
            if path != Path::new("-") {
                File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Writes the table to the terminal, and report and page where they were asked for.
    pub fn finish(
        &self,
        report: &impl Serialize,
        table: &str,
        page: impl FnOnce() -> String,
    ) -> Result<(), String> {
        let to_stdout =
            [&self.json, &self.html, &self.csv].into_iter().flatten().any(|path| path == Path::new("-"));
        // The table belongs on standard output, unless a file is there.
        match (self.quiet, to_stdout) {
            (true, _) => {}
            (false, true) => eprint!("{table}"),
            (false, false) => print!("{table}"),
        }
        if let Some(path) = &self.html {
            Self::write(path, page().as_bytes())?;
        }
        if let Some(path) = &self.json {
            let json = serde_json::to_string_pretty(report);
            let json = json.map_err(|error| format!("{}: {error}", path.display()))?;
            Self::write(path, (json + "\n").as_bytes())?;
        }
        Ok(())
    }

    pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
        let written = match path == Path::new("-") {
            true => std::io::stdout().lock().write_all(bytes),
            false => std::fs::write(path, bytes),
        };
        written.map_err(|error| format!("{}: {error}", path.display()))
    }
}
