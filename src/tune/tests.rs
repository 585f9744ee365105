use std::path::Path;

use super::change::{Record, apply, plan, undo};
use super::*;

/// A host of files.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, text)| tree.put(path, text));
        tree
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file.trim_start_matches('/'))
    }

    fn put(&self, file: &str, text: &str) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    }

    fn link(&self, file: &str, to: &str) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, path).unwrap();
    }

    fn host(&self) -> Host {
        Host::new(self.0.path())
    }

    /// All files with what is in them.
    fn contents(&self) -> Vec<(PathBuf, String)> {
        fn walk(dir: &Path, into: &mut Vec<(PathBuf, String)>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, into);
                } else {
                    into.push((
                        path.clone(),
                        std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned(),
                    ));
                }
            }
        }
        let mut files = Vec::new();
        walk(self.0.path(), &mut files);
        files.sort();
        files
    }
}

fn look(tree: &Tree, item: &str, target: &Target) -> Vec<Finding> {
    let item = ITEMS.iter().find(|known| known.name == item).unwrap();
    item.check(&tree.host(), target).findings
}

/// What an item would set, by the end of the file's name.
fn changes(tree: &Tree, item: &str, target: &Target) -> Vec<(String, String)> {
    let ends = |path: &Path| {
        let parts: Vec<_> = path.iter().rev().take(2).map(|part| part.to_str().unwrap()).collect();
        format!("{}/{}", parts[1], parts[0])
    };
    let steps = look(tree, item, target).into_iter().filter_map(|finding| match finding.state {
        State::Change { step } => Some((ends(step.file()), step.value())),
        _ => None,
    });
    steps.collect()
}

fn advice(tree: &Tree, item: &str, target: &Target) -> Vec<String> {
    let found = look(tree, item, target).into_iter().filter_map(|finding| match finding.state {
        State::Advice { advice } => Some(advice),
        _ => None,
    });
    found.collect()
}

fn none() -> Target {
    Target::default()
}

const DISK_MOUNTS: &str =
    "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 20 259:1 / /data rw,noatime - xfs /dev/nvme0n1p1 rw";

fn with_disk(files: &[(&str, &str)]) -> (Tree, Target) {
    let tree = Tree::new(
        &[&[("/proc/self/mountinfo", DISK_MOUNTS), ("/sys/block/nvme0n1/size", "1")], files].concat(),
    );
    tree.link("/sys/dev/block/259:1", "../../devices/pci/nvme/nvme0/nvme0n1/nvme0n1p1");
    (tree, Target { dirs: vec!["/data/ringlog".into()], ..Target::default() })
}

fn pair(file: &str, value: &str) -> (String, String) {
    (file.to_owned(), value.to_owned())
}

#[test]
fn an_empty_tree_has_nothing_to_say_and_nothing_to_change() {
    let tree = Tree::new(&[]);
    let reports = check(&tree.host(), &Target { dirs: vec!["/data".into()], ..none() });
    assert!(plan(&reports).is_empty());
    assert_eq!(reports.len(), ITEMS.len());
}

#[test]
fn processors() {
    let cpu = "/sys/devices/system/cpu";
    let tree = Tree::new(&[
        (&format!("{cpu}/online"), "0-1"),
        (&format!("{cpu}/cpu0/cpufreq/scaling_governor"), "performance"),
        (&format!("{cpu}/cpu1/cpufreq/scaling_governor"), "schedutil"),
        (&format!("{cpu}/cpu0/cpuidle/state1/latency"), "2"),
        (&format!("{cpu}/cpu0/cpuidle/state1/disable"), "0"),
        (&format!("{cpu}/cpu0/cpuidle/state2/latency"), "133"),
        (&format!("{cpu}/cpu0/cpuidle/state2/disable"), "0"),
        (&format!("{cpu}/cpu1/cpuidle/state2/latency"), "133"),
        (&format!("{cpu}/cpu1/cpuidle/state2/disable"), "1"),
    ]);
    assert_eq!(changes(&tree, "cpu-governor", &none()), [pair("cpufreq/scaling_governor", "performance")]);
    assert_eq!(look(&tree, "cpu-governor", &none()).len(), 2);
    assert_eq!(changes(&tree, "cpu-idle-states", &none()), [pair("state2/disable", "1")]);
}

#[test]
fn clocks() {
    let dir = "/sys/devices/system/clocksource/clocksource0";
    let (current, available) = (format!("{dir}/current_clocksource"), format!("{dir}/available_clocksource"));
    let tree = Tree::new(&[(&current, "hpet"), (&available, "tsc hpet acpi_pm")]);
    assert_eq!(changes(&tree, "clock-source", &none()), [pair("clocksource0/current_clocksource", "tsc")]);
    tree.put(&available, "hpet acpi_pm");
    assert_eq!(advice(&tree, "clock-source", &none()).len(), 1);
    tree.put(&current, "kvm-clock");
    assert_eq!(look(&tree, "clock-source", &none())[0].state, State::Good);
}

#[test]
fn interrupts_are_dealt_out() {
    let (tree, target) = with_disk(&[
        ("/sys/devices/system/cpu/online", "0-1"),
        (
            "/proc/interrupts",
            "      CPU0 CPU1\n 24: 1 0 PCI-MSI 0-edge nvme0q0\n 25: 9 0 PCI-MSI 1-edge nvme0q1\n 26: 9 0 PCI-MSI 2-edge nvme0q2\n \
             30: 5 5 PCI-MSI 5-edge eth0-TxRx-0\n 31: 5 5 PCI-MSI 6-edge eth0-TxRx-1\n NMI: 0 0 Non-maskable",
        ),
        ("/proc/irq/24/smp_affinity_list", "0-1"),
        ("/proc/irq/25/smp_affinity_list", "0"),
        ("/proc/irq/26/smp_affinity_list", "0-1"),
        ("/proc/irq/26/effective_affinity_list", "1"),
        ("/proc/irq/30/smp_affinity_list", "0-1"),
        ("/proc/irq/31/smp_affinity_list", "0"),
    ]);
    tree.link("/sys/class/net/eth0/device", "../../../0000:00:03.0");
    std::fs::create_dir_all(tree.path("/0000:00:03.0")).unwrap();
    std::fs::create_dir_all(tree.path("/sys/0000:00:03.0")).unwrap();
    assert_eq!(
        changes(&tree, "irq-affinity", &target),
        [pair("30/smp_affinity_list", "0"), pair("31/smp_affinity_list", "1")]
    );
    assert_eq!(
        look(&tree, "irq-affinity", &target).len(),
        4,
        "the disk's queue for administration is left out"
    );
    assert_eq!(look(&tree, "irq-balance", &none())[0].state, State::Good);
    tree.put("/proc/77/comm", "irqbalance");
    assert_eq!(advice(&tree, "irq-balance", &none()).len(), 1);
}

#[test]
fn packets_are_steered() {
    let tree = Tree::new(&[
        ("/sys/devices/system/cpu/online", "0-3"),
        ("/sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000000"),
        ("/sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "0"),
        ("/sys/class/net/eth0/queues/tx-0/xps_cpus", "0"),
        ("/sys/class/net/eth0/queues/tx-1/xps_cpus", "0"),
        ("/sys/class/net/eth0/device/vendor", "1"),
        ("/sys/class/net/lo/queues/rx-0/rps_cpus", "0"),
        ("/proc/sys/net/core/rps_sock_flow_entries", "0"),
    ]);
    assert_eq!(
        changes(&tree, "receive-steering", &none()),
        [
            pair("rx-0/rps_cpus", "f"),
            pair("core/rps_sock_flow_entries", "32768"),
            pair("rx-0/rps_flow_cnt", "32768")
        ]
    );
    assert_eq!(
        changes(&tree, "send-steering", &none()),
        [pair("tx-0/xps_cpus", "5"), pair("tx-1/xps_cpus", "a")]
    );
    tree.put("/sys/devices/system/cpu/online", "0");
    assert_eq!(changes(&tree, "receive-steering", &none()), [], "a queue for each CPU");
    assert_eq!(network::mask(&[0, 33, 64]), "1,00000002,00000001");
}

#[test]
fn networks() {
    let tree = Tree::new(&[
        ("/proc/sys/net/core/somaxconn", "128"),
        ("/proc/sys/net/core/netdev_max_backlog", "5000"),
        ("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
        ("/proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t33554432"),
        ("/proc/sys/net/ipv4/tcp_slow_start_after_idle", "1"),
    ]);
    assert_eq!(changes(&tree, "listen-backlog", &none()), [pair("core/somaxconn", "4096")]);
    assert_eq!(changes(&tree, "socket-buffers", &none()), [pair("ipv4/tcp_rmem", "4096\t131072\t16777216")]);
    assert_eq!(
        changes(&tree, "slow-start-after-idle", &none()),
        [pair("ipv4/tcp_slow_start_after_idle", "0")]
    );
}

#[test]
fn disks() {
    let queue = "/sys/block/nvme0n1/queue";
    let (tree, target) = with_disk(&[
        (&format!("{queue}/scheduler"), "none [mq-deadline] kyber"),
        (&format!("{queue}/rotational"), "0"),
        (&format!("{queue}/nomerges"), "0"),
        (&format!("{queue}/write_cache"), "write back"),
        (&format!("{queue}/fua"), "0"),
        (&format!("{queue}/discard_max_bytes"), "1024"),
    ]);
    assert_eq!(changes(&tree, "disk-scheduler", &target), [pair("queue/scheduler", "none")]);
    assert_eq!(changes(&tree, "disk-merges", &target), [pair("queue/nomerges", "1")]);
    assert_eq!(advice(&tree, "write-cache", &target).len(), 1);
    assert_eq!(advice(&tree, "trim", &target).len(), 1);
    tree.put(&format!("{queue}/rotational"), "1");
    assert_eq!(changes(&tree, "disk-scheduler", &target), [], "sorted is right for a disk that spins");
    tree.put(&format!("{queue}/fua"), "1");
    assert_eq!(advice(&tree, "write-cache", &target), [""; 0]);
    // A directory elsewhere is not on this disk.
    let other = Target { dirs: vec!["/srv".into()], ..none() };
    assert_eq!(look(&tree, "disk-scheduler", &other), []);
}

#[test]
fn file_systems() {
    let (tree, target) = with_disk(&[]);
    assert_eq!(look(&tree, "file-system", &target)[0].state, State::Good);
    for (line, word) in [
        ("30 20 259:1 / /data rw - ext4 /dev/x rw,data=journal", "data=journal"),
        ("30 20 259:1 / /data rw - ext4 /dev/x rw,nobarrier", "barriers"),
        ("30 20 259:1 / /data rw - xfs /dev/x rw,discard", "fstrim"),
        ("30 20 0:44 / /data rw - tmpfs tmpfs rw", "memory"),
        ("30 20 0:45 / /data rw - overlay overlay rw", "volume"),
        ("30 20 0:46 / /data rw - nfs4 host:/x rw", "tested"),
    ] {
        tree.put("/proc/self/mountinfo", line);
        let advice = advice(&tree, "file-system", &target);
        assert!(advice[0].contains(word), "{line}: {advice:?}");
    }
}

#[test]
fn kernel_and_process() {
    let tree = Tree::new(&[
        ("/proc/sys/vm/swappiness", "60"),
        ("/proc/sys/kernel/numa_balancing", "1"),
        ("/proc/sys/kernel/io_uring_disabled", "2"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]"),
        ("/proc/swaps", "Filename Type Size Used Priority\n/swap file 2097148 4096 -2"),
        ("/proc/sys/fs/nr_open", "1024"),
        (
            "/proc/self/limits",
            "Limit Soft Hard Units\nMax open files            1024  4096  files\nMax locked memory         65536  65536  bytes",
        ),
    ]);
    let target = Target { open_files: 100_000, locked_bytes: 1 << 30, ..none() };
    assert_eq!(changes(&tree, "swappiness", &target), [pair("vm/swappiness", "1")]);
    assert_eq!(changes(&tree, "numa-balancing", &target), [pair("kernel/numa_balancing", "0")]);
    assert_eq!(changes(&tree, "io-uring-switch", &target), [pair("kernel/io_uring_disabled", "0")]);
    assert_eq!(changes(&tree, "huge-pages", &target), [pair("transparent_hugepage/enabled", "madvise")]);
    assert_eq!(changes(&tree, "open-files", &target), [pair("fs/nr_open", "1048576")]);
    for item in ["swap-use", "open-files", "locked-memory", "time-sync"] {
        assert_eq!(advice(&tree, item, &target).len(), 1, "{item}");
    }
    tree.put("/proc/1234/comm", "chronyd");
    assert_eq!(advice(&tree, "time-sync", &target), [""; 0]);
}

#[test]
fn a_container_leaves_the_host_alone() {
    let tree = Tree::new(&[("/proc/sys/vm/swappiness", "60"), ("/.dockerenv", "")]);
    assert_eq!(tree.host().container(), Some("docker"));
    let reports = check(&tree.host(), &none());
    let swappiness = reports.iter().find(|report| report.item == "swappiness").unwrap();
    assert!(swappiness.belongs_to_host && matches!(swappiness.findings[0].state, State::Change { .. }));
    assert_eq!(plan(&reports), []);
    tree.put("/proc/self/mountinfo", "20 1 0:50 / / rw - overlay overlay rw");
    assert_eq!(tree.host().container(), Some("docker"));
    tree.put("/proc/self/mountinfo", "20 1 8:1 / / rw - ext4 /dev/sda1 rw");
    assert_eq!(tree.host().container(), None, "a machine made of an image");
    for (file, text, kind) in [
        ("/proc/1/cgroup", "0::/kubepods/burstable/pod1/x", "kubernetes"),
        ("/run/.containerenv", "", "podman"),
        ("/proc/1/environ", "a=b\0container=lxc\0", "container"),
    ] {
        assert_eq!(Tree::new(&[(file, text)]).host().container(), Some(kind));
    }
}

#[test]
fn what_was_applied_is_undone_to_the_letter() {
    let (tree, target) = with_disk(&[
        ("/proc/sys/vm/swappiness", "60"),
        ("/proc/sys/net/core/somaxconn", "128"),
        ("/sys/devices/system/cpu/online", "0"),
        ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
    ]);
    let host = tree.host();
    let before = tree.contents();
    let record_dir = tempfile::tempdir().unwrap();
    let path = record_dir.path().join("deep/applied.json");
    let mut record = Record::open(&path).unwrap();
    let steps = plan(&check(&host, &target));
    assert_eq!(steps.len(), 3);
    let outcomes = apply(&host, steps, &mut record).unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.problem.is_none()), "{outcomes:?}");
    assert!(plan(&check(&host, &target)).is_empty(), "nothing is left to do");
    assert_eq!(std::fs::read_to_string(tree.path("/proc/sys/net/core/somaxconn")).unwrap(), "4096");
    // By another process, later.
    let mut record = Record::open(&path).unwrap();
    let outcomes = undo(&host, &mut record, false).unwrap();
    assert_eq!(outcomes.len(), 3);
    assert_eq!(tree.contents(), before);
    assert!(!path.exists() && Record::open(&path).unwrap().is_empty());
}

#[test]
fn a_value_that_somebody_else_has_set_stays() {
    let tree = Tree::new(&[("/proc/sys/vm/swappiness", "60"), ("/proc/sys/kernel/numa_balancing", "1")]);
    let host = tree.host();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("applied.json");
    let mut record = Record::open(&path).unwrap();
    apply(&host, plan(&check(&host, &none())), &mut record).unwrap();
    tree.put("/proc/sys/vm/swappiness", "30");
    let outcomes = undo(&host, &mut record, false).unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.problem.is_some()).count(), 1);
    assert_eq!(host.value("/proc/sys/vm/swappiness").as_deref(), Some("30"));
    assert_eq!(host.value("/proc/sys/kernel/numa_balancing").as_deref(), Some("1"));
    let mut record = Record::open(&path).unwrap();
    assert!(!record.is_empty(), "still known");
    undo(&host, &mut record, true).unwrap();
    assert_eq!(host.value("/proc/sys/vm/swappiness").as_deref(), Some("60"));
}

#[test]
fn a_change_that_is_refused_is_told_and_not_recorded() {
    let tree = Tree::new(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("applied.json");
    let mut record = Record::open(&path).unwrap();
    let step = Step::Write { file: "/proc/sys/missing/key".into(), value: "1".into() };
    let outcomes = apply(&tree.host(), vec![("item", "0".into(), step)], &mut record).unwrap();
    assert!(outcomes[0].problem.is_some() && record.is_empty());
    std::fs::write(&path, "not JSON").unwrap();
    assert!(Record::open(&path).is_err());
}

#[test]
fn the_ballast_comes_and_goes() {
    let tree = Tree::new(&[]);
    let dir = tempfile::tempdir().unwrap();
    let mut record = Record::open(&dir.path().join("applied.json")).unwrap();
    let step = Step::Ballast { file: "/ballast".into(), bytes: 1 << 20 };
    let outcomes = apply(&tree.host(), vec![("ballast", String::new(), step.clone())], &mut record).unwrap();
    assert_eq!(outcomes[0].problem, None);
    assert_eq!(std::fs::metadata(tree.path("/ballast")).unwrap().len(), 1 << 20);
    let again = apply(&tree.host(), vec![("ballast", String::new(), step)], &mut record).unwrap();
    assert!(again[0].problem.is_some() && tree.path("/ballast").exists());
    undo(&tree.host(), &mut record, false).unwrap();
    assert!(!tree.path("/ballast").exists());
}

#[test]
fn the_pages_say_what_the_table_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning");
    let mut wanted = vec![("README.md".to_owned(), pages::index())];
    wanted.extend(ITEMS.iter().map(|item| (format!("{}.md", item.name), pages::page(item))));
    if std::env::var_os("RINGLOG_REWRITE").is_some() {
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        wanted.iter().for_each(|(name, text)| std::fs::write(dir.join(name), text).unwrap());
    }
    for (name, text) in &wanted {
        let page = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(page == *text, "tuning/{name} is not what the table says: RINGLOG_REWRITE=1 writes it anew");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), wanted.len(), "a page without its item");
}

#[test]
fn a_disk_is_measured_and_what_it_did_is_kept() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let options = measure::Options { dir: dir.path().into(), file_bytes: 8 << 20, test_ns: 20_000_000 };
    let mut io = crate::io::poll::PollIo::new(Default::default()).unwrap();
    let mut said = Vec::new();
    let measured = measure::measure(&mut io, "epoll", &options, |what| said.push(what.to_owned())).unwrap();
    assert_eq!(said.len(), 7);
    for figure in [
        measured.write_bytes_per_second,
        measured.read_bytes_per_second,
        measured.reads_per_second,
        measured.writes_per_second,
        measured.synced_4k.per_second,
        measured.synced_128k.p50_us,
    ] {
        assert!(figure > 0.0 && figure.is_finite(), "{measured:?}");
    }
    let synced = measured.synced_4k;
    assert!(synced.p50_us <= synced.p99_us && synced.p99_us <= synced.max_us);
    // One at a time: their number and their duration say the same.
    assert!(synced.per_second * synced.p50_us < 2e6 && synced.max_us > 1.0, "{synced:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    measured.keep(dir.path()).unwrap();
    let kept = measure::Measured::load(dir.path()).unwrap();
    assert_eq!((kept.at_ms, &kept.driver), (measured.at_ms, &measured.driver));
    assert!((kept.synced_4k.p99_us / measured.synced_4k.p99_us - 1.0).abs() < 1e-9);
    assert_eq!(measure::Measured::load(Path::new("/nonexistent")), None);
    let missing = measure::Options { dir: "/nonexistent".into(), ..options };
    let error = measure::measure(&mut io, "epoll", &missing, |_| {}).unwrap_err();
    assert_eq!(error.0, libc::ENOENT);
}

#[test]
fn what_a_change_did_is_kept_with_its_item() {
    use super::effect::{Effect, Effects};
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("deep/applied.json");
    let measured = |p50_us: f64| measure::Measured {
        synced_4k: measure::Latency { p50_us, ..Default::default() },
        ..Default::default()
    };
    let effect = |item: &str, after: f64| Effect {
        item: item.to_owned(),
        dir: "/data".into(),
        before: measured(100.0),
        after: measured(after),
    };
    let mut effects = Effects::beside(&record).unwrap();
    effects.add(effect("swappiness", 50.0));
    effects.add(effect("disk-merges", 70.0));
    effects.add(effect("swappiness", 75.0));
    effects.save().unwrap();
    let effects = Effects::beside(&record).unwrap();
    assert_eq!(effects.of("swappiness").collect::<Vec<_>>(), [&effect("swappiness", 75.0)]);
    let tree = Tree::new(&[("/proc/sys/vm/swappiness", "60")]);
    let mut reports = check(&tree.host(), &none());
    effects.attach(&mut reports);
    for report in &reports {
        let count = usize::from(matches!(report.item, "swappiness" | "disk-merges"));
        assert_eq!(report.measured.len(), count, "{}", report.item);
        if report.item == "swappiness" {
            let told = "synced writes, 4 KiB, p50: 100 to 75 us (-25.0 %)";
            assert!(
                report.measured[0].starts_with("/data: ") && report.measured[0].contains(told),
                "{:?}",
                report.measured
            );
        }
    }
    std::fs::write(record.with_file_name("effects.json"), "not JSON").unwrap();
    assert!(Effects::beside(&record).is_err());
}
