//! A request frame behind its length, as a connection hands it over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlog::protocol::{ApiKey, Message, Reader, Request, RequestHeader, messages};

fn check<'a, R: Request<'a>>(bytes: &'a [u8], version: i16) -> Option<Vec<u8>> {
    R::decode_exact(bytes, version).ok().map(|request| request.to_bytes(version))
}

macro_rules! requests {
    (@ $key:ident $body:ident $version:ident request $module:ident $name:ident) => {
        if <messages::$module::$name as Request>::API_KEY == $key {
            if let Some(once) = check::<messages::$module::$name>($body, $version) {
                let twice = messages::$module::$name::decode_exact(&once, $version).map(|m| m.to_bytes($version));
                assert_eq!(twice.as_ref(), Ok(&once));
            }
        }
    };
    (@ $key:ident $body:ident $version:ident $other:ident $module:ident $name:ident) => {};
    ($($kind:ident $module:ident $name:ident,)*) => {
        fn dispatch(key: ApiKey, body: &[u8], version: i16) {
            $(requests!(@ key body version $kind $module $name);)*
        }
    };
}

ringlog::each_message!(requests);

fuzz_target!(|frame: &[u8]| {
    let mut reader = Reader::new(frame);
    if let Ok(header) = RequestHeader::decode(&mut reader) {
        dispatch(header.api_key, reader.rest(), header.version);
    }
});
