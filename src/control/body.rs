//! Request bodies: read whole, within the limit of one and a budget for all, in limited time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// How long a client may take to send one body.
const TIME_MAX: Duration = Duration::from_secs(30);
/// All bodies together may hold this many of the largest.
const BODIES: usize = 8;
const UNIT_BYTES: usize = 1024;

/// The memory of all bodies being read or worked at.
pub struct Budget {
    body_bytes_max: usize,
    units: Arc<Semaphore>,
}

/// A body, and its part of the budget, which it gives back at its end.
pub struct Content {
    pub bytes: Vec<u8>,
    _units: Vec<OwnedSemaphorePermit>,
}

impl Budget {
    pub fn new(body_bytes_max: usize) -> Budget {
        let units = (body_bytes_max.div_ceil(UNIT_BYTES) * BODIES).min(Semaphore::MAX_PERMITS);
        Budget { body_bytes_max, units: Arc::new(Semaphore::new(units)) }
    }

    pub async fn read(&self, body: Body) -> Result<Content, ApiError> {
        match tokio::time::timeout(TIME_MAX, self.read_all(body)).await {
            Ok(content) => content,
            Err(_) => Err(ApiError::new(408, "The body did not come in time.")),
        }
    }

    async fn read_all(&self, mut body: Body) -> Result<Content, ApiError> {
        let mut content = Content { bytes: Vec::new(), _units: Vec::new() };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::new(400, format!("The body is broken: {error}.")))?;
            let Ok(data) = frame.into_data() else { continue };
            if content.bytes.len() + data.len() > self.body_bytes_max {
                let limit = self.body_bytes_max;
                return Err(ApiError::new(413, format!("The body is larger than {limit} bytes.")));
            }
            let units = u32::try_from(data.len().div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
            match self.units.clone().try_acquire_many_owned(units) {
                Ok(permit) => content._units.push(permit),
                Err(_) => return Err(ApiError::new(429, "Too many bodies at once, try again.")),
            }
            content.bytes.extend_from_slice(&data);
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_are_limited_one_by_one_and_together() {
        let budget = Budget::new(2048);
        assert_eq!(budget.read(Body::from("x".repeat(2049))).await.err().unwrap().code, 413);
        let kept = budget.read(Body::from("x".repeat(2048))).await.ok().unwrap();
        assert_eq!(kept.bytes.len(), 2048);
        let mut all = Vec::new();
        while let Ok(content) = budget.read(Body::from("x".repeat(2048))).await {
            all.push(content);
        }
        assert_eq!(all.len(), BODIES - 1);
        drop(kept);
        assert!(budget.read(Body::from("x")).await.is_ok());
    }
}
