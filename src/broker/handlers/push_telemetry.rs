//! PushTelemetry, version 0: a client's metrics, as OpenTelemetry's protobuf (KIP-714). What is not that is INVALID_RECORD, as where
//! Kafka's plug-in fails; what unpacks to more than `telemetry.max.bytes` is TELEMETRY_TOO_LARGE.

use crate::broker::Broker;
use crate::broker::request::{Forwarded, Response};
use crate::broker::telemetry::{Client, Push, Telemetry, otlp};
use crate::protocol::messages::push_telemetry_request::PushTelemetryRequest;
use crate::protocol::messages::push_telemetry_response::PushTelemetryResponse;
use crate::protocol::{ErrorCode, Uuid};
use crate::record::batch::Codec;
use crate::record::compression::CompressionError;

/// No client is given this id.
const ONE: Uuid = Uuid(1u128.to_be_bytes());

pub fn handle(broker: &mut Broker, request: Forwarded) {
    let head = request.head;
    let message = super::decode::<PushTelemetryRequest>(&request.body, head.version);
    let response = message.ok().map(|message| {
        let error = take(broker, &request, &message).err().unwrap_or(ErrorCode::None);
        Response::of(&head, &PushTelemetryResponse { error_code: error.code(), ..Default::default() })
    });
    broker.respond(request.shard, head.id, response);
}

fn take(
    broker: &mut Broker,
    request: &Forwarded,
    message: &PushTelemetryRequest<'_>,
) -> Result<(), ErrorCode> {
    let instance_id = message.client_instance_id;
    if instance_id.is_zero() || instance_id == ONE {
        return Err(ErrorCode::InvalidRequest);
    }
    let (telemetry, now_ms) = Telemetry::current(&mut broker.telemetry, &broker.image, broker.now_ns)?;
    let codec = u8::try_from(message.compression_type).ok().and_then(Codec::from_id);
    let push = Push {
        subscription_id: message.subscription_id,
        terminating: message.terminating,
        codec_is_known: codec.is_some(),
        bytes: message.metrics.len(),
    };
    telemetry.push(Client::of(request, instance_id), push, now_ms)?;
    let Some(codec) = codec.filter(|_| !message.metrics.is_empty()) else { return Ok(()) };
    let mut unpacked = Vec::new();
    let bytes = match codec {
        Codec::None => Ok(&*message.metrics),
        _ => broker
            .decompressor
            .decompress(codec, &message.metrics, &mut unpacked, telemetry.bytes_max)
            .map(|()| &*unpacked)
            .map_err(|error| match error {
                CompressionError::TooLarge { .. } => ErrorCode::TelemetryTooLarge,
                _ => ErrorCode::InvalidRecord,
            }),
    };
    let points = bytes
        .and_then(|bytes| otlp::points(bytes, telemetry.series_max()).map_err(|_| ErrorCode::InvalidRecord));
    match points {
        Ok(points) => telemetry.keep(instance_id, points),
        Err(error) => {
            telemetry.refuse(instance_id, error);
            return Err(error);
        }
    }
    Ok(())
}
