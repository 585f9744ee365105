//! What the container or service that this process runs in may use of the machine: CPU time and memory, as its control
//! groups say, of either version. Asked by the server at start, for its defaults.
//!
//! A limit anywhere between the process's group and the root holds, so all of them are looked at. Within a container the
//! names in `/proc/self/cgroup` may be the host's, of which the container sees nothing: then its own group is the root of
//! what is mounted.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Version 1 has no word for "no limit": it shows the largest number of pages.
const V1_NO_LIMIT: u64 = i64::MAX as u64 - 0xffff;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// CPUs' worth of time: 1.5 is three halves of a second each second.
    pub cpus: Option<f64>,
}

impl Limits {
    /// Those of this process.
    pub fn read() -> Limits {
        let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
        Limits::of(&groups, Path::new("/sys/fs/cgroup"))
    }

    /// Those of a process with this `/proc/PID/cgroup`, where control groups are mounted at `root`.
    fn of(groups: &str, root: &Path) -> Limits {
        let mut limits = Limits::default();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if controllers.is_empty() {
                // Beside version 1, version 2 may be mounted without controllers: it then has no such files.
                for dir in ladder(root, path) {
                    limits.lower(v2_memory(&dir), v2_cpus(&dir));
                }
            }
            for controller in controllers.split(',') {
                let mount =
                    [root.join(controllers), root.join(controller)].into_iter().find(|dir| dir.is_dir());
                let Some(mount) = mount else { continue };
                for dir in ladder(&mount, path) {
                    match controller {
                        "memory" => limits.lower(v1_memory(&dir), None),
                        "cpu" => limits.lower(None, v1_cpus(&dir)),
                        _ => {}
                    }
                }
            }
        }
        limits
    }

    fn lower(&mut self, memory_bytes: Option<u64>, cpus: Option<f64>) {
        self.memory_bytes = [self.memory_bytes, memory_bytes].into_iter().flatten().min();
        self.cpus = [self.cpus, cpus].into_iter().flatten().reduce(f64::min);
    }
}

/// The group's directory and those above it, down to the mount.
fn ladder(mount: &Path, group: &str) -> Vec<PathBuf> {
    let group = Path::new(group.trim_start_matches('/'));
    group.ancestors().map(|part| mount.join(part)).filter(|dir| dir.is_dir()).collect()
}

fn number(dir: &Path, file: &str) -> Option<i64> {
    read_to_string(dir.join(file)).ok()?.trim().parse().ok()
}

/// `max` is no number, and no limit.
fn v2_memory(dir: &Path) -> Option<u64> {
    number(dir, "memory.max").and_then(|bytes| u64::try_from(bytes).ok())
}

/// `max 100000` or `150000 100000`: microseconds of CPU time in each period.
fn v2_cpus(dir: &Path) -> Option<f64> {
    let text = read_to_string(dir.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    share(quota.parse().ok()?, period.parse().ok()?)
}

fn v1_memory(dir: &Path) -> Option<u64> {
    let bytes = u64::try_from(number(dir, "memory.limit_in_bytes")?).ok()?;
    (bytes < V1_NO_LIMIT).then_some(bytes)
}

/// A quota of -1 is none.
fn v1_cpus(dir: &Path) -> Option<f64> {
    share(number(dir, "cpu.cfs_quota_us")?, number(dir, "cpu.cfs_period_us")?)
}

fn share(quota: i64, period: i64) -> Option<f64> {
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files, and what a process in these groups may use there.
    fn limits(groups: &str, files: &[(&str, &str)]) -> Limits {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Limits::of(groups, root.path())
    }

    #[test]
    fn version_2_takes_the_lowest_on_the_way_up() {
        let files = [
            ("system.slice/memory.max", "1073741824\n"),
            ("system.slice/cpu.max", "max 100000\n"),
            ("system.slice/ringlog.service/memory.max", "max\n"),
            ("system.slice/ringlog.service/cpu.max", "150000 100000\n"),
            ("other/memory.max", "4096\n"),
        ];
        let found = limits("0::/system.slice/ringlog.service\n", &files);
        assert_eq!(found, Limits { memory_bytes: Some(1 << 30), cpus: Some(1.5) });
    }

    #[test]
    fn in_a_container_its_own_group_is_the_root() {
        let files = [("memory.max", "536870912\n"), ("cpu.max", "200000 100000\n")];
        let expected = Limits { memory_bytes: Some(512 << 20), cpus: Some(2.0) };
        assert_eq!(limits("0::/\n", &files), expected);
        // The host's name of it, which does not exist here.
        assert_eq!(limits("0::/kubepods/pod1/abc\n", &files), expected);
    }

    #[test]
    fn version_1_is_read_where_it_is_mounted() {
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/docker/abc/memory.limit_in_bytes", "268435456\n"),
            ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "50000\n"),
            ("cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n"),
        ];
        let groups = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n";
        assert_eq!(limits(groups, &files), Limits { memory_bytes: Some(256 << 20), cpus: Some(0.5) });
        assert_eq!(limits("4:memory:/\n3:cpu,cpuacct:/\n", &files), Limits::default());
    }

    #[test]
    fn nothing_readable_is_no_limit() {
        assert_eq!(limits("", &[]), Limits::default());
        assert_eq!(limits("nonsense\n::\n1:memory\n", &[]), Limits::default());
        let nonsense = [("memory.max", "much\n"), ("cpu.max", "100000 0\n")];
        assert_eq!(limits("0::/\n", &nonsense), Limits::default());
        let negative = [("memory.max", "-5\n"), ("cpu.max", "-1 100000\n")];
        assert_eq!(limits("0::/../../etc\n", &negative), Limits::default());
    }
}
