//! Consume, transform, produce: a member of a group that reads the inputs, makes an output of each record, and commits its
//! offsets with the outputs, in one transaction. Each input leads to one output, whoever dies, pauses or moves on.

use super::clients::{Client, Context};
use super::consumer::{Consumer, Polled};
use super::history::{Outcome, Place, Role};
use super::log_model::Verdict;
use super::sim_io::sim_net::SocketId;
use super::transactor::{Load, Offsets, Transactor};

use std::collections::BTreeMap;

pub struct Processor {
    group: String,
    number: u64,
    consumer: Consumer,
    /// Its group is one of the newer protocol.
    newer: bool,
    transactor: Transactor,
    restarting: bool,
    next_ns: u64,
}

impl Processor {
    pub fn new(context: &mut Context, group: &str, id: &str, number: u64, newer: bool) -> Processor {
        Processor {
            group: group.to_string(),
            number,
            consumer: member(group, number, newer),
            newer,
            transactor: Transactor::new(context, id, number, false),
            restarting: false,
            next_ns: 0,
        }
    }

    /// Takes some of what was read into a transaction.
    fn begin(&mut self, context: &mut Context) {
        let outputs: Vec<Place> = (context.history.live())
            .filter(|topic| topic.role == Role::Output)
            .flat_map(|topic| (0..topic.partitions).map(|partition| (topic.id.0, partition)))
            .collect();
        let output = context.history.live().find(|topic| topic.role == Role::Output);
        let Some(topic) = output.map(|topic| topic.name.clone()) else {
            self.next_ns = context.in_ms(100, 1_000);
            return;
        };
        let most = context.rng.range(1, 20) as usize;
        let taken = self.consumer.take(most);
        let mut loads: BTreeMap<Place, Load> = BTreeMap::new();
        let mut ends: BTreeMap<Place, (String, i64)> = BTreeMap::new();
        for Polled { place, topic: input, offset } in taken {
            let to = *context.rng.pick(&outputs);
            let new = Load { place: to, topic: topic.clone(), origins: Vec::new() };
            let origin = (self.group.clone(), place, offset);
            loads.entry(to).or_insert(new).origins.push(Some(origin));
            ends.insert(place, (input, offset + 1));
        }
        let (member, generation) = self.consumer.membership();
        let offsets = ends.into_iter().map(|(place, (topic, end))| (place, topic, end)).collect();
        let offsets = Offsets { group: self.group.clone(), member, generation, offsets };
        self.transactor.begin(context, loads.into_values().collect(), Some(offsets));
        self.next_ns = context.in_ms(0, 100);
    }

    /// Whether there is something to read, and somewhere to write.
    fn has_work(context: &Context) -> bool {
        let has = |role| context.history.live().any(|topic| topic.role == role);
        has(Role::Input) && has(Role::Output)
    }

    fn may_begin(&self) -> bool {
        self.transactor.is_idle() && self.consumer.has_polled()
    }
}

fn member(group: &str, number: u64, newer: bool) -> Consumer {
    let member = Consumer::processing(group, number);
    if newer { member.newer() } else { member }
}

impl Client for Processor {
    fn step(&mut self, context: &mut Context) -> Verdict {
        self.transactor.step(context)?;
        if self.transactor.is_paused(context) {
            return Ok(());
        }
        if self.transactor.is_down() != self.restarting {
            self.restarting = self.transactor.is_down();
            self.consumer.die(context);
            self.consumer = member(&self.group, self.number, self.newer);
        }
        if self.restarting || !Self::has_work(context) {
            return Ok(());
        }
        self.consumer.held = self.transactor.is_running();
        self.consumer.step(context)?;
        if self.transactor.take_ended().is_some_and(|outcome| outcome != Outcome::Committed) {
            self.consumer.rewind(context);
        }
        if self.may_begin() && context.now_ns() >= self.next_ns {
            self.begin(context);
        }
        Ok(())
    }

    fn wake_ns(&self) -> u64 {
        let begin = if self.may_begin() { self.next_ns } else { u64::MAX };
        let own = self.transactor.wake_ns().min(begin);
        let stands = self.restarting || self.transactor.pauses();
        if stands { own } else { own.min(self.consumer.wake_ns()) }
    }

    fn sockets(&self) -> Vec<SocketId> {
        [self.transactor.sockets(), self.consumer.sockets()].concat()
    }

    fn is_done(&self, context: &Context) -> bool {
        let read = self.consumer.is_done(context) && !self.consumer.has_polled();
        self.transactor.is_done(context) && (read || !Self::has_work(context))
    }

    fn processes(&self) -> Option<(&str, Vec<Place>)> {
        Some((&self.group, self.consumer.owned()))
    }

    fn describe(&self) -> String {
        format!("{}\n{}", self.transactor.describe(), self.consumer.describe())
    }
}
