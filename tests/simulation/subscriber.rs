//! What is different for a member of the newer group protocol (KIP-848): it has no leader and no rounds of joining, but
//! tells with each heartbeat what it wants and has, and is told what it is to have. It changes its partitions one by one,
//! and goes on with the others.

use std::collections::BTreeSet;

use ringlog::protocol::Uuid;
use ringlog::protocol::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions,
};
use ringlog::protocol::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;

use super::clients::{Context, MILLISECOND_NS};
use super::consumer::{Consumer, Owned, Phase};
use super::history::{Cursor, Place, Role, Topic};
use super::log_model::{Verdict, ensure};
use super::ownership::Hold;
use super::wire::Answer;

/// `group.consumer.session.timeout.ms` of the simulated broker.
pub const SESSION_MS: u64 = 6_000;
const INTERVAL_MS: u64 = 2_000;
/// So long the broker waits for a member to tell that it has given up what it was told to.
const REBALANCE_MS: u64 = 20_000;
const LEAVE_EPOCH: i32 = -1;
/// The tag of the heartbeat that joins.
const JOINS: u64 = 1;

/// What a member of the newer protocol keeps beside what all have.
#[derive(Default)]
pub struct Subscriber {
    version: i16,
    /// It subscribes to a pattern, not to names.
    by_pattern: bool,
    /// The next heartbeat tells everything: an answer was lost, or not listened to.
    full: bool,
    /// It was told what to have, or has changed what it has, and has not said yet what it has now.
    changed: bool,
    topics: BTreeSet<String>,
    /// What the broker wants it to have, known topics or not.
    target: BTreeSet<Place>,
    /// When the last heartbeat was sent.
    beat_ns: u64,
    /// When the last one was sent that the broker took without asking for anything: what it waits for since then, it has
    /// begun to wait for later.
    settled_ns: u64,
}

impl Subscriber {
    pub fn tell_all(&mut self) {
        self.full = true;
    }
}

impl Consumer {
    /// Joins, with nothing of its own.
    pub(super) fn join_by_heartbeat(&mut self, context: &mut Context) {
        self.owned.clear();
        self.forget_polled();
        let rng = &mut context.rng;
        let Some(own) = &mut self.subscriber else { return };
        *own = Subscriber { full: true, ..Subscriber::default() };
        own.version = rng.range(0, 1) as i16;
        own.by_pattern = own.version == 1 && !self.processing && rng.chance(0.3);
        if self.member.is_empty() && own.version == 1 {
            self.member = format!("{}-{:016x}", self.name, rng.next());
        }
        self.beat(context, 0);
    }

    pub(super) fn beat(&mut self, context: &mut Context, epoch: i32) {
        let topics: BTreeSet<String> = (context.history.live())
            .filter(|topic| !self.processing || topic.role == Role::Input)
            .map(|topic| topic.name.clone())
            .collect();
        let mut owned: Vec<TopicPartitions<'_>> = Vec::new();
        for places in self.by_topic().values() {
            let partitions = places.iter().map(|place| place.1).collect::<Vec<_>>().into();
            owned.push(TopicPartitions { topic_id: Uuid(places[0].0), partitions });
        }
        let Some(own) = &mut self.subscriber else { return };
        let wants = own.full || own.topics != topics;
        own.topics = topics;
        let (names, pattern) = match own.by_pattern {
            true => (None, own.full.then_some("topic-.*")),
            false => (wants.then(|| own.topics.iter().map(|name| name.as_str().into()).collect()), None),
        };
        let joins = epoch == 0;
        let tells = own.full || own.changed || joins;
        let request = ConsumerGroupHeartbeatRequest {
            group_id: self.group.as_str().into(),
            member_id: self.member.as_str().into(),
            member_epoch: epoch,
            rebalance_timeout_ms: if own.full || joins { REBALANCE_MS as i32 } else { -1 },
            subscribed_topic_names: names.map(|names: Vec<_>| names.into()),
            subscribed_topic_regex: pattern.map(Into::into),
            topic_partitions: tells.then(|| owned.into()),
            ..Default::default()
        };
        own.beat_ns = context.now_ns();
        if joins || epoch == LEAVE_EPOCH {
            context.history.ownership.keeps(&self.group, &self.name, |_| false);
        }
        let (version, tag) = (own.version, if joins { JOINS } else { 0 });
        (own.full, own.changed) = (false, false);
        self.coordinator.request(context, version, tag, false, &request);
    }

    pub(super) fn leave_by_heartbeat(&mut self, context: &mut Context) {
        self.beat(context, LEAVE_EPOCH);
    }

    pub(super) fn beaten(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let joins = answer.tag == JOINS;
        if !joins {
            self.heartbeat_asked = false;
        }
        let listens = if joins { self.phase == Phase::Join && self.asked } else { self.phase == Phase::Run };
        if !listens {
            self.subscriber.iter_mut().for_each(Subscriber::tell_all);
            return Ok(());
        }
        let response: ConsumerGroupHeartbeatResponse = answer.read()?;
        if response.error_code != 0 {
            self.subscriber.iter_mut().for_each(Subscriber::tell_all);
            return self.failed(context, response.error_code);
        }
        if response.member_epoch < 0 {
            return Ok(()); // it has left
        }
        let epoch = response.member_epoch;
        if context.verbose {
            eprintln!("{} is told {:?} at {epoch}", self.name, response.assignment);
        }
        let life = self.coordinator.life();
        let back = !joins && epoch < self.generation && self.life == life && !context.troubled;
        ensure!(!back, "{}: epoch {epoch} after {}", self.name, self.generation);
        (self.generation, self.life) = (epoch, life);
        self.member = response.member_id.as_deref().unwrap_or(&self.member).to_string();
        self.next_heartbeat_ns = context.in_ms(0, INTERVAL_MS);
        if joins {
            ensure!(response.assignment.is_some(), "{}: joins, and is given no assignment", self.name);
            self.leave_ns = if context.rng.chance(0.5) { context.in_ms(2_000, 60_000) } else { u64::MAX };
            self.go(Phase::Run);
            self.next_commit_ns = context.in_ms(100, 3_000);
        }
        if let (Some(assignment), Some(own)) = (&response.assignment, &mut self.subscriber) {
            // It says what it has even where it has nothing to give up: a topic that is gone it gave up unasked.
            own.changed = true;
            own.target.clear();
            for topic in assignment.topic_partitions.iter() {
                own.target.extend(topic.partitions.iter().map(|partition| (topic.topic_id.0, partition)));
            }
        }
        self.follow_target(context);
        let Some(own) = &mut self.subscriber else { return Ok(()) };
        let (asked_ns, since_ns) = (own.beat_ns, context.now_ns());
        if joins || response.assignment.is_none() {
            own.settled_ns = asked_ns;
        }
        let (session_ns, rebalance_ns) = (SESSION_MS * MILLISECOND_NS, REBALANCE_MS * MILLISECOND_NS);
        let until_ns = (asked_ns + session_ns).min(own.settled_ns + rebalance_ns);
        let known_ms = until_ns.saturating_sub(asked_ns) / MILLISECOND_NS;
        context.history.presence.shows(&self.group, &self.member, asked_ns, since_ns, known_ms);
        let hold = Hold { member: self.name.clone(), epoch, life, asked_ns, since_ns, until_ns };
        let places: Vec<Place> = self.owned.keys().copied().collect();
        context.history.ownership.told(&self.group, &places, &hold, context.now_ns())
    }

    /// Gives up what is not its own any more, and begins with what is new.
    pub(super) fn follow_target(&mut self, context: &mut Context) {
        let Some(own) = &mut self.subscriber else { return };
        context.history.ownership.keeps(&self.group, &self.name, |place| own.target.contains(place));
        let known = |place: &Place| context.history.topic(Uuid(place.0)).filter(|topic| !topic.deleted);
        let new: Vec<(Place, &Topic)> = (own.target.iter())
            .filter(|place| !self.owned.contains_key(place))
            .filter_map(|place| Some((*place, known(place)?)))
            .collect();
        let before = self.owned.len();
        self.owned.retain(|place, _| own.target.contains(place));
        if new.is_empty() && self.owned.len() == before {
            return;
        }
        own.changed = true;
        for (place, topic) in &new {
            let owned =
                Owned { topic: topic.name.clone(), cursor: Cursor::at(-1), end_asked: 0, committed: -1 };
            self.owned.insert(*place, owned);
        }
        self.polled.retain(|polled| self.owned.contains_key(&polled.place));
        self.round += 1;
        if !new.is_empty() {
            self.go(Phase::Offsets);
        }
    }

    /// Its process stands still, perhaps for longer than the group waits for it.
    pub(super) fn pause(&mut self, context: &mut Context) {
        self.paused_until_ns = context.now_ns() + context.rng.range(0, 2 * SESSION_MS * MILLISECOND_NS);
    }
}
