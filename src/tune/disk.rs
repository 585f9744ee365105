//! Items about the disks and file systems under the data directories.

use std::path::{Path, PathBuf};

use super::{Finding, Host, State, Step, Target};

const FREE_SHARE_MIN: f64 = 0.15;
const BALLAST_BYTES: u64 = 1 << 30;
/// Beyond this the ballast would be a large part of the disk.
const BALLAST_DISK_BYTES_MIN: u64 = 32 << 30;
const BALLAST: &str = ".ringlog-ballast";

pub fn scheduler(host: &Host, target: &Target) -> Vec<Finding> {
    let mut findings = Vec::new();
    for disk in host.disks(&target.dirs) {
        let queue = format!("/sys/block/{disk}/queue");
        let text = host.read(&format!("{queue}/scheduler")).unwrap_or_default();
        let has = |name: &str| {
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == name)
        };
        // A disk that spins wants its requests sorted. What a hypervisor shows as spinning mostly does not.
        let spins = host.number(&format!("{queue}/rotational")) == Some(1) && !is_virtual(host, &disk);
        let wanted = if spins { "mq-deadline" } else { "none" };
        if has(wanted) {
            findings.extend(Finding::setting(host, &format!("{queue}/scheduler"), wanted, |found| {
                found == wanted
            }));
        }
    }
    findings
}

fn is_virtual(host: &Host, disk: &str) -> bool {
    host.link(&format!("/sys/block/{disk}/device")).is_some_and(|device| device.starts_with("virtio"))
}

pub fn merges(host: &Host, target: &Target) -> Vec<Finding> {
    let files = host.disks(&target.dirs).into_iter().map(|disk| format!("/sys/block/{disk}/queue/nomerges"));
    files.filter_map(|file| Finding::setting(host, &file, "1", |found| found != "0")).collect()
}

pub fn write_cache(host: &Host, target: &Target) -> Vec<Finding> {
    let mut findings = Vec::new();
    for disk in host.disks(&target.dirs) {
        let queue = format!("/sys/block/{disk}/queue");
        let Some(found) = host.value(&format!("{queue}/write_cache")) else { continue };
        let fua = host.value(&format!("{queue}/fua")).as_deref() == Some("1");
        let place = format!("{queue}/write_cache");
        findings.push(match (found.as_str(), fua) {
            ("write through", _) => Finding::good(place, found),
            (_, true) => Finding::good(place, format!("{found}, with FUA")),
            _ => Finding::advice(
                place,
                found,
                "volatile and without FUA: each durable write flushes the whole cache; a disk with power-loss protection \
                 needs no flush",
            ),
        });
    }
    findings
}

pub fn file_system(host: &Host, target: &Target) -> Vec<Finding> {
    target
        .dirs
        .iter()
        .filter_map(|dir| {
            let mount = host.mount(dir)?;
            let place = format!("{} on {}", dir.display(), mount.point.display());
            let found = format!("{} ({})", mount.file_system, mount.options.join(","));
            let has = |option: &str| mount.options.iter().any(|known| known == option);
            let advice = match mount.file_system.as_str() {
                "ext4" if has("data=journal") => {
                    "data=journal writes everything twice: mount with data=ordered"
                }
                "ext4" | "xfs" if has("nobarrier") || has("barrier=0") => {
                    "without barriers what is said to be durable is not: mount with them"
                }
                "ext4" | "xfs" if has("sync") => "`sync` makes every write wait: mount without it",
                "ext4" | "xfs" if has("discard") => {
                    "`discard` trims while it works: mount without it and let fstrim do it"
                }
                "ext4" | "xfs" => return Some(Finding::good(place, found)),
                "tmpfs" | "ramfs" => "in memory: nothing in it survives a power cut",
                "overlay" => "a container's own layer: it ends with the container; mount a volume",
                _ => "tested on ext4 and XFS only",
            };
            Some(Finding::advice(place, found, advice))
        })
        .collect()
}

pub fn free_space(host: &Host, target: &Target) -> Vec<Finding> {
    target
        .dirs
        .iter()
        .filter_map(|dir| {
            let (free, total) = space(host, dir)?;
            let found = format!("{} of {} GiB free", free >> 30, total >> 30);
            let place = dir.display().to_string();
            Some(match (free as f64) < total as f64 * FREE_SHARE_MIN {
                true => Finding::advice(
                    place,
                    found,
                    "lower retention.bytes, or give it more disk, before it is full",
                ),
                false => Finding::good(place, found),
            })
        })
        .collect()
}

pub fn ballast(host: &Host, target: &Target) -> Vec<Finding> {
    target
        .dirs
        .iter()
        .filter_map(|dir| {
            let (free, total) = space(host, dir)?;
            let file: PathBuf = dir.join(BALLAST);
            let place = file.display().to_string();
            if host.path(&file).exists() {
                return Some(Finding::good(place, "there"));
            }
            if total < BALLAST_DISK_BYTES_MIN || free < 4 * BALLAST_BYTES {
                return Some(Finding::good(
                    place,
                    "not there, and the disk is too small or too full for one",
                ));
            }
            let state = State::Change { step: Step::Ballast { file, bytes: BALLAST_BYTES } };
            Some(Finding { place, found: "not there".into(), state })
        })
        .collect()
}

/// Free and total bytes of the file system under a directory.
fn space(host: &Host, dir: &Path) -> Option<(u64, u64)> {
    let space = rustix::fs::statvfs(host.path(dir)).ok()?;
    Some((space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize))
}

pub fn trim(host: &Host, target: &Target) -> Vec<Finding> {
    const TIMER: &str = "/etc/systemd/system/timers.target.wants/fstrim.timer";
    let mut findings = Vec::new();
    for disk in host.disks(&target.dirs) {
        let file = format!("/sys/block/{disk}/queue/discard_max_bytes");
        match host.number(&file) {
            None => {}
            Some(0) => findings.push(Finding::good(file, "the disk takes no discards")),
            Some(_) if host.link(TIMER).is_some() || host.exists(TIMER) => {
                findings.push(Finding::good(file, "fstrim.timer is on"));
            }
            Some(_) => {
                let advice = "systemctl enable --now fstrim.timer, or run fstrim weekly: an SSD that is told what is free \
                              keeps its speed";
                findings.push(Finding::advice(file, "fstrim.timer is off", advice));
            }
        }
    }
    findings
}
