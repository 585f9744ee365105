//! The highest rate that holds its objectives: which rate to try next, and when enough has been seen. Logic alone; the runs are
//! made by [`super::many`].
//!
//! Method: from a first guess the rate is halved until it holds and raised by half until it fails; then the geometric middle of the
//! highest that holds and the lowest that fails is tried, until they are as close as asked for. A rate that fails is tried once more
//! and fails when it fails twice, so that one hiccup of the machine does not decide. What was found then has to hold in
//! `confirm` further runs, none of which helped to choose it; a failure among them (twice, again) makes it the lowest that
//! fails, and the search goes on below. Held in all `n` of them, the chance that a run of this length holds is, with 95 %
//! confidence, at least `0.05^(1/n)`.

use serde::Serialize;

pub const CONFIDENCE: f64 = 0.95;
/// Trials in all, confirming ones included.
const TRIALS_MAX: u32 = 100;
/// The search ends this far below or above the first guess.
const RANGE: f64 = 1024.0;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    Try { rate: f64, confirming: bool },
    Done,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Search {
    guess: f64,
    precision: f64,
    confirm: u32,
    /// Rates that held, ascending, and the lowest that failed.
    held: Vec<f64>,
    failed: Option<f64>,
    /// The rate that failed once.
    doubted: Option<f64>,
    confirmed: u32,
    /// Of the confirming runs, those that failed once and held when tried again.
    hiccups: u32,
    trials: u32,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// The highest rate that held; `None`: none did.
    pub records_per_second: Option<f64>,
    /// The lowest that failed; `None`: none did.
    pub fails_at_records_per_second: Option<f64>,
    /// Confirming runs that held, out of how many.
    pub held_runs: u32,
    pub confirming_runs: u32,
    pub confidence: f64,
    /// With that confidence a run holds at least this often; `None` when a confirming run failed or none was made.
    pub holds_at_least: Option<f64>,
    /// The trials were used up before the search had come to its end.
    pub cut_short: bool,
    pub trials: u32,
}

impl Search {
    /// `precision` is a part, not a percentage.
    pub fn new(guess: f64, precision: f64, confirm: u32) -> Search {
        Search {
            guess,
            precision,
            confirm,
            held: Vec::new(),
            failed: None,
            doubted: None,
            confirmed: 0,
            hiccups: 0,
            trials: 0,
        }
    }

    pub fn next(&self) -> Step {
        if self.trials >= TRIALS_MAX {
            return Step::Done;
        }
        let confirming = self.is_narrow();
        if let Some(rate) = self.doubted {
            return Step::Try { rate, confirming };
        }
        let rate = match (self.held.last(), self.failed) {
            (None, None) => self.guess,
            (None, Some(failed)) if failed <= self.guess / RANGE => return Step::Done,
            (None, Some(failed)) => failed / 2.0,
            (Some(_), _) if confirming && self.confirmed >= self.confirm => return Step::Done,
            (Some(&held), _) if confirming => held,
            (Some(held), None) => held * 1.5,
            (Some(held), Some(failed)) => (held * failed).sqrt(),
        };
        Step::Try { rate, confirming }
    }

    /// The outcome of the rate that `next` named.
    pub fn outcome(&mut self, held: bool) {
        let Step::Try { rate, confirming } = self.next() else { return };
        self.trials += 1;
        match (held, self.doubted.take()) {
            (true, doubted) if confirming => {
                self.confirmed += 1;
                self.hiccups += u32::from(doubted.is_some());
            }
            (true, _) => {
                self.held.push(rate);
                self.held.sort_by(f64::total_cmp);
            }
            (false, None) => self.doubted = Some(rate),
            (false, Some(_)) => {
                self.failed = Some(self.failed.map_or(rate, |failed| failed.min(rate)));
                self.held.retain(|&held| held < rate);
                (self.confirmed, self.hiccups) = (0, 0);
            }
        }
    }

    fn is_narrow(&self) -> bool {
        match (self.held.last(), self.failed) {
            (Some(held), Some(failed)) => failed / held <= 1.0 + self.precision,
            // It never failed: the highest that was tried is all there is.
            (Some(held), None) => *held >= self.guess * RANGE,
            _ => false,
        }
    }

    pub fn found(&self) -> Found {
        let runs = self.confirmed + self.hiccups;
        let all = self.confirmed >= self.confirm && self.hiccups == 0 && runs > 0;
        Found {
            records_per_second: self.held.last().copied(),
            fails_at_records_per_second: self.failed,
            held_runs: self.confirmed,
            confirming_runs: runs,
            confidence: CONFIDENCE,
            holds_at_least: all.then(|| (1.0 - CONFIDENCE).powf(1.0 / f64::from(runs))),
            cut_short: self.next() == Step::Done
                && !(self.is_narrow() && self.confirmed >= self.confirm)
                && !self.held.is_empty(),
            trials: self.trials,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search against a broker that holds up to a rate; the rates tried in order.
    fn run(mut search: Search, mut holds: impl FnMut(f64, u32) -> bool) -> (Found, Vec<f64>) {
        let mut tried = Vec::new();
        while let Step::Try { rate, .. } = search.next() {
            tried.push(rate);
            search.outcome(holds(rate, tried.len() as u32));
        }
        (search.found(), tried)
    }

    #[test]
    fn it_comes_as_close_as_asked_for_from_above_and_below() {
        for guess in [10.0, 700.0, 1000.0, 90_000.0] {
            let (found, tried) = run(Search::new(guess, 0.02, 5), |rate, _| rate <= 1000.0);
            let (good, bad) = (found.records_per_second.unwrap(), found.fails_at_records_per_second.unwrap());
            assert!(good <= 1000.0 && bad > 1000.0 && bad / good <= 1.02, "{found:?}");
            assert_eq!((found.held_runs, found.confirming_runs, found.cut_short), (5, 5, false));
            assert!((found.holds_at_least.unwrap() - 0.549).abs() < 0.001);
            assert!(tried.len() < 45, "{}", tried.len());
        }
    }

    #[test]
    fn one_hiccup_does_not_decide_but_is_told() {
        let (found, _) = run(Search::new(100.0, 0.05, 3), |rate, trial| rate <= 1000.0 && trial != 2);
        assert!(found.records_per_second.unwrap() > 950.0);
        // One of the confirming runs fails once.
        let mut confirming = 0;
        let mut search = Search::new(1000.0, 0.05, 3);
        while let Step::Try { rate, confirming: now } = search.next() {
            confirming += u32::from(now);
            search.outcome(rate <= 1000.0 && confirming != 2);
        }
        let found = search.found();
        assert_eq!((found.held_runs, found.confirming_runs, found.holds_at_least), (3, 4, None));
    }

    #[test]
    fn what_does_not_hold_again_is_not_the_answer() {
        let mut search = Search::new(1000.0, 0.05, 3);
        let mut lucky = true;
        while let Step::Try { rate, confirming } = search.next() {
            // Rates up to 1000 pass by luck until they are confirmed; 600 is what really holds.
            lucky &= !confirming;
            search.outcome(rate <= if lucky { 1000.0 } else { 600.0 });
        }
        let found = search.found();
        assert!(found.records_per_second.unwrap() <= 600.0, "{found:?}");
        assert!(found.holds_at_least.is_some() || found.cut_short);
    }

    #[test]
    fn it_ends_where_nothing_holds_and_where_everything_does() {
        let (found, tried) = run(Search::new(1000.0, 0.05, 3), |_, _| false);
        assert_eq!((found.records_per_second, found.cut_short), (None, false));
        assert_eq!(tried.len(), 22, "each rate twice");
        let (found, tried) = run(Search::new(1000.0, 0.05, 3), |_, _| true);
        assert!(found.fails_at_records_per_second.is_none() && tried.len() < 30, "{found:?}");
        let mut turn = false;
        let (_, tried) = run(Search::new(1000.0, 0.001, 3), |_, _| {
            turn = !turn;
            turn
        });
        assert!(tried.len() <= TRIALS_MAX as usize);
    }
}
