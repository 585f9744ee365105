//! How two handfuls of runs differ, without assuming how they are spread: the Hodges-Lehmann ratio and its exact interval by the
//! Mann-Whitney test. With few runs only certain confidences can be had; what was reached is stated, never what was wished for.

/// The most runs a side; beyond it the counting below would take long and say nothing new.
pub const RUNS_MAX: usize = 200;

/// How many times the base's figure the candidate's is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
    /// Of the interval, from 0 to 1; below what was asked for when there are too few runs.
    pub confidence: f64,
}

/// Of figures above 0; `None` where one is not, or a side is empty or too long.
pub fn ratio(base: &[f64], candidate: &[f64], confidence: f64) -> Option<Ratio> {
    let sane = |side: &[f64]| {
        (1..=RUNS_MAX).contains(&side.len()) && side.iter().all(|value| value.is_finite() && *value > 0.0)
    };
    if !sane(base) || !sane(candidate) {
        return None;
    }
    let mut logs: Vec<f64> =
        candidate.iter().flat_map(|b| base.iter().map(move |a| b.ln() - a.ln())).collect();
    logs.sort_by(f64::total_cmp);
    let tails = tails(base.len(), candidate.len());
    // The most that may be cut off at each end; nothing at all where even that is too much.
    let allowed = (1.0 - confidence) / 2.0;
    let cut = tails.iter().take_while(|tail| **tail <= allowed).count().saturating_sub(1);
    let cut = cut.min((logs.len() - 1) / 2);
    Some(Ratio {
        estimate: median(&logs).exp(),
        low: logs[cut].exp(),
        high: logs[logs.len() - 1 - cut].exp(),
        confidence: (1.0 - 2.0 * tails[cut]).max(0.0),
    })
}

/// The chance of a Mann-Whitney statistic of at most 0, 1, 2, … when both sides are alike: counts the orders of `m` and `n`
/// values with so many inversions.
fn tails(m: usize, n: usize) -> Vec<f64> {
    // Partitions of each sum into at most `m` parts of at most `n`: the coefficients of the Gaussian binomial, by its product
    // of (1 - q^(n+i)) / (1 - q^i).
    let mut counts = vec![0f64; m * n + 1];
    counts[0] = 1.0;
    for part in 1..=m {
        for sum in (n + part..counts.len()).rev() {
            counts[sum] -= counts[sum - n - part];
        }
        for sum in part..counts.len() {
            counts[sum] += counts[sum - part];
        }
    }
    // Only the lower half is wanted, where no cancellation has hurt.
    let half = m * n / 2 + 1;
    let all: f64 = (1..=m).map(|i| (n + i) as f64 / i as f64).product();
    let mut sum = 0.0;
    counts
        .iter()
        .take(half)
        .map(|count| {
            sum += count / all;
            sum
        })
        .collect()
}

/// Of sorted values, which are not empty.
pub fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::payload::Random;

    #[test]
    fn the_chances_are_those_of_the_tables() {
        // P(U <= 2) of 5 and 5 is 4 in 252; of 4 and 4, P(U = 0) is 1 in 70; of 3 and 3, 1 in 20.
        assert!((tails(5, 5)[2] - 4.0 / 252.0).abs() < 1e-12);
        assert!((tails(4, 4)[0] - 1.0 / 70.0).abs() < 1e-12);
        assert!((tails(3, 3)[0] - 1.0 / 20.0).abs() < 1e-12);
        // 8 and 8: the tabled critical value of 0.05, two-sided, is 13.
        let eight = tails(8, 8);
        assert!(eight[13] <= 0.025 && eight[14] > 0.025);
        // A quarter of the statistics of 2 and 3: counts 1 1 2 2 2 1 1.
        assert!((tails(2, 3)[2] - 0.4).abs() < 1e-12);
    }

    #[test]
    fn what_was_reached_is_stated() {
        let five = ratio(&[10.0, 10.1, 9.9, 10.2, 9.8], &[20.0, 20.1, 19.9, 20.2, 19.8], 0.95).unwrap();
        assert!((five.estimate - 2.0).abs() < 0.01 && five.low > 1.9 && five.high < 2.1);
        assert!((five.confidence - (1.0 - 8.0 / 252.0)).abs() < 1e-9);
        let three = ratio(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0], 0.95).unwrap();
        assert!((three.confidence - 0.9).abs() < 1e-9 && three.low < 1.0 && three.high > 2.0);
        let one = ratio(&[1.0], &[2.0], 0.95).unwrap();
        assert_eq!((one.estimate, one.confidence), (2.0, 0.0));
        assert_eq!(ratio(&[1.0, 0.0], &[1.0], 0.95), None);
        assert_eq!(ratio(&[], &[1.0], 0.95), None);
    }

    #[test]
    fn the_interval_holds_the_truth_as_often_as_it_says() {
        let mut random = Random::new(11);
        let mut draw = |scale: f64| {
            // Skewed, as latencies are.
            let uniform = (random.below(1 << 30) + 1) as f64 / f64::from(1 << 30);
            scale * (1.0 - uniform.ln())
        };
        let mut held = 0;
        for _ in 0..2000 {
            let base: Vec<f64> = (0..6).map(|_| draw(1.0)).collect();
            let candidate: Vec<f64> = (0..6).map(|_| draw(1.3)).collect();
            let found = ratio(&base, &candidate, 0.95).unwrap();
            held += usize::from(found.low <= 1.3 && 1.3 <= found.high);
        }
        // 95.9 % is what six and six reach; the standard deviation of 2000 draws is 0.5 %.
        assert!((0.94..0.98).contains(&(held as f64 / 2000.0)), "{held}");
    }
}
