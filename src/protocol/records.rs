//! The `records` field of a message: record batches, opaque here.

/// Bytes that came over the wire, or bytes that stay where they are and are sent by reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records<'a> {
    Bytes(&'a [u8]),
    /// `len` bytes the encoder's caller keeps under a number of its own; the writer notes a splice instead of copying them.
    External {
        slot: u32,
        len: u32,
    },
}

impl<'a> Records<'a> {
    pub fn len(&self) -> usize {
        match self {
            Records::Bytes(bytes) => bytes.len(),
            Records::External { len, .. } => *len as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, unless they are elsewhere. A decoded message always has them.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Records::Bytes(bytes) => Some(bytes),
            Records::External { .. } => None,
        }
    }
}

impl<'a> From<&'a [u8]> for Records<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Records::Bytes(bytes)
    }
}
