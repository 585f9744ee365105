//! The command line of both servers.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// When a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ack {
    /// The kernel has completed the write.
    Written,
    /// The write and the data sync behind it are complete.
    Durable,
}

#[derive(Clone, Debug, Parser)]
pub struct Options {
    #[arg(long, default_value = "127.0.0.1:24100")]
    pub listen: SocketAddr,
    /// Where the segments are, one a thread; those of another size are written anew at the start
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long, value_enum, default_value = "written")]
    pub ack: Ack,
    /// Threads, each with its own ring, connections and segment, pinned where the machine has a core for each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..=65536))]
    pub segment_mib: u64,
    /// Writes under way at once; with a sync, one after the other is the usual group commit
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub depth: Option<u16>,
    /// Keep the batches in memory instead and answer fetches from there, up to so much
    #[arg(long, value_name = "MIB")]
    pub memory: Option<usize>,
}

impl Options {
    pub fn depth(&self) -> usize {
        self.depth.map_or(if self.ack == Ack::Durable { 1 } else { 4 }, usize::from)
    }

    pub fn segment_bytes(&self) -> u64 {
        self.segment_mib << 20
    }

    /// The thread's core, where there is one for each.
    pub fn core(&self, thread: u16) -> Option<usize> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // From the last core down: the client's threads start at the first more often than not.
        (cores >= usize::from(self.threads)).then(|| cores - 1 - usize::from(thread))
    }
}
