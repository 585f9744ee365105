//! Shard 0's part of the cluster: requests that change it, one change after the other.
//!
//! A change is proposed to the metadata engine; once it is on stable media the new image goes to every shard, and only when
//! all have taken it over is the client answered: what it then asks of any connection finds the change done.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use slab::Slab;

use super::handlers::init_producer_id;
use super::mail::Mail;
use super::moves::PreferredDirs;
use super::request::{Forwarded, Head, Response};
use super::{Broker, CONTROL_SHARD};
use crate::io::{Completion, Io};
use crate::metadata::{
    Change, ClusterImage, Embedded, Event, MetadataError, Planner, ProposalId, TopicRequest,
};
use crate::protocol::{ErrorCode, Uuid};

/// Requests that wait for a change; more are told to come again.
const ADMINS_MAX: usize = 10_000;
/// Producer ids taken from the cluster at a time, as in Kafka.
const PRODUCER_ID_BLOCK: i32 = 1000;

/// Why a change was refused.
#[derive(Clone, Debug)]
pub struct AdminError {
    pub code: ErrorCode,
    pub message: String,
}

impl AdminError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> AdminError {
        AdminError { code, message: message.into() }
    }

    pub fn of(code: ErrorCode) -> AdminError {
        AdminError::new(code, code.message())
    }
}

impl From<MetadataError> for AdminError {
    fn from(error: MetadataError) -> AdminError {
        AdminError { code: error.code, message: error.message }
    }
}

/// Makes the answer of a request from what became of each of its changes.
pub type Finish = Box<dyn FnOnce(&mut Broker, Vec<Result<(), AdminError>>) -> Option<Response> + Send>;

pub struct Controller {
    metadata: Embedded,
    /// The image version each shard has taken over.
    applied: Vec<u64>,
    admins: Slab<Admin>,
    proposals: BTreeMap<ProposalId, Purpose>,
    producer_ids: Range<i64>,
    producer_id_asked: bool,
    producer_id_waiters: VecDeque<Forwarded>,
    pub(super) preferred_dirs: PreferredDirs,
}

/// A request whose changes are under way.
struct Admin {
    shard: usize,
    head: Head,
    results: Vec<Option<Result<(), AdminError>>>,
    /// The image that holds its last change.
    version: u64,
    finish: Option<Finish>,
}

enum Purpose {
    Admin { admin: usize, index: usize },
    ProducerIds,
}

impl Controller {
    pub fn new(metadata: Embedded, shards: usize) -> Controller {
        Controller {
            metadata,
            applied: vec![0; shards],
            admins: Slab::new(),
            proposals: BTreeMap::new(),
            producer_ids: 0..0,
            producer_id_asked: false,
            producer_id_waiters: VecDeque::new(),
            preferred_dirs: PreferredDirs::default(),
        }
    }
}

impl Controller {
    /// The metadata with all that is proposed; and whether a failed write has left open what the next start finds.
    pub(super) fn metadata(&self) -> &Embedded {
        &self.metadata
    }

    /// The producer ids set aside and not given out.
    pub(super) fn producer_ids(&mut self) -> &mut Range<i64> {
        &mut self.producer_ids
    }
}

impl Broker {
    /// Proposes `changes` (or notes why one is refused already) and answers with `finish` when all is settled.
    pub(super) fn change(
        &mut self,
        io: &mut impl Io,
        origin: (usize, Head),
        changes: Vec<Result<Change, AdminError>>,
        finish: Finish,
    ) {
        let (shard, head) = origin;
        let Some(controller) = &mut self.controller else { return };
        if controller.admins.len() >= ADMINS_MAX {
            let refused =
                changes.iter().map(|_| Err(AdminError::of(ErrorCode::ThrottlingQuotaExceeded))).collect();
            let response = finish(self, refused);
            return self.respond(shard, head.id, response);
        }
        let results = changes.iter().map(|_| None).collect();
        let admin =
            controller.admins.insert(Admin { shard, head, results, version: 0, finish: Some(finish) });
        for (index, change) in changes.into_iter().enumerate() {
            let proposed = change.and_then(|mut change| {
                controller.preferred_dirs.apply(
                    controller.metadata.latest(),
                    &self.live_dir_ids,
                    &mut change,
                );
                controller.metadata.propose(io, change).map_err(AdminError::from)
            });
            match proposed {
                Ok(proposal) => {
                    controller.proposals.insert(proposal, Purpose::Admin { admin, index });
                }
                Err(error) => controller.admins[admin].results[index] = Some(Err(error)),
            }
        }
        self.settle_admins();
    }

    pub(super) fn planner(&self) -> Planner<'_> {
        let latest = self.controller.as_ref().map_or(&self.image, |controller| controller.metadata.latest());
        Planner { image: latest, config: &self.config, nodes: self.nodes(), directories: &self.live_dir_ids }
    }

    /// What a start has to change by itself: the topics of the configuration, and after a stop that was not clean new leader
    /// epochs, so that a client that read what a power cut took finds out (KIP-320). On [`CONTROL_SHARD`], once.
    pub fn begin(&mut self, io: &mut impl Io, clean: bool) {
        let mut changes = Vec::new();
        if !clean && self.image.topic_count() > 0 {
            changes.push(Ok(Change::BumpLeaderEpochs { broker: self.node_id() }));
        }
        let config = self.config.clone();
        for topic in config.create_topics.iter().filter(|topic| self.image.topic(&topic.name).is_none()) {
            let policy = topic.cleanup_policy.as_deref();
            let request = TopicRequest {
                name: &topic.name,
                num_partitions: topic.partitions,
                replication_factor: topic.replication_factor,
                configs: policy.map(|policy| ("cleanup.policy", Some(policy))).into_iter().collect(),
                ..TopicRequest::default()
            };
            let topic_id = self.random_id(io);
            changes.push(self.planner().create_topic(&request, topic_id).map_err(AdminError::from));
        }
        let log = |_: &mut Broker, results: Vec<Result<(), AdminError>>| {
            for error in results.into_iter().filter_map(Result::err) {
                tracing::error!(error = error.message, "a change at start was refused");
            }
            None
        };
        self.change(io, (CONTROL_SHARD, Head::of_nobody()), changes, Box::new(log));
    }

    pub(super) fn random_id(&self, io: &mut impl Io) -> Uuid {
        let half = |random: u64| random.to_be_bytes();
        let (high, low) = (half(io.random()), half(io.random()));
        let mut id = [0; 16];
        id[..8].copy_from_slice(&high);
        id[8..].copy_from_slice(&low);
        Uuid(id)
    }

    /// For a client that sends metrics.
    pub(super) fn random_instance_id(&self, io: &mut impl Io) -> Uuid {
        loop {
            if let Some(id) = Uuid::from_random(self.random_id(io).0) {
                return id;
            }
        }
    }

    /// A topic as the broker makes it by itself.
    pub(super) fn auto_create(&self, io: &mut impl Io, name: &str) -> Result<Change, AdminError> {
        let topic_id = self.random_id(io);
        Ok(self.planner().auto_create_topic(name, topic_id)?)
    }

    pub(super) fn controller_completion(&mut self, io: &mut impl Io, completion: Completion) {
        if let Some(controller) = &mut self.controller {
            controller.metadata.handle_completion(io, completion);
        }
    }

    /// Takes over what has been committed.
    pub(super) fn poll_controller(&mut self, io: &mut impl Io) {
        let mut settled = false;
        while let Some(event) =
            self.controller.as_mut().and_then(|controller| controller.metadata.poll_event())
        {
            settled = true;
            match event {
                Event::Committed { proposal, image } => {
                    let revision = image.revision;
                    // What was committed together has one image, which is published once.
                    if !Arc::ptr_eq(&self.image, &image) {
                        self.publish(io, image);
                    }
                    self.committed(io, proposal, Ok(revision));
                }
                Event::Failed { proposal, error } => self.committed(io, proposal, Err(error.into())),
            }
        }
        if settled {
            self.settle_admins();
        }
    }

    fn publish(&mut self, io: &mut impl Io, image: Arc<ClusterImage>) {
        for shard in (0..self.shards).filter(|&shard| shard != CONTROL_SHARD) {
            self.post.mail.push_back((shard, Mail::Image(image.clone())));
        }
        let version = image.revision;
        self.apply_image(io, image);
        self.image_applied(CONTROL_SHARD, version);
    }

    pub(super) fn image_applied(&mut self, shard: usize, version: u64) {
        if let Some(controller) = &mut self.controller {
            controller.applied[shard] = controller.applied[shard].max(version);
            self.settle_admins();
        }
    }

    fn committed(&mut self, io: &mut impl Io, proposal: ProposalId, result: Result<u64, AdminError>) {
        let Some(controller) = &mut self.controller else { return };
        match controller.proposals.remove(&proposal) {
            Some(Purpose::Admin { admin, index }) => {
                let admin = &mut controller.admins[admin];
                admin.version = result.as_ref().map_or(admin.version, |&version| version.max(admin.version));
                admin.results[index] = Some(result.map(|_| ()));
            }
            Some(Purpose::ProducerIds) => {
                controller.producer_id_asked = false;
                if result.is_ok() {
                    let end = self.image.next_producer_id;
                    controller.producer_ids = end - i64::from(PRODUCER_ID_BLOCK)..end;
                }
                self.serve_producer_ids(io, result.err());
            }
            None => {}
        }
    }

    /// Answers requests whose changes are all settled and known to every shard.
    fn settle_admins(&mut self) {
        let Some(controller) = &mut self.controller else { return };
        let everywhere = controller.applied.iter().copied().min().unwrap_or(0);
        let ready: Vec<usize> = controller
            .admins
            .iter()
            .filter(|(_, admin)| admin.version <= everywhere && admin.results.iter().all(Option::is_some))
            .map(|(index, _)| index)
            .collect();
        for index in ready {
            let Some(controller) = &mut self.controller else { return };
            let mut admin = controller.admins.remove(index);
            let results = admin.results.into_iter().flatten().collect();
            if let Some(finish) = admin.finish.take() {
                let response = finish(self, results);
                self.respond(admin.shard, admin.head.id, response);
            }
        }
    }

    /// Answers an InitProducerId with the next id, or has it wait for a block of them.
    pub(super) fn ask_producer_id(&mut self, io: &mut impl Io, request: Forwarded) {
        if let Some(controller) = &mut self.controller {
            controller.producer_id_waiters.push_back(request);
            self.serve_producer_ids(io, None);
        }
    }

    fn serve_producer_ids(&mut self, io: &mut impl Io, failed: Option<AdminError>) {
        loop {
            let Some(controller) = &mut self.controller else { return };
            if controller.producer_id_waiters.is_empty() {
                return;
            }
            if controller.producer_ids.is_empty() && failed.is_none() {
                break;
            }
            let Some(request) = controller.producer_id_waiters.pop_front() else { return };
            if !controller.producer_ids.is_empty() && init_producer_id::is_transactional(&request) {
                self.transaction_request(io, request);
                continue;
            }
            let failure = failed.as_ref().map_or(ErrorCode::UnknownServerError, |error| error.code);
            let answer = controller.producer_ids.next().ok_or(failure);
            let response = init_producer_id::response(&request.head, answer);
            self.respond(request.shard, request.head.id, Some(response));
        }
        self.allocate_producer_ids(io);
    }

    /// Has the next block of producer ids set aside before this one is used up, as those who need one in the middle of
    /// something cannot wait for it.
    pub(super) fn keep_producer_ids(&mut self, io: &mut impl Io) {
        let low = self.controller.as_ref().is_some_and(|controller| {
            let left = controller.producer_ids.end - controller.producer_ids.start;
            left < i64::from(PRODUCER_ID_BLOCK) / 10
        });
        if low {
            self.allocate_producer_ids(io);
        }
    }

    fn allocate_producer_ids(&mut self, io: &mut impl Io) {
        let Some(controller) = &mut self.controller else { return };
        if controller.producer_id_asked {
            return;
        }
        match controller.metadata.propose(io, {
            let first = controller.metadata.latest().next_producer_id;
            Change::AllocateProducerIds { first, count: PRODUCER_ID_BLOCK }
        }) {
            Ok(proposal) => {
                controller.producer_id_asked = true;
                controller.proposals.insert(proposal, Purpose::ProducerIds);
            }
            Err(error) => {
                tracing::error!(error = error.message, "no block of producer ids");
                self.serve_producer_ids(io, Some(error.into()));
            }
        }
    }
}
