//! The machine a run was made on, and what a broker on it used. Read from `/proc`; what cannot be read is left empty.

use std::fs::read_to_string;
use std::net::SocketAddr;

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

/// What all of the machine's cores did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostUsage {
    busy_seconds: f64,
    /// Taken by the hypervisor for others.
    steal_seconds: f64,
    all_seconds: f64,
}

impl HostUsage {
    pub fn read() -> Option<HostUsage> {
        HostUsage::parse(&read_to_string("/proc/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<HostUsage> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().take(8);
        let ticks: Vec<f64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
        let &[user, nice, system, idle, io_wait, irq, soft_irq, steal] = ticks.as_slice() else {
            return None;
        };
        let busy = user + nice + system + irq + soft_irq;
        Some(HostUsage {
            busy_seconds: busy / TICKS_PER_SECOND,
            steal_seconds: steal / TICKS_PER_SECOND,
            all_seconds: (busy + idle + io_wait + steal) / TICKS_PER_SECOND,
        })
    }
}

/// How much of the machine went to anything else while it was measured; parts of all its cores, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Noise {
    /// Taken by processes other than the generator and the broker; `None` where the broker is on this machine and its process
    /// is not known, or may be.
    pub other_cpu: Option<f64>,
    /// Taken by the hypervisor for other machines.
    pub steal_cpu: f64,
}

impl Noise {
    /// Between two looks; `ours_seconds` is what generator and broker used, if both are known.
    pub fn between(before: HostUsage, after: HostUsage, ours_seconds: Option<f64>) -> Noise {
        let all = (after.all_seconds - before.all_seconds).max(f64::MIN_POSITIVE);
        let busy = after.busy_seconds - before.busy_seconds;
        Noise {
            other_cpu: ours_seconds.map(|ours| ((busy - ours) / all).clamp(0.0, 1.0)),
            steal_cpu: ((after.steal_seconds - before.steal_seconds) / all).clamp(0.0, 1.0),
        }
    }
}

/// The process of this machine that listens on a loopback address, if it may be looked at.
pub fn listener_pid(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() {
        return None;
    }
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| read_to_string(path).ok())
        .flat_map(|text| listening_inodes(&text, address.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .any(|link| link.to_str().is_some_and(|link| sockets.iter().any(|socket| socket == link)))
    })
}

/// Inodes of the sockets that listen on a port: field 2 is `ADDRESS:PORT` in hexadecimal, 4 the state (0A: listening), 10 the inode.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let listens = fields.get(3) == Some(&"0A") && u16::from_str_radix(hex, 16) == Ok(port);
        fields.get(9).filter(|_| listens)?.parse().ok()
    };
    table.lines().filter_map(line).collect()
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
    fn what_others_used_is_what_is_left() {
        let host = |text: &str| HostUsage::parse(text).unwrap();
        let before = host("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1");
        let after = host("cpu  200 0 200 1400 0 50 50 100 0 0\n");
        let noise = Noise::between(before, after, Some(2.5));
        assert!((noise.other_cpu.unwrap() - 0.05).abs() < 1e-9 && (noise.steal_cpu - 0.1).abs() < 1e-9);
        assert_eq!(Noise::between(before, after, None).other_cpu, None);
        assert_eq!(Noise::between(before, after, Some(9.0)).other_cpu, Some(0.0));
        assert!(HostUsage::parse("cpu 1 2").is_none() && HostUsage::read().is_some());
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(listener_pid(address), Some(std::process::id()));
        drop(listener);
        assert_ne!(listener_pid(address), Some(std::process::id()));
        assert_eq!(listener_pid("10.1.2.3:9092".parse().unwrap()), None);
    }

    #[test]
    fn this_process_is_there() {
        assert!(ProcessUsage::read(std::process::id()).is_some_and(|usage| usage.rss_bytes > 0));
        assert!(Machine::read().cores > 0);
    }
}
