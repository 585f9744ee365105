//! Rates, sizes and durations as people write them. Called by the command line.

use std::str::FromStr;

/// How many records arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    RecordsPerSecond(f64),
    /// Bytes of record values.
    BytesPerSecond(f64),
}

impl Rate {
    pub fn records_per_second(self, record_bytes: u64) -> f64 {
        match self {
            Rate::RecordsPerSecond(rate) => rate,
            Rate::BytesPerSecond(rate) => rate / record_bytes.max(1) as f64,
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    /// `50000`, `50k`, `1.5M/s`: records; `100MB/s`, `64MiB/s`: bytes.
    fn from_str(text: &str) -> Result<Rate, String> {
        let text = text.trim();
        let (number, unit) = split(text.strip_suffix("/s").unwrap_or(text))?;
        let rate = if unit.ends_with('B') {
            Rate::BytesPerSecond(number * byte_unit(unit)?)
        } else {
            let factor = match unit {
                "" => 1.0,
                "k" | "K" => 1e3,
                "M" => 1e6,
                _ => return Err(format!("unknown unit `{unit}`")),
            };
            Rate::RecordsPerSecond(number * factor)
        };
        let (Rate::RecordsPerSecond(value) | Rate::BytesPerSecond(value)) = rate;
        if value > 0.0 && value <= 1e12 { Ok(rate) } else { Err("a rate is above 0 and at most 1e12".into()) }
    }
}

/// `1024`, `16KiB`, `1MB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text.trim())?;
    let factor = if unit.is_empty() { 1.0 } else { byte_unit(unit)? };
    let bytes = number * factor;
    if bytes <= 1e15 { Ok(bytes as u64) } else { Err("too many bytes".into()) }
}

/// `10s`, `5ms`, `1.5m`, `200us`; a bare 0 is no time. In nanoseconds.
pub fn parse_duration_ns(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text.trim())?;
    let factor = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        "" if number == 0.0 => 0.0,
        "" => return Err("a time needs its unit: ns, us, ms, s, m, h".into()),
        _ => return Err(format!("unknown unit `{unit}`")),
    };
    let ns = number * factor;
    if ns <= 1e18 { Ok(ns as u64) } else { Err("too long".into()) }
}

/// `3`, `0,2`, `1-3`.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let number = |part: &str| part.trim().parse::<usize>().map_err(|error| format!("`{part}`: {error}"));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last || last > 4095 {
            return Err(format!("`{part}` is no range of cores"));
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

fn byte_unit(unit: &str) -> Result<f64, String> {
    Ok(match unit {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" | "k" | "K" => 1024.0,
        "MiB" | "M" => 1024.0 * 1024.0,
        "GiB" | "G" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("unknown unit `{unit}`")),
    })
}

/// The number in front and what follows it.
fn split(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.replace('_', "").parse::<f64>().map_err(|_| format!("`{text}` has no number"))?;
    Ok((number, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_records_or_bytes() {
        assert_eq!("50000".parse(), Ok(Rate::RecordsPerSecond(50_000.0)));
        assert_eq!("1.5M/s".parse(), Ok(Rate::RecordsPerSecond(1.5e6)));
        assert_eq!("100MB/s".parse(), Ok(Rate::BytesPerSecond(1e8)));
        assert_eq!("1MiB/s".parse::<Rate>().unwrap().records_per_second(1024), 1024.0);
        for wrong in ["", "0", "fast", "10x", "-5", "1e99"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_bytes("16KiB"), Ok(16384));
        assert_eq!(parse_bytes("1_000"), Ok(1000));
        assert_eq!(parse_bytes("2MB"), Ok(2_000_000));
        assert!(parse_bytes("2 bananas").is_err());
        assert_eq!(parse_duration_ns("1.5s"), Ok(1_500_000_000));
        assert_eq!(parse_duration_ns("200us"), Ok(200_000));
        assert_eq!(parse_duration_ns("0"), Ok(0));
        assert!(parse_duration_ns("10").is_err());
    }

    #[test]
    fn cores_are_lists_of_ranges() {
        assert_eq!(parse_cores("0,2-4"), Ok(vec![0, 2, 3, 4]));
        assert!(parse_cores("4-2").is_err());
        assert!(parse_cores("").is_err());
    }
}
