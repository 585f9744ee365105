use super::otlp::tests::sum;
use super::*;

const INTERVAL_MS: u64 = 1000;

fn client(number: u8, software: &str) -> Client {
    let software = Software { name: software.to_owned(), version: "1".to_owned() };
    Client::new(Uuid([number; 16]), Some("app"), Some(Arc::new(software)), "/10.0.0.1", Some(number.into()))
}

fn telemetry(configs: &[(&str, &[(&str, &str)])]) -> Telemetry {
    let mut telemetry = Telemetry::new(100, 5);
    subscribe(&mut telemetry, 1, configs);
    telemetry
}

fn subscribe(telemetry: &mut Telemetry, revision: u64, configs: &[(&str, &[(&str, &str)])]) {
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    let configs = configs.iter().map(|(name, own)| (name.to_string(), own.iter().map(owned).collect()));
    let mut image = ClusterImage::empty("c", 1);
    image.revision = revision;
    image.resource_configs.insert(ResourceKind::ClientMetrics, configs.collect());
    telemetry.update(&image);
}

fn push(subscription_id: i32) -> Push {
    Push { subscription_id, terminating: false, codec_is_known: true, bytes: 10 }
}

const SUBSCRIPTION: (&str, &[(&str, &str)]) =
    ("s", &[("metrics", "org.apache.kafka.producer"), ("interval.ms", "1000")]);

#[test]
fn clients_are_told_what_matches_them() {
    let mut telemetry = telemetry(&[
        ("a", &[("metrics", "b.,a."), ("interval.ms", "5000"), ("match", "client_software_name=java")]),
        ("b", &[("metrics", "*"), ("interval.ms", "1000"), ("match", "client_source_port=2,client_id=a.*")]),
        ("c", &[("metrics", "a."), ("match", "client_source_address=10\\.0\\..*")]),
    ]);
    let told = |telemetry: &mut Telemetry, client| {
        let subscription = telemetry.subscribe(client, 1).unwrap();
        (subscription.wanted.metrics.join(" "), subscription.wanted.interval_ms)
    };
    assert_eq!(told(&mut telemetry, client(1, "java")), ("a. b.".to_owned(), 5000));
    assert_eq!(told(&mut telemetry, client(2, "go")), ("*".to_owned(), 1000));
    assert_eq!(told(&mut telemetry, client(3, "go")), ("a.".to_owned(), 300_000));
    let mut none = Telemetry::new(100, 5);
    assert_eq!(told(&mut none, client(4, "go")), (String::new(), 300_000));
}

#[test]
fn a_client_keeps_to_its_interval() {
    let mut telemetry = telemetry(&[SUBSCRIPTION]);
    let me = || client(1, "java");
    let id = telemetry.subscribe(me(), 5).unwrap().id;
    assert_eq!(telemetry.subscribe(me(), 6), Err(ErrorCode::ThrottlingQuotaExceeded));
    assert_eq!(telemetry.push(me(), push(id), 7), Ok(()), "the first may come at once");
    assert_eq!(telemetry.push(me(), push(id), 8), Err(ErrorCode::ThrottlingQuotaExceeded));
    assert_eq!(telemetry.push(me(), push(id), 7 + INTERVAL_MS), Ok(()));
    let last = Push { terminating: true, ..push(id) };
    assert_eq!(telemetry.push(me(), last, 8 + INTERVAL_MS), Ok(()), "the last one need not wait");
    assert_eq!(telemetry.push(me(), push(id), 7 + 2 * INTERVAL_MS), Err(ErrorCode::InvalidRequest));
}

#[test]
fn a_change_of_a_subscription_is_learned_at_once() {
    let mut telemetry = telemetry(&[SUBSCRIPTION]);
    let me = || client(1, "java");
    let old = telemetry.subscribe(me(), 5).unwrap();
    subscribe(&mut telemetry, 2, &[("s", &[("metrics", "*"), ("interval.ms", "1000")])]);
    assert_eq!(telemetry.push(me(), push(old.id), 6), Err(ErrorCode::UnknownSubscriptionId));
    let new = telemetry.subscribe(me(), 7).unwrap();
    assert_ne!(new.id, old.id);
    assert_eq!(telemetry.push(me(), push(new.id), 6 + INTERVAL_MS), Ok(()));
    // A change of something else is none.
    subscribe(&mut telemetry, 3, &[("s", &[("metrics", "*"), ("interval.ms", "1000")])]);
    assert_eq!(telemetry.subscribe(me(), 7 + INTERVAL_MS), Err(ErrorCode::ThrottlingQuotaExceeded));
}

#[test]
fn what_cannot_be_taken_is_refused() {
    let mut telemetry = telemetry(&[SUBSCRIPTION]);
    let me = || client(1, "java");
    let id = telemetry.subscribe(me(), 5).unwrap().id;
    let unknown = Push { codec_is_known: false, ..push(id) };
    assert_eq!(telemetry.push(me(), unknown, 6), Err(ErrorCode::UnsupportedCompressionType));
    assert_eq!(telemetry.subscribe(me(), 7).map(|told| told.id), Ok(id), "it may ask again at once");
    let large = Push { bytes: 101, ..push(id) };
    assert_eq!(telemetry.push(me(), large, 5 + INTERVAL_MS + 1), Err(ErrorCode::TelemetryTooLarge));
    let last = Push { terminating: true, ..push(id) };
    let stale = Push { subscription_id: id.wrapping_add(1), ..last };
    assert_eq!(telemetry.push(me(), stale, 5 + INTERVAL_MS + 2), Err(ErrorCode::UnknownSubscriptionId));
    assert_eq!(
        telemetry.push(me(), last, 5 + INTERVAL_MS + 3),
        Ok(()),
        "a last push that was refused was not the last"
    );
}

#[test]
fn values_are_the_newest_and_deltas_add_up() {
    let mut telemetry = telemetry(&[SUBSCRIPTION]);
    let id = Uuid([1; 16]);
    telemetry.subscribe(client(1, "java"), 5).unwrap();
    let value = |telemetry: &Telemetry, name: &str| {
        let state = telemetry.state(6);
        state.clients.first().and_then(|known| {
            known.series.iter().find(|((found, _), _)| found.ends_with(name)).map(|(_, series)| series.value)
        })
    };
    for (round, expected) in [(1, 3.0), (2, 6.0)] {
        let points = [sum("whole", "t", 10 * round, 2), sum("delta", "t", 3, 1)].concat();
        telemetry.keep(id, otlp::points(&points, 5).unwrap());
        assert_eq!(value(&telemetry, "whole"), Some(10.0 * round as f64));
        assert_eq!(value(&telemetry, "delta"), Some(expected));
    }
    for _ in 0..PUSHES_KEPT {
        telemetry.keep(id, otlp::points(&sum("whole", "t", 1, 2), 5).unwrap());
    }
    assert_eq!(value(&telemetry, "delta"), None, "it is not sent any more");
    assert_eq!(telemetry.series, 1);
}

#[test]
fn clients_and_values_are_bounded() {
    let mut telemetry = telemetry(&[SUBSCRIPTION]);
    for number in 1..=3 {
        telemetry.subscribe(client(number, "java"), number.into()).unwrap();
        let points = [sum("a", "t", 1, 2), sum("b", "t", 1, 2)].concat();
        telemetry.keep(Uuid([number; 16]), otlp::points(&points, 5).unwrap());
    }
    let shown = |telemetry: &Telemetry, now_ms| {
        let clients = telemetry.state(now_ms).clients;
        clients.iter().map(|known| known.client.instance_id.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(shown(&telemetry, 4), [2, 3], "the first had to make room");
    assert_eq!(telemetry.series, 4);
    assert_eq!(shown(&telemetry, IDLE_MS_MIN + 2), [3], "the second's time is over");
    for number in 0..INSTANCES_MAX as u64 + 10 {
        let mut id = [7; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        let other = Client { instance_id: Uuid(id), ..client(1, "java") };
        telemetry.subscribe(other, 10).unwrap();
    }
    assert_eq!((telemetry.instances.len(), telemetry.ends.len()), (INSTANCES_MAX, INSTANCES_MAX));
    assert_eq!(telemetry.series, 0);
}
