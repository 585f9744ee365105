//! When records arrive. Open loop: the plan is fixed before the run and no delay moves it. Closed: whenever there is room.
//!
//! All producers share one plan ([`Arrivals`]): producer `i` of `P` has the arrivals `n` with `n % P == i`, so the sum over
//! producers is as even as one producer's would be. Only Poisson arrivals are each producer's own: drawn from the seed of the
//! run, one after the other, at its part of the rate.

use super::arrivals::Arrivals;
use super::options::{Length, Pace, SECOND_NS};
use super::payload::{Random, mix};

/// The times of a run, the same for all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    pub start_ns: u64,
    /// The end of the warm-up: what was meant to go before is not measured.
    pub measure_ns: u64,
    /// No arrival from here on; `u64::MAX` when a number of records ends the run.
    pub stop_ns: u64,
}

impl Phases {
    pub fn new(start_ns: u64, warmup_ns: u64, duration_ns: Option<u64>) -> Phases {
        let measure_ns = start_ns.saturating_add(warmup_ns);
        Phases {
            start_ns,
            measure_ns,
            stop_ns: duration_ns.map_or(u64::MAX, |ns| measure_ns.saturating_add(ns)),
        }
    }

    pub fn is_measured(&self, intended_ns: u64) -> bool {
        self.measure_ns <= intended_ns && intended_ns < self.stop_ns
    }
}

/// The arrivals of one producer.
#[derive(Clone, Debug)]
pub enum Schedule {
    Planned(Planned),
    Poisson(Poisson),
    Max {
        phases: Phases,
        /// Measured records left to send; `None`: until the time is over.
        left: Option<u64>,
    },
}

/// Arrivals whose times are known beforehand.
#[derive(Clone, Debug)]
pub struct Planned {
    arrivals: Arrivals,
    start_ns: u64,
    /// The number of the next arrival in the whole plan, its time, and the first number that is none.
    next: u64,
    next_ns: u64,
    end: u64,
    step: u64,
}

/// Arrivals drawn one by one.
#[derive(Clone, Debug)]
pub struct Poisson {
    phases: Phases,
    random: Random,
    mean_gap_ns: f64,
    /// The next arrival, from the start; kept with its fraction so that rounding does not add up.
    at_ns: f64,
    /// Measured records left; `None`: until the time is over.
    left: Option<u64>,
    cancelled: bool,
}

impl Schedule {
    pub fn new(
        pace: &Pace,
        length: Length,
        phases: Phases,
        producer: u32,
        producers: u32,
        seed: u64,
    ) -> Schedule {
        let share = |records: u64| {
            let (producer, producers) = (u64::from(producer), u64::from(producers));
            records / producers + u64::from(producer < records % producers)
        };
        let left = match length {
            Length::DurationNs(_) => None,
            Length::Records(records) => Some(share(records)),
        };
        match pace {
            Pace::Max => Schedule::Max { phases, left },
            Pace::Open(Arrivals::Poisson { rate }) => {
                let mean_gap_ns = SECOND_NS as f64 / rate * f64::from(producers);
                let random = Random::new(mix(seed ^ mix(u64::from(producer) + 1)));
                let mut poisson = Poisson { phases, random, mean_gap_ns, at_ns: 0.0, left, cancelled: false };
                poisson.draw();
                Schedule::Poisson(poisson)
            }
            Pace::Open(arrivals) => {
                let end = match length {
                    Length::Records(records) => {
                        arrivals.before(phases.measure_ns - phases.start_ns).saturating_add(records)
                    }
                    Length::DurationNs(_) => arrivals.before(phases.stop_ns - phases.start_ns),
                };
                let next = u64::from(producer);
                Schedule::Planned(Planned {
                    next_ns: phases.start_ns.saturating_add(arrivals.time_ns(next)),
                    arrivals: arrivals.clone(),
                    start_ns: phases.start_ns,
                    next,
                    end,
                    step: u64::from(producers),
                })
            }
        }
    }

    /// The time of the next arrival; `None` behind the end, and always in the closed loop.
    #[inline]
    pub fn next_ns(&self) -> Option<u64> {
        match self {
            Schedule::Planned(it) => (it.next < it.end).then_some(it.next_ns),
            Schedule::Poisson(it) => it.next_ns(),
            Schedule::Max { .. } => None,
        }
    }

    /// As [`Schedule::next_ns`], of the `ahead`th arrival from now on where that is known, else of the next.
    pub fn arrival_ns(&self, ahead: u64) -> Option<u64> {
        match self {
            Schedule::Planned(it) => {
                let n = it.next.checked_add(ahead.checked_mul(it.step)?)?;
                (n < it.end).then(|| it.start_ns.saturating_add(it.arrivals.time_ns(n)))
            }
            _ => self.next_ns(),
        }
    }

    /// The time of the next record to be put into a batch, if it is due.
    #[inline]
    pub fn due(&self, now_ns: u64) -> Option<u64> {
        match self {
            Schedule::Max { .. } => (!self.is_over(now_ns)).then_some(now_ns),
            _ => self.next_ns().filter(|&at| at <= now_ns),
        }
    }

    /// Counts the record that was due.
    #[inline]
    pub fn take(&mut self, now_ns: u64) {
        match self {
            Schedule::Planned(it) => {
                it.next += it.step;
                it.next_ns = it.start_ns.saturating_add(it.arrivals.time_ns(it.next));
            }
            Schedule::Poisson(it) => it.take(),
            Schedule::Max { phases, left: Some(left) } if now_ns >= phases.measure_ns => *left -= 1,
            Schedule::Max { .. } => {}
        }
    }

    /// Whether no record will come any more.
    pub fn is_over(&self, now_ns: u64) -> bool {
        match self {
            Schedule::Max { phases, left } => now_ns >= phases.stop_ns || *left == Some(0),
            _ => self.next_ns().is_none(),
        }
    }

    /// Ends the plan here: what is left of it, in records (0 in the closed loop, which plans nothing; of Poisson what is
    /// to be expected).
    pub fn cancel(&mut self) -> u64 {
        match self {
            Schedule::Planned(it) => {
                let left = it.end.saturating_sub(it.next).div_ceil(it.step);
                it.end = it.next;
                left
            }
            Schedule::Poisson(it) => it.cancel(),
            Schedule::Max { left, .. } => {
                *left = Some(0);
                0
            }
        }
    }
}

impl Poisson {
    #[inline]
    fn draw(&mut self) {
        // In (0, 1]: 53 bits, as many as a float tells apart.
        let uniform = ((self.random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        self.at_ns -= uniform.ln() * self.mean_gap_ns;
    }

    #[inline]
    fn next_ns(&self) -> Option<u64> {
        let at = self.phases.start_ns.saturating_add(self.at_ns as u64);
        let more = !self.cancelled && self.left != Some(0) && at < self.phases.stop_ns;
        more.then_some(at)
    }

    #[inline]
    fn take(&mut self) {
        if let Some(left) = &mut self.left
            && self.phases.start_ns.saturating_add(self.at_ns as u64) >= self.phases.measure_ns
        {
            *left = left.saturating_sub(1);
        }
        self.draw();
    }

    fn cancel(&mut self) -> u64 {
        let Some(next) = self.next_ns() else { return 0 };
        self.cancelled = true;
        let until_stop = || ((self.phases.stop_ns - next) as f64 / self.mean_gap_ns).round() as u64;
        self.left.unwrap_or_else(until_stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(rate: f64) -> Pace {
        Pace::Open(Arrivals::Constant { rate })
    }

    fn drain(schedule: &mut Schedule) -> Vec<u64> {
        let mut times = Vec::new();
        while let Some(at) = schedule.due(u64::MAX) {
            times.push(at);
            schedule.take(at);
        }
        times
    }

    #[test]
    fn producers_share_one_even_plan() {
        let phases = Phases::new(1000, 0, Some(SECOND_NS));
        let mut all = Vec::new();
        for producer in 0..3 {
            let length = Length::DurationNs(SECOND_NS);
            all.extend(drain(&mut Schedule::new(&constant(1000.0), length, phases, producer, 3, 0)));
        }
        all.sort_unstable();
        let expected: Vec<u64> = (0..1000).map(|n| 1000 + n * 1_000_000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_long_run_does_not_drift() {
        let day = 86_400 * SECOND_NS;
        let phases = Phases::new(0, 0, Some(day));
        let schedule = Schedule::new(&constant(333_333.3), Length::DurationNs(day), phases, 0, 1, 0);
        let n = (333_333.3 * 86_399.0) as u64;
        let at = schedule.arrival_ns(n).unwrap();
        let exact = (u128::from(n) * 10_000_000_000 / 3_333_333) as u64;
        assert!(at.abs_diff(exact) < 100, "{at} {exact}");
    }

    #[test]
    fn a_number_of_records_counts_those_behind_the_warm_up() {
        let phases = Phases::new(0, SECOND_NS / 2, None);
        let mut schedule = Schedule::new(&constant(10.0), Length::Records(7), phases, 0, 1, 0);
        let times = drain(&mut schedule);
        assert_eq!(times.len(), 12);
        assert_eq!(times.iter().filter(|&&at| phases.is_measured(at)).count(), 7);
    }

    #[test]
    fn nothing_is_due_before_its_time_and_nothing_is_left_out_after_a_stall() {
        let phases = Phases::new(0, 0, Some(SECOND_NS));
        let mut schedule = Schedule::new(&constant(100.0), Length::DurationNs(SECOND_NS), phases, 0, 1, 0);
        assert_eq!(schedule.due(0), Some(0));
        schedule.take(0);
        assert_eq!(schedule.due(9_999_999), None);
        // A stall of half a second: the arrivals keep the times they had in the plan.
        let mut late = Vec::new();
        while let Some(at) = schedule.due(500_000_000) {
            late.push(at);
            schedule.take(500_000_000);
        }
        assert_eq!(late, (1..=50).map(|n| n * 10_000_000).collect::<Vec<_>>());
        assert_eq!(schedule.cancel(), 49);
        assert!(schedule.is_over(0) && schedule.due(u64::MAX).is_none());
    }

    #[test]
    fn the_closed_loop_ends_by_time_or_by_its_share() {
        let phases = Phases::new(0, 10, Some(100));
        let mut schedule = Schedule::new(&Pace::Max, Length::DurationNs(100), phases, 0, 1, 0);
        assert_eq!((schedule.due(109), schedule.due(110)), (Some(109), None));
        schedule.take(5);
        let phases = Phases::new(0, 10, None);
        let shares: Vec<usize> = (0..3)
            .map(|i| {
                let mut schedule = Schedule::new(&Pace::Max, Length::Records(7), phases, i, 3, 0);
                schedule.take(5); // in the warm-up: not counted
                let mut count = 0;
                while schedule.due(20).is_some() {
                    schedule.take(20);
                    count += 1;
                }
                count
            })
            .collect();
        assert_eq!(shares, [3, 2, 2]);
    }

    #[test]
    fn poisson_arrivals_are_independent_and_repeat_with_their_seed() {
        let phases = Phases::new(1000, 0, Some(100 * SECOND_NS));
        let pace = Pace::Open(Arrivals::Poisson { rate: 1000.0 });
        let of = |producer, seed| {
            let length = Length::DurationNs(100 * SECOND_NS);
            drain(&mut Schedule::new(&pace, length, phases, producer, 4, seed))
        };
        assert_eq!(of(1, 7), of(1, 7));
        assert_ne!(of(1, 7), of(2, 7));
        assert_ne!(of(1, 7), of(1, 8));
        let mut all: Vec<u64> = (0..4).flat_map(|producer| of(producer, 7)).collect();
        all.sort_unstable();
        assert!(all.iter().all(|&at| phases.is_measured(at)));
        // 100,000 expected; the standard deviation is 316. The counts of milliseconds vary as much as their mean, which
        // even arrivals would not and clustered ones would exceed.
        assert!(all.len().abs_diff(100_000) < 1600, "{}", all.len());
        let mut counts = vec![0f64; 100_000];
        all.iter().for_each(|at| counts[((at - 1000) / 1_000_000) as usize] += 1.0);
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let variance = counts.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / counts.len() as f64;
        assert!((0.95..1.05).contains(&(variance / mean)), "{}", variance / mean);
    }

    #[test]
    fn poisson_arrivals_end_by_number_behind_the_warm_up() {
        let phases = Phases::new(0, SECOND_NS, None);
        let pace = Pace::Open(Arrivals::Poisson { rate: 50.0 });
        let mut measured = 0;
        for producer in 0..3 {
            let times = drain(&mut Schedule::new(&pace, Length::Records(100), phases, producer, 3, 1));
            measured += times.iter().filter(|&&at| at >= SECOND_NS).count();
        }
        assert_eq!(measured, 100);
        let mut schedule = Schedule::new(&pace, Length::Records(100), phases, 0, 3, 1);
        assert_eq!(schedule.cancel(), 34);
        assert!(schedule.due(u64::MAX).is_none() && schedule.cancel() == 0);
    }
}
