//! One consumer instance of the REST interface: what a client library keeps for its user, kept here.
//!
//! Calls on an instance take turns. A join that takes long goes on in the background while its caller gets an empty answer;
//! heartbeats go out on their own, so an instance stays in its group as long as it is used now and then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinHandle};

use super::media::Format;
use super::membership::{self, Joined, Member, Place};
use crate::control::cluster::groups;
use crate::control::cluster::records::{Fetched, ReadOptions, read};
use crate::control::cluster::topics::{self, EARLIEST, LATEST};
use crate::control::cluster::{CallError, Caller, Cluster};
use crate::control::error::ApiError;
use crate::protocol::ErrorCode;

const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// Records of one answer.
const RECORDS_MAX: usize = 10_000;
/// Subscribed topics and assigned partitions of one instance.
pub const PLACES_MAX: usize = 10_000;

/// What an instance was made with.
#[derive(Clone, Debug)]
pub struct Options {
    pub format: Format,
    /// Where to begin without a committed offset: [`EARLIEST`], [`LATEST`], or nowhere.
    pub reset: Option<i64>,
    pub auto_commit: bool,
    pub committed_only: bool,
    pub request_timeout: Duration,
}

pub struct Consumer {
    pub group: String,
    pub id: String,
    pub options: Options,
    cluster: Arc<Cluster>,
    caller: Caller,
    state: tokio::sync::Mutex<State>,
    used: Mutex<Instant>,
}

#[derive(Default)]
struct State {
    wish: Wish,
    member: Member,
    joining: Option<JoinHandle<Result<Result<Joined, ErrorCode>, CallError>>>,
    /// The group changed: join again before the next read.
    stale: Arc<AtomicBool>,
    heartbeats: Option<AbortHandle>,
    /// The offset of the next record of each partition that is ours; none where it is not known yet.
    positions: BTreeMap<Place, Option<i64>>,
    committed: BTreeMap<Place, i64>,
    commit_at: Option<Instant>,
}

#[derive(Clone, Default)]
enum Wish {
    #[default]
    Nothing,
    Topics(Vec<String>),
    Pattern(regex::Regex),
    Partitions,
}

impl Drop for State {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn stop(&mut self) {
        if let Some(heartbeats) = self.heartbeats.take() {
            heartbeats.abort();
        }
        if let Some(joining) = self.joining.take() {
            joining.abort();
        }
    }
}

impl Consumer {
    pub fn new(
        cluster: Arc<Cluster>,
        caller: Caller,
        group: String,
        id: String,
        options: Options,
    ) -> Consumer {
        let state = tokio::sync::Mutex::default();
        Consumer { group, id, options, cluster, caller, state, used: Mutex::new(Instant::now()) }
    }

    pub fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub fn idle(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    pub async fn subscribe(&self, topics: Vec<String>) -> Result<(), ApiError> {
        self.wish(Wish::Topics(topics)).await
    }

    pub async fn subscribe_pattern(&self, pattern: &str) -> Result<(), ApiError> {
        let pattern = regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(1 << 16).build();
        let pattern = pattern.map_err(|_| ApiError::new(422, "topic_pattern is no regular expression."))?;
        self.wish(Wish::Pattern(pattern)).await
    }

    async fn wish(&self, wish: Wish) -> Result<(), ApiError> {
        let mut state = self.state.lock().await;
        let fits = matches!(
            (&state.wish, &wish),
            (Wish::Nothing, _) | (Wish::Topics(_), Wish::Topics(_)) | (Wish::Pattern(_), Wish::Pattern(_))
        );
        if !fits {
            return Err(ApiError::exclusive());
        }
        state.wish = wish;
        state.stale.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub async fn subscription(&self) -> Vec<String> {
        let state = self.state.lock().await;
        match &state.wish {
            Wish::Topics(topics) => topics.clone(),
            Wish::Pattern(_) => self.topics(&state.wish).await.unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Gives up topics, pattern or partitions.
    pub async fn unsubscribe(&self) {
        let mut state = self.state.lock().await;
        self.leave(&mut state).await;
        *state = State::default();
    }

    pub async fn assign(&self, places: Vec<Place>) -> Result<(), ApiError> {
        let mut state = self.state.lock().await;
        if !matches!(state.wish, Wish::Nothing | Wish::Partitions) {
            return Err(ApiError::exclusive());
        }
        let before = std::mem::take(&mut state.positions);
        state.wish = Wish::Partitions;
        state.positions =
            places.into_iter().map(|place| (place.clone(), before.get(&place).copied().flatten())).collect();
        Ok(())
    }

    pub async fn assignment(&self) -> Vec<Place> {
        self.state.lock().await.positions.keys().cloned().collect()
    }

    /// Goes on at these offsets, or at [`EARLIEST`] or [`LATEST`], found at once.
    pub async fn seek(&self, places: &BTreeMap<Place, i64>) -> Result<(), ApiError> {
        let mut state = self.state.lock().await;
        if let Some((topic, partition)) = places.keys().find(|place| !state.positions.contains_key(*place)) {
            let text = format!("No current assignment for partition {topic}-{partition}");
            return Err(ApiError::new(40903, format!("Illegal state: {text}")));
        }
        let marks: BTreeMap<Place, i64> =
            places.iter().filter(|(_, at)| **at < 0).map(|(place, at)| (place.clone(), *at)).collect();
        let found = topics::offsets(&self.cluster, &self.caller, &marks).await?;
        for (place, at) in places {
            let offset = if *at < 0 { found.get(place).copied() } else { Some(*at) };
            state.positions.insert(place.clone(), offset);
        }
        Ok(())
    }

    /// Commits these offsets, or all that was read.
    pub async fn commit(&self, offsets: Option<BTreeMap<Place, (i64, String)>>) -> Result<(), ApiError> {
        let mut state = self.state.lock().await;
        let offsets = offsets.unwrap_or_else(|| {
            let known = state.positions.iter().filter_map(|(place, at)| Some((place.clone(), (*at)?)));
            known.map(|(place, at)| (place, (at, String::new()))).collect()
        });
        if offsets.is_empty() {
            return Ok(());
        }
        self.commit_now(&mut state, offsets).await
    }

    async fn commit_now(
        &self,
        state: &mut State,
        offsets: BTreeMap<Place, (i64, String)>,
    ) -> Result<(), ApiError> {
        let code =
            membership::commit(&self.cluster, &self.caller, &self.group, &state.member, &offsets).await?;
        if code.is_error() {
            if !code.is_retriable() {
                state.stale.store(true, Ordering::Relaxed);
            }
            return Err(ApiError::new(50002, format!("Kafka error: {}", code.message())));
        }
        state.committed.extend(offsets.into_iter().map(|(place, (at, _))| (place, at)));
        state.commit_at = Some(Instant::now());
        Ok(())
    }

    /// What the group has committed for these partitions.
    pub async fn committed(&self, places: &[Place]) -> Result<Vec<(Place, i64, String)>, ApiError> {
        let ids = [self.group.clone()];
        let all = groups::committed(&self.cluster, &self.caller, &ids).await?;
        let offsets = all.into_iter().next().map(|(_, offsets)| offsets).unwrap_or_default();
        Ok(places
            .iter()
            .filter_map(|place| {
                let committed = offsets.get(place)?;
                Some((place.clone(), committed.offset, committed.metadata.clone()))
            })
            .collect())
    }

    /// The next records, as many as `bytes_max` lets through; an empty list when there are none in time.
    pub async fn poll(&self, wait: Option<Duration>, bytes_max: usize) -> Result<Vec<Fetched>, ApiError> {
        let deadline = Instant::now() + wait.unwrap_or(self.options.request_timeout);
        let mut state = self.state.lock().await;
        if matches!(state.wish, Wish::Nothing) {
            let text = "Consumer is not subscribed to any topics or assigned any partitions";
            return Err(ApiError::new(40903, format!("Illegal state: {text}")));
        }
        if !self.has_joined(&mut state, deadline).await? {
            return Ok(Vec::new());
        }
        self.commit_in_passing(&mut state).await;
        self.find_positions(&mut state).await?;
        let from: BTreeMap<Place, i64> =
            state.positions.iter().filter_map(|(place, at)| Some((place.clone(), (*at)?))).collect();
        if from.is_empty() {
            tokio::time::sleep(deadline.saturating_duration_since(Instant::now()).min(PAUSE)).await;
            return Ok(Vec::new());
        }
        let options = ReadOptions {
            wait: deadline.saturating_duration_since(Instant::now()),
            bytes_max,
            records_max: RECORDS_MAX,
            committed_only: self.options.committed_only,
        };
        let mut records = Vec::new();
        for (place, found) in read(&self.cluster, &self.caller, &from, options).await? {
            match found.error {
                ErrorCode::None => {}
                ErrorCode::OffsetOutOfRange => {
                    state.positions.insert(place, None);
                    // The committed offset may be the one that is gone.
                    state.committed.clear();
                    continue;
                }
                _ => continue,
            }
            self.check_format(&found.records)?;
            state.positions.insert(place, Some(found.next_offset));
            records.extend(found.records);
        }
        Ok(records)
    }

    /// A record that is not in the instance's format stops it there, as a deserializer would.
    fn check_format(&self, records: &[Fetched]) -> Result<(), ApiError> {
        let fits = |bytes: &Option<Vec<u8>>| self.options.format.decode(bytes.as_deref()).is_some();
        match records.iter().find(|record| !fits(&record.key) || !fits(&record.value)) {
            None => Ok(()),
            Some(record) => Err(ApiError::new(
                50002,
                format!(
                    "Kafka error: Error deserializing key/value for partition {}-{} at offset {}. If needed, please \
                     seek past the record to continue consumption.",
                    record.topic, record.partition, record.offset
                ),
            )),
        }
    }

    /// Whether the group has given us our partitions; a join under way is waited for until the deadline.
    async fn has_joined(&self, state: &mut State, deadline: Instant) -> Result<bool, ApiError> {
        if matches!(state.wish, Wish::Partitions) {
            return Ok(true);
        }
        if state.joining.is_none() {
            if !state.stale.load(Ordering::Relaxed) {
                return Ok(true);
            }
            let topics = self.topics(&state.wish).await?;
            state.stale.store(false, Ordering::Relaxed);
            if let Some(heartbeats) = state.heartbeats.take() {
                heartbeats.abort();
            }
            let (cluster, caller, group) = (self.cluster.clone(), self.caller.clone(), self.group.clone());
            let id = state.member.id.clone();
            state.joining =
                Some(tokio::spawn(
                    async move { membership::join(&cluster, &caller, &group, id, &topics).await },
                ));
        }
        let Some(joining) = state.joining.as_mut() else { return Ok(false) };
        let Ok(ended) = tokio::time::timeout_at(deadline.into(), joining).await else { return Ok(false) };
        state.joining = None;
        let joined = match ended {
            Ok(joined) => joined?,
            Err(_) => return Err(ApiError::new(500, "The join was given up.")),
        };
        let joined = joined.map_err(|code| {
            state.stale.store(true, Ordering::Relaxed);
            ApiError::new(50002, format!("Kafka error: {}", code.message()))
        })?;
        state.positions = joined.assignment.into_iter().map(|place| (place, None)).collect();
        state.committed.clear();
        state.member = joined.member.clone();
        state.heartbeats = Some(self.beat(joined.member, state.stale.clone()));
        Ok(true)
    }

    /// Heartbeats until the group changes.
    fn beat(&self, member: Member, stale: Arc<AtomicBool>) -> AbortHandle {
        let (cluster, caller, group) = (self.cluster.clone(), self.caller.clone(), self.group.clone());
        let beat = async move {
            loop {
                tokio::time::sleep(membership::HEARTBEAT_EVERY).await;
                match membership::heartbeat(&cluster, &caller, &group, &member).await {
                    Ok(code) if code.is_error() && code != ErrorCode::CoordinatorLoadInProgress => {
                        stale.store(true, Ordering::Relaxed);
                        // A rebalance may last; who has not joined it yet is still a member.
                        if code != ErrorCode::RebalanceInProgress {
                            return;
                        }
                    }
                    _ => {}
                }
            }
        };
        tokio::spawn(beat).abort_handle()
    }

    async fn topics(&self, wish: &Wish) -> Result<Vec<String>, ApiError> {
        match wish {
            Wish::Topics(topics) => Ok(topics.clone()),
            Wish::Pattern(pattern) => {
                let image = self.cluster.image().await?;
                let names = image.topics().filter(|topic| !topic.is_internal()).map(|topic| &*topic.name);
                Ok(names.filter(|name| pattern.is_match(name)).map(str::to_owned).take(PLACES_MAX).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Finds where to begin in partitions that have no position yet: the committed offset, or the wished end.
    async fn find_positions(&self, state: &mut State) -> Result<(), ApiError> {
        let missing: Vec<Place> =
            state.positions.iter().filter(|(_, at)| at.is_none()).map(|(place, _)| place.clone()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut unknown = BTreeMap::new();
        let committed = self.committed(&missing).await?;
        let committed: BTreeMap<Place, i64> =
            committed.into_iter().map(|(place, at, _)| (place, at)).collect();
        let known = missing.iter().map(|place| (place.clone(), EARLIEST)).collect();
        let starts = topics::offsets(&self.cluster, &self.caller, &known).await?;
        for place in missing {
            match (committed.get(&place), starts.get(&place)) {
                (Some(at), Some(start)) if at >= start => {
                    state.positions.insert(place, Some(*at));
                }
                (_, Some(_)) => {
                    if let Some(reset) = self.options.reset {
                        unknown.insert(place, reset);
                    }
                }
                // There is no such partition now.
                _ => {}
            }
        }
        for (place, at) in topics::offsets(&self.cluster, &self.caller, &unknown).await? {
            state.positions.insert(place, Some(at));
        }
        Ok(())
    }

    /// Commits what earlier answers brought, every few seconds, where that was asked for.
    async fn commit_in_passing(&self, state: &mut State) {
        if self.options.auto_commit && state.commit_at.is_none_or(|at| at.elapsed() >= COMMIT_EVERY) {
            let news = news(state);
            if !news.is_empty() {
                // The next one says more; a refusal makes the instance join again.
                let _ = self.commit_now(state, news).await;
            }
        }
    }

    /// The end of the instance.
    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        self.leave(&mut state).await;
    }

    async fn leave(&self, state: &mut State) {
        let news = if self.options.auto_commit { news(state) } else { BTreeMap::new() };
        if !news.is_empty() {
            let _ = self.commit_now(state, news).await;
        }
        state.stop();
        let id = std::mem::take(&mut state.member.id);
        if !id.is_empty() {
            // The session's timeout does the same later.
            let _ = membership::leave(&self.cluster, &self.caller, &self.group, &id).await;
        }
        state.member = Member::default();
    }
}

const PAUSE: Duration = Duration::from_millis(200);

/// What was read and is not committed.
fn news(state: &State) -> BTreeMap<Place, (i64, String)> {
    let known = state.positions.iter().filter_map(|(place, at)| Some((place, (*at)?)));
    let fresh = known.filter(|(place, at)| state.committed.get(*place) != Some(at));
    fresh.map(|(place, at)| (place.clone(), (at, String::new()))).collect()
}

/// What `auto.offset.reset` says.
pub fn parse_reset(text: &str) -> Option<Option<i64>> {
    match text {
        "earliest" | "smallest" => Some(Some(EARLIEST)),
        "latest" | "largest" => Some(Some(LATEST)),
        "none" => Some(None),
        _ => None,
    }
}
