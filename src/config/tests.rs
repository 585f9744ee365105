use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;

#[test]
fn the_tables_are_sorted_and_their_defaults_valid() {
    for key in broker_keys() {
        assert!(key.default.is_none_or(|text| key.parse(text).is_ok()), "{}", key.name);
        assert!(!key.doc.is_empty(), "{}", key.name);
    }
    for keys in broker_keys().windows(2) {
        assert!(keys[0].name < keys[1].name, "{} is declared twice", keys[1].name);
    }
    for keys in TOPIC_KEYS.windows(2) {
        assert!(keys[0].key.name < keys[1].key.name);
    }
    for topic_key in TOPIC_KEYS {
        assert!(topic_key.synonyms.iter().all(|synonym| find_broker_key(synonym.name).is_some()));
    }
}

/// Where the tables differ from Kafka on purpose.
const DIFFERENT: &[(&str, &str)] = &[
    ("log.dir", "a default that a restart of the machine does not empty"),
    ("listeners", "opened at start alone"),
    ("socket.listen.backlog.size", "more connections at once are not sent back to try again"),
    ("listener.security.protocol.map", "read at start alone, and a LIST of pairs in a STRING"),
];

#[test]
fn every_key_of_kafka_is_known_as_kafka_has_it() {
    let facts = include_str!("../../tests/config/kafka-4.3-keys.tsv");
    let mut count = 0;
    for line in facts.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [scope, name, value_type, default, accepted, mode] = fields[..] else { panic!("{line}") };
        let key = match scope {
            "topic" => find_topic_key(name).map(|topic_key| &topic_key.key),
            _ => find_broker_key(name),
        };
        let key = key.unwrap_or_else(|| panic!("{name} is not declared"));
        count += 1;
        if DIFFERENT.iter().any(|(different, _)| *different == name) {
            continue;
        }
        assert_eq!(key.value_type.name(), value_type, "{name}");
        assert_eq!(key.default.unwrap_or("null"), default, "{name}");
        let update = match mode {
            "topic" => Update::Topic,
            "per-broker" => Update::PerBroker,
            "cluster-wide" => Update::ClusterWide,
            _ => Update::ReadOnly,
        };
        assert_eq!(key.update, update, "{name}");
        // Kafka's `[min,...]` or `[min,...,max]`.
        if let Some((min, max)) = accepted.strip_prefix('[').and_then(|rest| rest.split_once(",...")) {
            let Ok(min) = min.parse::<f64>() else { continue };
            let below =
                if value_type == "DOUBLE" { format!("{}", min - 0.1) } else { format!("{}", min - 1.0) };
            assert!(key.parse(&below).is_err(), "{name} takes {below}");
            if let Some(max) = max.strip_prefix(',').and_then(|max| max.strip_suffix(']')) {
                let above = if value_type == "DOUBLE" { format!("{max}1") } else { format!("{max}0") };
                assert!(key.parse(&above).is_err(), "{name} takes {above}");
            }
        }
    }
    assert!(count > 350, "{count} facts");
}

#[test]
fn what_is_enforced_is_taken_without_a_word() {
    let mut settings = Settings::new();
    settings.add_set("routing=direct");
    let (config, warnings) = settings.resolve().unwrap();
    assert_eq!((config.routing, warnings), (Routing::Direct, Vec::new()));
}

#[test]
fn the_embedded_defaults() {
    let (config, warnings) = Settings::new().resolve().unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.listeners[0].bind.to_string(), "PLAINTEXT://:9092");
    assert_eq!(config.log_dirs, vec![PathBuf::from("data")]);
    assert_eq!((config.node_id, config.num_partitions, config.configured_node_id()), (1, 1, None));
    let levels = config.ack_levels;
    assert_eq!(
        (levels.acks0, levels.acks1, levels.all),
        (AckLevel::Memory, AckLevel::Written, AckLevel::Durable)
    );
    let topic = config.topic_config(&BTreeMap::new());
    assert_eq!(
        (topic.retention_ms, topic.segment_ms, topic.segment_jitter_ms),
        (604_800_000, 604_800_000, 0)
    );
    assert!(topic.cleanup_delete && !topic.cleanup_compact);
}

fn resolve(
    file: &str,
    environment: &[(&str, &str)],
    set: &[&str],
) -> Result<(BrokerConfig, Vec<String>), Vec<String>> {
    let mut settings = Settings::new();
    settings.add_file("server.properties", file);
    let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    settings.add_environment(environment.iter().map(owned));
    for assignment in set {
        settings.add_set(assignment);
    }
    settings.resolve().map_err(|error| error.errors)
}

#[test]
fn later_sources_win() {
    let file = "num.partitions=2\nlog.dirs = /x , /y\nlog.dir=/z\nmessage.max.bytes=5\n";
    let environment = [("KAFKA_NUM_PARTITIONS", "3"), ("KAFKA_MESSAGE_MAX_BYTES", "6"), ("HOME", "/root")];
    let (config, warnings) =
        resolve(file, &environment, &["num.partitions=4", "shards=2", "num.partitions=5"]).unwrap();
    assert_eq!((config.num_partitions, config.shards), (5, 2));
    assert_eq!(config.topic_config(&BTreeMap::new()).max_message_bytes, 6);
    assert_eq!(config.log_dirs, vec![PathBuf::from("/x"), PathBuf::from("/y")]);
    assert_eq!(warnings, Vec::<String>::new());
}

/// The example of Kafka's distribution, as every tutorial has it.
#[test]
fn a_tutorials_file_is_readable() {
    let file = "\
process.roles=broker,controller
node.id=7
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:19092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:19092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
log.retention.hours=168
no.such.key=1
retention.ms=5
zookeeper.connect=localhost:2181
";
    let (config, warnings) = resolve(file, &[], &[]).unwrap();
    assert_eq!((config.node_id, config.configured_node_id()), (7, Some(7)));
    let [listener] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!(listener.bind.to_string(), "PLAINTEXT://:19092");
    assert_eq!(listener.advertised.to_string(), "PLAINTEXT://localhost:19092");
    assert_eq!(
        warnings,
        [
            "server.properties line 3: controller.quorum.bootstrap.servers is ignored: there is no KRaft quorum to take part in",
            "server.properties line 5: inter.broker.listener.name is ignored: there is no KRaft quorum to take part in",
            "server.properties line 9: num.network.threads is ignored: work is done by shards, one a core (`ringlog.shards`)",
            "server.properties line 13: no.such.key is not a known key and is ignored",
            "server.properties line 14: retention.ms is not a known key and is ignored; it is a topic's, the broker's is log.retention.ms",
            "server.properties line 15: zookeeper.connect is not a known key and is ignored; Kafka has no ZooKeeper since 4.0",
            "listeners: CONTROLLER://:9093 is ignored: there is no KRaft controller to listen",
        ]
    );
}

#[test]
fn wrong_values_are_all_named_with_their_place_and_range() {
    let file = "num.partitions=0\nlog.segment.bytes=x\n";
    assert_eq!(
        resolve(file, &[("KAFKA_COMPRESSION_TYPE", "brotli")], &["nonsense"]).unwrap_err(),
        [
            "--set nonsense: must be written as KEY=VALUE",
            "environment KAFKA_COMPRESSION_TYPE: Invalid value brotli for configuration compression.type: String must be one of: \
             uncompressed, zstd, lz4, snappy, gzip, producer (STRING: uncompressed, zstd, lz4, snappy, gzip, producer)",
            "server.properties line 2: Invalid value x for configuration log.segment.bytes: Not a number of type INT \
             (INT: 1048576 or more)",
            "server.properties line 1: Invalid value 0 for configuration num.partitions: Value must be at least 1 \
             (INT: 1 or more)",
        ]
    );
}

#[test]
fn what_cannot_work_together_is_refused() {
    for (set, reason) in [
        (vec!["listeners=SASL_SSL://:9092"], "TLS and SASL are not supported yet"),
        (vec!["listeners=OUTSIDE://:9092"], "no security protocol is defined for listener OUTSIDE"),
        (vec!["listeners=CONTROLLER://:9093"], "names no listener that a client can connect to"),
        (
            vec!["listeners=A://:1,B://:1", "listener.security.protocol.map=A:PLAINTEXT,B:PLAINTEXT"],
            "the address :1 is used twice",
        ),
        (vec!["listeners=PLAINTEXT://:1,PLAINTEXT://:2"], "the name PLAINTEXT is used twice"),
        (vec!["listeners=PLAINTEXT://host"], "has no port"),
        (vec!["advertised.listeners=PLAINTEXT://0.0.0.0:9092"], "no address that a client can connect to"),
        (vec!["advertised.listeners=OTHER://h:9092"], "has no listener of its name"),
        (vec!["node.id=1", "broker.id=2"], "must be the same"),
        (vec!["log.dirs=/a,/a"], "names /a twice"),
        (vec!["log.dirs="], "names no directory"),
        (vec!["process.roles=controller"], "'broker' must be among the roles"),
        (
            vec!["authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"],
            "authorization is not supported yet",
        ),
        (vec!["log.retention.ms=0"], "Invalid value 0"),
        (vec!["group.min.session.timeout.ms=5000", "group.max.session.timeout.ms=4000"], "must not be above"),
        (vec!["ringlog.journal.max.bytes=4194304"], "at least twice"),
        (vec!["create.topics=a:1"], "must be written as name:partitions:replicas"),
        (vec!["max.connections.per.ip.overrides=x"], "must be written as address:count"),
    ] {
        let errors = resolve("", &[], &set).unwrap_err();
        assert!(errors.iter().any(|error| error.contains(reason)), "{set:?}: {errors:?}");
    }
}

#[test]
fn values_with_a_form_of_their_own() {
    let set = [
        "broker.id=3",
        "listeners=INSIDE://[::1]:0,OUTSIDE://0.0.0.0:19092",
        "listener.security.protocol.map=INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT",
        "max.connections.per.ip.overrides=10.0.0.1:5,[::1]:6",
        "connections.max.idle.ms=-1",
        "http.listener=x",
        "ringlog.http.listener=127.0.0.1:8080",
        "offsets.retention.minutes=2",
    ];
    let (config, warnings) = resolve("", &[("KAFKA_CREATE_TOPICS", "a:3:1,b:1:1:compact")], &set).unwrap();
    // One for the unknown key, one for what nothing acts on yet.
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(config.node_id, 3);
    let advertised: Vec<_> = config.listeners.iter().map(|listener| listener.advertised.address()).collect();
    assert_eq!(advertised, ["[::1]:0", ":19092"]);
    let topics: Vec<_> =
        config.create_topics.iter().map(|topic| (topic.name.as_str(), topic.partitions)).collect();
    assert_eq!(topics, [("a", 3), ("b", 1)]);
    assert_eq!(config.create_topics[1].cleanup_policy.as_deref(), Some("compact"));
    let overrides = &config.sockets.max_connections_per_ip_overrides;
    assert_eq!((overrides.get("10.0.0.1"), overrides.get("::1")), (Some(&5), Some(&6)));
    assert_eq!(config.sockets.connections_max_idle_ms, None);
    assert_eq!(config.http.listener.map(|listener| listener.address()).as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(config.groups.offsets_retention_ms, 120_000);
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_topic_takes_its_defaults_from_the_strongest_synonym() {
    let retention = |set: &[&str], own: &[(&str, &str)]| {
        resolve("", &[], set).unwrap().0.topic_config(&map(own)).retention_ms
    };
    assert_eq!(retention(&["log.retention.hours=2"], &[]), 7_200_000);
    assert_eq!(retention(&["log.retention.hours=2", "log.retention.minutes=3"], &[]), 180_000);
    assert_eq!(retention(&["log.retention.hours=2", "log.retention.ms=9"], &[]), 9);
    assert_eq!(retention(&["log.retention.hours=-1"], &[]), -1);
    assert_eq!(retention(&["log.retention.ms=9"], &[("retention.ms", "4")]), 4);
    // Of another program's making: as if it were not set.
    assert_eq!(retention(&["log.retention.ms=9"], &[("retention.ms", "x")]), 9);
    let config = BrokerConfig::default()
        .with_dynamic(&map(&[("log.retention.ms", "7"), ("num.partitions", "9")]), &BTreeMap::new());
    assert_eq!((config.topic_config(&BTreeMap::new()).retention_ms, config.num_partitions), (7, 1));
    let config = config.with_dynamic(&map(&[("log.retention.ms", "7")]), &map(&[("log.retention.ms", "8")]));
    assert_eq!(config.topic_config(&BTreeMap::new()).retention_ms, 8);
}

fn entry(entries: &[ConfigEntry], name: &str) -> (Option<String>, ConfigSource, Vec<(String, ConfigSource)>) {
    let entry = entries.iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("{name}"));
    let synonyms = entry.synonyms.iter().map(|synonym| (synonym.name.clone(), synonym.source)).collect();
    (entry.value.clone(), entry.source, synonyms)
}

#[test]
fn descriptions_tell_value_source_and_synonyms() {
    use ConfigSource::{Default, DynamicBroker, DynamicDefaultBroker, StaticBroker, Topic};
    let (config, _) =
        resolve("", &[], &["log.segment.bytes=2097152", "log.retention.hours=1", "ssl.key.password=secret"])
            .unwrap();
    let topic = describe_topic(&config, &map(&[("cleanup.policy", "compact")]));
    assert_eq!(topic.len(), TOPIC_KEYS.len());
    let named = |name: &str, source| (name.to_owned(), source);
    assert_eq!(
        entry(&topic, "cleanup.policy"),
        (
            Some("compact".to_owned()),
            Topic,
            vec![named("cleanup.policy", Topic), named("log.cleanup.policy", Default)]
        )
    );
    assert_eq!(
        entry(&topic, "segment.bytes"),
        (
            Some("2097152".to_owned()),
            StaticBroker,
            vec![named("log.segment.bytes", StaticBroker), named("log.segment.bytes", Default)]
        )
    );
    // As Kafka: only log.retention.ms counts as a synonym here.
    assert_eq!(entry(&topic, "retention.ms"), (Some("3600000".to_owned()), Default, vec![]));
    assert_eq!(entry(&topic, "min.cleanable.dirty.ratio").0.as_deref(), Some("0.5"));
    let spelled = describe_topic(&config, &map(&[("retention.ms", " 1000 "), ("preallocate", "TRUE")]));
    assert_eq!(entry(&spelled, "retention.ms").0.as_deref(), Some("1000"));
    assert_eq!(entry(&spelled, "preallocate").0.as_deref(), Some("true"));

    let config =
        config.with_dynamic(&map(&[("message.max.bytes", "5")]), &map(&[("message.max.bytes", "6")]));
    let broker = describe_broker(&config);
    let sources = vec![DynamicBroker, DynamicDefaultBroker, Default];
    let (value, source, synonyms) = entry(&broker, "message.max.bytes");
    assert_eq!((value.as_deref(), source), (Some("6"), DynamicBroker));
    assert_eq!(synonyms.into_iter().map(|(_, source)| source).collect::<Vec<_>>(), sources);
    assert_eq!(entry(&broker, "ssl.key.password").0, None);
    assert_eq!(entry(&broker, "node.id").0.as_deref(), Some("1"));
    assert!(entry(&broker, "num.io.threads").0.is_some());
    assert_eq!(
        entry(&broker, "log.cleaner.io.max.bytes.per.second").0.as_deref(),
        Some("1.7976931348623157E308")
    );
    assert!(broker.iter().filter(|entry| entry.name == "log.dirs").all(|entry| entry.read_only));
}

/// The questions and answers of a real Apache Kafka 4.3.1.
#[test]
fn changes_are_refused_in_kafkas_words() {
    use AlterOp::{Append, Delete, Set, Subtract};
    let config = BrokerConfig::default();
    let topic = |current: &[(&str, &str)], ops: &[(&str, AlterOp, Option<&str>)]| {
        let alterations: Vec<_> =
            ops.iter().map(|&(name, op, value)| Alteration { name, op, value }).collect();
        alter_topic(&config, &map(current), &alterations)
    };
    for (name, op, value, message) in [
        (
            "retention.ms",
            Set,
            "-5",
            "Invalid value -5 for configuration retention.ms: Value must be at least -1",
        ),
        (
            "segment.bytes",
            Set,
            "5",
            "Invalid value 5 for configuration segment.bytes: Value must be at least 1048576",
        ),
        (
            "cleanup.policy",
            Set,
            "foo",
            "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete",
        ),
        ("foo", Set, "x", "Unknown topic config name: foo"),
        ("retention.ms", Append, "1", "Can't APPEND to key retention.ms because its type is not LIST."),
        ("retention.ms", Subtract, "1", "Can't SUBTRACT to key retention.ms because its type is not LIST."),
        ("retention.ms", Set, "", "Invalid value  for configuration retention.ms: Not a number of type LONG"),
        (
            "remote.storage.enable",
            Set,
            "true",
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.",
        ),
        (
            "leader.replication.throttled.replicas",
            Set,
            "x",
            "Invalid value [x] for configuration leader.replication.throttled.replicas: leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
        ),
    ] {
        assert_eq!(
            topic(&[], &[(name, op, Some(value))]),
            Err(AlterError::InvalidConfig(message.to_owned()))
        );
    }
    assert_eq!(
        topic(
            &[],
            &[("min.compaction.lag.ms", Set, Some("100")), ("max.compaction.lag.ms", Set, Some("10"))]
        ),
        Err(AlterError::InvalidConfig(
            "conflict topic config setting min.compaction.lag.ms (100) > max.compaction.lag.ms (10)"
                .to_owned()
        ))
    );
    for (ops, message) in [
        (vec![("retention.ms", Set, None)], "Null value not supported for : retention.ms"),
        (
            vec![("retention.ms", Set, Some("5")), ("retention.ms", Set, Some("6"))],
            "Error due to duplicate config keys",
        ),
    ] {
        assert_eq!(topic(&[], &ops), Err(AlterError::InvalidRequest(message.to_owned())));
    }
    assert_eq!(topic(&[], &[("foo", Delete, None)]), Ok(Changes::from([("foo".to_owned(), None)])));
    let list = |current: &[(&str, &str)], op, value| {
        topic(current, &[("cleanup.policy", op, Some(value))])
            .map(|changes| changes["cleanup.policy"].clone())
    };
    assert_eq!(list(&[], Append, "compact"), Ok(Some("delete,compact".to_owned())));
    assert_eq!(
        list(&[("cleanup.policy", "compact,delete")], Subtract, "compact"),
        Ok(Some("delete".to_owned()))
    );
    assert_eq!(list(&[("cleanup.policy", "compact")], Append, "compact"), Ok(Some("compact".to_owned())));

    let broker = |name, value, all| {
        let alteration = Alteration { name, op: Set, value: Some(value) };
        alter_broker(&config, &BTreeMap::new(), &[alteration], all)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(broker("log.retention.ms", "5000", false), Ok(()));
    assert_eq!(broker("foo.bar", "5", false), Ok(()));
    for (name, value, all, message) in [
        ("num.partitions", "5", false, "Cannot update these configs dynamically: [num.partitions]"),
        (
            "log.retention.ms",
            "x",
            false,
            "Invalid value x for configuration log.retention.ms: Not a number of type LONG",
        ),
        (
            "ssl.keystore.type",
            "PEM",
            true,
            "Cannot update these configs at default cluster level, broker id must be specified: [ssl.keystore.type]",
        ),
        (
            "sasl.jaas.config",
            "x",
            false,
            "sasl.jaas.config cannot be set: TLS, SASL and authorization are not supported yet",
        ),
        (
            "max.connections.per.ip.overrides",
            "x",
            false,
            "max.connections.per.ip.overrides: 'x' must be written as address:count",
        ),
    ] {
        assert_eq!(broker(name, value, all), Err(message.to_owned()));
    }
}
