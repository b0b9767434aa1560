//! Reads a request's body: bounded in size, in time, and in what all bodies take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};

use super::ApiError;
use crate::limits::{ALL_BODY_BYTES, BODY_BYTES, BODY_TIME};

/// Bytes of all bodies in memory.
#[derive(Debug, Default)]
pub struct Budget(AtomicUsize);

/// A body, counted while it lives.
#[derive(Debug)]
pub struct Received {
    /// What was sent.
    pub bytes: Vec<u8>,
    budget: Arc<Budget>,
    counted: usize,
}

impl Drop for Received {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.counted, Ordering::AcqRel);
    }
}

impl Received {
    fn push(&mut self, data: &[u8], limit: usize) -> Result<(), ApiError> {
        if self.bytes.len() + data.len() > BODY_BYTES {
            return Err(too_large());
        }
        let all = self.budget.0.fetch_add(data.len(), Ordering::AcqRel) + data.len();
        self.counted += data.len();
        if all > limit {
            return Err(ApiError::unavailable("too many large requests at once"));
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// The body of a request.
///
/// # Errors
/// 413 beyond the limit, 408 when it does not come in time, 503 when all bodies together take too
/// much, 400 when the connection breaks.
pub async fn read(body: Incoming, budget: &Arc<Budget>) -> Result<Received, ApiError> {
    if body.size_hint().lower() > BODY_BYTES as u64 {
        return Err(too_large());
    }
    let mut received = Received { bytes: vec![], budget: budget.clone(), counted: 0 };
    match tokio::time::timeout(BODY_TIME, collect(body, &mut received)).await {
        Ok(done) => done.map(|()| received),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} seconds", BODY_TIME.as_secs()),
        )),
    }
}

async fn collect(mut body: Incoming, received: &mut Received) -> Result<(), ApiError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad(format!("the body broke off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            received.push(&data, ALL_BODY_BYTES)?;
        }
    }
    Ok(())
}

fn too_large() -> ApiError {
    let message = format!("the body is larger than {BODY_BYTES} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_count_while_they_live() {
        let budget = Arc::new(Budget::default());
        let body = || Received { bytes: vec![], budget: budget.clone(), counted: 0 };
        let mut first = body();
        first.push(&[0; 60], 100).unwrap();
        let mut second = body();
        assert_eq!(second.push(&[0; 60], 100).unwrap_err().status, 503);
        drop(second);
        first.push(&[0; 40], 100).unwrap();
        drop(first);
        assert_eq!(budget.0.load(Ordering::Acquire), 0);
    }
}
