//! (to be written)

pub mod group; // the group coordinator: classic groups and committed offsets
