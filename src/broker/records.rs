//! The records of a produce on their way to the shard that owns the partition.

use std::ops::Deref;

use bytes::Bytes;

/// A frame stays in memory as long as a part of it is waited for; below this share of it the part is copied instead.
const SHARED_PART: usize = 4;

/// Where they lie: in the frame as it was received, or in memory of their own.
#[derive(Clone, Debug)]
pub enum ReceivedRecords<'a> {
    Frame {
        records: &'a [u8],
        /// The whole frame, where other shards may share it.
        shared: Option<&'a Bytes>,
    },
    Owned(Bytes),
}

impl ReceivedRecords<'_> {
    /// For another shard, or for later: large frames are shared, what came in small ones is copied.
    pub fn into_owned(self) -> ReceivedRecords<'static> {
        ReceivedRecords::Owned(match self {
            ReceivedRecords::Owned(bytes) => bytes,
            ReceivedRecords::Frame { records, shared: Some(frame) }
                if records.len() >= frame.len() / SHARED_PART =>
            {
                frame.slice_ref(records)
            }
            ReceivedRecords::Frame { records, .. } => Bytes::copy_from_slice(records),
        })
    }
}

impl Deref for ReceivedRecords<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            ReceivedRecords::Frame { records, .. } => records,
            ReceivedRecords::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_a_frame_is_shared_and_a_small_part_copied() {
        let frame = Bytes::from(vec![7; 1000]);
        let own = |range: std::ops::Range<usize>| {
            let records = ReceivedRecords::Frame { records: &frame[range.clone()], shared: Some(&frame) };
            let owned = records.into_owned();
            assert_eq!(&*owned, &frame[range]);
            owned.as_ptr()
        };
        assert_eq!(own(10..900), frame[10..].as_ptr());
        assert_ne!(own(10..20), frame[10..].as_ptr());
        let small = ReceivedRecords::Frame { records: &frame, shared: None };
        assert_ne!(small.into_owned().as_ptr(), frame.as_ptr());
    }
}
