//! One producer: takes records as the plan gives them, chooses their partitions and fills batches.
//!
//! As in Kafka's producer a batch may go once it is full or has lingered, and takes records until it goes. A partition's batches
//! wait in the order of their sequences; one that comes back for a retry takes its old place. Called by [`super::sender`].

use std::collections::VecDeque;

use super::batch::{Batch, ProducerId, Template};
use super::options::{Keys, Options, Pace};
use super::payload::{Random, mix};
use super::recorder::{Recorder, Series};
use super::schedule::{Phases, Schedule};
use super::verify::Sent;
use crate::record::partitioner::partition_of;

/// Buffers kept for reuse hold at most this many bytes a thread.
const SPARE_BYTES_MAX: usize = 64 << 20;

/// The batches of one producer for one partition.
#[derive(Debug, Default)]
pub struct PartitionQueue {
    /// By sequence. The last may take records while it was never sent and is not full.
    pub batches: VecDeque<Batch>,
    pub in_flight: u32,
    /// Whether it stands in a lane's list.
    pub queued: bool,
    pub retry_at_ns: u64,
    /// An idempotent producer lost a batch for good: what follows would leave a hole.
    pub dead: bool,
    pub sent: Sent,
}

impl PartitionQueue {
    /// Whether the first batch may be sent, retries aside.
    pub fn is_ripe(&self, template: &Template, linger_ns: u64, now_ns: u64) -> bool {
        self.batches.front().is_some_and(|batch| {
            batch.attempts > 0
                || self.batches.len() > 1
                || batch.is_full(template)
                || batch.first_intended_ns.saturating_add(linger_ns) <= now_ns
        })
    }

    /// Whether a retry has to wait for others or for its time.
    pub fn must_wait(&self, now_ns: u64) -> bool {
        self.batches
            .front()
            .is_some_and(|batch| batch.attempts > 0 && (self.in_flight > 0 || now_ns < self.retry_at_ns))
    }

    /// Takes a batch back that has to be sent again.
    pub fn put_back(&mut self, batch: Batch) {
        let at = self.batches.partition_point(|other| other.first_sequence < batch.first_sequence);
        self.batches.insert(at, batch);
    }
}

/// What the producers of a thread share: the template, memory, and the limits.
pub struct Workshop {
    pub template: Template,
    pub keys: Keys,
    pub closed_loop: bool,
    pub linger_ns: u64,
    record_bytes: usize,
    buffered_bytes: usize,
    buffer_bytes_max: usize,
    spare: Vec<(Vec<u8>, Vec<u8>)>,
    spare_bytes: usize,
    blocked_since_ns: Option<u64>,
    unblocked_ns: u64,
    /// Partitions whose first batch has become ripe.
    pub ripe: Vec<(u32, u32)>,
    /// Batches that will be ripe at a time: due, producer, partition, first sequence.
    pub lingering: VecDeque<(u64, u32, u32, u64)>,
}

impl Workshop {
    pub fn new(options: &Options, run: u32) -> Workshop {
        let template =
            Template::new(run, options.record_bytes, options.key_bytes(), options.batch_bytes, options.codec);
        Workshop {
            template,
            keys: options.keys,
            closed_loop: options.pace == Pace::Max,
            linger_ns: options.linger_ns,
            record_bytes: options.record_bytes,
            buffered_bytes: 0,
            buffer_bytes_max: options.buffer_bytes / options.threads as usize,
            spare: Vec::new(),
            spare_bytes: 0,
            blocked_since_ns: None,
            unblocked_ns: 0,
            ripe: Vec::new(),
            lingering: VecDeque::new(),
        }
    }

    /// Whether another record may be buffered; the time in which none may is the broker's doing, not the generator's lag.
    fn has_room(&mut self, now_ns: u64, recorder: &mut Recorder) -> bool {
        let room = self.buffered_bytes + self.record_bytes <= self.buffer_bytes_max;
        match (room, self.blocked_since_ns) {
            (false, None) => self.blocked_since_ns = Some(now_ns),
            (true, Some(since)) => {
                recorder.counts.blocked_ns += now_ns - since;
                self.blocked_since_ns = None;
                self.unblocked_ns = now_ns;
            }
            _ => {}
        }
        room
    }

    pub fn is_blocked(&self) -> bool {
        self.blocked_since_ns.is_some()
    }

    /// How late something that was due is done.
    fn lag_ns(&self, due_ns: u64, now_ns: u64) -> u64 {
        now_ns.saturating_sub(due_ns.max(self.unblocked_ns))
    }

    fn new_batch(&mut self, partition: u32, first_sequence: u64) -> Batch {
        let (bytes, packed) = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= bytes.capacity() + packed.capacity();
        Batch::new(bytes, packed, partition, first_sequence)
    }

    /// Gives the memory of a batch back that is done with.
    pub fn recycle(&mut self, batch: Batch) {
        self.buffered_bytes -= batch.count as usize * self.record_bytes;
        let bytes = batch.bytes.capacity() + batch.packed.capacity();
        if self.spare_bytes + bytes <= SPARE_BYTES_MAX {
            self.spare_bytes += bytes;
            self.spare.push((batch.bytes, batch.packed));
        }
    }
}

/// See the module.
pub struct Producer {
    /// Its number among all producers of the run.
    pub number: u16,
    pub id: ProducerId,
    /// Producers of one group share connections.
    pub group: u32,
    pub schedule: Schedule,
    pub partitions: Vec<PartitionQueue>,
    current: usize,
    random: Random,
    /// A record whose partition had no room: its key and partition.
    held: Option<(u64, usize)>,
}

impl Producer {
    pub fn new(
        number: u32,
        id: ProducerId,
        group: u32,
        options: &Options,
        phases: Phases,
        partitions: usize,
        seed: u64,
    ) -> Producer {
        Producer {
            number: number as u16,
            id,
            group,
            schedule: Schedule::new(&options.pace, options.length, phases, number, options.producers, seed),
            partitions: (0..partitions).map(|_| PartitionQueue::default()).collect(),
            // Producers begin at different partitions.
            current: number as usize % partitions,
            random: Random::new(mix(seed ^ u64::from(number))),
            held: None,
        }
    }

    /// Takes the records that are due. In the closed loop at most one batch, and only to partitions that `has_slot` allows.
    /// Whether it took any.
    pub fn fill(
        &mut self,
        index: u32,
        now_ns: u64,
        workshop: &mut Workshop,
        recorder: &mut Recorder,
        has_slot: &impl Fn(usize) -> bool,
    ) -> bool {
        let mut took = false;
        while let Some(intended_ns) = self.schedule.due(now_ns) {
            if !workshop.has_room(now_ns, recorder) {
                break;
            }
            let Some((key, partition)) = self.choose(workshop, has_slot) else { break };
            let filled = self.put(index, partition, key, intended_ns, now_ns, workshop, recorder);
            self.schedule.take(now_ns);
            took = true;
            if filled && workshop.closed_loop {
                break;
            }
        }
        took
    }

    /// The next record's key and partition.
    fn choose(&mut self, workshop: &Workshop, has_slot: &impl Fn(usize) -> bool) -> Option<(u64, usize)> {
        let count = self.partitions.len();
        let key = match workshop.keys {
            Keys::None => {
                let open = |queue: &PartitionQueue| {
                    queue.batches.back().is_some_and(|it| it.attempts == 0 && !it.is_full(&workshop.template))
                };
                if open(&self.partitions[self.current]) {
                    return Some((0, self.current));
                }
                let next = (1..=count)
                    .map(|step| (self.current + step) % count)
                    .find(|&partition| !workshop.closed_loop || has_slot(partition))?;
                self.current = next;
                return Some((0, next));
            }
            Keys::Random => self.random.next_u64(),
            Keys::Count(keys) => self.random.below(keys),
        };
        let (key, partition) = match self.held.take() {
            Some(held) => held,
            None => (key, partition_of(&key.to_be_bytes(), count)),
        };
        if workshop.closed_loop && !has_slot(partition) {
            self.held = Some((key, partition));
            return None;
        }
        Some((key, partition))
    }

    /// Puts a record into its batch; whether that is full now.
    #[expect(clippy::too_many_arguments, reason = "the innermost step of the loop")]
    #[inline]
    fn put(
        &mut self,
        index: u32,
        partition: usize,
        key: u64,
        intended_ns: u64,
        now_ns: u64,
        workshop: &mut Workshop,
        recorder: &mut Recorder,
    ) -> bool {
        let queue = &mut self.partitions[partition];
        let open = queue.batches.back().is_some_and(|it| it.attempts == 0 && !it.is_full(&workshop.template));
        if !open {
            let first = queue.sent.next_sequence;
            queue.batches.push_back(workshop.new_batch(partition as u32, first));
            if workshop.linger_ns > 0 && !workshop.closed_loop {
                let due = intended_ns.saturating_add(workshop.linger_ns);
                workshop.lingering.push_back((due, index, partition as u32, first));
            }
        }
        let Some(batch) = queue.batches.back_mut() else { return false };
        if !workshop.closed_loop {
            recorder.planned(intended_ns);
        }
        batch.push(&workshop.template, self.number, intended_ns, key);
        queue.sent.next_sequence += 1;
        workshop.buffered_bytes += workshop.record_bytes;
        let full = batch.is_full(&workshop.template);
        if workshop.linger_ns == 0 {
            recorder.latency(Series::Lag, intended_ns, workshop.lag_ns(intended_ns, now_ns), 1);
        } else if full && !queue.queued {
            // Otherwise its linger was over before, and that was noted.
            let count = u64::from(batch.count);
            recorder.latency(Series::Lag, intended_ns, workshop.lag_ns(intended_ns, now_ns), count);
        }
        let ripe =
            full || (workshop.linger_ns == 0 && (workshop.keys != Keys::None || !workshop.closed_loop));
        if ripe && !queue.queued {
            queue.queued = true;
            workshop.ripe.push((index, partition as u32));
        }
        full
    }

    /// A batch's time to linger is over.
    pub fn lingered(
        &mut self,
        index: u32,
        timer: (u64, u32, u64),
        now_ns: u64,
        workshop: &mut Workshop,
        recorder: &mut Recorder,
    ) {
        let (due_ns, partition, first_sequence) = timer;
        let queue = &mut self.partitions[partition as usize];
        let Some(batch) = queue.batches.back() else { return };
        if batch.first_sequence != first_sequence || batch.attempts > 0 || batch.is_full(&workshop.template) {
            return;
        }
        let lag = workshop.lag_ns(due_ns, now_ns);
        recorder.latency(Series::Lag, batch.last_intended_ns, lag, u64::from(batch.count));
        if !queue.queued {
            queue.queued = true;
            workshop.ripe.push((index, partition));
        }
    }

    /// Makes everything that waits for more records ripe: no more will come.
    pub fn flush(&mut self, index: u32, workshop: &mut Workshop) {
        for (partition, queue) in self.partitions.iter_mut().enumerate() {
            if !queue.batches.is_empty() && !queue.queued {
                queue.queued = true;
                workshop.ripe.push((index, partition as u32));
            }
        }
    }

    /// When to look at the plan again.
    pub fn wake_ns(&self, workshop: &Workshop) -> u64 {
        let next = if workshop.keys == Keys::None && workshop.linger_ns > 0 {
            // Nothing to do before the batch is full; the linger has a timer of its own.
            let open = self.partitions[self.current].batches.back().filter(|it| it.attempts == 0);
            let count = open.map_or(0, |batch| batch.count as u64);
            let ahead = (workshop.template.records_max() as u64).saturating_sub(count + 1);
            if open.is_some() { self.schedule.arrival_ns(ahead) } else { self.schedule.next_ns() }
        } else {
            self.schedule.next_ns()
        };
        next.unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::load::options::SECOND_NS;
    use crate::load::options::tests::options;

    struct World {
        producer: Producer,
        workshop: Workshop,
        recorder: Recorder,
    }

    fn world(line: &str, partitions: usize) -> World {
        let options = options(line).unwrap();
        let phases = Phases::new(0, 0, options.duration_ns());
        World {
            producer: Producer::new(0, ProducerId::NONE, 0, &options, phases, partitions, 1),
            workshop: Workshop::new(&options, 1),
            recorder: Recorder::new(phases, channel().0),
        }
    }

    impl World {
        fn fill(&mut self, now_ns: u64) -> Vec<(u32, u32)> {
            self.producer.fill(0, now_ns, &mut self.workshop, &mut self.recorder, &|_| true);
            self.workshop.ripe.drain(..).collect()
        }

        fn counts(&self) -> Vec<Vec<u32>> {
            let of = |queue: &PartitionQueue| queue.batches.iter().map(|batch| batch.count).collect();
            self.producer.partitions.iter().map(of).collect()
        }
    }

    #[test]
    fn without_linger_a_record_may_go_at_once_and_others_join_while_it_waits() {
        let mut world = world("--rate 1000 --record-size 100", 3);
        assert_eq!(world.fill(0), [(0, 1)]);
        assert!(world.fill(3_000_000).is_empty(), "queued already");
        assert_eq!(world.counts(), [vec![], vec![4], vec![]]);
    }

    #[test]
    fn with_linger_a_batch_waits_until_it_is_full_or_its_time_is_over() {
        let mut world = world("--rate 1000 --record-size 100 --linger 5ms --batch-bytes 1000", 2);
        assert!(world.fill(2_000_000).is_empty());
        assert_eq!(world.workshop.lingering, [(5_000_000, 0, 1, 0)]);
        let full = world.workshop.template.records_max() as u64;
        assert_eq!(world.producer.wake_ns(&world.workshop), (full - 1) * 1_000_000);
        assert_eq!(world.fill((full - 1) * 1_000_000), [(0, 1)]);
        // The next one, in the other partition, is not full when its linger ends.
        assert!(world.fill((full + 1) * 1_000_000).is_empty());
        let World { producer, workshop, recorder } = &mut world;
        let timer = (5_000_000, 1, 0);
        producer.lingered(0, timer, 20_000_000, workshop, recorder);
        assert!(workshop.ripe.is_empty(), "was full before");
        producer.lingered(0, ((full + 5) * 1_000_000, 0, 0), 20_000_000, workshop, recorder);
        assert_eq!(workshop.ripe, [(0, 0)]);
    }

    #[test]
    fn a_full_buffer_stops_taking_but_not_the_plan() {
        let mut world = world("--rate 1000 --record-size 1000 --batch-bytes 1000 --buffer-bytes 10000", 1);
        world.fill(SECOND_NS / 2);
        assert!(world.workshop.is_blocked());
        assert_eq!(world.counts(), [vec![1; 10]]);
        let batch = world.producer.partitions[0].batches.pop_front().unwrap();
        world.workshop.recycle(batch);
        world.fill(SECOND_NS / 2 + 7);
        let last = world.producer.partitions[0].batches.back().unwrap();
        assert_eq!(last.first_intended_ns, 10_000_000, "as planned, though half a second late");
        assert_eq!(world.recorder.counts.blocked_ns, 7);
    }

    #[test]
    fn keyed_records_spread_over_the_partitions() {
        let mut world = world("--rate 1000 --record-size 100 --keys 100", 4);
        let ripe = world.fill(SECOND_NS / 2);
        assert_eq!(ripe.len(), 4);
        let taken: u32 = world.counts().iter().flatten().sum();
        assert_eq!(taken, 501);
    }

    #[test]
    fn the_closed_loop_takes_a_batch_at_a_time_where_there_is_room() {
        let mut world = world("--max --record-size 100 --batch-bytes 1000", 3);
        let full = world.workshop.template.records_max() as u32;
        let World { producer, workshop, recorder } = &mut world;
        producer.fill(0, 5, workshop, recorder, &|partition| partition == 2);
        producer.fill(0, 6, workshop, recorder, &|partition| partition == 2);
        assert!(!producer.fill(0, 7, workshop, recorder, &|_| false));
        assert_eq!(world.counts(), [vec![], vec![], vec![full, full]]);
    }

    #[test]
    fn a_batch_to_be_sent_again_takes_its_old_place() {
        let mut world = world("--rate 1000 --record-size 1000 --batch-bytes 1000", 1);
        world.fill(5_000_000);
        let queue = &mut world.producer.partitions[0];
        let (first, second) = (queue.batches.pop_front().unwrap(), queue.batches.pop_front().unwrap());
        queue.put_back(second);
        queue.put_back(first);
        let order: Vec<u64> = queue.batches.iter().map(|batch| batch.first_sequence).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
    }
}
