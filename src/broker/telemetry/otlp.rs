//! What is read of OpenTelemetry's `MetricsData` (version 1, protobuf): the numbers of gauges and sums with their attributes, which is
//! all that Kafka's clients send. Other kinds of data and unknown fields are stepped over.
//!
//! The bytes are a client's: every length is checked against what is left, nothing nests deeper than the fixed levels below, and
//! names, attributes and points are bounded.

use super::{Kind, Labels};

/// Longer names of metrics are not kept.
const NAME_BYTES_MAX: usize = 256;
/// Longer values of attributes are cut.
const VALUE_BYTES_MAX: usize = 128;
const LABEL_NAME_BYTES_MAX: usize = 64;
/// Of a resource or a point; what is beyond is left out.
const ATTRIBUTES_MAX: usize = 12;

/// Not what it claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no OpenTelemetry metrics: {0}")]
pub struct Malformed(&'static str);

/// A number of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// As Prometheus has it.
    pub name: String,
    /// By name, each once.
    pub labels: Labels,
    pub kind: Kind,
    pub value: f64,
    /// It counts from the last push, not from the client's start.
    pub is_delta: bool,
}

/// The points of `bytes`, the first `max` of them.
pub fn points(bytes: &[u8], max: usize) -> Result<Vec<Point>, Malformed> {
    let mut found = Vec::new();
    for resource_metrics in Fields(bytes).messages(1) {
        let resource_metrics = resource_metrics?;
        let mut common = Vec::new();
        for resource in Fields(resource_metrics).messages(1) {
            attributes(resource?, 1, &mut common)?;
        }
        for scope in Fields(resource_metrics).messages(2) {
            for metric in Fields(scope?).messages(2) {
                self::metric(metric?, &common, max, &mut found)?;
            }
        }
    }
    Ok(found)
}

fn metric(
    bytes: &[u8],
    common: &[Attribute<'_>],
    max: usize,
    found: &mut Vec<Point>,
) -> Result<(), Malformed> {
    const GAUGE: u32 = 5;
    const SUM: u32 = 7;
    const DELTA: u64 = 1;
    let (mut name, mut data) = ("", None);
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(text)) => name = utf8(text)?,
            (number @ (GAUGE | SUM), Field::Bytes(numbers)) => data = Some((number, numbers)),
            _ => {}
        }
    }
    let Some((number, numbers)) = data.filter(|_| !name.is_empty() && name.len() <= NAME_BYTES_MAX) else {
        return Ok(());
    };
    let (mut is_delta, mut is_monotonic) = (false, false);
    for field in Fields(numbers) {
        match field? {
            (2, Field::Number(temporality)) if number == SUM => is_delta = temporality == DELTA,
            (3, Field::Number(monotonic)) if number == SUM => is_monotonic = monotonic != 0,
            _ => {}
        }
    }
    let kind = if is_monotonic { Kind::Counter } else { Kind::Gauge };
    for point in Fields(numbers).messages(1) {
        if found.len() >= max {
            return Ok(());
        }
        let point = point?;
        if let Some(value) = value(point)? {
            let mut own = common.to_vec();
            attributes(point, 7, &mut own)?;
            found.push(Point { name: family(name), labels: labels(&own), kind, value, is_delta });
        }
    }
    Ok(())
}

/// The value of a NumberDataPoint; one without is told as no recorded value.
fn value(point: &[u8]) -> Result<Option<f64>, Malformed> {
    let mut value = None;
    for field in Fields(point) {
        match field? {
            (4, Field::Fixed64(bits)) => value = Some(f64::from_bits(bits)),
            (6, Field::Fixed64(bits)) => value = Some(bits as i64 as f64),
            _ => {}
        }
    }
    Ok(value)
}

type Attribute<'a> = (&'a str, Value<'a>);

#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Number(i64),
    Real(f64),
    Truth(bool),
}

/// The plain ones among the KeyValues of field `number`.
fn attributes<'a>(bytes: &'a [u8], number: u32, into: &mut Vec<Attribute<'a>>) -> Result<(), Malformed> {
    for pair in Fields(bytes).messages(number).take(ATTRIBUTES_MAX) {
        let (mut key, mut value) = ("", None);
        for field in Fields(pair?) {
            match field? {
                (1, Field::Bytes(text)) => key = utf8(text)?,
                (2, Field::Bytes(any)) => {
                    for field in Fields(any) {
                        value = match field? {
                            (1, Field::Bytes(text)) => Some(Value::Text(utf8(text)?)),
                            (2, Field::Number(truth)) => Some(Value::Truth(truth != 0)),
                            (3, Field::Number(number)) => Some(Value::Number(number as i64)),
                            (4, Field::Fixed64(bits)) => Some(Value::Real(f64::from_bits(bits))),
                            _ => None,
                        };
                    }
                }
                _ => {}
            }
        }
        if let Some(value) = value.filter(|_| !key.is_empty() && key.len() <= LABEL_NAME_BYTES_MAX) {
            into.push((key, value));
        }
    }
    Ok(())
}

fn labels(attributes: &[Attribute<'_>]) -> Labels {
    let mut labels: Vec<(String, String)> = attributes
        .iter()
        .map(|(name, value)| {
            let value = match value {
                Value::Text(text) => text[..text.floor_char_boundary(VALUE_BYTES_MAX)].to_owned(),
                Value::Number(number) => number.to_string(),
                Value::Real(number) => number.to_string(),
                Value::Truth(truth) => truth.to_string(),
            };
            (word(name), value)
        })
        .filter(|(name, _)| !super::CLIENT_LABELS.contains(&name.as_str()))
        .collect();
    labels.sort();
    labels.dedup_by(|one, other| one.0 == other.0);
    labels.into()
}

/// `org.apache.kafka.producer.record.send.total` is shown as `kafka_client_producer_record_send_total`, so that no name of a client's
/// choice can be one of the broker's own.
fn family(name: &str) -> String {
    format!("kafka_client_{}", word(name.strip_prefix("org.apache.kafka.").unwrap_or(name)))
}

/// What Prometheus takes as a name: letters, digits and underscores, with no digit in front.
fn word(text: &str) -> String {
    let digit = text.starts_with(|first: char| first.is_ascii_digit());
    let kept = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    digit.then_some('_').into_iter().chain(kept).collect()
}

fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("text that is no UTF-8"))
}

// ---- protobuf ----

enum Field<'a> {
    Number(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// The fields of a message, in order: number and value.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The messages under one number.
    fn messages(self, wanted: u32) -> impl Iterator<Item = Result<&'a [u8], Malformed>> {
        self.filter_map(move |field| match field {
            Ok((number, Field::Bytes(bytes))) if number == wanted => Some(Ok(bytes)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed("a number is cut off"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is too long"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.0.len());
        let (taken, rest) = self.0.split_at(length.ok_or(Malformed("a field is longer than its message"))?);
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Field<'a>), Malformed> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed("a field's number is too large"))?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(self.take(8)?);
                Field::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Field::Fixed32
            }
            _ => return Err(Malformed("a field of unknown type")),
        };
        Ok((number, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn message(number: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = body.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(body);
        bytes
    }

    fn attribute(number: u8, name: &str, value: &str) -> Vec<u8> {
        let value = message(2, &message(1, value.as_bytes()));
        message(number, &[message(1, name.as_bytes()), value].concat())
    }

    /// A sum named `name` of a client in group `g`, with a point of one topic.
    pub fn sum(name: &str, topic: &str, value: i64, temporality: u8) -> Vec<u8> {
        let mut point = attribute(7, "topic", topic);
        point.push(6 << 3 | 1);
        point.extend(value.to_le_bytes());
        let sum = [message(1, &point), vec![2 << 3, temporality, 3 << 3, 1]].concat();
        let metric = [message(1, name.as_bytes()), message(7, &sum)].concat();
        let resource = message(1, &attribute(1, "group.id", "g"));
        message(1, &[resource, message(2, &message(2, &metric))].concat())
    }

    #[test]
    fn a_sum_is_read() {
        let bytes = sum("org.apache.kafka.producer.record.send.total", "a b", 7, 2);
        let labels = [("group_id", "g"), ("topic", "a b")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let expected = Point {
            name: "kafka_client_producer_record_send_total".to_owned(),
            labels: labels.into(),
            kind: Kind::Counter,
            value: 7.0,
            is_delta: false,
        };
        assert_eq!(points(&bytes, 10), Ok(vec![expected]));
        assert!(points(&sum("x", "t", 1, 1), 10).unwrap()[0].is_delta);
        let two = [bytes.clone(), bytes.clone()].concat();
        assert_eq!(points(&two, 10).unwrap().len(), 2);
        assert_eq!(points(&two, 1).unwrap().len(), 1, "no more than asked for");
    }

    #[test]
    fn names_are_prometheus_own() {
        assert_eq!(family("9 lives"), "kafka_client__9_lives");
        assert_eq!(word("client-id.é"), "client_id__");
        let taken =
            labels(&[("client_id", Value::Text("me")), ("x", Value::Number(1)), ("x", Value::Truth(true))]);
        assert_eq!(&*taken, &[("x".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn damage_is_told_and_never_panics() {
        let bytes = sum("org.apache.kafka.x", "t", 7, 2);
        for end in 1..bytes.len() {
            assert!(points(&bytes[..end], 10).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = points(&damaged, 10);
            }
        }
        assert!(points(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], 1).is_err());
        assert_eq!(points(&[], 1), Ok(Vec::new()));
    }
}
