//! What the disk under a directory can do: bandwidth, operations a second, latency of synced writes, through the driver that
//! the broker would use, on a file of its own whose blocks were written before (as the journal's are).
//!
//! The result is kept in the directory; a broker that starts there bounds its background work by it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{BLOCK_BYTES, Completion, Errno, Handle, Io, Op, OpenMode, Payload, Token};

const LARGE_BYTES: usize = 1 << 20;
const BATCH_BYTES: usize = 128 << 10;
const DEPTH_LARGE: usize = 4;
const DEPTH_SMALL: usize = 32;
/// The name of what is kept, in the directory.
const KEPT: &str = ".ringlog-measured.json";

#[derive(Clone, Debug)]
pub struct Options {
    pub dir: PathBuf,
    /// Size of the file that is written, whole blocks of [`LARGE_BYTES`].
    pub file_bytes: u64,
    /// How long each of the six tests takes.
    pub test_ns: u64,
}

/// What a directory's disk does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    pub driver: String,
    pub file_bytes: u64,
    /// 1 MiB, 4 in flight, overwriting.
    pub write_bytes_per_second: f64,
    pub read_bytes_per_second: f64,
    /// 4 KiB at random places, 32 in flight.
    pub reads_per_second: f64,
    pub writes_per_second: f64,
    /// With data sync, one at a time.
    pub synced_4k: Latency,
    pub synced_128k: Latency,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Measured {
    /// What was kept in a directory, if anything that can be read.
    pub fn load(dir: &Path) -> Option<Measured> {
        serde_json::from_slice(&std::fs::read(dir.join(KEPT)).ok()?).ok()
    }

    /// What is shown of it: name, value and unit.
    pub fn rows(&self) -> [(&'static str, f64, &'static str); 10] {
        let (small, batch) = (&self.synced_4k, &self.synced_128k);
        [
            ("write, 1 MiB x 4", self.write_bytes_per_second / 1e6, "MB/s"),
            ("read, 1 MiB x 4", self.read_bytes_per_second / 1e6, "MB/s"),
            ("reads, 4 KiB x 32, random", self.reads_per_second, "/s"),
            ("writes, 4 KiB x 32, random", self.writes_per_second, "/s"),
            ("synced writes, 4 KiB", small.per_second, "/s"),
            ("synced writes, 4 KiB, p50", small.p50_us, "us"),
            ("synced writes, 4 KiB, p99", small.p99_us, "us"),
            ("synced writes, 128 KiB", batch.per_second, "/s"),
            ("synced writes, 128 KiB, p50", batch.p50_us, "us"),
            ("synced writes, 128 KiB, p99", batch.p99_us, "us"),
        ]
    }

    pub fn keep(&self, dir: &Path) -> io::Result<()> {
        std::fs::write(dir.join(KEPT), serde_json::to_vec_pretty(self)?)
    }
}

/// Measures; the file is removed whatever happens.
pub fn measure<I: Io>(
    io: &mut I,
    driver: &str,
    options: &Options,
    mut says: impl FnMut(&str),
) -> Result<Measured, Errno> {
    let path = options.dir.join(format!(".ringlog-measure-{:x}", io.random()));
    let mode = OpenMode { write: true, create: true, truncate: true, direct: true, directory: false };
    let file = match io.block_on(Op::Open { path: path.clone(), mode }) {
        Completion { payload: Payload::Opened { file }, .. } => file,
        Completion { result, .. } => return Err(result.err().unwrap_or(Errno::IO)),
    };
    let mut bench = Bench::new(io, file, options);
    let measured = bench.run(&mut says);
    io.block_on(Op::Close { handle: file });
    io.block_on(Op::Unlink { path });
    let mut measured = measured?;
    measured.driver = driver.to_owned();
    measured.file_bytes = options.file_bytes;
    measured.at_ms = io.wall_ms();
    Ok(measured)
}

#[derive(Clone, Copy)]
enum What {
    Read,
    Write { sync: bool },
}

/// One test: what, how large, how many in flight, whether at random places.
#[derive(Clone, Copy)]
struct Test {
    what: What,
    bytes: usize,
    depth: usize,
    random: bool,
}

struct Bench<'a, I: Io> {
    io: &'a mut I,
    file: Handle,
    file_bytes: u64,
    test_ns: u64,
    data: Slice,
    /// State of a small generator: places need to be scattered, no more.
    places: u64,
}

/// What a test came to.
struct Ran {
    operations: u64,
    bytes: u64,
    seconds: f64,
    latencies_ns: Histogram<u64>,
}

impl<'a, I: Io> Bench<'a, I> {
    fn new(io: &'a mut I, file: Handle, options: &Options) -> Self {
        let mut data = AlignedBuf::unbudgeted(LARGE_BYTES);
        let mut places = io.random() | 1;
        // Nothing that a disk could compress.
        for word in data.chunks_exact_mut(8) {
            word.copy_from_slice(&next(&mut places).to_ne_bytes());
        }
        let file_bytes = (options.file_bytes / LARGE_BYTES as u64).max(4) * LARGE_BYTES as u64;
        Bench { io, file, file_bytes, test_ns: options.test_ns, data: data.freeze(), places }
    }

    fn run(&mut self, says: &mut impl FnMut(&str)) -> Result<Measured, Errno> {
        let large =
            Test { what: What::Write { sync: false }, bytes: LARGE_BYTES, depth: DEPTH_LARGE, random: false };
        says("writing the file");
        self.test(large, Some(self.file_bytes))?;
        let sync = self.io.block_on(Op::Sync { file: self.file, data_only: true });
        sync.result?;
        says("write bandwidth");
        let writes = self.test(large, None)?;
        says("read bandwidth");
        let reads = self.test(Test { what: What::Read, ..large }, None)?;
        let small = Test { bytes: BLOCK_BYTES, depth: DEPTH_SMALL, random: true, ..large };
        says("small reads");
        let small_reads = self.test(Test { what: What::Read, ..small }, None)?;
        says("small writes");
        let small_writes = self.test(small, None)?;
        let synced = Test { what: What::Write { sync: true }, depth: 1, random: false, ..small };
        says("synced writes of 4 KiB");
        let synced_4k = self.test(synced, None)?;
        says("synced writes of 128 KiB");
        let synced_128k = self.test(Test { bytes: BATCH_BYTES, ..synced }, None)?;
        Ok(Measured {
            write_bytes_per_second: writes.bytes as f64 / writes.seconds,
            read_bytes_per_second: reads.bytes as f64 / reads.seconds,
            reads_per_second: small_reads.operations as f64 / small_reads.seconds,
            writes_per_second: small_writes.operations as f64 / small_writes.seconds,
            synced_4k: synced_4k.latency(),
            synced_128k: synced_128k.latency(),
            ..Measured::default()
        })
    }

    /// Keeps `depth` ops in flight for the time of a test, or until `bytes_max` were asked for.
    fn test(&mut self, test: Test, bytes_max: Option<u64>) -> Result<Ran, Errno> {
        let mut result = Ran {
            operations: 0,
            bytes: 0,
            seconds: 0.0,
            latencies_ns: Histogram::new(3).expect("three digits are allowed"),
        };
        let mut begun: BTreeMap<u64, u64> = BTreeMap::new();
        let mut spare: Vec<AlignedBuf> =
            (0..test.depth).map(|_| AlignedBuf::unbudgeted(test.bytes)).collect();
        let mut out = Vec::new();
        self.io.turn(0, &mut out);
        let start = self.io.now();
        let (mut number, mut failed, mut asked) = (0u64, None, 0u64);
        loop {
            let over = match bytes_max {
                Some(max) => asked >= max,
                None => self.io.now() >= start.saturating_add(self.test_ns),
            };
            while !over
                && failed.is_none()
                && begun.len() < test.depth
                && bytes_max.is_none_or(|max| asked < max)
            {
                let op = self.op(test, number, &mut spare);
                begun.insert(number, self.io.now());
                self.io.submit(op, Token(number));
                number += 1;
                asked += test.bytes as u64;
            }
            if begun.is_empty() {
                break;
            }
            self.io.turn(u64::MAX, &mut out);
            let now = self.io.now();
            for completion in out.drain(..) {
                let Some(at) = begun.remove(&completion.token.0) else { continue };
                match completion.result {
                    Ok(bytes) => {
                        result.operations += 1;
                        result.bytes += bytes as u64;
                        // It grows with what it is given; a refusal can only mean that there is no memory.
                        let _ = result.latencies_ns.record(now - at);
                    }
                    Err(errno) => failed = failed.or(Some(errno)),
                }
                if let Payload::Buffer(buf) = completion.payload {
                    spare.push(buf);
                }
            }
        }
        result.seconds = ((self.io.now() - start) as f64 / 1e9).max(1e-9);
        failed.map_or(Ok(result), Err)
    }

    fn op(&mut self, test: Test, number: u64, spare: &mut Vec<AlignedBuf>) -> Op {
        let places = self.file_bytes / test.bytes as u64;
        let place = if test.random { next(&mut self.places) % places } else { number % places };
        let (file, offset) = (self.file, place * test.bytes as u64);
        match test.what {
            What::Read => {
                let buf = spare.pop().unwrap_or_else(|| AlignedBuf::unbudgeted(test.bytes));
                Op::Read { file, offset, buf, len: test.bytes }
            }
            What::Write { sync } => Op::Write { file, offset, data: self.data.slice(0, test.bytes), sync },
        }
    }
}

impl Ran {
    fn latency(&self) -> Latency {
        let us = |ns: u64| ns as f64 / 1e3;
        Latency {
            per_second: self.operations as f64 / self.seconds,
            p50_us: us(self.latencies_ns.value_at_quantile(0.5)),
            p99_us: us(self.latencies_ns.value_at_quantile(0.99)),
            max_us: us(self.latencies_ns.max()),
        }
    }
}

/// xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
