//! The records of a produce on their way to the shard that owns the partition.

use std::ops::{Deref, Range};
use std::sync::Arc;

/// A frame stays in memory as long as a part of it is waited for; below this share of it the part is copied instead.
const SHARED_PART: usize = 4;

/// Where they lie: in the frame as it was received, or in memory that stays.
#[derive(Clone, Debug)]
pub enum ReceivedRecords<'a> {
    Frame {
        records: &'a [u8],
        /// The whole frame, where other shards may share it.
        shared: Option<&'a Arc<Vec<u8>>>,
    },
    Kept {
        memory: Arc<Vec<u8>>,
        at: Range<usize>,
    },
}

impl<'a> ReceivedRecords<'a> {
    /// For another shard, or for later: large frames are shared. What came in small ones has to be copied.
    pub fn share(self) -> Result<ReceivedRecords<'static>, &'a [u8]> {
        match self {
            ReceivedRecords::Kept { memory, at } => Ok(ReceivedRecords::Kept { memory, at }),
            ReceivedRecords::Frame { records, shared: Some(frame) }
                if records.len() >= frame.len() / SHARED_PART =>
            {
                let start = records.as_ptr().addr() - frame.as_ptr().addr();
                let at = start..start + records.len();
                Ok(ReceivedRecords::Kept { memory: Arc::clone(frame), at })
            }
            ReceivedRecords::Frame { records, .. } => Err(records),
        }
    }

    pub fn copy_of(records: &[u8]) -> ReceivedRecords<'static> {
        ReceivedRecords::Kept { memory: Arc::new(records.to_vec()), at: 0..records.len() }
    }
}

impl Deref for ReceivedRecords<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            ReceivedRecords::Frame { records, .. } => records,
            ReceivedRecords::Kept { memory, at } => &memory[at.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_a_frame_is_shared_and_a_small_part_is_not() {
        let frame = Arc::new((0..1000).map(|byte| byte as u8).collect::<Vec<_>>());
        let is_shared = |range: Range<usize>| {
            let records = ReceivedRecords::Frame { records: &frame[range.clone()], shared: Some(&frame) };
            let shared = records.share();
            assert_eq!(shared.as_deref().unwrap_or_else(|records| records), &frame[range]);
            shared.is_ok()
        };
        assert!(is_shared(10..900) && !is_shared(10..20));
        let small = ReceivedRecords::Frame { records: &frame, shared: None };
        assert!(small.share().is_err());
    }
}
