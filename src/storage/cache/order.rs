//! An order of pieces to whose end any of them may move.
//!
//! A list in a vector: every step takes the same time, and memory is asked for only when the order is longer than it ever
//! was, as fetches that find all in memory must ask for none. Called by [`ReadCache`](super::ReadCache).

use super::PieceKey;

/// No place.
const NONE: usize = usize::MAX;

/// What stands at a place: before and behind it others, or nothing. A free place has the next free one behind it.
#[derive(Clone, Copy, Debug)]
struct Node {
    key: PieceKey,
    before: usize,
    behind: usize,
}

#[derive(Debug)]
pub struct Order {
    nodes: Vec<Node>,
    first: usize,
    last: usize,
    free: usize,
}

impl Default for Order {
    fn default() -> Order {
        Order { nodes: Vec::new(), first: NONE, last: NONE, free: NONE }
    }
}

impl Order {
    /// Puts a key at the end. Its place is what the others below ask for.
    pub fn push(&mut self, key: PieceKey) -> usize {
        let node = Node { key, before: NONE, behind: NONE };
        let place = match self.free {
            NONE => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
            free => {
                self.free = self.nodes[free].behind;
                self.nodes[free] = node;
                free
            }
        };
        self.link(place);
        place
    }

    pub fn remove(&mut self, place: usize) {
        self.unlink(place);
        self.nodes[place].behind = self.free;
        self.free = place;
    }

    pub fn move_to_end(&mut self, place: usize) {
        if self.last != place {
            self.unlink(place);
            self.link(place);
        }
    }

    pub fn first(&self) -> Option<PieceKey> {
        self.nodes.get(self.first).map(|node| node.key)
    }

    pub fn has_several(&self) -> bool {
        self.first != self.last
    }

    fn link(&mut self, place: usize) {
        (self.nodes[place].before, self.nodes[place].behind) = (self.last, NONE);
        match self.last {
            NONE => self.first = place,
            last => self.nodes[last].behind = place,
        }
        self.last = place;
    }

    fn unlink(&mut self, place: usize) {
        let Node { before, behind, .. } = self.nodes[place];
        match before {
            NONE => self.first = behind,
            before => self.nodes[before].behind = behind,
        }
        match behind {
            NONE => self.last = before,
            behind => self.nodes[behind].before = before,
        }
    }

    #[cfg(test)]
    pub fn keys(&self) -> impl Iterator<Item = (usize, PieceKey)> + '_ {
        let mut place = self.first;
        std::iter::from_fn(move || {
            let node = self.nodes.get(place)?;
            let found = (place, node.key);
            place = node.behind;
            Some(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::names::FileKind;
    use crate::storage::types::LogId;
    use proptest::prelude::*;

    fn key(start: u32) -> PieceKey {
        PieceKey { log: LogId { slot: 0, generation: 0 }, segment: 0, kind: FileKind::Log, start }
    }

    proptest! {
        /// As a plain vector would have it; and no longer than it ever had to be.
        #[test]
        fn it_keeps_the_order(steps in proptest::collection::vec((0..4_u8, 0..64_usize), 0..300)) {
            let mut order = Order::default();
            let mut model: Vec<(usize, PieceKey)> = Vec::new();
            let mut longest = 0;
            for (at, (step, which)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        let key = key(at as u32);
                        model.push((order.push(key), key));
                    }
                    _ if model.is_empty() => {}
                    2 => {
                        let (place, _) = model.remove(which % model.len());
                        order.remove(place);
                    }
                    _ => {
                        let entry = model.remove(which % model.len());
                        order.move_to_end(entry.0);
                        model.push(entry);
                    }
                }
                longest = longest.max(model.len());
                prop_assert_eq!(order.keys().collect::<Vec<_>>(), &model[..]);
                prop_assert_eq!(order.first(), model.first().map(|entry| entry.1));
                prop_assert_eq!(order.has_several(), model.len() > 1);
            }
            prop_assert_eq!(order.nodes.len(), longest);
        }
    }
}
