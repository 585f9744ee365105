use proptest::prelude::*;

use super::*;
use crate::protocol::messages::describe_groups_request::DescribeGroupsRequest;
use crate::protocol::messages::list_groups_request::ListGroupsRequest;

const APIS: [ApiKey; 10] = [
    ApiKey::JoinGroup,
    ApiKey::SyncGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::OffsetDelete,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::DeleteGroups,
];

/// Whether the body was a request; if so it has been answered, or somebody waits.
fn offer(w: &mut World, api_key: ApiKey, version: i16, body: &[u8]) -> bool {
    let to = ReplyTo(w.next_to);
    w.next_to += 1;
    let request = GroupRequest { api_key, version, client_id: "x", client_host: "/1", body, to };
    let mut out = Vec::new();
    let is_request = w.coordinator.handle(w.now, request, &w.topics, &mut out).is_ok();
    assert!(is_request || out.is_empty());
    w.carry_out(out);
    is_request
}

#[test]
fn a_body_cut_anywhere_is_no_request() {
    let mut w = World::new();
    let member = Member::new("g");
    let join = member.join_request();
    for version in 0..=9 {
        let body = join.to_bytes(version);
        for end in 0..body.len() {
            assert!(
                !offer(&mut w, ApiKey::JoinGroup, version, &body[..end]),
                "version {version} cut at {end}"
            );
        }
        assert!(!offer(&mut w, ApiKey::JoinGroup, version, &[body.as_slice(), &[0]].concat()));
    }
    assert_eq!(w.coordinator.stats(), GroupStats::default());
    let body = join.to_bytes(9);
    assert!(!offer(&mut w, ApiKey::JoinGroup, 10, &body));
    assert!(!offer(&mut w, ApiKey::JoinGroup, -1, &body));
    assert!(!offer(&mut w, ApiKey::Fetch, 9, &body));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_harmless(
        requests in prop::collection::vec((0..APIS.len(), -1i16..12, prop::collection::vec(0u8..20, 0..40)), 1..40),
    ) {
        let mut w = World::new();
        for (api, version, body) in requests {
            offer(&mut w, APIS[api], version, &body);
            w.pass(100);
        }
        w.pass(10_000_000);
        prop_assert_eq!(w.coordinator.stats().members, 0);
    }
}

#[test]
fn a_partition_that_is_not_ours() {
    let mut w = World::new();
    let mut out = Vec::new();
    (0..PARTITIONS).for_each(|partition| w.coordinator.unload(partition, &mut out));
    assert_eq!(out, vec![]);
    let moved = ErrorCode::NotCoordinator.code();
    let member = Member { id: "m".into(), generation: 1, ..Member::new("g") };
    let join: JoinGroupResponse<'_> = w.ask(&member.join_request(), 9);
    assert_eq!((join.error_code, &*join.member_id), (moved, ""));
    let ticket = w.sync(&member, &[]);
    let sync: SyncGroupResponse<'_> = w.answer(ticket);
    assert_eq!(sync.error_code, moved);
    let leave: LeaveGroupResponse<'_> =
        w.ask(&LeaveGroupRequest { group_id: "g".into(), ..LeaveGroupRequest::default() }, 5);
    assert_eq!((leave.error_code, leave.members.len()), (moved, 0));
    let describe = w.ask(&DescribeGroupsRequest { groups: ["g".into()].into(), ..Default::default() }, 5);
    assert_eq!(describe.groups.first().unwrap().error_code, moved);
    // A list is of what is here.
    assert_eq!(w.ask(&ListGroupsRequest::default(), 5).error_code, 0);
    w.coordinator.load_begin(0);
    assert_eq!(
        w.ask(&ListGroupsRequest::default(), 5).error_code,
        ErrorCode::CoordinatorLoadInProgress.code()
    );
}

#[test]
fn an_empty_group_id() {
    // Offsets may be kept under it, for the sake of very old clients; members may not.
    let mut w = World::new();
    assert_eq!(w.commit("", &[("orders", 0, 1)]), vec![0]);
    assert_eq!(w.fetch(""), vec![("orders".into(), 0, 1)]);
    assert_eq!(w.heartbeat(&Member::new("")), ErrorCode::InvalidGroupId);
    let ticket = w.join(&Member::new(""));
    let join: JoinGroupResponse<'_> = w.answer(ticket);
    assert_eq!(join.error_code, ErrorCode::InvalidGroupId.code());
}

#[test]
fn member_ids_look_like_kafkas() {
    let mut ids = super::super::turn::MemberIds::new(42);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10_000 {
        let id = ids.draw("app");
        let uuid = id.strip_prefix("app-").unwrap();
        let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]));
        assert!(seen.insert(id));
    }
}

#[test]
fn partitions_are_kafkas() {
    // Taken from a running JVM: the hash, and the partition of 50.
    for (group, hash, partition) in [
        ("", 0, 0),
        ("range", 108_280_125, 25),
        ("roundrobin", -128_548_644, 44),
        ("console-consumer-12345", 158_455_506, 6),
        ("grüße", 98_768_023, 23),
        ("polygenelubricants", i32::MIN, 0),
        ("my-group", -1_906_497_762, 12),
        ("😀", 1_772_899, 49),
    ] {
        assert_eq!(java_hash(group), hash, "{group}");
        assert_eq!(partition_for(group, 50), partition, "{group}");
    }
}
