//! All consumer instances: so many at once, and none that nobody uses any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::consumer::Consumer;
use crate::config::HttpConfig;
use crate::control::error::ApiError;

/// How often idle ones are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);

type Key = (String, String);

pub struct Instances {
    max: usize,
    idle_max: Duration,
    all: Mutex<BTreeMap<Key, Arc<Consumer>>>,
}

impl Instances {
    pub fn new(config: &HttpConfig) -> Instances {
        Instances {
            max: config.consumers_max,
            idle_max: Duration::from_millis(config.consumer_idle_ms),
            all: Mutex::new(BTreeMap::new()),
        }
    }

    pub fn add(&self, consumer: Consumer) -> Result<(), ApiError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (consumer.group.clone(), consumer.id.clone());
        if all.contains_key(&key) {
            let text = "Consumer with specified consumer ID already exists in the specified consumer group.";
            return Err(ApiError::new(40902, text));
        }
        if all.len() >= self.max {
            return Err(ApiError::new(429, format!("There are {} consumer instances already.", self.max)));
        }
        all.insert(key, Arc::new(consumer));
        Ok(())
    }

    /// The one that a call is for; it counts as used.
    pub fn find(&self, group: &str, id: &str) -> Result<Arc<Consumer>, ApiError> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(&(group.to_owned(), id.to_owned())).cloned();
        let found = found.ok_or_else(|| ApiError::new(40403, "Consumer instance not found."))?;
        found.touch();
        Ok(found)
    }

    pub fn take(&self, group: &str, id: &str) -> Result<Arc<Consumer>, ApiError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.remove(&(group.to_owned(), id.to_owned()));
        found.ok_or_else(|| ApiError::new(40403, "Consumer instance not found."))
    }

    /// Closes idle ones, for ever.
    pub async fn expire(self: Arc<Instances>) {
        let every = EXPIRE_EVERY.min(self.idle_max);
        loop {
            tokio::time::sleep(every).await;
            let idle: Vec<Arc<Consumer>> = {
                let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
                let (idle, kept) =
                    std::mem::take(&mut *all).into_iter().partition(|(_, one)| one.idle() > self.idle_max);
                *all = kept;
                BTreeMap::into_values(idle).collect()
            };
            for consumer in idle {
                tracing::info!(
                    group = consumer.group,
                    instance = consumer.id,
                    "idle consumer instance closed"
                );
                consumer.close().await;
            }
        }
    }
}
