//! Items about the network.

use super::{Finding, Host, Target};

const BACKLOG_MIN: u64 = 4096;
const BUFFER_BYTES_MIN: u64 = 16 << 20;
const FLOW_ENTRIES: u64 = 32768;

const CORE: &str = "/proc/sys/net/core";
const IPV4: &str = "/proc/sys/net/ipv4";

fn at_least(host: &Host, file: &str, least: u64) -> Option<Finding> {
    Finding::setting(host, file, &least.to_string(), |found| {
        found.parse().is_ok_and(|value: u64| value >= least)
    })
}

pub fn backlog(host: &Host, _: &Target) -> Vec<Finding> {
    let files = [
        format!("{CORE}/somaxconn"),
        format!("{IPV4}/tcp_max_syn_backlog"),
        format!("{CORE}/netdev_max_backlog"),
    ];
    files.iter().filter_map(|file| at_least(host, file, BACKLOG_MIN)).collect()
}

/// The last of the three numbers of `tcp_rmem` and `tcp_wmem` bounds what the kernel's auto-tuning gives a connection.
pub fn socket_buffers(host: &Host, _: &Target) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["tcp_rmem", "tcp_wmem"] {
        let file = format!("{IPV4}/{name}");
        let Some(found) = host.value(&file) else { continue };
        let numbers: Vec<u64> = found.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [least, start, most] = numbers[..] else { continue };
        let wanted = format!("{least}\t{start}\t{}", most.max(BUFFER_BYTES_MIN));
        findings.extend(Finding::setting(host, &file, &wanted, |_| most >= BUFFER_BYTES_MIN));
    }
    // What a broker that sets sizes itself may ask for.
    let files = [format!("{CORE}/rmem_max"), format!("{CORE}/wmem_max")];
    findings.extend(files.iter().filter_map(|file| at_least(host, file, BUFFER_BYTES_MIN)));
    findings
}

pub fn slow_start(host: &Host, _: &Target) -> Vec<Finding> {
    let file = format!("{IPV4}/tcp_slow_start_after_idle");
    Finding::setting(host, &file, "0", |found| found == "0").into_iter().collect()
}

/// A card with fewer queues than there are CPUs: the kernel spreads the work of receiving.
pub fn receive_steering(host: &Host, _: &Target) -> Vec<Finding> {
    let cpus = host.cpus();
    let mut findings = Vec::new();
    let mut steered = 0;
    for interface in host.interfaces() {
        let queues = queues(host, &interface, "rx-");
        if queues.is_empty() || queues.len() >= cpus.len() {
            continue;
        }
        steered += queues.len() as u64;
        for queue in queues {
            let set = |found: &str| found.chars().any(|c| !matches!(c, '0' | ','));
            findings.extend(Finding::setting(host, &format!("{queue}/rps_cpus"), &mask(&cpus), set));
        }
    }
    if let Some(each) = FLOW_ENTRIES.checked_div(steered) {
        findings.extend(at_least(host, &format!("{CORE}/rps_sock_flow_entries"), FLOW_ENTRIES));
        for interface in host.interfaces() {
            let queues = queues(host, &interface, "rx-");
            let files = queues
                .iter()
                .filter(|_| queues.len() < cpus.len())
                .map(|queue| format!("{queue}/rps_flow_cnt"));
            findings.extend(files.filter_map(|file| at_least(host, &file, each)));
        }
    }
    findings
}

/// A card with several queues: each CPU sends through its own.
pub fn send_steering(host: &Host, _: &Target) -> Vec<Finding> {
    let cpus = host.cpus();
    let mut findings = Vec::new();
    for interface in host.interfaces() {
        let queues = queues(host, &interface, "tx-");
        if queues.len() < 2 {
            continue;
        }
        for (index, queue) in queues.iter().enumerate() {
            let own: Vec<usize> = cpus.iter().copied().skip(index).step_by(queues.len()).collect();
            // A queue beyond the CPUs may stay as it is.
            if own.is_empty() {
                continue;
            }
            let wanted = mask(&own);
            let set = |found: &str| found.chars().any(|c| !matches!(c, '0' | ','));
            findings.extend(Finding::setting(host, &format!("{queue}/xps_cpus"), &wanted, set));
        }
    }
    findings
}

fn queues(host: &Host, interface: &str, prefix: &str) -> Vec<String> {
    let dir = format!("/sys/class/net/{interface}/queues");
    let names = host.list(&dir).into_iter().filter(|name| name.starts_with(prefix));
    names.map(|name| format!("{dir}/{name}")).collect()
}

/// CPUs as the kernel takes them: hexadecimal, in groups of 32 bits, the highest first.
pub fn mask(cpus: &[usize]) -> String {
    let last = cpus.iter().copied().max().unwrap_or(0) / 32;
    let group = |index: usize| {
        let bits = cpus.iter().filter(|cpu| *cpu / 32 == index);
        bits.fold(0u32, |mask, cpu| mask | 1 << (cpu % 32))
    };
    let mut text = format!("{:x}", group(last));
    (0..last).rev().for_each(|index| text.push_str(&format!(",{:08x}", group(index))));
    text
}
