//! The host's settings and what they should be: [`check`] looks and changes nothing, [`change`] applies and undoes, [`measure`]
//! tells what a directory's disk can do, [`effect`] what a change did. Called by `ringlog tune` and by whoever shows its findings.
//!
//! Each [`Item`] is declared once, with what it is, why it matters and how it is undone; the pages in `tuning/` are made of
//! the same words ([`pages`]). An item looks at the host through [`Host`], which is a tree of files, so that every judgement
//! is tested on trees of files.

pub mod change;
mod cpu;
mod disk;
pub mod effect;
mod host;
mod items;
mod kept;
pub mod measure;
mod memory;
mod network;
pub mod pages;
mod process;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use host::{Host, Mount};
pub use items::ITEMS;

/// One setting, or several that belong together.
pub struct Item {
    /// Kebab-case; the page's name too.
    pub name: &'static str,
    pub title: &'static str,
    pub scope: Scope,
    pub what: &'static str,
    pub why: &'static str,
    /// How to go back by hand; `tune undo` does it as well for what `tune apply` has done.
    pub undo: &'static str,
    pub effect: &'static str,
    look: fn(&Host, &Target) -> Vec<Finding>,
}

/// Whose setting it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The machine's: nothing that a container can change.
    Host,
    /// The process's own limits, or its data directories.
    Process,
}

/// What the broker is going to use.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The data directories.
    pub dirs: Vec<PathBuf>,
    /// Memory that rings would register.
    pub locked_bytes: u64,
    pub open_files: u64,
}

impl Target {
    /// A broker of these directories with many connections and segments, and the memory that its buffers take at most by default.
    pub fn broker(dirs: Vec<PathBuf>) -> Target {
        Target { dirs, locked_bytes: 512 << 20, open_files: 100_000 }
    }
}

/// A place that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub place: String,
    pub found: String,
    #[serde(flatten)]
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    Good,
    /// `apply` does this.
    Change {
        #[serde(flatten)]
        step: Step,
    },
    /// To be done by a person.
    Advice {
        advice: String,
    },
}

/// A change that can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "step")]
pub enum Step {
    /// Writes a value to a file of `/proc` or `/sys`.
    Write { file: PathBuf, value: String },
    /// Makes a file of that size, to be deleted when the disk is full.
    Ballast { file: PathBuf, bytes: u64 },
}

/// An item and what was found.
#[derive(Serialize)]
pub struct Report {
    pub item: &'static str,
    pub title: &'static str,
    pub scope: Scope,
    /// The item is the host's, and this process is in a container.
    pub belongs_to_host: bool,
    /// Empty where the host has no such thing.
    pub findings: Vec<Finding>,
    pub what: &'static str,
    pub why: &'static str,
    pub undo: &'static str,
    pub effect: &'static str,
    /// What changing it did on this host, where that was measured.
    pub measured: Vec<String>,
}

impl Finding {
    fn good(place: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding { place: place.into(), found: found.into(), state: State::Good }
    }

    fn advice(place: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        let state = State::Advice { advice: advice.into() };
        Finding { place: place.into(), found: found.into(), state }
    }

    /// Of a file with one value: good, or to be changed to `wanted`. `None` where there is no such file.
    fn setting(host: &Host, file: &str, wanted: &str, is_good: impl Fn(&str) -> bool) -> Option<Finding> {
        let found = host.value(file)?;
        let state = match is_good(&found) {
            true => State::Good,
            false => State::Change { step: Step::Write { file: file.into(), value: wanted.to_owned() } },
        };
        Some(Finding { place: file.to_owned(), found, state })
    }
}

impl Step {
    /// What it sets, for people.
    pub fn value(&self) -> String {
        match self {
            Step::Write { value, .. } => value.clone(),
            Step::Ballast { bytes, .. } => format!("{} MiB", bytes >> 20),
        }
    }

    pub fn file(&self) -> &PathBuf {
        match self {
            Step::Write { file, .. } | Step::Ballast { file, .. } => file,
        }
    }
}

impl Item {
    pub fn check(&self, host: &Host, target: &Target) -> Report {
        Report {
            item: self.name,
            title: self.title,
            scope: self.scope,
            belongs_to_host: self.scope == Scope::Host && host.container().is_some(),
            findings: (self.look)(host, target),
            what: self.what,
            why: self.why,
            undo: self.undo,
            effect: self.effect,
            measured: Vec::new(),
        }
    }
}

/// Looks at everything.
pub fn check(host: &Host, target: &Target) -> Vec<Report> {
    ITEMS.iter().map(|item| item.check(host, target)).collect()
}
