//! The metrics that clients have pushed (KIP-714), a family for each metric, with labels that say whose they are. Their names all begin
//! with `kafka_client_`, so none can be taken for one of the broker's.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Sight;
use super::page::{Kind, Page};
use crate::broker::telemetry::{self, ClientSeries, Labels};

pub(super) fn write(page: &mut Page, sight: &Sight<'_>) {
    let states = || sight.snapshot.shards.iter().map(|shard| &shard.telemetry);
    let instances: usize = states().map(|state| state.instances).sum();
    let help = "Clients that have asked which of their metrics to send.";
    page.single("kafka_server_client_metrics_instance_count", Kind::Gauge, help, instances);
    let mut families: BTreeMap<&str, Vec<(&ClientSeries, &Labels, &telemetry::Series)>> = BTreeMap::new();
    for client in states().flat_map(|state| &state.clients) {
        for ((name, labels), series) in &client.series {
            families.entry(name).or_default().push((client, labels, series));
        }
    }
    for (name, samples) in families {
        // Clients need not agree on what it is: then it is a plain number.
        let is_counter = samples.iter().all(|(_, _, series)| series.kind == telemetry::Kind::Counter);
        let kind = if is_counter { Kind::Counter } else { Kind::Gauge };
        page.family(name, kind, "Sent by clients.");
        for (client, labels, series) in samples {
            sample(page, client, labels, series.value);
        }
    }
}

fn sample(page: &mut Page, client: &ClientSeries, labels: &Labels, value: f64) {
    let client = &client.client;
    let (name, version) = client.software.as_deref().map_or(("", ""), |it| (&*it.name, &*it.version));
    let values = [&*client.client_id, &client.instance_id.to_string(), name, version].map(str::to_owned);
    let who = telemetry::CLIENT_LABELS.into_iter().map(Cow::Borrowed).zip(values);
    let own = labels.iter().map(|(name, value)| (Cow::Owned(name.clone()), value.clone()));
    page.sample_of(who.chain(own).collect(), value);
}
