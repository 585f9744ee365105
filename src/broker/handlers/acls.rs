//! DescribeAcls, CreateAcls and DeleteAcls, versions 1 to 3: there is no authorizer, which is what a Kafka without one says.

use std::borrow::Cow;

use crate::broker::request::{Reply, Request, Response};
use crate::protocol::ErrorCode;
use crate::protocol::messages::create_acls_request::CreateAclsRequest;
use crate::protocol::messages::create_acls_response::{AclCreationResult, CreateAclsResponse};
use crate::protocol::messages::delete_acls_request::DeleteAclsRequest;
use crate::protocol::messages::delete_acls_response::{DeleteAclsFilterResult, DeleteAclsResponse};
use crate::protocol::messages::describe_acls_request::DescribeAclsRequest;
use crate::protocol::messages::describe_acls_response::DescribeAclsResponse;

const ERROR_CODE: i16 = ErrorCode::SecurityDisabled.code();
const REASON: Cow<'static, str> = Cow::Borrowed("No Authorizer is configured.");

pub fn describe(request: Request<'_>) -> Reply {
    if let Err(error) = super::decode::<DescribeAclsRequest>(request.body, request.head.version) {
        return Reply::Close(error.to_string());
    }
    let response = DescribeAclsResponse {
        error_code: ERROR_CODE,
        error_message: Some(Cow::Borrowed("No Authorizer is configured on the broker")),
        ..Default::default()
    };
    Reply::Now(Response::of(&request.head, &response))
}

pub fn create(request: Request<'_>) -> Reply {
    let message = match super::decode::<CreateAclsRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let refused = |_| AclCreationResult { error_code: ERROR_CODE, error_message: Some(REASON) };
    let results = message.creations.iter().map(refused).collect();
    Reply::Now(Response::of(&request.head, &CreateAclsResponse { results, ..Default::default() }))
}

pub fn delete(request: Request<'_>) -> Reply {
    let message = match super::decode::<DeleteAclsRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let refused = |_| DeleteAclsFilterResult {
        error_code: ERROR_CODE,
        error_message: Some(REASON),
        ..Default::default()
    };
    let filter_results = message.filters.iter().map(refused).collect();
    Reply::Now(Response::of(&request.head, &DeleteAclsResponse { filter_results, ..Default::default() }))
}
