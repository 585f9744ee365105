//! What a broker's `/metrics` says, as numbers. Reads HTTP/1.0 and the Prometheus text format as far as our own page uses them;
//! anything may answer at the address, so size and form are checked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::cli::failure::Failure;

/// The largest page. Only samples of these families are kept of it.
const PAGE_BYTES_MAX: u64 = 64 << 20;
const FAMILIES: [&str; 2] = ["ringlog_", "process_"];

/// The samples of a page, by name and then by labels as they stand there.
#[derive(Clone, Debug, Default)]
pub struct Page(BTreeMap<String, BTreeMap<String, f64>>);

/// `HOST:PORT` of `http://HOST:PORT` or of itself.
pub fn address(url: &str) -> Result<String, Failure> {
    let rest = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !rest.contains('/') && port.parse::<u16>().is_ok() => {
            Ok(rest.to_owned())
        }
        _ => Err(Failure::usage(format!("`{url}` is not http://HOST:PORT"))),
    }
}

/// Asks for the page.
pub fn fetch(address: &str, timeout: Duration) -> Result<Page, Failure> {
    let unreachable = |error: &dyn std::fmt::Display| Failure::unreachable(format!("{address}: {error}"));
    let mut found = address.to_socket_addrs().map_err(|error| unreachable(&error))?;
    let found = found.next().ok_or_else(|| unreachable(&"has no address"))?;
    let mut stream = TcpStream::connect_timeout(&found, timeout).map_err(|error| unreachable(&error))?;
    let set = stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)));
    set.map_err(|error| unreachable(&error))?;
    // The older version: no chunks, and the end of the connection is the end of the page.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| unreachable(&error))?;
    let mut answer = Vec::new();
    stream.take(PAGE_BYTES_MAX + 1).read_to_end(&mut answer).map_err(|error| unreachable(&error))?;
    if answer.len() as u64 > PAGE_BYTES_MAX {
        return Err(Failure::answer("the page is larger than 64 MiB"));
    }
    let text = String::from_utf8(answer).map_err(Failure::answer)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| Failure::answer("it is no HTTP"))?;
    let status = head.split_ascii_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(Failure::answer(format!("HTTP status {status}")));
    }
    let page = Page::parse(body);
    if page.0.is_empty() {
        return Err(Failure::answer("it holds no metrics of a ringlog broker"));
    }
    Ok(page)
}

impl Page {
    /// Lines that are no samples, or of no family of ours, are passed over.
    pub fn parse(body: &str) -> Page {
        let mut page = Page::default();
        for line in body.lines().filter(|line| FAMILIES.iter().any(|family| line.starts_with(family))) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.trim_end_matches('}')),
                None => (series, ""),
            };
            page.0.entry(name.to_owned()).or_default().insert(labels.to_owned(), value);
        }
        page
    }

    pub fn value(&self, name: &str, labels: &str) -> f64 {
        self.0.get(name).and_then(|samples| samples.get(labels)).copied().unwrap_or(0.0)
    }

    /// Over all its labels.
    pub fn sum(&self, name: &str) -> f64 {
        self.0.get(name).map_or(0.0, |samples| samples.values().sum())
    }

    /// The values that a label has in a family, in order; numbers by their size.
    pub fn values_of(&self, name: &str, label: &str) -> Vec<String> {
        let samples = self.0.get(name).into_iter().flat_map(|samples| samples.keys());
        let mut values: Vec<String> = samples.filter_map(|labels| label_of(labels, label)).collect();
        values.sort_by_key(|value| (value.parse::<u64>().unwrap_or(u64::MAX), value.clone()));
        values.dedup();
        values
    }

    /// A histogram over all its other labels: ends of buckets in seconds, and how many values lie at or below each.
    pub fn buckets(&self, name: &str, label: &str) -> Vec<(f64, f64)> {
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for (labels, count) in self.0.get(&format!("{name}_bucket")).into_iter().flatten() {
            if !label.is_empty() && !labels.split(',').any(|it| it == label) {
                continue;
            }
            let end = match label_of(labels, "le").as_deref() {
                Some("+Inf") => f64::INFINITY,
                Some(text) => text.parse().unwrap_or(f64::NAN),
                None => f64::NAN,
            };
            match sums.iter_mut().find(|(other, _)| *other == end) {
                Some((_, sum)) => *sum += count,
                None if !end.is_nan() => sums.push((end, *count)),
                None => {}
            }
        }
        sums.sort_by(|a, b| a.0.total_cmp(&b.0));
        sums
    }
}

/// The value of a label; ours hold no commas but in client ids, which are cut at one.
fn label_of(labels: &str, label: &str) -> Option<String> {
    let mut rest = labels;
    loop {
        let (name, after) = rest.split_once("=\"")?;
        let end = after.match_indices('"').find(|(at, _)| !after[..*at].ends_with('\\'))?.0;
        if name.trim_start_matches(',') == label {
            return Some(after[..end].to_owned());
        }
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP ringlog_turns_total x\n# TYPE ringlog_turns_total counter\n\
        ringlog_turns_total{shard=\"10\"} 7\nringlog_turns_total{shard=\"2\"} 5\nkafka_x 1\n\
        ringlog_turn_seconds_bucket{shard=\"0\",le=\"0.1\"} 3\nringlog_turn_seconds_bucket{shard=\"0\",le=\"+Inf\"} 4\n\
        ringlog_turn_seconds_bucket{shard=\"1\",le=\"0.1\"} 1\nringlog_turn_seconds_bucket{shard=\"1\",le=\"+Inf\"} 1\n\
        ringlog_client_requests_total{client_id=\"a,\\\"b\"} 9\nringlog_odd\nringlog_bad{ nonsense\nprocess_open_fds 12\n";

    #[test]
    fn samples_are_found_by_name_and_label() {
        let page = Page::parse(TEXT);
        assert_eq!(page.sum("ringlog_turns_total"), 12.0);
        assert_eq!(page.value("ringlog_turns_total", "shard=\"2\""), 5.0);
        assert_eq!(page.values_of("ringlog_turns_total", "shard"), ["2", "10"]);
        assert_eq!(page.values_of("ringlog_client_requests_total", "client_id"), ["a,\\\"b"]);
        assert_eq!(page.value("process_open_fds", ""), 12.0);
        assert_eq!(page.sum("kafka_x"), 0.0);
        assert_eq!(page.buckets("ringlog_turn_seconds", ""), [(0.1, 4.0), (f64::INFINITY, 5.0)]);
        assert_eq!(page.buckets("ringlog_turn_seconds", "shard=\"1\"")[1].1, 1.0);
    }

    #[test]
    fn addresses_are_urls_or_pairs() {
        for good in ["http://127.0.0.1:9000", "127.0.0.1:9000", "http://127.0.0.1:9000/"] {
            assert_eq!(address(good).unwrap(), "127.0.0.1:9000");
        }
        for wrong in ["", "localhost", "https://x:1", "http://x:99999", ":9000", "http://x:1/metrics"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
