//! A history of results: a CSV file with a line a result, which Apache Otava reads as it is, and the places in it where a figure changed.
//!
//! One change is looked for with Pettitt's test (by ranks, so that no spread is assumed and an outlier is no change), the series cut there, and both
//! parts searched again. A change behind twelve results shows with the fifth of the new level (95 %).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::figures::{self, Figure};
use super::side::Side;
use super::statistics;

/// Columns before the figures.
const TIME: &str = "time";
const COMMIT: &str = "commit";
/// The largest file, and the most results looked at; each costs a pass over all others.
const FILE_BYTES_MAX: u64 = 16 << 20;
const RESULTS_MAX: usize = 2000;
/// The fewest results on either side of a change.
const SIDE_MIN: usize = 4;

pub struct History {
    /// The figures' columns.
    columns: Vec<String>,
    results: Vec<Entry>,
}

struct Entry {
    time_s: u64,
    commit: String,
    values: Vec<f64>,
}

/// A figure that is another from a result on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    pub figure: String,
    /// The first result of the new level.
    pub commit: String,
    pub time_s: u64,
    /// How many results lie behind it, itself included.
    pub results_since: usize,
    /// Medians of the two levels.
    pub before: f64,
    pub after: f64,
    /// How probable it is that as much comes by chance.
    pub p: f64,
    pub worse: bool,
}

impl History {
    /// Reads a file; one that is not there is an empty history.
    pub fn read(path: &Path) -> Result<History, String> {
        let error = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        match std::fs::metadata(path) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                return Ok(History { columns: Vec::new(), results: Vec::new() });
            }
            Err(why) => return Err(error(&why)),
            Ok(found) if found.len() > FILE_BYTES_MAX => return Err(error(&"larger than 16 MiB")),
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(|why| error(&why))?;
        History::parse(&text).map_err(|why| error(&why))
    }

    fn parse(text: &str) -> Result<History, String> {
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap_or("").split(',').collect();
        let [TIME, COMMIT, columns @ ..] = &header[..] else {
            return Err(format!("its first line does not begin with `{TIME},{COMMIT},`"));
        };
        let entry = |(number, line): (usize, &str)| {
            let wrong = || {
                format!(
                    "line {}: a time in seconds, a commit and {} numbers above 0 are expected",
                    number + 2,
                    columns.len()
                )
            };
            let fields: Vec<&str> = line.split(',').collect();
            let [time, commit, values @ ..] = &fields[..] else { return Err(wrong()) };
            let values: Option<Vec<f64>> = values
                .iter()
                .map(|it| it.parse().ok().filter(|it: &f64| it.is_finite() && *it > 0.0))
                .collect();
            match (time.parse(), values) {
                (Ok(time_s), Some(values)) if values.len() == columns.len() => {
                    Ok(Entry { time_s, commit: (*commit).to_owned(), values })
                }
                _ => Err(wrong()),
            }
        };
        let results = lines.enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
        if results.len() > RESULTS_MAX {
            return Err(format!("more than {RESULTS_MAX} results"));
        }
        Ok(History { columns: columns.iter().map(|&name| name.to_owned()).collect(), results })
    }

    /// Adds the candidate's medians behind the last line of the file.
    pub fn append(
        &mut self,
        path: &Path,
        commit: &str,
        side: &Side,
        figures: &[Figure],
    ) -> Result<(), String> {
        let plain = |it: char| it.is_ascii_alphanumeric() || "._/-+".contains(it);
        if commit.is_empty() || !commit.chars().all(plain) {
            return Err(format!("--commit `{commit}` is no name of letters, digits and ._/-+"));
        }
        let columns: Vec<String> = figures.iter().map(|it| format!("{} ({})", it.name, it.unit)).collect();
        let new = self.columns.is_empty();
        if !new && self.columns != columns {
            return Err(format!(
                "{} holds other figures ({}) than these ({}): choose them with --figures, or begin another file",
                path.display(),
                self.columns.join(", "),
                columns.join(", ")
            ));
        }
        let started_ms =
            side.runs.iter().chain(&side.searches).filter_map(|run| run["started_ms"].as_u64()).max();
        let time_s = started_ms.unwrap_or(0) / 1000;
        let values: Vec<f64> = figures.iter().map(|it| it.candidate.median).collect();
        let mut text = String::new();
        if new {
            let _ = writeln!(text, "{TIME},{COMMIT},{}", columns.join(","));
        }
        let _ = write!(text, "{time_s},{commit}");
        values.iter().for_each(|value| {
            let _ = write!(text, ",{value}");
        });
        text.push('\n');
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|why| format!("{}: {why}", path.display()))?;
        self.columns = columns;
        self.results.push(Entry { time_s, commit: commit.to_owned(), values });
        Ok(())
    }

    /// The changes of all figures, each by more than the threshold (0.05 for 5 %), in the order of the columns and of time.
    pub fn changes(&self, threshold: f64, confidence: f64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (column, name) in self.columns.iter().enumerate() {
            let Some(more_is_better) = figures::more_is_better(name) else { continue };
            let values: Vec<f64> = self.results.iter().map(|entry| entry.values[column]).collect();
            let mut cuts = Vec::new();
            cut(&values, 0, 1.0 - confidence, &mut cuts);
            cuts.sort_by_key(|&(at, _)| at);
            changes.extend(levels(&values, &cuts, threshold).into_iter().map(|(at, p, before, after)| {
                let Entry { time_s, commit, .. } = &self.results[at];
                Change {
                    figure: name.clone(),
                    commit: commit.clone(),
                    time_s: *time_s,
                    results_since: values.len() - at,
                    before,
                    after,
                    p,
                    worse: (after < before) == more_is_better,
                }
            }));
        }
        changes
    }
}

/// Cuts a series where it changed, and its parts again; gives each place with its probability.
fn cut(values: &[f64], from: usize, allowed: f64, cuts: &mut Vec<(usize, f64)>) {
    if let Some(p) = pettitt(values).filter(|&p| p <= allowed) {
        let at = place(values);
        cuts.push((from + at, p));
        cut(&values[..at], from, allowed, cuts);
        cut(&values[at..], from + at, allowed, cuts);
    }
}

/// How probable it is that a series without a change is parted as well as this one; `None` for one too short.
fn pettitt(values: &[f64]) -> Option<f64> {
    let n = values.len();
    let (mut sum, mut most) = (0i64, None);
    for at in 1..n {
        // How often what follows is above the value just taken in, less how often it is below.
        let value = values[at - 1];
        sum += values.iter().map(|other| (*other > value) as i64 - (*other < value) as i64).sum::<i64>();
        if at >= SIDE_MIN && n - at >= SIDE_MIN {
            most = most.max(Some(sum.abs()));
        }
    }
    let (n, most) = (n as f64, most? as f64);
    Some((2.0 * (-6.0 * most * most / (n * n * n + n * n)).exp()).min(1.0))
}

/// Where two levels fit the series best, by the distance of the values from their medians: the ranks say that there is a change, but
/// are off its place when by chance the last values before it are high.
fn place(values: &[f64]) -> usize {
    let distance = |part: &[f64]| {
        let level = median(part);
        part.iter().map(|value| (value - level).abs()).sum::<f64>()
    };
    let cost = |at: &usize| distance(&values[..*at]) + distance(&values[*at..]);
    let places = SIDE_MIN..=values.len() - SIDE_MIN;
    places.min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("a series that is tested has a place")
}

/// The medians on both sides of each cut; cuts between levels closer than the threshold are none.
fn levels(values: &[f64], cuts: &[(usize, f64)], threshold: f64) -> Vec<(usize, f64, f64, f64)> {
    let mut kept: Vec<(usize, f64)> = cuts.to_vec();
    loop {
        if kept.is_empty() {
            return Vec::new();
        }
        let bounds: Vec<usize> =
            std::iter::once(0).chain(kept.iter().map(|&(at, _)| at)).chain([values.len()]).collect();
        let medians: Vec<f64> = bounds.windows(2).map(|it| median(&values[it[0]..it[1]])).collect();
        let size = |at: usize| (medians[at + 1] / medians[at]).ln().abs();
        // Without the smallest the levels beside it are one, and others may grow or shrink by it.
        let smallest = (0..kept.len()).min_by(|&a, &b| size(a).total_cmp(&size(b)));
        match smallest.filter(|&at| size(at) <= (1.0 + threshold).ln()) {
            Some(at) => drop(kept.remove(at)),
            None => {
                let levels = kept.iter().zip(medians.windows(2));
                return levels.map(|(&(at, p), it)| (at, p, it[0], it[1])).collect();
            }
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    statistics::median(&sorted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values about levels, spread by up to 4 % in an order without a trend.
    fn series(levels: &[(usize, f64)]) -> Vec<f64> {
        let all = levels.iter().flat_map(|&(count, level)| std::iter::repeat_n(level, count));
        all.enumerate()
            .map(|(at, level)| level * (1.0 + 0.08 * ((at * 7 % 13) as f64 / 12.0 - 0.5)))
            .collect()
    }

    fn history(column: &str, values: &[f64]) -> History {
        let lines: Vec<String> =
            values.iter().enumerate().map(|(at, value)| format!("{},c{at},{value}\n", 1000 + at)).collect();
        History::parse(&format!("time,commit,{column}\n{}", lines.concat())).unwrap()
    }

    fn changes(values: &[f64]) -> Vec<(String, bool)> {
        let found = history("ack-p99 (ms)", values).changes(0.05, 0.99);
        found.into_iter().map(|it| (it.commit, it.worse)).collect()
    }

    #[test]
    fn changes_are_found_where_they_are_and_told_apart() {
        assert_eq!(changes(&series(&[(20, 5.0), (20, 6.0)])), [("c20".into(), true)]);
        assert_eq!(changes(&series(&[(20, 5.0), (20, 4.0)])), [("c20".into(), false)]);
        let twice = series(&[(20, 5.0), (20, 6.5), (20, 4.0)]);
        assert_eq!(changes(&twice), [("c20".into(), true), ("c40".into(), false)]);
        let more_is_better =
            history("throughput (MB/s)", &series(&[(20, 500.0), (20, 400.0)])).changes(0.05, 0.99);
        assert!(more_is_better[0].worse && more_is_better[0].results_since == 20, "{more_is_better:?}");
    }

    #[test]
    fn spread_outliers_and_small_changes_are_none() {
        assert_eq!(changes(&series(&[(60, 5.0)])), []);
        assert_eq!(changes(&series(&[(20, 5.0), (20, 5.1)])), []);
        let mut outlier = series(&[(40, 5.0)]);
        outlier[20] = 50.0;
        assert_eq!(changes(&outlier), []);
        assert_eq!(changes(&series(&[(2, 5.0), (2, 9.0)])), []);
        assert_eq!(changes(&[]), []);
        assert_eq!(changes(&[1.0; 30]), []);
    }

    #[test]
    fn a_damaged_file_is_refused_by_line() {
        for (text, says) in [
            ("", "first line"),
            ("commit,time,x\n", "first line"),
            ("time,commit,x\n1,a\n", "line 2"),
            ("time,commit,x\n1,a,1\n2,b,1,2\n", "line 3"),
            ("time,commit,x\nnow,a,1\n", "line 2"),
            ("time,commit,x\n1,a,NaN\n", "line 2"),
            ("time,commit,x\n1,a,0\n", "line 2"),
            ("time,commit,x\n1,a,\n", "line 2"),
        ] {
            let why = History::parse(text).err().unwrap_or_default();
            assert!(why.contains(says), "{text:?}: {why}");
        }
    }
}
