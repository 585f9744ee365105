//! The rates of a latency curve: `10k,20k,50MB/s`, `25%,50%,90%` of what the closed loop reaches, or a number of even steps up to
//! that. Called by the command line and by [`super::many`].

use std::str::FromStr;

use super::units::Rate;

const POINTS_MAX: usize = 100;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Points(Vec<Point>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    At(Rate),
    /// Of the closed loop's rate.
    Part(f64),
}

impl Points {
    /// Whether the closed loop has to be measured first.
    pub fn is_relative(&self) -> bool {
        self.0.iter().any(|point| matches!(point, Point::Part(_)))
    }

    /// Records a second, ascending.
    pub fn rates(&self, record_bytes: u64, reached: f64) -> Vec<f64> {
        let rate = |point: &Point| match *point {
            Point::At(rate) => rate.records_per_second(record_bytes),
            Point::Part(part) => part * reached,
        };
        let mut rates: Vec<f64> = self.0.iter().map(rate).collect();
        rates.sort_by(f64::total_cmp);
        rates
    }
}

impl FromStr for Points {
    type Err = String;

    fn from_str(text: &str) -> Result<Points, String> {
        let text = text.trim();
        if let Ok(count) = text.parse::<usize>()
            && count <= POINTS_MAX
        {
            let part = |step: usize| Point::Part(step as f64 / count as f64);
            return match count {
                0 | 1 => Err("a curve has at least 2 points".into()),
                _ => Ok(Points((1..=count).map(part).collect())),
            };
        }
        let points: Vec<Point> = text.split(',').map(point).collect::<Result<_, _>>()?;
        if points.len() > POINTS_MAX {
            return Err(format!("a curve has at most {POINTS_MAX} points"));
        }
        Ok(Points(points))
    }
}

fn point(text: &str) -> Result<Point, String> {
    match text.trim().strip_suffix('%') {
        None => text.parse().map(Point::At),
        Some(number) => {
            let percent = number.trim().parse::<f64>().ok().filter(|percent| *percent > 0.0);
            let percent = percent.filter(|percent| *percent <= 1000.0);
            Ok(Point::Part(
                percent.ok_or_else(|| format!("`{text}` is no percentage from 0 to 1000"))? / 100.0,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(text: &str) -> Vec<f64> {
        text.parse::<Points>().unwrap().rates(1000, 80_000.0)
    }

    #[test]
    fn points_are_rates_parts_or_steps() {
        assert_eq!(rates("20k,10k,50MB/s"), [10_000.0, 20_000.0, 50_000.0]);
        assert_eq!(rates("25%,110%"), [20_000.0, 88_000.0]);
        assert_eq!(rates("4"), [20_000.0, 40_000.0, 60_000.0, 80_000.0]);
        assert!("4".parse::<Points>().unwrap().is_relative());
        assert!(!"10k".parse::<Points>().unwrap().is_relative());
        for wrong in ["", "1", "0", "5%,x", "-5%", "0%", "2000%", "10k,,"] {
            assert!(wrong.parse::<Points>().is_err(), "{wrong}");
        }
    }
}
