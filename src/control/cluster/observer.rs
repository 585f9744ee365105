//! Snapshots of all shards, shared by those who ask at about the same time, and what the last minutes were like: latency
//! percentiles and load are of a window, as Kafka's are, not of all time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as AsyncMutex;

use super::{CallError, Cluster};
use crate::broker::survey::PartitionState;
use crate::metadata::ClusterImage;
use crate::metrics::{APIS, HistogramValues};
use crate::server::local::ShardState;

/// How often the shards are asked whether they live.
const PULSE: Duration = Duration::from_secs(2);
/// How long one may take.
const PULSE_WAIT: Duration = Duration::from_secs(10);
/// A piece of a snapshot.
const PIECE_WAIT: Duration = Duration::from_secs(10);
/// The window of percentiles, and its steps.
const STEP: Duration = Duration::from_secs(10);
const STEPS: usize = 30;

/// All shards at about one moment.
pub struct Snapshot {
    pub at: Instant,
    pub image: Arc<ClusterImage>,
    pub shards: Vec<ShardState>,
    /// By topic and partition.
    pub partitions: Vec<PartitionState>,
}

impl Snapshot {
    /// Those of one topic.
    pub fn partitions_of(&self, topic: &str) -> &[PartitionState] {
        let start = self.partitions.partition_point(|state| &*state.topic < topic);
        let end = self.partitions.partition_point(|state| &*state.topic <= topic);
        &self.partitions[start..end]
    }

    pub fn partition(&self, topic: &str, partition: i32) -> Option<&PartitionState> {
        self.partitions_of(topic).iter().find(|state| state.partition == partition)
    }
}

/// The shards' totals at one moment.
#[derive(Clone)]
struct Totals {
    at: Instant,
    /// By API key; those never used are `None`.
    apis: Vec<Option<HistogramValues>>,
    busy_ns: Vec<u64>,
}

/// What happened in the window.
pub struct Window {
    /// API keys that were used since the start, with the times of the window.
    pub apis: Vec<(i16, HistogramValues)>,
    /// The part of its time that each shard worked, 0 to 1.
    pub busy: Vec<f64>,
}

pub struct Observer {
    cluster: Arc<Cluster>,
    kept: AsyncMutex<Option<Arc<Snapshot>>>,
    totals: Mutex<VecDeque<Totals>>,
    began: Instant,
    /// When each shard answered last, in ms since `began`.
    seen_ms: Vec<AtomicU64>,
}

impl Observer {
    pub fn new(cluster: Arc<Cluster>) -> Observer {
        let seen_ms = cluster.shards.iter().map(|_| AtomicU64::new(0)).collect();
        Observer {
            cluster,
            kept: AsyncMutex::new(None),
            totals: Mutex::new(VecDeque::new()),
            began: Instant::now(),
            seen_ms,
        }
    }

    /// Runs beside the HTTP server as long as the process.
    pub async fn run(self: Arc<Observer>) {
        let mut pulse = tokio::time::interval(PULSE);
        let mut step = tokio::time::interval(STEP);
        loop {
            tokio::select! {
                _ = pulse.tick() => {
                    for shard in 0..self.cluster.shards.len() {
                        if self.cluster.survey(shard, None, false, PULSE_WAIT).await.is_ok() {
                            let ms = self.began.elapsed().as_millis() as u64;
                            self.seen_ms[shard].store(ms, Ordering::Relaxed);
                        }
                    }
                }
                _ = step.tick() => self.remember(),
            }
        }
    }

    /// How long ago each shard answered last.
    pub fn silent_for(&self) -> Vec<Duration> {
        let now = self.began.elapsed();
        let seen = self.seen_ms.iter().map(|ms| Duration::from_millis(ms.load(Ordering::Relaxed)));
        seen.map(|seen| now.saturating_sub(seen)).collect()
    }

    /// A snapshot that is not older than `age`.
    pub async fn snapshot(&self, age: Duration) -> Result<Arc<Snapshot>, CallError> {
        // Held while a new one is made: those who come meanwhile share it.
        let mut kept = self.kept.lock().await;
        if let Some(snapshot) = kept.as_ref().filter(|snapshot| snapshot.at.elapsed() <= age) {
            return Ok(snapshot.clone());
        }
        let snapshot = Arc::new(self.take().await?);
        *kept = Some(snapshot.clone());
        Ok(snapshot)
    }

    async fn take(&self) -> Result<Snapshot, CallError> {
        let at = Instant::now();
        let mut shards = Vec::with_capacity(self.cluster.shards.len());
        let mut partitions = Vec::new();
        for shard in 0..self.cluster.shards.len() {
            let mut state = self.cluster.survey(shard, Some(0), true, PIECE_WAIT).await?;
            partitions.append(&mut state.partitions);
            let mut next = state.next;
            while let Some(cursor) = next {
                let mut piece = self.cluster.survey(shard, Some(cursor), false, PIECE_WAIT).await?;
                partitions.append(&mut piece.partitions);
                next = piece.next;
            }
            shards.push(state);
        }
        partitions.sort_unstable_by(|one, other| {
            one.topic.cmp(&other.topic).then(one.partition.cmp(&other.partition))
        });
        let image = shards.iter().map(|shard| &shard.broker.image).max_by_key(|image| image.revision);
        let image = image.ok_or(CallError::Refused)?.clone();
        Ok(Snapshot { at, image, shards, partitions })
    }

    fn totals_now(&self) -> Totals {
        let shards = &self.cluster.shards;
        let of_api = |key: usize| {
            let mut all = HistogramValues::default();
            shards.iter().for_each(|shard| all.add(&shard.metrics.api(key as i16).time.values()));
            (all.count() > 0).then_some(all)
        };
        Totals {
            at: Instant::now(),
            apis: (0..APIS).map(of_api).collect(),
            busy_ns: shards.iter().map(|shard| shard.metrics.busy_ns.value()).collect(),
        }
    }

    fn remember(&self) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        if totals.len() >= STEPS {
            totals.pop_front();
        }
        totals.push_back(self.totals_now());
    }

    /// The last five minutes; for the load the last one.
    pub fn window(&self) -> Window {
        let now = self.totals_now();
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = totals.front().map_or_else(Vec::new, |first| first.apis.clone());
        let apis = (0i16..).zip(&now.apis).filter_map(|(key, values)| {
            let values = values.as_ref()?;
            let before = oldest.get(key as usize).and_then(Option::as_ref);
            Some((key, before.map_or_else(|| values.clone(), |before| values.since(before))))
        });
        let apis = apis.collect();
        let minute = totals.get(totals.len().saturating_sub(6));
        let busy = now.busy_ns.iter().enumerate().map(|(shard, busy_ns)| {
            let Some(minute) = minute else { return 0.0 };
            let passed_ns = now.at.duration_since(minute.at).as_nanos().max(1) as f64;
            let worked_ns = busy_ns.saturating_sub(minute.busy_ns[shard]) as f64;
            (worked_ns / passed_ns).clamp(0.0, 1.0)
        });
        Window { apis, busy: busy.collect() }
    }
}
