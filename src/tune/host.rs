//! The host as a tree of files: `/proc`, `/sys`, `/etc` below a root that is `/`, or a test's directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub struct Host {
    root: PathBuf,
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    pub file_system: String,
    /// `259:1`, the device's number; its name is a link in `/sys/dev/block`.
    pub device: String,
    /// Those of the mount and of the file system.
    pub options: Vec<String>,
}

impl Host {
    pub fn new(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into() }
    }

    pub fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where a file of the host is on this machine.
    pub fn path(&self, file: &Path) -> PathBuf {
        self.root.join(file.strip_prefix("/").unwrap_or(file))
    }

    pub fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path(Path::new(file))).ok()
    }

    pub fn exists(&self, file: &str) -> bool {
        self.path(Path::new(file)).exists()
    }

    /// The value in force of a file with one: trimmed, and of several to choose from (`[none] mq-deadline`) the chosen one.
    pub fn value(&self, file: &str) -> Option<String> {
        let text = self.read(file)?;
        let text = text.trim();
        let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        Some(chosen.map_or(text, |(chosen, _)| chosen).to_owned())
    }

    pub fn number(&self, file: &str) -> Option<u64> {
        self.value(file)?.parse().ok()
    }

    pub fn write(&self, file: &Path, value: &str) -> io::Result<()> {
        fs::write(self.path(file), value)
    }

    /// The names in a directory, sorted by the numbers in them; none where there is no such directory.
    pub fn list(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(Path::new(dir))).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| {
            let digits: String = name.chars().filter(char::is_ascii_digit).collect();
            (
                name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
                digits.parse::<u64>().unwrap_or(0),
            )
        });
        names
    }

    /// The last part of where a link leads.
    pub fn link(&self, file: &str) -> Option<String> {
        let to = fs::read_link(self.path(Path::new(file))).ok()?;
        to.file_name()?.to_str().map(str::to_owned)
    }

    /// The container that this process is in, by kind.
    pub fn container(&self) -> Option<&'static str> {
        let groups = self.read("/proc/1/cgroup").unwrap_or_default();
        let environment = self.read("/proc/1/environ").unwrap_or_default();
        let is_pod = environment.contains("KUBERNETES_SERVICE_HOST=") || groups.contains("kubepods");
        match () {
            () if is_pod => Some("kubernetes"),
            () if groups.contains("docker") => Some("docker"),
            () if self.exists("/.dockerenv") && !self.has_own_disk() => Some("docker"),
            () if self.exists("/run/.containerenv") && !self.has_own_disk() => Some("podman"),
            () if groups.contains("lxc")
                || environment.split('\0').any(|part| part.starts_with("container=")) =>
            {
                Some("container")
            }
            () => None,
        }
    }

    /// Whether the root is a disk's file system: a virtual machine made of a container's image keeps that one's marks.
    fn has_own_disk(&self) -> bool {
        let root = self.mount(Path::new("/"));
        root.is_some_and(|root| matches!(root.file_system.as_str(), "ext4" | "ext3" | "xfs" | "f2fs"))
    }

    /// The numbers of the CPUs that are on.
    pub fn cpus(&self) -> Vec<usize> {
        let online = self.value("/sys/devices/system/cpu/online").unwrap_or_default();
        let ranges = online.split(',').filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
        });
        // Kernels have at most 8192 of them; a nonsensical range is none.
        ranges.filter(|range| *range.end() < 8192).flatten().collect()
    }

    /// Network interfaces with a device behind them.
    pub fn interfaces(&self) -> Vec<String> {
        let all = self.list("/sys/class/net").into_iter();
        all.filter(|name| self.exists(&format!("/sys/class/net/{name}/device"))).collect()
    }

    /// Whether a process of that name runs.
    pub fn has_process(&self, name: &str) -> bool {
        let ids = self.list("/proc").into_iter().filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()));
        ids.into_iter().any(|id| self.value(&format!("/proc/{id}/comm")).as_deref() == Some(name))
    }

    /// The mount that a directory is on.
    pub fn mount(&self, dir: &Path) -> Option<Mount> {
        let text = self.read("/proc/self/mountinfo")?;
        let mounts = text.lines().filter_map(parse_mount).filter(|mount| dir.starts_with(&mount.point));
        // Of several on one point the last hides the others.
        mounts.fold(None, |best: Option<Mount>, mount| match best {
            Some(best) if best.point.components().count() > mount.point.components().count() => Some(best),
            _ => Some(mount),
        })
    }

    /// The whole disk behind a mount (`nvme0n1` for `259:1`), where it is one.
    pub fn disk(&self, mount: &Mount) -> Option<String> {
        let by_number = format!("/sys/dev/block/{}", mount.device);
        let name = self.link(&by_number)?;
        if self.exists(&format!("/sys/block/{name}")) {
            return Some(name);
        }
        // A partition: its directory lies in its disk's.
        let to = fs::read_link(self.path(Path::new(&by_number))).ok()?;
        let disk = to.parent()?.file_name()?.to_str()?.to_owned();
        self.exists(&format!("/sys/block/{disk}")).then_some(disk)
    }

    /// The disks under the data directories, each once.
    pub fn disks(&self, dirs: &[PathBuf]) -> Vec<String> {
        let mut disks: Vec<_> =
            dirs.iter().filter_map(|dir| self.mount(dir)).filter_map(|mount| self.disk(&mount)).collect();
        disks.sort();
        disks.dedup();
        disks
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_mount(line: &str) -> Option<Mount> {
    let (first, second) = line.split_once(" - ")?;
    let first: Vec<_> = first.split(' ').collect();
    let second: Vec<_> = second.split(' ').collect();
    let [_, _, device, _, point, options, ..] = first[..] else { return None };
    let [file_system, _, super_options] = second[..] else { return None };
    let options = options.split(',').chain(super_options.split(',')).map(str::to_owned).collect();
    // Blanks in names are written as octal numbers.
    let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    Some(Mount { point: point.into(), file_system: file_system.into(), device: device.into(), options })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_line_is_read() {
        let line =
            "29 1 259:2 / /data\\040one rw,noatime shared:1 master:2 - ext4 /dev/nvme0n1p2 rw,data=ordered";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.point, Path::new("/data one"));
        assert_eq!((&*mount.file_system, &*mount.device), ("ext4", "259:2"));
        assert_eq!(mount.options, ["rw", "noatime", "rw", "data=ordered"]);
        for wrong in ["", "a b c", "1 2 3:4 / /x rw - ext4", "1 2 - ext4 x y"] {
            assert_eq!(parse_mount(wrong), None, "{wrong}");
        }
    }
}
