//! Open files and sockets of one driver, by [`Handle`]. A handle names a place and its generation, so one that outlived
//! its file is refused instead of reaching the file that took its place. `F` is what the driver keeps of a file.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::Handle;

const INDEX_BITS: u32 = 20;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: u32 = (1 << (32 - INDEX_BITS)) - 1;

pub(super) struct Handles<F = OwnedFd> {
    places: Vec<Place<F>>,
    free: Vec<u32>,
}

struct Place<F> {
    generation: u32,
    open: Option<Open<F>>,
}

pub(super) struct Open<F> {
    pub file: F,
    /// Ops in flight on it.
    pub ops: u32,
    /// What is written to it goes to the system's cache.
    pub cached: bool,
}

impl<F: AsRawFd> Open<F> {
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl<F> Default for Handles<F> {
    fn default() -> Self {
        Handles { places: Vec::new(), free: Vec::new() }
    }
}

impl<F> Handles<F> {
    /// A handle for `file`, which comes back when there is no place left.
    pub fn insert(&mut self, file: F) -> Result<Handle, F> {
        let open = Open { file, ops: 0, cached: false };
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.places.len() > INDEX_MASK as usize => return Err(open.file),
            None => {
                self.places.push(Place { generation: 0, open: None });
                self.places.len() as u32 - 1
            }
        };
        let place = &mut self.places[index as usize];
        place.open = Some(open);
        Ok(Handle(place.generation << INDEX_BITS | index))
    }

    pub fn get(&self, handle: Handle) -> Option<&Open<F>> {
        let place = self.places.get((handle.0 & INDEX_MASK) as usize)?;
        place.open.as_ref().filter(|_| place.generation == handle.0 >> INDEX_BITS)
    }

    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut Open<F>> {
        let place = self.places.get_mut((handle.0 & INDEX_MASK) as usize)?;
        place.open.as_mut().filter(|_| place.generation == handle.0 >> INDEX_BITS)
    }

    /// Takes the file out; the handle is dead from here on. The place is reused with the next generation.
    pub fn remove(&mut self, handle: Handle) -> Option<(F, u32)> {
        self.get(handle)?;
        let index = handle.0 & INDEX_MASK;
        let place = &mut self.places[index as usize];
        let open = place.open.take()?;
        place.generation = (place.generation + 1) & GENERATION_MASK;
        self.free.push(index);
        Some((open.file, open.ops))
    }

    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_stale_handle_is_refused_after_its_place_is_reused() {
        let mut handles = Handles::default();
        let first = handles.insert(file()).unwrap();
        assert!(handles.get(first).is_some());
        assert!(handles.remove(first).is_some());
        assert!(handles.get(first).is_none() && handles.remove(first).is_none());
        let second = handles.insert(file()).unwrap();
        assert_ne!(first, second);
        assert!(handles.get(first).is_none() && handles.get_mut(first).is_none());
        assert!(handles.get(second).is_some());
        assert_eq!(handles.len(), 1);
    }

    #[test]
    fn generations_wrap() {
        let mut handles = Handles::default();
        let mut last = handles.insert(file()).unwrap();
        for _ in 0..GENERATION_MASK + 2 {
            handles.remove(last).unwrap();
            let next = handles.insert(file()).unwrap();
            assert_ne!(next, last);
            last = next;
        }
        assert_eq!(handles.places.len(), 1);
    }

    #[test]
    fn a_handle_never_issued_is_refused() {
        assert!(Handles::<OwnedFd>::default().get(Handle(7)).is_none());
    }
}
