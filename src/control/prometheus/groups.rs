//! Consumer lag without an exporter, under the names that the usual one gives it, and the coordinator's own counts.

use super::Sight;
use super::page::{Kind, Label, Page};
use crate::control::cluster::groups::{self, Group, GroupSummary, Offsets};
use crate::control::cluster::{CallError, Caller, Cluster};

/// The groups that are shown, and what they have committed.
pub(super) struct GroupOffsets {
    all: Vec<GroupSummary>,
    described: Vec<Group>,
    offsets: Vec<(String, Offsets)>,
    pub left_out: usize,
}

impl GroupOffsets {
    pub async fn ask(cluster: &Cluster, caller: &Caller, max: usize) -> Result<GroupOffsets, CallError> {
        let all = groups::list(cluster, caller).await?;
        let ids: Vec<String> = all.iter().take(max).map(|group| group.id.clone()).collect();
        Ok(GroupOffsets {
            described: groups::describe(cluster, caller, &ids).await?,
            offsets: groups::committed(cluster, caller, &ids).await?,
            left_out: all.len() - ids.len(),
            all,
        })
    }
}

pub(super) fn write(page: &mut Page, sight: &Sight<'_>) {
    lag(page, sight);
    partitions(page, sight);
    counts(page, sight);
}

fn lag(page: &mut Page, sight: &Sight<'_>) {
    let groups = &sight.groups;
    page.family("kafka_consumergroup_members", Kind::Gauge, "Members of a group.");
    for group in &groups.described {
        page.sample(&[("consumergroup", &group.id)], group.members.len());
    }
    page.family("kafka_consumergroup_current_offset", Kind::Gauge, "The offset that a group has committed.");
    each_offset(sight, |labels, offset, _| {
        page.sample(labels, offset);
    });
    page.family("kafka_consumergroup_lag", Kind::Gauge, "Records that a group has not committed yet.");
    each_offset(sight, |labels, _, lag| {
        if let Some(lag) = lag {
            page.sample(labels, lag);
        }
    });
    page.family("kafka_consumergroup_lag_sum", Kind::Gauge, "The same over all partitions of a topic.");
    for (group, offsets) in &groups.offsets {
        let mut sums: Vec<(&str, i64)> = Vec::new();
        for ((topic, partition), committed) in offsets {
            let lag = groups::lag(&sight.snapshot, topic, *partition, committed.offset).unwrap_or(0);
            match sums.last_mut() {
                Some((last, sum)) if *last == topic.as_str() => *sum += lag,
                _ => sums.push((topic, lag)),
            }
        }
        for (topic, sum) in sums {
            page.sample(&[("consumergroup", group), ("topic", topic)], sum);
        }
    }
}

fn each_offset(sight: &Sight<'_>, mut each: impl FnMut(&[Label<'_>], i64, Option<i64>)) {
    for (group, offsets) in &sight.groups.offsets {
        for ((topic, partition), committed) in offsets {
            let number = partition.to_string();
            let labels = [("consumergroup", group.as_str()), ("topic", topic), ("partition", &number)];
            let lag = groups::lag(&sight.snapshot, topic, *partition, committed.offset);
            each(&labels, committed.offset, lag);
        }
    }
}

fn partitions(page: &mut Page, sight: &Sight<'_>) {
    let image = &sight.snapshot.image;
    let limits = sight.cluster.config.http.metrics;
    page.single("kafka_brokers", Kind::Gauge, "Brokers of the cluster.", image.brokers.len().max(1));
    page.family("kafka_topic_partitions", Kind::Gauge, "Partitions of a topic.");
    for topic in image.topics().take(limits.topics_max) {
        page.sample(&[("topic", &topic.name)], topic.partitions.len());
    }
    let shown = || sight.snapshot.partitions.iter().take(limits.partitions_max);
    page.family(
        "kafka_topic_partition_current_offset",
        Kind::Gauge,
        "The offset after the last readable record.",
    );
    for state in shown() {
        let partition = state.partition.to_string();
        page.sample(&[("topic", &state.topic), ("partition", &partition)], state.log.high_watermark);
    }
    page.family("kafka_topic_partition_oldest_offset", Kind::Gauge, "The offset of the first record.");
    for state in shown() {
        let partition = state.partition.to_string();
        page.sample(&[("topic", &state.topic), ("partition", &partition)], state.log.log_start_offset);
    }
}

fn counts(page: &mut Page, sight: &Sight<'_>) {
    let groups = &sight.groups;
    let in_state = |state: &str| groups.all.iter().filter(|group| group.state == state).count();
    let offsets: usize = groups.offsets.iter().map(|(_, offsets)| offsets.len()).sum();
    for (name, help, value) in [
        ("numgroups", "Groups.", groups.all.len()),
        ("numgroupsstable", "Groups whose members all have their assignment.", in_state("Stable")),
        ("numgroupsempty", "Groups without members.", in_state("Empty")),
        ("numgroupsdead", "Groups being removed.", in_state("Dead")),
        ("numgroupspreparingrebalance", "Groups that wait for members.", in_state("PreparingRebalance")),
        (
            "numgroupscompletingrebalance",
            "Groups that wait for assignments.",
            in_state("CompletingRebalance"),
        ),
        ("numoffsets", "Committed offsets of the groups shown.", offsets),
    ] {
        page.single(
            &format!("kafka_coordinator_group_groupmetadatamanager_{name}"),
            Kind::Gauge,
            help,
            value,
        );
    }
}
