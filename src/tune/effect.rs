//! What a change did on this host: each data directory measured before and after each item that `ringlog tune apply --measure`
//! changed, kept beside the record of old values, and shown with the item from then on.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Report;
use super::measure::Measured;

/// Of an item and a directory the last one is kept, and no more than this in all.
const EFFECTS_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    pub item: String,
    pub dir: PathBuf,
    pub before: Measured,
    pub after: Measured,
}

pub struct Effects {
    path: PathBuf,
    all: Vec<Effect>,
}

impl Effects {
    /// Those beside a record; none where there is no file yet.
    pub fn beside(record: &Path) -> io::Result<Effects> {
        let path = record.with_file_name("effects.json");
        let all = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Effects { path, all })
    }

    pub fn add(&mut self, effect: Effect) {
        self.all.retain(|known| (&known.item, &known.dir) != (&effect.item, &effect.dir));
        self.all.push(effect);
        let surplus = self.all.len().saturating_sub(EFFECTS_MAX);
        self.all.drain(..surplus);
    }

    /// Written whole beside the old file and put in its place.
    pub fn save(&self) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let new = self.path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&self.all)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }

    pub fn of<'e>(&'e self, item: &'e str) -> impl Iterator<Item = &'e Effect> {
        self.all.iter().filter(move |effect| effect.item == item)
    }

    /// Puts them into what was found.
    pub fn attach(&self, reports: &mut [Report]) {
        for report in reports {
            report.measured = self.of(report.item).map(Effect::to_string).collect();
        }
    }
}

impl std::fmt::Display for Effect {
    /// `/data: write, 1 MiB x 4 500 to 520 MB/s (+4.0 %), …`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.dir.display())?;
        let rows = self.before.rows().into_iter().zip(self.after.rows());
        for (index, ((name, old, unit), (_, new, _))) in rows.enumerate() {
            let comma = if index == 0 { " " } else { "; " };
            let change = (new / old - 1.0) * 100.0;
            write!(f, "{comma}{name}: {old:.0} to {new:.0} {unit} ({change:+.1} %)")?;
        }
        Ok(())
    }
}
