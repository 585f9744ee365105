//! ApiVersions, versions 0 to 4. An unknown version is answered in version 0 with UNSUPPORTED_VERSION and our range of
//! this one API (KIP-511); the connection stays open.

use std::borrow::Cow;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::features::{FEATURES, Feature};
use crate::broker::request::{Head, Reply, Request, Response, Software};
use crate::metadata::ClusterImage;
use crate::protocol::messages::api_versions_request::ApiVersionsRequest;
use crate::protocol::messages::api_versions_response::{
    ApiVersion, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use crate::protocol::{ApiKey, Array, ErrorCode};

/// What a client says it is, is remembered where it is no longer.
const SOFTWARE_BYTES_MAX: usize = 256;

pub fn handle(broker: &Broker, request: Request<'_>) -> Reply {
    let head = request.head;
    if !ApiKey::ApiVersions.is_served(head.version) {
        return Reply::Now(unsupported(head));
    }
    let message = match super::decode::<ApiVersionsRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let named = is_name(&message.client_software_name) && is_name(&message.client_software_version);
    if head.version >= 3 && !named {
        let response =
            ApiVersionsResponse { error_code: ErrorCode::InvalidRequest.code(), ..Default::default() };
        return Reply::Now(Response::of(&head, &response));
    }
    if named
        && message.client_software_name.len().max(message.client_software_version.len()) <= SOFTWARE_BYTES_MAX
    {
        let (name, version) =
            (message.client_software_name.into_owned(), message.client_software_version.into_owned());
        // What it said first stays.
        let _ = request.peer.software.set(Arc::new(Software { name, version }));
    }
    let response = ApiVersionsResponse {
        api_keys: ApiKey::ALL.iter().filter(|key| super::is_handled(**key)).map(|key| entry(*key)).collect(),
        supported_features: supported_features(head.version),
        finalized_features_epoch: broker.image.revision as i64,
        finalized_features: FEATURES
            .iter()
            .filter_map(|feature| finalized_feature(feature, &broker.image))
            .collect(),
        ..Default::default()
    };
    Reply::Now(Response::of(&head, &response))
}

/// Clients before version 4 fail over a feature that may be off, and are not told of it.
fn supported_features(version: i16) -> Array<'static, SupportedFeatureKey<'static>> {
    let shown = FEATURES.iter().filter(|feature| version >= 4 || feature.min > 0);
    let key = |feature: &Feature| SupportedFeatureKey {
        name: Cow::Borrowed(feature.name),
        min_version: feature.min,
        max_version: feature.max,
    };
    shown.map(key).collect()
}

/// A feature that is off has no level.
fn finalized_feature(feature: &Feature, image: &ClusterImage) -> Option<FinalizedFeatureKey<'static>> {
    let level = feature.level(image);
    (level > 0).then_some(FinalizedFeatureKey {
        name: Cow::Borrowed(feature.name),
        max_version_level: level,
        min_version_level: level,
    })
}

fn unsupported(head: Head) -> Response {
    let response = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: vec![entry(ApiKey::ApiVersions)].into(),
        ..Default::default()
    };
    Response::of(&Head { version: 0, ..head }, &response)
}

fn entry(api_key: ApiKey) -> ApiVersion {
    let versions = api_key.versions();
    ApiVersion {
        api_key: api_key.code(),
        min_version: versions.advertised_min,
        max_version: versions.advertised_max,
    }
}

/// Letters and digits, with dots and dashes between them (KIP-511).
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names() {
        for good in ["apache-kafka-java", "4.3.1", "x"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "a_b"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
