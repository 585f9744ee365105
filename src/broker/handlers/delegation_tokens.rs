//! CreateDelegationToken (1 to 3), RenewDelegationToken (1 and 2), ExpireDelegationToken (1 and 2) and DescribeDelegationToken
//! (1 to 3): nobody can have a token who came in unauthenticated, which everybody does.

use std::borrow::Cow;

use crate::broker::request::{Reply, Request, Response};
use crate::protocol::messages::create_delegation_token_request::CreateDelegationTokenRequest;
use crate::protocol::messages::create_delegation_token_response::CreateDelegationTokenResponse;
use crate::protocol::messages::describe_delegation_token_request::DescribeDelegationTokenRequest;
use crate::protocol::messages::describe_delegation_token_response::DescribeDelegationTokenResponse;
use crate::protocol::messages::expire_delegation_token_request::ExpireDelegationTokenRequest;
use crate::protocol::messages::expire_delegation_token_response::ExpireDelegationTokenResponse;
use crate::protocol::messages::renew_delegation_token_request::RenewDelegationTokenRequest;
use crate::protocol::messages::renew_delegation_token_response::RenewDelegationTokenResponse;
use crate::protocol::{ApiKey, ErrorCode, Message};

const ERROR_CODE: i16 = ErrorCode::DelegationTokenRequestNotAllowed.code();

pub fn handle(request: Request<'_>) -> Reply {
    match request.head.api_key {
        ApiKey::CreateDelegationToken => refuse::<CreateDelegationTokenRequest, _>(&request, &created()),
        ApiKey::RenewDelegationToken => {
            let refused = RenewDelegationTokenResponse {
                error_code: ERROR_CODE,
                expiry_timestamp_ms: -1,
                ..Default::default()
            };
            refuse::<RenewDelegationTokenRequest, _>(&request, &refused)
        }
        ApiKey::ExpireDelegationToken => {
            let refused = ExpireDelegationTokenResponse {
                error_code: ERROR_CODE,
                expiry_timestamp_ms: -1,
                ..Default::default()
            };
            refuse::<ExpireDelegationTokenRequest, _>(&request, &refused)
        }
        _ => {
            let refused = DescribeDelegationTokenResponse { error_code: ERROR_CODE, ..Default::default() };
            refuse::<DescribeDelegationTokenRequest, _>(&request, &refused)
        }
    }
}

fn created() -> CreateDelegationTokenResponse<'static> {
    CreateDelegationTokenResponse {
        error_code: ERROR_CODE,
        principal_type: Cow::Borrowed("User"),
        principal_name: Cow::Borrowed("ANONYMOUS"),
        token_requester_principal_type: Cow::Borrowed("User"),
        token_requester_principal_name: Cow::Borrowed("ANONYMOUS"),
        issue_timestamp_ms: -1,
        expiry_timestamp_ms: -1,
        max_timestamp_ms: -1,
        ..Default::default()
    }
}

fn refuse<'a, 'b, Q: Message<'a>, A: Message<'b>>(request: &Request<'a>, refused: &A) -> Reply {
    match super::decode::<Q>(request.body, request.head.version) {
        Ok(_) => Reply::Now(Response::of(&request.head, refused)),
        Err(error) => Reply::Close(error.to_string()),
    }
}
