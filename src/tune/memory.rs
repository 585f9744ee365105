//! Items about memory.

use super::{Finding, Host, Target};

pub fn huge_pages(host: &Host, _: &Target) -> Vec<Finding> {
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    Finding::setting(host, file, "madvise", |found| found != "never").into_iter().collect()
}

pub fn swappiness(host: &Host, _: &Target) -> Vec<Finding> {
    let low = |found: &str| found.parse().is_ok_and(|value: u32| value <= 10);
    Finding::setting(host, "/proc/sys/vm/swappiness", "1", low).into_iter().collect()
}

pub fn numa_balancing(host: &Host, _: &Target) -> Vec<Finding> {
    Finding::setting(host, "/proc/sys/kernel/numa_balancing", "0", |found| found == "0").into_iter().collect()
}

/// Swap in use makes a page of the heap as slow as a disk.
pub fn swap(host: &Host, _: &Target) -> Vec<Finding> {
    let Some(table) = host.read("/proc/swaps") else { return Vec::new() };
    let in_use = |line: &str| line.split_whitespace().nth(3).and_then(|kib| kib.parse::<u64>().ok());
    let used_kib: u64 = table.lines().skip(1).filter_map(in_use).sum();
    match used_kib {
        0 => vec![Finding::good("/proc/swaps", "nothing swapped out")],
        kib => {
            let advice = "something is swapped out: give the machine more memory or the processes less";
            vec![Finding::advice("/proc/swaps", format!("{} MiB used", kib >> 10), advice)]
        }
    }
}
