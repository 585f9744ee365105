//! Takes over the data directory of a stopped Apache Kafka 4 node: topics with their ids, configuration, producer ids, from its
//! metadata log (`__cluster_metadata-0`: the newest checkpoint and what follows it), else from the names and
//! `partition.metadata` of the partitions themselves. Kafka's files are only read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::io::Io;
use crate::protocol::frame::MetadataRecordHeader;
use crate::protocol::messages::{
    abort_transaction_record, begin_transaction_record,
    config_record::{self, ConfigRecord},
    end_transaction_record,
    feature_level_record::{self, FeatureLevelRecord},
    partition_change_record::{self, PartitionChangeRecord},
    partition_record::{self, PartitionRecord},
    producer_ids_record::{self, ProducerIdsRecord},
    register_broker_record::{self, RegisterBrokerRecord},
    remove_topic_record::{self, RemoveTopicRecord},
    topic_record::{self, TopicRecord},
    unregister_broker_record::{self, UnregisterBrokerRecord},
};
use crate::protocol::{DecodeError, Message, Reader, Uuid};
use crate::record::{Decompressor, RecordBatch, batches};

use super::files;
use super::image::{ClusterImage, Partition, ResourceKind, Topic};
use super::open::{Found, OpenError};

const METADATA_LOG: &str = "__cluster_metadata-0";
/// Kafka's resource types.
const TOPIC_RESOURCE: i8 = 2;
const BROKER_RESOURCE: i8 = 4;
const CLIENT_METRICS_RESOURCE: i8 = 16;
const GROUP_RESOURCE: i8 = 32;
/// The most that one batch of the metadata log may unpack to: Kafka's own limit is 8 MiB.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// `image` with what Kafka left in `directories`, or as it is when there is nothing.
pub(super) fn import(
    io: &mut impl Io,
    image: ClusterImage,
    directories: &[Found],
    report: &mut Vec<String>,
) -> Result<ClusterImage, OpenError> {
    let present = find_partitions(io, directories)?;
    let mut state = Imported::default();
    let mut source = None;
    for found in directories.iter().filter(|found| found.error.is_none()) {
        let log = found.path.join(METADATA_LOG);
        if !files::list(io, &log)?.is_empty() {
            read_metadata_log(io, &log, &mut state)?;
            source = Some(log);
        }
    }
    let from = match &source {
        Some(log) => log.display().to_string(),
        None if present.is_empty() => return Ok(image),
        None => {
            scan_partitions(io, directories, image.node_id, &present, &mut state)?;
            report.push(
                "no __cluster_metadata-0 was found: topics were taken from their directories, without their configuration"
                    .to_owned(),
            );
            "the partitions' directories".to_owned()
        }
    };
    let image = state.into_image(image, directories, &present, report)?;
    report.push(format!(
        "taken over from Apache Kafka by {from}: {} topics, {} partitions",
        image.topic_count(),
        image.partition_count()
    ));
    Ok(image)
}

/// Where each partition's directory is, by topic and number.
type Present = BTreeMap<(String, i32), Uuid>;

fn find_partitions(io: &mut impl Io, directories: &[Found]) -> Result<Present, OpenError> {
    let mut present = Present::new();
    for found in directories.iter().filter(|found| found.error.is_none()) {
        for entry in files::list(io, &found.path)?.into_iter().filter(|entry| entry.is_dir) {
            let Some((topic, partition)) = partition_of(&entry.name) else { continue };
            if let Some(other) = present.insert((topic.to_owned(), partition), found.id()) {
                return Err(OpenError::Import(format!(
                    "partition {} is in two log directories ({other} and {})",
                    entry.name,
                    found.id()
                )));
            }
        }
    }
    Ok(present)
}

/// `topic-partition`; directories of deleted (`….uuid-delete`) and moving (`….uuid-future`) partitions are none.
fn partition_of(name: &str) -> Option<(&str, i32)> {
    let (topic, partition) = name.rsplit_once('-')?;
    let is_number = !partition.is_empty() && partition.bytes().all(|byte| byte.is_ascii_digit());
    let partition = partition.parse().ok().filter(|_| is_number)?;
    (super::change::check_name(topic).is_ok() && name != METADATA_LOG).then_some((topic, partition))
}

/// What the records say, as they say it.
#[derive(Default)]
struct Imported {
    topics: BTreeMap<Uuid, ImportedTopic>,
    configs: BTreeMap<(i8, String), BTreeMap<String, String>>,
    features: BTreeMap<String, i16>,
    brokers: BTreeSet<i32>,
    next_producer_id: i64,
    /// The offset behind the last record that was taken.
    next_offset: i64,
    /// Records of a transaction that has not ended.
    transaction: Option<Vec<Vec<u8>>>,
}

#[derive(Default)]
struct ImportedTopic {
    name: String,
    partitions: BTreeMap<i32, Partition>,
}

fn read_metadata_log(io: &mut impl Io, log: &Path, state: &mut Imported) -> Result<(), OpenError> {
    let names: Vec<String> = files::list(io, log)?.into_iter().map(|entry| entry.name).collect();
    // `<offset>-<epoch>.checkpoint`: everything before the offset.
    let checkpoint = names.iter().filter(|name| name.ends_with(".checkpoint")).max();
    if let Some(name) = checkpoint {
        let end = name.split('-').next().and_then(|digits| digits.parse().ok());
        let end: i64 = end
            .ok_or_else(|| OpenError::Import(format!("{}/{name}: the name has no offset", log.display())))?;
        state.read_file(io, &log.join(name), true)?;
        state.next_offset = end;
    }
    let mut segments: Vec<&String> = names.iter().filter(|name| name.ends_with(".log")).collect();
    segments.sort();
    for name in segments {
        state.read_file(io, &log.join(name), false)?;
    }
    Ok(())
}

impl Imported {
    fn read_file(&mut self, io: &mut impl Io, path: &Path, is_checkpoint: bool) -> Result<(), OpenError> {
        let bytes = files::read(io, path)?.unwrap_or_default();
        let mut read = batches(&bytes);
        let mut decompressor = Decompressor::new();
        let mut scratch = Vec::new();
        let mut expected = None;
        loop {
            let at = read.consumed();
            let Some(batch) = read.next() else { break };
            let fail =
                |reason: String| OpenError::Import(format!("{} at byte {at}: {reason}", path.display()));
            let batch = batch.map_err(|error| fail(error.to_string()))?;
            batch.check_crc().map_err(|error| fail(error.to_string()))?;
            // The checksum leaves the offset out; the metadata log has no gaps.
            let base_offset = batch.header().base_offset;
            if expected.is_some_and(|expected| expected != base_offset) {
                return Err(fail(format!("a batch with offset {base_offset} in the wrong place")));
            }
            expected = Some(batch.header().next_offset());
            if batch.header().is_control()
                || (!is_checkpoint && batch.header().next_offset() <= self.next_offset)
            {
                continue;
            }
            self.read_batch(&batch, is_checkpoint, &mut decompressor, &mut scratch).map_err(fail)?;
        }
        if is_checkpoint && read.consumed() != bytes.len() {
            return Err(OpenError::Import(format!(
                "{} is cut at offset {}",
                path.display(),
                read.consumed()
            )));
        }
        Ok(())
    }

    fn read_batch(
        &mut self,
        batch: &RecordBatch<'_>,
        is_checkpoint: bool,
        decompressor: &mut Decompressor,
        scratch: &mut Vec<u8>,
    ) -> Result<(), String> {
        let records =
            batch.records(decompressor, scratch, BATCH_BYTES_MAX).map_err(|error| error.to_string())?;
        for record in records {
            let record = record.map_err(|error| error.to_string())?;
            let offset = record.offset(batch.header());
            if !is_checkpoint && offset < self.next_offset {
                continue;
            }
            self.next_offset = offset.saturating_add(1);
            self.take(record.value.unwrap_or_default())
                .map_err(|error| format!("record {offset}: {error}"))?;
        }
        Ok(())
    }

    /// Records between the beginning and the end of a transaction count together or not at all.
    fn take(&mut self, value: &[u8]) -> Result<(), DecodeError> {
        let header = MetadataRecordHeader::decode(&mut Reader::new(value))?;
        match (header.record_type, &mut self.transaction) {
            (begin_transaction_record::RECORD_TYPE, transaction) => *transaction = Some(Vec::new()),
            (abort_transaction_record::RECORD_TYPE, transaction) => *transaction = None,
            (end_transaction_record::RECORD_TYPE, transaction) => {
                for value in transaction.take().unwrap_or_default() {
                    self.apply(&value)?;
                }
            }
            (_, Some(records)) => records.push(value.to_vec()),
            (_, None) => self.apply(value)?,
        }
        Ok(())
    }

    fn apply(&mut self, value: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(value);
        let header = MetadataRecordHeader::decode(&mut reader)?;
        let version = header.version;
        match header.record_type {
            register_broker_record::RECORD_TYPE => {
                let record = RegisterBrokerRecord::decode_prefix(&mut reader, version)?;
                self.brokers.insert(record.broker_id);
            }
            unregister_broker_record::RECORD_TYPE => {
                let record = UnregisterBrokerRecord::decode_prefix(&mut reader, version)?;
                self.brokers.remove(&record.broker_id);
            }
            topic_record::RECORD_TYPE => {
                let record = TopicRecord::decode_prefix(&mut reader, version)?;
                self.topics.entry(record.topic_id).or_default().name = record.name.into_owned();
            }
            remove_topic_record::RECORD_TYPE => {
                let record = RemoveTopicRecord::decode_prefix(&mut reader, version)?;
                if let Some(topic) = self.topics.remove(&record.topic_id) {
                    self.configs.remove(&(TOPIC_RESOURCE, topic.name));
                }
            }
            partition_record::RECORD_TYPE => {
                self.partition(&PartitionRecord::decode_prefix(&mut reader, version)?)
            }
            partition_change_record::RECORD_TYPE => {
                self.partition_change(&PartitionChangeRecord::decode_prefix(&mut reader, version)?);
            }
            config_record::RECORD_TYPE => self.config(ConfigRecord::decode_prefix(&mut reader, version)?),
            feature_level_record::RECORD_TYPE => {
                let record = FeatureLevelRecord::decode_prefix(&mut reader, version)?;
                match record.feature_level {
                    0 => self.features.remove(record.name.as_ref()),
                    level => self.features.insert(record.name.into_owned(), level),
                };
            }
            producer_ids_record::RECORD_TYPE => {
                let record = ProducerIdsRecord::decode_prefix(&mut reader, version)?;
                self.next_producer_id = self.next_producer_id.max(record.next_producer_id);
            }
            // Nothing that a single node needs.
            _ => {}
        }
        Ok(())
    }

    fn partition(&mut self, record: &PartitionRecord<'_>) {
        let partition = Partition {
            leader: record.leader,
            leader_epoch: record.leader_epoch,
            partition_epoch: record.partition_epoch,
            replicas: record.replicas.to_vec(),
            isr: record.isr.to_vec(),
            directory: record.directories.first().unwrap_or(Uuid::ZERO),
            shard: None,
        };
        let topic = self.topics.entry(record.topic_id).or_default();
        topic.partitions.insert(record.partition_id, partition);
    }

    fn partition_change(&mut self, record: &PartitionChangeRecord<'_>) {
        let topic = self.topics.get_mut(&record.topic_id);
        let Some(partition) = topic.and_then(|topic| topic.partitions.get_mut(&record.partition_id)) else {
            return;
        };
        // -2: no change of the leader; any other is one, and a new epoch.
        if record.leader != -2 {
            partition.leader = record.leader;
            partition.leader_epoch = partition.leader_epoch.saturating_add(1);
        }
        if let Some(replicas) = &record.replicas {
            partition.replicas = replicas.to_vec();
        }
        if let Some(isr) = &record.isr {
            partition.isr = isr.to_vec();
        }
        if let Some(directory) = record.directories.as_ref().and_then(|directories| directories.first()) {
            partition.directory = directory;
        }
        partition.partition_epoch = partition.partition_epoch.saturating_add(1);
    }

    fn config(&mut self, record: ConfigRecord<'_>) {
        let resource = (record.resource_type, record.resource_name.into_owned());
        let values = self.configs.entry(resource).or_default();
        match record.value {
            Some(value) => values.insert(record.name.into_owned(), value.into_owned()),
            None => values.remove(record.name.as_ref()),
        };
    }

    /// Checks that this node holds everything, and fits it into our form.
    fn into_image(
        mut self,
        mut image: ClusterImage,
        directories: &[Found],
        present: &Present,
        report: &mut Vec<String>,
    ) -> Result<ClusterImage, OpenError> {
        let node_id = image.node_id;
        if let Some(other) = self.brokers.iter().find(|&&id| id != node_id) {
            return Err(OpenError::Import(format!(
                "the metadata names broker {other} beside {node_id}: one node of a larger cluster cannot be taken over alone"
            )));
        }
        image.next_producer_id = self.next_producer_id;
        image.features = std::mem::take(&mut self.features);
        for ((resource, name), values) in std::mem::take(&mut self.configs) {
            match resource {
                BROKER_RESOURCE if !values.is_empty() => {
                    image.broker_configs.insert(name, values);
                }
                GROUP_RESOURCE | CLIENT_METRICS_RESOURCE if !values.is_empty() => {
                    let kind = match resource {
                        GROUP_RESOURCE => ResourceKind::Group,
                        _ => ResourceKind::ClientMetrics,
                    };
                    image.resource_configs.entry(kind).or_default().insert(name, values);
                }
                TOPIC_RESOURCE => {
                    self.configs.insert((TOPIC_RESOURCE, name), values);
                }
                _ => {}
            }
        }
        let mut emptiest: BTreeMap<Uuid, usize> = BTreeMap::new();
        for found in directories.iter().filter(|found| found.error.is_none()) {
            emptiest.insert(found.id(), 0);
        }
        for (id, topic) in self.topics {
            let configs = self.configs.remove(&(TOPIC_RESOURCE, topic.name.clone())).unwrap_or_default();
            let topic = topic.into_topic(id, configs, node_id, present, &mut emptiest)?;
            image.insert_topic(topic);
        }
        let is_unknown = |(topic, partition): &&(String, i32)| image.partition(topic, *partition).is_none();
        for (topic, partition) in present.keys().filter(is_unknown) {
            report.push(format!("directory {topic}-{partition} belongs to no known topic and moves aside"));
        }
        Ok(image)
    }
}

impl ImportedTopic {
    fn into_topic(
        self,
        id: Uuid,
        configs: BTreeMap<String, String>,
        node_id: i32,
        present: &Present,
        emptiest: &mut BTreeMap<Uuid, usize>,
    ) -> Result<Topic, OpenError> {
        let name = self.name;
        let refuse =
            |reason: String| Err(OpenError::Import(format!("topic {name} cannot be taken over: {reason}")));
        let mut partitions = Vec::with_capacity(self.partitions.len());
        for (index, mut partition) in self.partitions {
            if usize::try_from(index).ok() != Some(partitions.len()) {
                return refuse(format!("partition {} is missing", partitions.len()));
            }
            if partition.replicas != [node_id] {
                return refuse(format!(
                    "partition {index} has replicas {:?}, not [{node_id}]",
                    partition.replicas
                ));
            }
            // Where the files are counts for more than what was planned.
            let planned = Some(partition.directory).filter(|directory| emptiest.contains_key(directory));
            let fewest = emptiest.iter().min_by_key(|&(_, &count)| count).map(|(&directory, _)| directory);
            let actual = present.get(&(name.clone(), index)).copied();
            partition.directory = actual.or(planned).or(fewest).unwrap_or(Uuid::ZERO);
            *emptiest.entry(partition.directory).or_insert(0) += 1;
            // A stopped node may have no leader on record.
            partition.leader = node_id;
            partition.isr = vec![node_id];
            partitions.push(partition);
        }
        if partitions.is_empty() || name.is_empty() {
            return refuse("it has no partitions or no name".to_owned());
        }
        Ok(Topic { name: name.as_str().into(), id, partitions, configs })
    }
}

/// Without a metadata log: a topic for every name, its id from `partition.metadata`.
fn scan_partitions(
    io: &mut impl Io,
    directories: &[Found],
    node_id: i32,
    present: &Present,
    state: &mut Imported,
) -> Result<(), OpenError> {
    for ((name, index), directory) in present {
        let found = directories.iter().find(|found| found.id() == *directory);
        let found =
            found.ok_or_else(|| OpenError::Import(format!("log directory {directory} is not known")))?;
        let path = found.path.join(format!("{name}-{index}")).join("partition.metadata");
        let text = files::read(io, &path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("topic_id:"))
            .and_then(|id| id.trim().parse().ok());
        let Some(id) = id else {
            return Err(OpenError::Import(format!("{} does not tell the topic's id", path.display())));
        };
        let topic = state.topics.entry(id).or_default();
        name.clone_into(&mut topic.name);
        let partition = Partition {
            leader: -1,
            leader_epoch: 0,
            partition_epoch: 0,
            replicas: vec![node_id],
            isr: vec![node_id],
            directory: *directory,
            shard: None,
        };
        topic.partitions.insert(*index, partition);
    }
    Ok(())
}
