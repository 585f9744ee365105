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

#[test]
fn the_embedded_defaults() {
    let (config, warnings) = Settings::new().resolve().unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.listeners[0].bind.to_string(), "PLAINTEXT://:9092");
    assert_eq!(config.log_dirs, vec![std::path::PathBuf::from("data")]);
    assert_eq!((config.node_id, config.num_partitions), (1, 1));
    assert_eq!(config.topic_config(&Default::default()).retention_ms, 604_800_000);
}
