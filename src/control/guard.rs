//! Who may call, before any handler: our own names only (no DNS rebinding), no other site's page (no CSRF), no forms. And what
//! every answer carries, so that a browser trusts it with nothing.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Site;
use super::error::ApiError;
use super::http::Peer;

/// The page loads nothing from elsewhere and runs nothing written into it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'";
/// What a form of any site can send without being asked for leave.
const FORM_TYPES: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];

pub async fn check(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let refused = refusal(&site, &request);
    let mut response = match refused {
        Some(error) => {
            let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
            tracing::debug!(?peer, method = %request.method(), path = request.uri().path(), "{}", error.message);
            error.into_response()
        }
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refusal(site: &Site, request: &Request) -> Option<ApiError> {
    let (method, headers) = (request.method(), request.headers());
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(&HOST).unwrap_or_default();
    // A request line with a whole URL names a host too.
    let named = request.uri().authority().is_none_or(|authority| authority.as_str() == host);
    if !named || !site.knows_host(host) {
        return Some(ApiError::new(
            403,
            "This name is not known to be ours: add it to ringlog.http.hosts, or use the address.",
        ));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let site_of = text(&HeaderName::from_static("sec-fetch-site"));
    let navigates = text(&HeaderName::from_static("sec-fetch-mode")) == Some("navigate");
    let foreign = matches!(site_of, Some("cross-site" | "same-site")) && !(reads && navigates);
    let own_origin = |origin: &str| origin.strip_prefix("http://").is_some_and(|from| from == host);
    if foreign || text(&ORIGIN).is_some_and(|origin| !own_origin(origin)) {
        return Some(ApiError::new(403, "Requests of other sites' pages are refused."));
    }
    if reads {
        return None;
    }
    if site.config.read_only {
        return Some(ApiError::new(403, "This listener only shows (ringlog.http.read.only)."));
    }
    let media = text(&CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if FORM_TYPES.iter().any(|form| media.eq_ignore_ascii_case(form)) {
        return Some(ApiError::new(415, "HTTP 415 Unsupported Media Type"));
    }
    None
}
