//! The checksum of a record batch: CRC-32C, by the processor's own instruction where it has one.
//!
//! One place names the crate that computes it, so that another can be measured against it.

/// The CRC-32C of `bytes`.
#[inline]
pub fn checksum(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// The CRC-32C of what `crc` covers followed by `bytes`.
#[inline]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_standard() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
        assert_eq!(append(checksum(b"1234"), b"56789"), 0xe306_9283);
        assert_eq!(checksum(b""), 0);
    }
}
