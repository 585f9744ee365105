//! Metrics: the values, the names that dashboards and rules use, and the judgement of Prometheus itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::broker::{Broker, Reply};

/// Samples by name and labels as they stand on the page.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap())).unwrap()
        })
        .collect()
}

fn used() -> Broker {
    let broker = Broker::start();
    broker.run(&["topic", "create", "orders", "--partitions", "3"], "");
    let input: String = (0..100).map(|n| format!("k{n}:value {n}\n")).collect();
    broker.run(&["produce", "orders", "--key-separator", ":", "--acks", "all"], &input);
    broker.run(
        &["consume", "orders", "--group", "billing", "--from", "beginning", "--max-messages", "100"],
        "",
    );
    broker.run(&["produce", "orders", "--key-separator", ":"], "a:1\nb:2\nc:3\n");
    broker
}

#[test]
fn the_page_tells_what_happened() {
    let broker = used();
    let page = broker.get("/metrics");
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let found = samples(&page.body);
    let value =
        |name: &str| *found.get(name).unwrap_or_else(|| panic!("no {name} on the page:\n{}", page.body));
    let sum = |prefix: &str| -> f64 {
        found.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
    };
    assert_eq!(value("kafka_server_brokertopicmetrics_messagesin_total{topic=\"orders\"}"), 103.0);
    assert!(value("kafka_server_brokertopicmetrics_messagesin_total") >= 103.0);
    assert!(value("kafka_server_brokertopicmetrics_bytesin_total{topic=\"orders\"}") > 1000.0);
    assert!(value("kafka_server_brokertopicmetrics_bytesout_total{topic=\"orders\"}") > 1000.0);
    assert!(value("kafka_network_requestmetrics_requests_total{request=\"Produce\"}") >= 2.0);
    assert!(value("kafka_network_requestmetrics_totaltimems{request=\"Produce\",quantile=\"0.99\"}") > 0.0);
    assert_eq!(sum("kafka_log_log_logendoffset{topic=\"orders\""), 103.0);
    assert_eq!(sum("kafka_topic_partition_current_offset{topic=\"orders\""), 103.0);
    assert_eq!(value("kafka_topic_partitions{topic=\"orders\"}"), 3.0);
    assert_eq!(value("kafka_consumergroup_lag_sum{consumergroup=\"billing\",topic=\"orders\"}"), 3.0);
    assert_eq!(sum("kafka_consumergroup_lag{consumergroup=\"billing\",topic=\"orders\""), 3.0);
    assert_eq!(value("kafka_consumergroup_members{consumergroup=\"billing\"}"), 0.0);
    assert_eq!(value("kafka_server_replicamanager_offlinereplicacount"), 0.0);
    assert_eq!(value("kafka_coordinator_group_groupmetadatamanager_numgroups"), 1.0);
    assert!(value("ringlog_client_requests_total{client_id=\"ringlog-cli\"}") > 5.0);
    assert!(sum("ringlog_journal_durable_write_seconds_count") > 0.0, "acks=all was durable");
    assert!(sum("ringlog_turns_total") > 0.0 && sum("ringlog_ring_completions_total") > 0.0);
    assert!(sum("ringlog_busy_seconds_total") > 0.0 && sum("ringlog_waiting_seconds_total") > 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    for (name, value) in &found {
        assert!(value.is_finite() && *value >= 0.0 || name.contains("last"), "{name} {value}");
    }
}

/// The kernel deals connections out by a hash: unequal more often than not.
#[test]
fn connections_are_spread_over_the_shards() {
    let broker = Broker::with(&["shards=2"]);
    let open = |broker: &Broker| {
        let found = samples(&broker.get("/metrics").body);
        ["0", "1"].map(|shard| {
            let name = format!(
                "kafka_server_socket_server_metrics_connection_count{{networkProcessor=\"{shard}\"}}"
            );
            *found.get(&name).unwrap_or_else(|| panic!("no {name}")) as usize
        })
    };
    // A connection is there for the client before a shard has taken it.
    let reach = |broker: &Broker, wanted: &dyn Fn([usize; 2]) -> bool| {
        let last = (0..500).map(|_| open(broker)).find(|found| wanted(*found));
        assert!(last.is_some(), "{:?}", open(broker));
    };
    let mut streams = Vec::new();
    for count in 1..=9 {
        streams.push(std::net::TcpStream::connect(&broker.kafka).unwrap());
        reach(&broker, &|found| found.iter().sum::<usize>() == count && found[0].abs_diff(found[1]) <= 1);
    }
    // What a connection that was handed over took of the balance is given back too.
    drop(streams);
    reach(&broker, &|found| found == [0, 0]);
    let _four: Vec<_> = (0..4).map(|_| std::net::TcpStream::connect(&broker.kafka).unwrap()).collect();
    reach(&broker, &|found| found == [2, 2]);
}

#[test]
fn what_is_too_much_is_in_the_totals_alone() {
    let broker = Broker::with(&[
        "ringlog.metrics.topics.max=2",
        "ringlog.metrics.partitions.max=3",
        "ringlog.metrics.clients.max=0",
    ]);
    for topic in ["a", "b", "c", "d"] {
        broker.run(&["topic", "create", topic, "--partitions", "2"], "");
        broker.run(&["produce", topic], "x\n");
    }
    let page = broker.get("/metrics");
    let found = samples(&page.body);
    let count = |prefix: &str| found.keys().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(found["kafka_server_brokertopicmetrics_messagesin_total"], 4.0);
    assert_eq!(count("kafka_server_brokertopicmetrics_messagesin_total{"), 2);
    assert_eq!(count("kafka_log_log_size{"), 3);
    assert_eq!(count("ringlog_client_requests_total"), 0);
    assert_eq!(found["ringlog_metrics_left_out{what=\"topic\"}"], 2.0);
    assert_eq!(found["ringlog_metrics_left_out{what=\"partition\"}"], 5.0);
}

#[test]
fn the_dashboard_and_the_rules_use_only_what_is_on_the_page() {
    let broker = used();
    let page = broker.get("/metrics").body;
    let known: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let mut used = 0;
    for expression in expressions() {
        for word in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if !["kafka_", "ringlog_", "process_"].iter().any(|prefix| word.starts_with(prefix)) {
                continue;
            }
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
            assert!(
                known.contains(word) || family.is_some_and(|f| known.contains(f)),
                "{word} is not on the page"
            );
            used += 1;
        }
    }
    assert!(used > 40, "{used}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("metrics")
}

/// All that the dashboard and the rules ask.
fn expressions() -> Vec<String> {
    let text = std::fs::read_to_string(folder().join("grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut found: Vec<String> = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    let rules = std::fs::read_to_string(folder().join("alerts.yml")).unwrap();
    let of_rules = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    found.extend(of_rules.map(str::to_owned));
    assert!(found.len() > 30);
    found
}

/// Whether Debian's `prometheus` is there; `tests/run` installs it.
fn has_prometheus() -> bool {
    let there =
        Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = there.is_ok_and(|status| status.success());
    if !there {
        eprintln!("skipped: promtool is not installed");
    }
    there
}

#[test]
fn promtool_takes_the_page_and_the_rules() {
    if !has_prometheus() {
        return;
    }
    let page = used().get("/metrics").body;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    // It finds fault with the style of names that are not ours but the exporters'.
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let of_kafka = |line: &str| {
        line.starts_with("kafka_") && (line.contains("camelCase") || line.contains("should not have \"_"))
    };
    assert!(said.lines().all(of_kafka), "{said}");
    for args in [
        vec!["check", "rules", "alerts.yml"],
        vec!["test", "rules", "alerts_test.yml"],
        vec!["check", "config", "prometheus.yml"],
    ] {
        let output = Command::new("promtool").args(&args).current_dir(folder()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}

struct Prometheus {
    child: Child,
    address: std::net::SocketAddr,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    /// One that has scraped the broker.
    fn of(broker: &Broker, options: &[&str]) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nscrape_configs:\n  - job_name: ringlog\n    \
             static_configs: [{{ targets: [\"{}\"] }}]\n",
            folder().join("alerts.yml").display(),
            broker.http
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let prometheus = Prometheus { child, address, _dir: dir };
        let up = |answer: &Value| answer["data"]["result"][0]["value"][1] == "1";
        let deadline = Instant::now() + Duration::from_secs(60);
        while !prometheus.ask("up{job=\"ringlog\"}").as_ref().is_some_and(up) {
            assert!(Instant::now() < deadline, "it was not scraped");
            std::thread::sleep(Duration::from_millis(200));
        }
        prometheus
    }

    fn ask(&self, expression: &str) -> Option<Value> {
        let mut stream = std::net::TcpStream::connect(self.address).ok()?;
        let path = format!("/api/v1/query?query={}", percent(expression));
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let reply = Reply::read(&mut stream);
        (reply.status == 200).then(|| reply.json())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_and_answers_every_expression() {
    if !has_prometheus() {
        return;
    }
    let broker = used();
    let prometheus = Prometheus::of(&broker, &[]);
    let lag = prometheus.ask("sum(kafka_consumergroup_lag{consumergroup=\"billing\"})").unwrap();
    assert_eq!(lag["data"]["result"][0]["value"][1], "3");
    for expression in expressions() {
        let expression = expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
        let answer = prometheus.ask(&expression).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
    }
}

/// A collector of the test's own: what it was sent, and with which headers.
#[test]
fn metrics_are_sent_to_a_collector() {
    use std::io::Read;
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("ringlog.otlp.endpoint=http://{}", collector.local_addr().unwrap());
    let settings =
        [endpoint.as_str(), "ringlog.otlp.interval.ms=1000", "ringlog.otlp.headers=api-key=s3cret, tenant=a"];
    let broker = Broker::with(&settings);
    broker.run(&["topic", "create", "sent", "--partitions", "1"], "");
    broker.run(&["produce", "sent"], "a\nb\n");
    let batch = |answer: &str| -> (String, Value) {
        let mut stream = collector.accept().unwrap().0;
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (mut bytes, mut piece) = (Vec::new(), [0; 65536]);
        loop {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "cut off: {}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                write!(stream, "{answer}").unwrap();
                return (head.to_owned(), serde_json::from_str(body).unwrap());
            }
        }
    };
    // A refusal does not end it.
    batch("HTTP/1.1 503 Later\r\ncontent-length: 0\r\n\r\n");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (head, body) = batch("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        assert!(head.starts_with("POST /v1/metrics HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\napi-key: s3cret\r\ntenant: a"), "{head}");
        let resource = &body["resourceMetrics"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "ringlog");
        let metrics = resource["scopeMetrics"][0]["metrics"].as_array().unwrap();
        let named = |name: &str| metrics.iter().find(|metric| metric["name"] == name);
        let written = named("kafka_server_brokertopicmetrics_messagesin_total").unwrap();
        let points = written["sum"]["dataPoints"].as_array().unwrap();
        let of_topic = |point: &&Value| point["attributes"][0]["value"]["stringValue"] == "sent";
        if points.iter().find(of_topic).is_some_and(|point| point["asInt"] == "2") {
            let point = &named("ringlog_request_seconds").unwrap()["histogram"]["dataPoints"][0];
            let count = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
            let all: u64 = point["bucketCounts"].as_array().unwrap().iter().map(count).sum();
            assert_eq!(all, count(&point["count"]));
            break;
        }
        assert!(Instant::now() < deadline, "{points:?}");
    }
    // What may be a secret is not shown.
    let told = broker.run(&["config", "describe", "--broker", "1", "--json"], "");
    assert!(told.contains("ringlog.otlp.headers") && !told.contains("s3cret"), "{told}");
}

/// Where they exist: Prometheus with native histograms asks for the format that has them, and its figures are ours.
#[test]
fn prometheus_takes_native_histograms() {
    if !has_prometheus() {
        return;
    }
    let broker = used();
    let prometheus = Prometheus::of(&broker, &["--enable-feature=native-histograms"]);
    let answer = prometheus.ask("histogram_count(ringlog_request_seconds{api=\"CreateTopics\"})").unwrap();
    assert_eq!(answer["data"]["result"][0]["value"][1], "1", "{answer}");
    let answer =
        prometheus.ask("histogram_quantile(0.5, ringlog_request_seconds{api=\"CreateTopics\"})").unwrap();
    let median: f64 = answer["data"]["result"][0]["value"][1].as_str().unwrap().parse().unwrap();
    let page = samples(&broker.get("/metrics").body);
    let exact = page["ringlog_request_seconds_sum{api=\"CreateTopics\"}"];
    assert!((median / exact - 1.0).abs() < 0.25, "one request took {exact} s, its quantile is {median} s");
    // The same families in both formats.
    let names = prometheus.ask("count by (__name__) ({job=\"ringlog\"})").unwrap();
    let names: Vec<&str> = names["data"]["result"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["metric"]["__name__"].as_str())
        .collect();
    for series in page.keys().filter(|series| !series.contains("_bucket")) {
        let name = series.split('{').next().unwrap();
        let native = name.strip_suffix("_sum").or(name.strip_suffix("_count")).unwrap_or(name);
        assert!(names.contains(&name) || names.contains(&native), "{name}");
    }
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}
