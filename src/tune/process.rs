//! Items about what the kernel lets the broker's process do, and about the clock that everybody shares.

use super::{Finding, Host, Target};
use crate::io::driver::DriverKind;
use crate::io::preflight;

pub fn io_uring_switch(host: &Host, _: &Target) -> Vec<Finding> {
    Finding::setting(host, "/proc/sys/kernel/io_uring_disabled", "0", |found| found == "0")
        .into_iter()
        .collect()
}

/// Tried, not read: on the real host alone.
pub fn io_uring_features(host: &Host, _: &Target) -> Vec<Finding> {
    if !host.is_real() {
        return Vec::new();
    }
    let release = host.value("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![match preflight::best_driver() {
        DriverKind::Uring => Finding::good("io_uring", format!("to be had, Linux {release}")),
        DriverKind::Poll => {
            let advice = "the broker runs on epoll here, at a higher cost; with ringlog.io.driver=uring `ringlog serve` says \
                          what refuses it and how that is put right";
            Finding::advice("io_uring", format!("not to be had, Linux {release}"), advice)
        }
    }]
}

/// The soft limit of a line of `/proc/self/limits`; `None` for unlimited.
fn soft_limit(host: &Host, name: &str) -> Option<Option<u64>> {
    let text = host.read("/proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let soft = line.split_whitespace().next()?;
    Some(soft.parse().ok())
}

/// The hard one, as far as the broker raises the soft one.
fn hard_limit(host: &Host, name: &str) -> Option<Option<u64>> {
    let text = host.read("/proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let hard = line.split_whitespace().nth(1)?;
    Some(hard.parse().ok())
}

pub fn open_files(host: &Host, target: &Target) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["nr_open", "file-max"] {
        let file = format!("/proc/sys/fs/{name}");
        let enough = |found: &str| found.parse().is_ok_and(|files: u64| files >= target.open_files);
        findings.extend(Finding::setting(host, &file, &target.open_files.max(1 << 20).to_string(), enough));
    }
    let place = "RLIMIT_NOFILE";
    let advice = "ulimit -n 1048576; systemd LimitNOFILE=1048576; docker run --ulimit nofile=1048576";
    findings.extend(hard_limit(host, "Max open files").map(|limit| match limit {
        Some(limit) if limit < target.open_files => Finding::advice(place, limit.to_string(), advice),
        Some(limit) => Finding::good(place, limit.to_string()),
        None => Finding::good(place, "unlimited"),
    }));
    findings
}

pub fn locked_memory(host: &Host, target: &Target) -> Vec<Finding> {
    let place = "RLIMIT_MEMLOCK";
    let advice = "ulimit -l unlimited; systemd LimitMEMLOCK=infinity; docker run --ulimit memlock=-1: buffers that cannot be \
                  registered cost more CPU a write";
    let limit = soft_limit(host, "Max locked memory");
    limit
        .map(|limit| match limit {
            Some(bytes) if bytes < target.locked_bytes => {
                Finding::advice(place, format!("{} MiB", bytes >> 20), advice)
            }
            Some(bytes) => Finding::good(place, format!("{} MiB", bytes >> 20)),
            None => Finding::good(place, "unlimited"),
        })
        .into_iter()
        .collect()
}

pub fn time_sync(host: &Host, _: &Target) -> Vec<Finding> {
    const DAEMONS: [&str; 5] = ["chronyd", "ntpd", "systemd-timesyn", "openntpd", "ptp4l"];
    match DAEMONS.into_iter().find(|name| host.has_process(name)) {
        Some(name) => vec![Finding::good("time", format!("{name} runs"))],
        None if host.exists("/run/systemd/timesync/synchronized") => {
            vec![Finding::good("time", "synchronized")]
        }
        None => {
            let advice =
                "run chrony: record timestamps, retention and end-to-end latencies stand on the clock";
            vec![Finding::advice("time", "no daemon that sets the clock was found", advice)]
        }
    }
}
