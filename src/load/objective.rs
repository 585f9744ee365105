//! A latency that has to hold: `p99.9<5ms`, `e2e:p99<10ms`, `max<1s`. Without a series in front it is the acknowledgement's, counted
//! from the intended time. Called by the command line and by [`super::search`].

use std::fmt;
use std::str::FromStr;

use super::recorder::{Latencies, Series};
use super::units::parse_duration_ns;

/// So many samples have to lie above a percentile for it to be more than the luck of a few.
const SAMPLES_ABOVE: f64 = 10.0;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    pub series: Series,
    /// From 0 to 1; 1 is the maximum.
    pub quantile: f64,
    pub limit_ns: u64,
    text: String,
}

impl Objective {
    /// The latency it speaks of, and whether it holds. `Err`: too few samples to say.
    pub fn judge(&self, latencies: &Latencies) -> Result<(u64, bool), String> {
        let histogram = latencies.of(self.series);
        let needed = self.samples_min();
        if histogram.len() < needed {
            return Err(format!("{self} needs {needed} samples, and there were {}", histogram.len()));
        }
        let ns = match self.quantile {
            1.0 => histogram.max(),
            quantile => histogram.value_at_quantile(quantile),
        };
        Ok((ns, ns < self.limit_ns))
    }

    fn samples_min(&self) -> u64 {
        if self.quantile == 1.0 { 1 } else { (SAMPLES_ABOVE / (1.0 - self.quantile)).round() as u64 }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Objective, String> {
        let text = text.trim();
        let wrong = || format!("`{text}` is not like p99.9<5ms, e2e:p99<10ms or max<1s");
        let (series, rest) = match text.split_once(':') {
            Some(("ack", rest)) => (Series::Ack, rest),
            Some(("e2e", rest)) => (Series::EndToEnd, rest),
            Some(_) => return Err(wrong()),
            None => (Series::Ack, text),
        };
        let (what, limit) = rest.split_once('<').ok_or_else(wrong)?;
        let quantile = match what.trim() {
            "max" => 1.0,
            percentile => {
                let number = percentile.strip_prefix('p').ok_or_else(wrong)?;
                let percent = number.parse::<f64>().map_err(|_| wrong())?;
                if !(percent > 0.0 && percent < 99.99999) {
                    return Err("a percentile is above 0 and below 99.99999".into());
                }
                percent / 100.0
            }
        };
        let limit_ns = parse_duration_ns(limit)?;
        if limit_ns == 0 {
            return Err("a latency's limit is above 0".into());
        }
        Ok(Objective { series, quantile, limit_ns, text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective(text: &str) -> Objective {
        text.parse().unwrap()
    }

    #[test]
    fn objectives_are_written_as_people_say_them() {
        let it = objective("p99.9<5ms");
        assert_eq!((it.series, it.limit_ns), (Series::Ack, 5_000_000));
        assert!((it.quantile - 0.999).abs() < 1e-12);
        assert_eq!(objective("e2e:max<1s").series, Series::EndToEnd);
        assert_eq!(objective("max<1s").quantile, 1.0);
        for wrong in ["p99", "p99<", "p100<5ms", "q9<5ms", "p99<5", "lag:p99<5ms", "p99<0ms", "", "<"] {
            assert!(wrong.parse::<Objective>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_percentile_of_too_few_samples_says_nothing() {
        let mut latencies = Latencies::default();
        latencies.record(Series::Ack, 1_000_000, 990);
        assert!(objective("p99<5ms").judge(&latencies).is_err());
        latencies.record(Series::Ack, 9_000_000, 20);
        assert!(objective("p99<5ms").judge(&latencies).is_ok_and(|(_, held)| !held));
        assert!(objective("p95<5ms").judge(&latencies).is_ok_and(|(_, held)| held));
        assert!(objective("max<8ms").judge(&latencies).is_ok_and(|(_, held)| !held));
        assert!(objective("e2e:max<8ms").judge(&latencies).is_err(), "nothing was read");
    }
}
