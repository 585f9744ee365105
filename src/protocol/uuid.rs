//! Kafka's UUID: 16 bytes, shown as 22 characters of URL-safe base64.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Stands for "none".
    pub const ZERO: Uuid = Uuid([0; 16]);

    pub fn is_zero(&self) -> bool {
        *self == Uuid::ZERO
    }

    /// A version-4 UUID from random bytes. Kafka avoids those whose text starts with a dash, since tools would take it for
    /// an option; none is returned for these, and for the few that mean something to Kafka.
    pub fn from_random(mut bytes: [u8; 16]) -> Option<Uuid> {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let dash = bytes[0] >> 2 == 62;
        (!dash).then_some(Uuid(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 22];
        // 16 bytes always make 22 characters.
        match URL_SAFE_NO_PAD.encode_slice(self.0, &mut text) {
            Ok(length) => f.pad(std::str::from_utf8(&text[..length]).unwrap_or_default()),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 22 characters of URL-safe base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUuid;

impl std::error::Error for InvalidUuid {}

impl fmt::Display for InvalidUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a UUID of 22 characters in URL-safe base64")
    }
}

impl FromStr for Uuid {
    type Err = InvalidUuid;

    fn from_str(text: &str) -> Result<Uuid, InvalidUuid> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| InvalidUuid)?;
        bytes.try_into().map(Uuid).map_err(|_| InvalidUuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kafkas() {
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        let id: Uuid = "AAAAAAAAAAAAAAAAAAAAAQ".parse().unwrap();
        assert_eq!(id.0[15], 1);
        assert_eq!(format!("{id:>24}"), "  AAAAAAAAAAAAAAAAAAAAAQ");
        for wrong in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAA+", "AAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(wrong.parse::<Uuid>(), Err(InvalidUuid), "{wrong}");
        }
    }

    #[test]
    fn random_is_version_4_and_no_option() {
        let id = Uuid::from_random([0xff; 16]);
        assert_eq!(id.map(|id| (id.0[6], id.0[8])), Some((0x4f, 0xbf)));
        assert_eq!(Uuid::from_random([0xf8; 16]), None);
    }
}
