use super::*;

#[test]
fn one_member_joins_syncs_and_leaves() {
    let mut w = World::new();
    let mut a = Member::new("g");
    let first: JoinGroupResponse<'_> = {
        let ticket = w.join(&a);
        w.answer(ticket)
    };
    assert_eq!(first.error_code, ErrorCode::MemberIdRequired.code());
    assert!(first.member_id.starts_with("app-") && first.member_id.len() == "app-".len() + 36);
    assert_eq!((first.generation_id, first.protocol_name), (-1, None));
    assert_eq!(w.state("g"), "Empty");

    a.id = first.member_id.into_owned();
    let ticket = w.join(&a);
    assert_eq!(w.state("g"), "PreparingRebalance");
    w.pass(0);
    let joined = w.joined(&mut a, ticket);
    assert_eq!((joined.generation_id, &*joined.leader, joined.members.len()), (1, a.id.as_str(), 1));
    assert_eq!(joined.members.first().unwrap().metadata, a.protocols[0].1);
    assert_eq!(w.state("g"), "CompletingRebalance");

    let ticket = w.sync(&a, &[(&a, "all")]);
    assert_eq!(w.synced(ticket), "all");
    assert_eq!(w.state("g"), "Stable");
    assert_eq!(w.heartbeat(&a), ErrorCode::None);

    assert_eq!(w.leave(&a), vec![(a.id.clone(), 0)]);
    assert_eq!((w.state("g"), w.generation("g")), ("Empty", 2));
    assert_eq!(w.heartbeat(&a), ErrorCode::UnknownMemberId);
}

#[test]
fn the_first_join_phase_waits_for_others() {
    let mut w = World::with(GroupConfig { initial_rebalance_delay_ms: 3_000, ..GroupConfig::default() });
    let (mut a, mut b) = (Member::new("g"), Member::new("g"));
    let first = w.join_anew(&mut a);
    w.pass(2_000);
    let second = w.join_anew(&mut b);
    // The second prolongs it once: 3 s, then another 3 s.
    w.pass(3_999);
    assert!(w.is_waiting(first) && w.is_waiting(second));
    w.pass(1);
    assert_eq!(w.joined(&mut a, first).generation_id, 1);
    assert_eq!(w.joined(&mut b, second).generation_id, 1);
}

#[test]
fn the_first_join_phase_is_not_longer_than_the_rebalance_timeout() {
    let mut w = World::with(GroupConfig { initial_rebalance_delay_ms: 3_000, ..GroupConfig::default() });
    let member = || Member { rebalance_ms: 8_000, ..Member::new("g") };
    let mut a = member();
    let first = w.join_anew(&mut a);
    for _ in 0..7 {
        w.pass(1_000);
        w.join_anew(&mut member());
        assert!(w.is_waiting(first));
    }
    w.pass(1_000);
    assert_eq!(w.joined(&mut a, first).generation_id, 1);
}

#[test]
fn a_second_member_makes_the_first_rejoin() {
    let mut w = World::new();
    let mut members = [Member::new("g")];
    w.stable(&mut members);
    let [mut a] = members;
    let mut b = Member::new("g");
    let second = w.join_anew(&mut b);
    assert!(w.is_waiting(second));
    assert_eq!(w.state("g"), "PreparingRebalance");
    assert_eq!(w.heartbeat(&a), ErrorCode::RebalanceInProgress);
    let first = w.join(&a);
    let a_joined = w.joined(&mut a, first);
    let b_joined = w.joined(&mut b, second);
    assert_eq!(a_joined.generation_id, b_joined.generation_id);
    // The leader stays, and it alone is told who the members are.
    assert_eq!((a_joined.leader.as_ref(), a_joined.members.len()), (a.id.as_str(), 2));
    assert_eq!((b_joined.leader.as_ref(), b_joined.members.len()), (a.id.as_str(), 0));

    // The follower may ask first: it waits for the leader.
    let b_sync = w.sync(&b, &[]);
    assert!(w.is_waiting(b_sync));
    let a_sync = w.sync(&a, &[(&a, "left"), (&b, "right")]);
    assert_eq!((w.synced(a_sync), w.synced(b_sync)), ("left".into(), "right".into()));
}

#[test]
fn a_clean_leave_makes_one_rebalance_only() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::new("g"), Member::new("g")];
    w.stable(&mut members);
    let generation = w.generation("g");
    assert_eq!(w.leave(&members[0])[0].1, 0);
    assert_eq!(w.heartbeat(&members[1]), ErrorCode::RebalanceInProgress);
    w.settle(&mut members[1..]);
    assert_eq!((w.state("g"), w.generation("g")), ("Stable", generation + 1));
    for _ in 0..20 {
        w.pass(5_000);
        assert_eq!(w.heartbeat(&members[1]), ErrorCode::None);
        assert_eq!(w.heartbeat(&members[2]), ErrorCode::None);
    }
    assert_eq!(w.generation("g"), generation + 1);
}

#[test]
fn a_silent_member_is_dropped_after_its_session() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::new("g")];
    w.stable(&mut members);
    w.pass(i64::from(SESSION_MS) - 1);
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::None);
    w.pass(1);
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::RebalanceInProgress);
    assert_eq!(w.heartbeat(&members[1]), ErrorCode::UnknownMemberId);
    w.settle(&mut members[..1]);
    assert_eq!(w.state("g"), "Stable");
}

#[test]
fn commits_keep_a_session_alive() {
    let mut w = World::new();
    let mut members = [Member::new("g")];
    w.stable(&mut members);
    for offset in 0..5 {
        w.pass(i64::from(SESSION_MS) - 1);
        let ticket = w.commit_as(&members[0], &[("orders", 0, offset)]);
        assert_eq!(w.committed(ticket), vec![0]);
    }
}

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::new("g")];
    w.stable(&mut members);
    let [mut a, b] = members;
    let leader_gone = w.join(&a);
    // The other one heartbeats, so its session holds, but does not rejoin.
    for _ in 0..5 {
        w.pass(5_000);
        assert_eq!(w.heartbeat(&b), ErrorCode::RebalanceInProgress);
    }
    assert!(w.is_waiting(leader_gone));
    w.pass(5_000);
    assert_eq!(w.joined(&mut a, leader_gone).members.len(), 1);
    assert_eq!(w.heartbeat(&b), ErrorCode::UnknownMemberId);
}

#[test]
fn a_leader_that_does_not_rejoin_is_replaced() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::new("g")];
    w.stable(&mut members);
    let leader = w.coordinator.active("g").unwrap().groups["g"].classic.leader.clone().unwrap();
    let mut follower = members.iter().find(|member| *member.id != *leader).unwrap().clone();
    follower.protocols[0].1 = subscription(&["payments"]);
    let ticket = w.join(&follower);
    w.pass(i64::from(REBALANCE_MS));
    let joined = w.joined(&mut follower, ticket);
    assert_eq!((joined.leader.as_ref(), joined.members.len()), (follower.id.as_str(), 1));
}

#[test]
fn who_does_not_fetch_its_assignment_is_out() {
    let mut w = World::new();
    let (mut a, mut b) = (Member::new("g"), Member::new("g"));
    let (first, second) = (w.join_anew(&mut a), w.join_anew(&mut b));
    w.pass(0);
    let leader = w.joined(&mut a, first).leader.into_owned();
    w.joined(&mut b, second);
    let (leader, follower) = if leader == a.id { (a, b) } else { (b, a) };
    let ticket = w.sync(&leader, &[(&leader, "x"), (&follower, "y")]);
    assert_eq!(w.synced(ticket), "x");
    for _ in 0..5 {
        w.pass(5_000);
        assert_eq!((w.heartbeat(&leader), w.heartbeat(&follower)), (ErrorCode::None, ErrorCode::None));
    }
    w.pass(5_000);
    assert_eq!(w.heartbeat(&follower), ErrorCode::UnknownMemberId);
    assert_eq!(w.heartbeat(&leader), ErrorCode::RebalanceInProgress);
}

#[test]
fn joining_again_with_the_same_metadata_answers_the_generation() {
    let mut w = World::new();
    let (mut a, mut b) = (Member::new("g"), Member::new("g"));
    let (first, second) = (w.join_anew(&mut a), w.join_anew(&mut b));
    w.pass(0);
    let leader = w.joined(&mut a, first).leader.into_owned();
    w.joined(&mut b, second);
    let (mut leader, mut follower) = if leader == a.id { (a, b) } else { (b, a) };
    // The answer was lost: both ask again while the assignment is open.
    let ticket = w.join(&leader);
    assert_eq!(w.joined(&mut leader, ticket).members.len(), 2);
    let ticket = w.join(&follower);
    assert_eq!((w.joined(&mut follower, ticket).generation_id, w.state("g")), (1, "CompletingRebalance"));
    let tickets = [w.sync(&follower, &[]), w.sync(&leader, &[(&leader, "x"), (&follower, "y")])];
    assert_eq!(w.synced(tickets[0]), "y");
    // A follower of a stable group may, too; a leader means a rebalance.
    let ticket = w.join(&follower);
    assert_eq!((w.joined(&mut follower, ticket).generation_id, w.state("g")), (1, "Stable"));
    let ticket = w.sync(&follower, &[]);
    assert_eq!(w.synced(ticket), "y");
    let ticket = w.join(&leader);
    assert!(w.is_waiting(ticket));
    assert_eq!(w.state("g"), "PreparingRebalance");
}

#[test]
fn a_rebalance_ends_waiting_for_the_assignment() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::new("g")];
    w.stable(&mut members);
    let tickets = [w.join(&members[0]), w.join(&members[1])];
    let leader = w.joined(&mut members[0], tickets[0]).leader.into_owned();
    w.joined(&mut members[1], tickets[1]);
    let follower = members.iter().find(|member| member.id != leader).unwrap().clone();
    let waiting = w.sync(&follower, &[]);
    w.join_anew(&mut Member::new("g"));
    let response: SyncGroupResponse<'_> = w.answer(waiting);
    assert_eq!(response.error_code, ErrorCode::RebalanceInProgress.code());
}

#[test]
fn a_member_that_leaves_while_others_join_does_not_hold_them() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::new("g")];
    w.stable(&mut members);
    let mut c = Member::new("g");
    let third = w.join_anew(&mut c);
    let first = w.join(&members[0]);
    assert!(w.is_waiting(first) && w.is_waiting(third));
    w.leave(&members[1]);
    w.joined(&mut members[0], first);
    w.joined(&mut c, third);
}

#[test]
fn a_member_id_that_nobody_uses_holds_a_rebalance_for_a_session_only() {
    let mut w = World::new();
    let mut members = [Member::new("g")];
    w.stable(&mut members);
    w.join(&Member::new("g")); // told its id, never comes back
    let ticket = w.join(&members[0]);
    w.pass(i64::from(SESSION_MS) - 1);
    assert!(w.is_waiting(ticket));
    w.pass(1);
    w.joined(&mut members[0], ticket);
}

#[test]
fn old_clients_join_without_an_id() {
    let mut w = World::new();
    let mut a = Member::new("g");
    let ticket = w.send(&a.join_request(), 0);
    w.pass(0);
    assert_eq!(w.joined(&mut a, ticket).generation_id, 1);
    // Version 0 has one timeout for both.
    let classic = |w: &World| w.coordinator.active("g").unwrap().groups["g"].classic.clone();
    assert_eq!(classic(&w).rebalance_timeout_ms(), SESSION_MS);
    let ticket = w.send(&Member::new("g").join_request(), 3);
    assert!(w.is_waiting(ticket));
    assert_eq!(classic(&w).members().len(), 2);
}

#[test]
fn a_new_member_that_has_gone_is_dropped_after_five_minutes() {
    let mut w = World::new();
    let mut members = [Member { session_ms: 600_000, rebalance_ms: 600_000, ..Member::new("g") }];
    w.stable(&mut members);
    let ticket = w.send(&Member::new("g").join_request(), 3);
    w.pass(299_999);
    assert!(w.is_waiting(ticket));
    w.pass(1);
    let response: JoinGroupResponse<'_> = w.answer(ticket);
    assert_eq!(response.error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn most_members_decide_the_protocol() {
    let mut w = World::new();
    let with = |names: &[&'static str]| Member {
        protocols: names.iter().map(|name| (*name, subscription(&["orders"]))).collect(),
        ..Member::new("g")
    };
    let mut members =
        [with(&["range", "sticky", "x"]), with(&["sticky", "range"]), with(&["sticky", "y", "range"])];
    let tickets: Vec<_> = members.iter_mut().map(|member| w.join_anew(member)).collect();
    w.pass(0);
    for (member, ticket) in members.iter_mut().zip(tickets) {
        assert_eq!(w.joined(member, ticket).protocol_name.as_deref(), Some("sticky"));
    }
    let ticket = w.join(&with(&["x", "y"]));
    let response: JoinGroupResponse<'_> = w.answer(ticket);
    assert_eq!(response.error_code, ErrorCode::InconsistentGroupProtocol.code());
}

#[test]
fn nobody_hears_of_an_assignment_that_is_not_in_the_log() {
    let mut w = World::new();
    let mut a = Member::new("g");
    let ticket = w.join_anew(&mut a);
    w.pass(0);
    w.joined(&mut a, ticket);
    w.prompt = false;
    let ticket = w.sync(&a, &[(&a, "x")]);
    assert!(w.is_waiting(ticket));
    assert_eq!(w.state("g"), "CompletingRebalance");
    w.fail(ErrorCode::KafkaStorageError);
    let response: SyncGroupResponse<'_> = w.answer(ticket);
    assert_eq!(response.error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(w.state("g"), "PreparingRebalance");

    let ticket = w.join(&a);
    w.joined(&mut a, ticket);
    let ticket = w.sync(&a, &[(&a, "x")]);
    w.report();
    assert_eq!(w.synced(ticket), "x");
}

#[test]
fn an_assignment_of_an_overtaken_generation_is_void() {
    let mut w = World::new();
    let mut a = Member::new("g");
    let ticket = w.join_anew(&mut a);
    w.pass(0);
    w.joined(&mut a, ticket);
    w.prompt = false;
    let waiting = w.sync(&a, &[(&a, "x")]);
    w.join_anew(&mut Member::new("g"));
    let response: SyncGroupResponse<'_> = w.answer(waiting);
    assert_eq!(response.error_code, ErrorCode::RebalanceInProgress.code());
    w.report();
    assert_eq!(w.state("g"), "PreparingRebalance");
}

#[test]
fn a_member_asks_twice_and_both_are_answered() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::new("g")];
    w.stable(&mut members);
    members[0].protocols[0].1 = subscription(&["audit"]);
    let first = w.join(&members[0]);
    let second = w.join(&members[0]);
    let response: JoinGroupResponse<'_> = w.answer(first);
    assert_eq!(response.error_code, ErrorCode::RebalanceInProgress.code());
    assert!(w.is_waiting(second));
}
