//! Where values come from before the broker runs: `server.properties`, the environment, `--set KEY=VALUE`. Later calls win over
//! earlier ones, so the caller's order is the precedence: the file, the environment, then each `--set`.

use std::collections::BTreeMap;
use std::fmt;

use super::environment;
use super::key::{Effect, Key};
use super::properties;
use super::{BrokerConfig, StartupError, find_broker_key, find_topic_key};

/// Values as text, by the name of their key, with everything that was odd about them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, Setting>,
    warnings: Vec<String>,
    errors: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub text: String,
    pub origin: Origin,
}

/// Where a value was set, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File { name: String, line: usize },
    Environment { variable: String },
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { name, line } => write!(f, "{name} line {line}"),
            Origin::Environment { variable } => write!(f, "environment {variable}"),
            Origin::CommandLine => write!(f, "--set"),
        }
    }
}

impl Settings {
    pub fn new() -> Settings {
        Settings::default()
    }

    /// The text of a properties file; `name` is for messages.
    pub fn add_file(&mut self, name: &str, text: &str) {
        match properties::parse(text) {
            Ok(properties) => {
                for property in properties {
                    let origin = Origin::File { name: name.to_owned(), line: property.line };
                    self.add(&property.key, property.value, origin);
                }
            }
            Err(malformed) => {
                self.errors.push(format!(
                    "{name} line {}: \\u must be followed by four hexadecimal digits",
                    malformed.line
                ));
            }
        }
    }

    /// The process environment; variables that are not about configuration are passed over.
    pub fn add_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let mut found: Vec<_> = variables
            .into_iter()
            .filter_map(|(variable, value)| Some((environment::key_of(&variable)?, variable, value)))
            .collect();
        found.sort();
        for (key, variable, value) in found {
            self.add(&key, value, Origin::Environment { variable });
        }
    }

    /// One `KEY=VALUE` of the command line.
    pub fn add_set(&mut self, assignment: &str) {
        match assignment.split_once('=') {
            Some((key, value)) => self.add(key.trim(), value.to_owned(), Origin::CommandLine),
            None => self.errors.push(format!("--set {assignment}: must be written as KEY=VALUE")),
        }
    }

    /// What the broker reads, and the warnings in the order of their sources; or every error there is.
    pub fn resolve(mut self) -> Result<(BrokerConfig, Vec<String>), StartupError> {
        for (name, setting) in &self.values {
            let key = find_broker_key(name).expect("only declared keys are kept");
            if let Err(invalid) = key.parse(&setting.text) {
                self.errors.push(format!("{}: {invalid}{}", setting.origin, accepted(key)));
            }
        }
        if !self.errors.is_empty() {
            return Err(StartupError { errors: self.errors });
        }
        let mut warnings = self.warnings;
        let texts = self.values.into_iter().map(|(name, setting)| (name, setting.text)).collect();
        let config = BrokerConfig::at_start(texts, &mut warnings)?;
        Ok((config, warnings))
    }

    fn add(&mut self, name: &str, text: String, origin: Origin) {
        let name = match name {
            "shards" | "routing" | "cluster.id" | "create.topics" | "pin" => &format!("ringlog.{name}"),
            other => other,
        };
        let Some(key) = find_broker_key(name) else {
            return self.warn_unknown(name, &origin);
        };
        if let Effect::Ignored(reason) = key.effect {
            self.warnings.push(format!("{origin}: {name} is ignored: {}", reason.text()));
        }
        self.values.insert(key.name, Setting { text, origin });
    }

    fn warn_unknown(&mut self, name: &str, origin: &Origin) {
        let hint = match find_topic_key(name).map(|topic_key| topic_key.synonyms) {
            Some([synonym, ..]) => format!("; it is a topic's, the broker's is {}", synonym.name),
            Some([]) => "; it is a topic's, and has no default on the broker".to_owned(),
            None if name.starts_with("zookeeper.") => "; Kafka has no ZooKeeper since 4.0".to_owned(),
            None => String::new(),
        };
        self.warnings.push(format!("{origin}: {name} is not a known key and is ignored{hint}"));
    }
}

fn accepted(key: &Key) -> String {
    match key.range() {
        range if range.is_empty() => format!(" ({})", key.value_type.name()),
        range => format!(" ({}: {range})", key.value_type.name()),
    }
}
