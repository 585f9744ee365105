//! The control thread's side of a shard: its requests, its questions, and what a turn leaves in the counters.

use std::cell::OnceCell;

use super::Shard;
use crate::broker::request::{Head, Peer, Reply, Request};
use crate::io::Io;
use crate::server::local::{self, Calls, LocalCall, LocalRequest, ShardState, Survey};

impl<I: Io> Shard<I> {
    /// What lies between two looks at the clock and was not waiting was the work of the turn before.
    pub(super) fn count_turn(&mut self, before_ns: u64, completions: usize) {
        let stats = self.io.stats();
        let waited_ns = stats.waited_ns.saturating_sub(self.waited_ns);
        self.waited_ns = stats.waited_ns;
        let busy_ns = self.io.now().saturating_sub(before_ns).saturating_sub(waited_ns);
        let metrics = self.broker.metrics();
        metrics.turns.add(1);
        metrics.turn_time.record(busy_ns);
        metrics.busy_ns.add(busy_ns);
        metrics.waited_ns.set(stats.waited_ns);
        metrics.submissions.set(stats.submissions);
        metrics.system_calls.set(stats.system_calls);
        metrics.completions.add(completions as u64);
    }

    pub(super) fn take_calls(&mut self) {
        for _ in 0..local::CALLS_A_TURN {
            match self.calls.as_ref().and_then(Calls::next) {
                None => break,
                Some(LocalCall::Request(request)) => self.start_local(request),
                Some(LocalCall::Survey(survey)) => self.answer_survey(survey),
            }
        }
    }

    fn start_local(&mut self, local: LocalRequest) {
        let Some(calls) = self.calls.as_mut().filter(|_| !self.stopping) else { return };
        let Some(id) = calls.wait(local.reply) else { return };
        let head = Head { id, api_key: local.api_key, version: local.version, correlation_id: 0 };
        let peer = Peer { host: local.host, port: None, listener: 0, software: OnceCell::new() };
        let (client_id, body) = (Some(&*local.client_id), &*local.body);
        let request = Request { head, client_id, peer: &peer, body, frame: None };
        match self.broker.request(&mut self.io, request) {
            Reply::Now(response) => self.answer(id, Some(response)),
            Reply::Silent => self.answer(id, None),
            Reply::Later => {}
            Reply::Close(reason) => {
                tracing::debug!(reason, api = %local.api_key, "a request of the control thread was refused");
                if let Some(calls) = &mut self.calls {
                    calls.refuse(id);
                }
            }
        }
    }

    fn answer_survey(&self, survey: Survey) {
        let (partitions, next) = match survey.partitions_from {
            Some(cursor) => self.broker.partition_states(cursor),
            None => (Vec::new(), None),
        };
        let (mail_waiting, mail_unsent) = self.mail.depths();
        let state = ShardState {
            broker: self.broker.state(),
            partitions,
            next,
            telemetry: if survey.clients { self.broker.telemetry_state() } else { Default::default() },
            clients: if survey.clients { self.clients.states() } else { Vec::new() },
            connections: self.connections.len(),
            input_bytes: self.input_bytes,
            mail_waiting,
            mail_unsent,
        };
        // Who has gone does not want it.
        let _ = survey.reply.send(state);
    }
}
