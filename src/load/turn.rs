//! What a worker hands to whatever acts in its turn: the time, and where to write things down.

use super::cluster::Shared;
use super::recorder::Recorder;

/// See the module.
pub struct Turn<'t> {
    pub now_ns: u64,
    pub wall_ms: i64,
    pub recorder: &'t mut Recorder,
    pub shared: &'t Shared,
}
