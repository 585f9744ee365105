//! The broker as the control thread asks it: Kafka requests through the shards' doors, in the newest version we serve, and
//! what the shards show of themselves. Everything waits with a limit; a full door is an error, never a queue of its own.

pub mod groups; // groups, members, committed offsets
pub mod observer; // snapshots of the shards, kept for a moment
pub mod records; // appends and reads
pub mod topics; // topics, settings, offsets by time

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::broker::request::Response;
use crate::config::BrokerConfig;
use crate::metadata::ClusterImage;
use crate::protocol::frame::{LENGTH_BYTES, decode_response};
use crate::protocol::{ApiKey, DecodeError, Request, Writer};
use crate::server::ShardLink;
use crate::server::local::{LocalCall, LocalRequest, ShardState, Survey};

/// How old the image of the cluster may be that requests are sent by; who finds something missing in it asks anew.
const IMAGE_AGE: Duration = Duration::from_secs(1);

/// How long an ordinary request may take.
pub const WAIT: Duration = Duration::from_secs(30);

/// Why the broker did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the broker has too much to do, try again")]
    Busy,
    #[error("the broker is starting or stopping, or the request breaks its rules")]
    Refused,
    #[error("the broker did not answer in time")]
    TimedOut,
    #[error("an answer that cannot be read: {0}")]
    Malformed(#[from] DecodeError),
}

/// Who asks, as the broker is told.
#[derive(Clone, Debug)]
pub struct Caller {
    pub client_id: String,
    /// `/127.0.0.1`
    pub host: Arc<str>,
}

impl Caller {
    /// The control thread itself.
    pub fn own() -> Caller {
        Caller { client_id: "ringlog-control".to_owned(), host: Arc::from("/127.0.0.1") }
    }
}

/// An encoded request.
pub struct Call {
    api_key: ApiKey,
    version: i16,
    body: Vec<u8>,
}

impl Call {
    /// In the newest version that is served, `cap` at most.
    pub fn of<'q, R: Request<'q>>(cap: i16, request: &R) -> Call {
        let version = R::API_KEY.versions().max.min(cap);
        let mut writer = Writer::with_capacity(256);
        request.write(&mut writer, version);
        Call { api_key: R::API_KEY, version, body: writer.buf }
    }
}

/// An answer as it came; [`Answer::read`] gives the message.
pub struct Answer {
    frame: Vec<u8>,
    version: i16,
}

impl Answer {
    /// `R` is the request that was sent.
    pub fn read<'q, 'r, R: Request<'q>>(&'r self) -> Result<R::Response<'r>, CallError> {
        // A request that asked for no answer has an empty one.
        let frame = self.frame.get(LENGTH_BYTES..).unwrap_or_default();
        Ok(decode_response::<R>(frame, self.version)?.1)
    }
}

/// See the module.
pub struct Cluster {
    pub shards: Vec<ShardLink>,
    pub config: Arc<BrokerConfig>,
    next: AtomicUsize,
    image: Mutex<Option<(Instant, Arc<ClusterImage>)>>,
}

impl Cluster {
    pub fn new(shards: Vec<ShardLink>, config: Arc<BrokerConfig>) -> Cluster {
        Cluster { shards, config, next: AtomicUsize::new(0), image: Mutex::new(None) }
    }

    /// Asks the shards in turn: each passes on what is another's.
    pub async fn ask(&self, caller: &Caller, call: Call, wait: Duration) -> Result<Answer, CallError> {
        let version = call.version;
        let (reply, answer) = oneshot::channel();
        let request = LocalRequest {
            api_key: call.api_key,
            version,
            client_id: caller.client_id.clone(),
            host: caller.host.clone(),
            body: call.body,
            reply,
        };
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        self.shards[shard].door.call(LocalCall::Request(request)).map_err(|_| CallError::Busy)?;
        match tokio::time::timeout(wait, answer).await {
            Err(_) => Err(CallError::TimedOut),
            Ok(Err(_)) => Err(CallError::Refused),
            Ok(Ok(response)) => {
                Ok(Answer { frame: response.map_or_else(Vec::new, Response::into_bytes), version })
            }
        }
    }

    /// The cluster as it was a moment ago.
    pub async fn image(&self) -> Result<Arc<ClusterImage>, CallError> {
        let kept = self.image.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match kept {
            Some((at, image)) if at.elapsed() <= IMAGE_AGE => Ok(image),
            _ => self.fresh_image().await,
        }
    }

    /// The cluster as it is.
    pub async fn fresh_image(&self) -> Result<Arc<ClusterImage>, CallError> {
        let image = self.survey(0, None, false, WAIT).await?.broker.image;
        let kept = Some((Instant::now(), image.clone()));
        *self.image.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(image)
    }

    /// Something was changed.
    pub fn forget_image(&self) {
        *self.image.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The state of a shard.
    pub async fn survey(
        &self,
        shard: usize,
        partitions_from: Option<usize>,
        clients: bool,
        wait: Duration,
    ) -> Result<ShardState, CallError> {
        let (reply, answer) = oneshot::channel();
        let survey = Survey { partitions_from, clients, reply };
        self.shards[shard].door.call(LocalCall::Survey(survey)).map_err(|_| CallError::Busy)?;
        match tokio::time::timeout(wait, answer).await {
            Err(_) => Err(CallError::TimedOut),
            Ok(Err(_)) => Err(CallError::Refused),
            Ok(Ok(state)) => Ok(state),
        }
    }
}
