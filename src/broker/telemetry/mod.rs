//! Clients' own metrics (KIP-714): who is to send which metrics and how often, and the newest values that came. Kafka hands what
//! comes to a plug-in and without one does not serve these APIs at all; here the broker itself keeps and shows it (`/metrics`).
//!
//! Lives on the control shard. Called by the two handlers, with the time as an argument, and by `Broker::telemetry_state` for the
//! control thread. A client is known by the instance id that it was given, and forgotten after three silent intervals; the end of
//! its connection says nothing, since a client uses several. Kept are at most [`INSTANCES_MAX`] clients and
//! `ringlog.metrics.telemetry.max` values: those of the client whose time ends first go first.

pub mod otlp;
mod subscriptions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::request::{Forwarded, Software};
use crate::metadata::{ClusterImage, ResourceKind};
use crate::protocol::{ErrorCode, Uuid};
use otlp::Point;
use subscriptions::{Subscriptions, Wanted};

/// As many as Kafka keeps.
const INSTANCES_MAX: usize = 16_384;
/// A client is remembered for this long at least.
const IDLE_MS_MIN: u64 = 60_000;
/// A value that has been missing from so many pushes is gone.
const PUSHES_KEPT: u32 = 3;
const NAME_BYTES_MAX: usize = 256;

/// Labels that say which client it is; an attribute of the same name is left out.
pub const CLIENT_LABELS: [&str; 4] =
    ["client_id", "client_instance_id", "client_software_name", "client_software_version"];

pub type Labels = Arc<[(String, String)]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// Who sends metrics.
#[derive(Clone, Debug)]
pub struct Client {
    pub instance_id: Uuid,
    pub client_id: String,
    pub software: Option<Arc<Software>>,
    pub address: String,
    pub port: Option<u16>,
}

impl Client {
    pub fn of(request: &Forwarded, instance_id: Uuid) -> Client {
        let (client_id, software) = (request.client_id.as_deref(), request.software.clone());
        Client::new(instance_id, client_id, software, &request.host, request.port)
    }

    pub fn new(
        instance_id: Uuid,
        client_id: Option<&str>,
        software: Option<Arc<Software>>,
        host: &str,
        port: Option<u16>,
    ) -> Client {
        let client_id = client_id.unwrap_or_default();
        Client {
            instance_id,
            client_id: client_id[..client_id.floor_char_boundary(NAME_BYTES_MAX)].to_owned(),
            software,
            address: host.trim_start_matches('/').to_owned(),
            port,
        }
    }
}

/// The newest value of a metric.
#[derive(Clone, Debug)]
pub struct Series {
    pub kind: Kind,
    pub value: f64,
    push: u32,
}

/// A client and its values, by name and labels.
#[derive(Clone, Debug)]
pub struct ClientSeries {
    pub client: Arc<Client>,
    pub series: BTreeMap<(String, Labels), Series>,
}

/// What the control thread is shown.
#[derive(Clone, Debug, Default)]
pub struct TelemetryState {
    pub instances: usize,
    pub clients: Vec<Arc<ClientSeries>>,
}

/// The answer to GetTelemetrySubscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub id: i32,
    pub wanted: Arc<Wanted>,
}

/// What a PushTelemetry says beside its metrics.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    pub subscription_id: i32,
    pub terminating: bool,
    pub codec_is_known: bool,
    pub bytes: usize,
}

struct Instance {
    known: Arc<ClientSeries>,
    subscription: Subscription,
    /// Of the subscriptions that it was worked out from.
    version: u64,
    last_get_ms: Option<u64>,
    last_push_ms: Option<u64>,
    terminating: bool,
    last_error: ErrorCode,
    ends_ms: u64,
    pushes: u32,
}

pub struct Telemetry {
    /// `telemetry.max.bytes`, of a push as it is sent and unpacked.
    pub bytes_max: usize,
    series_max: usize,
    subscriptions: Subscriptions,
    instances: BTreeMap<Uuid, Instance>,
    /// The same by the end of their time.
    ends: BTreeSet<(u64, Uuid)>,
    series: usize,
}

impl Telemetry {
    pub fn new(bytes_max: usize, series_max: usize) -> Telemetry {
        Telemetry {
            bytes_max,
            series_max,
            subscriptions: Subscriptions::default(),
            instances: BTreeMap::new(),
            ends: BTreeSet::new(),
            series: 0,
        }
    }

    /// Where there is one: it, with the cluster's subscriptions as they are now, and the time for [`Telemetry::subscribe`] and [`Telemetry::push`].
    pub fn current<'t>(
        telemetry: &'t mut Option<Telemetry>,
        image: &ClusterImage,
        now_ns: u64,
    ) -> Result<(&'t mut Telemetry, u64), ErrorCode> {
        let telemetry = telemetry.as_mut().ok_or(ErrorCode::UnknownServerError)?;
        telemetry.update(image);
        Ok((telemetry, now_ns / 1_000_000))
    }

    /// Takes over what the cluster's subscriptions are now. To be called before each of the next two.
    fn update(&mut self, image: &ClusterImage) {
        self.subscriptions.update(image.revision, image.resource_configs.get(&ResourceKind::ClientMetrics));
    }

    /// What a client is to send, or why it may not ask yet.
    pub fn subscribe(&mut self, client: Client, now_ms: u64) -> Result<Subscription, ErrorCode> {
        let instance = self.instance(client, now_ms);
        let last_ms = instance.last_get_ms.max(instance.last_push_ms);
        let may_ask_again = matches!(
            instance.last_error,
            ErrorCode::UnknownSubscriptionId | ErrorCode::UnsupportedCompressionType
        );
        if instance.is_due(last_ms, now_ms) {
            instance.last_get_ms = Some(now_ms);
        } else if !may_ask_again {
            return Err(ErrorCode::ThrottlingQuotaExceeded);
        }
        instance.last_error = ErrorCode::None;
        Ok(instance.subscription.clone())
    }

    /// Whether a push is taken; its values follow through [`Telemetry::keep`].
    pub fn push(&mut self, client: Client, push: Push, now_ms: u64) -> Result<(), ErrorCode> {
        let bytes_max = self.bytes_max;
        let instance = self.instance(client, now_ms);
        let result = instance.check(push, bytes_max, now_ms);
        // A last push that is refused may be sent again: KAFKA-20898.
        instance.terminating |= push.terminating && result.is_ok();
        instance.last_error = result.err().unwrap_or(ErrorCode::None);
        result
    }

    /// The metrics could not be read.
    pub fn refuse(&mut self, instance_id: Uuid, error: ErrorCode) {
        if let Some(instance) = self.instances.get_mut(&instance_id) {
            instance.last_error = error;
        }
    }

    /// The most points a push may have.
    pub fn series_max(&self) -> usize {
        self.series_max
    }

    /// The values of a push that was taken.
    pub fn keep(&mut self, instance_id: Uuid, points: Vec<Point>) {
        let Some(instance) = self.instances.get_mut(&instance_id) else { return };
        self.series -= instance.known.series.len();
        instance.pushes = instance.pushes.wrapping_add(1);
        let push = instance.pushes;
        let known = Arc::make_mut(&mut instance.known);
        for point in points {
            let series = known.series.entry((point.name, point.labels)).or_insert(Series {
                kind: point.kind,
                value: 0.0,
                push,
            });
            let before = if point.is_delta { series.value } else { 0.0 };
            *series = Series { kind: point.kind, value: before + point.value, push };
        }
        known.series.retain(|_, series| push.wrapping_sub(series.push) < PUSHES_KEPT);
        while known.series.len() > self.series_max {
            known.series.pop_last();
        }
        self.series += known.series.len();
        self.make_room(instance_id);
    }

    /// The clients that are still of interest at `now_ms`.
    pub fn state(&self, now_ms: u64) -> TelemetryState {
        let alive = || self.instances.values().filter(|instance| instance.ends_ms > now_ms);
        let with_series = alive().filter(|instance| !instance.known.series.is_empty());
        TelemetryState {
            instances: alive().count(),
            clients: with_series.map(|instance| instance.known.clone()).collect(),
        }
    }

    /// The client's, made or worked out anew where that is needed; its time begins again.
    fn instance(&mut self, client: Client, now_ms: u64) -> &mut Instance {
        let id = client.instance_id;
        self.forget_old(now_ms);
        let version = self.subscriptions.version();
        let known = self.instances.remove(&id);
        if let Some(instance) = &known {
            self.ends.remove(&(instance.ends_ms, id));
        }
        let mut instance = match known {
            Some(instance) if instance.version == version => instance,
            known => {
                let pushes = known.as_ref().map_or(0, |instance| instance.pushes);
                let known = known.map(|instance| instance.known).unwrap_or_else(|| {
                    Arc::new(ClientSeries { client: Arc::new(client), series: BTreeMap::new() })
                });
                Instance {
                    subscription: self.subscriptions.of(&known.client),
                    known,
                    version,
                    last_get_ms: None,
                    last_push_ms: None,
                    terminating: false,
                    last_error: ErrorCode::None,
                    ends_ms: 0,
                    pushes,
                }
            }
        };
        instance.ends_ms = now_ms + IDLE_MS_MIN.max(3 * instance.subscription.wanted.interval_ms);
        self.ends.insert((instance.ends_ms, id));
        self.instances.entry(id).or_insert(instance)
    }

    fn forget_old(&mut self, now_ms: u64) {
        while let Some((ends_ms, id)) = self.ends.first().copied() {
            if ends_ms > now_ms && self.instances.len() < INSTANCES_MAX {
                break;
            }
            self.forget(ends_ms, id);
        }
    }

    /// Takes values of others away until the limit holds.
    fn make_room(&mut self, for_whom: Uuid) {
        while self.series > self.series_max {
            let has_some = |id: &Uuid| self.instances.get(id).is_some_and(|it| !it.known.series.is_empty());
            let oldest = self.ends.iter().find(|(_, id)| *id != for_whom && has_some(id));
            let Some((_, id)) = oldest.copied() else { return };
            if let Some(instance) = self.instances.get_mut(&id) {
                self.series -= instance.known.series.len();
                Arc::make_mut(&mut instance.known).series.clear();
            }
        }
    }

    fn forget(&mut self, ends_ms: u64, id: Uuid) {
        self.ends.remove(&(ends_ms, id));
        if let Some(instance) = self.instances.remove(&id) {
            self.series -= instance.known.series.len();
        }
    }
}

impl Instance {
    fn is_due(&self, last_ms: Option<u64>, now_ms: u64) -> bool {
        last_ms.is_none_or(|last_ms| now_ms.saturating_sub(last_ms) >= self.subscription.wanted.interval_ms)
    }

    fn check(&mut self, push: Push, bytes_max: usize, now_ms: u64) -> Result<(), ErrorCode> {
        if self.terminating {
            return Err(ErrorCode::InvalidRequest);
        }
        // The first push after a subscription may come at once: clients spread themselves over the interval.
        let in_time = self.last_get_ms > self.last_push_ms || self.is_due(self.last_push_ms, now_ms);
        if in_time {
            self.last_push_ms = Some(now_ms);
        } else if !push.terminating {
            return Err(ErrorCode::ThrottlingQuotaExceeded);
        }
        match push {
            _ if push.subscription_id != self.subscription.id => Err(ErrorCode::UnknownSubscriptionId),
            _ if !push.codec_is_known => Err(ErrorCode::UnsupportedCompressionType),
            _ if push.bytes > bytes_max => Err(ErrorCode::TelemetryTooLarge),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
