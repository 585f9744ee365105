//! The two clocks, read once a turn. Used by the drivers; everything above asks [`super::Io::now`].

/// What the clocks said when they were last read.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub now_ns: u64,
    pub wall_ms: i64,
}

impl Clock {
    pub fn read() -> Clock {
        let wall = time_of(libc::CLOCK_REALTIME);
        Clock {
            now_ns: monotonic_ns(),
            wall_ms: wall.tv_sec.saturating_mul(1000).saturating_add(wall.tv_nsec / 1_000_000),
        }
    }
}

/// Nanoseconds of the monotonic clock.
pub fn monotonic_ns() -> u64 {
    let time = time_of(libc::CLOCK_MONOTONIC);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn time_of(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: needed for a plain number: `Instant` does not show one. The call writes one timespec and cannot fail for
    // these clocks.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_go() {
        let first = Clock::read();
        let second = Clock::read();
        assert!(first.now_ns > 0 && second.now_ns >= first.now_ns);
        assert!(first.wall_ms > 1_600_000_000_000);
    }
}
