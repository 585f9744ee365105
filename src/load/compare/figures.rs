//! What of two sides is compared: each figure's values by run, their ratio, and what that says against a threshold.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::side::Side;
use super::statistics::{self, Ratio};

/// Where a figure stands in a report, and how it is written.
struct Kind {
    name: &'static str,
    unit: &'static str,
    /// A JSON pointer.
    place: &'static str,
    /// From the report's unit to the one shown.
    factor: f64,
    more_is_better: bool,
}

const fn latency(name: &'static str, place: &'static str) -> Kind {
    Kind { name, unit: "ms", place, factor: 1e-6, more_is_better: false }
}

const KINDS: &[Kind] = &[
    Kind {
        name: "throughput",
        unit: "MB/s",
        place: "/produced/megabytes_per_second",
        factor: 1.0,
        more_is_better: true,
    },
    Kind {
        name: "read",
        unit: "MB/s",
        place: "/consumed/megabytes_per_second",
        factor: 1.0,
        more_is_better: true,
    },
    latency("ack-p50", "/latency/ack/p50_ns"),
    latency("ack-p99", "/latency/ack/p99_ns"),
    latency("ack-p99.9", "/latency/ack/p99_9_ns"),
    latency("e2e-p50", "/latency/e2e/p50_ns"),
    latency("e2e-p99", "/latency/e2e/p99_ns"),
    latency("e2e-p99.9", "/latency/e2e/p99_9_ns"),
    Kind {
        name: "broker-cpu",
        unit: "core-s/GB",
        place: "/broker/core_seconds_per_gb",
        factor: 1.0,
        more_is_better: false,
    },
    Kind {
        name: "broker-rss",
        unit: "MiB",
        place: "/broker/rss_bytes",
        factor: 1.0 / 1048576.0,
        more_is_better: false,
    },
];
/// Of searches: the rate that was found.
const SEARCHED: Kind = Kind {
    name: "searched-rate",
    unit: "records/s",
    place: "/search/records_per_second",
    factor: 1.0,
    more_is_better: true,
};

/// What a ratio says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Better,
    /// By less than the threshold, or not at all.
    Same,
    /// The runs are too few or too far apart to say.
    Undecided,
    Worse,
}

/// A compared figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub more_is_better: bool,
    pub base: Values,
    pub candidate: Values,
    /// Candidate to base.
    pub ratio: f64,
    pub ratio_low: f64,
    pub ratio_high: f64,
    /// Of the interval.
    pub confidence: f64,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, Serialize)]
pub struct Values {
    pub min: f64,
    pub median: f64,
    pub max: f64,
    pub runs: Vec<f64>,
}

/// What to hold figures against.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A part: 0.05 for 5 %.
    pub threshold: f64,
    pub confidence: f64,
    /// Names; empty: all.
    pub wanted: Vec<String>,
}

/// The names that may be asked for.
pub fn names() -> Vec<&'static str> {
    KINDS.iter().chain([&SEARCHED]).map(|kind| kind.name).collect()
}

/// Whether more of a figure is better, by the name of its column in a history: `ack-p99 at 500/s (ms)`.
pub fn more_is_better(column: &str) -> Option<bool> {
    let name = column.split(' ').next()?;
    KINDS.iter().chain([&SEARCHED]).find(|kind| kind.name == name).map(|kind| kind.more_is_better)
}

/// Every figure that both sides have, by offered rate where there are several.
pub fn compare(base: &Side, candidate: &Side, limits: &Limits) -> Vec<Figure> {
    let (mut base_rates, mut candidate_rates) = (by_rate(&base.runs), by_rate(&candidate.runs));
    let several = base_rates.len() > 1;
    let mut figures = Vec::new();
    let wanted =
        |kind: &&Kind| limits.wanted.is_empty() || limits.wanted.iter().any(|name| name == kind.name);
    while let Some((rate, base)) = base_rates.pop_first() {
        let Some(candidate) = candidate_rates.remove(&rate) else { continue };
        for kind in KINDS.iter().filter(wanted) {
            let name = match several {
                true => format!("{} at {}/s", kind.name, f64::from_bits(rate).round()),
                false => kind.name.to_owned(),
            };
            figures.extend(figure(kind, name, &base, &candidate, limits));
        }
    }
    if wanted(&&SEARCHED) {
        let (base, candidate) =
            (base.searches.iter().collect::<Vec<_>>(), candidate.searches.iter().collect::<Vec<_>>());
        figures.extend(figure(&SEARCHED, SEARCHED.name.to_owned(), &base, &candidate, limits));
    }
    figures
}

/// Runs by offered rate, 0 for the closed loop. Rates are not negative, so the order of their bits is theirs.
fn by_rate(runs: &[Value]) -> BTreeMap<u64, Vec<&Value>> {
    let mut rates: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for run in runs {
        let rate = run["asked"]["records_per_second"].as_f64().unwrap_or(0.0).max(0.0);
        rates.entry(rate.to_bits()).or_default().push(run);
    }
    rates
}

fn figure(
    kind: &Kind,
    name: String,
    base: &[&Value],
    candidate: &[&Value],
    limits: &Limits,
) -> Option<Figure> {
    let values = |side: &[&Value]| -> Option<Vec<f64>> {
        side.iter().map(|run| Some(run.pointer(kind.place)?.as_f64()? * kind.factor)).collect()
    };
    let (base, candidate) = (values(base)?, values(candidate)?);
    let ratio = statistics::ratio(&base, &candidate, limits.confidence)?;
    Some(Figure {
        name,
        unit: kind.unit,
        more_is_better: kind.more_is_better,
        base: spread(base),
        candidate: spread(candidate),
        ratio: ratio.estimate,
        ratio_low: ratio.low,
        ratio_high: ratio.high,
        confidence: ratio.confidence,
        verdict: judge(&ratio, kind.more_is_better, limits),
    })
}

fn spread(runs: Vec<f64>) -> Values {
    let mut sorted = runs.clone();
    sorted.sort_by(f64::total_cmp);
    Values { min: sorted[0], median: statistics::median(&sorted), max: sorted[sorted.len() - 1], runs }
}

/// Worse: beyond the threshold, and not by chance. Same or better: the interval leaves no room for being worse by more than it.
fn judge(ratio: &Ratio, more_is_better: bool, limits: &Limits) -> Verdict {
    // As factors by which the candidate is worse.
    let (estimate, low, high) = match more_is_better {
        true => (1.0 / ratio.estimate, 1.0 / ratio.high, 1.0 / ratio.low),
        false => (ratio.estimate, ratio.low, ratio.high),
    };
    let bound = 1.0 + limits.threshold;
    if ratio.confidence < limits.confidence {
        Verdict::Undecided
    } else if low > 1.0 && estimate > bound {
        Verdict::Worse
    } else if high < 1.0 {
        Verdict::Better
    } else if high <= bound {
        Verdict::Same
    } else {
        Verdict::Undecided
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn side(figures: &[f64], rate: Option<f64>) -> Side {
        let run = |&value: &f64| {
            json!({ "kind": "run", "asked": { "records_per_second": rate },
                "produced": { "megabytes_per_second": value }, "latency": { "ack": { "p99_ns": value * 1e6 } } })
        };
        Side { runs: figures.iter().map(run).collect(), searches: Vec::new() }
    }

    fn limits(wanted: &[&str]) -> Limits {
        let wanted = wanted.iter().map(|&name| name.to_owned()).collect();
        Limits { threshold: 0.05, confidence: 0.95, wanted }
    }

    fn verdicts(base: &[f64], candidate: &[f64]) -> Vec<(String, Verdict)> {
        let figures = compare(&side(base, None), &side(candidate, None), &limits(&[]));
        figures.into_iter().map(|figure| (figure.name, figure.verdict)).collect()
    }

    #[test]
    fn the_same_change_is_worse_for_one_figure_and_better_for_another() {
        let base = [100.0, 101.0, 99.0, 100.5, 99.5];
        let more = base.map(|value| value * 1.2);
        assert_eq!(
            verdicts(&base, &more),
            [("throughput".into(), Verdict::Better), ("ack-p99".into(), Verdict::Worse)]
        );
        assert_eq!(
            verdicts(&more, &base),
            [("throughput".into(), Verdict::Worse), ("ack-p99".into(), Verdict::Better)]
        );
    }

    #[test]
    fn a_small_change_is_none_and_a_wide_spread_decides_nothing() {
        let base = [100.0, 101.0, 99.0, 100.5, 99.5];
        let slightly = base.map(|value| value * 1.01);
        assert!(verdicts(&base, &slightly).iter().all(|(_, verdict)| *verdict <= Verdict::Same));
        let wide = [60.0, 150.0, 100.0, 90.0, 130.0];
        assert!(verdicts(&base, &wide).iter().all(|(_, verdict)| *verdict == Verdict::Undecided));
        // Twice as slow, but seen only three times.
        let few = verdicts(&[1.0, 1.1, 1.2], &[2.0, 2.1, 2.2]);
        assert!(few.iter().all(|(_, verdict)| *verdict == Verdict::Undecided), "{few:?}");
    }

    #[test]
    fn rates_of_a_curve_are_compared_each_with_its_own() {
        let mut base = side(&[1.0; 4], Some(100.0));
        base.runs.extend(side(&[5.0; 4], Some(200.0)).runs);
        let figures = compare(&base, &base.clone(), &limits(&["ack-p99"]));
        let names: Vec<&str> = figures.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(names, ["ack-p99 at 100/s", "ack-p99 at 200/s"]);
        assert!(figures.iter().all(|figure| figure.ratio == 1.0 && figure.verdict == Verdict::Same));
        assert!((figures[1].base.median - 5.0).abs() < 1e-9);
    }
}
