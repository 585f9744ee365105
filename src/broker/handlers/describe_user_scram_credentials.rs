//! DescribeUserScramCredentials, version 0: nobody has any.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::broker::request::{Reply, Request, Response};
use crate::protocol::ErrorCode;
use crate::protocol::messages::describe_user_scram_credentials_request::DescribeUserScramCredentialsRequest;
use crate::protocol::messages::describe_user_scram_credentials_response::{
    DescribeUserScramCredentialsResponse, DescribeUserScramCredentialsResult,
};

pub fn handle(request: Request<'_>) -> Reply {
    let message =
        match super::decode::<DescribeUserScramCredentialsRequest>(request.body, request.head.version) {
            Ok(message) => message,
            Err(error) => return Reply::Close(error.to_string()),
        };
    // How often each is asked for.
    let mut users: BTreeMap<Cow<'_, str>, usize> = BTreeMap::new();
    for user in message.users.iter().flatten() {
        *users.entry(user.name).or_default() += 1;
    }
    let results = users.into_iter().map(|(user, times)| {
        let (error, reason) = match times {
            1 => (
                ErrorCode::ResourceNotFound,
                format!("Attempt to describe a user credential that does not exist: {user}"),
            ),
            _ => (
                ErrorCode::DuplicateResource,
                format!(
                    "Cannot describe SCRAM credentials for the same user twice in a single request: {user}"
                ),
            ),
        };
        DescribeUserScramCredentialsResult {
            user,
            error_code: error.code(),
            error_message: Some(Cow::Owned(reason)),
            ..Default::default()
        }
    });
    let response = DescribeUserScramCredentialsResponse {
        error_message: Some(Cow::Borrowed("")),
        results: results.collect(),
        ..Default::default()
    };
    Reply::Now(Response::of(&request.head, &response))
}
