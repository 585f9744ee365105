//! Memory that one request hands on to the next: emptied vectors, kept so that a warm data path asks the system for none.
//!
//! Every shard has its own. What is kept is bounded, in each pool and for each vector; what is beyond it goes back to the
//! system. Produce and fetch draw from here, and everything they drew comes back: with the gather that ends, the send that
//! has been made, the letter that has been read.

use std::collections::HashSet;
use std::sync::Arc;

use super::fetch_session::{FetchKey, FetchPartition};
use super::gather::LayoutTopic;
use super::mail::{Answer, GatherRef, ReadAnswer};
use crate::io::Part;
use crate::io::buffer::Slice;
use crate::protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use crate::protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use crate::protocol::writer::Splice;
use crate::protocol::{Uuid, Writer};

/// What a pool keeps at most, and what of it one vector may be.
const POOL_BYTES_MAX: usize = 1 << 20;
const VECTOR_BYTES_MAX: usize = 128 << 10;
/// Names that are kept, and how long one may be.
const NAMES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 256;

/// Empty vectors with room.
pub struct Pool<T> {
    vectors: Vec<Vec<T>>,
    bytes: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Pool { vectors: Vec::new(), bytes: 0 }
    }
}

impl<T> Pool<T> {
    /// An empty vector; one without room when none is kept.
    pub fn take(&mut self) -> Vec<T> {
        let vector = self.vectors.pop().unwrap_or_default();
        self.bytes -= bytes_of(&vector);
        vector
    }

    /// Drops what `vector` holds and keeps its memory.
    pub fn give<U>(&mut self, vector: Vec<U>) {
        let vector = emptied::<U, T>(vector);
        let bytes = bytes_of(&vector);
        if (1..=VECTOR_BYTES_MAX).contains(&bytes) && self.bytes + bytes <= POOL_BYTES_MAX {
            self.bytes += bytes;
            self.vectors.push(vector);
        }
    }
}

fn bytes_of<T>(vector: &Vec<T>) -> usize {
    vector.capacity() * size_of::<T>()
}

/// The memory of `vector` for elements that differ in a lifetime only; any others take memory anew.
pub fn emptied<T, U>(mut vector: Vec<T>) -> Vec<U> {
    vector.clear();
    // The standard library collects a vector's own iterator in place where the elements are alike.
    vector.into_iter().filter_map(|_| None).collect()
}

/// Names that a client gives with each of its requests.
#[derive(Default)]
pub struct Names {
    kept: HashSet<Arc<str>>,
}

impl Names {
    pub fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(kept) = self.kept.get(name) {
            return Arc::clone(kept);
        }
        let new: Arc<str> = name.into();
        if name.len() <= NAME_BYTES_MAX {
            if self.kept.len() == NAMES_MAX {
                self.kept.clear();
            }
            self.kept.insert(Arc::clone(&new));
        }
        new
    }
}

/// The pools of a shard.
#[derive(Default)]
pub struct Spares {
    pub topics: Pool<LayoutTopic>,
    pub indexes: Pool<i32>,
    pub ends: Pool<usize>,
    pub topic_ids: Pool<Option<Uuid>>,
    pub answers: Pool<Option<Answer>>,
    pub gathers: Pool<GatherRef>,
    pub fetched: Pool<(FetchKey, FetchPartition)>,
    pub reads: Pool<ReadAnswer>,
    pub slices: Pool<Slice>,
    pub produce_topics: Pool<TopicProduceResponse<'static>>,
    pub produce_partitions: Pool<PartitionProduceResponse<'static>>,
    pub fetch_topics: Pool<FetchableTopicResponse<'static>>,
    pub fetch_partitions: Pool<PartitionData<'static>>,
    pub bytes: Pool<u8>,
    pub splices: Pool<Splice>,
    pub parts: Pool<Part>,
    pub transactional_ids: Names,
}

impl Spares {
    pub fn writer(&mut self) -> Writer {
        Writer { buf: self.bytes.take(), splices: self.splices.take() }
    }

    /// Parts that have been sent.
    pub fn give_parts(&mut self, mut parts: Vec<Part>) {
        for part in parts.drain(..) {
            if let Part::Bytes(bytes) = part {
                self.bytes.give(bytes);
            }
        }
        self.parts.give(parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn the_memory_of_a_vector_comes_back_empty() {
        let mut pool = Pool::<Cow<'static, str>>::default();
        let name = String::from("borrowed");
        let vector = vec![Cow::Borrowed(name.as_str()); 9];
        let place = vector.as_ptr().addr();
        pool.give(vector);
        let taken = pool.take();
        assert_eq!((taken.len(), taken.capacity(), taken.as_ptr().addr()), (0, 9, place));
        assert_eq!((pool.bytes, pool.take().capacity()), (0, 0));
    }

    #[test]
    fn a_name_is_kept_once_and_few_are_kept() {
        let mut names = Names::default();
        assert!(Arc::ptr_eq(&names.get("one"), &names.get("one")));
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        assert_eq!((&*names.get(&long), names.kept.len()), (&*long, 1));
        for name in 0..2 * NAMES_MAX {
            names.get(&name.to_string());
            assert!(names.kept.len() <= NAMES_MAX);
        }
    }

    #[test]
    fn a_pool_keeps_no_more_than_it_may() {
        let mut pool = Pool::<u8>::default();
        pool.give(Vec::<u8>::new());
        pool.give(vec![0u8; VECTOR_BYTES_MAX + 1]);
        assert_eq!(pool.vectors.len(), 0);
        for _ in 0..100 {
            pool.give(vec![0u8; VECTOR_BYTES_MAX]);
        }
        assert_eq!(pool.vectors.len(), POOL_BYTES_MAX / VECTOR_BYTES_MAX);
        assert_eq!(pool.bytes, POOL_BYTES_MAX);
    }
}
