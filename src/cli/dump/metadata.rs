//! A journal or snapshot of the metadata: lines of a checksum and a JSON value.

use serde_json::Value;

use super::Sink;
use crate::cli::failure::Failure;
use crate::record::crc32c::checksum;

/// Eight digits and a blank.
const PREFIX_BYTES: usize = 9;

pub fn dump(bytes: &[u8], sink: &mut Sink) -> Result<(), Failure> {
    let mut position = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match value(line.strip_suffix(b"\n").unwrap_or(line)) {
            Ok(value) => sink.line(|| value.to_string(), || value.clone())?,
            Err(reason) => sink.damage(position, reason)?,
        }
        position += line.len() as u64;
    }
    Ok(())
}

fn value(line: &[u8]) -> Result<Value, &'static str> {
    let (prefix, json) = line.split_at_checked(PREFIX_BYTES).ok_or("the line is too short")?;
    let digits = std::str::from_utf8(prefix).ok().and_then(|prefix| prefix.strip_suffix(' '));
    let stored = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    if stored.ok_or("the line has no checksum")? != checksum(json) {
        return Err("the checksum is wrong");
    }
    serde_json::from_slice(json).map_err(|_| "the line is no JSON")
}
