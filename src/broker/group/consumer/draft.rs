//! What a request changes in a group, on its way into the log: made at once, undone if the request is refused half-way or
//! its records never get there.

use std::sync::Arc;

use super::group::{Change, ConsumerGroup};
use crate::broker::group::appends::{Pending, Then, coordinator_error};
use crate::broker::group::classic::ClassicGroup;
use crate::broker::group::coordinator::Partition;
use crate::broker::group::entry::Group;
use crate::broker::group::records::BatchWriter;
use crate::broker::group::turn::Turn;
use crate::broker::group::{AppendId, Now};
use crate::protocol::ErrorCode;

/// Why a request is refused; clients see both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub error: ErrorCode,
    pub message: Option<String>,
}

impl Refusal {
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Refusal { error, message: Some(message.into()) }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Self {
        Refusal { error, message: None }
    }
}

/// The way back from one change.
#[derive(Debug)]
pub enum Undo {
    Change(Change),
    /// The group spoke the other protocol: what it was.
    Protocol(Box<ClassicGroup>, Option<Box<ConsumerGroup>>),
}

impl Undo {
    /// Goes it, and hands back the way forward again.
    fn apply(self, group: &mut Group) -> Undo {
        match self {
            Undo::Change(change) => match &mut group.consumer {
                Some(consumer) => {
                    consumer.checked_version = None;
                    Undo::Change(consumer.apply(change))
                }
                // The conversion that this one followed has been undone before.
                None => Undo::Change(change),
            },
            Undo::Protocol(mut classic, mut consumer) => {
                std::mem::swap(&mut group.classic, &mut classic);
                std::mem::swap(&mut group.consumer, &mut consumer);
                Undo::Protocol(classic, consumer)
            }
        }
    }
}

/// Goes all the way back, and hands back the way forward.
pub fn undo(group: &mut Group, undo: Vec<Undo>) -> Vec<Undo> {
    undo.into_iter().rev().map(|undo| undo.apply(group)).collect()
}

fn converts(undo: &[Undo]) -> bool {
    undo.iter().any(|undo| !matches!(undo, Undo::Change(_)))
}

/// The changes of one request.
pub struct Draft {
    pub batch: BatchWriter,
    undo: Vec<Undo>,
}

impl Draft {
    pub fn new(now: Now) -> Self {
        Draft { batch: BatchWriter::new(now.wall_ms), undo: Vec::new() }
    }

    /// Changes the group and writes it down.
    pub fn change(&mut self, group: &mut Group, change: Change) {
        self.batch.change(&group.id, &change);
        if let Some(consumer) = &mut group.consumer {
            self.undo.push(Undo::Change(consumer.apply(change)));
        }
    }

    /// From now on the group speaks the newer protocol; what it was in the classic one is handed to the way back.
    pub fn make_consumer(&mut self, group: &mut Group, consumer: ConsumerGroup) {
        let shell = Box::new(ClassicGroup::new(0));
        self.undo.push(Undo::Protocol(shell, Some(Box::new(consumer))).apply(group));
    }

    pub fn make_classic(&mut self, group: &mut Group, classic: ClassicGroup) {
        self.undo.push(Undo::Protocol(Box::new(classic), None).apply(group));
    }

    /// The request is refused: nothing has happened. True if the group is back at another protocol.
    pub fn roll_back(self, group: &mut Group) -> bool {
        let converts = converts(&self.undo);
        undo(group, self.undo);
        converts
    }
}

impl Turn<'_> {
    /// Hands the changes to the log. None if there are none.
    pub fn append_draft(&mut self, group: &mut Group, draft: Draft) -> Result<Option<AppendId>, ErrorCode> {
        if draft.batch.is_empty() {
            return Ok(None);
        }
        let then = Then::Consumer { group: group.id.clone(), undo: draft.undo };
        match self.append(draft.batch, Pending::new(self.partition, then)) {
            Ok(append) => Ok(Some(append)),
            Err((error, then)) => {
                if let Then::Consumer { undo: changes, .. } = then {
                    undo(group, changes);
                }
                Err(coordinator_error(error))
            }
        }
    }

    /// The records of an append never came into the log: the group is what it would be if they had never been made, with
    /// those made since on top, as the log will have it.
    pub fn draft_failed(
        &mut self,
        partition: &mut Partition,
        append: AppendId,
        id: &Arc<str>,
        failed: Vec<Undo>,
    ) {
        let Some(group) = partition.groups.get_mut(id) else { return };
        if group.consumer.is_none() && converts(&failed) {
            // It became a classic group, and members may be waiting in it.
            self.fail_waiting(group, ErrorCode::CoordinatorNotAvailable);
        }
        let mut later = self.appends.later_drafts(append, id);
        let converts = converts(&failed) || later.iter().any(|draft| converts(draft));
        let mut forward = Vec::new();
        while let Some(draft) = later.pop() {
            forward.push((undo(group, std::mem::take(draft)), draft));
        }
        undo(group, failed);
        for (changes, draft) in forward.into_iter().rev() {
            *draft = undo(group, changes);
        }
        if converts {
            self.protocol_changed(group);
        }
        if let Some(consumer) = &mut group.consumer {
            consumer.recount();
        }
        self.ensure_sessions(group);
        self.account(group);
        if group.is_blank() {
            self.forget_group(partition, id);
        }
    }

    /// A group of which nothing is in the log.
    pub fn forget_group(&mut self, partition: &mut Partition, id: &str) {
        if let Some(group) = partition.groups.remove(id) {
            self.usage.groups -= 1;
            self.usage.bytes -= group.accounted;
        }
    }
}
