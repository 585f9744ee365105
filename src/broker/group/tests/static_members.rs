use super::*;

fn describe_leader(w: &World) -> String {
    w.coordinator.active("g").unwrap().groups["g"].classic.leader.as_deref().unwrap().to_string()
}

#[test]
fn a_restarted_member_takes_its_place_without_a_rebalance() {
    let mut w = World::new();
    let mut members = [Member::fixed("g", "one"), Member::fixed("g", "two")];
    w.stable(&mut members);
    let generation = w.generation("g");
    let leader = describe_leader(&w);
    let follower = members.iter().position(|member| member.id != leader).unwrap();
    let old = members[follower].clone();
    let ticket = w.join(&Member { id: String::new(), ..old.clone() });
    let joined = w.joined(&mut members[follower], ticket);
    assert_ne!(joined.member_id, old.id);
    assert!(joined.member_id.starts_with(old.instance_id.unwrap()));
    assert_eq!((joined.generation_id, joined.skip_assignment, joined.members.len()), (generation, false, 0));
    let ticket = w.sync(&members[follower], &[]);
    assert_eq!(w.synced(ticket), follower.to_string());
    assert_eq!((w.state("g"), w.generation("g")), ("Stable", generation));
    // The old id is fenced.
    assert_eq!(w.heartbeat(&old), ErrorCode::FencedInstanceId);
    assert_eq!(w.heartbeat(&members[follower]), ErrorCode::None);
    let ticket = w.commit_as(&old, &[("orders", 0, 1)]);
    assert_eq!(w.committed(ticket), vec![ErrorCode::FencedInstanceId.code()]);
}

#[test]
fn a_restarted_leader_is_told_not_to_assign() {
    let mut w = World::new();
    let mut members = [Member::fixed("g", "one"), Member::fixed("g", "two")];
    w.stable(&mut members);
    let leader = describe_leader(&w);
    let old = members.iter().find(|member| member.id == leader).unwrap().clone();
    let mut new = Member { id: String::new(), ..old };
    let ticket = w.join(&new);
    let joined = w.joined(&mut new, ticket);
    assert_eq!(
        (joined.leader.as_ref(), joined.skip_assignment, joined.members.len()),
        (new.id.as_str(), true, 2)
    );
    // Before version 9 it is told that the old id leads, so that it does not assign either.
    let again = Member { id: String::new(), ..new.clone() };
    let ticket = w.send(&again.join_request(), 8);
    let joined = w.joined(&mut new.clone(), ticket);
    assert_eq!((joined.leader.as_ref(), joined.members.len()), (new.id.as_str(), 0));
    assert_ne!(joined.leader, joined.member_id);
}

#[test]
fn a_changed_protocol_means_a_rebalance() {
    let mut w = World::new();
    let mut members = [Member::fixed("g", "one")];
    w.stable(&mut members);
    let mut new = Member { id: String::new(), ..members[0].clone() };
    new.protocols.insert(0, ("sticky", subscription(&["orders"])));
    // Alone in the group, it decides the protocol of the next generation; it has to know the present one as well.
    let ticket = w.join(&new);
    w.pass(0);
    let joined = w.joined(&mut new, ticket);
    assert_eq!((joined.generation_id, joined.protocol_name.as_deref()), (2, Some("sticky")));
}

#[test]
fn silence_for_less_than_a_session_means_nothing() {
    let mut w = World::new();
    let mut members = [Member::fixed("g", "one"), Member::fixed("g", "two")];
    w.stable(&mut members);
    let generation = w.generation("g");
    w.pass(9_000);
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::None);
    let ticket = w.join(&Member { id: String::new(), ..members[1].clone() });
    w.joined(&mut members[1], ticket);
    assert_eq!(w.generation("g"), generation);
    w.pass(9_999);
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::None);
    w.pass(1);
    // Nothing more came from the second: now it is out.
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::RebalanceInProgress);
}

#[test]
fn static_members_that_do_not_rejoin_stay_until_their_session_ends() {
    let mut w = World::new();
    let mut members = [Member { session_ms: 60_000, ..Member::fixed("g", "one") }, Member::fixed("g", "two")];
    w.stable(&mut members);
    let [one, mut two] = members;
    two.protocols[0].1 = subscription(&["audit"]);
    let ticket = w.join(&two);
    w.pass(i64::from(REBALANCE_MS));
    assert_eq!(w.joined(&mut two, ticket).generation_id, w.generation("g"));
    // It has missed the generation, yet is a member.
    assert_eq!(w.heartbeat(&one), ErrorCode::IllegalGeneration);
}

#[test]
fn two_with_one_instance_id_fence_each_other() {
    let mut w = World::new();
    let mut first = Member::fixed("g", "one");
    let ticket = w.join(&first);
    w.pass(0);
    w.joined(&mut first, ticket);
    let mut second = Member::fixed("g", "one");
    // While the assignment is open the newcomer makes a rebalance, and the first one's sync is fenced.
    let sync = {
        w.prompt = false;
        w.sync(&first, &[(&first, "x")])
    };
    let ticket = w.join(&second);
    let response: SyncGroupResponse<'_> = w.answer(sync);
    assert_eq!(response.error_code, ErrorCode::FencedInstanceId.code());
    w.joined(&mut second, ticket);
    let ticket = w.join(&first);
    let response: JoinGroupResponse<'_> = w.answer(ticket);
    assert_eq!(response.error_code, ErrorCode::FencedInstanceId.code());
}

#[test]
fn an_administrator_removes_by_instance_id() {
    let mut w = World::new();
    let mut members = [Member::fixed("g", "one"), Member::fixed("g", "two")];
    w.stable(&mut members);
    let identity = |instance_id: Option<&'static str>, member_id: &str| MemberIdentity {
        member_id: member_id.to_string().into(),
        group_instance_id: instance_id.map(Into::into),
        reason: None,
    };
    let left = w.leave_all(
        "g",
        vec![
            identity(Some("one"), ""),
            identity(Some("nobody"), ""),
            identity(None, ""),
            identity(Some("two"), "somebody-else"),
            identity(None, "unknown"),
        ],
    );
    let errors: Vec<_> = left.iter().map(|(_, error)| ErrorCode::from_code(*error).unwrap()).collect();
    use ErrorCode::{FencedInstanceId, UnknownMemberId};
    assert_eq!(
        errors,
        [ErrorCode::None, UnknownMemberId, UnknownMemberId, FencedInstanceId, UnknownMemberId]
    );
    assert_eq!(w.heartbeat(&members[0]), UnknownMemberId);
    assert_eq!(w.heartbeat(&members[1]), ErrorCode::RebalanceInProgress);
}

#[test]
fn an_id_that_cannot_be_written_is_taken_back() {
    let mut w = World::new();
    let mut members = [Member::fixed("g", "one")];
    w.stable(&mut members);
    w.prompt = false;
    let ticket = w.join(&Member { id: String::new(), ..members[0].clone() });
    assert!(w.is_waiting(ticket));
    w.fail(ErrorCode::KafkaStorageError);
    let response: JoinGroupResponse<'_> = w.answer(ticket);
    assert_eq!((response.error_code, &*response.member_id), (ErrorCode::NotCoordinator.code(), ""));
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::None);
    assert_eq!(w.state("g"), "Stable");
}
