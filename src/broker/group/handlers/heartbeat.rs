//! Heartbeat, versions 0 to 4.

use crate::protocol::messages::heartbeat_request::HeartbeatRequest;
use crate::protocol::messages::heartbeat_response::HeartbeatResponse;
use crate::protocol::{DecodeError, ErrorCode, Message};

use crate::broker::group::classic::State;
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::turn::Turn;
use crate::broker::group::{Effect, GroupRequest, Now};

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = HeartbeatRequest::decode_exact(request.body, request.version)?;
    let error = if message.group_id.is_empty() {
        ErrorCode::InvalidGroupId
    } else {
        match coordinator.serve(now, &message.group_id, out) {
            Ok((mut turn, partition)) => turn.heartbeat(partition, &message).err().unwrap_or(ErrorCode::None),
            // Nothing is known of the member yet: it had better not give up.
            Err(ErrorCode::CoordinatorLoadInProgress) => ErrorCode::None,
            Err(error) => error,
        }
    };
    let response = HeartbeatResponse { error_code: error.code(), ..HeartbeatResponse::default() };
    out.push(Effect::Reply { to: request.to, body: response.to_bytes(request.version) });
    Ok(())
}

impl Turn<'_> {
    fn heartbeat(
        &mut self,
        partition: &mut Partition,
        message: &HeartbeatRequest<'_>,
    ) -> Result<(), ErrorCode> {
        let group = partition.groups.get(&*message.group_id).ok_or(ErrorCode::UnknownMemberId)?;
        if group.is_dead() {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if group.consumer.is_some() {
            let (member_id, instance_id) = (&*message.member_id, message.group_instance_id.as_deref());
            return self
                .heartbeat_consumer_group(group, member_id, instance_id, message.generation_id)
                .map_err(|refusal| refusal.error);
        }
        group.classic.validate_member(&message.member_id, message.group_instance_id.as_deref())?;
        if message.generation_id != group.classic.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.renew_session(group, &message.member_id);
        match group.classic.state() {
            State::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            _ => Ok(()),
        }
    }
}
