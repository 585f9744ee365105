//! The topics of this shard: its partitions made what the cluster image says, at start and after every change.

use std::sync::Arc;

use super::group::OFFSETS_TOPIC;
use super::mail::{Answer, GatherRef, Task};
use super::partition::{Partition, WaiterTo};
use super::{Broker, handlers};
use crate::config::{BrokerConfig, TopicConfig};
use crate::io::Io;
use crate::metadata::placement::shard_of;
use crate::metadata::{ClusterImage, Topic};
use crate::protocol::ErrorCode;
use crate::storage::{CleanerOptions, LogId, StorageError, TopicPartition};

impl Broker {
    pub(super) fn open_logs(&mut self, io: &mut impl Io) -> Result<(), StorageError> {
        let image = self.image.clone();
        for topic in image.topics() {
            let config = Arc::new(self.config.topic_config(&topic.configs));
            for (index, placed) in topic.partitions.iter().enumerate() {
                if shard_of(topic, index as i32, self.shards) == self.shard {
                    let of = topic_partition(topic, index);
                    let dir = self.dir_index(placed.directory);
                    let log = self.storage.open_log(io, dir, of, handlers::log_config(&config))?;
                    self.insert_partition(topic, index, placed.leader_epoch, log, config.clone());
                }
            }
        }
        Ok(())
    }

    fn insert_partition(
        &mut self,
        topic: &Topic,
        index: usize,
        leader_epoch: i32,
        log: LogId,
        config: Arc<TopicConfig>,
    ) {
        self.partitions.insert(Partition::new(
            log,
            topic.name.clone(),
            topic.id,
            index as i32,
            leader_epoch,
            config,
        ));
    }

    /// Makes this shard's partitions what `image` says.
    pub(super) fn apply_image(&mut self, io: &mut impl Io, image: Arc<ClusterImage>) {
        let old = std::mem::replace(&mut self.image, image.clone());
        let (removed, changed) = image.changes_since(&old);
        removed.iter().for_each(|topic| self.remove_topic(io, topic));
        changed.iter().for_each(|topic| self.apply_topic(io, topic));
        if old.broker_configs != image.broker_configs {
            self.apply_broker_configs(io);
        }
        self.coordinator_image_changed(&old);
    }

    /// A topic that is new, or has changed.
    fn apply_topic(&mut self, io: &mut impl Io, topic: &Arc<Topic>) {
        let config = Arc::new(self.config.topic_config(&topic.configs));
        for (index, placed) in topic.partitions.iter().enumerate() {
            if shard_of(topic, index as i32, self.shards) != self.shard {
                continue;
            }
            if let Some(partition) = self.partitions.find(topic.id, index as i32) {
                partition.rules = handlers::produce::rules(&config);
                partition.config = config.clone();
                partition.leader_epoch = placed.leader_epoch;
                let log = partition.log;
                self.storage.set_config(log, handlers::log_config(&config));
                self.storage.log_placed(io, log, self.dir_index(placed.directory));
                continue;
            }
            let dir = self.dir_index(placed.directory);
            match self.storage.create_log(dir, topic_partition(topic, index), handlers::log_config(&config)) {
                Ok(log) => self.insert_partition(topic, index, placed.leader_epoch, log, config.clone()),
                Err(error) => {
                    tracing::error!(topic = %topic.name, partition = index, %error, "no log for a new partition");
                }
            }
        }
        self.coordinator_topic_changed(topic);
        self.transaction_topic_changed(topic);
    }

    fn apply_broker_configs(&mut self, io: &mut impl Io) {
        let image = self.image.clone();
        let config =
            self.config.with_dynamic(image.default_broker_config(), image.broker_config(image.node_id));
        self.config = Arc::new(config);
        image.topics().for_each(|topic| self.apply_topic(io, topic));
    }

    /// Its configuration now, with what clients have set.
    pub fn config(&self) -> &Arc<BrokerConfig> {
        &self.config
    }

    pub fn configure_storage(&mut self, cleaner: CleanerOptions, producer_id_expiration_ms: i64) {
        self.storage.configure(cleaner, producer_id_expiration_ms);
    }

    fn remove_topic(&mut self, io: &mut impl Io, topic: &Arc<Topic>) {
        for index in 0..topic.partitions.len() {
            let Some(mut partition) = self.partitions.remove(topic.id, index as i32) else { continue };
            self.storage.delete_log(io, partition.log);
            let watches: Vec<GatherRef> = partition.take_watches().collect();
            while let Some(waiter) = partition.pop_waiter(i64::MAX) {
                if let WaiterTo::Gather(gather, index) = waiter.to {
                    self.answer(io, gather, index, Answer::Error(ErrorCode::UnknownTopicOrPartition));
                }
            }
            let mut waiting = partition.admissions.take_all();
            waiting.extend(std::mem::take(&mut partition.stalled));
            self.stalled_bytes -= waiting.iter().map(Task::produce_bytes).sum::<usize>();
            for task in std::mem::take(&mut partition.parked).into_iter().chain(waiting) {
                self.answer(io, task.gather, task.index, Answer::Error(ErrorCode::UnknownTopicOrPartition));
            }
            for gather in watches {
                if usize::from(gather.shard) == self.shard {
                    handlers::fetch::moved(self, io, gather);
                } else {
                    self.post.letters.to(usize::from(gather.shard)).push_ready(gather);
                }
            }
        }
        self.coordinator_topic_deleted(io, topic);
        self.transaction_topic_deleted(io, topic);
    }
}

fn topic_partition(topic: &Topic, index: usize) -> TopicPartition {
    TopicPartition { topic: topic.name.clone(), topic_id: topic.id, partition: index as i32 }
}

/// Existing offsets lie where they were hashed to, whatever the configuration says now.
pub(super) fn offsets_partitions(image: &ClusterImage, config: &BrokerConfig) -> i32 {
    image
        .topic(OFFSETS_TOPIC)
        .map_or(config.groups.offsets_topic_partitions, |topic| topic.partitions.len() as i32)
}
