//! Memory for received bytes. A socket is read into one large buffer; a large piece takes that buffer with it, a small one
//! is copied out of it, so that a thousand idle connections and many small requests hold little. Pieces that are held
//! count against a limit: beyond it nothing is read, and what the peers send stays in the kernel.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

use crate::io::buffer::Received;

const BUFFER_BYTES: usize = 128 << 10;
/// What a copied piece costs beside its bytes.
const PIECE_OVERHEAD_BYTES: usize = 128;
/// Whole buffers kept for reuse.
const SPARE_MAX: usize = 4;

pub(super) struct ReceiveBuffers {
    shared: Rc<Shared>,
    max_bytes: usize,
}

#[derive(Default)]
struct Shared {
    held_bytes: Cell<usize>,
    spare: RefCell<Vec<Box<[u8]>>>,
}

impl ReceiveBuffers {
    pub fn new(max_bytes: usize) -> ReceiveBuffers {
        ReceiveBuffers { shared: Rc::default(), max_bytes: max_bytes.max(2 * BUFFER_BYTES) }
    }

    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Whether another piece may be read.
    pub fn has_room(&self) -> bool {
        self.shared.held_bytes.get() + BUFFER_BYTES <= self.max_bytes
    }

    /// Reads the next piece; an empty one is the end of the stream.
    pub fn read(&self, from: &mut impl Read) -> io::Result<Received> {
        let spare = self.shared.spare.borrow_mut().pop();
        let mut buffer = spare.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        let read = from.read(&mut buffer);
        let &len = match &read {
            Ok(len) => len,
            Err(_) => &0,
        };
        let (bytes, cost) = if len > BUFFER_BYTES / 2 {
            (buffer, BUFFER_BYTES)
        } else {
            let copy = Box::from(&buffer[..len]);
            self.shared.keep(buffer);
            (copy, len + PIECE_OVERHEAD_BYTES)
        };
        read?;
        self.shared.held_bytes.update(|held| held + cost);
        Ok(Received::owned(Box::new(Piece { bytes, len, cost, shared: self.shared.clone() })))
    }
}

impl Shared {
    fn keep(&self, buffer: Box<[u8]>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }
}

struct Piece {
    bytes: Box<[u8]>,
    len: usize,
    cost: usize,
    shared: Rc<Shared>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.shared.held_bytes.update(|held| held - self.cost);
        if self.bytes.len() == BUFFER_BYTES {
            self.shared.keep(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_until_it_is_dropped() {
        let buffers = ReceiveBuffers::new(3 * BUFFER_BYTES);
        let mut large = io::repeat(7);
        let first = buffers.read(&mut large).unwrap();
        assert!(buffers.has_room() && first.len() == BUFFER_BYTES);
        let small = buffers.read(&mut &b"hello"[..]).unwrap();
        assert!(buffers.has_room() && &*small == b"hello");
        let second = buffers.read(&mut large).unwrap();
        assert!(!buffers.has_room());
        drop(first);
        assert!(buffers.has_room());
        drop((second, small));
        assert_eq!(buffers.shared.held_bytes.get(), 0);
        assert_eq!(buffers.shared.spare.borrow().len(), 2, "kept for reuse");
    }

    #[test]
    fn an_end_and_an_error_hold_nothing_for_long() {
        let buffers = ReceiveBuffers::new(0);
        assert!(buffers.read(&mut io::empty()).unwrap().is_empty());
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
        assert_eq!(buffers.read(&mut Broken).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(buffers.has_room() && buffers.shared.held_bytes.get() == 0);
    }
}
