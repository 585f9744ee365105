//! One picture of a broker: what happened between two looks at its metrics, as lines of at most 80 columns and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::scrape::Page;

/// The widest line.
pub const COLUMNS: usize = 80;

/// Rates are per second; latencies of what was answered meanwhile.
#[derive(Clone, Debug, Serialize)]
pub struct Frame {
    pub seconds: f64,
    pub cpu_cores: f64,
    pub resident_bytes: f64,
    pub open_files: f64,
    pub partitions: f64,
    /// Since the broker's start.
    pub requests_total: f64,
    pub records_produced_total: f64,
    pub shards: Vec<Shard>,
    pub apis: Vec<Api>,
    /// `write`, `durable write` and `sync`.
    pub journal: BTreeMap<&'static str, Latency>,
    pub clients: Vec<Client>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Shard {
    pub shard: String,
    /// Of its time, from 0 to 1.
    pub busy: f64,
    pub turns: f64,
    pub completions_per_turn: f64,
    pub system_calls: f64,
    pub requests: f64,
    pub records: f64,
    pub received_bytes: f64,
    pub sent_bytes: f64,
    pub tasks_sent: f64,
    pub connections: f64,
    pub mail_waiting: f64,
    pub memory_used: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Api {
    pub api: String,
    #[serde(flatten)]
    pub latency: Latency,
}

/// Ends of the buckets that the percentiles lie in: at most a quarter too much.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p99_9_ms: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Client {
    pub client_id: String,
    pub requests: f64,
    pub received_bytes: f64,
    pub sent_bytes: f64,
}

impl Frame {
    /// `seconds` lie between the two; against an empty page it is everything since the broker's start.
    pub fn between(before: &Page, after: &Page, seconds: f64) -> Frame {
        let seconds = seconds.max(1e-3);
        let rate = |name: &str, labels: &str| {
            ((after.value(name, labels) - before.value(name, labels)) / seconds).max(0.0)
        };
        Frame {
            seconds,
            cpu_cores: rate("process_cpu_seconds_total", ""),
            resident_bytes: after.sum("process_resident_memory_bytes"),
            open_files: after.sum("process_open_fds"),
            partitions: after.sum("ringlog_partitions"),
            requests_total: after.sum("ringlog_requests_total"),
            records_produced_total: after.sum("ringlog_records_produced_total"),
            shards: after
                .values_of("ringlog_turns_total", "shard")
                .into_iter()
                .map(|shard| shard_of(after, shard, &rate))
                .collect(),
            apis: apis(before, after, seconds),
            journal: journal(before, after, seconds),
            clients: clients(after, &rate),
        }
    }

    /// As text; of shards, APIs and clients at most `rows` each.
    pub fn text(&self, title: &str, rows: usize) -> String {
        let mut lines = vec![
            format!(
                "{title}  {:.1} s  CPU {:.2} cores  RSS {}B  {} files",
                self.seconds,
                self.cpu_cores,
                short(self.resident_bytes),
                self.open_files
            ),
            String::new(),
            "shard busy turns/s compl/t calls/s  req/s  rec/s in B/s outB/s hops/s conn mail".to_owned(),
        ];
        lines.extend(self.shards.iter().take(rows).map(shard_line));
        if self.shards.len() > 1 {
            lines.push(shard_line(&self.all_shards()));
        }
        lines.push(String::new());
        lines.push(latency_title("request"));
        lines.extend(self.apis.iter().take(rows).map(|it| latency_line(&it.api, &it.latency)));
        lines.push(String::new());
        lines.push(latency_title("journal"));
        lines.extend(self.journal.iter().map(|(name, it)| latency_line(name, it)));
        if !self.clients.is_empty() {
            lines.push(String::new());
            lines.push(format!("{:<35} {:>8} {:>8} {:>8}", "client", "req/s", "in B/s", "out B/s"));
        }
        lines.extend(self.clients.iter().take(rows).map(|it| {
            let (requests, received, sent) =
                (short(it.requests), short(it.received_bytes), short(it.sent_bytes));
            format!("{:<35} {requests:>8} {received:>8} {sent:>8}", cut(&it.client_id, 35))
        }));
        let mut out = String::new();
        for line in lines {
            let _ = writeln!(out, "{}", cut(&line, COLUMNS));
        }
        out
    }

    fn all_shards(&self) -> Shard {
        let mut all = Shard { shard: "all".into(), ..Shard::default() };
        let count = self.shards.len() as f64;
        let turns: f64 = self.shards.iter().map(|it| it.turns).sum();
        for it in &self.shards {
            all.busy += it.busy / count;
            all.turns += it.turns;
            all.completions_per_turn += it.completions_per_turn * it.turns / turns.max(1e-9);
            all.system_calls += it.system_calls;
            all.requests += it.requests;
            all.records += it.records;
            all.received_bytes += it.received_bytes;
            all.sent_bytes += it.sent_bytes;
            all.tasks_sent += it.tasks_sent;
            all.connections += it.connections;
            all.mail_waiting += it.mail_waiting;
        }
        all
    }
}

fn shard_of(after: &Page, shard: String, rate: &dyn Fn(&str, &str) -> f64) -> Shard {
    let labels = format!("shard=\"{shard}\"");
    let rate = |name: &str| rate(name, &labels);
    let (busy, waiting) = (rate("ringlog_busy_seconds_total"), rate("ringlog_waiting_seconds_total"));
    let turns = rate("ringlog_turns_total");
    Shard {
        busy: busy / (busy + waiting).max(1e-9),
        turns,
        completions_per_turn: rate("ringlog_ring_completions_total") / turns.max(1e-9),
        system_calls: rate("ringlog_ring_system_calls_total"),
        requests: rate("ringlog_requests_total"),
        records: rate("ringlog_records_produced_total"),
        received_bytes: rate("ringlog_received_bytes_total"),
        sent_bytes: rate("ringlog_sent_bytes_total"),
        tasks_sent: rate("ringlog_tasks_sent_total"),
        connections: after.value("ringlog_connections", &labels),
        mail_waiting: after.value("ringlog_mailbox_waiting", &labels),
        memory_used: after.value("ringlog_memory_used_bytes", &labels)
            / after.value("ringlog_memory_limit_bytes", &labels).max(1.0),
        shard,
    }
}

/// Busiest first.
fn apis(before: &Page, after: &Page, seconds: f64) -> Vec<Api> {
    let name = "ringlog_request_seconds";
    let mut apis: Vec<Api> = after
        .values_of(&format!("{name}_count"), "api")
        .into_iter()
        .map(|api| Api { latency: latency(before, after, name, &format!("api=\"{api}\""), seconds), api })
        .filter(|api| api.latency.per_second > 0.0)
        .collect();
    apis.sort_by(|a, b| b.latency.per_second.total_cmp(&a.latency.per_second));
    apis
}

fn journal(before: &Page, after: &Page, seconds: f64) -> BTreeMap<&'static str, Latency> {
    [
        ("write", "ringlog_journal_write_seconds"),
        ("durable write", "ringlog_journal_durable_write_seconds"),
        ("sync", "ringlog_journal_sync_seconds"),
    ]
    .into_iter()
    .map(|(name, family)| (name, latency(before, after, family, "", seconds)))
    .collect()
}

fn clients(after: &Page, rate: &dyn Fn(&str, &str) -> f64) -> Vec<Client> {
    let mut clients: Vec<Client> = after
        .values_of("ringlog_client_requests_total", "client_id")
        .into_iter()
        .map(|client_id| {
            let labels = format!("client_id=\"{client_id}\"");
            Client {
                requests: rate("ringlog_client_requests_total", &labels),
                received_bytes: rate("ringlog_client_received_bytes_total", &labels),
                sent_bytes: rate("ringlog_client_sent_bytes_total", &labels),
                client_id,
            }
        })
        .filter(|client| client.requests > 0.0)
        .collect();
    let bytes = |client: &Client| client.received_bytes + client.sent_bytes;
    clients.sort_by(|a, b| bytes(b).total_cmp(&bytes(a)));
    clients
}

fn latency(before: &Page, after: &Page, name: &str, label: &str, seconds: f64) -> Latency {
    let (earlier, mut buckets) = (before.buckets(name, label), after.buckets(name, label));
    for (end, count) in &mut buckets {
        *count -= earlier.iter().find(|(other, _)| other == end).map_or(0.0, |(_, count)| *count);
    }
    let count = buckets.last().map_or(0.0, |(_, count)| count.max(0.0));
    let quantile = |part: f64| {
        let rank = (count * part).ceil().max(1.0);
        let mut finite = buckets.iter().filter(|(end, _)| end.is_finite());
        let found = finite.clone().find(|(_, below)| *below >= rank).or_else(|| finite.next_back());
        found.filter(|_| count > 0.0).map_or(0.0, |(end, _)| end * 1e3)
    };
    Latency {
        per_second: count / seconds,
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        p99_9_ms: quantile(0.999),
    }
}

fn shard_line(it: &Shard) -> String {
    format!(
        "{:>5} {:>3.0}% {:>7} {:>7.1} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>4} {:>4}",
        cut(&it.shard, 5),
        it.busy * 100.0,
        short(it.turns),
        it.completions_per_turn.min(9999.0),
        short(it.system_calls),
        short(it.requests),
        short(it.records),
        short(it.received_bytes),
        short(it.sent_bytes),
        short(it.tasks_sent),
        short(it.connections),
        short(it.mail_waiting),
    )
}

fn latency_title(what: &str) -> String {
    format!("{what:<35} {:>8} {:>10} {:>10} {:>10}", "per s", "p50 ms", "p99 ms", "p99.9 ms")
}

fn latency_line(name: &str, it: &Latency) -> String {
    let rate = short(it.per_second);
    format!("{:<35} {rate:>8} {:>10.3} {:>10.3} {:>10.3}", cut(name, 35), it.p50_ms, it.p99_ms, it.p99_9_ms)
}

/// At most four figures and a unit: `0`, `7.2`, `950`, `12k`, `1.3M`.
fn short(value: f64) -> String {
    let units = ["", "k", "M", "G", "T", "P"];
    let (mut value, mut unit) = (value.max(0.0), 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let whole = value >= 99.5 || (unit == 0 && value.fract() == 0.0);
    if whole { format!("{value:.0}{}", units[unit]) } else { format!("{value:.1}{}", units[unit]) }
}

/// The first `width` characters; control characters, which a client id may hold, become dots.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).map(|it| if it.is_control() { '.' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page::parse(text)
    }

    #[test]
    fn rates_lie_between_two_looks() {
        let before = page(
            "ringlog_turns_total{shard=\"0\"} 100\nringlog_busy_seconds_total{shard=\"0\"} 1\n\
             ringlog_waiting_seconds_total{shard=\"0\"} 1\nringlog_request_seconds_count{api=\"Fetch\"} 10\n\
             ringlog_request_seconds_bucket{api=\"Fetch\",le=\"0.001\"} 10\nringlog_request_seconds_bucket{api=\"Fetch\",le=\"+Inf\"} 10\n",
        );
        let after = page(
            "ringlog_turns_total{shard=\"0\"} 300\nringlog_busy_seconds_total{shard=\"0\"} 2.5\n\
             ringlog_waiting_seconds_total{shard=\"0\"} 1.5\nringlog_request_seconds_count{api=\"Fetch\"} 14\n\
             ringlog_request_seconds_bucket{api=\"Fetch\",le=\"0.001\"} 10\nringlog_request_seconds_bucket{api=\"Fetch\",le=\"0.004\"} 14\n\
             ringlog_request_seconds_bucket{api=\"Fetch\",le=\"+Inf\"} 14\nringlog_connections{shard=\"0\"} 3\n",
        );
        let frame = Frame::between(&before, &after, 2.0);
        let shard = &frame.shards[0];
        assert_eq!((shard.turns, shard.busy, shard.connections), (100.0, 0.75, 3.0));
        let fetch = &frame.apis[0].latency;
        assert_eq!(
            (fetch.per_second, fetch.p50_ms, fetch.p99_9_ms),
            (2.0, 4.0, 4.0),
            "the old ones do not count"
        );
        // A broker that was started anew counts from 0: rates are never negative.
        assert_eq!(Frame::between(&after, &before, 1.0).shards[0].turns, 0.0);
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let mut text = String::new();
        for shard in 0..40 {
            for name in
                ["turns", "requests", "received_bytes", "sent_bytes", "records_produced", "ring_completions"]
            {
                let _ = writeln!(text, "ringlog_{name}_total{{shard=\"{shard}\"}} 98765432109876");
            }
        }
        let _ =
            writeln!(text, "ringlog_client_requests_total{{client_id=\"{}\u{1b}[2J\"}} 7", "x".repeat(90));
        let _ = writeln!(text, "ringlog_request_seconds_count{{api=\"ConsumerGroupDescribe\"}} 12345678901");
        let frame = Frame::between(&Page::default(), &page(&text), 1.0);
        let shown = frame.text("ringlog http://broker.example:9000", 16);
        assert!(shown.lines().all(|line| line.chars().count() <= COLUMNS), "{shown}");
        assert!(shown.lines().count() < 40 && !shown.contains('\u{1b}'));
        let all = shown.lines().find(|line| line.trim_start().starts_with("all")).unwrap();
        assert_eq!(all.split_whitespace().count(), 12, "no column runs into the next: {all}");
    }

    #[test]
    fn numbers_stay_short() {
        let texts = [0.0, 7.25, 950.0, 999.6, 12_345.0, 1.3e6, 4e9, 1e18].map(short);
        assert_eq!(texts, ["0", "7.2", "950", "1.0k", "12.3k", "1.3M", "4.0G", "1000P"]);
    }
}
