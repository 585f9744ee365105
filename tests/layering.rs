//! The structure as a test: who may import whom, where unsafe code may stand, how long files and functions may grow.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each layer and what it may use, lowest first. Nothing may use a layer that stands behind it.
const LAYERS: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("metrics", &[]),
    ("protocol", &[]),
    ("record", &[]),
    ("io", &[]),
    ("tune", &["io"]),
    ("storage", &["protocol", "record", "io", "metrics"]),
    ("metadata", &["config", "protocol", "record", "io"]),
    ("broker", &["config", "metrics", "protocol", "record", "io", "storage", "metadata"]),
    ("server", &["config", "metrics", "protocol", "record", "io", "tune", "storage", "metadata", "broker"]),
    ("load", &["metrics", "protocol", "record", "io"]),
    // Beside the data path: it sees what shards show of themselves, and asks the rest as a client would.
    (
        "control",
        &["config", "metrics", "protocol", "record", "tune", "storage", "metadata", "broker", "server"],
    ),
    (
        "cli",
        &[
            "config", "metrics", "protocol", "record", "io", "tune", "storage", "metadata", "broker",
            "server", "load", "control",
        ],
    ),
];

/// Without tests. Both limits may only go down.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// Files that were longer when the limit came, with the length they may not grow beyond.
const LONG_FILES: &[(&str, usize)] = &[("storage/producer_state.rs", 610)];

struct Source {
    path: PathBuf,
    /// Up to the tests at its end.
    code: Vec<String>,
}

#[test]
fn layers_use_only_what_is_below_them() {
    let allowed: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut faults = Vec::new();
    for source in sources() {
        let Some(layer) = layer_of(&source.path) else { continue };
        let Some(allowed) = allowed.get(layer.as_str()) else {
            faults.push(format!("{}: no layer of the table", source.path.display()));
            continue;
        };
        for (number, line) in code_lines(&source) {
            for used in uses(line) {
                let known = LAYERS.iter().any(|(name, _)| *name == used);
                if known && used != layer && !allowed.contains(&used) {
                    faults.push(format!("{}:{number}: {layer} uses {used}", source.path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn unsafe_code_stands_under_io() {
    let mut faults = Vec::new();
    for source in sources() {
        if layer_of(&source.path).as_deref() == Some("io") {
            continue;
        }
        for (number, line) in code_lines(&source) {
            // The one switch that lets `io` have it.
            if line.trim() == "#[allow(unsafe_code)]" && source.path.ends_with("src/lib.rs") {
                continue;
            }
            // What stands between quotation marks is text.
            let code: String = line.split('"').step_by(2).collect();
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.into_iter().any(|word| matches!(word, "unsafe" | "unsafe_code")) {
                faults.push(format!("{}:{number}", source.path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "unsafe outside src/io: {}", faults.join("\n"));
}

#[test]
fn files_and_functions_stay_short() {
    let mut faults = Vec::new();
    for source in sources() {
        let known = LONG_FILES.iter().find(|(path, _)| source.path.ends_with(path));
        if source.code.len() > known.map_or(FILE_LINES_MAX, |(_, lines)| *lines) {
            faults.push(format!("{}: {} lines", source.path.display(), source.code.len()));
        }
        for (number, name, lines) in functions(&source.code) {
            if lines > FUNCTION_LINES_MAX {
                faults.push(format!("{}:{number}: fn {name} has {lines} lines", source.path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_checks_see_what_they_look_for() {
    let line = "use crate::server::shard; let x = crate::io::Op::Close;";
    assert_eq!(uses(line).collect::<Vec<_>>(), ["server", "io"]);
    let code: Vec<String> = ["fn long() {", "    a();", "}"].map(str::to_owned).to_vec();
    assert_eq!(functions(&code), [(1, "long".to_owned(), 3)]);
    assert!(sources().len() > 50, "the sources were not found");
}

fn uses(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").map(|(at, found)| {
        let rest = &line[at + found.len()..];
        &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
    })
}

/// Numbered lines without their comments.
fn code_lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let lines = source.code.iter().enumerate().map(|(index, line)| (index + 1, line.as_str()));
    lines.map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
}

/// Line, name and length of each function of formatted code: it ends with a brace at its own indentation.
fn functions(code: &[String]) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (index, line) in code.iter().enumerate() {
        let text = line.trim_start();
        let Some(at) = text
            .find("fn ")
            .filter(|&at| text[..at].chars().all(|c| c.is_alphanumeric() || "_ ()".contains(c)))
        else {
            continue;
        };
        let name: String = text[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = format!("{}}}", &line[..line.len() - text.len()]);
        if let Some(length) = code[index..].iter().position(|line| *line == end) {
            found.push((index + 1, name, length + 1));
        }
    }
    found
}

/// The first part of the path below `src`, without its suffix; none for `lib.rs` and `main.rs`.
fn layer_of(path: &Path) -> Option<String> {
    let below = path.strip_prefix(root()).ok()?;
    let first = below.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then(|| name.to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(&root(), &mut paths);
    paths.sort();
    let tests_only = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == "tests.rs" || name.ends_with("_tests.rs")
    };
    paths.retain(|path| !tests_only(path));
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).map(str::to_owned);
            Source { code: code.collect(), path }
        })
        .collect()
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}
