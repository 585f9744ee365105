//! Offsets that are part of transactions: which producers have committed where, and the markers that end their transactions.
//!
//! The marker goes into the partition's log in the order of its appends, so that what a replay finds before it is what was
//! committed before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::appends::{Pending, Then};
use super::coordinator::{GroupCoordinator, Partition};
use super::turn::Turn;
use super::{AppendId, Effect, Now, ReplyTo};
use crate::broker::transaction::Marker;
use crate::protocol::ErrorCode;

/// Group, topic, partition.
type OffsetKey = (Arc<str>, Arc<str>, i32);

/// Where open transactions of a partition have committed offsets; the offsets themselves are with their groups.
#[derive(Debug, Default)]
pub struct Transactions {
    open: BTreeMap<i64, BTreeSet<OffsetKey>>,
}

impl Transactions {
    pub fn note(&mut self, producer_id: i64, key: OffsetKey) {
        self.open.entry(producer_id).or_default().insert(key);
    }
}

/// How an append belongs to a transaction.
#[derive(Clone, Copy, Debug)]
pub enum OfTransaction {
    Offsets {
        producer_id: i64,
    },
    /// It is the marker, and this is who waits for it.
    End {
        marker: Marker,
        to: ReplyTo,
    },
}

impl Partition {
    /// A producer's transaction has ended: what it committed counts now, or never will.
    pub fn end_transaction(&mut self, producer_id: i64, commit: bool) -> BTreeSet<Arc<str>> {
        let mut touched = BTreeSet::new();
        for (group, topic, index) in self.transactions.open.remove(&producer_id).into_iter().flatten() {
            if let Some(group) = self.groups.get_mut(&group) {
                group.offsets.end_open(&topic, index, producer_id, commit);
                touched.insert(group.id.clone());
            }
        }
        touched
    }
}

impl GroupCoordinator {
    /// Has a marker written to a partition of `__consumer_offsets`; [`Effect::Marked`] tells what became of it.
    pub fn end_transaction(
        &mut self,
        now: Now,
        partition: i32,
        marker: Marker,
        to: ReplyTo,
        out: &mut Vec<Effect>,
    ) {
        let refused = match self.turn(now, partition, out) {
            None => Some(ErrorCode::NotLeaderOrFollower),
            Some((_, partition)) if partition.loading => Some(ErrorCode::NotLeaderOrFollower),
            Some((turn, _)) => {
                let mut pending = Pending::new(turn.partition, Then::Nothing);
                pending.transaction = Some(OfTransaction::End { marker, to });
                let append = turn.appends.begin(pending);
                let (partition, durable) = (turn.partition, turn.config.durable);
                turn.out.push(Effect::AppendMarker { partition, append, marker, durable });
                None
            }
        };
        if let Some(error) = refused {
            out.push(Effect::Marked { to, result: Err(error) });
        }
    }
}

impl Turn<'_> {
    /// Transactional offsets, or the marker that ends them, are in the log or not.
    pub fn transaction_appended(
        &mut self,
        partition: &mut Partition,
        pending: &Pending,
        of: OfTransaction,
        append: AppendId,
        result: Result<i64, ErrorCode>,
    ) {
        match (of, result) {
            (OfTransaction::Offsets { producer_id }, result) => {
                let mut touched = BTreeSet::new();
                for change in &pending.offsets {
                    let Some(group) = partition.groups.get_mut(&change.group) else { continue };
                    let (topic, index) = (&change.topic, change.partition);
                    match result {
                        Ok(base_offset) => {
                            let record_offset = base_offset + i64::from(change.index);
                            group.offsets.confirm_open(topic, index, append, record_offset);
                            let key = (group.id.clone(), topic.clone(), index);
                            partition.transactions.note(producer_id, key);
                        }
                        Err(_) => group.offsets.abandon_open(topic, index, append),
                    }
                    touched.insert(group.id.clone());
                }
                self.account_all(partition, &touched);
            }
            (OfTransaction::End { marker, .. }, Ok(_)) => {
                let touched = partition.end_transaction(marker.producer_id, marker.commit);
                self.account_all(partition, &touched);
            }
            (OfTransaction::End { .. }, Err(_)) => {}
        }
    }

    fn account_all(&mut self, partition: &mut Partition, groups: &BTreeSet<Arc<str>>) {
        for id in groups {
            if let Some(group) = partition.groups.get_mut(id) {
                self.account(group);
            }
        }
    }
}

/// Tells who asked for a marker what became of it.
pub fn tell_ended(pending: &Pending, result: Result<(), ErrorCode>, out: &mut Vec<Effect>) {
    if let Some(OfTransaction::End { to, .. }) = pending.transaction {
        out.push(Effect::Marked { to, result });
    }
}
