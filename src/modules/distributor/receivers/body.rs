//! Collects a request body within its limit, its time and the memory budget.

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;

use super::BODY_TIMEOUT;
use crate::base::byte_budget::{BudgetExhausted, Reservation};
use crate::modules::distributor::error::PushError;

/// Why a body was not received.
pub(super) enum ReceiveError {
    /// `announced` is the length that the check saw, if it was announced.
    TooLarge {
        announced: Option<usize>,
    },
    Refused(PushError),
}

/// A body and its memory.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    pub(super) memory: Reservation,
}

/// Receives `body`. `check` sees the first bytes of the body, as many as there are so far, and may return the length that they announce.
pub(super) async fn receive<B>(
    body: B,
    limit: usize,
    memory: Reservation,
    announced: impl Fn(&[u8]) -> Option<usize>,
) -> Result<Received, ReceiveError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, limit, memory, announced)).await {
        Ok(received) => received,
        Err(_elapsed) => Err(ReceiveError::Refused(PushError::BodyTimedOut(BODY_TIMEOUT))),
    }
}

async fn collect<B>(
    body: B,
    limit: usize,
    mut memory: Reservation,
    announced: impl Fn(&[u8]) -> Option<usize>,
) -> Result<Received, ReceiveError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let no_memory = |error: BudgetExhausted| ReceiveError::Refused(error.into());
    let mut body = std::pin::pin!(body);
    // One frame is kept as it is; from the second on they are joined.
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ReceiveError::Refused(PushError::BadBody(format!("body was not received: {error}"))))?;
        let Ok(data) = frame.into_data() else { continue };
        let start = if joined.is_empty() { if first.is_empty() { &data } else { &first } } else { &joined[..] };
        let length = announced(start);
        let received = first.len().max(joined.len()) + data.len();
        if received > limit || length.is_some_and(|length| length > limit) {
            return Err(ReceiveError::TooLarge { announced: length });
        }
        memory.grow(data.len() as u64).map_err(no_memory)?;
        if first.is_empty() && joined.is_empty() {
            first = data;
            continue;
        }
        if joined.is_empty() {
            joined.reserve(length.unwrap_or(0).max(received));
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&data);
    }
    let bytes = if joined.is_empty() { first } else { joined.freeze() };
    Ok(Received { bytes, memory })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::base::byte_budget::ByteBudget;

    async fn send(frames: &[&'static [u8]], limit: usize, budget: u64) -> Result<Bytes, String> {
        let frames: Vec<_> = frames.iter().map(|data| Ok::<_, Infallible>(Frame::data(Bytes::from_static(data)))).collect();
        let memory = ByteBudget::new("test", budget).try_reserve(0).unwrap();
        match receive(StreamBody::new(stream::iter(frames)), limit, memory, |start| start.first().map(|len| usize::from(*len))).await {
            Ok(received) => Ok(received.bytes),
            Err(ReceiveError::TooLarge { announced }) => Err(format!("too large: {announced:?}")),
            Err(ReceiveError::Refused(error)) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn bodies_are_joined_within_limit_and_budget() {
        assert_eq!(send(&[b"\x01ab", b"", b"cd", b"e"], 6, 6).await.unwrap(), "\x01abcde");
        assert_eq!(send(&[b"\x01ab"], 3, 3).await.unwrap(), "\x01ab");
        assert_eq!(send(&[], 3, 3).await.unwrap(), "");
        assert_eq!(send(&[b"\x01ab", b"c"], 3, 9).await.unwrap_err(), "too large: Some(1)");
        assert_eq!(send(&[b"\x09"], 3, 9).await.unwrap_err(), "too large: Some(9)");
        assert_eq!(send(&[b"\x01ab", b"c"], 9, 3).await.unwrap_err(), "memory budget test of 3 bytes is used up");
    }
}
