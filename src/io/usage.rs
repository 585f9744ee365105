//! What the calling thread has used, and how exactly it wakes. Called by the load generator, which reports its own cost.

/// CPU time of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    pub user_ns: u64,
    pub system_ns: u64,
}

impl CpuTime {
    pub fn total_ns(self) -> u64 {
        self.user_ns + self.system_ns
    }
}

/// The CPU time of the calling thread so far.
pub fn thread_cpu_time() -> CpuTime {
    // SAFETY: `rusage` is a plain structure of integers, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: needed for the times of one thread, which std does not show. The call writes one structure and cannot fail
    // with these arguments.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    CpuTime { user_ns: ns(usage.ru_utime), system_ns: ns(usage.ru_stime) }
}

/// Makes the calling thread's sleeps end when they should: by default the kernel adds up to 50 us to save wake-ups.
pub fn wake_exactly() {
    // SAFETY: needed because nothing else sets it. No memory is passed; an old kernel's refusal does no harm.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows_with_work() {
        wake_exactly();
        let before = thread_cpu_time().total_ns();
        let mut sum = 0u64;
        while thread_cpu_time().total_ns() < before + 20_000_000 {
            sum = (0..100_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        assert!(thread_cpu_time().total_ns() > before);
    }
}
