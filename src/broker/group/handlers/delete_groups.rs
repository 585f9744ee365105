//! DeleteGroups, versions 0 to 2. While its deletion is being written a group counts as dead: who comes to it is told to
//! try again, where Kafka lets it come into being anew at once.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::protocol::messages::delete_groups_request::DeleteGroupsRequest;
use crate::protocol::messages::delete_groups_response::{DeletableGroupResult, DeleteGroupsResponse};
use crate::protocol::{DecodeError, ErrorCode, Message};

use crate::broker::group::appends::Response;
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::turn::Turn;
use crate::broker::group::{AppendId, Effect, GroupRequest, Now};

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = DeleteGroupsRequest::decode_exact(request.body, request.version)?;
    let mut response = DeleteGroupsResponse::default();
    let mut appends = Vec::new();
    let mut seen = BTreeSet::new();
    for group_id in message.groups_names.iter() {
        if !seen.insert(group_id.clone()) {
            continue;
        }
        let result = match coordinator.serve(now, &group_id, out) {
            Ok((mut turn, partition)) => turn.delete_group(partition, &group_id),
            Err(error) => Err(error),
        };
        let error = match result {
            Ok(written) => {
                appends.extend(written);
                ErrorCode::None
            }
            Err(error) => error,
        };
        let group_id = Cow::Owned(group_id.into_owned());
        response.results.push(DeletableGroupResult { group_id, error_code: error.code() });
    }
    let response = Response::DeleteGroups(response);
    coordinator.appends().answer_after(&appends, request.waiting(), response, out);
    Ok(())
}

impl Turn<'_> {
    fn delete_group(
        &mut self,
        partition: &mut Partition,
        group_id: &str,
    ) -> Result<Vec<AppendId>, ErrorCode> {
        let group = partition.groups.get_mut(group_id).ok_or(ErrorCode::GroupIdNotFound)?;
        if group.is_dead() {
            return Err(ErrorCode::GroupIdNotFound);
        }
        if !group.is_empty() {
            return Err(ErrorCode::NonEmptyGroup);
        }
        let offsets = group.offsets.latest_keys();
        let appends = self.append_tombstones(group, &offsets, true);
        self.account(group);
        appends
    }
}
