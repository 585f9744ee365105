use super::*;

fn well() -> Host {
    Host {
        release: "6.12.1".into(),
        io_uring_disabled: Some(0),
        seccomp: false,
        ring: Ok(vec![]),
        locked_bytes_max: None,
        open_files_max: 1 << 20,
        directories: vec![directory("/data", Ok(()))],
    }
}

fn directory(path: &str, direct: Result<(), Errno>) -> Directory {
    Directory { path: path.into(), direct, synced: Ok(()), in_memory: false }
}

/// As with `ringlog.io.driver=uring`.
fn ring_only() -> Needs {
    Needs { driver: Some(DriverKind::Uring), ..Needs::default() }
}

fn only_problem(host: Host) -> Problem {
    let refusal = host.verdict(&ring_only()).unwrap_err();
    let [problem] = &refusal.problems[..] else { panic!("{refusal}") };
    let text = refusal.to_string();
    assert!(text.contains("fix: "), "{text}");
    problem.clone()
}

#[test]
fn a_good_host_starts() {
    for driver in [None, Some(DriverKind::Uring)] {
        let needs = Needs { open_files: 1000, registered_bytes: 1 << 40, driver, ..Needs::default() };
        assert_eq!(well().verdict(&needs), Ok(Verdict { driver: DriverKind::Uring, cautions: vec![] }));
    }
    let forced = Needs { driver: Some(DriverKind::Poll), ..Needs::default() };
    assert_eq!(well().verdict(&forced), Ok(Verdict { driver: DriverKind::Poll, cautions: vec![] }));
}

#[test]
fn epoll_stands_in_for_a_refused_ring_and_says_why() {
    let host = Host { ring: Err(Errno(libc::EPERM)), seccomp: true, ..well() };
    let verdict = host.verdict(&Needs::default()).unwrap();
    assert_eq!(verdict.driver, DriverKind::Poll);
    let [caution] = &verdict.cautions[..] else { panic!("{verdict:?}") };
    let text = caution.to_string();
    assert!(text.contains("epoll") && text.contains("seccomp") && text.contains("fix: "), "{text}");
    let old = Host { ring: Ok(vec!["multishot receive"]), ..well() };
    assert_eq!(old.verdict(&Needs::default()).unwrap().driver, DriverKind::Poll);
    // What was asked for by name needs no excuse, and locks no memory.
    let forced = Needs { driver: Some(DriverKind::Poll), registered_bytes: 1 << 40, ..Needs::default() };
    let poor = Host { locked_bytes_max: Some(8 << 20), ..host };
    assert_eq!(poor.verdict(&forced).unwrap().cautions, []);
}

#[test]
fn without_direct_io_writes_are_synced_but_not_in_memory() {
    let errno = Errno(libc::EINVAL);
    let on_disk = Host { directories: vec![directory("/a", Ok(())), directory("/b", Err(errno))], ..well() };
    let verdict = on_disk.verdict(&Needs::default()).unwrap();
    assert_eq!(verdict.driver, DriverKind::Poll);
    let expected = Caution::SyncedWrites { directory: "/b".into(), errno };
    assert_eq!(verdict.cautions, [expected]);
    assert!(matches!(only_problem(on_disk), Problem::DirectRefused { .. }), "the ring has no such way");
    let mut in_memory = Host { directories: vec![directory("/b", Err(errno))], ..well() };
    in_memory.directories[0].in_memory = true;
    assert!(matches!(
        &in_memory.verdict(&Needs::default()).unwrap_err().problems[..],
        [Problem::DirectRefused { .. }]
    ));
    // One that takes direct I/O all the same starts, with a warning.
    in_memory.directories[0].direct = Ok(());
    let verdict = in_memory.verdict(&Needs::default()).unwrap();
    assert_eq!(verdict.cautions, [Caution::InMemory { directory: "/b".into() }]);
    let mut no_sync = Host { directories: vec![directory("/b", Err(errno))], ..well() };
    no_sync.directories[0].synced = Err(Errno(libc::EIO));
    assert!(no_sync.verdict(&Needs::default()).is_err());
}

#[test]
fn a_file_system_in_memory_is_known() {
    assert!(Directory::inspect(Path::new("/dev/shm")).in_memory);
    assert!(!Directory::inspect(Path::new(env!("CARGO_MANIFEST_DIR"))).in_memory);
}

#[test]
fn a_ring_refused_is_named_by_its_cause() {
    let refused = |errno| Host { ring: Err(Errno(errno)), ..well() };
    let off = Host { io_uring_disabled: Some(2), ..refused(libc::EPERM) };
    assert_eq!(only_problem(off.clone()), Problem::SwitchedOff { value: 2 });
    assert!(!off.verdict(&ring_only()).unwrap_err().to_string().contains("io_uring_group"));
    let by_group = Host { io_uring_disabled: Some(1), seccomp: true, ..refused(libc::EPERM) };
    assert!(only_problem(by_group).to_string().contains("io_uring_group"));
    for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES] {
        let filtered = Host { seccomp: true, ..refused(errno) };
        assert_eq!(only_problem(filtered), Problem::Filtered { errno: Errno(errno) });
    }
    assert_eq!(only_problem(refused(libc::EACCES)), Problem::Refused { errno: Errno(libc::EACCES) });
    let ancient = Host { release: "4.19.0".into(), io_uring_disabled: None, ..refused(libc::ENOSYS) };
    assert!(matches!(only_problem(ancient), Problem::KernelTooOld { release, .. } if release == "4.19.0"));
    let poor = Host { locked_bytes_max: Some(64 << 10), ..refused(libc::ENOMEM) };
    assert!(only_problem(poor).to_string().contains("RLIMIT_MEMLOCK is 64 KiB"));
}

#[test]
fn an_old_kernel_is_told_what_it_lacks() {
    let host = Host {
        ring: Ok(vec!["multishot receive", "IORING_OP_MSG_RING"]),
        release: "5.15.0".into(),
        ..well()
    };
    let text = only_problem(host).to_string();
    assert!(text.contains("5.15.0") && text.contains("multishot receive, IORING_OP_MSG_RING"), "{text}");
}

#[test]
fn a_bad_directory_is_named() {
    let host = |errno| Host {
        directories: vec![directory("/a", Ok(())), directory("/b", Err(Errno(errno)))],
        ..well()
    };
    assert!(
        matches!(only_problem(host(libc::EINVAL)), Problem::DirectRefused { directory, .. } if directory == Path::new("/b"))
    );
    assert!(
        matches!(only_problem(host(libc::EACCES)), Problem::NotWritable { directory, .. } if directory == Path::new("/b"))
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let host = Host {
        ring: Err(Errno(libc::ENOSYS)),
        directories: vec![directory("/a", Err(Errno(libc::EROFS)))],
        open_files_max: 64,
        ..well()
    };
    assert_eq!(host.verdict(&ring_only()).unwrap_err().problems.len(), 3);
    assert_eq!(host.verdict(&Needs::default()).unwrap_err().problems.len(), 2, "epoll needs no ring");
}

#[test]
fn limits_that_only_cost_are_cautions() {
    let host = Host { locked_bytes_max: Some(8 << 20), open_files_max: 1024, ..well() };
    let needs = Needs { registered_bytes: 64 << 20, open_files: 10_000, ..Needs::default() };
    let cautions = host.verdict(&needs).unwrap().cautions;
    assert_eq!(
        cautions,
        [
            Caution::LockedMemory { limit_bytes: 8 << 20, wanted_bytes: 64 << 20 },
            Caution::OpenFiles { limit: 1024, wanted: 10_000 },
        ]
    );
    assert!(cautions[0].to_string().contains("8 MiB"));
}

#[test]
fn this_host_passes_and_is_left_clean() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let needs = Needs { directories: vec![dir.path().into()], ..Needs::default() };
    let (host, verdict) = check(&needs).unwrap();
    assert_eq!(verdict.driver, DriverKind::Uring);
    assert_eq!(host.ring, Ok(vec![]));
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn a_missing_directory_is_seen() {
    let host = Host::inspect(&["/nonexistent/dir".into()]);
    assert_eq!(host.directories[0].direct, Err(Errno(libc::ENOENT)));
}

#[test]
fn a_file_system_without_direct_io_is_seen() {
    let host = Host::inspect(&["/proc/self".into()]);
    assert!(host.directories[0].direct.is_err());
}

/// Filters and capabilities belong to a thread: what happens to this one hurts no other test.
fn on_a_thread_of_its_own<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(test).join().unwrap())
}

#[test]
fn a_real_seccomp_filter_is_recognised() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let host = on_a_thread_of_its_own(move || {
            refuse_io_uring(errno as u32);
            assert_eq!(best_driver(), DriverKind::Poll);
            Host::inspect(&[])
        });
        assert!(host.seccomp);
        assert_eq!(host.ring, Err(Errno(errno)));
        assert_eq!(only_problem(host), Problem::Filtered { errno: Errno(errno) });
    }
}

/// Makes `io_uring_setup` fail for this thread, as container profiles do.
fn refuse_io_uring(errno: u32) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The system call's number is the first word of what a filter sees.
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: needed to play a container. The program and its description live through the calls, which copy them; they
    // change this thread alone.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}
