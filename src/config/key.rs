//! What a configuration key is: the columns of the tables in `broker_keys`, `topic_keys` and `ignored_keys`, and the one
//! place that checks a value against them. The words of the complaints are Kafka's, since its tools show them to people.

use std::fmt;

/// The type of a value, with Kafka's number for it in DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
    Class = 8,
    Password = 9,
}

impl ValueType {
    /// The number in DescribeConfigs.
    pub fn code(self) -> i8 {
        self as i8
    }

    pub fn name(self) -> &'static str {
        match self {
            ValueType::Boolean => "BOOLEAN",
            ValueType::String => "STRING",
            ValueType::Int => "INT",
            ValueType::Short => "SHORT",
            ValueType::Long => "LONG",
            ValueType::Double => "DOUBLE",
            ValueType::List => "LIST",
            ValueType::Class => "CLASS",
            ValueType::Password => "PASSWORD",
        }
    }
}

/// Which values of the type are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Valid {
    Any,
    /// At least this.
    Min(i64),
    /// From the first to the second, both included.
    Range(i64, i64),
    /// As `Range`, of a DOUBLE.
    Fraction(f64, f64),
    /// As `Range`, or the third.
    RangeOr(i64, i64, i64),
    OneOf(&'static [&'static str]),
    /// In any case.
    OneOfIgnoringCase(&'static [&'static str]),
    /// Every element of a LIST is one of these.
    Elements(&'static [&'static str]),
    /// `*` or `partition:broker,…`
    ThrottledReplicas,
}

/// When a change takes effect, and through whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// At the next start.
    ReadOnly,
    /// At once, set for one broker.
    PerBroker,
    /// At once, set for one broker or for all.
    ClusterWide,
    /// At once, set on a topic.
    Topic,
    /// At once, set on a group or a subscription.
    Resource,
}

/// Why a key that Kafka knows does nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no KRaft quorum.
    Quorum,
    /// Work is done by shards.
    Threads,
    /// There is no JVM to load classes into.
    Plugin,
    /// TLS, SASL and authorization are not there yet.
    Security,
    /// One node has no replicas.
    Replication,
    /// Tiered storage is not there.
    Tiered,
    /// The group protocol it belongs to is not served.
    Groups,
    /// Metrics are exported another way.
    Metrics,
    /// The mechanism that it tunes is not needed here.
    Mechanism,
    /// Our encoder has nothing to tune.
    Encoder,
    /// It will mean something, but nothing reads it yet.
    NotYet,
}

impl Reason {
    /// Ends the sentence "… is ignored: ".
    pub const fn text(self) -> &'static str {
        match self {
            Reason::Quorum => "there is no KRaft quorum to take part in",
            Reason::Threads => "work is done by shards, one a core (`ringlog.shards`)",
            Reason::Plugin => "classes of the JVM cannot be loaded",
            Reason::Security => "TLS, SASL and authorization are not supported yet",
            Reason::Replication => "a single node has no replicas",
            Reason::Tiered => "tiered storage is not supported",
            Reason::Groups => "the group protocol it belongs to is not supported",
            Reason::Metrics => "metrics are not sampled or reported this way",
            Reason::Mechanism => "the mechanism it tunes does not exist here",
            Reason::Encoder => "the encoder has one level",
            Reason::NotYet => "it is not enforced yet",
        }
    }

    /// What an ignored key's documentation says.
    pub const fn doc(self) -> &'static str {
        match self {
            Reason::Quorum => "Ignored: there is no KRaft quorum to take part in.",
            Reason::Threads => "Ignored: work is done by shards, one a core (`ringlog.shards`).",
            Reason::Plugin => "Ignored: classes of the JVM cannot be loaded.",
            Reason::Security => "Ignored: TLS, SASL and authorization are not supported yet.",
            Reason::Replication => "Ignored: a single node has no replicas.",
            Reason::Tiered => "Ignored: tiered storage is not supported.",
            Reason::Groups => "Ignored: the group protocol it belongs to is not supported.",
            Reason::Metrics => "Ignored: metrics are not sampled or reported this way.",
            Reason::Mechanism => "Ignored: the mechanism it tunes does not exist here.",
            Reason::Encoder => "Ignored: the encoder has one level.",
            Reason::NotYet => "Ignored: it is not enforced yet.",
        }
    }
}

/// Whether the value is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Used,
    /// Kept and described as Kafka does, else without effect.
    Ignored(Reason),
}

/// One declared key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub value_type: ValueType,
    /// As text; `None` when there is none (Kafka's null).
    pub default: Option<&'static str>,
    pub valid: Valid,
    pub update: Update,
    pub effect: Effect,
    pub doc: &'static str,
}

impl Key {
    pub fn is_sensitive(&self) -> bool {
        self.value_type == ValueType::Password
    }

    /// The accepted values in words, empty when all of the type are.
    pub fn range(&self) -> String {
        match self.valid {
            Valid::Any => String::new(),
            Valid::Min(min) => format!("{min} or more"),
            Valid::Range(min, max) => format!("{min} to {max}"),
            Valid::Fraction(min, max) => format!("{min} to {max}"),
            Valid::RangeOr(min, max, other) => format!("{min} to {max}, or {other}"),
            Valid::OneOf(values) => values.join(", "),
            Valid::OneOfIgnoringCase(values) => format!("{}, in any case", values.join(", ")),
            Valid::Elements(values) => format!("list of {}", values.join(", ")),
            Valid::ThrottledReplicas => "* or partition:broker,…".to_owned(),
        }
    }

    /// Reads `text`, or says in Kafka's words what is wrong with it.
    pub fn parse(&self, text: &str) -> Result<Value, InvalidValue> {
        let value = self.parse_type(text.trim())?;
        self.check_range(text, &value)?;
        Ok(value)
    }

    fn parse_type(&self, text: &str) -> Result<Value, InvalidValue> {
        let not_a_number = || self.invalid(text, format!("Not a number of type {}", self.value_type.name()));
        match self.value_type {
            ValueType::Boolean if text.eq_ignore_ascii_case("true") => Ok(Value::Boolean(true)),
            ValueType::Boolean if text.eq_ignore_ascii_case("false") => Ok(Value::Boolean(false)),
            ValueType::Boolean => {
                Err(self.invalid(text, "Expected value to be either true or false".to_owned()))
            }
            ValueType::Short => {
                text.parse::<i16>().map(|n| Value::Long(n.into())).map_err(|_| not_a_number())
            }
            ValueType::Int => text.parse::<i32>().map(|n| Value::Long(n.into())).map_err(|_| not_a_number()),
            ValueType::Long => text.parse::<i64>().map(Value::Long).map_err(|_| not_a_number()),
            ValueType::Double => match text.parse::<f64>() {
                Ok(number) if !number.is_nan() => Ok(Value::Double(number)),
                _ => Err(not_a_number()),
            },
            ValueType::List => Ok(Value::List(split_list(text))),
            ValueType::String | ValueType::Class | ValueType::Password => Ok(Value::Text(text.to_owned())),
        }
    }

    fn check_range(&self, text: &str, value: &Value) -> Result<(), InvalidValue> {
        let at_least = |min: String| Err(self.invalid(text, format!("Value must be at least {min}")));
        let at_most = |max: String| Err(self.invalid(text, format!("Value must be no more than {max}")));
        match (self.valid, value) {
            (Valid::Min(min) | Valid::Range(min, _), Value::Long(number)) if *number < min => {
                at_least(min.to_string())
            }
            (Valid::Range(_, max), Value::Long(number)) if *number > max => at_most(max.to_string()),
            (Valid::Fraction(min, _), Value::Double(number)) if *number < min => at_least(min.to_string()),
            (Valid::Fraction(_, max), Value::Double(number)) if *number > max => at_most(max.to_string()),
            (Valid::RangeOr(min, max, other), Value::Long(number))
                if *number != other && (*number < min || *number > max) =>
            {
                Err(self.invalid(text, format!("Value must be between {min} and {max} or equal to {other}")))
            }
            (Valid::OneOf(known), Value::Text(word)) if !known.contains(&word.as_str()) => {
                Err(self.invalid(text, format!("String must be one of: {}", known.join(", "))))
            }
            (Valid::OneOfIgnoringCase(known), Value::Text(word))
                if !known.iter().any(|name| name.eq_ignore_ascii_case(word)) =>
            {
                let known = known.join(", ");
                Err(self.invalid(text, format!("String must be one of (case insensitive): {known}")))
            }
            (Valid::Elements(known), Value::List(words)) => {
                match words.iter().find(|word| !known.contains(&word.as_str())) {
                    Some(word) => {
                        Err(self.invalid(word, format!("String must be one of: {}", known.join(", "))))
                    }
                    None => Ok(()),
                }
            }
            (Valid::ThrottledReplicas, Value::List(words)) if !is_throttled_replicas(words) => {
                let name = self.name;
                Err(InvalidValue {
                    key: name,
                    value: format!("[{}]", words.join(", ")),
                    reason: format!(
                        "{name} must be the literal '*' or a list of replicas in the following format: \
                         [partitionId]:[brokerId],[partitionId]:[brokerId],..."
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    fn invalid(&self, value: &str, reason: String) -> InvalidValue {
        let value = if self.is_sensitive() { "[hidden]" } else { value };
        InvalidValue { key: self.name, value: value.to_owned(), reason }
    }
}

fn is_throttled_replicas(words: &[String]) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_pair = |word: &String| word.split_once(':').is_some_and(|(a, b)| is_number(a) && is_number(b));
    matches!(words, [word] if word == "*") || words.iter().all(is_pair)
}

/// Kafka's LIST: separated by commas, blanks around elements dropped, no elements in an empty text.
pub fn split_list(text: &str) -> Vec<String> {
    match text.trim() {
        "" => Vec::new(),
        text => text.split(',').map(|word| word.trim().to_owned()).collect(),
    }
}

/// A value of its key's type; all whole numbers are `Long`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Boolean(bool),
    Long(i64),
    Double(f64),
    List(Vec<String>),
    Text(String),
}

/// A value that its key does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidValue {
    pub key: &'static str,
    pub value: String,
    pub reason: String,
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invalid value {} for configuration {}: {}", self.value, self.key, self.reason)
    }
}

impl std::error::Error for InvalidValue {}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value_type: ValueType, valid: Valid) -> Key {
        Key {
            name: "k",
            value_type,
            default: None,
            valid,
            update: Update::ReadOnly,
            effect: Effect::Used,
            doc: "",
        }
    }

    #[test]
    fn complaints_are_kafkas() {
        let codecs = Valid::OneOf(&["a", "b"]);
        let elements = Valid::Elements(&["compact", "delete"]);
        for (value_type, valid, text, reason) in [
            (
                ValueType::Long,
                Valid::Min(-1),
                "-5",
                "Invalid value -5 for configuration k: Value must be at least -1",
            ),
            (
                ValueType::Long,
                Valid::Any,
                "abc",
                "Invalid value abc for configuration k: Not a number of type LONG",
            ),
            (
                ValueType::Int,
                Valid::Any,
                "99999999999",
                "Invalid value 99999999999 for configuration k: Not a number of type INT",
            ),
            (
                ValueType::Int,
                Valid::Range(0, 22),
                "30",
                "Invalid value 30 for configuration k: Value must be no more than 22",
            ),
            (
                ValueType::Int,
                Valid::RangeOr(1, 9, -1),
                "0",
                "Invalid value 0 for configuration k: Value must be between 1 and 9 or equal to -1",
            ),
            (
                ValueType::Double,
                Valid::Fraction(0.0, 1.0),
                "1.5",
                "Invalid value 1.5 for configuration k: Value must be no more than 1",
            ),
            (
                ValueType::Double,
                Valid::Fraction(0.0, 1.0),
                "NaN",
                "Invalid value NaN for configuration k: Not a number of type DOUBLE",
            ),
            (
                ValueType::Boolean,
                Valid::Any,
                "x",
                "Invalid value x for configuration k: Expected value to be either true or false",
            ),
            (
                ValueType::String,
                codecs,
                "foo",
                "Invalid value foo for configuration k: String must be one of: a, b",
            ),
            (
                ValueType::List,
                elements,
                "compact,foo",
                "Invalid value foo for configuration k: String must be one of: compact, delete",
            ),
            (
                ValueType::Password,
                codecs,
                "secret",
                "Invalid value [hidden] for configuration k: String must be one of: a, b",
            ),
        ] {
            assert_eq!(
                key(value_type, valid).parse(text).map_err(|error| error.to_string()),
                Err(reason.to_owned())
            );
        }
    }

    #[test]
    fn values_are_read_as_kafka_reads_them() {
        let list = key(ValueType::List, Valid::Elements(&["compact", "delete"]));
        assert_eq!(list.parse(""), Ok(Value::List(vec![])));
        assert_eq!(
            list.parse(" compact , delete "),
            Ok(Value::List(vec!["compact".into(), "delete".into()]))
        );
        assert_eq!(key(ValueType::Boolean, Valid::Any).parse("TRUE"), Ok(Value::Boolean(true)));
        assert_eq!(key(ValueType::Long, Valid::Any).parse(" 1000 "), Ok(Value::Long(1000)));
        let replicas = key(ValueType::List, Valid::ThrottledReplicas);
        for (text, taken) in
            [("*", true), ("", true), ("0:1,1:1", true), ("x", false), ("0:", false), ("*,0:1", false)]
        {
            assert_eq!(replicas.parse(text).is_ok(), taken, "{text}");
        }
    }
}
