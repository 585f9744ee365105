//! A record as a line of output. Pure.

use crate::cli::encoding::{Encoding, JsonHeader, JsonRecord, to_json};
use crate::record::Record;
use crate::record::rfc3339::format_rfc3339;

/// A record and where it stands.
pub struct Shown<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub record: &'a Record<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Template(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Key,
    Value,
    Headers,
    Offset,
    Partition,
    Topic,
    Timestamp,
    Time,
}

/// `json` or a template.
pub fn parse(text: &str) -> Result<Format, String> {
    if text == "json" {
        return Ok(Format::Json);
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, after) = behind.split_once('}').ok_or("a { without }")?;
        if !before.is_empty() {
            parts.push(Part::Text(crate::cli::produce::unescape(before)));
        }
        parts.push(match name {
            "key" => Part::Key,
            "value" => Part::Value,
            "headers" => Part::Headers,
            "offset" => Part::Offset,
            "partition" => Part::Partition,
            "topic" => Part::Topic,
            "timestamp" => Part::Timestamp,
            "time" => Part::Time,
            _ => return Err(format!("no {{{name}}} in a record")),
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(crate::cli::produce::unescape(rest)));
    }
    if parts.iter().all(|part| matches!(part, Part::Text(_))) {
        return Err("neither `json` nor a text with {value} or the like in it".to_owned());
    }
    Ok(Format::Template(parts))
}

impl Format {
    /// With the line's end.
    pub fn line(&self, shown: &Shown<'_>, encoding: Encoding) -> Vec<u8> {
        let mut line = match self {
            Format::Json => json(shown),
            Format::Template(parts) => {
                let mut line = Vec::new();
                parts.iter().for_each(|part| part.put(shown, encoding, &mut line));
                line
            }
        };
        line.push(b'\n');
        line
    }
}

impl Part {
    fn put(&self, shown: &Shown<'_>, encoding: Encoding, line: &mut Vec<u8>) {
        match self {
            Part::Text(text) => line.extend_from_slice(text.as_bytes()),
            Part::Key => put_bytes(shown.record.key, encoding, line),
            Part::Value => put_bytes(shown.record.value, encoding, line),
            Part::Headers => {
                for (at, header) in shown.record.headers.iter().enumerate() {
                    if at > 0 {
                        line.push(b',');
                    }
                    line.extend_from_slice(header.key);
                    line.push(b'=');
                    put_bytes(header.value, encoding, line);
                }
            }
            Part::Offset => line.extend_from_slice(shown.offset.to_string().as_bytes()),
            Part::Partition => line.extend_from_slice(shown.partition.to_string().as_bytes()),
            Part::Topic => line.extend_from_slice(shown.topic.as_bytes()),
            Part::Timestamp => line.extend_from_slice(shown.timestamp.to_string().as_bytes()),
            Part::Time => line.extend_from_slice(format_rfc3339(shown.timestamp).as_bytes()),
        }
    }
}

fn put_bytes(bytes: Option<&[u8]>, encoding: Encoding, line: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => line.extend_from_slice(&encoding.encode(bytes)),
        None => line.extend_from_slice(b"null"),
    }
}

fn json(shown: &Shown<'_>) -> Vec<u8> {
    let (key, key_base64) = to_json(shown.record.key);
    let (value, value_base64) = to_json(shown.record.value);
    let headers = shown.record.headers.iter().map(|header| {
        let (value, value_base64) = to_json(header.value);
        JsonHeader { key: String::from_utf8_lossy(header.key).into_owned(), value, value_base64 }
    });
    let record = JsonRecord {
        topic: Some(shown.topic.to_owned()),
        partition: Some(shown.partition),
        offset: Some(shown.offset),
        timestamp: Some(shown.timestamp),
        key,
        key_base64,
        value,
        value_base64,
        headers: headers.collect(),
    };
    // Strings and numbers always have a JSON.
    serde_json::to_vec(&record).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions, Compressor, Decompressor, RecordBatch};

    fn lines(text: &str, encoding: Encoding) -> String {
        let format = parse(text).unwrap();
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let headers = [crate::record::records::Header { key: b"h", value: Some(b"1") }];
        builder.append(1_709_251_199_500, Some(b"k"), Some(b"v"), &headers);
        builder.append(0, None, Some(b"\xff"), &[]);
        let mut bytes = Vec::new();
        builder.finish(&mut Compressor::new(), &mut bytes).unwrap();
        let batch = RecordBatch::parse(&bytes).unwrap();
        let mut scratch = Vec::new();
        let mut out = Vec::new();
        for record in batch.records(&mut Decompressor::new(), &mut scratch, 1 << 20).unwrap() {
            let record = record.unwrap();
            let timestamp = record.timestamp(batch.header());
            let offset = record.offset(batch.header());
            let shown = Shown { topic: "t", partition: 3, offset, timestamp, record: &record };
            out.extend(format.line(&shown, encoding));
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_template_is_filled() {
        let text = r"{topic}-{partition}@{offset}\t{key}={value} {headers}";
        assert_eq!(lines(text, Encoding::Hex), "t-3@0\t6b=76 h=31\nt-3@1\tnull=ff \n");
        assert_eq!(lines("{time}", Encoding::String), "2024-02-29T23:59:59.500Z\n1970-01-01T00:00:00.000Z\n");
        for wrong in ["", "value", "{value", "{nothing}"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn json_keeps_bytes_that_are_no_text() {
        let lines = lines("json", Encoding::String);
        let records: Vec<JsonRecord> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records[0].value, "v");
        assert_eq!(records[0].headers[0].key, "h");
        assert_eq!(records[1].value_base64.as_deref(), Some("/w=="));
    }
}
