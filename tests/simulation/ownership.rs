//! Who has which partition in the groups of the newer protocol: never two members at once. A member has what it was told to
//! have until it says that it has given it up, leaves, or may have been taken for dead.

use std::collections::BTreeMap;

use super::history::Place;
use super::log_model::{Verdict, ensure};

#[derive(Default)]
pub struct Ownership {
    held: BTreeMap<(String, Place), Hold>,
}

#[derive(Clone)]
pub struct Hold {
    pub member: String,
    pub epoch: i32,
    /// The life of the broker that knows of it.
    pub life: u32,
    /// When it asked, and from when on it has what it has.
    pub asked_ns: u64,
    pub since_ns: u64,
    /// Before, the broker must not take the member for dead.
    pub until_ns: u64,
}

impl Ownership {
    /// A member was told that it is to have these, and has all it had before for longer.
    pub fn told(&mut self, group: &str, places: &[Place], hold: &Hold, now_ns: u64) -> Verdict {
        for held in self.held.iter_mut().filter(|((of, _), held)| of == group && held.member == hold.member) {
            *held.1 = Hold { since_ns: held.1.since_ns, ..hold.clone() };
        }
        for place in places {
            let held = self.held.entry((group.to_string(), *place)).or_insert_with(|| hold.clone());
            if held.member == hold.member {
                continue;
            }
            // An answer may lie for long before it is read: what it says was so at some time since it was asked for.
            let other = held.life == hold.life && hold.asked_ns >= held.since_ns && now_ns < held.until_ns;
            ensure!(
                !other,
                "two owners: {place:?} of {group} is given to {} at {}, and {} has it since {}",
                hold.member,
                hold.epoch,
                held.member,
                held.epoch
            );
            if hold.until_ns > held.until_ns {
                *held = hold.clone();
            }
        }
        Ok(())
    }

    /// A member gives up all that it does not keep.
    pub fn keeps(&mut self, group: &str, member: &str, kept: impl Fn(&Place) -> bool) {
        self.held.retain(|(of, place), held| of != group || held.member != member || kept(place));
    }
}

/// What nobody has, or more than one: of each partition that a group wants and what its members have.
pub fn unshared(wanted: &[Place], owned: &[Place]) -> Vec<Place> {
    let count = |place: &&Place| owned.iter().filter(|own| own == place).count();
    wanted.iter().filter(|place| count(place) != 1).copied().collect()
}
