//! The load generator's transactions against the built broker.

use serde_json::Value;

use super::broker::Broker;

fn load(broker: &Broker, more: &[&str]) -> Value {
    let fixed =
        ["load", "--transactional", "--quiet", "--json", "-", "--partitions", "5", "--record-size", "64"];
    serde_json::from_str(&broker.run(&[&fixed[..], more].concat())).unwrap()
}

#[test]
fn every_transaction_is_counted_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &["transaction.state.log.num.partitions=3"]);
    let found = load(&broker, &["--producers", "3", "--records", "600", "--transaction-records", "10"]);
    assert_eq!((&found["verdict"], &found["committed"]), (&"ok".into(), &60.into()), "{found:#}");
    assert_eq!(found["asked"]["transaction_version"], 2);
    assert_eq!(found["verification"]["acknowledged"], 600);

    let aborts =
        ["--transaction-aborts", "50", "--transaction-records", "7", "--transaction-partitions", "2"];
    let found =
        load(&broker, &[&aborts[..], &["--records", "700", "--compression", "lz4", "--seed", "3"]].concat());
    let (committed, aborted) = (found["committed"].as_u64().unwrap(), found["aborted"].as_u64().unwrap());
    assert!(committed + aborted == 100 && committed > 20 && aborted > 20, "{found:#}");
    assert_eq!(found["verification"]["read"]["records"], found["verification"]["acknowledged"]);
    assert_eq!(found["verification"]["acknowledged"], committed * 7);
    assert_eq!(found["verification"]["aborted_read"], 0);

    let paced = ["--commit-interval", "20ms", "--duration", "1s", "--producers", "2"];
    assert_eq!(load(&broker, &paced)["asked"]["interval_ns"], 20_000_000);
}
