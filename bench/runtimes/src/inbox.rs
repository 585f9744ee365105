//! What has come of a connection's requests. Large requests are received to their exact end, so that no part of the next
//! one has to be moved to the front; small ones come many at a time.

use std::ops::Range;

use crate::log::FRAME_MAX;
use crate::wire::Malformed;

/// What is asked for when the end of the request is not known, or is near.
const CHUNK: usize = 64 * 1024;

pub struct Inbox {
    bytes: Vec<u8>,
    /// What has come and is not yet taken.
    filled: Range<usize>,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox { bytes: vec![0; CHUNK], filled: 0..0 }
    }
}

impl Inbox {
    /// The place for what comes next, and whether all of it belongs to the request under way.
    pub fn space(&mut self) -> Result<(&mut [u8], bool), Malformed> {
        self.bytes.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        let end = match self.frame_len()? {
            Some(len) if len > CHUNK => len,
            _ => CHUNK,
        };
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        Ok((&mut self.bytes[self.filled.end..end], end > CHUNK))
    }

    /// So many bytes have come to the place given last.
    pub fn filled(&mut self, len: usize) {
        self.filled.end += len;
        assert!(self.filled.end <= self.bytes.len(), "more came than there was room for");
    }

    /// The first whole request with its length, if there is one.
    pub fn frame(&self) -> Result<Option<&[u8]>, Malformed> {
        Ok(self.frame_len()?.and_then(|len| self.bytes[self.filled.clone()].get(..len)))
    }

    /// The first request, of so many bytes with its length, is done with.
    pub fn take(&mut self, len: usize) {
        self.filled.start += len;
        assert!(self.filled.start <= self.filled.end, "more was taken than had come");
    }

    /// The length of the first request with its length field, once that has come.
    fn frame_len(&self) -> Result<Option<usize>, Malformed> {
        let Some(prefix) = self.bytes[self.filled.clone()].first_chunk() else { return Ok(None) };
        let len = usize::try_from(i32::from_be_bytes(*prefix)).map_err(|_| Malformed)? + 4;
        if len > FRAME_MAX { Err(Malformed) } else { Ok(Some(len)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize, content: u8) -> Vec<u8> {
        [&(len as i32).to_be_bytes()[..], &vec![content; len]].concat()
    }

    /// Feeds a stream as the space allows, and at most `most` at once; gives the requests back.
    fn feed(stream: &[u8], most: usize) -> Vec<Vec<u8>> {
        let (mut inbox, mut at, mut found) = (Inbox::default(), 0, Vec::new());
        while at < stream.len() {
            let (space, _) = inbox.space().expect("well formed");
            let len = space.len().min(most).min(stream.len() - at);
            space[..len].copy_from_slice(&stream[at..at + len]);
            inbox.filled(len);
            at += len;
            while let Some(frame) = inbox.frame().expect("well formed") {
                let frame = frame.to_vec();
                inbox.take(frame.len());
                found.push(frame);
            }
        }
        found
    }

    #[test]
    fn requests_come_out_as_they_went_in_however_they_are_cut() {
        let frames: Vec<_> =
            [10, 0, 70_000, 5, 300_000, 300_000, 1].iter().zip(1..).map(|(&len, n)| frame(len, n)).collect();
        for most in [1, 3, 4096, usize::MAX] {
            assert_eq!(feed(&frames.concat(), most), frames, "at most {most} at once");
        }
    }

    #[test]
    fn a_large_request_is_received_to_its_end() {
        let mut inbox = Inbox::default();
        let request = frame(200_000, 1);
        let (space, exact) = inbox.space().expect("empty");
        assert_eq!((space.len(), exact), (CHUNK, false));
        space.copy_from_slice(&request[..CHUNK]);
        inbox.filled(CHUNK);
        let (space, exact) = inbox.space().expect("well formed");
        assert_eq!((space.len(), exact), (200_004 - CHUNK, true));
    }

    #[test]
    fn lengths_that_no_request_has_are_malformed() {
        for len in [-1, i32::MIN, FRAME_MAX as i32 - 3] {
            let mut inbox = Inbox::default();
            inbox.space().expect("empty").0[..4].copy_from_slice(&len.to_be_bytes());
            inbox.filled(4);
            assert_eq!(inbox.frame(), Err(Malformed), "{len}");
        }
    }
}
