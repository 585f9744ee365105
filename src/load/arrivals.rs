//! Arrival processes of the open loop: at which times records are meant to go, whatever the broker does.
//!
//! All but Poisson give the time of arrival `n` in closed form, so that any producer finds its own without the others and a
//! long run does not drift. Poisson is drawn by each producer for itself ([`super::schedule`]): the sum of independent Poisson
//! processes is one. Times are nanoseconds from the start of the run, warm-up included, and never go back.

use std::sync::Arc;

use super::options::SECOND_NS;
use super::trace::Trace;

/// See the module. Rates are records a second over all producers, in the mean.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Evenly spaced.
    Constant { rate: f64 },
    /// Independent of each other: gaps are exponential.
    Poisson { rate: f64 },
    /// All records of `every_ns` within its first `within_ns`; 0: at once.
    Burst { rate: f64, every_ns: u64, within_ns: u64 },
    /// As a file says, this many times as fast.
    Trace { trace: Arc<Trace>, speed: f64 },
}

impl Arrivals {
    pub fn name(&self) -> &'static str {
        match self {
            Arrivals::Constant { .. } => "constant",
            Arrivals::Poisson { .. } => "poisson",
            Arrivals::Burst { .. } => "burst",
            Arrivals::Trace { .. } => "trace",
        }
    }

    /// Records a second, in the mean.
    pub fn rate(&self) -> f64 {
        match *self {
            Arrivals::Constant { rate } | Arrivals::Poisson { rate } | Arrivals::Burst { rate, .. } => rate,
            Arrivals::Trace { ref trace, speed } => trace.rate() * speed,
        }
    }

    /// The same process at another mean rate; a trace is played faster or slower.
    pub fn at_rate(&self, rate: f64) -> Arrivals {
        match self {
            Arrivals::Constant { .. } => Arrivals::Constant { rate },
            Arrivals::Poisson { .. } => Arrivals::Poisson { rate },
            Arrivals::Burst { every_ns, within_ns, .. } => {
                Arrivals::Burst { rate, every_ns: *every_ns, within_ns: *within_ns }
            }
            Arrivals::Trace { trace, .. } => {
                Arrivals::Trace { trace: trace.clone(), speed: rate / trace.rate() }
            }
        }
    }

    /// The time of arrival `n`. Not asked of Poisson, which has none before it is drawn.
    #[inline]
    pub fn time_ns(&self, n: u64) -> u64 {
        match *self {
            Arrivals::Constant { rate } | Arrivals::Poisson { rate } => {
                (n as f64 * (SECOND_NS as f64 / rate)) as u64
            }
            Arrivals::Burst { rate, every_ns, within_ns } => {
                let periods = n as f64 / (rate * every_ns as f64 / SECOND_NS as f64);
                (periods.floor() * every_ns as f64 + periods.fract() * within_ns as f64) as u64
            }
            Arrivals::Trace { ref trace, speed } => (trace.time_ns(n) / speed) as u64,
        }
    }

    /// How many arrivals lie before this time; not asked of Poisson.
    pub fn before(&self, time_ns: u64) -> u64 {
        let mut above = 1u64;
        while above < 1 << 60 && self.time_ns(above) < time_ns {
            above *= 2;
        }
        // The smallest `n` that is not before, in [below, above].
        let (mut below, mut above) = (0, above);
        while below < above {
            let middle = below + (above - below) / 2;
            if self.time_ns(middle) < time_ns {
                below = middle + 1;
            } else {
                above = middle;
            }
        }
        below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_counts_what_time_says() {
        let trace = Trace::parse("0,3\n0.5,1\n2,0\n").unwrap();
        let all = [
            Arrivals::Constant { rate: 333.3 },
            Arrivals::Burst { rate: 100.0, every_ns: SECOND_NS, within_ns: 0 },
            Arrivals::Burst { rate: 7.3, every_ns: SECOND_NS, within_ns: SECOND_NS / 3 },
            Arrivals::Trace { trace: Arc::new(trace), speed: 2.0 },
        ];
        for arrivals in all {
            for time_ns in [0, 1, 999_999_999, SECOND_NS, SECOND_NS + 1, 7 * SECOND_NS / 3, 3600 * SECOND_NS]
            {
                let n = arrivals.before(time_ns);
                assert!(n == 0 || arrivals.time_ns(n - 1) < time_ns, "{arrivals:?} {time_ns}");
                assert!(arrivals.time_ns(n) >= time_ns, "{arrivals:?} {time_ns}");
            }
        }
    }

    #[test]
    fn bursts_come_at_once_or_within_their_time_and_keep_the_mean() {
        let at_once = Arrivals::Burst { rate: 100.0, every_ns: SECOND_NS / 10, within_ns: 0 };
        let times: Vec<u64> = (0..21).map(|n| at_once.time_ns(n)).collect();
        assert_eq!(times[..10], [0; 10]);
        assert_eq!(times[10..20], [100_000_000; 10]);
        assert_eq!(times[20], 200_000_000);
        let spread = Arrivals::Burst { rate: 100.0, every_ns: SECOND_NS, within_ns: SECOND_NS / 4 };
        assert_eq!(spread.time_ns(50), SECOND_NS / 8);
        assert_eq!(spread.time_ns(100), SECOND_NS);
        assert_eq!(spread.before(10 * SECOND_NS), 1000);
    }

    #[test]
    fn another_rate_is_the_same_process() {
        let trace = Arc::new(Trace::parse("0,10\n1,0").unwrap());
        for arrivals in [
            Arrivals::Constant { rate: 5.0 },
            Arrivals::Poisson { rate: 5.0 },
            Arrivals::Burst { rate: 5.0, every_ns: 7, within_ns: 3 },
            Arrivals::Trace { trace, speed: 1.0 },
        ] {
            let faster = arrivals.at_rate(40.0);
            assert_eq!(faster.name(), arrivals.name());
            assert!((faster.rate() - 40.0).abs() < 1e-9);
        }
    }
}
