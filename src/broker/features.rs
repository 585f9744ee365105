//! The features whose levels clients act on: what is supported, and what is finalized in the cluster's image.
//!
//! Called by ApiVersions, which shows them, UpdateFeatures, which changes them, and by who behaves differently by a level.
//!
//! An image that names no `metadata.version` has never had a level changed, and everything is at its newest. From the first
//! change on, as in what a Kafka left, the image names all levels, and what it does not name is off.

use super::transaction::TRANSACTION_VERSION;
use crate::metadata::ClusterImage;

/// The level of Kafka 4.3, the only one there is: no metadata of another form can be read or written.
const METADATA_VERSION: i16 = 30;
const METADATA: &str = "metadata.version";
pub const GROUP: &str = "group.version";
const TRANSACTION: &str = "transaction.version";

/// A feature and its supported levels; 0 is off.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    pub name: &'static str,
    pub min: i16,
    pub max: i16,
}

pub const FEATURES: &[Feature] = &[
    Feature { name: GROUP, min: 0, max: 1 },
    Feature { name: METADATA, min: METADATA_VERSION, max: METADATA_VERSION },
    Feature { name: TRANSACTION, min: 0, max: TRANSACTION_VERSION },
];

pub fn find(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}

/// Whether the image names all levels.
pub fn is_explicit(image: &ClusterImage) -> bool {
    image.features.contains_key(METADATA)
}

impl Feature {
    /// The finalized level.
    pub fn level(&self, image: &ClusterImage) -> i16 {
        match is_explicit(image) {
            true => image.features.get(self.name).copied().unwrap_or(0).clamp(self.min, self.max),
            false => self.max,
        }
    }
}

/// Whether consumer groups are on.
pub fn has_consumer_groups(image: &ClusterImage) -> bool {
    find(GROUP).is_some_and(|feature| feature.level(image) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        let mut image = ClusterImage::empty("c", 1);
        let level = |image: &ClusterImage, name| find(name).expect("a feature").level(image);
        assert_eq!((level(&image, GROUP), level(&image, TRANSACTION), level(&image, METADATA)), (1, 2, 30));
        image.features.insert(METADATA.to_owned(), 17);
        image.features.insert(TRANSACTION.to_owned(), 9);
        assert_eq!((level(&image, GROUP), level(&image, TRANSACTION), level(&image, METADATA)), (0, 2, 30));
        assert!(!has_consumer_groups(&image) && find("share.version").is_none());
    }
}
