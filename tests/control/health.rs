//! Health, and the listener itself.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::broker::{Broker, command};

#[test]
fn a_broker_that_serves_is_live_and_ready() {
    let broker = Broker::start();
    let live = broker.get("/health/live");
    assert_eq!((live.status, live.json()["status"].as_str()), (200, Some("up")));
    let ready = broker.get("/health/ready");
    assert_eq!((ready.status, ready.json()["status"].as_str()), (200, Some("up")));
    assert_eq!(ready.json()["log_dirs"][0]["online"], true);
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_the_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path(), &url, &[]).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("ringlog.http.listener") && text.contains("no HTTP"), "{text}");
}

#[test]
fn the_default_port_may_be_taken_and_no_listener_may_be_wanted() {
    // Ours, unless somebody else has it: taken it is.
    let _taken = std::net::TcpListener::bind("127.0.0.1:9000");
    for settings in [None, Some("")] {
        let dir = tempfile::tempdir().unwrap();
        let mut start = std::process::Command::new(crate::broker::BINARY);
        start
            .args(["serve", "--log", "warn", "--set", &format!("log.dirs={}", dir.path().display())])
            .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "shards=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(nothing) = settings {
            start.args(["--set", &format!("ringlog.http.listener={nothing}")]);
        }
        let mut child = start.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(line.split_whitespace().count(), 2, "{line}");
        assert_eq!(said.contains("no HTTP"), settings.is_none(), "{said}");
    }
}
