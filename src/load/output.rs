//! The files of a run: a HdrHistogram log and a CSV, both second by second, and the JSON report at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::options::{self, SECOND_NS};
use super::recorder::{Counts, Interval, Latencies, Series};
use super::report::{Percentiles, Report};
use super::schedule::Phases;
use super::table;

/// Seconds of all threads are kept until the end: they come in any order.
type Seconds = BTreeMap<i64, (Latencies, Counts)>;

/// See the module.
pub struct Outputs {
    options: options::Outputs,
    seconds: Seconds,
    keep: bool,
    /// When second 0 began.
    measure_ms: i64,
}

impl Outputs {
    /// Opens nothing yet, but finds out now whether the files can be written.
    pub fn open(options: &options::Outputs, started_ms: i64, phases: Phases) -> Result<Outputs, String> {
        for path in [&options.json, &options.hdr, &options.csv].into_iter().flatten() {
            if path != Path::new("-") {
                File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        Ok(Outputs {
            options: options.clone(),
            seconds: Seconds::new(),
            keep: options.hdr.is_some() || options.csv.is_some(),
            measure_ms: started_ms + ((phases.measure_ns - phases.start_ns) / 1_000_000) as i64,
        })
    }

    /// Takes a second of one thread.
    pub fn add(&mut self, interval: &Interval) -> Result<(), String> {
        if self.keep {
            let (latencies, counts) = self.seconds.entry(interval.second).or_default();
            latencies.merge(&interval.latencies);
            counts.add(&interval.counts);
        }
        Ok(())
    }

    /// Writes everything.
    pub fn finish(&mut self, report: &Report) -> Result<(), String> {
        let error = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        if let Some(path) = &self.options.hdr {
            self.write_hdr(path).map_err(|why| error(path, &why))?;
        }
        if let Some(path) = &self.options.csv {
            self.write_csv(path).map_err(|why| error(path, &why))?;
        }
        if !self.options.quiet {
            let text = table::render(report);
            // The report itself belongs on standard output, unless the JSON is there.
            if self.options.json.as_deref() == Some(Path::new("-")) {
                eprint!("{text}");
            } else {
                print!("{text}");
            }
        }
        if let Some(path) = &self.options.json {
            let json = serde_json::to_string_pretty(report).map_err(|why| error(path, &why))?;
            if path == Path::new("-") {
                println!("{json}");
            } else {
                std::fs::write(path, json + "\n").map_err(|why| error(path, &why))?;
            }
        }
        Ok(())
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
        for (second, (latencies, _)) in self.seconds.range(0..) {
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

    fn write_csv(&self, path: &Path) -> Result<(), String> {
        let mut file = BufWriter::new(File::create(path).map_err(|error| error.to_string())?);
        self.csv(&mut file).and_then(|()| file.flush()).map_err(|error| error.to_string())
    }

    fn csv(&self, out: &mut impl Write) -> std::io::Result<()> {
        write!(out, "second,time_ms,acked,read,retries,connections_lost,failed")?;
        for series in Series::ALL {
            let name = series.name().replace('-', "_");
            for what in ["p50", "p99", "p999", "max"] {
                write!(out, ",{name}_{what}_us")?;
            }
        }
        writeln!(out)?;
        for (second, (latencies, counts)) in &self.seconds {
            let time_ms = self.measure_ms + second * (SECOND_NS / 1_000_000) as i64;
            let acked = counts.acked + counts.unacknowledged;
            write!(out, "{second},{time_ms},{acked},{},{}", counts.read, counts.retries)?;
            write!(out, ",{},{}", counts.connections_lost, counts.failed)?;
            for series in Series::ALL {
                let it = Percentiles::of(latencies.of(series));
                for ns in [it.p50_ns, it.p99_ns, it.p99_9_ns, it.max_ns] {
                    write!(out, ",{:.1}", ns as f64 / 1000.0)?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}
