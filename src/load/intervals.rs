//! Sets of sequence numbers as ranges: a run of a billion records that went well is one range.

/// Sorted, disjoint, not touching half-open ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    ranges: Vec<(u64, u64)>,
}

impl Intervals {
    /// The range `start..end`.
    pub fn of(start: u64, end: u64) -> Intervals {
        let mut set = Intervals::default();
        set.insert(start, end);
        set
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Adds `start..end`, which may overlap what is there.
    pub fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // Nearly always it follows the last one.
        if let Some(last) = self.ranges.last_mut()
            && last.1 == start
        {
            last.1 = end;
            return;
        }
        let from = self.ranges.partition_point(|range| range.1 < start);
        let to = self.ranges.partition_point(|range| range.0 <= end);
        let merged = match self.ranges.get(from..to) {
            Some([first, .., last]) => (start.min(first.0), end.max(last.1)),
            Some([only]) => (start.min(only.0), end.max(only.1)),
            _ => (start, end),
        };
        self.ranges.splice(from..to, [merged]);
    }

    /// Takes one number out; whether it was there.
    pub fn remove(&mut self, number: u64) -> bool {
        let at = self.ranges.partition_point(|range| range.1 <= number);
        let Some(&(start, end)) = self.ranges.get(at).filter(|range| range.0 <= number) else {
            return false;
        };
        let parts = [(start, number), (number + 1, end)];
        self.ranges.splice(at..=at, parts.into_iter().filter(|(start, end)| start < end));
        true
    }

    /// What is in both.
    pub fn intersection(&self, other: &Intervals) -> Intervals {
        let (mut a, mut b) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut out = Intervals::default();
        while let (Some(&&x), Some(&&y)) = (a.peek(), b.peek()) {
            out.insert(x.0.max(y.0), x.1.min(y.1));
            if x.1 < y.1 {
                a.next();
            } else {
                b.next();
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(numbers: &Intervals) -> BTreeSet<u64> {
        numbers.ranges().iter().flat_map(|&(start, end)| start..end).collect()
    }

    proptest! {
        #[test]
        fn is_a_set_of_numbers(steps in prop::collection::vec((0u64..60, 0u64..12, any::<bool>()), 0..60)) {
            let (mut ranges, mut model) = (Intervals::default(), BTreeSet::new());
            for (start, len, insert) in steps {
                if insert {
                    ranges.insert(start, start + len);
                    model.extend(start..start + len);
                } else {
                    prop_assert_eq!(ranges.remove(start), model.remove(&start));
                }
                prop_assert_eq!(&set(&ranges), &model);
                prop_assert_eq!(ranges.count(), model.len() as u64);
                prop_assert!(ranges.ranges().windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
            let other = Intervals::of(20, 40);
            let both: BTreeSet<u64> = model.intersection(&set(&other)).copied().collect();
            prop_assert_eq!(set(&ranges.intersection(&other)), both);
        }
    }
}
