//! The ops in flight of one driver, by [`Key`]: a place and its generation, which travel through the kernel as `user_data`,
//! or with a job. Safe code: that a completion finds the op it belongs to, and only that one, rests here.

use super::Token;

/// Names an op in flight. Bit 63 stays clear: it marks the ring's own entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub u64);

const GENERATION_MASK: u32 = u32::MAX >> 1;

impl Key {
    fn new(index: u32, generation: u32) -> Key {
        Key(u64::from(generation) << 32 | u64::from(index))
    }

    fn index(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

pub(super) struct Flights<T> {
    places: Vec<Place<T>>,
    /// The token of each place, apart from the rest so that a search for one reads little memory.
    tokens: Vec<u64>,
    free: Vec<u32>,
}

struct Place<T> {
    generation: u32,
    flight: Option<T>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Flights { places: Vec::new(), tokens: Vec::new(), free: Vec::new() }
    }
}

impl<T> Flights<T> {
    pub fn insert(&mut self, token: Token, flight: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, flight: None });
            self.tokens.push(0);
            u32::try_from(self.places.len() - 1).expect("fewer than 2^32 ops in flight")
        });
        let place = &mut self.places[index as usize];
        place.flight = Some(flight);
        self.tokens[index as usize] = token.0;
        Key::new(index, place.generation)
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        let place = self.places.get(key.index())?;
        place.flight.as_ref().filter(|_| place.generation == key.generation())
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.places.get_mut(key.index())?;
        place.flight.as_mut().filter(|_| place.generation == key.generation())
    }

    pub fn token(&self, key: Key) -> Token {
        Token(self.tokens[key.index()])
    }

    pub fn remove(&mut self, key: Key) -> Option<(Token, T)> {
        self.get(key)?;
        let place = &mut self.places[key.index()];
        let flight = place.flight.take()?;
        place.generation = (place.generation + 1) & GENERATION_MASK;
        self.free.push(key.index() as u32);
        Some((Token(self.tokens[key.index()]), flight))
    }

    /// The op in flight with this token, if any that `wanted` accepts.
    pub fn find(&self, token: Token, wanted: impl Fn(&T) -> bool) -> Option<Key> {
        self.tokens.iter().enumerate().filter(|&(_, &held)| held == token.0).find_map(|(index, _)| {
            let place = &self.places[index];
            place.flight.as_ref().filter(|flight| wanted(flight))?;
            Some(Key::new(index as u32, place.generation))
        })
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|place| place.flight.as_mut())
    }

    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_completion_does_not_find_the_next_op_in_its_place() {
        let mut flights = Flights::default();
        let first = flights.insert(Token(1), "first");
        assert_eq!(flights.remove(first), Some((Token(1), "first")));
        let second = flights.insert(Token(2), "second");
        assert_eq!(first.index(), second.index());
        assert_eq!(flights.get(first), None);
        assert_eq!(flights.remove(first), None);
        assert_eq!((flights.get(second), flights.token(second)), (Some(&"second"), Token(2)));
        assert_eq!(flights.len(), 1);
    }

    #[test]
    fn a_token_finds_its_op_only_while_it_flies() {
        let mut flights = Flights::default();
        let a = flights.insert(Token(5), 'a');
        let b = flights.insert(Token(5), 'b');
        assert_eq!(flights.find(Token(5), |&flight| flight == 'b'), Some(b));
        flights.remove(b);
        assert_eq!(flights.find(Token(5), |&flight| flight == 'b'), None);
        assert_eq!(flights.find(Token(5), |_| true), Some(a));
        assert_eq!(flights.find(Token(0), |_| true), None);
    }

    #[test]
    fn keys_keep_the_top_bit_clear() {
        let mut flights = Flights::default();
        flights.insert(Token(0), ());
        flights.places[0].generation = GENERATION_MASK;
        let key = Key::new(0, GENERATION_MASK);
        assert_eq!(key.0 >> 63, 0);
        assert!(flights.remove(key).is_some());
        assert_eq!(flights.insert(Token(0), ()), Key::new(0, 0));
    }
}
