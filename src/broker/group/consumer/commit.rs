//! Who may commit and fetch offsets in a consumer group.

use super::group::ConsumerGroup;
use super::member::Member;
use crate::protocol::{ErrorCode, Uuid};

/// From this version of OffsetCommit on a member's epoch goes along.
const MEMBER_EPOCH_VERSION: i16 = 9;

/// What a commit may hold: all, or what its member had in that epoch.
pub struct CommitCheck<'g>(Option<(&'g Member, i32)>);

impl ConsumerGroup {
    /// A commit by a member, or by anybody while there are none. Without a version it is one in a transaction.
    pub fn validate_commit(
        &self,
        member_id: &str,
        epoch: i32,
        version: Option<i16>,
    ) -> Result<CommitCheck<'_>, ErrorCode> {
        if epoch < 0 && self.is_empty() {
            return Ok(CommitCheck(None));
        }
        let member = self.member(member_id).ok_or(ErrorCode::UnknownMemberId)?;
        if version.is_some_and(|version| version < MEMBER_EPOCH_VERSION) && !member.uses_classic_protocol() {
            return Err(ErrorCode::UnsupportedVersion);
        }
        match epoch.cmp(&member.current.epoch) {
            std::cmp::Ordering::Equal => Ok(CommitCheck(None)),
            std::cmp::Ordering::Greater => Err(stale(member)),
            std::cmp::Ordering::Less => Ok(CommitCheck(Some((member, epoch)))),
        }
    }

    pub fn validate_fetch(&self, member_id: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        let member_id = match member_id {
            Some(member_id) => member_id,
            None if epoch < 0 => return Ok(()),
            None => return Err(ErrorCode::UnknownServerError),
        };
        let member = self.member(member_id).ok_or(ErrorCode::UnknownMemberId)?;
        if epoch == member.current.epoch { Ok(()) } else { Err(stale(member)) }
    }
}

impl CommitCheck<'_> {
    /// A member that is behind may still commit what it has had since.
    pub fn allows(&self, topic: Uuid, partition: i32) -> Result<(), ErrorCode> {
        let Some((member, epoch)) = self.0 else { return Ok(()) };
        let given = |partitions: &super::assignment::PartitionEpochs| {
            partitions.get(&topic).and_then(|epochs| epochs.get(&partition)).copied()
        };
        let given = given(&member.current.assigned).or_else(|| given(&member.current.revoking));
        if given.is_some_and(|given| epoch >= given) { Ok(()) } else { Err(stale(member)) }
    }
}

/// The wrong epoch, as the member's protocol calls it.
fn stale(member: &Member) -> ErrorCode {
    match member.uses_classic_protocol() {
        true => ErrorCode::IllegalGeneration,
        false => ErrorCode::StaleMemberEpoch,
    }
}
