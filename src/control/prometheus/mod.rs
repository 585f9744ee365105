//! The page at `/metrics`: what a Kafka broker shows through the usual JMX exporter ([`kafka`]), lag as the usual exporter
//! of consumer groups shows it ([`groups`]), what only we have ([`native`]), and what clients say of themselves ([`telemetry`]).
//!
//! The number of series is bounded: topics, partitions, clients and groups beyond their limits are in the totals alone, and
//! `ringlog_metrics_left_out` says how many.

mod groups;
mod kafka;
mod native;
pub mod page;
pub mod protobuf;
mod telemetry;
pub mod text;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cluster::observer::{Observer, Snapshot, Window};
use super::cluster::{CallError, Caller, Cluster};
use crate::broker::survey::Traffic;
use groups::GroupOffsets;
use page::{Kind, Page};

/// A page asked for again so soon shows the same moment.
const AGE: Duration = Duration::from_millis(500);

/// What a page is written from.
struct Sight<'a> {
    cluster: &'a Cluster,
    snapshot: Arc<Snapshot>,
    window: Window,
    /// By topic, in the order of the snapshot's partitions.
    topics: Vec<TopicTraffic<'a>>,
    groups: GroupOffsets,
}

struct TopicTraffic<'a> {
    name: &'a str,
    traffic: Traffic,
}

/// The whole page.
pub async fn page(cluster: &Cluster, observer: &Observer) -> Result<Page, CallError> {
    let began = Instant::now();
    let snapshot = observer.snapshot(AGE).await?;
    let limits = cluster.config.http.metrics;
    let groups = GroupOffsets::ask(cluster, &Caller::own(), limits.groups_max).await?;
    let shown = snapshot.clone();
    let mut sight =
        Sight { cluster, snapshot, window: observer.window(), topics: topic_traffic(&shown), groups };
    let left_out = [
        ("topic", sight.topics.len().saturating_sub(limits.topics_max)),
        ("partition", sight.snapshot.partitions.len().saturating_sub(limits.partitions_max)),
        ("group", sight.groups.left_out),
    ];
    let mut page = Page::default();
    let total = sum(&sight.topics);
    sight.topics.truncate(limits.topics_max);
    kafka::write(&mut page, &sight, &total);
    groups::write(&mut page, &sight);
    native::write(&mut page, &sight);
    telemetry::write(&mut page, &sight);
    page.family(
        "ringlog_metrics_left_out",
        Kind::Gauge,
        "What has no series of its own: there are too many.",
    );
    for (what, count) in left_out {
        page.sample(&[("what", what)], count);
    }
    let help = "How long the last page of metrics took.";
    page.single("ringlog_metrics_page_seconds", Kind::Gauge, help, began.elapsed().as_secs_f64());
    Ok(page)
}

fn topic_traffic(snapshot: &Snapshot) -> Vec<TopicTraffic<'_>> {
    let mut topics: Vec<TopicTraffic<'_>> = Vec::new();
    for partition in &snapshot.partitions {
        match topics.last_mut() {
            Some(topic) if *topic.name == *partition.topic => topic.traffic.add(&partition.traffic),
            _ => topics.push(TopicTraffic { name: &partition.topic, traffic: partition.traffic }),
        }
    }
    topics
}

fn sum(topics: &[TopicTraffic<'_>]) -> Traffic {
    topics.iter().fold(Traffic::default(), |mut total, topic| {
        total.add(&topic.traffic);
        total
    })
}
