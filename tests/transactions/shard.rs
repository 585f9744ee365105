//! A whole shard on the simulated machine, and one client that asks it one thing at a time.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ringlog::broker::{Broker, Parts, log_config};
use ringlog::config::{BrokerConfig, Routing, Settings};
use ringlog::io::Io;
use ringlog::io::buffer::BufferPool;
use ringlog::metadata::{Embedded, OpenOptions};
use ringlog::protocol::Request;
use ringlog::protocol::frame::{encode_request, parse_length};
use ringlog::server::balance::Balance;
use ringlog::server::connection::Limits;
use ringlog::server::connection_quota::ConnectionQuota;
use ringlog::server::mailbox::PostOffice;
use ringlog::server::shard::{Shard, ShardLimits};
use ringlog::storage::{self, Storage, StorageOptions};

use crate::sim_io::sim_net::SocketId;
use crate::sim_io::{ClientState, Crash, SimIo, SimOptions, SimWorld};

const ADDRESS: ([u8; 4], u16) = ([10, 0, 0, 1], 9092);
const DIR: &str = "/disk/data";
const SECOND_NS: u64 = 1_000_000_000;
/// Virtual time within which everything is answered.
const PATIENCE_NS: u64 = 60 * SECOND_NS;

pub struct OneShard {
    pub world: SimWorld,
    config: Arc<BrokerConfig>,
    shard: Shard<SimIo>,
    client: SocketId,
}

impl OneShard {
    pub fn new(seed: u64) -> OneShard {
        OneShard::with(seed, &[])
    }

    pub fn with(seed: u64, more: &[&str]) -> OneShard {
        let world = SimWorld::new(seed, SimOptions::default());
        world.set_cooperative(true);
        let dir = PathBuf::from(DIR);
        world.add_disk(dir.parent().unwrap());
        world.create_dir_all(&dir);
        let mut settings = Settings::new();
        settings.add_set(&format!("log.dirs={DIR}"));
        settings.add_set("listeners=PLAINTEXT://10.0.0.1:9092");
        more.iter().for_each(|setting| settings.add_set(setting));
        let config = Arc::new(settings.resolve().unwrap().0);
        let shard = shard(&world, &config);
        let client = world.client_connect(SocketAddr::from(ADDRESS), 64 << 10);
        let mut one = OneShard { world, config, shard, client };
        one.until_connected();
        one
    }

    /// A kill, and the next life of the broker.
    pub fn restart(&mut self) {
        self.world.crash(&[self.shard.io.id()], Crash::Kill);
        self.shard = shard(&self.world, &self.config);
        self.client = self.world.client_connect(SocketAddr::from(ADDRESS), 64 << 10);
        self.until_connected();
    }

    fn until_connected(&mut self) {
        self.run_until(|one| one.world.client_state(one.client) == ClientState::Open);
    }

    /// Lets the shard rest until something happens to it, for so long.
    pub fn rest(&mut self, seconds: u64) {
        let until_ns = self.world.now() + seconds * SECOND_NS;
        while self.world.now() < until_ns {
            self.step(until_ns);
        }
        while self.world.runnable(self.shard.io.id()) {
            self.shard.turn(u64::MAX);
        }
    }

    /// The frame of the answer.
    pub fn ask<'q, R: Request<'q>>(&mut self, version: i16, request: &R) -> Vec<u8> {
        let frame = encode_request(version, 1, Some("one"), request);
        assert_eq!(self.world.client_send(self.client, &frame), frame.len());
        let mut input = Vec::new();
        self.run_until(|one| {
            while one.world.client_receive(one.client, 1 << 20, &mut input) > 0 {}
            parse_length(&input, 1 << 20).unwrap().is_some_and(|length| input.len() == 4 + length)
        });
        input.split_off(4)
    }

    fn run_until(&mut self, mut done: impl FnMut(&OneShard) -> bool) {
        let until_ns = self.world.now() + PATIENCE_NS;
        while !done(self) {
            assert!(self.world.now() < until_ns, "it hangs");
            self.step(until_ns);
        }
    }

    fn step(&mut self, until_ns: u64) {
        if self.world.runnable(self.shard.io.id()) {
            self.shard.turn(u64::MAX);
        } else {
            self.world.advance(until_ns);
        }
    }
}

fn shard(world: &SimWorld, config: &Arc<BrokerConfig>) -> Shard<SimIo> {
    let dirs = &[PathBuf::from(DIR)];
    let mut io = world.driver();
    storage::lock_dirs(&mut io, dirs).unwrap();
    let open = OpenOptions {
        log_dirs: dirs.to_vec(),
        node_id: config.configured_node_id(),
        cluster_id: config.cluster_id.clone(),
    };
    let opened = Embedded::open(&mut io, &open).unwrap();
    let image = opened.image.clone();
    let topics = |id| {
        let topic = image.topic_by_id(id)?;
        Some((topic.name.clone(), log_config(&config.topic_config(&topic.configs))))
    };
    storage::recover(&mut io, dirs, &topics, &|_, _| None).unwrap();
    let pool = BufferPool::new(48 << 20);
    let mut options = StorageOptions::new(0, dirs.to_vec(), pool);
    options.journal_file_bytes = 64 << 10;
    let storage = Storage::open(&mut io, options).unwrap();
    let parts = Parts {
        shard: 0,
        shards: 1,
        config: config.clone(),
        image: opened.image.clone(),
        dir_ids: opened.directories.iter().map(|directory| directory.id).collect(),
        endpoints: vec![("10.0.0.1".to_string(), 9092)],
        storage,
        metadata: Some(opened.embedded),
        seed: 1,
    };
    let broker = Broker::open(&mut io, parts).unwrap();
    let (listener, _) = io.listen(SocketAddr::from(ADDRESS), false).unwrap();
    let limits = ShardLimits {
        connections: Arc::new(ConnectionQuota::new(&BrokerConfig::default().sockets, 100)),
        balance: Arc::new(Balance::new(1, Routing::Shared)),
        connection: Limits { in_flight_max: 5, frame_bytes_max: 1 << 20 },
        input_bytes_max: 1 << 20,
        idle_ns: 600 * SECOND_NS,
        disks: None,
        shards: 1,
    };
    Shard::new(io, broker, PostOffice::new(1).mailbox(0), vec![(listener, 0)], limits)
}
