//! What one call hands down to the groups of a partition: the time, the settings, and where timers, appends and answers go.

use crate::protocol::{ErrorCode, Message, Uuid};

use super::appends::{Appends, Pending, Then};
use super::entry::Group;
use super::member::Waiting;
use super::records::BatchWriter;
use super::timers::Timers;
use super::{AppendId, Effect, GroupConfig, Now};

/// What all groups of the coordinator hold together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub groups: usize,
    pub bytes: usize,
}

/// Member ids: a sequence of UUIDs nobody can guess the seed of.
#[derive(Debug)]
pub struct MemberIds {
    seed: u128,
    drawn: u64,
}

impl MemberIds {
    pub fn new(seed: u128) -> Self {
        MemberIds { seed, drawn: 0 }
    }

    fn bits(&mut self) -> u128 {
        self.drawn += 1;
        let (high, low) = ((self.seed >> 64) as u64, self.seed as u64);
        let first = mix(high ^ mix(low ^ self.drawn));
        let second = mix(low ^ mix(first ^ high ^ self.drawn));
        u128::from(first) << 64 | u128::from(second)
    }

    /// As the newer protocol has them: Kafka's own text of a UUID.
    pub fn draw_bare(&mut self) -> String {
        loop {
            if let Some(id) = Uuid::from_random(self.bits().to_be_bytes()) {
                return id.to_string();
            }
        }
    }

    /// The prefix, a dash, and a version-4 UUID.
    pub fn draw(&mut self, prefix: &str) -> String {
        // Room for the UUID in a string of Kafka's.
        const PREFIX_BYTES_MAX: usize = 32_000;
        let bits = self.bits();
        let bits = bits & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
        let prefix = &prefix[..prefix.floor_char_boundary(PREFIX_BYTES_MAX)];
        let part = |shift: u32, digits: u32| bits >> shift & ((1 << (digits * 4)) - 1);
        let (a, b, c, d, e) = (part(96, 8), part(80, 4), part(64, 4), part(48, 4), part(0, 12));
        format!("{prefix}-{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

/// The finalizer of SplitMix64: every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

pub struct Turn<'t> {
    pub now: Now,
    /// Of the offsets topic; the groups at hand are its groups.
    pub partition: i32,
    pub config: &'t GroupConfig,
    pub timers: &'t mut Timers,
    pub appends: &'t mut Appends,
    pub member_ids: &'t mut MemberIds,
    pub usage: &'t mut Usage,
    pub out: &'t mut Vec<Effect>,
}

impl Turn<'_> {
    pub fn reply<'m>(&mut self, waiting: Waiting, message: &impl Message<'m>) {
        self.out.push(Effect::Reply { to: waiting.to, body: message.to_bytes(waiting.version) });
    }

    /// Hands a batch to the log; refused at once if the log would not take it,
    /// and what was to follow is handed back.
    pub fn append(&mut self, batch: BatchWriter, pending: Pending) -> Result<AppendId, (ErrorCode, Then)> {
        if batch.size() > self.config.batch_bytes_max {
            return Err((ErrorCode::RecordListTooLarge, pending.then));
        }
        let Some(bytes) = batch.finish() else { return Err((ErrorCode::UnknownServerError, pending.then)) };
        let append = self.appends.begin(pending);
        let (partition, durable) = (self.partition, self.config.durable);
        self.out.push(Effect::Append { partition, append, batch: bytes, durable });
        Ok(append)
    }

    /// Brings a group's share of the sum up to date; called at the end of whatever may have changed it.
    pub fn account(&mut self, group: &mut Group) {
        let bytes = group.bytes();
        self.usage.bytes = self.usage.bytes - group.accounted + bytes;
        group.accounted = bytes;
    }

    /// Whether this many more bytes may be held.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.usage.bytes.saturating_add(bytes) <= self.config.limits.bytes_max
    }

    pub fn deadline(&self, timeout_ms: i32) -> i64 {
        self.now.monotonic_ms.saturating_add(i64::from(timeout_ms.max(0)))
    }
}
