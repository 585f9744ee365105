//! Counters of one shard. The shard adds, anyone reads: each counter has one writer, so relaxed order is enough.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// By the owning shard alone.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// All counters of a shard.
        #[derive(Debug, Default)]
        pub struct ShardMetrics {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl ShardMetrics {
            /// Every counter with its name, in a fixed order.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.value()),)*]
            }
        }
    };
}

counters! {
    turns,
    completions,
    connections_opened,
    connections_closed,
    connections_refused,
    bytes_received,
    bytes_sent,
    requests,
    /// Requests that ended a connection.
    requests_refused,
    records_produced,
    bytes_produced,
    bytes_fetched,
    /// Parts of requests sent to another shard.
    tasks_sent,
    fetches_parked,
}
