//! The load lab as a user runs it: the built binary against a real broker of the same binary, its files read back.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_ringlog");

/// A broker of the test's own; it ends with it.
struct Broker {
    child: Child,
    address: String,
    http: String,
    dir: tempfile::TempDir,
}

impl Broker {
    fn start() -> Broker {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(BINARY)
            .args(["serve", "--log", "error"])
            .args(["--set", &format!("log.dirs={}", dir.path().join("data").display())])
            .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "shards=1"])
            .args(["--set", "ringlog.http.listener=http://127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut broker = Broker { child, address: String::new(), http: String::new(), dir };
        let mut line = String::new();
        BufReader::new(broker.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut words = line.split_whitespace().skip(1);
        broker.address = words.next().expect("the broker is ready").to_owned();
        broker.http = words.next().expect("and serves HTTP").to_owned();
        broker
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn load(&self, args: &[&str]) -> Output {
        Command::new(BINARY)
            .args(["load", "--bootstrap", &self.address, "--max-lag", "1h"])
            .args(args)
            .output()
            .unwrap()
    }

    /// The report of a run that has to be a good one.
    fn report(&self, args: &[&str]) -> Value {
        let output = self.load(&[args, &["--quiet", "--json", "-"]].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn arrivals_follow_their_plan_to_the_record() {
    let broker = Broker::start();
    let trace = broker.file("trace.csv");
    std::fs::write(&trace, "seconds,records\n10,300\n10.2,0\n10.3,500\n10.5,0\n").unwrap();
    let trace = trace.to_str().unwrap();
    for (args, process, records) in [
        (&["--trace", trace, "--trace-speed", "2"][..], "trace", 800),
        (&["--trace", trace, "--duration", "1s", "--producers", "3"], "trace", 1600),
        (
            &["--rate", "1000", "--arrivals", "burst", "--burst-every", "100ms", "--duration", "1s"],
            "burst",
            1000,
        ),
        (
            &["--rate", "2000", "--arrivals", "poisson", "--records", "700", "--producers", "2"],
            "poisson",
            700,
        ),
        (&["--rate", "1000", "--duration", "500ms"], "constant", 500),
    ] {
        let report = broker.report(args);
        assert_eq!(report["asked"]["arrivals"], process);
        assert_eq!(report["offered_records"], records, "{args:?}");
        assert_eq!(report["produced"]["records"], records, "{args:?}");
        assert_eq!(report["verification"]["read"]["records"], records, "{args:?}");
        let seconds = report["seconds"].as_array().unwrap();
        let acked: u64 = seconds.iter().map(|second| second["acked"].as_u64().unwrap()).sum();
        assert_eq!(acked, records, "{args:?}");
        assert_eq!(report["latency"]["ack"]["count"], records);
    }
}

#[test]
fn what_other_runs_wrote_is_read_and_checked() {
    let broker = Broker::start();
    for records in ["700", "300"] {
        broker.report(&["--topic", "kept", "--keep", "--records", records, "--consumers", "0"]);
    }
    let report = broker.report(&["--topic", "kept", "--producers", "0", "--consumers", "2"]);
    assert_eq!(report["consumed"]["records"], 1000);
    assert_eq!(report["verification"]["read"]["corrupt"], 0);
}

#[test]
fn the_page_of_a_run_is_whole_and_loads_nothing() {
    let broker = Broker::start();
    let (page, report, csv) = (broker.file("run.html"), broker.file("run.json"), broker.file("run.csv"));
    let output = broker.load(&[
        "--rate",
        "2000",
        "--duration",
        "1200ms",
        "--html",
        page.to_str().unwrap(),
        "--json",
        report.to_str().unwrap(),
        "--csv",
        csv.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{output:?}");
    let page = std::fs::read_to_string(page).unwrap();
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for title in ["Throughput over time", "Latency to the acknowledgement over time", "Latency by percentile"]
    {
        assert!(page.contains(&format!("<figcaption>{title}</figcaption><svg")), "{title}");
    }
    let data = page.split("id=\"report\">").nth(1).unwrap().split("</script>").next().unwrap();
    assert_eq!(serde_json::from_str::<Value>(data).unwrap(), json(&report));
    // The broker's process was found by its port, and is the one that was started.
    assert!(json(&report)["broker"]["rss_bytes"].as_u64().unwrap() > 0);
    let csv = std::fs::read_to_string(csv).unwrap();
    let acked: u64 =
        csv.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(acked, 2400);
}

#[test]
fn a_curve_and_repetitions_are_runs_in_one_document() {
    let broker = Broker::start();
    let page = broker.file("curve.html");
    let args =
        ["--curve", "2000,500", "--repeat", "2", "--duration", "300ms", "--html", page.to_str().unwrap()];
    let curve = broker.report(&args);
    assert_eq!(curve["kind"], "curve");
    let rate = |run: &Value| run["asked"]["records_per_second"].as_f64().unwrap();
    let rates: Vec<f64> = curve["runs"].as_array().unwrap().iter().map(rate).collect();
    assert_eq!(rates, [500.0, 2000.0, 2000.0, 500.0], "up, then down");
    assert!(
        std::fs::read_to_string(page).unwrap().contains("Latency to the acknowledgement at the offered rate")
    );

    let csv = broker.file("runs.csv");
    let args = ["--repeat", "3", "--records", "400", "--consumers", "0", "--csv", csv.to_str().unwrap()];
    let runs = broker.report(&args);
    assert_eq!((&runs["kind"], runs["runs"].as_array().unwrap().len()), (&"runs".into(), 3));
    assert_eq!(std::fs::read_to_string(csv).unwrap().lines().count(), 4);
    let output = broker.load(&["--repeat", "2", "--hdr", "/dev/null"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn a_search_says_what_it_found_and_when_nothing_holds() {
    let broker = Broker::start();
    let search =
        ["--duration", "300ms", "--consumers", "0", "--search-precision", "50", "--search-confirm", "2"];
    // No answer comes before it is asked for: nothing can hold this.
    let output = broker.load(&[&search[..], &["--search", "max<1ns", "--json", "-"]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["search"]["records_per_second"], Value::Null);
    assert_eq!(
        document["runs"].as_array().unwrap().len(),
        document["search"]["trials"].as_array().unwrap().len()
    );

    // What an hour's limit leaves is the broker's and the generator's own limit.
    let output = broker.load(&[&search[..], &["--search", "max<1h", "--json", "-"]].concat());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = &document["search"];
    let trials = found["trials"].as_array().unwrap();
    match found["records_per_second"].as_f64() {
        Some(rate) => {
            let confirmed = trials.iter().filter(|trial| {
                trial["confirming"] == true && trial["held"] == true && trial["records_per_second"] == rate
            });
            assert!(confirmed.count() >= 2 || found["cut_short"] == true, "{found}");
            let failed = found["fails_at_records_per_second"].as_f64().unwrap_or(f64::INFINITY);
            assert!(failed > rate && output.status.success(), "{found}");
        }
        None => assert_eq!(output.status.code(), Some(1), "{found}"),
    }
}

fn compare(args: &[&str]) -> (i32, String) {
    let output = Command::new(BINARY).arg("compare").args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn result_files_are_compared_and_unlike_or_noisy_ones_refused() {
    let broker = Broker::start();
    // A real report, made the same five times but for a little spread, so that what is worse is known beforehand.
    let mut report = broker.report(&["--records", "500", "--broker-pid", &broker.child.id().to_string()]);
    report["noise"] = serde_json::json!({ "other_cpu": 0.01, "steal_cpu": 0.0 });
    let made = |name: &str, slower: f64, change: &dyn Fn(&mut Value)| {
        let mut runs = Vec::new();
        for spread in [1.0, 1.001, 0.999, 1.002, 0.998] {
            let mut run = report.clone();
            for series in ["ack", "e2e"] {
                for percentile in ["p50_ns", "p99_ns", "p99_9_ns"] {
                    let ns = &mut run["latency"][series][percentile];
                    *ns = (ns.as_f64().unwrap() * spread * slower).into();
                }
            }
            change(&mut run);
            runs.push(run);
        }
        let path = broker.file(name);
        let document = serde_json::json!({ "kind": "runs", "runs": runs });
        std::fs::write(&path, serde_json::to_vec(&document).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let nothing: &dyn Fn(&mut Value) = &|_| {};
    let base = made("base.json", 1.0, nothing);
    let slow = made("slow.json", 1.2, nothing);
    let unlike = made("unlike.json", 1.0, &|run| run["asked"]["acks"] = "1".into());
    let noisy = made("noisy.json", 1.0, &|run| run["noise"]["other_cpu"] = 0.4.into());
    let lost = made("lost.json", 1.0, &|run| {
        run["verdict"] = "failed".into();
        run["reasons"] = serde_json::json!(["verification: 3 lost"]);
    });
    let invalid = made("invalid.json", 1.0, &|run| run["verdict"] = "invalid".into());
    for (files, more, code, says) in [
        ([&base, &base], &[][..], 0, "SAME"),
        ([&base, &slow], &[], 1, "WORSE"),
        ([&slow, &base], &[], 0, "BETTER"),
        ([&base, &slow], &["--threshold", "30"], 0, "SAME"),
        ([&base, &slow], &["--figures", "broker-rss"], 0, "SAME"),
        ([&base, &slow], &["--confidence", "99.9"], 0, "UNDECIDED"),
        ([&base, &slow], &["--confidence", "99.9", "--require-proof"], 2, "UNDECIDED"),
        ([&base, &unlike], &[], 2, "unlike acks"),
        ([&base, &unlike], &["--allow", "acks"], 0, "differs: acks"),
        ([&base, &noisy], &[], 2, "40.0 %"),
        ([&base, &noisy], &["--allow-noise"], 0, "note: the machine was noisy"),
        ([&base, &lost], &[], 1, "3 lost"),
        ([&lost, &base], &[], 2, "INVALID"),
        ([&base, &invalid], &[], 2, "INVALID"),
        ([&base, &"/does/not/exist".to_owned()], &[], 3, "exist"),
        ([&base, &base], &["--figures", "beauty"], 3, "beauty"),
    ] {
        let (found, text) = compare(&[&[files[0].as_str(), files[1]], more].concat());
        assert!(found == code && text.contains(says), "{files:?} {more:?}: {found}\n{text}");
    }
    let bencher = broker.file("bencher.json");
    compare(&[&base, &slow, "--bencher", bencher.to_str().unwrap(), "--quiet"]);
    let metric = &json(&bencher)["ringlog load"]["ack-p99 (ms)"];
    let expected = report["latency"]["ack"]["p99_ns"].as_f64().unwrap() * 1.2e-6;
    assert!((metric["value"].as_f64().unwrap() / expected - 1.0).abs() < 1e-6, "{metric}");
}

#[test]
fn a_history_grows_by_the_candidate_and_tells_where_a_figure_changed() {
    let broker = Broker::start();
    let mut report = broker.report(&["--records", "200"]);
    report["noise"] = serde_json::json!({ "other_cpu": 0.01, "steal_cpu": 0.0 });
    let history = broker.file("history.csv");
    let path = history.to_str().unwrap();
    let result = |name: &str, p99_ns: f64| {
        let mut run = report.clone();
        run["latency"]["ack"]["p99_ns"] = p99_ns.into();
        let file = broker.file(name);
        std::fs::write(&file, serde_json::to_vec(&run).unwrap()).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let base = result("base.json", 5e6);
    let add = |file: &str, commit: &str, figures: &str| {
        compare(&[&base, file, "--history", path, "--commit", commit, "--figures", figures])
    };
    for number in 0..24 {
        let level = if number < 12 { 5e6 } else { 6e6 };
        let candidate = result("candidate.json", level * (1.0 + 0.001 * f64::from(number * 7 % 5)));
        let (code, text) = add(&candidate, &format!("c{number}"), "ack-p99");
        assert!(code == 0, "{text}");
        assert_eq!(text.contains("changed"), number >= 16, "{number}: {text}");
    }
    let text = std::fs::read_to_string(&history).unwrap();
    assert!(text.starts_with("time,commit,ack-p99 (ms)\n") && text.lines().count() == 25, "{text}");
    let seconds = report["started_ms"].as_i64().unwrap() / 1000;
    assert_eq!(text.lines().nth(1), Some(format!("{seconds},c0,5").as_str()));

    let (code, text) = compare(&["--history", path]);
    assert!(
        code == 1 && text.contains("worse: ack-p99 (ms) from") && text.contains("at c12, 12 results"),
        "{text}"
    );
    let (code, _) = compare(&["--history", path, "--recent", "11"]);
    assert_eq!(code, 0, "what changed before is known");
    // Nothing is added that cannot be told apart from what stands there.
    for (commit, figures, says) in [("c24", "throughput", "other figures"), ("a,b", "ack-p99", "no name")] {
        let (code, text) = add(&base, commit, figures);
        assert!(code == 3 && text.contains(says), "{text}");
    }
    assert_eq!(std::fs::read_to_string(&history).unwrap().lines().count(), 25);
}

#[test]
fn two_brokers_are_loaded_in_turn_and_few_rounds_decide_nothing() {
    let (base, candidate) = (Broker::start(), Broker::start());
    let result = base.file("comparison.json");
    let brokers = ["--base", &base.address, "--candidate", &candidate.address];
    let rest = ["--rounds", "2", "--allow-noise", "--json", result.to_str().unwrap()];
    let load = ["--", "--records", "300", "--max-lag", "1h", "--record-size", "200"];
    let (code, text) = compare(&[&brokers[..], &rest, &load].concat());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("round 2 of 2, base") && text.contains("66.7 % confidence"), "{text}");
    let comparison = json(&result);
    assert_eq!(comparison["verdict"], "undecided");
    let figures = comparison["figures"].as_array().unwrap();
    assert!(figures.iter().any(|figure| figure["name"] == "throughput"));
    assert!(figures.iter().all(|figure| figure["base"]["runs"].as_array().unwrap().len() == 2));

    let load = ["--", "--records", "300", "--json", "x.json"];
    let (code, text) = compare(&[&brokers[..], &load].concat());
    assert!(code == 3 && text.contains("writes no files"), "{text}");
    let (code, _) = compare(&["--base", "127.0.0.1:1", "--candidate", "127.0.0.1:1", "--", "--records", "1"]);
    assert_eq!(code, 3);
}

#[test]
fn top_shows_what_the_broker_did() {
    let broker = Broker::start();
    broker.report(&["--records", "1500", "--record-size", "100"]);
    let top = |args: &[&str]| Command::new(BINARY).arg("top").arg(&broker.http).args(args).output().unwrap();
    let output = top(&["--once", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let frame: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(frame["records_produced_total"], 1500.0);
    assert_eq!(frame["shards"].as_array().unwrap().len(), 1);
    assert!(
        frame["apis"]
            .as_array()
            .unwrap()
            .iter()
            .any(|api| api["api"] == "Produce" && api["p99_ms"].as_f64() > Some(0.0))
    );
    let output = top(&["--count", "2", "--interval", "100ms"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("shard busy")).count(), 2, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80) && !text.contains('\u{1b}'), "{text}");

    assert_eq!(top(&["--interval", "1ms"]).status.code(), Some(2));
    // The broker's other port speaks no HTTP, and nobody listens on the last one.
    for (url, code) in [(broker.address.as_str(), 5), ("127.0.0.1:1", 5), ("nonsense", 2)] {
        let output = Command::new(BINARY).args(["top", url, "--once"]).output().unwrap();
        assert!(
            matches!(output.status.code(), Some(found) if found == code || found == 1 && code == 5),
            "{url}: {output:?}"
        );
    }
}
