//! v3: everything is a resource of a cluster, with its kind, its address and its name.

mod acls;
mod clusters;
mod configs;
mod groups;
mod records;
mod topics;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Map, Value, json};

use super::answer::{JSON, json as answer};
use super::media;
use crate::control::Site;
use crate::control::cluster::{Caller, Cluster};
use crate::control::error::ApiError;
use crate::control::http::Peer;

pub fn routes() -> Router<Arc<Site>> {
    let cluster = "/v3/clusters/{cluster}";
    let at = |rest: &str| format!("{cluster}/{rest}");
    Router::new()
        .route("/v3/clusters", get(clusters::list))
        .route(cluster, get(clusters::one))
        .route(&at("brokers"), get(clusters::brokers))
        .route(&at("brokers/{broker}"), get(clusters::broker))
        .route(&at("brokers/{broker}/partition-replicas"), get(topics::replicas_of_broker))
        .route(&at("brokers/-/configs"), get(configs::of_all_brokers))
        .route(&at("brokers/{broker}/configs"), get(configs::of_broker))
        .route(&at("brokers/{broker}/configs:alter"), post(configs::alter_broker))
        .route(
            &at("brokers/{broker}/configs/{name}"),
            get(configs::one_of_broker).put(configs::set_of_broker).delete(configs::unset_of_broker),
        )
        .route(&at("broker-configs"), get(configs::of_cluster))
        .route(&at("broker-configs:alter"), post(configs::alter_cluster))
        .route(
            &at("broker-configs/{name}"),
            get(configs::one_of_cluster).put(configs::set_of_cluster).delete(configs::unset_of_cluster),
        )
        .route(&at("topics"), get(topics::list).post(topics::create))
        .route(&at("topics/{topic}"), get(topics::one).delete(topics::delete).patch(topics::grow))
        .route(&at("topics/-/configs"), get(configs::of_all_topics))
        .route(&at("topics/{topic}/configs"), get(configs::of_topic))
        .route(&at("topics/{topic}/configs:alter"), post(configs::alter_topic))
        .route(
            &at("topics/{topic}/configs/{name}"),
            get(configs::one_of_topic).put(configs::set_of_topic).delete(configs::unset_of_topic),
        )
        .route(&at("topics/{topic}/partitions"), get(topics::partitions))
        .route(&at("topics/{topic}/partitions/{partition}"), get(topics::partition))
        .route(&at("topics/{topic}/partitions/{partition}/offset"), get(topics::offset))
        .route(&at("topics/{topic}/partitions/{partition}/replicas"), get(topics::replicas))
        .route(&at("topics/{topic}/partitions/{partition}/replicas/{broker}"), get(topics::replica))
        .route(&at("topics/{topic}/partitions/{partition}/reassignment"), get(topics::reassignment))
        .route(&at("topics/{topic}/partitions/-/reassignment"), get(topics::reassignments))
        .route(&at("topics/-/partitions/-/reassignment"), get(topics::all_reassignments))
        .route(&at("topics/{topic}/records"), post(records::stream))
        .route(&at("topics/{topic}/records:batch"), post(records::batch))
        .route(&at("consumer-groups"), get(groups::list))
        .route(&at("consumer-groups/{group}"), get(groups::one))
        .route(&at("consumer-groups/{group}/consumers"), get(groups::consumers))
        .route(&at("consumer-groups/{group}/consumers/{consumer}"), get(groups::consumer))
        .route(&at("consumer-groups/{group}/consumers/{consumer}/assignments"), get(groups::assignments))
        .route(
            &at("consumer-groups/{group}/consumers/{consumer}/assignments/{topic}/partitions/{partition}"),
            get(groups::assignment),
        )
        .route(&at("consumer-groups/{group}/lag-summary"), get(groups::lag_summary))
        .route(&at("consumer-groups/{group}/lags"), get(groups::lags))
        .route(&at("consumer-groups/{group}/lags/{topic}/partitions/{partition}"), get(groups::lag))
        .route(&at("acls"), get(acls::list).post(acls::refuse).delete(acls::refuse))
        .route(&at("acls:batch"), post(acls::refuse))
}

/// The cluster of a request's path, which has to be ours, and how it is linked to.
pub struct Target {
    pub site: Arc<Site>,
    pub cluster: Arc<Cluster>,
    pub caller: Caller,
    pub links: Links,
}

/// Addresses and names of resources.
#[derive(Clone)]
pub struct Links {
    base: String,
    pub cluster_id: String,
}

impl Links {
    /// The address of something in the cluster.
    pub fn url(&self, path: &str) -> String {
        let Links { base, cluster_id } = self;
        if path.is_empty() {
            format!("{base}/v3/clusters/{cluster_id}")
        } else {
            format!("{base}/v3/clusters/{cluster_id}/{path}")
        }
    }

    pub fn related(&self, path: &str) -> Value {
        json!({ "related": self.url(path) })
    }

    /// A resource; `facts` is an object, `name` its place below the cluster (`topic=t`).
    pub fn resource(&self, kind: &str, path: &str, name: &str, facts: Value) -> Value {
        let crn = match name {
            "" => format!("crn:///kafka={}", self.cluster_id),
            name => format!("crn:///kafka={}/{name}", self.cluster_id),
        };
        let mut object = Map::new();
        object.insert("kind".to_owned(), kind.into());
        object.insert("metadata".to_owned(), json!({ "self": self.url(path), "resource_name": crn }));
        object.insert("cluster_id".to_owned(), self.cluster_id.clone().into());
        if let Value::Object(facts) = facts {
            object.extend(facts);
        }
        Value::Object(object)
    }

    pub fn list(&self, kind: &str, path: &str, data: Vec<Value>) -> Value {
        list(kind, &self.url(path), data)
    }
}

pub fn list(kind: &str, address: &str, data: Vec<Value>) -> Value {
    json!({ "kind": kind, "metadata": { "self": address, "next": null }, "data": data })
}

impl FromRequestParts<Arc<Site>> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Target, ApiError> {
        let running = site.running()?;
        let image = running.cluster.image().await?;
        let asked = parts.uri.path().strip_prefix("/v3/clusters/").unwrap_or_default();
        let asked = asked.split('/').next().unwrap_or_default();
        if asked != &*image.cluster_id {
            return Err(ApiError::new(404, format!("Cluster {asked:.100} cannot be found.")));
        }
        Ok(Target {
            site: site.clone(),
            cluster: running.cluster.clone(),
            caller: super::caller(&parts.headers, parts.extensions.get::<Peer>()),
            links: Links { base: super::base_url(&parts.headers), cluster_id: asked.to_owned() },
        })
    }
}

fn ok(body: &Value) -> Response {
    answer(200, JSON, body)
}

/// A body of JSON.
async fn parse(target: &Target, headers: &axum::http::HeaderMap, body: Body) -> Result<Value, ApiError> {
    media::check_plain(headers)?;
    let content = target.site.budget.read(body).await?;
    if content.bytes.is_empty() {
        return Err(ApiError::new(422, "Payload error. Null input provided. Data is required."));
    }
    let request: Value = serde_json::from_slice(&content.bytes)
        .map_err(|error| ApiError::new(400, format!("The body is no JSON: {error}.")))?;
    if request.is_object() { Ok(request) } else { Err(ApiError::new(400, "The body must be an object.")) }
}

fn wrong(text: impl Into<String>) -> ApiError {
    ApiError::new(400, text)
}
