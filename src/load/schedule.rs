//! When records arrive. Open loop: the plan is fixed before the run and no delay moves it. Closed: whenever there is room.
//!
//! All producers share one plan: arrival `n` of a fixed rate is at `start + n / rate`, and producer `i` of `P` has the
//! arrivals with `n % P == i`, so the sum over producers is as even as one producer's would be.

use super::options::{Length, Pace, SECOND_NS};

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
    Fixed {
        start_ns: u64,
        nanoseconds_each: f64,
        /// The number of the next arrival in the whole plan, and the first that is none.
        next: u64,
        end: u64,
        step: u64,
    },
    Max {
        phases: Phases,
        /// Measured records left to send; `None`: until the time is over.
        left: Option<u64>,
    },
}

impl Schedule {
    pub fn new(pace: Pace, length: Length, phases: Phases, producer: u32, producers: u32) -> Schedule {
        match (pace, length) {
            (Pace::Fixed(rate), length) => {
                let warmup = arrivals_before(phases.measure_ns - phases.start_ns, rate);
                let end = match length {
                    Length::Records(records) => warmup.saturating_add(records),
                    Length::DurationNs(_) => arrivals_before(phases.stop_ns - phases.start_ns, rate),
                };
                Schedule::Fixed {
                    start_ns: phases.start_ns,
                    nanoseconds_each: SECOND_NS as f64 / rate,
                    next: u64::from(producer),
                    end,
                    step: u64::from(producers),
                }
            }
            (Pace::Max, Length::DurationNs(_)) => Schedule::Max { phases, left: None },
            (Pace::Max, Length::Records(records)) => {
                let (producer, producers) = (u64::from(producer), u64::from(producers));
                let share = records / producers + u64::from(producer < records % producers);
                Schedule::Max { phases, left: Some(share) }
            }
        }
    }

    /// The time of the `ahead`th arrival from now on; `None` behind the end, and always in the closed loop.
    #[inline]
    pub fn arrival_ns(&self, ahead: u64) -> Option<u64> {
        match *self {
            Schedule::Fixed { start_ns, nanoseconds_each, next, end, step } => {
                let n = next.checked_add(ahead.checked_mul(step)?)?;
                (n < end).then(|| start_ns + (n as f64 * nanoseconds_each) as u64)
            }
            Schedule::Max { .. } => None,
        }
    }

    /// The time of the next record to be put into a batch, if it is due.
    #[inline]
    pub fn due(&self, now_ns: u64) -> Option<u64> {
        match self {
            Schedule::Fixed { .. } => self.arrival_ns(0).filter(|&at| at <= now_ns),
            Schedule::Max { .. } => (!self.is_over(now_ns)).then_some(now_ns),
        }
    }

    /// Counts the record that was due.
    #[inline]
    pub fn take(&mut self, now_ns: u64) {
        match self {
            Schedule::Fixed { next, step, .. } => *next += *step,
            Schedule::Max { phases, left: Some(left) } if now_ns >= phases.measure_ns => *left -= 1,
            Schedule::Max { .. } => {}
        }
    }

    /// Whether no record will come any more.
    pub fn is_over(&self, now_ns: u64) -> bool {
        match self {
            Schedule::Fixed { next, end, .. } => next >= end,
            Schedule::Max { phases, left } => now_ns >= phases.stop_ns || *left == Some(0),
        }
    }

    /// Ends the plan here: what is left of it, in records (0 in the closed loop, which plans nothing).
    pub fn cancel(&mut self) -> u64 {
        match self {
            Schedule::Fixed { next, end, step, .. } => {
                let left = end.saturating_sub(*next).div_ceil(*step);
                *end = *next;
                left
            }
            Schedule::Max { left, .. } => {
                *left = Some(0);
                0
            }
        }
    }
}

/// How many arrivals lie before this time.
fn arrivals_before(time_ns: u64, rate: f64) -> u64 {
    (time_ns as f64 * rate / SECOND_NS as f64).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

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
            all.extend(drain(&mut Schedule::new(Pace::Fixed(1000.0), length, phases, producer, 3)));
        }
        all.sort_unstable();
        let expected: Vec<u64> = (0..1000).map(|n| 1000 + n * 1_000_000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_long_run_does_not_drift() {
        let day = 86_400 * SECOND_NS;
        let phases = Phases::new(0, 0, Some(day));
        let schedule = Schedule::new(Pace::Fixed(333_333.3), Length::DurationNs(day), phases, 0, 1);
        let n = (333_333.3 * 86_399.0) as u64;
        let at = schedule.arrival_ns(n).unwrap();
        let exact = (u128::from(n) * 10_000_000_000 / 3_333_333) as u64;
        assert!(at.abs_diff(exact) < 100, "{at} {exact}");
    }

    #[test]
    fn a_number_of_records_counts_those_behind_the_warm_up() {
        let phases = Phases::new(0, SECOND_NS / 2, None);
        let mut schedule = Schedule::new(Pace::Fixed(10.0), Length::Records(7), phases, 0, 1);
        let times = drain(&mut schedule);
        assert_eq!(times.len(), 12);
        assert_eq!(times.iter().filter(|&&at| phases.is_measured(at)).count(), 7);
    }

    #[test]
    fn nothing_is_due_before_its_time_and_nothing_is_left_out_after_a_stall() {
        let phases = Phases::new(0, 0, Some(SECOND_NS));
        let mut schedule = Schedule::new(Pace::Fixed(100.0), Length::DurationNs(SECOND_NS), phases, 0, 1);
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
        let mut schedule = Schedule::new(Pace::Max, Length::DurationNs(100), phases, 0, 1);
        assert_eq!((schedule.due(109), schedule.due(110)), (Some(109), None));
        schedule.take(5);
        let phases = Phases::new(0, 10, None);
        let shares: Vec<usize> = (0..3)
            .map(|i| {
                let mut schedule = Schedule::new(Pace::Max, Length::Records(7), phases, i, 3);
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
}
