//! Peers that are no friends of ours: whatever comes, the answer is an error or the end of the connection, and others are served.

use std::io::{Read, Write};

use crate::broker::{Broker, Reply};

#[test]
fn other_sites_pages_are_refused() {
    let broker = Broker::start();
    let own = format!("http://{}", broker.http);
    let get = |headers: &[(&str, &str)]| broker.call("GET", "/health/live", headers, "").status;
    assert_eq!(get(&[("origin", &own)]), 200);
    assert_eq!(get(&[("origin", "http://evil.example")]), 403);
    assert_eq!(get(&[("origin", "null")]), 403);
    assert_eq!(get(&[("host", "evil.example:9000")]), 403, "a name made to point here");
    assert_eq!(get(&[("host", "")]), 403);
    assert_eq!(get(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]), 403);
    assert_eq!(get(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]), 200, "a link");
    assert_eq!(get(&[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")]), 200);
    let reply = broker.get("/health/live");
    assert!(reply.header("access-control-allow-origin").is_none());
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert!(reply.header("content-security-policy").unwrap().contains("default-src 'none'"));
}

#[test]
fn what_is_not_there_is_a_json_error() {
    let broker = Broker::start();
    assert_eq!((broker.get("/nothing").status, broker.get("/nothing").code()), (404, 404));
    let reply = broker.call("DELETE", "/metrics", &[], "");
    assert_eq!((reply.status, reply.code()), (405, 405));
    for path in [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/metrics/../../etc/passwd",
        "/\\..\\etc\\passwd",
        "/health/%00",
        "/%ff%fe",
        "http://elsewhere.example/metrics",
    ] {
        let reply = broker.get(path);
        assert!(matches!(reply.status, 400 | 403 | 404), "{path}: {reply:?}");
        assert!(!reply.body.contains("root:"), "{path}");
    }
}

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    let broker = Broker::start();
    let long = format!("GET /{} HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(200_000), broker.http);
    let fields: String = (0..500).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\n{fields}\r\n", broker.http);
    for bytes in [
        &b"\0\0\0\x12\0\x12\0\0\0\0\0\0\0\x04abcd"[..],
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 6\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = broker.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let reply = Reply::read(&mut stream);
        assert!(reply.status == 0 || (400..500).contains(&reply.status), "{reply:?}");
        assert_eq!(broker.get("/health/live").status, 200);
    }
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let broker = Broker::with(&["ringlog.http.connections.max=3"]);
    let mut kept: Vec<_> = (0..3).map(|_| broker.connect()).collect();
    // Each has been taken once it is answered.
    for stream in &mut kept {
        write!(stream, "GET /health/live HTTP/1.1\r\nhost: {}\r\n\r\n", broker.http).unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
    }
    let refused = Reply::read(&mut broker.connect());
    assert_eq!((refused.status, refused.code()), (503, 503));
    drop(kept);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while broker.get("/health/live").status != 200 {
        assert!(std::time::Instant::now() < deadline, "the places were not given back");
    }
}

/// Clients that never come to the end of their headers, or of their body, hold places for so long and no longer.
#[test]
fn slow_clients_lose_their_places() {
    let broker = Broker::with(&["ringlog.http.connections.max=3"]);
    let host = broker.http;
    let starts = [
        // What is sent on is more of the path.
        "GET /metrics".to_owned(),
        format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\nx-slow: "),
        format!(
            "POST /topics/t HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
        ),
    ];
    let mut slow: Vec<_> = starts.iter().map(|_| broker.connect()).collect();
    for (stream, start) in slow.iter_mut().zip(&starts) {
        stream.write_all(start.as_bytes()).unwrap();
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(90);
    let mut refused = 0;
    while broker.get("/health/live").status != 200 {
        assert!(std::time::Instant::now() < deadline, "they keep their places");
        refused += 1;
        // A byte now and then does not make it better.
        slow.iter_mut().for_each(|stream| drop(stream.write_all(b"x")));
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    assert!(refused > 0, "all places were taken");
    for stream in &mut slow[..2] {
        let reply = Reply::read(stream);
        assert!(matches!(reply.status, 0 | 408), "{reply:?}");
    }
    let reply = Reply::read(&mut slow[2]);
    assert_eq!((reply.status, reply.code()), (408, 408), "{reply:?}");
}

/// A script in a name or a record is data in an answer, and a browser takes no answer for a page.
#[test]
fn nothing_that_was_sent_comes_back_as_a_page() {
    let broker = Broker::start();
    let script = "<script>alert(1)</script>";
    let encoded = "%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for path in [
        format!("/topics/{encoded}"),
        format!("/v3/clusters/{encoded}"),
        format!("/api/topics/{encoded}"),
        format!("/consumers/{encoded}/instances/{encoded}/records"),
        format!("/ui/{encoded}"),
        format!("/metrics?{encoded}"),
    ] {
        let reply = broker.call("GET", &path, &[("accept", "text/html")], "");
        let media = reply.header("content-type").unwrap_or_default();
        assert!(!media.contains("html") && !media.is_empty(), "{path}: {reply:?}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    let body = format!("{{\"records\":[{{\"value\":\"{script}\"}}]}}");
    let headers = [("content-type", "application/vnd.kafka.json.v2+json")];
    assert_eq!(broker.call("POST", "/topics/t", &headers, &body).status, 200);
    // Nor as a header of an answer.
    let reply = broker.get("/topics/a%0d%0aset-cookie:%20x=1");
    assert!(reply.header("set-cookie").is_none(), "{reply:?}");
    let reply = broker.call("GET", "/v3/clusters", &[("host", "localhost\" onload=\"x")], "");
    assert!(matches!(reply.status, 400 | 403), "{reply:?}");
}
