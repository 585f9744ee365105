//! What of the configuration may change while the shard runs and is not the broker's own: connections (`max.connections*`),
//! compaction (`log.cleaner.*`), moves between log directories, and how long producers are remembered.

use std::sync::Arc;

use super::Shard;
use crate::broker::CONTROL_SHARD;
use crate::io::Io;
use crate::server::share;
use crate::storage::CleanerOptions;

impl<I: Io> Shard<I> {
    /// Takes over what the broker has been told; at the start what had been set before.
    pub(super) fn follow_config(&mut self) {
        let config = self.broker.config();
        if self.followed.as_ref().is_some_and(|followed| Arc::ptr_eq(followed, config)) {
            return;
        }
        let config = config.clone();
        self.followed = Some(config.clone());
        if self.broker.shard() == CONTROL_SHARD {
            self.limits.connections.configure(&config.sockets);
        }
        let Some(disks) = &self.limits.disks else { return };
        let (storage, shards) = (&config.storage, self.limits.shards);
        let cleaner = CleanerOptions {
            enable: storage.cleaner_enable,
            backoff_ms: storage.cleaner_backoff_ms as i64,
            dedupe_buffer_bytes: storage.cleaner_dedupe_buffer_bytes as usize / shards,
            io_max_bytes_per_second: share::cleaner_bytes_per_second(&config, disks) / shards as f64,
        };
        self.broker.configure_storage(cleaner, config.transactions.producer_id_expiration_ms);
        self.broker.configure_moves(storage.move_bytes_per_second / shards as f64);
    }
}
