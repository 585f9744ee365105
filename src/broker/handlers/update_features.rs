//! UpdateFeatures, versions 0 to 2: all levels of a request change or none does.
//!
//! What is asked for is checked in the order of the request; Kafka's order is that of a hash map.

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::controller::AdminError;
use crate::broker::features::{self, FEATURES};
use crate::broker::request::{Forwarded, Head, Response};
use crate::io::Io;
use crate::metadata::{Change, ClusterImage};
use crate::protocol::ErrorCode;
use crate::protocol::messages::update_features_request::{FeatureUpdateKey, UpdateFeaturesRequest};
use crate::protocol::messages::update_features_response::{UpdatableFeatureResult, UpdateFeaturesResponse};

const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;
const NOT_WITHOUT_TYPE: &str = concat!(
    "Can't downgrade the version of this feature without setting the upgrade type to either ",
    "safe or unsafe downgrade."
);

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    let Ok(message) = super::decode::<UpdateFeaturesRequest>(&request.body, head.version) else {
        return broker.respond(request.shard, head.id, None);
    };
    let names: Vec<String> =
        message.feature_updates.iter().map(|update| update.feature.into_owned()).collect();
    let planned = plan(broker.planner().image, broker.node_id(), &message);
    let changes = match planned {
        Ok(changes) if !message.validate_only => changes,
        result => {
            let response = response(&head, names, result.err());
            return broker.respond(request.shard, head.id, Some(response));
        }
    };
    let finish = move |_: &mut Broker, results: Vec<Result<(), AdminError>>| {
        Some(response(&head, names, results.into_iter().find_map(Result::err)))
    };
    broker.change(io, (request.shard, head), changes.into_iter().map(Ok).collect(), Box::new(finish));
}

/// The changes of a request; none where all levels are what they shall be.
fn plan(
    image: &ClusterImage,
    node_id: i32,
    message: &UpdateFeaturesRequest<'_>,
) -> Result<Vec<Change>, AdminError> {
    let mut wanted = Vec::new();
    for update in &message.feature_updates {
        let level = update.max_version_level;
        let checked = check(image, node_id, &update).map_err(|reason| {
            let message = format!(
                "The update failed for all features since the following feature had an error: Invalid update version \
                 {level} for feature {}. {reason}",
                update.feature
            );
            AdminError::new(ErrorCode::InvalidUpdateVersion, message)
        })?;
        wanted.extend(checked.then(|| (update.feature.into_owned(), level)));
    }
    if !wanted.is_empty() && !features::is_explicit(image) {
        let now = FEATURES.iter().map(|feature| (feature.name.to_owned(), feature.level(image)));
        wanted.splice(0..0, now);
    }
    Ok(wanted.into_iter().map(|(name, level)| Change::SetFeature { name, level }).collect())
}

/// Whether a level that may be set differs from what it is, or why it may not.
fn check(
    image: &ClusterImage,
    node_id: i32,
    update: &FeatureUpdateKey<'_>,
) -> Result<bool, Cow<'static, str>> {
    let level = update.max_version_level;
    if !(UPGRADE..=UNSAFE_DOWNGRADE).contains(&update.upgrade_type) {
        return Err("The controller does not support the given upgrade type.".into());
    }
    if level < 0 {
        return Err("A feature version cannot be less than 0.".into());
    }
    let Some(feature) = features::find(&update.feature) else {
        return Err(match level {
            0 => format!("Feature {} not found.", update.feature).into(),
            _ => format!("Local controller {node_id} does not support this feature.").into(),
        });
    };
    if !(feature.min..=feature.max).contains(&level) {
        let (min, max) = (feature.min, feature.max);
        return Err(format!("Local controller {node_id} only supports versions {min}-{max}").into());
    }
    let now = feature.level(image);
    match update.upgrade_type {
        UPGRADE if level < now => Err(NOT_WITHOUT_TYPE.into()),
        SAFE_DOWNGRADE | UNSAFE_DOWNGRADE if level > now => Err("Can't downgrade to a newer version.".into()),
        _ => Ok(level != now),
    }
}

fn response(head: &Head, names: Vec<String>, error: Option<AdminError>) -> Response {
    let results = names.into_iter().filter(|_| error.is_none()).map(|name| UpdatableFeatureResult {
        feature: Cow::Owned(name),
        error_code: 0,
        error_message: Some(Cow::Borrowed("NONE")),
    });
    let response = UpdateFeaturesResponse {
        results: results.collect(),
        error_code: error.as_ref().map_or(0, |error| error.code.code()),
        error_message: error.map(|error| Cow::Owned(error.message)),
        ..Default::default()
    };
    Response::of(head, &response)
}
