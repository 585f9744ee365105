//! GetTelemetrySubscriptions, version 0: which of its metrics a client is to send, how often and in what form (KIP-714).
//!
//! Differs from Kafka: served without a plug-in, as what comes is kept and shown here; sums are asked for as totals from the client's
//! start, which is what Prometheus takes; and a client that lost its connection is not forgotten at once.

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::request::{Forwarded, Response};
use crate::broker::telemetry::{Client, Telemetry};
use crate::io::Io;
use crate::protocol::messages::get_telemetry_subscriptions_request::GetTelemetrySubscriptionsRequest;
use crate::protocol::messages::get_telemetry_subscriptions_response::GetTelemetrySubscriptionsResponse;
use crate::protocol::{ErrorCode, Uuid};
use crate::record::batch::Codec;

/// In the order of preference that Kafka gives them.
const ACCEPTED: [Codec; 4] = [Codec::Zstd, Codec::Lz4, Codec::Gzip, Codec::Snappy];

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    let message = super::decode::<GetTelemetrySubscriptionsRequest>(&request.body, head.version);
    let response = message.ok().map(|message| {
        let response = match message.client_instance_id {
            Uuid::ZERO => answer(broker, &request, broker.random_instance_id(io)),
            known => answer(broker, &request, known),
        };
        Response::of(&head, &response)
    });
    broker.respond(request.shard, head.id, response);
}

fn answer(
    broker: &mut Broker,
    request: &Forwarded,
    instance_id: Uuid,
) -> GetTelemetrySubscriptionsResponse<'static> {
    subscribe(broker, request, instance_id).unwrap_or_else(|error| GetTelemetrySubscriptionsResponse {
        error_code: error.code(),
        ..Default::default()
    })
}

fn subscribe(
    broker: &mut Broker,
    request: &Forwarded,
    instance_id: Uuid,
) -> Result<GetTelemetrySubscriptionsResponse<'static>, ErrorCode> {
    let (telemetry, now_ms) = Telemetry::current(&mut broker.telemetry, &broker.image, broker.now_ns)?;
    let subscription = telemetry.subscribe(Client::of(request, instance_id), now_ms)?;
    Ok(GetTelemetrySubscriptionsResponse {
        client_instance_id: instance_id,
        subscription_id: subscription.id,
        accepted_compression_types: ACCEPTED.iter().map(|codec| *codec as i8).collect(),
        push_interval_ms: subscription.wanted.interval_ms as i32,
        telemetry_max_bytes: telemetry.bytes_max as i32,
        delta_temporality: false,
        requested_metrics: subscription.wanted.metrics.iter().cloned().map(Cow::Owned).collect(),
        ..Default::default()
    })
}
