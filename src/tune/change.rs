//! Applying and undoing. Before a value is changed the old one is on disk in the record, so that whatever happens in between
//! can be undone; undoing goes backwards, and leaves alone what somebody else has changed since.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Host, Report, State, Step, kept};

/// Where the old values are kept unless a place is named.
pub const RECORD: &str = "/var/lib/ringlog-tune/applied.json";

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub item: String,
    #[serde(flatten)]
    pub step: Step,
    /// `None` where there was nothing: a file that was made.
    pub before: Option<String>,
}

/// The old values of all that was applied and not undone.
pub struct Record {
    path: PathBuf,
    applied: Vec<Applied>,
}

/// What became of a step.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub item: String,
    pub place: PathBuf,
    pub from: String,
    pub to: String,
    /// `None`: done.
    pub problem: Option<String>,
}

impl Record {
    /// An empty one where there is none.
    pub fn open(path: &Path) -> io::Result<Record> {
        Ok(Record { path: path.to_owned(), applied: kept::load(path)? })
    }

    pub fn is_empty(&self) -> bool {
        self.applied.is_empty()
    }

    fn push(&mut self, applied: Applied) -> io::Result<()> {
        self.applied.push(applied);
        self.save()
    }

    fn pop(&mut self) -> io::Result<()> {
        self.applied.pop();
        self.save()
    }

    /// Nothing applied is no file.
    fn save(&self) -> io::Result<()> {
        match self.applied.is_empty() {
            true => fs::remove_file(&self.path),
            false => kept::save(&self.path, &self.applied),
        }
    }
}

/// The changes that `reports` ask for, but for those that are the host's and not ours to make.
pub fn plan(reports: &[Report]) -> Vec<(&'static str, String, Step)> {
    let ours = reports.iter().filter(|report| !report.belongs_to_host);
    let steps = ours.flat_map(|report| report.findings.iter().map(|finding| (report.item, finding)));
    steps
        .filter_map(|(item, finding)| match &finding.state {
            State::Change { step } => Some((item, finding.found.clone(), step.clone())),
            _ => None,
        })
        .collect()
}

/// Makes the changes; one that fails does not keep the others from being made.
pub fn apply(
    host: &Host,
    steps: Vec<(&'static str, String, Step)>,
    record: &mut Record,
) -> io::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (item, found, step) in steps {
        let before = match &step {
            Step::Write { file, .. } => host.value(&file.to_string_lossy()),
            Step::Ballast { .. } => None,
        };
        record.push(Applied { item: item.to_owned(), step: step.clone(), before })?;
        let problem = take(host, &step).err();
        if problem.is_some() {
            record.pop()?;
        }
        outcomes.push(Outcome {
            item: item.to_owned(),
            place: step.file().clone(),
            from: found,
            to: step.value(),
            problem,
        });
    }
    Ok(outcomes)
}

fn take(host: &Host, step: &Step) -> Result<(), String> {
    match step {
        Step::Write { file, value } => {
            host.write(file, value).map_err(|error| error.to_string())?;
            // Some files take a value and keep the old one.
            let now = host.value(&file.to_string_lossy()).unwrap_or_default();
            match same(&now, value) {
                true => Ok(()),
                false => Err(format!("it took {value} but says {now}")),
            }
        }
        Step::Ballast { file, bytes } => {
            let path = host.path(file);
            let make = || {
                let file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, *bytes)?;
                file.sync_all()
            };
            make().map_err(|error: io::Error| {
                if error.kind() != io::ErrorKind::AlreadyExists {
                    let _ = fs::remove_file(&path);
                }
                error.to_string()
            })
        }
    }
}

/// Whether a file's value is what was written to it: masks and lists come back with other zeros and blanks.
fn same(now: &str, written: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let parts = text.split(|c: char| c.is_whitespace() || c == ',');
        let trimmed = parts.map(|word| word.trim_start_matches('0').to_owned());
        let mut words: Vec<_> = trimmed.skip_while(String::is_empty).collect();
        if words.is_empty() {
            words.push(String::new());
        }
        words
    };
    words(now) == words(written)
}

/// Puts everything back, the last change first. Without `force`, what is no longer as it was left stays.
pub fn undo(host: &Host, record: &mut Record, force: bool) -> io::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut kept = Vec::new();
    while let Some(applied) = record.applied.last().cloned() {
        let problem = put_back(host, &applied, force).err();
        outcomes.push(Outcome {
            item: applied.item.clone(),
            place: applied.step.file().clone(),
            from: applied.step.value(),
            to: applied.before.clone().unwrap_or_else(|| "not there".to_owned()),
            problem: problem.clone(),
        });
        record.pop()?;
        if problem.is_some() {
            kept.push(applied);
        }
    }
    // What could not be put back is still known, for another try.
    for applied in kept.into_iter().rev() {
        record.push(applied)?;
    }
    Ok(outcomes)
}

fn put_back(host: &Host, applied: &Applied, force: bool) -> Result<(), String> {
    let (file, value) = match &applied.step {
        Step::Write { file, value } => (file, value),
        Step::Ballast { file, .. } => {
            return match fs::remove_file(host.path(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
                _ => Ok(()),
            };
        }
    };
    let Some(before) = &applied.before else { return Err("the old value is not known".to_owned()) };
    let now = host.value(&file.to_string_lossy()).unwrap_or_default();
    if !same(&now, value) && !same(&now, before) && !force {
        return Err(format!("somebody has set it to {now} since; --force puts it back all the same"));
    }
    host.write(file, before).map_err(|error| error.to_string())
}
