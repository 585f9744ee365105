//! A transactional producer, of transaction version 1 or 2: it commits, aborts, pauses for longer than its transaction may
//! take and goes on, dies anywhere and comes back under the same transactional id. Several may share an id and fence each
//! other.
//!
//! Strict: to be fenced is an error unless somebody else has had the id, or the transaction may have run out of time.

use std::collections::BTreeMap;

use ringlog::protocol::messages::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use ringlog::protocol::messages::add_offsets_to_txn_response::AddOffsetsToTxnResponse;
use ringlog::protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic,
};
use ringlog::protocol::messages::add_partitions_to_txn_response::AddPartitionsToTxnResponse;
use ringlog::protocol::messages::end_txn_request::EndTxnRequest;
use ringlog::protocol::messages::end_txn_response::EndTxnResponse;
use ringlog::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use ringlog::protocol::messages::find_coordinator_response::FindCoordinatorResponse;
use ringlog::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use ringlog::protocol::messages::init_producer_id_response::InitProducerIdResponse;
use ringlog::protocol::messages::produce_request::ProduceRequest;
use ringlog::protocol::messages::produce_response::ProduceResponse;
use ringlog::protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use ringlog::protocol::messages::txn_offset_commit_response::TxnOffsetCommitResponse;
use ringlog::protocol::{ApiKey, Uuid};
use ringlog::record::builder::BatchOptions;

use super::clients::{Client, Context, MILLISECOND_NS};
use super::forgetting::IdUse;
use super::history::{Ack, Origin, Outcome, Place, Role};
use super::lane::{self, Asked, Lane, Lanes, Maker, Sizes, State, Told};
use super::log_model::{Verdict, ensure};
use super::sim_io::sim_net::SocketId;
use super::wire::{Answer, Wire};

/// For so long a lost InitProducerId may still come to the broker, and fence whoever has the id then.
const LATE_NS: u64 = 30_000 * MILLISECOND_NS;

pub struct Transactor {
    wire: Wire,
    id: String,
    number: u64,
    /// Transaction version 2 (KIP-890).
    epochs: bool,
    timeout_ms: i32,
    phase: Phase,
    asked: bool,
    /// When the last request was sent, and when one that changed its id at the coordinator.
    asked_ns: u64,
    known_ns: u64,
    /// When the last batch was made of those that a partition has acknowledged.
    written_ns: BTreeMap<Place, u64>,
    /// Nothing is asked before.
    not_before_ns: u64,
    /// Producer id and epoch.
    producer: Option<(i64, i16)>,
    /// The producer asks for its next epoch, and says who it was (KIP-360).
    recovers: bool,
    /// InitProducerId of everybody with this id, as this one asked for what it has.
    inits: u64,
    /// Its own since then, the last of them at this count.
    own_inits: u64,
    last_init: u64,
    /// The life of the broker in which it asked first.
    init_life: u32,
    /// Others had asked when it was answered, and may have been served after it.
    contested: bool,
    maker: Maker,
    next_tag: u64,
    requests: BTreeMap<u64, Vec<Asked>>,
    running: Option<Running>,
    /// A transaction of its own making begins without being asked for one.
    alone: bool,
    /// What became of the last transaction, until it is taken.
    ended: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The process is gone.
    Down,
    Find,
    Init,
    Idle,
    /// AddPartitionsToTxn, transaction version 1.
    Add,
    Produce,
    /// AddOffsetsToTxn, transaction version 1.
    AddOffsets,
    Offsets,
    End,
}

/// The transaction under way.
struct Running {
    /// Its number in the history.
    number: usize,
    commits: bool,
    began_ns: u64,
    jumps: u32,
    lanes: Lanes,
    offsets: Option<Offsets>,
    /// Some of it is acknowledged, so that the coordinator knows the transaction.
    added: bool,
    /// When an end was first asked for.
    end_ns: Option<u64>,
    /// An end was asked for and the answer never came.
    end_lost: bool,
    /// Records were sent and never answered: their sequence numbers cannot be used again.
    gaps: bool,
    /// The process dies, or pauses, when it has asked for this.
    dies_in: Option<Phase>,
    pauses_in: Option<Phase>,
    paused: bool,
}

/// What a group's member commits with a transaction.
#[derive(Clone)]
pub struct Offsets {
    pub group: String,
    pub member: String,
    pub generation: i32,
    /// With the topic's name.
    pub offsets: Vec<(Place, String, i64)>,
}

/// Records for one partition, each with what it was made of.
pub struct Load {
    pub place: Place,
    pub topic: String,
    pub origins: Vec<Option<Origin>>,
}

impl Transactor {
    pub fn new(context: &mut Context, id: &str, number: u64, alone: bool) -> Transactor {
        let rng = &mut context.rng;
        Transactor {
            wire: Wire::new(format!("{id}-{number}"), 64 << 10),
            id: id.to_string(),
            number,
            epochs: rng.chance(0.6),
            timeout_ms: *rng.pick(&[1_000, 5_000, 20_000]),
            phase: Phase::Find,
            asked: false,
            asked_ns: 0,
            known_ns: 0,
            written_ns: BTreeMap::new(),
            not_before_ns: 0,
            producer: None,
            recovers: false,
            inits: 0,
            own_inits: 0,
            last_init: 0,
            init_life: 0,
            contested: false,
            maker: Maker::new(number, Sizes { large: 0.05, large_max: 8_000, small_max: 40 }),
            next_tag: 0,
            requests: BTreeMap::new(),
            running: None,
            alone,
            ended: None,
        }
    }

    fn go(&mut self, phase: Phase) {
        self.phase = phase;
        self.asked = false;
    }

    fn again(&mut self, context: &mut Context) {
        self.asked = false;
        self.not_before_ns = context.in_ms(10, 300);
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// What became of the last transaction, once.
    pub fn take_ended(&mut self) -> Option<Outcome> {
        self.ended.take()
    }

    /// Whether the process stands still; it began to by itself.
    pub fn is_paused(&self, context: &Context) -> bool {
        self.pauses() && context.now_ns() < self.not_before_ns
    }

    pub fn pauses(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.paused)
    }

    /// Whether whoever runs this is gone with it.
    pub fn is_down(&self) -> bool {
        self.phase == Phase::Down
    }

    // ---- a transaction ----

    /// Begins a transaction of these records and offsets.
    pub fn begin(&mut self, context: &mut Context, loads: Vec<Load>, offsets: Option<Offsets>) {
        let number = context.history.begin(&self.id);
        let (producer_id, producer_epoch) = self.producer.unwrap_or((-1, -1));
        let options =
            BatchOptions { producer_id, producer_epoch, transactional: true, ..BatchOptions::default() };
        let mut lanes = Lanes::new();
        for load in loads {
            let batch = self.maker.batch(context, load.place, load.origins.len(), options);
            let values = &batch.values;
            for (value, origin) in values.iter().zip(load.origins) {
                context.history.sending_in(number, *value, load.place, origin);
            }
            if context.verbose {
                let (now, id, place) = (context.now_ns(), &self.id, load.place);
                eprintln!(
                    "{now:>14} {id} {} puts {values:x?} to {place:?} as {:?}",
                    self.number, self.producer
                );
            }
            let lane = lanes.entry(load.place).or_default();
            (lane.topic, lane.id) = (load.topic, Uuid(load.place.0));
            lane.queue.push_back(batch);
        }
        let rng = &mut context.rng;
        let phases = [Phase::Add, Phase::Produce, Phase::AddOffsets, Phase::Offsets, Phase::End];
        let wild = !context.finishing;
        let running = Running {
            number,
            commits: context.finishing || rng.chance(0.8),
            began_ns: context.world.now(),
            jumps: context.jumps,
            lanes,
            offsets,
            added: false,
            end_ns: None,
            end_lost: false,
            gaps: false,
            dies_in: (wild && rng.chance(0.1)).then(|| *rng.pick(&phases)),
            pauses_in: (wild && rng.chance(0.05)).then(|| *rng.pick(&phases)),
            paused: false,
        };
        self.running = Some(running);
        self.go(if self.epochs { Phase::Produce } else { Phase::Add });
    }

    /// A transaction of nothing in particular.
    fn choose(&mut self, context: &mut Context) {
        let live: Vec<(String, Uuid, i32)> = (context.history.live())
            .filter(|topic| topic.role != Role::Output)
            .map(|topic| (topic.name.clone(), topic.id, topic.partitions))
            .collect();
        if live.is_empty() {
            return self.again(context);
        }
        let mut loads = Vec::new();
        for _ in 0..context.rng.range(1, 6) {
            let (topic, id, partitions) = context.rng.pick(&live).clone();
            let place = (id.0, context.rng.below(partitions as u64) as i32);
            let origins = vec![None; context.rng.range(1, 4) as usize];
            loads.push(Load { place, topic, origins });
        }
        self.begin(context, loads, None);
    }

    /// The transaction is over for this producer.
    fn end(&mut self, context: &mut Context, outcome: Outcome) -> Verdict {
        let Some(running) = self.running.take() else { return Ok(()) };
        match outcome {
            Outcome::Committed => context.history.transaction_committed(running.number),
            _ => context.history.transaction_aborted(running.number, outcome == Outcome::Aborted)?,
        }
        self.requests.clear();
        self.ended = Some(outcome);
        if context.verbose {
            eprintln!("{:>14} {} {}: {outcome:?}", context.now_ns(), self.id, self.number);
        }
        self.go(Phase::Idle);
        self.not_before_ns = context.in_ms(0, 200);
        Ok(())
    }

    /// The process ends, in whatever it is at.
    pub fn die(&mut self, context: &mut Context) -> Verdict {
        if context.verbose {
            eprintln!("{:>14} {} {} dies in {:?}", context.now_ns(), self.id, self.number, self.phase);
        }
        self.note_lost_init(context);
        self.end(context, Outcome::Unknown)?;
        if context.rng.chance(0.5) {
            self.wire.vanish(context);
        } else {
            self.wire.drop_connection(context, true);
        }
        self.requests.clear();
        self.producer = None;
        self.recovers = false;
        self.go(Phase::Down);
        self.not_before_ns =
            if context.rng.chance(0.7) { context.in_ms(50, 1_000) } else { context.in_ms(1_000, 30_000) };
        Ok(())
    }

    fn note_lost_init(&self, context: &mut Context) {
        if self.phase == Phase::Init && self.asked {
            context.lost_inits.insert(self.id.clone(), context.now_ns());
            context.initing.remove(&(self.id.clone(), self.number));
        }
    }

    /// The transaction takes longer than it may.
    fn may_be_over(&self, context: &Context) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let passed_ms = (context.now_ns() - running.began_ns) / MILLISECOND_NS;
            passed_ms + 1 >= self.timeout_ms as u64 || running.jumps != context.jumps
        })
    }

    /// Somebody else may have the id now.
    fn has_others(&self, context: &Context) -> bool {
        let inits = context.inits.get(&self.id).copied().unwrap_or(0);
        let others = inits != self.inits + self.own_inits;
        let lost_ns = context.lost_inits.get(&self.id);
        others || self.contested || lost_ns.is_some_and(|lost_ns| context.now_ns() < lost_ns + LATE_NS)
    }

    /// The coordinator does not know the id, or not with this producer: it was idle for long enough, and its transaction over.
    fn forgotten(&mut self, context: &mut Context, by: ApiKey) -> Verdict {
        let last_use = match &self.running {
            Some(running) if running.added && !self.has_others(context) => {
                let (began_ns, end_ns) = (running.began_ns, running.end_ns);
                IdUse::Open { began_ns, timeout_ms: self.timeout_ms as u64, end_ns }
            }
            _ => IdUse::Idle { since_ns: self.known_ns },
        };
        let may = context.history.clock.forgets_id(&last_use);
        may.map_err(|error| format!("{}: {by:?}: {error}", self.describe()))?;
        context.history.forgotten[1] += 1;
        let surely = self.running.as_ref().is_some_and(|running| !running.end_lost);
        self.end(context, if surely { Outcome::Aborted } else { Outcome::Unknown })?;
        self.recovers = context.rng.chance(0.5);
        self.go(Phase::Init);
        Ok(())
    }

    /// Somebody else has the id now, or the transaction took too long.
    fn fenced(&mut self, context: &mut Context, by: ApiKey) -> Verdict {
        let timed_out = self.may_be_over(context);
        // A first attempt may have been written, though its answer was an error; which epoch came before, a broker knows for its
        // life only, as Apache Kafka's.
        let by_itself = self.recovers && self.own_inits > 1 && self.init_life != context.life;
        ensure!(
            self.has_others(context) || timed_out || by_itself,
            "{}: fenced by {by:?}, and nobody did it",
            self.describe()
        );
        let surely = self.running.as_ref().is_some_and(|running| !running.end_lost);
        self.end(context, if surely { Outcome::Aborted } else { Outcome::Unknown })?;
        self.producer = None;
        self.recovers = false;
        self.go(Phase::Down);
        self.not_before_ns = context.in_ms(100, 8_000);
        Ok(())
    }

    /// What an error asks for, apart from what only one request knows.
    fn failed(&mut self, context: &mut Context, api: ApiKey, error: i16) -> Verdict {
        if context.verbose {
            eprintln!("{:>14} {} {}: {api:?} answers {error}", context.now_ns(), self.id, self.number);
        }
        match error {
            // Loading, not available, not coordinator, concurrent transactions; timed out, storage.
            14 | 15 | 16 | 51 | 7 | 56 => self.again(context),
            47 | 90 => return self.fenced(context, api),
            49 => return self.forgotten(context, api),
            error => return Err(format!("{}: {api:?} answers {error}", self.describe())),
        }
        Ok(())
    }

    fn lost(&mut self, context: &mut Context) {
        self.note_lost_init(context);
        if let Some(running) = &mut self.running {
            running.end_lost |= self.phase == Phase::End && self.asked;
            running.lanes.values_mut().for_each(Lane::reset);
        }
        self.requests.clear();
        self.asked = false;
        // What was under way on the old connection has come or never will.
        self.not_before_ns = self.not_before_ns.max(context.in_ms(30, 300));
    }

    // ---- requests ----

    fn ask(&mut self, context: &mut Context) {
        self.asked = true;
        self.asked_ns = context.now_ns();
        match self.phase {
            Phase::Down => self.go(Phase::Find),
            Phase::Find => {
                let coordinator_keys = vec![self.id.as_str().into()].into();
                let request = FindCoordinatorRequest { key_type: 1, coordinator_keys, ..Default::default() };
                self.wire.request(context, 4, 0, false, &request);
            }
            Phase::Init => self.ask_init(context),
            Phase::Idle => {
                self.asked = false;
                if context.finishing {
                    self.not_before_ns = context.in_ms(1_000, 1_000);
                } else if self.alone {
                    self.choose(context);
                }
            }
            Phase::Add => self.ask_add(context),
            Phase::Produce => {
                self.asked = false;
                self.produce(context);
            }
            Phase::AddOffsets => self.ask_add_offsets(context),
            Phase::Offsets => self.ask_offsets(context),
            Phase::End => self.ask_end(context),
        }
    }

    fn ask_init(&mut self, context: &mut Context) {
        let (producer_id, producer_epoch) = self.producer.filter(|_| self.recovers).unwrap_or((-1, -1));
        let count = context.inits.entry(self.id.clone()).or_default();
        *count += 1;
        self.last_init = *count;
        self.own_inits += 1;
        context.initing.insert((self.id.clone(), self.number));
        if self.own_inits == 1 {
            self.init_life = context.life;
        }
        let request = InitProducerIdRequest {
            transactional_id: Some(self.id.as_str().into()),
            transaction_timeout_ms: self.timeout_ms,
            producer_id,
            producer_epoch,
            ..Default::default()
        };
        let version = if self.epochs { 5 } else { 4 };
        self.wire.request(context, version, 0, false, &request);
    }

    fn ask_add(&mut self, context: &mut Context) {
        let (producer_id, producer_epoch) = self.producer.unwrap_or((-1, -1));
        let Some(running) = &mut self.running else { return };
        running.lanes.retain(|place, _| context.history.is_live(Uuid(place.0)));
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (place, lane) in &running.lanes {
            topics.entry(&lane.topic).or_default().push(place.1);
        }
        if topics.is_empty() {
            running.commits = false;
            return self.go(Phase::End);
        }
        let topics = topics.into_iter().map(|(name, partitions)| AddPartitionsToTxnTopic {
            name: name.into(),
            partitions: partitions.into(),
        });
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.as_str().into(),
            v3_and_below_producer_id: producer_id,
            v3_and_below_producer_epoch: producer_epoch,
            v3_and_below_topics: topics.collect::<Vec<_>>().into(),
            ..Default::default()
        };
        let version = context.rng.range(2, 3) as i16;
        self.wire.request(context, version, 0, false, &request);
    }

    /// The next batch of each lane, or the next phase when there is none left.
    fn produce(&mut self, context: &mut Context) {
        let Some(running) = &mut self.running else { return };
        if !running.commits {
            // An abort does not wait for what could not be written.
            running.gaps |= running.lanes.values().any(|lane| !lane.queue.is_empty());
        }
        let done = running.lanes.values().all(|lane| lane.queue.is_empty());
        if done || (!running.commits && self.requests.is_empty() && context.rng.chance(0.5)) {
            self.requests.clear();
            let next = match (&running.offsets, running.commits, self.epochs) {
                (Some(_), true, true) => Phase::Offsets,
                (Some(_), true, false) => Phase::AddOffsets,
                _ => Phase::End,
            };
            return self.go(next);
        }
        let chosen = lane::choose(&mut running.lanes);
        if chosen.is_empty() {
            return;
        }
        let asked = lane::sent(&mut running.lanes, &chosen);
        let request = ProduceRequest {
            transactional_id: Some(self.id.as_str().into()),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: lane::topic_data(&running.lanes, &chosen).into(),
        };
        let version = if self.epochs { context.rng.range(12, 13) } else { context.rng.range(9, 11) } as i16;
        self.next_tag += 1;
        self.wire.request(context, version, self.next_tag, false, &request);
        self.requests.insert(self.next_tag, asked);
    }

    fn ask_add_offsets(&mut self, context: &mut Context) {
        let (producer_id, producer_epoch) = self.producer.unwrap_or((-1, -1));
        let Some(offsets) = self.running.as_ref().and_then(|running| running.offsets.as_ref()) else {
            return;
        };
        let request = AddOffsetsToTxnRequest {
            transactional_id: self.id.as_str().into(),
            producer_id,
            producer_epoch,
            group_id: offsets.group.as_str().into(),
        };
        self.wire.request(context, 3, 0, false, &request);
    }

    fn ask_offsets(&mut self, context: &mut Context) {
        let (producer_id, producer_epoch) = self.producer.unwrap_or((-1, -1));
        let Some(running) = &self.running else { return };
        let Some(offsets) = &running.offsets else { return };
        let known: Vec<_> = (offsets.offsets.iter())
            .map(|(place, _, offset)| (offsets.group.clone(), *place, *offset))
            .collect();
        context.history.offsets_in(running.number, &known);
        if context.verbose {
            eprintln!("{:>14} {} {} commits {known:?}", context.world.now(), self.id, self.number);
        }
        let mut topics: BTreeMap<&str, Vec<TxnOffsetCommitRequestPartition<'_>>> = BTreeMap::new();
        for (place, topic, offset) in &offsets.offsets {
            topics.entry(topic).or_default().push(TxnOffsetCommitRequestPartition {
                partition_index: place.1,
                committed_offset: *offset,
                committed_leader_epoch: -1,
                ..Default::default()
            });
        }
        let topics = topics.into_iter().map(|(name, partitions)| TxnOffsetCommitRequestTopic {
            name: name.into(),
            partitions: partitions.into(),
        });
        let request = TxnOffsetCommitRequest {
            transactional_id: self.id.as_str().into(),
            group_id: offsets.group.as_str().into(),
            producer_id,
            producer_epoch,
            generation_id: offsets.generation,
            member_id: offsets.member.as_str().into(),
            topics: topics.collect::<Vec<_>>().into(),
            ..Default::default()
        };
        let version = if self.epochs { 5 } else { context.rng.range(3, 4) as i16 };
        self.wire.request(context, version, 0, false, &request);
    }

    fn ask_end(&mut self, context: &mut Context) {
        let (producer_id, producer_epoch) = self.producer.unwrap_or((-1, -1));
        let Some(running) = &mut self.running else { return };
        if running.commits {
            context.history.deciding(running.number);
        }
        running.end_ns.get_or_insert(context.world.now());
        let request = EndTxnRequest {
            transactional_id: self.id.as_str().into(),
            producer_id,
            producer_epoch,
            committed: running.commits,
        };
        let version = if self.epochs { 5 } else { context.rng.range(3, 4) as i16 };
        self.wire.request(context, version, 0, false, &request);
    }

    // ---- answers ----

    fn answered(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let api = answer.api;
        if context.verbose {
            eprintln!("{:>14} {} {} gets {api:?}", context.now_ns(), self.id, self.number);
        }
        match api {
            ApiKey::FindCoordinator => {
                let response: FindCoordinatorResponse = answer.read()?;
                let coordinator = response.coordinators.first().ok_or("no coordinator in the answer")?;
                match coordinator.error_code {
                    0 => self.go(Phase::Init),
                    error => return self.failed(context, api, error),
                }
                Ok(())
            }
            ApiKey::InitProducerId => {
                let response: InitProducerIdResponse = answer.read()?;
                context.initing.remove(&(self.id.clone(), self.number));
                if response.error_code != 0 {
                    return self.failed(context, api, response.error_code);
                }
                self.producer = Some((response.producer_id, response.producer_epoch));
                (self.inits, self.own_inits) = (self.last_init, 0);
                self.known_ns = self.asked_ns;
                self.contested = context.initing.iter().any(|(id, _)| *id == self.id);
                self.maker.forget_sequences();
                self.recovers = false;
                self.go(Phase::Idle);
                Ok(())
            }
            _ if self.running.is_none() => Ok(()),
            ApiKey::AddPartitionsToTxn => self.added(context, answer),
            ApiKey::Produce => self.produced(context, answer),
            ApiKey::AddOffsetsToTxn => {
                let response: AddOffsetsToTxnResponse = answer.read()?;
                match response.error_code {
                    0 => self.go(Phase::Offsets),
                    error => return self.failed(context, api, error),
                }
                Ok(())
            }
            ApiKey::TxnOffsetCommit => self.offsets_committed(context, answer),
            ApiKey::EndTxn => self.ended(context, answer),
            _ => Err(format!("{}: an answer of {api:?}", self.describe())),
        }
    }

    fn added(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let response: AddPartitionsToTxnResponse = answer.read()?;
        let errors = response.results_by_topic_v3_and_below.iter().flat_map(|topic| {
            let partitions = topic.results_by_partition.iter();
            partitions.map(|partition| partition.partition_error_code).collect::<Vec<_>>()
        });
        // Not attempted: another was the reason.
        let errors: Vec<i16> = errors.filter(|error| *error != 0 && *error != 55).collect();
        match errors.first() {
            None => self.go(Phase::Produce),
            // A topic that is gone, or not there yet.
            Some(3) => self.again(context),
            Some(&error) => return self.failed(context, answer.api, error),
        }
        Ok(())
    }

    fn produced(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let response: ProduceResponse = answer.read()?;
        let Some(asked) = self.requests.remove(&answer.tag) else { return Ok(()) };
        let told =
            lane::answers(&response, asked).map_err(|error| format!("{}: {error}", self.describe()))?;
        for told in told {
            if self.phase == Phase::Produce {
                self.batch_answered(context, told)?;
            }
        }
        Ok(())
    }

    fn batch_answered(&mut self, context: &mut Context, told: Told) -> Verdict {
        let Told { place, batch, error, base } = told;
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some(lane) = running.lanes.get_mut(&place) else { return Ok(()) };
        let Some(at) = lane.position(batch) else { return Ok(()) };
        let waits = lane.has(State::Failed) || at > 0;
        let clock = &context.history.clock;
        let forgets = |since_ns| clock.may_forget_producer(since_ns, clock.now_ns);
        match error {
            0 => {
                let Some(batch) = lane.queue.remove(at) else { return Ok(()) };
                ensure!(base >= 0, "{}: acknowledged at {base}", self.id);
                running.added = true;
                self.written_ns.insert(place, batch.made_ns);
                if context.verbose {
                    eprintln!(
                        "{:>14} {} {:x?} lie at {base} of {place:?}",
                        context.world.now(),
                        self.id,
                        batch.values
                    );
                }
                context.history.acknowledged(place, base, &batch.values, Ack::Durable)
            }
            _ if !context.history.is_live(lane.id) => {
                running.lanes.remove(&place);
                Ok(())
            }
            // Out of order, for one before it failed.
            45 if waits => {
                lane.queue[at].state = State::Failed;
                Ok(())
            }
            // A marker that is written again, after the partition has forgotten the producer, says its epoch and no number: by
            // version 1, where numbers go on, the next is out of order, as with Apache Kafka. The transaction is aborted.
            45 if !self.epochs && self.written_ns.get(&place).is_some_and(|since_ns| forgets(*since_ns)) => {
                (running.commits, running.gaps) = (false, true);
                self.requests.clear();
                self.go(Phase::End);
                Ok(())
            }
            // As elsewhere, and: unknown topic, not leader, not verified yet, a transaction that is still being ended.
            3 | 5 | 6 | 7 | 14 | 15 | 16 | 19 | 51 | 56 | 100 => {
                lane.queue[at].state = State::Failed;
                self.not_before_ns = context.in_ms(5, 100);
                Ok(())
            }
            47 | 90 => self.fenced(context, ApiKey::Produce),
            49 => self.forgotten(context, ApiKey::Produce),
            error => Err(format!("{}: {place:?} answers {error}", self.describe())),
        }
    }

    fn offsets_committed(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let response: TxnOffsetCommitResponse = answer.read()?;
        let errors = response.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| partition.error_code).collect::<Vec<_>>()
        });
        let errors: Vec<i16> = errors.filter(|error| *error != 0).collect();
        match errors.first() {
            None => {
                self.running.iter_mut().for_each(|running| running.added = true);
                self.go(Phase::End);
            }
            // The group has moved on.
            Some(22 | 25 | 27) => {
                self.running.iter_mut().for_each(|running| running.commits = false);
                self.go(Phase::End);
            }
            Some(&error) => return self.failed(context, answer.api, error),
        }
        Ok(())
    }

    fn ended(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let response: EndTxnResponse = answer.read()?;
        let over = self.epochs && self.may_be_over(context);
        let Some(running) = &mut self.running else { return Ok(()) };
        let commits = running.commits;
        match response.error_code {
            0 => {}
            // Nothing had been added: there is nothing to abort.
            48 if !commits && !self.epochs => {}
            // Neither is there anything to commit, where all topics it was for are deleted; the epoch stays.
            48 if commits && !running.added && !over => return self.end(context, Outcome::Aborted),
            // Ended already, by the coordinator.
            48 if self.epochs => return self.fenced(context, answer.api),
            // Its record could not be written, or nobody knows whether it was: the next life of the broker may find it.
            7 | 14 | 15 | 16 | 56 => {
                running.end_lost = true;
                return self.failed(context, answer.api, response.error_code);
            }
            error => return self.failed(context, answer.api, error),
        }
        let gaps = running.gaps;
        // The first time may have been the one that did it.
        self.known_ns = running.end_ns.unwrap_or(self.asked_ns);
        self.end(context, if commits { Outcome::Committed } else { Outcome::Aborted })?;
        if self.epochs {
            let (producer_id, epoch) = (response.producer_id, response.producer_epoch);
            let next = self.producer.is_some_and(|(id, old)| id != producer_id || epoch == old + 1);
            ensure!(next, "{}: {:?} goes on as {producer_id} {epoch}", self.id, self.producer);
            self.producer = Some((producer_id, epoch));
            self.maker.forget_sequences();
        } else if gaps {
            self.recovers = context.rng.chance(0.7);
            self.go(Phase::Init);
        }
        Ok(())
    }

    fn waits(&self) -> bool {
        match self.phase {
            Phase::Produce => self.running.as_ref().is_some_and(|running| !may_produce(running)),
            _ => self.asked,
        }
    }
}

/// Whether there is something to send, or nothing left to wait for.
fn may_produce(running: &Running) -> bool {
    let ready = |lane: &Lane| {
        let [failed, sent, queued] = [State::Failed, State::Sent, State::Queued].map(|state| lane.has(state));
        (failed && !sent) || (queued && !failed && !lane.is_full())
    };
    running.lanes.values().all(|lane| lane.queue.is_empty()) || running.lanes.values().any(ready)
}

impl Client for Transactor {
    fn step(&mut self, context: &mut Context) -> Verdict {
        if self.is_paused(context) {
            return Ok(());
        }
        self.running.iter_mut().for_each(|running| running.paused = false);
        let polled = self.wire.poll(context)?;
        polled.answers.iter().try_for_each(|answer| self.answered(context, answer))?;
        if polled.lost {
            self.lost(context);
        }
        if !self.wire.is_open(context) || context.now_ns() < self.not_before_ns || self.waits() {
            return Ok(());
        }
        if !context.finishing && context.rng.chance(0.001) {
            self.wire.drop_connection(context, true);
            self.lost(context);
            return Ok(());
        }
        let phase = self.phase;
        self.ask(context);
        let Some(running) = &mut self.running else { return Ok(()) };
        if running.dies_in == Some(phase) {
            return self.die(context);
        }
        if running.pauses_in.take_if(|pauses_in| *pauses_in == phase).is_some() {
            // It hears of nothing until then, and goes on as if nothing had been.
            let pause_ms = self.timeout_ms as u64;
            self.not_before_ns = context.in_ms(pause_ms, pause_ms + 15_000);
            running.paused = true;
        }
        Ok(())
    }

    fn wake_ns(&self) -> u64 {
        let idle = self.phase == Phase::Idle && !self.alone;
        let up = self.wire.socket().is_some() && !idle && !self.waits();
        let own = if up { self.not_before_ns } else { u64::MAX };
        if self.pauses() { self.not_before_ns } else { own.min(self.wire.wake_ns()) }
    }

    fn sockets(&self) -> Vec<SocketId> {
        self.wire.socket().into_iter().collect()
    }

    fn is_done(&self, _: &Context) -> bool {
        self.phase == Phase::Idle
    }

    fn describe(&self) -> String {
        let running = self.running.as_ref().map(|running| {
            let left: usize = running.lanes.values().map(|lane| lane.queue.len()).sum();
            format!("{left} batches left since {}, commits {}", running.began_ns, running.commits)
        });
        format!(
            "{} of {} (epochs {}, {} ms) as {:?} in {:?}, asked {}: {running:?}",
            self.id, self.number, self.epochs, self.timeout_ms, self.producer, self.phase, self.asked
        )
    }
}
