//! The machine a run was made on, and what a broker on it used. Read from `/proc`; what cannot be read is left empty.

use std::fs::read_to_string;

use serde::Serialize;

/// Clock ticks of `/proc/PID/stat`, which Linux fixes at this on every architecture it reports them for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What tells one machine from another.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub memory_bytes: u64,
    pub governor: Option<String>,
}

impl Machine {
    pub fn read() -> Machine {
        let file = |path: &str| read_to_string(path).unwrap_or_default();
        let cpuinfo = file("/proc/cpuinfo");
        let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let cpu = line.and_then(|line| line.split_once(':')).map_or("", |(_, name)| name.trim());
        let governor = read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").ok();
        Machine {
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_bytes: kilobytes(&file("/proc/meminfo"), "MemTotal:").unwrap_or(0),
            governor: governor.map(|name| name.trim().to_owned()),
        }
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
    /// Since the process began.
    pub rss_peak_bytes: u64,
}

impl ProcessUsage {
    /// `None` when there is no such process.
    pub fn read(pid: u32) -> Option<ProcessUsage> {
        let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(ProcessUsage {
            cpu_seconds: cpu_seconds(&stat)?,
            rss_bytes: kilobytes(&status, "VmRSS:").unwrap_or(0),
            rss_peak_bytes: kilobytes(&status, "VmHWM:").unwrap_or(0),
        })
    }
}

/// User and system time: the 14th and 15th field; the second, the name, may hold anything but ends at the last bracket.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_an_odd_name_is_read() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(kilobytes("VmHWM:\t  20 kB\nVmRSS:\t  10 kB\n", "VmRSS:"), Some(10_240));
        assert_eq!(cpu_seconds("12 (x"), None);
    }

    #[test]
    fn this_process_is_there() {
        assert!(ProcessUsage::read(std::process::id()).is_some_and(|usage| usage.rss_bytes > 0));
        assert!(Machine::read().cores > 0);
    }
}
