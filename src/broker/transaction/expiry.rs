//! What ends by time: open transactions, ids nobody uses, waits.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::appends::{Asked, Then};
use super::coordinator::TransactionCoordinator;
use super::metadata::State;
use super::records::BatchWriter;
use super::*;
use crate::protocol::ErrorCode;

/// Timers carried out in one call; the rest is due at once again.
const TIMERS_A_CALL: usize = 10_000;
/// Ids looked at, and at most forgotten, in one go.
const IDS_A_STEP: usize = 500;

/// What a deadline is for; scheduling it again replaces the older one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// Transactions that ran out of time are looked for.
    AbortTimedOut,
    /// Markers that could not be written are tried again.
    Mark { partition: i32, id: Arc<str> },
    /// An append has waited long enough.
    Waiting { partition: i32, id: Arc<str> },
    /// Ids nobody uses are looked for, behind this one.
    Expire { partition: i32, after: Option<Arc<str>> },
}

#[derive(Debug, Default)]
pub struct Timers {
    queue: BTreeMap<(i64, u64), Timer>,
    // Only looked up, never walked over.
    places: HashMap<Timer, (i64, u64)>,
    /// Open transactions by the end of their time.
    transactions: BTreeMap<(i64, i32, Arc<str>), ()>,
    next: u64,
}

impl Timers {
    pub fn schedule(&mut self, timer: Timer, deadline_ms: i64) {
        let place = (deadline_ms, self.next);
        self.next += 1;
        if let Some(old) = self.places.insert(timer.clone(), place) {
            self.queue.remove(&old);
        }
        self.queue.insert(place, timer);
    }

    pub fn cancel(&mut self, timer: &Timer) {
        if let Some(place) = self.places.remove(timer) {
            self.queue.remove(&place);
        }
    }

    pub fn cancel_partition(&mut self, partition: i32) {
        self.queue.retain(|_, timer| timer.partition() != Some(partition));
        self.places.retain(|timer, _| timer.partition() != Some(partition));
        self.transactions.retain(|(_, of, _), ()| *of != partition);
    }

    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.queue.first_key_value().map(|((deadline_ms, _), _)| *deadline_ms)
    }

    /// Takes the next that is due and was scheduled before `mark`, so that one that schedules itself cannot hold the caller.
    fn pop_due(&mut self, now_ms: i64, mark: u64) -> Option<Timer> {
        let (place, _) = self.queue.range(..=(now_ms, u64::MAX)).find(|((_, number), _)| *number < mark)?;
        let place = *place;
        let timer = self.queue.remove(&place)?;
        self.places.remove(&timer);
        Some(timer)
    }

    /// The open transactions whose time is over, in order.
    fn timed_out(&self, now_ms: i64) -> Vec<(i32, Arc<str>)> {
        let over = self.transactions.keys().take_while(|(deadline_ms, ..)| *deadline_ms < now_ms);
        over.map(|(_, partition, id)| (*partition, id.clone())).collect()
    }
}

impl Timer {
    fn partition(&self) -> Option<i32> {
        match self {
            Timer::AbortTimedOut => None,
            Timer::Mark { partition, .. }
            | Timer::Waiting { partition, .. }
            | Timer::Expire { partition, .. } => Some(*partition),
        }
    }
}

impl TransactionCoordinator {
    /// Carries out what is due.
    pub fn on_timer(&mut self, now: Now, surroundings: &mut dyn Surroundings, out: &mut Vec<Effect>) {
        let mark = self.timers.next;
        for _ in 0..TIMERS_A_CALL {
            let Some(timer) = self.timers.pop_due(now.monotonic_ms, mark) else { return };
            match timer {
                Timer::AbortTimedOut => self.abort_timed_out(now, surroundings, out),
                Timer::Mark { partition, id } => self.mark(now, partition, &id, out),
                Timer::Waiting { partition, id } => self.stop_waiting(now, partition, &id, out),
                Timer::Expire { partition, after } => self.expire(now, partition, after, out),
            }
        }
    }

    /// A transaction has begun, or is found open after a restart: its time runs. By the wall clock as far as it is the past, as there is no
    /// other; never for longer than its timeout.
    pub(super) fn start_timeout(&mut self, now: Now, partition: i32, id: &Arc<str>) {
        let Some(transaction) = self.transaction(partition, id) else { return };
        if transaction.metadata.is_two_phase() {
            return;
        }
        let timeout_ms = i64::from(transaction.metadata.timeout_ms.max(0));
        let passed_ms = now.wall_ms.saturating_sub(transaction.metadata.start_timestamp_ms);
        let left_ms = timeout_ms - passed_ms.clamp(0, timeout_ms);
        let deadline_ms = now.monotonic_ms.saturating_add(left_ms);
        transaction.times_out_ms = Some(deadline_ms);
        self.timers.transactions.insert((deadline_ms, partition, id.clone()), ());
    }

    pub(super) fn stop_timeout(&mut self, partition: i32, id: &Arc<str>) {
        let deadline_ms =
            self.transaction(partition, id).and_then(|transaction| transaction.times_out_ms.take());
        if let Some(deadline_ms) = deadline_ms {
            self.timers.transactions.remove(&(deadline_ms, partition, id.clone()));
        }
    }

    fn abort_timed_out(&mut self, now: Now, surroundings: &mut dyn Surroundings, out: &mut Vec<Effect>) {
        for (partition, id) in self.timers.timed_out(now.monotonic_ms) {
            let Some(transaction) = self.transaction(partition, &id) else { continue };
            if transaction.pending.is_some() || transaction.metadata.state != State::Ongoing {
                // Decided by somebody else, or looked at again next time.
                continue;
            }
            info!(id = &*id, "a transaction took too long and is aborted");
            if let Err(error) = self.fence(now, partition, &id, Asked::Nobody, surroundings, out) {
                warn!(id = &*id, %error, "it cannot be aborted yet");
            }
        }
        let deadline_ms = now.monotonic_ms.saturating_add(self.config.abort_interval_ms.max(1));
        self.timers.schedule(Timer::AbortTimedOut, deadline_ms);
    }

    /// Forgets ids that nothing has happened to for long, some at a time.
    fn expire(&mut self, now: Now, index: i32, after: Option<Arc<str>>, out: &mut Vec<Effect>) {
        let expiration_ms = self.config.id_expiration_ms;
        let Some(partition) = self.partitions.get_mut(&index) else { return };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let mut expired = Vec::new();
        let mut batch = BatchWriter::new(now.wall_ms);
        for (id, transaction) in partition.transactions.range_mut((from, Bound::Unbounded)).take(IDS_A_STEP) {
            last = Some(id.clone());
            let idle_ms = now.monotonic_ms.saturating_sub(transaction.idle_since_ms);
            let unused = transaction.metadata.state.may_expire() && transaction.pending.is_none();
            if unused && idle_ms >= expiration_ms {
                transaction.pending = Some(State::Dead);
                batch.delete(id);
                expired.push(id.clone());
            }
        }
        let rest = last.filter(|last| {
            let rest = (Bound::Excluded(last.clone()), Bound::Unbounded);
            partition.transactions.range(rest).next().is_some()
        });
        let delay_ms = if rest.is_some() { 1 } else { self.config.expiration_interval_ms.max(1) };
        let deadline_ms = now.monotonic_ms.saturating_add(delay_ms);
        self.timers.schedule(Timer::Expire { partition: index, after: rest }, deadline_ms);
        if !expired.is_empty() {
            info!(partition = index, ids = expired.len(), "transactional ids expire");
            self.append_batch(index, batch, false, Then::Expired { ids: expired }, out);
        }
    }

    /// The deletion of ids is in the log, or not.
    pub(super) fn expired(
        &mut self,
        now: Now,
        partition: i32,
        ids: Vec<Arc<str>>,
        result: Result<(), ErrorCode>,
        out: &mut Vec<Effect>,
    ) {
        for id in ids {
            if result.is_err() {
                debug!(id = &*id, "an id that should expire stays");
                self.abandon(partition, &id);
                self.admit_waiting(now, partition, &id, out);
                continue;
            }
            let waiting = self.transaction(partition, &id).map(|of| std::mem::take(&mut of.waiting));
            for wish in waiting.into_iter().flatten() {
                let result = Err(ErrorCode::InvalidProducerIdMapping);
                out.push(Effect::Admitted { to: wish.to, result });
            }
            self.timers.cancel(&Timer::Waiting { partition, id: id.clone() });
            self.remove(partition, &id);
        }
    }
}
