//! What a change did on this host: each data directory measured before and after each item that `ringlog tune apply --measure`
//! changed, kept beside the record of old values, and shown with the item from then on.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::measure::Measured;
use super::{Report, kept};

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
        let all = kept::load(&path)?;
        Ok(Effects { path, all })
    }

    pub fn add(&mut self, effect: Effect) {
        self.all.retain(|known| (&known.item, &known.dir) != (&effect.item, &effect.dir));
        self.all.push(effect);
        let surplus = self.all.len().saturating_sub(EFFECTS_MAX);
        self.all.drain(..surplus);
    }

    pub fn save(&self) -> io::Result<()> {
        kept::save(&self.path, &self.all)
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
