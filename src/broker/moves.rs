//! Partitions on their way to another log directory. The storage of the shard that owns one copies it; where it is, the cluster's
//! metadata decides: when the copy is complete the owner asks shard 0 to place the partition, and the image that comes back tells the
//! storage to go on there. Shard 0 also remembers where partitions are to be that do not exist yet.

use std::collections::BTreeMap;

use super::mail::{Mail, MoveMail, Place, PreferDir};
use super::request::Head;
use super::{Broker, CONTROL_SHARD};
use crate::io::Io;
use crate::metadata::{Change, ClusterImage, NewPartition};
use crate::protocol::Uuid;
use crate::storage::LogId;

/// Partitions to come that a directory is remembered for.
const PREFERRED_DIRS_MAX: usize = 10_000;

/// Log directories asked for partitions that do not exist yet: by topic and partition, the directory's id. In memory only, as in
/// Kafka.
#[derive(Debug, Default)]
pub(super) struct PreferredDirs(BTreeMap<String, BTreeMap<i32, Uuid>>);

impl PreferredDirs {
    fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Puts the partitions that a change makes where they were asked for; each wish counts once.
    pub fn apply(&mut self, latest: &ClusterImage, live: &[Uuid], change: &mut Change) {
        if self.0.is_empty() {
            return;
        }
        let (name, first, partitions): (&str, i32, &mut Vec<NewPartition>) = match change {
            Change::CreateTopic(new) => (&new.name, 0, &mut new.partitions),
            Change::AddPartitions { topic_id, first, partitions } => {
                let Some(topic) = latest.topic_by_id(*topic_id) else { return };
                (&topic.name, *first, partitions)
            }
            _ => return,
        };
        let Some(wishes) = self.0.get_mut(name) else { return };
        for (index, new) in (first..).zip(partitions) {
            if let Some(directory) = wishes.remove(&index).filter(|directory| live.contains(directory)) {
                new.directory = directory;
            }
        }
        if wishes.is_empty() {
            self.0.remove(name);
        }
    }
}

impl Broker {
    /// What all moves of this shard together may copy.
    pub fn configure_moves(&mut self, bytes_per_second: f64) {
        self.storage.set_move_rate(bytes_per_second);
    }

    /// Goes on with the moves that the end of the run before cut off. At start.
    pub fn resume_moves(&mut self, io: &mut impl Io, moves: &[(Uuid, i32, usize)]) {
        for &(topic_id, index, dir) in moves {
            let Some(partition) = self.partitions.find(topic_id, index) else { continue };
            let log = partition.log;
            if let Err(error) = self.storage.move_log(io, log, dir) {
                tracing::error!(%topic_id, partition = index, %error, "a move between log directories does not go on");
            }
        }
    }

    pub(super) fn move_mail(&mut self, io: &mut impl Io, from: usize, mail: MoveMail) {
        match mail {
            MoveMail::Place(place) => self.place(io, from, place),
            MoveMail::Refused { place, certain } => self.place_refused(io, place, certain),
            MoveMail::Prefer(prefer) => self.prefer_dir(*prefer),
        }
    }

    /// The owner's part: a copy is complete.
    pub(super) fn move_ready(&mut self, io: &mut impl Io, log: LogId, dir: usize) {
        let Some(partition) = self.partitions.of_log(log) else { return };
        let place = Place { topic_id: partition.topic_id, partition: partition.partition, dir };
        if self.shard == CONTROL_SHARD {
            self.place(io, self.shard, place);
        } else {
            self.post.mail.push_back((CONTROL_SHARD, Mail::Move(MoveMail::Place(place))));
        }
    }

    /// Shard 0's: writes down where the partition is.
    pub(super) fn place(&mut self, io: &mut impl Io, owner: usize, place: Place) {
        let Some(controller) = &self.controller else { return };
        let latest = controller.metadata().latest();
        let known = latest.topic_by_id(place.topic_id).and_then(|topic| topic.partition(place.partition));
        let (Some(known), Some(directory)) = (known, self.dir_ids.get(place.dir).copied()) else {
            return self.refuse_place(io, owner, place);
        };
        let Place { topic_id, partition, .. } = place;
        let change = Change::PlacePartition { topic_id, partition, directory, shard: known.shard };
        let refused = move |broker: &mut Broker, results: Vec<Result<(), super::controller::AdminError>>| {
            if let Some(Err(error)) = results.into_iter().next() {
                tracing::error!(%topic_id, partition, error = error.message, "a partition's new directory was not written down");
                broker.post_refusal(owner, place);
            }
            None
        };
        self.change(io, (CONTROL_SHARD, Head::of_nobody()), vec![Ok(change)], Box::new(refused));
    }

    fn refuse_place(&mut self, io: &mut impl Io, owner: usize, place: Place) {
        if owner == self.shard {
            self.place_refused(io, place, true);
        } else {
            self.post_refusal(owner, place);
        }
    }

    fn post_refusal(&mut self, owner: usize, place: Place) {
        let unsure = self.controller.as_ref().is_some_and(|at| at.metadata().failure().is_some());
        self.post.mail.push_back((owner, Mail::Move(MoveMail::Refused { place, certain: !unsure })));
    }

    /// The owner's again: the partition stays where it is.
    pub(super) fn place_refused(&mut self, io: &mut impl Io, place: Place, certain: bool) {
        if let Some(partition) = self.partitions.find(place.topic_id, place.partition) {
            let log = partition.log;
            self.storage.move_refused(io, log, certain);
        }
    }

    /// Remembers where a partition is to be that does not exist yet.
    pub(super) fn prefer_dir(&mut self, prefer: PreferDir) {
        let Some(directory) = self.dir_ids.get(prefer.dir).copied() else { return };
        let Some(controller) = &mut self.controller else { return };
        let wishes = &mut controller.preferred_dirs;
        if wishes.len() < PREFERRED_DIRS_MAX {
            wishes.0.entry(prefer.topic).or_default().insert(prefer.partition, directory);
        }
    }
}
