//! Kafka's metrics under the names that the usual configuration of the JMX exporter makes of its MBeans, so that existing
//! dashboards load. What has no meaning for one node (replication, controller elections) holds the value it would have.

use super::page::{Kind, Page};
use super::{Sight, TopicTraffic};
use crate::broker::survey::Traffic;
use crate::metrics::HistogramValues;
use crate::protocol::ApiKey;

const MS: f64 = 1e6;
const QUANTILES: &[&str] = &["0.50", "0.75", "0.95", "0.98", "0.99", "0.999"];

pub(super) fn write(page: &mut Page, sight: &Sight<'_>, total: &Traffic) {
    topics(page, &sight.topics, total);
    requests(page, sight);
    replicas(page, sight);
    controller(page, sight);
    logs(page, sight);
    load(page, sight);
}

fn topics(page: &mut Page, topics: &[TopicTraffic<'_>], total: &Traffic) {
    type Value = fn(&Traffic) -> u64;
    let families: [(&str, &'static str, Value); 7] = [
        ("messagesin", "Records appended.", |traffic| traffic.records_in),
        ("bytesin", "Bytes of record batches appended.", |traffic| traffic.bytes_in),
        ("bytesout", "Bytes of record batches given to consumers.", |traffic| traffic.bytes_out),
        ("totalproducerequests", "Batches that came, by partition.", |traffic| {
            traffic.produces + traffic.failed_produces
        }),
        ("totalfetchrequests", "Reads, by partition.", |traffic| traffic.fetches),
        ("failedproducerequests", "Batches that were refused.", |traffic| traffic.failed_produces),
        ("failedfetchrequests", "Reads that failed.", |traffic| traffic.failed_fetches),
    ];
    for (name, help, value) in families {
        let name = format!("kafka_server_brokertopicmetrics_{name}_total");
        page.family(&name, Kind::Counter, help).sample(&[], value(total));
        for topic in topics {
            page.sample(&[("topic", topic.name)], value(&topic.traffic));
        }
    }
    for name in ["bytesrejected", "replicationbytesin", "replicationbytesout", "reassignmentbytesin"] {
        let name = format!("kafka_server_brokertopicmetrics_{name}_total");
        page.single(&name, Kind::Counter, "Always 0: there is one node.", 0u64);
    }
}

fn requests(page: &mut Page, sight: &Sight<'_>) {
    let total = |key: i16| {
        let mut total = HistogramValues::default();
        sight.cluster.shards.iter().for_each(|shard| total.add(&shard.metrics.api(key).time.values()));
        total
    };
    let apis: Vec<_> = sight
        .window
        .apis
        .iter()
        .filter_map(|(key, window)| Some((ApiKey::try_from(*key).ok()?, window, total(*key))))
        .collect();
    let names = |api: ApiKey| match api {
        // Kafka tells consumers' fetches from followers'.
        ApiKey::Fetch => vec!["Fetch", "FetchConsumer"],
        api => vec![api.name()],
    };
    page.family("kafka_network_requestmetrics_requests_total", Kind::Counter, "Requests answered.");
    for (api, _, total) in &apis {
        for request in names(*api) {
            page.sample(&[("request", request)], total.count());
        }
    }
    let help = "Milliseconds from a request's arrival to its answer: quantiles of the last five minutes.";
    page.family("kafka_network_requestmetrics_totaltimems", Kind::Summary, help);
    for (api, window, total) in &apis {
        for request in names(*api) {
            page.summary(&[("request", request)], QUANTILES, window, total, MS);
        }
    }
}

fn replicas(page: &mut Page, sight: &Sight<'_>) {
    let image = &sight.snapshot.image;
    let node = image.node_id;
    let partitions = || image.topics().flat_map(|topic| &topic.partitions);
    let led = partitions().filter(|partition| partition.leader == node).count();
    let held = partitions().filter(|partition| partition.replicas.contains(&node)).count();
    let behind = partitions().filter(|partition| partition.isr.len() < partition.replicas.len()).count();
    let offline = sight
        .snapshot
        .partitions
        .iter()
        .filter(|state| {
            !sight.snapshot.shards[0].broker.dirs.get(state.log.dir).is_some_and(|dir| dir.online)
        })
        .count();
    let gauges: [(&str, &str, usize); 7] = [
        ("leadercount", "Partitions that this broker leads.", led),
        ("partitioncount", "Partitions of this broker.", held),
        ("offlinereplicacount", "Partitions in directories that are offline.", offline),
        ("underreplicatedpartitions", "Partitions with fewer replicas in sync than they have.", behind),
        ("underminisrpartitioncount", "Partitions below min.insync.replicas.", 0),
        ("atminisrpartitioncount", "Partitions at min.insync.replicas.", 0),
        ("reassigningpartitions", "Partitions on their way to other brokers.", 0),
    ];
    for (name, help, value) in gauges {
        page.single(&format!("kafka_server_replicamanager_{name}"), Kind::Gauge, help, value);
    }
    for name in ["isrshrinks", "isrexpands", "failedisrupdates"] {
        let name = format!("kafka_server_replicamanager_{name}_total");
        page.single(&name, Kind::Counter, "Changes of sets of replicas in sync.", 0u64);
    }
    let stopping = sight.snapshot.shards.iter().any(|shard| shard.broker.stopping);
    // 3: running, 6: shutting down.
    let state = if stopping { 6u64 } else { 3 };
    page.single(
        "kafka_server_kafkaserver_brokerstate",
        Kind::Gauge,
        "As Kafka numbers it; 3: running.",
        state,
    );
    let purgatory = "kafka_server_delayedoperationpurgatory_purgatorysize";
    let waiting: usize = sight.snapshot.shards.iter().map(|shard| shard.broker.gathers).sum();
    page.family(purgatory, Kind::Gauge, "Requests that wait, fetches for the most part.");
    page.sample(&[("delayedOperation", "Fetch")], waiting);
}

fn controller(page: &mut Page, sight: &Sight<'_>) {
    let image = &sight.snapshot.image;
    let leaderless = image.topics().flat_map(|topic| &topic.partitions).filter(|p| p.leader < 0).count();
    let gauges: [(&str, &str, usize); 9] = [
        ("activecontrollercount", "Whether this broker is the controller.", 1),
        ("activebrokercount", "Brokers that take part.", image.brokers.len().max(1)),
        ("fencedbrokercount", "Brokers that do not.", 0),
        ("globaltopiccount", "Topics.", image.topic_count()),
        ("globalpartitioncount", "Partitions.", image.partition_count()),
        ("offlinepartitionscount", "Partitions without a leader.", leaderless),
        ("preferredreplicaimbalancecount", "Partitions not led by their first replica.", 0),
        ("metadataerrorcount", "Changes of the metadata that failed.", 0),
        ("lastappliedrecordoffset", "The last change of the metadata.", image.revision as usize),
    ];
    for (name, help, value) in gauges {
        page.single(&format!("kafka_controller_kafkacontroller_{name}"), Kind::Gauge, help, value);
    }
    let name = "kafka_controller_controllerstats_uncleanleaderelections_total";
    page.single(name, Kind::Counter, "Always 0: there is one node.", 0u64);
}

fn logs(page: &mut Page, sight: &Sight<'_>) {
    let max = sight.cluster.config.http.metrics.partitions_max;
    let partitions = || sight.snapshot.partitions.iter().take(max);
    type Value = fn(&crate::storage::LogState) -> i64;
    let families: [(&str, &'static str, Value); 4] = [
        ("size", "Bytes of a partition's log.", |log| log.size_bytes as i64),
        ("logendoffset", "The offset after the last record.", |log| log.log_end_offset),
        ("logstartoffset", "The offset of the first record.", |log| log.log_start_offset),
        ("numlogsegments", "Segments of a partition's log.", |log| log.segments as i64),
    ];
    for (name, help, value) in families {
        page.family(&format!("kafka_log_log_{name}"), Kind::Gauge, help);
        for state in partitions() {
            let partition = state.partition.to_string();
            page.sample(&[("topic", &state.topic), ("partition", &partition)], value(&state.log));
        }
    }
    let dirs = &sight.snapshot.shards[0].broker.dirs;
    let offline = dirs.iter().filter(|dir| !dir.online).count();
    let name = "kafka_log_logmanager_offlinelogdirectorycount";
    page.single(name, Kind::Gauge, "Log directories that have failed.", offline);
    page.family("kafka_log_logmanager_logdirectoryoffline", Kind::Gauge, "Whether a directory has failed.");
    for dir in dirs {
        page.sample(&[("logDirectory", &dir.path)], u64::from(!dir.online));
    }
    let mut flushes = HistogramValues::default();
    for shard in &sight.cluster.shards {
        flushes.add(&shard.metrics.journal_durable_write_time.values());
        flushes.add(&shard.metrics.journal_sync_time.values());
    }
    let name = "kafka_log_logflushstats_logflushrateandtimems";
    page.family(name, Kind::Summary, "Milliseconds until journal data was on stable media, since the start.");
    page.summary(&[], QUANTILES, &flushes, &flushes, MS);
}

fn load(page: &mut Page, sight: &Sight<'_>) {
    let busy = &sight.window.busy;
    let idle = 1.0 - busy.iter().sum::<f64>() / busy.len().max(1) as f64;
    let help = "The part of the last minute that the shards were idle.";
    for name in [
        "kafka_server_kafkarequesthandlerpool_requesthandleravgidle_percent",
        "kafka_network_socketserver_networkprocessoravgidle_percent",
        "kafka_network_socketserver_networkprocessoravgidlepercent",
    ] {
        page.single(name, Kind::Gauge, help, idle);
    }
    let waiting: usize = sight.snapshot.shards.iter().map(|shard| shard.mail_waiting).sum();
    page.single(
        "kafka_network_requestchannel_requestqueuesize",
        Kind::Gauge,
        "Mail between shards.",
        waiting,
    );
    let name = "kafka_server_socket_server_metrics_connection_count";
    page.family(name, Kind::Gauge, "Open connections, by shard.");
    for (index, shard) in sight.snapshot.shards.iter().enumerate() {
        page.sample(&[("networkProcessor", &index.to_string())], shard.connections);
    }
}
