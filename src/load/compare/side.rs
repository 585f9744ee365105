//! One side of a comparison: its runs, read from result files or made just now, and whether they may be compared at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

/// The largest result file.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// What differs from run to run by its nature.
const OF_A_RUN: &[&str] = &["bootstrap", "topic", "run", "seed", "records_per_second"];
/// What the broker chose: told, but no reason to refuse.
const OF_THE_BROKER: &[&str] = &["produce_version", "fetch_version"];

/// The runs of one side, as their reports say.
#[derive(Clone, Debug, Default)]
pub struct Side {
    pub runs: Vec<Value>,
    /// Rates that searches found, where the files hold searches.
    pub searches: Vec<Value>,
}

impl Side {
    /// Reads result files, comma-separated.
    pub fn read(paths: &str) -> Result<Side, String> {
        let mut side = Side::default();
        for path in paths.split(',') {
            let error = |why: &dyn std::fmt::Display| format!("{path}: {why}");
            let bytes = std::fs::metadata(Path::new(path)).map_err(|why| error(&why))?.len();
            if bytes > FILE_BYTES_MAX {
                return Err(error(&"larger than 1 GiB"));
            }
            let text = std::fs::read(Path::new(path)).map_err(|why| error(&why))?;
            let document: Value = serde_json::from_slice(&text).map_err(|why| error(&why))?;
            side.add(document).map_err(|why| error(&why))?;
        }
        Ok(side)
    }

    /// Takes what a file holds: a run, or a document of several.
    pub fn add(&mut self, document: Value) -> Result<(), String> {
        match document["kind"].as_str() {
            Some("run") => self.runs.push(document),
            Some("search") => self.searches.push(document),
            Some("runs" | "curve") => match document["runs"].as_array() {
                Some(runs) => self.runs.extend(runs.iter().cloned()),
                None => return Err("it holds no runs".into()),
            },
            _ => return Err("no result of `ringlog load --json`".into()),
        }
        Ok(())
    }

    /// All reports that say how they were made.
    fn documents(&self) -> impl Iterator<Item = &Value> {
        self.runs.iter().chain(&self.searches)
    }

    /// Runs whose verdict is this, with their reasons.
    pub fn with_verdict(&self, verdict: &str) -> Vec<String> {
        let text = |document: &Value| {
            let reasons = document["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
            reasons.collect::<Vec<_>>().join("; ")
        };
        self.documents().filter(|it| it["verdict"] == verdict).map(text).collect()
    }

    /// The largest part of the machine that others took in a run; `None`: no run knows.
    pub fn noise(&self) -> Option<f64> {
        let nested = self.searches.iter().flat_map(|it| it["runs"].as_array().into_iter().flatten());
        self.runs.iter().chain(nested).filter_map(noise_of).reduce(f64::max)
    }
}

/// What others took of the machine in a run.
fn noise_of(run: &Value) -> Option<f64> {
    let other = run["noise"]["other_cpu"].as_f64()?;
    Some(other.max(run["noise"]["steal_cpu"].as_f64().unwrap_or(0.0)))
}

/// Why two sides cannot be compared, and what differs without harm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unlike {
    /// Name of the setting and its values.
    pub refused: Vec<String>,
    pub told: Vec<String>,
}

/// Holds the settings and the machines of all runs against each other; `allowed` names what may differ.
pub fn unlike(base: &Side, candidate: &Side, allowed: &[String]) -> Unlike {
    let mut found = Unlike::default();
    let all: Vec<&Value> = base.documents().chain(candidate.documents()).collect();
    let rates = |side: &Side| -> BTreeSet<String> {
        side.runs.iter().map(|run| run["asked"]["records_per_second"].to_string()).collect()
    };
    let mut differing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for part in ["asked", "machine"] {
        let names: BTreeSet<&String> =
            all.iter().filter_map(|it| it[part].as_object()).flat_map(|object| object.keys()).collect();
        for name in names.into_iter().filter(|name| !OF_A_RUN.contains(&name.as_str())) {
            let values: BTreeSet<String> = all.iter().map(|it| it[part][name.as_str()].to_string()).collect();
            if values.len() > 1 {
                let name = if part == "machine" { format!("machine.{name}") } else { name.clone() };
                differing.insert(name, values);
            }
        }
    }
    if rates(base) != rates(candidate) {
        let both = rates(base).union(&rates(candidate)).cloned().collect();
        differing.insert("rate".into(), both);
    }
    if base.searches.is_empty() != candidate.searches.is_empty() {
        found.refused.push("one side holds searches, the other does not".into());
    }
    let versions: BTreeSet<&str> = all.iter().filter_map(|it| it["ringlog_version"].as_str()).collect();
    if versions.len() > 1 {
        found.told.push(format!("generators of versions {}", join(versions.iter())));
    }
    for (name, values) in differing {
        let is_allowed =
            allowed.iter().any(|it| *it == name || (it == "machine" && name.starts_with("machine.")));
        let text = format!("{name}: {}", join(values.iter()));
        if is_allowed || OF_THE_BROKER.contains(&name.as_str()) {
            found.told.push(text);
        } else {
            found.refused.push(text);
        }
    }
    found
}

fn join<T: ToString>(values: impl Iterator<Item = T>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn side(runs: Vec<Value>) -> Side {
        let mut side = Side::default();
        runs.into_iter().for_each(|run| side.add(run).unwrap());
        side
    }

    fn run(acks: &str, cpu: &str, rate: Option<f64>) -> Value {
        json!({ "kind": "run", "ringlog_version": "1", "verdict": "ok", "reasons": [],
            "asked": { "acks": acks, "topic": "a", "records_per_second": rate }, "machine": { "cpu": cpu } })
    }

    #[test]
    fn runs_of_other_settings_or_machines_are_refused_unless_allowed() {
        let one = side(vec![run("1", "x", None)]);
        assert_eq!(unlike(&one, &one.clone(), &[]), Unlike::default());
        let other = side(vec![run("all", "y", Some(5.0))]);
        let found = unlike(&one, &other, &[]);
        assert_eq!(found.refused.len(), 3, "{found:?}");
        assert!(found.refused[0].contains("\"1\" / \"all\""), "{found:?}");
        let found = unlike(&one, &other, &["machine".into(), "acks".into()]);
        assert_eq!((found.refused.len(), found.told.len()), (1, 2), "the rate is left");
        // Within a side as well.
        let mixed = side(vec![run("1", "x", None), run("0", "x", None)]);
        assert_eq!(unlike(&mixed, &mixed.clone(), &[]).refused.len(), 1);
    }

    #[test]
    fn files_of_several_runs_and_no_results_at_all() {
        let mut side = Side::default();
        side.add(json!({ "kind": "runs", "runs": [run("1", "x", None), run("1", "x", None)] })).unwrap();
        side.add(json!({ "kind": "search", "verdict": "ok" })).unwrap();
        assert_eq!((side.runs.len(), side.searches.len()), (2, 1));
        assert!(side.add(json!({ "hello": 1 })).is_err());
        assert!(side.add(json!({ "kind": "runs" })).is_err());
        assert!(Side::read("/does/not/exist").is_err());
    }
}
