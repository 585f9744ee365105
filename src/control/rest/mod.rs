//! The REST interface: the one that Kafka users know as v2 (topics, produce, consumer instances) and v3 (clusters, topics,
//! settings, groups, records), and `POST /produce`. `openapi.json` describes all of it, and is tested against it.
//!
//! Whatever is asked goes through [`cluster`](super::cluster), so it means what it means from any client: the same
//! validation, the same acknowledgements, the same limits.

mod answer; // JSON out
pub mod consumer; // one consumer instance
mod consumers; // v2: consumer instances
mod instances; // all of them, bounded
mod media; // content types and what they hold
mod membership; // the classic group protocol
mod produce; // v2 and /produce
mod topics; // v2: topics, partitions, brokers
mod v3;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::Site;
use super::cluster::{CallError, Caller, Cluster};
use super::error::ApiError;
use super::http::Peer;
use crate::protocol::ErrorCode;
pub use instances::Instances;
pub use topics::find as find_topic;

const OPENAPI: &str = include_str!("openapi.json");

pub fn routes() -> Router<Arc<Site>> {
    let instance = "/consumers/{group}/instances/{instance}";
    let of_instance = |rest: &str| format!("{instance}/{rest}");
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/produce", post(produce::to_any))
        .route("/topics", get(topics::list))
        .route("/topics/{topic}", get(topics::one).post(produce::to_topic))
        .route("/topics/{topic}/partitions", get(topics::partitions))
        .route("/topics/{topic}/partitions/{partition}", get(topics::partition).post(produce::to_partition))
        .route("/topics/{topic}/partitions/{partition}/offsets", get(topics::offsets))
        .route("/brokers", get(topics::brokers))
        .route("/consumers/{group}", post(consumers::create))
        .route(instance, axum::routing::delete(consumers::delete))
        .route(
            &of_instance("subscription"),
            get(consumers::subscription).post(consumers::subscribe).delete(consumers::unsubscribe),
        )
        .route(&of_instance("assignments"), get(consumers::assignments).post(consumers::assign))
        .route(&of_instance("records"), get(consumers::records))
        .route(&of_instance("offsets"), get(consumers::committed).post(consumers::commit))
        .route(&of_instance("positions"), post(consumers::seek))
        .route(&of_instance("positions/beginning"), post(consumers::seek_to_beginning))
        .route(&of_instance("positions/end"), post(consumers::seek_to_end))
        .merge(v3::routes())
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Who is behind a request.
pub fn caller(headers: &HeaderMap, peer: Option<&Peer>) -> Caller {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let name: String = agent.chars().take_while(|c| *c != ' ').take(64).collect();
    let host = peer.map_or_else(|| Arc::from("/unknown"), |peer| Arc::from(format!("/{}", peer.0.ip())));
    Caller { client_id: format!("http-{name}"), host }
}

/// Where the caller sees us, for links.
fn base_url(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    format!("http://{host}")
}

/// The number of partitions of a topic, which is made if it is not there and the broker does so.
async fn partitions_of(cluster: &Cluster, caller: &Caller, topic: &str) -> Result<usize, ApiError> {
    use super::cluster::topics;
    if let Some(found) = cluster.image().await?.topic(topic) {
        return Ok(found.partitions.len());
    }
    if let Some(found) = cluster.fresh_image().await?.topic(topic) {
        return Ok(found.partitions.len());
    }
    if crate::storage::names::check_topic_name(topic).is_ok() && cluster.config.auto_create_topics {
        // Whether it worked is seen at once; refused or not, there is no topic then.
        let _ = topics::wish_for(cluster, caller, topic).await?;
        if let Some(found) = cluster.fresh_image().await?.topic(topic) {
            return Ok(found.partitions.len());
        }
    }
    Err(ApiError::topic_not_found())
}

/// Commits for a group that has no members.
pub async fn commit_for_nobody(
    cluster: &Cluster,
    caller: &Caller,
    group: &str,
    offsets: &BTreeMap<(String, i32), i64>,
) -> Result<ErrorCode, CallError> {
    let offsets = offsets.iter().map(|(place, at)| (place.clone(), (*at, String::new()))).collect();
    membership::commit(cluster, caller, group, &membership::Member::default(), &offsets).await
}

/// A name as a part of a URL.
pub fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte);
    let shown = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a router holds can only be read from what it shows of itself.
    #[test]
    fn every_route_is_in_the_document() {
        let shown = format!("{:?}", routes());
        // The router's own fallback stands at the root.
        let ours = |part: &&str| part.len() > 1 && part.starts_with('/') && !part.contains("__private");
        let routes: BTreeSet<&str> = shown.split('"').filter(ours).collect();
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap().keys().map(String::as_str);
        let elsewhere = ["/metrics", "/health/live", "/health/ready"];
        let paths: BTreeSet<&str> = paths.filter(|path| !elsewhere.contains(path)).collect();
        assert!(routes.len() > 50, "{shown:.500}");
        assert_eq!(routes, paths);
    }

    #[test]
    fn names_are_parts_of_a_url() {
        assert_eq!(encode("a/b c?d\u{e9}#%~-_."), "a%2Fb%20c%3Fd%C3%A9%23%25~-_.");
    }
}
