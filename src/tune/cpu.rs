//! Items about processors: how fast they run, how deep they sleep, who interrupts them.

use super::{Finding, Host, Target};

/// A CPU that leaves a deeper state than this takes longer than a write to a fast disk.
const EXIT_LATENCY_US_MAX: u64 = 20;
/// Clock sources that are read without a system call.
const FAST_CLOCKS: [&str; 5] =
    ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "riscv_clocksource"];

const CPUS: &str = "/sys/devices/system/cpu";

pub fn governor(host: &Host, _: &Target) -> Vec<Finding> {
    let files = host.cpus().into_iter().map(|cpu| format!("{CPUS}/cpu{cpu}/cpufreq/scaling_governor"));
    files
        .filter_map(|file| Finding::setting(host, &file, "performance", |found| found == "performance"))
        .collect()
}

pub fn idle_states(host: &Host, _: &Target) -> Vec<Finding> {
    let mut findings = Vec::new();
    for cpu in host.cpus() {
        let dir = format!("{CPUS}/cpu{cpu}/cpuidle");
        for state in host.list(&dir) {
            let latency_us = host.number(&format!("{dir}/{state}/latency")).unwrap_or(0);
            if latency_us > EXIT_LATENCY_US_MAX {
                let file = format!("{dir}/{state}/disable");
                findings.extend(Finding::setting(host, &file, "1", |found| found != "0"));
            }
        }
    }
    findings
}

pub fn clock_source(host: &Host, _: &Target) -> Vec<Finding> {
    const DIR: &str = "/sys/devices/system/clocksource/clocksource0";
    let file = format!("{DIR}/current_clocksource");
    let available = host.value(&format!("{DIR}/available_clocksource")).unwrap_or_default();
    let better =
        FAST_CLOCKS.into_iter().find(|clock| available.split_whitespace().any(|word| word == *clock));
    let is_fast = |found: &str| FAST_CLOCKS.contains(&found);
    match better {
        Some(clock) => Finding::setting(host, &file, clock, is_fast).into_iter().collect(),
        None => match host.value(&file) {
            Some(found) if !is_fast(&found) => {
                let advice =
                    "every look at the clock is a system call; the firmware or the hypervisor offers no TSC";
                vec![Finding::advice(file, found, advice)]
            }
            Some(found) => vec![Finding::good(file, found)],
            None => Vec::new(),
        },
    }
}

pub fn irq_balance(host: &Host, _: &Target) -> Vec<Finding> {
    let advice = "stop it (systemctl disable --now irqbalance), or have it leave out the interrupts of disks and network \
                  cards (IRQBALANCE_BANNED_CPULIST): it moves them while the broker runs";
    match host.has_process("irqbalance") {
        true => vec![Finding::advice("irqbalance", "runs", advice)],
        false => vec![Finding::good("irqbalance", "does not run")],
    }
}

/// The interrupts of each disk and network card, one behind the other over the CPUs.
pub fn irq_affinity(host: &Host, target: &Target) -> Vec<Finding> {
    let Some(table) = host.read("/proc/interrupts") else { return Vec::new() };
    let cpus = host.cpus();
    let mut findings = Vec::new();
    for device in devices(host, target) {
        let numbers: Vec<u64> = table.lines().filter_map(|line| interrupt_of(line, &device)).collect();
        // One queue has nothing to be spread over.
        if numbers.len() < 2 || cpus.is_empty() {
            continue;
        }
        for (queue, number) in numbers.into_iter().enumerate() {
            let wanted = cpus[queue % cpus.len()].to_string();
            let effective = host.value(&format!("/proc/irq/{number}/effective_affinity_list"));
            let file = format!("/proc/irq/{number}/smp_affinity_list");
            let on_one = |found: &str| found == wanted || effective.as_ref() == Some(&wanted);
            findings.extend(Finding::setting(host, &file, &wanted, on_one));
        }
    }
    findings
}

/// How the interrupts of disks and network cards begin.
fn devices(host: &Host, target: &Target) -> Vec<String> {
    let mut names = Vec::new();
    for disk in host.disks(&target.dirs) {
        match host.link(&format!("/sys/block/{disk}/device")) {
            Some(device) if device.starts_with("virtio") => names.push(format!("{device}-req.")),
            // `nvme0n1` is a name space of `nvme0`, whose first queue (`nvme0q0`) is for administration.
            _ => names.push(disk.split_once('n').map_or(disk.clone(), |_| nvme_controller(&disk)) + "q"),
        }
    }
    for interface in host.interfaces() {
        match host.link(&format!("/sys/class/net/{interface}/device")) {
            Some(device) if device.starts_with("virtio") => {
                names.extend([format!("{device}-input."), format!("{device}-output.")]);
            }
            _ => names.push(format!("{interface}-")),
        }
    }
    names
}

fn nvme_controller(disk: &str) -> String {
    let end = disk.rfind('n').filter(|&at| at > 0).unwrap_or(disk.len());
    disk[..end].to_owned()
}

/// The number of a line of `/proc/interrupts` that belongs to a queue of the device.
fn interrupt_of(line: &str, device: &str) -> Option<u64> {
    let (number, rest) = line.trim_start().split_once(':')?;
    let name = rest.split_whitespace().last()?;
    let queue = name.strip_prefix(device)?;
    (!(device.starts_with("nvme") && queue == "0")).then(|| number.parse().ok()).flatten()
}
