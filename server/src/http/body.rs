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

/// A body.
#[derive(Debug)]
pub struct Received {
    /// What was sent.
    pub bytes: Vec<u8>,
    /// Its part of the budget.
    pub share: Share,
}

/// What a body takes of the budget, and then what was made of it: it lives as long as that.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    counted: usize,
}

impl Share {
    /// Gives back all but so many bytes: what is kept of the body is no larger.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.counted.saturating_sub(bytes);
        self.budget.0.fetch_sub(surplus, Ordering::AcqRel);
        self.counted -= surplus;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.counted, Ordering::AcqRel);
    }
}

impl Received {
    fn new(budget: &Arc<Budget>) -> Self {
        Self { bytes: vec![], share: Share { budget: budget.clone(), counted: 0 } }
    }

    fn push(&mut self, data: &[u8], limit: usize) -> Result<(), ApiError> {
        if self.bytes.len() + data.len() > BODY_BYTES {
            return Err(too_large());
        }
        let share = &mut self.share;
        let all = share.budget.0.fetch_add(data.len(), Ordering::AcqRel) + data.len();
        share.counted += data.len();
        if all > limit {
            let message = format!("too many large requests at once: they may take {limit} bytes");
            return Err(ApiError::unavailable(message).code("bodies_full"));
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
    let mut received = Received::new(budget);
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
    fn what_is_not_kept_of_a_body_makes_room() {
        let budget = Arc::new(Budget::default());
        let mut body = Received::new(&budget);
        body.push(&[0; 60], 100).unwrap();
        body.share.shrink_to(70);
        assert_eq!(budget.0.load(Ordering::Acquire), 60);
        body.share.shrink_to(10);
        assert_eq!(budget.0.load(Ordering::Acquire), 10);
        drop(body);
        assert_eq!(budget.0.load(Ordering::Acquire), 0);
    }

    #[test]
    fn bodies_count_while_they_live() {
        let budget = Arc::new(Budget::default());
        let body = || Received::new(&budget);
        let mut first = body();
        first.push(&[0; 60], 100).unwrap();
        let mut second = body();
        assert_eq!(second.push(&[0; 60], 100).unwrap_err().status, 503);
        drop(second);
        first.push(&[0; 40], 100).unwrap();
        let Received { bytes, share } = first;
        drop(bytes);
        assert_eq!(body().push(&[0], 100).unwrap_err().status, 503, "what was made of it lives");
        drop(share);
        assert_eq!(budget.0.load(Ordering::Acquire), 0);
    }
}
