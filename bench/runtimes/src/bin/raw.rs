//! raw produce|fetch|create|check: the client of `runtimes::client` on the command line. Prints one line of JSON.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use runtimes::client::{self, Done, Fetch, Produce, Until};
use runtimes::segment;

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep produce requests of one batch each under way
    Produce {
        #[command(flatten)]
        run: Run,
        /// Requests under way on each connection; on each thread, where it holds several
        #[arg(long, default_value_t = 4)]
        in_flight: usize,
        /// Records of a batch
        #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(i32).range(1..))]
        records: i32,
        #[arg(long, default_value_t = 1024)]
        size: usize,
        #[arg(long, default_value_t = -1, allow_hyphen_values = true, value_parser = clap::value_parser!(i16).range(-1..=1))]
        acks: i16,
    },
    /// Read a topic from its start to its end, over and over
    Fetch {
        #[command(flatten)]
        run: Run,
        #[arg(long, default_value_t = 1 << 20)]
        partition_bytes: i32,
    },
    /// Create a topic and wait until it is served
    Create {
        address: SocketAddr,
        topic: String,
        partitions: i32,
        /// KEY=VALUE
        configs: Vec<String>,
    },
    /// Count the produce requests in a segment of an append server, and check its blocks
    Check { segment: PathBuf },
}

#[derive(Args)]
struct Run {
    address: SocketAddr,
    topic: String,
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Threads at most, the connections shared out to them; a produce request goes over a thread's connections in turn
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    threads: u32,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Stop after so many requests in all, however long they take
    #[arg(long)]
    requests: Option<u64>,
}

impl Run {
    fn on_each(&self, threads: u32, one: impl Fn(u32, Until) -> io::Result<Done> + Sync) -> io::Result<()> {
        let time = self.requests.is_none().then(|| Duration::from_secs_f64(self.seconds));
        let start = Barrier::new(threads as usize);
        let share = |number| match self.requests {
            Some(all) => all / u64::from(threads) + u64::from(u64::from(number) < all % u64::from(threads)),
            None => u64::MAX,
        };
        let (one, start) = (&one, &start);
        let found: Vec<_> = thread::scope(|scope| {
            let started: Vec<_> = (0..threads)
                .map(|number| {
                    scope.spawn(move || one(number, Until { start, time, requests: share(number) }))
                })
                .collect();
            started.into_iter().map(|thread| thread.join().expect("a thread does not panic")).collect()
        });
        let mut done = Done::new();
        for one in found {
            done.add(&one?);
        }
        let seconds = done.time.as_secs_f64();
        let micros = |quantile| done.latency.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "{}",
            serde_json::json!({
                "seconds": seconds, "requests": done.requests, "records": done.records, "bytes": done.bytes,
                "mb_per_second": done.bytes as f64 / seconds / 1e6, "requests_per_second": done.requests as f64 / seconds,
                "p50_us": micros(0.5), "p99_us": micros(0.99), "p99_9_us": micros(0.999), "max_us": micros(1.0),
            })
        );
        Ok(())
    }
}

fn main() -> io::Result<()> {
    match Options::parse().command {
        Command::Produce { run, in_flight, records, size, acks } => {
            if acks == 0 || in_flight == 0 {
                return Err(io::Error::other(
                    "acks=0 has no answer to count, and nothing in flight sends nothing",
                ));
            }
            let produce = Produce {
                topic: run.topic.clone(),
                partitions: run.partitions,
                in_flight,
                records,
                size,
                acks,
            };
            let threads = run.threads.min(run.connections);
            run.on_each(threads, |number, until| {
                let connections = run.connections / threads + u32::from(number < run.connections % threads);
                let first = i64::from(number) * i64::from(run.partitions) / i64::from(threads);
                produce.run(run.address, connections, first as i32, until)
            })
        }
        Command::Fetch { run, partition_bytes } => {
            let connections = run.connections.min(run.partitions as u32);
            run.on_each(connections, |number, until| {
                let partitions = (number as i32..run.partitions).step_by(connections as usize).collect();
                Fetch { topic: run.topic.clone(), partitions, partition_bytes }.run(run.address, until)
            })
        }
        Command::Create { address, topic, partitions, configs } => {
            let configs: Option<Vec<_>> = configs.iter().map(|pair| pair.split_once('=')).collect();
            let configs = configs.ok_or_else(|| io::Error::other("KEY=VALUE"))?;
            let configs: Vec<_> =
                configs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            client::create(address, &topic, partitions, &configs)
        }
        Command::Check { segment } => {
            println!("{}", segment::check(&segment)?);
            Ok(())
        }
    }
}
