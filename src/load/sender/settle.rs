//! What becomes of a batch: completions of its connection, its answer, its retry or its end.

use super::{FENCE_ID, RESOLUTION, Sender};
use crate::io::{Completion, Io};
use crate::load::batch::Batch;
use crate::load::lane::{Fence, Request};
use crate::load::link::{Event, Kind, Link};
use crate::load::options::Acks;
use crate::load::producer::Workshop;
use crate::load::recorder::{Recorder, Series};
use crate::load::sender::Acknowledged;
use crate::load::turn::Turn;
use crate::load::verify::Sent;
use crate::protocol::frame::decode_response;
use crate::protocol::messages::produce_request::ProduceRequest;
use crate::protocol::{ErrorCode, Reader};

impl Sender {
    /// Takes a completion of connection `number`.
    pub fn complete<I: Io>(
        &mut self,
        io: &mut I,
        number: usize,
        kind: Kind,
        completion: Completion,
        turn: &mut Turn<'_>,
    ) {
        let packed = self.settings.packed;
        let Some(lane) = self.lanes.get_mut(number) else { return };
        let mut event = lane.link.complete(io, kind, completion);
        match &mut event {
            Event::Sent(parts, ok) => {
                lane.sent(std::mem::take(parts), *ok, packed);
                self.after_send(number, turn);
            }
            Event::Received(bytes) => {
                if let Err(error) = self.received(number, bytes, turn) {
                    self.lanes[number].link.close(io, &error);
                }
            }
            Event::Nothing | Event::Opened | Event::Lost => {}
        }
        let lost = matches!(event, Event::Lost) || matches!(self.lanes[number].link.end(), Event::Lost);
        if lost {
            self.lost(number, turn);
        }
    }

    fn after_send(&mut self, number: usize, turn: &mut Turn<'_>) {
        if self.settings.acks == Acks::None {
            while let Some(request) = self.lanes[number].take_sent() {
                self.settle_unanswered(request, turn);
            }
            return;
        }
        while let Some((request, at_ns, answer)) = self.lanes[number].take_settled() {
            let now_ns = std::mem::replace(&mut turn.now_ns, at_ns);
            self.settle(request, &answer, turn);
            turn.now_ns = now_ns;
        }
    }

    fn received(&mut self, number: usize, bytes: &[u8], turn: &mut Turn<'_>) -> Result<(), String> {
        // The link is taken out so that its frames can be handled while it cuts them.
        let address = self.lanes[number].link.address;
        let mut link = std::mem::replace(&mut self.lanes[number].link, Link::new(0, address));
        let mut outcome = Ok(());
        let fed = link.feed(bytes, &mut |frame| {
            if outcome.is_ok() {
                outcome = self.answer(number, frame, turn);
            }
        });
        self.lanes[number].link = link;
        fed.and(outcome)
    }

    fn answer(&mut self, number: usize, frame: &[u8], turn: &mut Turn<'_>) -> Result<(), String> {
        let id = Reader::new(frame).i32("correlation_id").map_err(|error| error.to_string())?;
        let lane = &mut self.lanes[number];
        if lane.fence == Fence::Sent && id == FENCE_ID {
            lane.fence = Fence::Passed;
            return Ok(());
        }
        if !lane.is_next(id) {
            return lane.answered(id, turn.now_ns, frame);
        }
        let Some(request) = lane.in_flight.pop_front() else { return Ok(()) };
        self.settle(request, frame, turn);
        Ok(())
    }

    /// Hands each batch of an answered request its outcome.
    fn settle(&mut self, mut request: Request, frame: &[u8], turn: &mut Turn<'_>) {
        let decoded = decode_response::<ProduceRequest>(frame, self.shape.version);
        if let Ok((_, response)) = &decoded {
            for partition in response.responses.iter().flat_map(|topic| topic.partition_responses) {
                let index = partition.index as u32;
                let Some(place) = request.batches.iter().position(|batch| batch.partition == index) else {
                    continue;
                };
                let batch = request.batches.swap_remove(place);
                if let Some(message) = &partition.error_message {
                    self.last_error = Some(message.to_string());
                }
                let code =
                    ErrorCode::from_code(partition.error_code).unwrap_or(ErrorCode::UnknownServerError);
                self.outcome(request.producer, batch, code, partition.base_offset, turn);
            }
        } else if let Err(error) = decoded {
            self.last_error = Some(error.to_string());
        }
        // A batch without an answer, or with one that cannot be read.
        while let Some(batch) = request.batches.pop() {
            self.outcome(request.producer, batch, ErrorCode::NetworkException, -1, turn);
        }
        self.spare.push(request.batches);
    }

    fn outcome(&mut self, index: u32, batch: Batch, code: ErrorCode, base_offset: i64, turn: &mut Turn<'_>) {
        let Sender { producers, workshop, settings, delayed, ledger, run, .. } = self;
        let producer = &mut producers[index as usize];
        let number = producer.number;
        let queue = &mut producer.partitions[batch.partition as usize];
        queue.in_flight -= 1;
        let partition = batch.partition;
        if code.is_error() {
            *turn.recorder.counts.produce_errors.entry(code.code()).or_default() += 1;
        }
        let all_before_are_in = || {
            let first = batch.first_sequence;
            first == 0
                || queue.sent.acked.ranges().first().is_some_and(|&(from, to)| from == 0 && to >= first)
        };
        let again = match code {
            // The broker has it already, and does not say where.
            ErrorCode::None | ErrorCode::DuplicateSequenceNumber => {
                let offset = if code.is_error() { -1 } else { base_offset };
                if offset >= 0 {
                    turn.shared.acknowledged(partition, offset + i64::from(batch.count));
                    if let Some(ledger) = ledger {
                        ledger.push(Acknowledged {
                            run: *run,
                            producer: number,
                            partition,
                            first_sequence: batch.first_sequence,
                            count: batch.count,
                            base_offset: offset,
                        });
                    }
                }
                queue.sent.acknowledge(batch.first_sequence, batch.count, offset);
                record_ack(&batch, workshop, turn.now_ns, turn.recorder);
                workshop.recycle(batch);
                None
            }
            // An earlier one is to be sent again first. Otherwise the broker has lost what it acknowledged.
            ErrorCode::OutOfOrderSequenceNumber if settings.idempotent && !all_before_are_in() => Some(batch),
            code if code.is_retriable() => Some(batch),
            _ => {
                queue.dead = settings.idempotent;
                give_up(&mut queue.sent, batch, workshop, turn.recorder);
                None
            }
        };
        if let Some(batch) = again {
            if turn.now_ns.saturating_sub(batch.first_intended_ns) > settings.delivery_timeout_ns {
                queue.dead = settings.idempotent;
                give_up(&mut queue.sent, batch, workshop, turn.recorder);
            } else {
                turn.shared.want_refresh();
                queue.put_back(batch);
                queue.retry_at_ns = turn.now_ns + settings.retry_backoff_ns;
                delayed.push_back((queue.retry_at_ns, index, partition));
            }
        }
        // A retry may have waited for this one.
        if !queue.queued && !queue.must_wait(turn.now_ns) {
            let waits = queue.batches.front().is_some_and(|front| front.attempts > 0);
            if waits || (self.flushed && !queue.batches.is_empty()) {
                queue.queued = true;
                workshop.ripe.push((index, partition));
            }
        }
    }

    /// With acks=0 nothing more is known of a request than that it was sent.
    fn settle_unanswered(&mut self, mut request: Request, turn: &mut Turn<'_>) {
        for batch in request.batches.drain(..) {
            let queue = &mut self.producers[request.producer as usize].partitions[batch.partition as usize];
            queue.in_flight -= 1;
            turn.recorder.counts.last_ack_ns = turn.now_ns;
            queue.sent.unanswered.insert(batch.first_sequence, batch.end_sequence());
            turn.recorder.counts.unacknowledged += u64::from(batch.count);
            self.workshop.recycle(batch);
        }
        self.spare.push(request.batches);
    }

    /// A connection is gone: what was in flight is tried again.
    fn lost(&mut self, number: usize, turn: &mut Turn<'_>) {
        let lane = &mut self.lanes[number];
        turn.recorder.counts.connections_lost += u64::from(lane.link.was_open());
        lane.reopen_ns = turn.now_ns + self.settings.retry_backoff_ns;
        lane.fence = Fence::None;
        self.last_error = lane.link.error.take().or(self.last_error.take());
        turn.shared.want_refresh();
        for (mut request, _) in self.lanes[number].take_all(self.settings.packed) {
            if self.settings.acks == Acks::None {
                self.settle_unanswered(request, turn);
                continue;
            }
            for batch in request.batches.drain(..) {
                let code = ErrorCode::NetworkException;
                self.outcome(request.producer, batch, code, -1, turn);
            }
        }
    }

    /// Gives up batches that have waited too long for a connection or a leader. Called once a second.
    pub fn expire(&mut self, turn: &mut Turn<'_>) {
        let timeout = self.settings.delivery_timeout_ns;
        for producer in &mut self.producers {
            for queue in &mut producer.partitions {
                while let Some(front) = queue.batches.front() {
                    if queue.in_flight > 0 || turn.now_ns.saturating_sub(front.first_intended_ns) <= timeout {
                        break;
                    }
                    let Some(batch) = queue.batches.pop_front() else { break };
                    queue.dead |= self.settings.idempotent;
                    give_up(&mut queue.sent, batch, &mut self.workshop, turn.recorder);
                }
            }
        }
    }
}

/// A batch that will not be acknowledged any more; whether the broker has it is unknown.
pub(super) fn give_up(sent: &mut Sent, batch: Batch, workshop: &mut Workshop, recorder: &mut Recorder) {
    sent.unanswered.insert(batch.first_sequence, batch.end_sequence());
    recorder.counts.failed += u64::from(batch.count);
    workshop.recycle(batch);
}

/// The latencies of an acknowledged batch, record by record where they differ by more than the histogram can tell.
fn record_ack(batch: &Batch, workshop: &Workshop, now_ns: u64, recorder: &mut Recorder) {
    let count = u64::from(batch.count);
    recorder.acked(now_ns, count);
    let raw = now_ns.saturating_sub(batch.sent_ns);
    let (first, last) = (batch.first_intended_ns, batch.last_intended_ns);
    let longest = now_ns.saturating_sub(first);
    if recorder.takes(first) == recorder.takes(last) && (last - first) * RESOLUTION <= longest {
        recorder.latency(Series::Ack, first, longest, count);
        recorder.latency(Series::AckUncorrected, first, raw, count);
        return;
    }
    for intended in batch.intended_times(&workshop.template) {
        recorder.latency(Series::Ack, intended, now_ns.saturating_sub(intended), 1);
        recorder.latency(Series::AckUncorrected, intended, raw, 1);
    }
}
