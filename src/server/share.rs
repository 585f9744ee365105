//! How much of the machine a broker takes where its configuration leaves that open: a shard for each CPU it may use, a
//! quarter of the memory. Counted are what affinity and control groups leave of the machine, so that a container's limits hold
//! without being told twice.

use crate::config::BrokerConfig;
use crate::io::cgroup::Limits;
use crate::tune::measure::Measured;

/// What the buffers take at most unless the configuration says more.
const MEMORY_BYTES_DEFAULT_MAX: usize = 2 << 30;
/// What is written takes no more of that: until all of it has been touched once, each fresh page costs a produce more than
/// everything else it does. What is read from the disk again and again is worth the rest.
const SETTLED_BYTES_DEFAULT_MAX: usize = 512 << 20;
/// A shard's buffers are no smaller, so shards that nobody asked for have to fit into half of the memory.
pub const SHARD_BYTES_MIN: usize = 32 << 20;

/// What there is.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The cores that this process may run on.
    pub cores: Vec<usize>,
    pub memory_bytes: usize,
    pub limits: Limits,
}

/// What is taken of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub shards: usize,
    /// Whether shards stay on cores of their own.
    pub pin: bool,
    pub memory_bytes: usize,
    /// The part of the memory that what is written takes.
    pub settled_bytes: usize,
}

impl Machine {
    pub fn read(cores: Vec<usize>) -> Machine {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|text| text.split_whitespace().next()?.parse::<usize>().ok());
        let memory_bytes = kib.map_or(1 << 30, |kib| kib * 1024);
        Machine { cores, memory_bytes, limits: Limits::read() }
    }

    /// The memory that this process may use.
    fn usable_bytes(&self) -> usize {
        let limit = self.limits.memory_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        limit.map_or(self.memory_bytes, |limit| limit.min(self.memory_bytes))
    }

    /// The CPUs' worth of time of this process, begun ones included.
    fn usable_cpus(&self) -> usize {
        let cores = self.cores.len().max(1);
        self.limits.cpus.map_or(cores, |cpus| (cpus.ceil() as usize).clamp(1, cores))
    }

    pub fn share(&self, config: &BrokerConfig) -> Share {
        let quarter_bytes = self.usable_bytes() / 4;
        let or_default = |max: usize| match config.storage.memory_bytes {
            0 => quarter_bytes.min(max),
            bytes => bytes as usize,
        };
        let fitting = (self.usable_bytes() / 2 / SHARD_BYTES_MIN).max(1);
        Share {
            shards: match config.shards {
                0 => self.usable_cpus().min(fitting),
                shards => shards,
            },
            // A quota below the cores means that they are others' as well: a pinned thread would wait for its own core
            // while another is free.
            pin: config.pin && self.usable_cpus() >= self.cores.len(),
            memory_bytes: or_default(MEMORY_BYTES_DEFAULT_MAX),
            settled_bytes: or_default(SETTLED_BYTES_DEFAULT_MAX),
        }
    }
}

/// What compaction may read and write in a second: as configured, else half of what the slowest of the measured disks writes, so
/// that clients have the other half whatever there is to compact.
pub fn cleaner_bytes_per_second(config: &BrokerConfig, measured: &[Measured]) -> f64 {
    let configured = config.storage.cleaner_io_max_bytes_per_second;
    let slowest =
        measured.iter().map(|disk| disk.write_bytes_per_second).filter(|bytes| *bytes > 0.0).reduce(f64::min);
    match slowest {
        Some(bytes) if configured == f64::MAX => bytes / 2.0,
        _ => configured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn share(settings: &[&str], cores: usize, memory_mib: usize, limits: Limits) -> Share {
        let mut all = Settings::new();
        settings.iter().for_each(|setting| all.add_set(setting));
        let (config, _) = all.resolve().unwrap();
        let machine = Machine { cores: (0..cores).collect(), memory_bytes: memory_mib << 20, limits };
        machine.share(&config)
    }

    fn limits(cpus: Option<f64>, memory_mib: Option<u64>) -> Limits {
        Limits { cpus, memory_bytes: memory_mib.map(|mib| mib << 20) }
    }

    #[test]
    fn a_machine_of_its_own_is_used_whole() {
        let expected = Share { shards: 8, pin: true, memory_bytes: 2 << 30, settled_bytes: 512 << 20 };
        assert_eq!(share(&[], 8, 32 << 10, Limits::default()), expected);
        let small = share(&[], 2, 1024, Limits::default());
        assert_eq!(small, Share { shards: 2, pin: true, memory_bytes: 256 << 20, settled_bytes: 256 << 20 });
    }

    #[test]
    fn a_quota_counts_like_cores_that_are_not_there() {
        let quota = |cpus| share(&[], 8, 32 << 10, limits(Some(cpus), None));
        assert_eq!((quota(1.5).shards, quota(1.5).pin), (2, false));
        assert_eq!(quota(0.1).shards, 1);
        // As with the static CPU manager: the cores are its own, and the quota says the same.
        assert_eq!((quota(8.0).shards, quota(8.0).pin), (8, true));
        assert_eq!(quota(64.0).shards, 8);
        let asked = share(&["ringlog.shards=4"], 8, 32 << 10, limits(Some(1.0), None));
        assert_eq!(asked.shards, 4, "what is set is set");
    }

    #[test]
    fn a_memory_limit_bounds_buffers_and_shards() {
        let small = share(&[], 64, 256 << 10, limits(None, Some(512)));
        assert_eq!(small, Share { shards: 8, pin: true, memory_bytes: 128 << 20, settled_bytes: 128 << 20 });
        assert_eq!(share(&[], 64, 256 << 10, limits(None, Some(16))).shards, 1);
        // A limit above the machine is none.
        assert_eq!(share(&[], 2, 2048, limits(None, Some(1 << 20))).memory_bytes, 512 << 20);
        let asked = share(&["ringlog.memory.bytes=4294967296"], 2, 2048, limits(None, Some(512)));
        assert_eq!((asked.memory_bytes, asked.settled_bytes), (4 << 30, 4 << 30));
    }

    #[test]
    fn compaction_leaves_clients_half_of_a_measured_disk() {
        let config = |settings: &[&str]| {
            let mut all = Settings::new();
            settings.iter().for_each(|setting| all.add_set(setting));
            all.resolve().unwrap().0
        };
        let disk = |bytes| Measured { write_bytes_per_second: bytes, ..Measured::default() };
        assert_eq!(cleaner_bytes_per_second(&config(&[]), &[]), f64::MAX);
        assert_eq!(cleaner_bytes_per_second(&config(&[]), &[disk(4e8), disk(1e8), disk(0.0)]), 5e7);
        let set = config(&["log.cleaner.io.max.bytes.per.second=1000"]);
        assert_eq!(cleaner_bytes_per_second(&set, &[disk(1e8)]), 1000.0);
    }

    #[test]
    fn pinning_can_be_switched_off() {
        assert!(!share(&["ringlog.pin=false"], 2, 2048, Limits::default()).pin);
    }
}
