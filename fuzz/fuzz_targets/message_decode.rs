//! Any message: answers, which the load generator and the tools read, and records kept in logs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlog::protocol::{Message, messages};

type RoundTrip = fn(&[u8], i16) -> Option<Vec<u8>>;

macro_rules! all {
    ($($kind:ident $module:ident $name:ident,)*) => {
        const ALL: &[RoundTrip] = &[$(|bytes, version| {
            messages::$module::$name::decode_exact(bytes, version).ok().map(|m| m.to_bytes(version))
        },)*];
    };
}

ringlog::each_message!(all);

fuzz_target!(|input: &[u8]| {
    let [message, version, bytes @ ..] = input else { return };
    let Some(round_trip) = ALL.get(usize::from(*message)) else { return };
    let version = i16::from(*version);
    if let Some(once) = round_trip(bytes, version) {
        assert_eq!(round_trip(&once, version).as_ref(), Some(&once));
    }
});
