//! A line of input as a record. Pure.

use super::{Args, Format};
use crate::cli::encoding::{Encoding, JsonRecord, from_json};
use crate::cli::failure::Failure;

/// Name and value.
type ParsedHeader = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedRecord {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<ParsedHeader>,
    pub partition: Option<i32>,
    pub timestamp: Option<i64>,
}

impl ParsedRecord {
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + length(value) + 4).sum();
        length(&self.key) + length(&self.value) + headers + 32
    }
}

/// How lines are to be read.
#[derive(Clone, Debug)]
pub struct LineFormat {
    /// `None` for JSON.
    encoding: Option<Encoding>,
    key_separator: Option<Vec<u8>>,
    has_headers: bool,
    fixed_headers: Vec<(String, String)>,
    null: Option<Vec<u8>>,
}

impl LineFormat {
    pub fn new(args: &Args) -> Result<LineFormat, Failure> {
        let encoding = match args.format {
            Format::String => Some(Encoding::String),
            Format::Hex => Some(Encoding::Hex),
            Format::Base64 => Some(Encoding::Base64),
            Format::Json => None,
        };
        if encoding.is_none() && (args.key_separator.is_some() || args.headers || args.null.is_some()) {
            return Err(Failure::usage(
                "JSON has keys, headers and null of its own: \
                                       no --key-separator, --headers, --null with --format json",
            ));
        }
        let key_separator = args.key_separator.as_ref().map(|text| unescape(text).into_bytes());
        if key_separator.as_ref().is_some_and(Vec::is_empty) {
            return Err(Failure::usage("--key-separator is empty"));
        }
        Ok(LineFormat {
            encoding,
            key_separator,
            has_headers: args.headers,
            fixed_headers: args.fixed_headers.clone(),
            null: args.null.as_ref().map(|text| text.clone().into_bytes()),
        })
    }

    pub fn parse(&self, line: &[u8]) -> Result<ParsedRecord, String> {
        let mut record = match self.encoding {
            Some(encoding) => self.parse_text(line, encoding)?,
            None => parse_json(line)?,
        };
        let fixed = self.fixed_headers.iter();
        record.headers.extend(fixed.map(|(name, value)| (name.clone().into(), Some(value.clone().into()))));
        Ok(record)
    }

    fn parse_text(&self, line: &[u8], encoding: Encoding) -> Result<ParsedRecord, String> {
        let mut record = ParsedRecord::default();
        let mut rest = line;
        if self.has_headers {
            let (headers, behind) = split(rest, b"\t").ok_or("no tab behind the headers")?;
            record.headers = parse_headers(headers)?;
            rest = behind;
        }
        if let Some(separator) = &self.key_separator {
            let (key, behind) = split(rest, separator).ok_or("no key separator")?;
            record.key = self.part(key, encoding)?;
            rest = behind;
        }
        record.value = self.part(rest, encoding)?;
        Ok(record)
    }

    fn part(&self, text: &[u8], encoding: Encoding) -> Result<Option<Vec<u8>>, String> {
        if self.null.as_deref() == Some(text) {
            return Ok(None);
        }
        encoding.decode(text).map(Some)
    }
}

fn parse_headers(text: &[u8]) -> Result<Vec<ParsedHeader>, String> {
    let mut headers = Vec::new();
    for header in text.split(|byte| *byte == b',').filter(|header| !header.is_empty()) {
        let (name, value) = split(header, b"=").ok_or("a header without `=`")?;
        headers.push((name.to_vec(), Some(value.to_vec())));
    }
    Ok(headers)
}

fn parse_json(line: &[u8]) -> Result<ParsedRecord, String> {
    let json: JsonRecord = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let mut headers = Vec::new();
    for header in &json.headers {
        let value = from_json(&header.value, header.value_base64.as_deref())?;
        headers.push((header.key.clone().into_bytes(), value));
    }
    Ok(ParsedRecord {
        key: from_json(&json.key, json.key_base64.as_deref())?,
        value: from_json(&json.value, json.value_base64.as_deref())?,
        headers,
        partition: json.partition,
        timestamp: json.timestamp,
    })
}

fn split<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(separator.len()).position(|window| window == separator)?;
    Some((&text[..at], &text[at + separator.len()..]))
}

/// `\t`, `\n`, `\0` and `\\` as a shell leaves them.
pub fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('0') => out.push('\0'),
            Some('\\') | None => out.push('\\'),
            Some(other) => out.extend(['\\', other]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(encoding: Option<Encoding>, separator: Option<&str>, has_headers: bool) -> LineFormat {
        let key_separator = separator.map(|text| text.as_bytes().to_vec());
        let fixed_headers = Vec::new();
        LineFormat { encoding, key_separator, has_headers, fixed_headers, null: Some(b"NULL".to_vec()) }
    }

    #[test]
    fn a_line_has_headers_key_and_value() {
        let whole = format(Some(Encoding::String), Some("::"), true);
        let record = whole.parse(b"a=1,b=\tkey::value::more").unwrap();
        assert_eq!(record.key.as_deref(), Some(&b"key"[..]));
        assert_eq!(record.value.as_deref(), Some(&b"value::more"[..]));
        let expected = vec![(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), Some(Vec::new()))];
        assert_eq!(record.headers, expected);
        assert_eq!(whole.parse(b"\tk::NULL").unwrap().value, None);
        for wrong in [&b"key::value"[..], b"a=1\tkey", b"a\tk::v"] {
            assert!(whole.parse(wrong).is_err());
        }
        let plain = format(Some(Encoding::Hex), None, false);
        assert_eq!(plain.parse(b"00ff").unwrap().value, Some(vec![0, 255]));
        assert!(plain.parse(b"zz").is_err());
    }

    #[test]
    fn json_lines_name_what_they_set() {
        let json = format(None, None, false);
        let line = br#"{"key":"k","value":{"n":1},"headers":[{"key":"h","value":"v"}],"partition":2,"timestamp":5,"offset":9}"#;
        let record = json.parse(line).unwrap();
        assert_eq!(record.value, Some(br#"{"n":1}"#.to_vec()));
        assert_eq!((record.partition, record.timestamp, record.headers.len()), (Some(2), Some(5), 1));
        assert_eq!(json.parse(b"{}").unwrap(), ParsedRecord::default());
        for wrong in [&b""[..], b"[", br#"{"value_base64":"*"}"#] {
            assert!(json.parse(wrong).is_err());
        }
    }

    #[test]
    fn separators_are_written_as_in_a_shell() {
        assert_eq!(unescape(r"a\tb\\n\x"), "a\tb\\n\\x");
    }
}
