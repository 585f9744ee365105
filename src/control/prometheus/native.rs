//! What only we have: each shard's turns, ring, mailboxes and journal, as counters and histograms; clients; the process.

use std::collections::BTreeMap;

use super::Sight;
use super::page::{Kind, Page};
use crate::metrics::{Histogram, HistogramValues, ShardMetrics};
use crate::protocol::ApiKey;
use crate::server::local::ShardState;

pub(super) fn write(page: &mut Page, sight: &Sight<'_>) {
    let labels = [("version", env!("CARGO_PKG_VERSION"))];
    page.family("ringlog_build_info", Kind::Gauge, "Always 1; the version is in its label.")
        .sample(&labels, 1u64);
    shards(page, sight);
    histograms(page, sight);
    requests(page, sight);
    dirs(page, sight);
    clients(page, sight);
    process(page);
}

fn shards(page: &mut Page, sight: &Sight<'_>) {
    let each = |page: &mut Page, value: &dyn Fn(&ShardMetrics) -> f64| {
        for (shard, link) in sight.cluster.shards.iter().enumerate() {
            page.sample(&[("shard", &shard.to_string())], value(&link.metrics));
        }
    };
    type Value = fn(&ShardMetrics) -> f64;
    let counters: [(&str, &'static str, Value); 20] = [
        ("turns", "Turns of the shard's loop.", |m| m.turns.value() as f64),
        ("busy_seconds", "Time the shard worked.", |m| m.busy_ns.value() as f64 / 1e9),
        ("waiting_seconds", "Time the shard waited for something to do.", |m| {
            m.waited_ns.value() as f64 / 1e9
        }),
        ("ring_submissions", "Operations handed to the kernel.", |m| m.submissions.value() as f64),
        ("ring_completions", "Operations that the kernel has ended.", |m| m.completions.value() as f64),
        ("ring_system_calls", "System calls of the ring.", |m| m.system_calls.value() as f64),
        ("connections_opened", "Connections taken.", |m| m.connections_opened.value() as f64),
        ("connections_closed", "Connections ended.", |m| m.connections_closed.value() as f64),
        ("connections_refused", "Connections beyond the limit.", |m| m.connections_refused.value() as f64),
        ("received_bytes", "Bytes from clients.", |m| m.bytes_received.value() as f64),
        ("sent_bytes", "Bytes to clients.", |m| m.bytes_sent.value() as f64),
        ("requests", "Requests, of the control thread too.", |m| m.requests.value() as f64),
        ("records_produced", "Records appended.", |m| m.records_produced.value() as f64),
        ("produced_bytes", "Bytes of batches appended.", |m| m.bytes_produced.value() as f64),
        ("fetched_bytes", "Bytes of batches sent to consumers.", |m| m.bytes_fetched.value() as f64),
        ("tasks_sent", "Parts of requests given to other shards.", |m| m.tasks_sent.value() as f64),
        ("fetches_parked", "Fetches that had to wait.", |m| m.fetches_parked.value() as f64),
        ("journal_bytes", "Bytes written to the journal.", |m| m.journal_bytes.value() as f64),
        ("segment_written_bytes", "Bytes written to segments.", |m| m.segment_bytes_written.value() as f64),
        ("segment_read_bytes", "Bytes read from segments.", |m| m.segment_bytes_read.value() as f64),
    ];
    for (name, help, value) in counters {
        page.family(&format!("ringlog_{name}_total"), Kind::Counter, help);
        each(page, &value);
    }
    page.family("ringlog_busy_ratio", Kind::Gauge, "The part of the last minute that the shard worked.");
    for (shard, busy) in sight.window.busy.iter().enumerate() {
        page.sample(&[("shard", &shard.to_string())], *busy);
    }
    type State = fn(&ShardState) -> usize;
    let gauges: [(&str, &'static str, State); 9] = [
        ("connections", "Open connections.", |s| s.connections),
        ("unfinished_request_bytes", "Bytes of requests that are not whole yet.", |s| s.input_bytes),
        ("mailbox_waiting", "Pieces of mail that wait for the shard.", |s| s.mail_waiting),
        ("mailbox_unsent", "Pieces of mail for which another shard has no room.", |s| s.mail_unsent),
        ("partitions", "Partitions of the shard.", |s| s.broker.partitions),
        ("requests_waiting", "Requests whose parts are out, parked fetches among them.", |s| {
            s.broker.gathers
        }),
        ("stalled_bytes", "Appends that wait for room in the journal.", |s| s.broker.stalled_bytes),
        ("memory_used_bytes", "Memory for data in use.", |s| s.broker.memory_used_bytes),
        ("memory_limit_bytes", "Memory for data, the most there may be.", |s| s.broker.memory_max_bytes),
    ];
    for (name, help, value) in gauges {
        page.family(&format!("ringlog_{name}"), Kind::Gauge, help);
        for (shard, state) in sight.snapshot.shards.iter().enumerate() {
            page.sample(&[("shard", &shard.to_string())], value(state));
        }
    }
}

fn histograms(page: &mut Page, sight: &Sight<'_>) {
    type Values = fn(&ShardMetrics) -> &Histogram;
    let families: [(&str, &'static str, Values); 4] = [
        ("turn", "How long a turn works.", |m| &m.turn_time),
        ("journal_write", "Writes to the journal that need no sync.", |m| &m.journal_write_time),
        ("journal_durable_write", "Writes to the journal that reach stable media.", |m| {
            &m.journal_durable_write_time
        }),
        ("journal_sync", "Syncs of the journal.", |m| &m.journal_sync_time),
    ];
    for (name, help, values) in families {
        page.family(&format!("ringlog_{name}_seconds"), Kind::Histogram, help);
        for (shard, link) in sight.cluster.shards.iter().enumerate() {
            page.histogram(&[("shard", &shard.to_string())], &values(&link.metrics).values());
        }
    }
}

fn requests(page: &mut Page, sight: &Sight<'_>) {
    let shards = &sight.cluster.shards;
    let apis: Vec<ApiKey> =
        sight.window.apis.iter().filter_map(|(key, _)| ApiKey::try_from(*key).ok()).collect();
    let name = "ringlog_request_seconds";
    page.family(name, Kind::Histogram, "From a request's arrival to its answer, over all shards.");
    for api in &apis {
        let mut all = HistogramValues::default();
        shards.iter().for_each(|shard| all.add(&shard.metrics.api(api.code()).time.values()));
        page.histogram(&[("api", api.name())], &all);
    }
    page.family("ringlog_request_bytes_total", Kind::Counter, "Bytes of requests.");
    for api in &apis {
        let sum: u64 = shards.iter().map(|shard| shard.metrics.api(api.code()).request_bytes.value()).sum();
        page.sample(&[("api", api.name())], sum);
    }
    page.family("ringlog_response_bytes_total", Kind::Counter, "Bytes of answers.");
    for api in &apis {
        let sum: u64 = shards.iter().map(|shard| shard.metrics.api(api.code()).response_bytes.value()).sum();
        page.sample(&[("api", api.name())], sum);
    }
}

fn dirs(page: &mut Page, sight: &Sight<'_>) {
    let shards = &sight.snapshot.shards;
    page.family("ringlog_log_dir_online", Kind::Gauge, "Whether a log directory works.");
    for dir in &shards[0].broker.dirs {
        page.sample(&[("dir", &dir.path)], u64::from(dir.online));
    }
    page.family(
        "ringlog_journal_used_bytes",
        Kind::Gauge,
        "Of the journal's files, the part that is needed.",
    );
    for (shard, state) in shards.iter().enumerate() {
        for dir in &state.broker.dirs {
            page.sample(&[("dir", &dir.path), ("shard", &shard.to_string())], dir.journal_bytes);
        }
    }
    page.family("ringlog_tail_bytes", Kind::Gauge, "Memory of the journal's blocks that no segment has yet.");
    for (shard, state) in shards.iter().enumerate() {
        for dir in &state.broker.dirs {
            page.sample(&[("dir", &dir.path), ("shard", &shard.to_string())], dir.tail_bytes);
        }
    }
}

fn clients(page: &mut Page, sight: &Sight<'_>) {
    let mut sums: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for state in sight.snapshot.shards.iter().flat_map(|shard| &shard.clients) {
        let sum = sums.entry(state.name.as_deref().unwrap_or("(others)")).or_default();
        for (to, from) in sum.iter_mut().zip([state.requests, state.bytes_received, state.bytes_sent]) {
            *to += from;
        }
    }
    let mut busiest: Vec<_> = sums.into_iter().filter(|(_, sum)| sum[0] > 0).collect();
    busiest.sort_by_key(|(_, sum)| std::cmp::Reverse(sum[1] + sum[2]));
    busiest.truncate(sight.cluster.config.http.metrics.clients_max);
    for (index, (name, help)) in [
        ("ringlog_client_requests_total", "Requests of a client id."),
        ("ringlog_client_received_bytes_total", "Bytes from a client id."),
        ("ringlog_client_sent_bytes_total", "Bytes to a client id."),
    ]
    .into_iter()
    .enumerate()
    {
        page.family(name, Kind::Counter, help);
        for (client, sum) in &busiest {
            page.sample(&[("client_id", client)], sum[index]);
        }
    }
}

/// The usual metrics of a process, from /proc.
fn process(page: &mut Page) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/self/stat");
    // Behind the name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    const TICKS: f64 = 100.0;
    let cpu = (field(11) + field(12)) / TICKS;
    page.single("process_cpu_seconds_total", Kind::Counter, "CPU time of the process.", cpu);
    let boot: f64 = read("/proc/stat")
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
        .unwrap_or(0.0);
    let started = boot + field(19) / TICKS;
    page.single("process_start_time_seconds", Kind::Gauge, "When the process started.", started);
    page.single("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory.", field(20));
    let resident = read("/proc/self/status")
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    page.single("process_resident_memory_bytes", Kind::Gauge, "Resident memory.", resident * 1024);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    page.single("process_open_fds", Kind::Gauge, "Open files and sockets.", open);
}
