//! Peers that mean harm, or know no better, against the built binary: nothing they send ends it, what they may hold is
//! bounded, and others are served all the while.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringlog::protocol::frame::encode_request;
use ringlog::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ringlog::protocol::messages::metadata_request::MetadataRequest;

const BINARY: &str = env!("CARGO_BIN_EXE_ringlog");
/// What the broker is given, and what it may take in all: binary, stacks, rings and receive buffers come to it.
const MEMORY_BYTES: usize = 64 << 20;
const RSS_MAX_BYTES: usize = 160 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

struct Broker {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Broker {
    fn start(settings: &[&str]) -> Broker {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(BINARY)
            .args(["serve", "--log", "error"])
            .args(["--set", &format!("log.dirs={}", dir.path().display())])
            .args(["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "shards=1"])
            .args(["--set", &format!("ringlog.memory.bytes={MEMORY_BYTES}")])
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut broker = Broker { child, address: String::new(), _dir: dir };
        let mut line = String::new();
        BufReader::new(broker.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("ready ");
        broker.address = address.expect("the broker is ready").split(' ').next().unwrap().to_owned();
        broker
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = Command::new(BINARY)
            .args(args)
            .env("RINGLOG_BOOTSTRAP", &self.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success(), "{args:?}");
        output.stdout
    }

    fn rss_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The broker still answers, on this connection.
fn ask(stream: &mut TcpStream) {
    let request = encode_request(1, 7, Some("test"), &MetadataRequest { topics: None, ..Default::default() });
    stream.write_all(&request).unwrap();
    assert_eq!(&read_frame(stream)[..4], 7i32.to_be_bytes());
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}

/// The broker closes the connection and says nothing on it.
fn is_closed(stream: &mut TcpStream) {
    match stream.read(&mut [0; 16]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("not closed: {other:?}"),
    }
}

fn fetch_all(partitions: i32) -> Vec<u8> {
    let partitions: Vec<_> = (0..partitions)
        .map(|partition| FetchPartition { partition, partition_max_bytes: 64 << 20, ..Default::default() })
        .collect();
    let topics = vec![FetchTopic { topic: "t".into(), partitions: partitions.into(), ..Default::default() }];
    let request = FetchRequest { max_bytes: 64 << 20, topics: topics.into(), ..Default::default() };
    encode_request(11, 1, Some("test"), &request)
}

#[test]
fn what_is_no_request_ends_its_connection_only() {
    let broker = Broker::start(&[]);
    let mut good = broker.connect();
    ask(&mut good);
    let mut unknown_api = vec![0, 0, 0, 10, 0x7f, 0xff, 0, 0];
    unknown_api.extend([0; 6]);
    let mut negative = (-1i32).to_be_bytes().to_vec();
    negative.extend([0; 20]);
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let mut announced = 0x7fff_ffffi32.to_be_bytes().to_vec();
    announced.extend([0; 100]);
    let noise: Vec<u8> = (0..5000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x40).collect();
    for bad in [unknown_api, negative, http, announced, noise] {
        let mut stream = broker.connect();
        // The broker may close before it has read it all.
        let _ = stream.write_all(&bad);
        is_closed(&mut stream);
        ask(&mut good);
    }
}

#[test]
fn a_request_that_never_ends_holds_what_it_sent() {
    let broker = Broker::start(&[]);
    let before = broker.rss_bytes();
    let announced: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = broker.connect();
            stream.write_all(&90_000_000i32.to_be_bytes()).unwrap();
            stream.write_all(&[0; 1000]).unwrap();
            stream
        })
        .collect();
    ask(&mut broker.connect());
    assert!(broker.rss_bytes() < before + (8 << 20), "{} MiB", broker.rss_bytes() >> 20);
    drop(announced);
}

#[test]
fn unfinished_requests_have_a_limit_together() {
    let broker = Broker::start(&["queued.max.request.bytes=8388608"]);
    let mut good = broker.connect();
    let half = vec![0; 1 << 20];
    let mut streams: Vec<TcpStream> = (0..32).map(|_| broker.connect()).collect();
    for stream in &mut streams {
        let _ = stream.write_all(&90_000_000i32.to_be_bytes());
        let _ = stream.write_all(&half);
        ask(&mut good);
    }
    assert!(broker.rss_bytes() < RSS_MAX_BYTES, "{} MiB", broker.rss_bytes() >> 20);
}

#[test]
fn a_client_that_reads_nothing_is_not_asked_for_more() {
    let broker = Broker::start(&[]);
    let mut deaf = broker.connect();
    deaf.set_nonblocking(true).unwrap();
    let request = encode_request(1, 7, Some("test"), &MetadataRequest { topics: None, ..Default::default() });
    let requests = request.repeat(100);
    // Until the broker takes no more: the sockets' buffers are full then.
    let mut refused = 0;
    while refused < 20 {
        match deaf.write(&requests) {
            Ok(_) => refused = 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
    ask(&mut broker.connect());
    assert!(broker.rss_bytes() < RSS_MAX_BYTES, "{} MiB", broker.rss_bytes() >> 20);
}

#[test]
fn slow_readers_hold_up_nobody() {
    const PARTITIONS: i32 = 4;
    let broker = Broker::start(&[]);
    broker.run(&["topic", "create", "t", "--partitions", &PARTITIONS.to_string()], b"");
    let line = [b'x'; 999];
    let lines: Vec<u8> = line.iter().chain(b"\n").copied().collect::<Vec<u8>>().repeat(40_000);
    broker.run(&["produce", "t"], &lines);
    // Each asks for 64 MiB and takes none of it; together they ask for far more than there is.
    let fetch = fetch_all(PARTITIONS);
    let slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = broker.connect();
            stream.write_all(&fetch).unwrap();
            stream
        })
        .collect();
    ask(&mut broker.connect());
    assert!(broker.rss_bytes() < RSS_MAX_BYTES, "{} MiB", broker.rss_bytes() >> 20);
    // Writers go on, and a reader gets its records, if need be at the cost of a connection that takes nothing.
    broker.run(&["produce", "t"], &lines[..100_000]);
    let mut reader = broker.connect();
    let until = Instant::now() + PATIENCE;
    while {
        reader.write_all(&fetch).unwrap();
        read_frame(&mut reader).len() < 1000
    } {
        assert!(Instant::now() < until, "a reader gets nothing while others read nothing");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(broker.rss_bytes() < RSS_MAX_BYTES, "{} MiB", broker.rss_bytes() >> 20);
    drop(slow);
}

#[test]
fn an_address_has_its_share_of_the_connections() {
    let broker = Broker::start(&["max.connections.per.ip=3"]);
    let mut streams: Vec<TcpStream> = (0..3).map(|_| broker.connect()).collect();
    streams.iter_mut().for_each(ask);
    is_closed(&mut broker.connect());
    drop(streams.pop());
    // The place is free once the broker has seen the end.
    let until = Instant::now() + PATIENCE;
    let request = encode_request(1, 7, Some("test"), &MetadataRequest { topics: None, ..Default::default() });
    while {
        let mut stream = broker.connect();
        stream.write_all(&request).is_err() || stream.read(&mut [0; 4]).is_ok_and(|len| len == 0)
    } {
        assert!(Instant::now() < until, "the place of a closed connection stays taken");
    }
}

#[test]
fn limits_of_connections_may_change_at_run_time() {
    let broker = Broker::start(&[]);
    let mut streams: Vec<TcpStream> = (0..3).map(|_| broker.connect()).collect();
    streams.iter_mut().for_each(ask);
    // What changes it is a connection, too.
    let alter = ["config", "alter", "--broker", "default", "--bootstrap", &broker.address];
    let altered =
        Command::new(BINARY).args(alter).args(["--config", "max.connections.per.ip=3"]).output().unwrap();
    assert!(altered.status.success(), "{}", String::from_utf8_lossy(&altered.stderr));
    is_closed(&mut broker.connect());
    streams.iter_mut().for_each(ask);
}

#[test]
fn idle_connections_cost_little() {
    const IDLE: usize = 2000;
    let broker = Broker::start(&[]);
    ask(&mut broker.connect());
    let before = broker.rss_bytes();
    let mut idle: Vec<TcpStream> = (0..IDLE).map(|_| broker.connect()).collect();
    idle.iter_mut().step_by(100).for_each(ask);
    let each = broker.rss_bytes().saturating_sub(before) / IDLE;
    assert!(each < 4096, "{each} bytes a connection");
}
