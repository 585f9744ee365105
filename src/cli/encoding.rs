//! Keys and values as text: as they are, in hexadecimal, in base64, or as the JSON of a whole record. Pure.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    #[default]
    String,
    Hex,
    Base64,
}

impl Encoding {
    /// Bytes that are no UTF-8 are passed on as they are by `String`.
    pub fn encode(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Encoding::String => Cow::Borrowed(bytes),
            Encoding::Hex => {
                Cow::Owned(bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
            }
            Encoding::Base64 => Cow::Owned(STANDARD.encode(bytes).into_bytes()),
        }
    }

    pub fn decode(self, text: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Encoding::String => Ok(text.to_vec()),
            Encoding::Hex => decode_hex(text).ok_or_else(|| "not hexadecimal".to_owned()),
            Encoding::Base64 => STANDARD.decode(text).map_err(|error| format!("not base64: {error}")),
        }
    }
}

fn decode_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_chunks::<2>();
    let byte = |&[high, low]: &[u8; 2]| u8::try_from(digit(high)? << 4 | digit(low)?).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// A record as a line of JSON, the same for `consume` and `produce`. Bytes that are no UTF-8 stand in `…_base64`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JsonRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    pub key: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    pub value: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    pub headers: Vec<JsonHeader>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JsonHeader {
    pub key: String,
    pub value: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

/// Text where the bytes are UTF-8, else base64 in the second.
pub fn to_json(bytes: Option<&[u8]>) -> (Value, Option<String>) {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => (Value::Null, None),
        Some((Ok(text), _)) => (Value::String(text.to_owned()), None),
        Some((Err(_), bytes)) => (Value::Null, Some(STANDARD.encode(bytes))),
    }
}

/// The other way. A value that is no text is taken as the JSON it is.
pub fn from_json(value: &Value, in_base64: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    if let Some(text) = in_base64 {
        return Encoding::Base64.decode(text.as_bytes()).map(Some);
    }
    Ok(match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        other => Some(other.to_string().into_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_every_encoding() {
        let bytes: Vec<u8> = (0..=255).collect();
        for encoding in [Encoding::String, Encoding::Hex, Encoding::Base64] {
            assert_eq!(encoding.decode(&encoding.encode(&bytes)), Ok(bytes.clone()), "{encoding:?}");
        }
        assert_eq!(Encoding::Hex.decode(b"0aFF"), Ok(vec![10, 255]));
        for wrong in [&b"0"[..], b"0g", b"+1", b"\xff\xff"] {
            assert!(Encoding::Hex.decode(wrong).is_err(), "{wrong:?}");
        }
        assert!(Encoding::Base64.decode(b"a").is_err());
    }

    #[test]
    fn json_tells_null_from_empty_and_text_from_bytes() {
        for bytes in [None, Some(&b""[..]), Some(b"text"), Some(b"\xff\x00")] {
            let (value, base64) = to_json(bytes);
            assert_eq!(from_json(&value, base64.as_deref()), Ok(bytes.map(<[u8]>::to_vec)));
        }
        assert_eq!(from_json(&serde_json::json!({ "a": [1] }), None), Ok(Some(br#"{"a":[1]}"#.to_vec())));
    }
}
