//! An array of a message: a view of received bytes, a vector of our own, or elements lent by whoever writes the message.

use std::fmt;

use super::reader::{Reader, Result};
use super::writer::Writer;

/// What an array may hold: the generated structs, numbers, strings, bytes and UUIDs.
pub trait Element<'a>: Clone {
    /// The bytes of an element where all have the same number; else 0.
    const FIXED_SIZE: usize = 0;

    fn read(reader: &mut Reader<'a>, field: &'static str, version: i16, flexible: bool) -> Result<Self>;

    fn write(&self, writer: &mut Writer, version: i16, flexible: bool);
}

/// Elements are decoded while one goes over the array, with no allocation; a view has been checked when it was made, so
/// that cannot fail. A view may hold up to `MAX_ARRAY_ELEMENTS`: whoever collects it into a larger type sets a limit first.
#[derive(Clone)]
pub struct Array<'a, T>(Source<'a, T>);

#[derive(Clone)]
enum Source<'a, T> {
    Wire { bytes: &'a [u8], count: usize, version: i16, flexible: bool },
    Owned(Vec<T>),
    Lent(&'a [T]),
}

impl<'a, T> Array<'a, T> {
    /// Elements in memory that the caller keeps.
    pub fn lent(elements: &'a [T]) -> Self {
        Array(Source::Lent(elements))
    }
}

impl<'a, T: Element<'a>> Array<'a, T> {
    /// The caller has decoded exactly these elements from exactly these bytes.
    pub(super) fn wire(bytes: &'a [u8], count: usize, version: i16, flexible: bool) -> Self {
        Array(Source::Wire { bytes, count, version, flexible })
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            Source::Wire { count, .. } => *count,
            Source::Owned(elements) => elements.len(),
            Source::Lent(elements) => elements.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Yields the elements by value; an owned or lent one is cloned.
    pub fn iter(&self) -> Iter<'_, 'a, T> {
        Iter(match &self.0 {
            Source::Wire { bytes, count, version, flexible } => {
                Elements::Wire(Reader::new(bytes), *count, *version, *flexible)
            }
            Source::Owned(elements) => Elements::Owned(elements.iter()),
            Source::Lent(elements) => Elements::Owned(elements.iter()),
        })
    }

    pub fn first(&self) -> Option<T> {
        self.iter().next()
    }

    pub fn to_vec(&self) -> Vec<T> {
        self.iter().collect()
    }

    /// Adds an element; a view is decoded, what is lent copied into a vector first.
    pub fn push(&mut self, element: T) {
        if !matches!(self.0, Source::Owned(_)) {
            self.0 = Source::Owned(self.to_vec());
        }
        if let Source::Owned(elements) = &mut self.0 {
            elements.push(element);
        }
    }

    /// The elements without the count in front.
    pub(super) fn write_elements(&self, writer: &mut Writer, version: i16, flexible: bool) {
        match &self.0 {
            Source::Wire { .. } => self.iter().for_each(|element| element.write(writer, version, flexible)),
            Source::Owned(elements) => {
                elements.iter().for_each(|element| element.write(writer, version, flexible));
            }
            Source::Lent(elements) => {
                elements.iter().for_each(|element| element.write(writer, version, flexible));
            }
        }
    }
}

/// See [`Array::iter`].
pub struct Iter<'s, 'a, T>(Elements<'a, std::slice::Iter<'s, T>>);

/// See [`Array::into_iter`].
pub struct IntoIter<'a, T>(Elements<'a, std::vec::IntoIter<T>>);

enum Elements<'a, I> {
    Wire(Reader<'a>, usize, i16, bool),
    Owned(I),
}

impl<'a, I> Elements<'a, I> {
    #[inline]
    fn advance<T: Element<'a>>(&mut self, owned: impl FnOnce(&mut I) -> Option<T>) -> Option<T> {
        match self {
            Elements::Wire(reader, left, version, flexible) => {
                *left = left.checked_sub(1)?;
                let element = T::read(reader, "element", *version, *flexible);
                debug_assert!(element.is_ok(), "a view is checked when it is made: {:?}", element.err());
                element.ok()
            }
            Elements::Owned(elements) => owned(elements),
        }
    }
}

impl<'a, I: ExactSizeIterator> Elements<'a, I> {
    fn left(&self) -> usize {
        match self {
            Elements::Wire(_, left, ..) => *left,
            Elements::Owned(elements) => elements.len(),
        }
    }
}

impl<'a, T: Element<'a>> Iterator for Iter<'_, 'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.advance(|elements| elements.next().cloned())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.left(), Some(self.0.left()))
    }
}

impl<'a, T: Element<'a>> Iterator for IntoIter<'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.advance(Iterator::next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.left(), Some(self.0.left()))
    }
}

impl<'a, T: Element<'a>> ExactSizeIterator for Iter<'_, 'a, T> {}
impl<'a, T: Element<'a>> ExactSizeIterator for IntoIter<'a, T> {}

impl<'a, T: Element<'a>> IntoIterator for Array<'a, T> {
    type Item = T;
    type IntoIter = IntoIter<'a, T>;

    fn into_iter(self) -> IntoIter<'a, T> {
        IntoIter(match self.0 {
            Source::Wire { bytes, count, version, flexible } => {
                Elements::Wire(Reader::new(bytes), count, version, flexible)
            }
            Source::Owned(elements) => Elements::Owned(elements.into_iter()),
            #[allow(clippy::unnecessary_to_owned)] // the iterator is that of a vector
            Source::Lent(elements) => Elements::Owned(elements.to_vec().into_iter()),
        })
    }
}

impl<'s, 'a, T: Element<'a>> IntoIterator for &'s Array<'a, T> {
    type Item = T;
    type IntoIter = Iter<'s, 'a, T>;

    fn into_iter(self) -> Iter<'s, 'a, T> {
        self.iter()
    }
}

impl<T> Default for Array<'_, T> {
    fn default() -> Self {
        Array(Source::Owned(Vec::new()))
    }
}

impl<T> From<Vec<T>> for Array<'_, T> {
    fn from(elements: Vec<T>) -> Self {
        Array(Source::Owned(elements))
    }
}

impl<T, const N: usize> From<[T; N]> for Array<'_, T> {
    fn from(elements: [T; N]) -> Self {
        Array(Source::Owned(elements.into()))
    }
}

impl<T> FromIterator<T> for Array<'_, T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Array(Source::Owned(elements.into_iter().collect()))
    }
}

impl<'a, T: Element<'a> + PartialEq> PartialEq for Array<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: Element<'a> + fmt::Debug> fmt::Debug for Array<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn wire(words: &[&str]) -> Vec<u8> {
        let mut writer = Writer::new();
        let owned: Array<Cow<str>> = words.iter().map(|word| Cow::Borrowed(*word)).collect();
        writer.put_array(&owned, 0, true);
        writer.buf
    }

    #[test]
    fn a_view_is_like_a_vector() {
        let bytes = wire(&["a", "bc", ""]);
        let view: Array<Cow<str>> = Reader::new(&bytes).array("words", 0, true).unwrap();
        let owned = Array::from(["a", "bc", ""].map(Cow::Borrowed));
        assert_eq!(view, owned);
        assert_eq!((view.len(), view.is_empty(), view.iter().len()), (3, false, 3));
        assert_eq!(view.first().as_deref(), Some("a"));
        assert_eq!(view.to_vec(), owned.to_vec());
        assert_eq!(
            view.clone().into_iter().collect::<Vec<_>>(),
            owned.clone().into_iter().collect::<Vec<_>>()
        );
        assert_eq!(format!("{view:?}"), r#"["a", "bc", ""]"#);
        assert_ne!(view, Array::from(["a", "bc"].map(Cow::Borrowed)));
        assert_ne!(view, Array::default());
    }

    #[test]
    fn a_view_can_be_added_to_and_written_otherwise() {
        let bytes = wire(&["a"]);
        let mut view: Array<Cow<str>> = Reader::new(&bytes).array("words", 0, true).unwrap();
        view.push("b".into());
        let mut writer = Writer::new();
        writer.put_array(&view, 0, false);
        assert_eq!(writer.buf, b"\0\0\0\x02\0\x01a\0\x01b");
    }
}
