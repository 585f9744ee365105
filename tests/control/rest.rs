//! REST as its users call it: v2 produce and consume, v3 resources, streamed records, and what is refused.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::{Broker, Reply};

const V2: &str = "application/vnd.kafka.v2+json";
const JSON_V2: &str = "application/vnd.kafka.json.v2+json";
const BINARY_V2: &str = "application/vnd.kafka.binary.v2+json";

pub fn post(broker: &Broker, path: &str, media: &str, body: &Value) -> Reply {
    broker.call("POST", path, &[("content-type", media)], &body.to_string())
}

pub fn cluster(broker: &Broker) -> String {
    let id = broker.get("/v3/clusters").json()["data"][0]["cluster_id"].as_str().unwrap().to_owned();
    format!("/v3/clusters/{id}")
}

#[test]
fn what_is_produced_over_http_is_what_any_client_reads() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "orders", "--partitions", "4"], "");
    let reply = post(
        &broker,
        "/topics/orders",
        JSON_V2,
        &json!({ "records": [
        { "key": "a", "value": { "n": 1 } }, { "key": "a", "value": null }, { "value": [true], "partition": 3 },
    ] }),
    );
    assert_eq!((reply.status, reply.header("content-type")), (200, Some(V2)));
    let offsets = reply.json()["offsets"].clone();
    assert_eq!(offsets[0]["partition"], offsets[1]["partition"], "one key, one partition");
    assert_eq!(offsets[1]["offset"], 1);
    assert_eq!(offsets[2]["partition"], 3);
    assert_eq!(reply.json()["key_schema_id"], Value::Null);
    // The first version's type and the binary one hold base64; so does /produce, which takes the topic in the body.
    let binary =
        json!({ "topic": "orders", "records": [{ "key": "/w==", "value": "aGVsbG8=", "partition": 0 }] });
    assert_eq!(post(&broker, "/produce", "application/vnd.kafka+json", &binary).status, 200);
    assert_eq!(
        post(&broker, "/topics/orders/partitions/1", BINARY_V2, &binary).json()["offsets"][0]["partition"],
        0
    );
    for acks in ["0", "1", "all"] {
        let reply = post(
            &broker,
            &format!("/produce?topic=orders&acks={acks}"),
            "application/json",
            &json!({
                "records": [{ "value": acks, "headers": [{ "name": "h", "value": "aA==" }], "timestamp": 1234 }]
            }),
        );
        assert_eq!(reply.json()["offsets"][0]["offset"].is_null(), acks == "0", "{reply:?}");
    }
    let text = broker.run(
        &["consume", "orders", "--from", "beginning", "--max-messages", "8", "--format", "{key}={value}"],
        "",
    );
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    for expected in ["\"a\"={\"n\":1}", "=[true]", "=\"1\"", "=\"all\"", "=\"0\""] {
        assert!(lines.iter().any(|line| line.ends_with(expected)), "{expected} in {lines:?}");
    }
}

#[test]
fn what_cannot_be_produced_is_refused_with_its_code() {
    let broker = Broker::with(&["auto.create.topics.enable=false"]);
    broker.run(
        &["topic", "create", "t", "--config", "cleanup.policy=compact", "--config", "max.message.bytes=1000"],
        "",
    );
    let one = json!({ "records": [{ "key": "k", "value": "v" }] });
    let refused = |path: &str, media: &str, body: &Value| {
        let reply = post(&broker, path, media, body);
        (reply.status, reply.code())
    };
    assert_eq!(refused("/topics/nothing", JSON_V2, &one), (404, 40401));
    assert_eq!(refused("/topics/no%2Fname", JSON_V2, &one), (404, 40401));
    assert_eq!(refused("/topics/%2e%2e", JSON_V2, &one), (404, 40401));
    assert_eq!(refused("/topics/t/partitions/7", JSON_V2, &one), (404, 40402));
    assert_eq!(refused("/topics/t/partitions/x", JSON_V2, &one), (404, 40402));
    assert_eq!(refused("/topics/t", "application/vnd.kafka.avro.v2+json", &one), (415, 415));
    assert_eq!(refused("/topics/t", "text/plain", &one), (415, 415));
    assert_eq!(refused("/topics/t", JSON_V2, &json!({ "records": [] })), (422, 422));
    assert_eq!(refused("/topics/t", BINARY_V2, &json!({ "records": [{ "value": "!" }] })), (422, 422));
    assert_eq!(refused("/produce", JSON_V2, &one), (422, 422));
    assert_eq!(refused("/topics/t?acks=2", JSON_V2, &one), (422, 422));
    assert_eq!(broker.call("POST", "/topics/t", &[("content-type", JSON_V2)], "{\"records\":[").status, 400);
    assert_eq!(broker.call("POST", "/topics/t", &[("content-type", JSON_V2)], "").status, 400);
    // The broker's own refusals come back for each record.
    let keyless = post(&broker, "/topics/t", JSON_V2, &json!({ "records": [{ "value": 1 }] })).json();
    assert_eq!(keyless["offsets"][0]["error_code"], 50002);
    let large =
        post(&broker, "/topics/t", JSON_V2, &json!({ "records": [{ "key": 1, "value": "x".repeat(5000) }] }));
    assert_eq!(large.json()["offsets"][0]["error_code"], 50002);
    let beyond =
        post(&broker, "/topics/t", JSON_V2, &json!({ "records": [{ "key": 1, "partition": 9 }] })).json();
    assert_eq!(beyond["offsets"][0]["offset"], Value::Null);
}

#[test]
fn order_stays_over_many_batches() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "t", "--partitions", "2"], "");
    let filler = "x".repeat(2000);
    let records: Vec<Value> =
        (0..1500).map(|n| json!({ "value": format!("{n} {filler}"), "partition": n % 2 })).collect();
    let offsets =
        post(&broker, "/topics/t", JSON_V2, &json!({ "records": records })).json()["offsets"].clone();
    for (n, offset) in (0i64..).zip(offsets.as_array().unwrap()) {
        assert_eq!((&offset["partition"], &offset["offset"]), (&json!(n % 2), &json!(n / 2)), "record {n}");
    }
}

#[test]
fn what_there_is_can_be_asked() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "t", "--partitions", "2"], "");
    broker.run(&["produce", "t"], "1\n2\n3\n");
    assert_eq!(broker.get("/topics").json(), json!(["t"]));
    let topic = broker.get("/topics/t").json();
    assert_eq!(
        topic["partitions"][1],
        json!({ "partition": 1, "leader": 1, "replicas": [{ "broker": 1, "leader": true, "in_sync": true }] })
    );
    assert_eq!(topic["configs"]["cleanup.policy"], "delete");
    assert_eq!(broker.get("/topics/t/partitions").json().as_array().unwrap().len(), 2);
    let ends: i64 = (0..2)
        .map(|n| {
            broker.get(&format!("/topics/t/partitions/{n}/offsets")).json()["end_offset"].as_i64().unwrap()
        })
        .sum();
    assert_eq!(ends, 3);
    assert_eq!(broker.get("/brokers").json(), json!({ "brokers": [1] }));
    assert_eq!(broker.get("/topics/x").code(), 40401);
    assert_eq!(broker.get("/topics/t/partitions/2").code(), 40402);
}

struct Instance<'b> {
    broker: &'b Broker,
    path: String,
}

impl<'b> Instance<'b> {
    fn new(broker: &'b Broker, group: &str, options: &Value) -> Instance<'b> {
        let made = post(broker, &format!("/consumers/{group}"), V2, options);
        assert_eq!(made.status, 200, "{made:?}");
        let uri = made.json()["base_uri"].as_str().unwrap().to_owned();
        let path = uri.strip_prefix(&format!("http://{}", broker.http)).unwrap().to_owned();
        Instance { broker, path }
    }

    fn post(&self, what: &str, body: &Value) -> Reply {
        post(self.broker, &format!("{}/{what}", self.path), V2, body)
    }

    fn get(&self, what: &str) -> Reply {
        self.broker.get(&format!("{}/{what}", self.path))
    }

    /// Until there are so many, or a minute is over.
    fn read(&self, count: usize) -> Vec<Value> {
        let mut records = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while records.len() < count && Instant::now() < deadline {
            let reply = self.get("records?timeout=1000");
            assert_eq!(reply.status, 200, "{reply:?}");
            records.extend(reply.json().as_array().unwrap().iter().cloned());
        }
        records
    }
}

#[test]
fn two_instances_share_a_topic_and_commit() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "t", "--partitions", "4"], "");
    let options = |name: &str| json!({ "name": name, "format": "json", "auto.offset.reset": "earliest", "auto.commit.enable": "false" });
    let one = Instance::new(&broker, "g", &options("one"));
    assert_eq!(post(&broker, "/consumers/g", V2, &options("one")).code(), 40902);
    assert_eq!(one.post("subscription", &json!({ "topics": ["t"] })).status, 204);
    assert_eq!(one.get("subscription").json(), json!({ "topics": ["t"] }));
    assert_eq!(one.read(0).len(), 0);
    let records: Vec<Value> = (0..40).map(|n| json!({ "key": n, "value": n, "partition": n % 4 })).collect();
    post(&broker, "/topics/t", JSON_V2, &json!({ "records": records }));
    let mut seen: Vec<i64> = one.read(40).iter().map(|record| record["value"].as_i64().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
    assert_eq!(one.post("offsets", &json!({})).status, 200);
    let places: Vec<Value> = (0..4).map(|n| json!({ "topic": "t", "partition": n })).collect();
    let body = json!({ "partitions": places }).to_string();
    let committed =
        broker.call("GET", &format!("{}/offsets", one.path), &[("content-type", V2)], &body).json();
    assert_eq!(
        committed["offsets"].as_array().unwrap().iter().map(|o| o["offset"].as_i64().unwrap()).sum::<i64>(),
        40
    );
    // The second one takes its share, and nobody reads what is committed again.
    let two = Instance::new(&broker, "g", &options("two"));
    two.post("subscription", &json!({ "topic_pattern": "t.*" }));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(
            one.read(0).is_empty() && two.get("records?timeout=500").json().as_array().unwrap().is_empty()
        );
        one.get("records?timeout=500");
        let count = |instance: &Instance<'_>| {
            instance.get("assignments").json()["partitions"].as_array().unwrap().len()
        };
        if (count(&one), count(&two)) == (2, 2) {
            break;
        }
        assert!(Instant::now() < deadline, "the group did not come to rest");
    }
    let lags = broker.get(&format!("{}/consumer-groups/g/lag-summary", cluster(&broker))).json();
    assert_eq!(lags["total_lag"], 0);
    assert_eq!(broker.call("DELETE", &one.path, &[], "").status, 204);
    assert_eq!(one.get("records").code(), 40403);
    assert_eq!(broker.call("DELETE", &one.path, &[], "").code(), 40403);
}

#[test]
fn an_instance_seeks_and_says_what_it_cannot_do() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "t"], "");
    broker.run(&["produce", "t"], "\"a\"\n\"b\"\nno json\n");
    let instance = Instance::new(&broker, "g", &json!({ "format": "json", "auto.offset.reset": "earliest" }));
    assert_eq!(instance.get("records").code(), 40903);
    let place = json!({ "partitions": [{ "topic": "t", "partition": 0 }] });
    assert_eq!(instance.post("positions/end", &place).code(), 40903);
    assert_eq!(instance.post("assignments", &place).status, 204);
    assert_eq!(instance.post("subscription", &json!({ "topics": ["t"] })).code(), 40903);
    assert_eq!(instance.get("assignments").json(), place);
    // The third record is no JSON: it stops the reader, as a deserializer would, until it seeks past it.
    let stopped = instance.get("records?timeout=2000");
    assert_eq!(stopped.code(), 50002);
    assert!(stopped.body.contains("t-0 at offset 2"), "{stopped:?}");
    let at = |offset: i64| json!({ "offsets": [{ "topic": "t", "partition": 0, "offset": offset }] });
    assert_eq!(instance.post("positions", &at(3)).status, 204);
    broker.run(&["produce", "t"], "4\n");
    assert_eq!(instance.read(1)[0]["value"], 4);
    assert_eq!(instance.post("positions/end", &place).status, 204);
    assert_eq!(instance.get("records?timeout=100").json(), json!([]));
    assert_eq!(instance.post("offsets", &at(1)).status, 200);
    let body = place.to_string();
    let committed =
        broker.call("GET", &format!("{}/offsets", instance.path), &[("content-type", V2)], &body).json();
    assert_eq!(committed["offsets"][0]["offset"], 2, "one past what was read");
    let accept = |media: &str| {
        broker.call("GET", &format!("{}/records?timeout=1", instance.path), &[("accept", media)], "")
    };
    assert_eq!(accept(BINARY_V2).code(), 40601);
    assert_eq!(accept(JSON_V2).status, 200);
    assert_eq!(instance.post("subscription", &json!({ "topics": 1 })).code(), 422);
    for (options, code) in [
        (json!({ "format": "avro" }), 42204),
        (json!({ "auto.offset.reset": "x" }), 42204),
        (json!({ "name": "../x" }), 42204),
    ] {
        assert_eq!(post(&broker, "/consumers/g", V2, &options).code(), code, "{options}");
    }
}

#[test]
fn instances_are_limited_and_expire() {
    let broker = Broker::with(&["ringlog.http.consumers.max=2", "ringlog.http.consumer.idle.ms=1500"]);
    let make = || post(&broker, "/consumers/g", V2, &json!({}));
    assert_eq!((make().status, make().status, make().code()), (200, 200, 429));
    let deadline = Instant::now() + Duration::from_secs(60);
    while make().status != 200 {
        assert!(Instant::now() < deadline, "the idle ones were not closed");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn resources_are_made_changed_and_deleted() {
    let broker = Broker::start();
    let at = cluster(&broker);
    let json = "application/json";
    let made = post(
        &broker,
        &format!("{at}/topics"),
        json,
        &json!({
            "topic_name": "t", "partitions_count": 2, "configs": [{ "name": "retention.ms", "value": "1000" }]
        }),
    );
    assert_eq!((made.status, &made.json()["partitions_count"]), (201, &json!(2)));
    let again = post(&broker, &format!("{at}/topics"), json, &json!({ "topic_name": "t" }));
    assert_eq!((again.status, again.code()), (400, 40002));
    assert_eq!(post(&broker, &format!("{at}/topics"), json, &json!({ "topic_name": "a/b" })).code(), 40002);
    assert_eq!(post(&broker, &format!("{at}/topics"), json, &json!({})).code(), 400);
    let grown = broker.call(
        "PATCH",
        &format!("{at}/topics/t"),
        &[("content-type", json)],
        "{\"partitions_count\":5}",
    );
    assert_eq!(grown.json()["partitions_count"], 5);
    let config = format!("{at}/topics/t/configs/retention.ms");
    assert_eq!(broker.get(&config).json()["value"], "1000");
    assert_eq!(broker.call("PUT", &config, &[("content-type", json)], "{\"value\":\"2000\"}").status, 204);
    assert_eq!(broker.get(&config).json()["source"], "DYNAMIC_TOPIC_CONFIG");
    assert_eq!(broker.call("PUT", &config, &[("content-type", json)], "{\"value\":\"x\"}").code(), 40002);
    let altered = post(
        &broker,
        &format!("{at}/topics/t/configs:alter"),
        json,
        &json!({ "data": [
        { "name": "cleanup.policy", "value": "compact" }, { "name": "retention.ms", "operation": "DELETE" },
    ] }),
    );
    assert_eq!(altered.status, 204, "{altered:?}");
    assert_eq!(broker.get(&config).json()["is_default"], true);
    let broker_config = format!("{at}/brokers/1/configs/log.retention.ms");
    assert_eq!(
        broker.call("PUT", &broker_config, &[("content-type", json)], "{\"value\":\"5000\"}").status,
        204
    );
    assert_eq!(broker.get(&broker_config).json()["value"], "5000");
    assert_eq!(broker.call("DELETE", &broker_config, &[], "").status, 204);
    assert_eq!(broker.get(&format!("{at}/topics/t/partitions/4/replicas/1")).json()["is_leader"], true);
    assert_eq!(broker.get(&format!("{at}/topics/x")).code(), 40403);
    assert_eq!(broker.get("/v3/clusters/other/topics").code(), 404);
    assert_eq!(broker.get(&format!("{at}/acls")).json()["data"], json!([]));
    assert_eq!(broker.call("DELETE", &format!("{at}/topics/t"), &[], "").status, 204);
    assert_eq!(broker.get(&format!("{at}/topics/t")).code(), 40403);
    assert_eq!(broker.call("DELETE", &format!("{at}/topics/t"), &[], "").code(), 40403);
}

#[test]
fn records_are_streamed_and_each_is_answered() {
    let broker = Broker::start();
    let at = cluster(&broker);
    broker.run(&["topic", "create", "t", "--partitions", "2"], "");
    let path = format!("{at}/topics/t/records");
    let mut stream = broker.connect();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        broker.http
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut received = String::new();
    for n in 0..3 {
        // Cut in the middle: the record counts when it is whole.
        let text = json!({ "partition_id": 1, "key": { "type": "STRING", "data": "k" }, "value": { "type": "JSON", "data": n } }).to_string();
        for part in [&text[..9], &text[9..]] {
            write!(stream, "{:x}\r\n{part}\r\n", part.len()).unwrap();
        }
        // Answered before the next one is sent.
        while received.matches("\"offset\"").count() <= n {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "{received}");
            received += &String::from_utf8_lossy(&bytes[..count]);
        }
        assert!(received.contains(&format!("\"offset\":{n}")), "{received}");
    }
    let bad = "{\"partition_id\":7}{\"value\":{\"type\":\"STRING\",\"data\":1}}[]{\"value\":";
    write!(stream, "{:x}\r\n{bad}\r\n0\r\n\r\n", bad.len()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !received.ends_with("0\r\n\r\n") {
        assert!(Instant::now() < deadline, "{received}");
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        received += &String::from_utf8_lossy(&bytes[..count]);
    }
    for code in ["40402", "422", "\"error_code\":400"] {
        assert!(received.contains(code), "{code} in {received}");
    }
    let batch = post(
        &broker,
        &format!("{path}:batch"),
        "application/json",
        &json!({ "entries": [
        { "id": "1", "value": { "type": "STRING", "data": "x" } }, { "id": "2", "partition_id": 9 },
    ] }),
    );
    let batch = batch.json();
    assert_eq!((&batch["successes"][0]["id"], &batch["failures"][0]["id"]), (&json!("1"), &json!("2")));
    assert_eq!(
        post(&broker, &format!("{path}:batch"), "application/json", &json!({ "entries": [] })).code(),
        42208
    );
    assert_eq!(
        post(&broker, &format!("{at}/topics/none-\u{0}/records"), "application/json", &json!({})).status,
        400
    );
}

#[test]
fn a_read_only_listener_changes_nothing() {
    let broker = Broker::with(&["ringlog.http.read.only=true"]);
    broker.run(&["topic", "create", "t"], "");
    let body = json!({ "records": [{ "value": 1 }] });
    assert_eq!(post(&broker, "/topics/t", JSON_V2, &body).code(), 403);
    assert_eq!(broker.call("DELETE", &format!("{}/topics/t", cluster(&broker)), &[], "").code(), 403);
    assert_eq!(broker.get("/topics").json(), json!(["t"]));
}

#[test]
fn bodies_beyond_the_limit_are_refused() {
    let broker = Broker::with(&["ringlog.http.request.max.bytes=2048"]);
    broker.run(&["topic", "create", "t"], "");
    let large = json!({ "records": [{ "value": "x".repeat(4000) }] });
    assert_eq!(post(&broker, "/topics/t", JSON_V2, &large).code(), 413);
    let stream = post(
        &broker,
        &format!("{}/topics/t/records", cluster(&broker)),
        "application/json",
        &json!({ "value": { "type": "STRING", "data": "x".repeat(4000) } }),
    );
    assert!(stream.body.contains("413") || stream.body.contains("\"offset\":0"), "{stream:?}");
    // A length that is announced and never sent holds nothing up.
    let mut silent = broker.connect();
    write!(silent, "POST /topics/t HTTP/1.1\r\nhost: {}\r\ncontent-type: {JSON_V2}\r\ncontent-length: 2000000000\r\n\r\n", broker.http).unwrap();
    assert_eq!(post(&broker, "/topics/t", JSON_V2, &json!({ "records": [{ "value": 1 }] })).status, 200);
    let deep = "[".repeat(2000);
    assert_eq!(
        broker.call("POST", "/topics/t", &[("content-type", JSON_V2)], &deep).status,
        400,
        "depth is limited"
    );
}

/// The document against the server: every operation answers as it says, and with the shape it says.
#[test]
fn the_document_tells_the_truth() {
    let broker = Broker::start();
    let document = broker.get("/openapi.json").json();
    let id = cluster(&broker).rsplit('/').next().unwrap().to_owned();
    broker.run(&["topic", "create", "t", "--partitions", "2"], "");
    post(&broker, "/topics/t", JSON_V2, &json!({ "records": [{ "value": 1 }, { "value": 2 }] }));
    let instance = Instance::new(
        &broker,
        "g",
        &json!({ "name": "i", "format": "json", "auto.offset.reset": "earliest" }),
    );
    instance.post("subscription", &json!({ "topics": ["t"] }));
    instance.read(2);
    let groups = broker.get(&format!("/v3/clusters/{id}/consumer-groups/g/consumers")).json();
    let member = groups["data"][0]["consumer_id"].as_str().unwrap().to_owned();
    instance.post("offsets", &json!({}));
    // What only a value that was set answers for.
    let set = format!("/v3/clusters/{id}/broker-configs/log.retention.ms");
    broker.call("PUT", &set, &[("content-type", "application/json")], "{\"value\":\"5000\"}");
    let names = BTreeMap::from([
        ("cluster", id.as_str()),
        ("topic", "t"),
        ("partition", "0"),
        ("broker", "1"),
        ("group", "g"),
        ("instance", "i"),
        ("name", "retention.ms"),
        ("consumer", member.as_str()),
    ]);
    let mut done = 0;
    let mut order: Vec<(&String, &String, &Value)> = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        order
            .extend(methods.as_object().unwrap().iter().map(|(method, operation)| (path, method, operation)));
    }
    // What deletes comes last, the instance's own calls before its end.
    order.sort_by_key(|(path, method, _)| (*method == "delete", std::cmp::Reverse(path.len())));
    for (template, method, operation) in order {
        let mut path = template.clone();
        for (name, value) in &names {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        path = path.replace(
            "configs/retention.ms",
            if path.contains("/broker") { "configs/log.retention.ms" } else { "configs/retention.ms" },
        );
        let (media, body) = request_body(template, &document, operation);
        let mut headers = vec![("accept", "*/*")];
        if !media.is_empty() {
            headers.push(("content-type", media.as_str()));
        }
        let reply = broker.call(&method.to_uppercase(), &path, &headers, &body);
        let told = &operation["responses"][reply.status.to_string()];
        assert!(!told.is_null(), "{method} {path}: {reply:?}");
        let told = resolve(&document, told);
        if let Some(content) = told["content"].as_object() {
            let (media, schema) = content.iter().next().unwrap();
            let sent = reply.header("content-type").unwrap().split(';').next().unwrap();
            assert_eq!(sent, media, "{method} {path}");
            if media.contains("json") {
                for value in serde_json::Deserializer::from_str(&reply.body).into_iter::<Value>() {
                    check(&document, &schema["schema"], &value.unwrap(), &format!("{method} {path}"));
                }
            }
        }
        let plain_404 = reply.status == 404 && reply.code() == 404 && !template.contains("reassignment");
        assert!(!plain_404 && reply.status != 405, "{method} {path} is not there: {reply:?}");
        done += 1;
    }
    assert!(done > 60, "{done}");
    // What the document does not offer the server does not either.
    for (template, methods) in document["paths"].as_object().unwrap() {
        let path = names
            .iter()
            .fold(template.clone(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value));
        for method in ["get", "post", "put", "patch", "delete"] {
            if methods.get(method).is_none() {
                let reply =
                    broker.call(&method.to_uppercase(), &path, &[("content-type", "application/json")], "");
                assert_eq!(reply.status, 405, "{method} {path}: {reply:?}");
            }
        }
    }
}

/// Every address that an answer of v3 holds is answered itself.
#[test]
fn links_lead_somewhere() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "t", "--partitions", "2"], "");
    let ids = BTreeMap::from([("with a / and ?", "one"), ("g", "two")]);
    let encoded = |name: &str| name.replace(' ', "%20").replace('/', "%2F").replace('?', "%3F");
    let names: Vec<String> = ids.keys().map(|group| encoded(group)).collect();
    let instances: Vec<Instance<'_>> = names
        .iter()
        .map(|group| {
            Instance::new(&broker, group, &json!({ "format": "json", "auto.offset.reset": "earliest" }))
        })
        .collect();
    post(&broker, "/topics/t", JSON_V2, &json!({ "records": [{ "value": 1 }] }));
    for instance in &instances {
        assert_eq!(instance.post("subscription", &json!({ "topics": ["t"] })).status, 204);
        instance.read(1);
        instance.post("offsets", &json!({}));
    }
    let base = format!("http://{}", broker.http);
    let (mut seen, mut waiting) = (std::collections::BTreeSet::new(), vec!["/v3/clusters".to_owned()]);
    while let Some(path) = waiting.pop() {
        // Settings are many, and all alike.
        let one_setting = path.contains("configs/") && !path.ends_with("/retention.ms");
        if one_setting || !seen.insert(path.clone()) {
            continue;
        }
        let reply = broker.get(&path);
        let no_move = path.ends_with("/reassignment") && !path.contains("/-/") && reply.status == 404;
        let no_acls = path.ends_with("/acls") && reply.status == 200;
        assert!(reply.status == 200 || no_move || no_acls, "{path}: {reply:?}");
        let mut values = vec![reply.json()];
        while let Some(value) = values.pop() {
            match value {
                Value::Array(list) => values.extend(list),
                Value::Object(map) => {
                    for (key, value) in map {
                        match value.as_str().and_then(|text| text.strip_prefix(&base)) {
                            Some(path) if key == "self" || key == "related" => waiting.push(path.to_owned()),
                            _ => values.push(value),
                        }
                    }
                }
                _ => {}
            }
        }
    }
    for kind in
        ["/lags/t/partitions/", "/assignments/t/partitions/", "/lag-summary", "/replicas/", "/broker-configs"]
    {
        assert!(seen.iter().any(|path| path.contains(kind)), "{kind}: {seen:?}");
    }
    assert!(seen.iter().any(|path| path.contains("with%20a%20%2F%20and%20%3F/lags")), "{seen:?}");
}

fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(place) => document.pointer(place.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// A body that the operation's schema allows, made of examples for its required properties.
fn request_body(template: &str, document: &Value, operation: &Value) -> (String, String) {
    let Some(content) = operation["requestBody"]["content"].as_object() else { return Default::default() };
    let (media, schema) =
        content.iter().find(|(media, _)| !media.contains("binary")).unwrap_or(content.iter().next().unwrap());
    let mut body = example(document, &schema["schema"], "");
    if template.ends_with("/subscription") {
        body = json!({ "topics": ["t"] });
    }
    if template == "/produce" {
        body["topic"] = "t".into();
    }
    if template.ends_with("configs:alter") {
        let name = if template.contains("broker") { "log.retention.ms" } else { "retention.ms" };
        body = json!({ "data": [{ "name": name, "value": "100000" }] });
    }
    if template.ends_with("/topics") {
        body["topic_name"] = "another".into();
    }
    (media.clone(), body.to_string())
}

fn example(document: &Value, schema: &Value, name: &str) -> Value {
    let schema = resolve(document, schema);
    if let Some(first) = schema["enum"].as_array() {
        return first[0].clone();
    }
    match (schema["type"].as_str(), name) {
        (Some("string"), "topic") => "t".into(),
        (Some("string"), "value") => "100000".into(),
        (Some("string"), _) => "x".into(),
        (Some("integer"), "partitions_count") => 3.into(),
        (Some("integer"), _) => 0.into(),
        (Some("array"), _) => json!([example(document, &schema["items"], "")]),
        (Some("object"), _) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.map(|key| (key.to_owned(), example(document, &schema["properties"][key], key))).collect()
        }
        _ => Value::Null,
    }
}

/// Types, required properties and enums; what has no type may be anything.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolve(document, schema);
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    match schema["type"].as_str() {
        Some("string") => assert!(value.is_string(), "{at}: {value} is no string"),
        Some("integer") => assert!(value.is_i64(), "{at}: {value} is no whole number"),
        Some("boolean") => assert!(value.is_boolean(), "{at}: {value} is no boolean"),
        Some("array") => {
            for item in value.as_array().unwrap_or_else(|| panic!("{at}: {value} is no list")) {
                check(document, &schema["items"], item, at);
            }
        }
        Some("object") => {
            let object = value.as_object().unwrap_or_else(|| panic!("{at}: {value} is no object"));
            for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                assert!(object.contains_key(key), "{at}: {key} is missing in {value}");
            }
            for (key, part) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(found) = object.get(key) {
                    check(document, part, found, &format!("{at} {key}"));
                }
            }
        }
        _ => {}
    }
}
