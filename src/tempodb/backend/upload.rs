//! Writes an object of unknown size in parts.
//!
//! Invariants
//! * The object is not visible before [`Upload::finish`] has succeeded; an upload given up or dropped never becomes visible.
//! * Memory: `in_flight` parts under way and less than one part that is being filled.

use std::collections::VecDeque;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use super::Backend;
use super::error::{BackendError, store_error};

/// More parts no store takes but Azure, which takes 50,000.
const MAX_PARTS: usize = 10_000;
/// From this part on parts are larger, so that the largest blocks fit into [`MAX_PARTS`].
const GROWS_FROM_PART: usize = 1_000;
const GROWTH: usize = 4;

/// How a store takes large objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartSizes {
    pub(super) bytes: usize,
    /// Parts being sent at once.
    pub(super) in_flight: usize,
    /// Whether parts late in a large object are larger. Some stores want them all equal.
    pub(super) is_growing: bool,
    pub(super) max_parts: usize,
}

impl Default for PartSizes {
    fn default() -> Self {
        Self { bytes: 8 << 20, in_flight: 4, is_growing: true, max_parts: MAX_PARTS }
    }
}

impl PartSizes {
    fn of_part(&self, number: usize) -> usize {
        if self.is_growing && number >= GROWS_FROM_PART { self.bytes * GROWTH } else { self.bytes }
    }
}

/// An object being written; see [`Backend::upload`].
///
/// Not cancel-safe: after a dropped call the upload can only be given up.
pub struct Upload {
    backend: Backend,
    key: Path,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// Begun with the first full part: a small object needs one request only.
    multipart: Option<Box<dyn MultipartUpload>>,
    parts: usize,
    under_way: JoinSet<object_store::Result<()>>,
}

impl Upload {
    pub(super) fn new(backend: Backend, key: Path) -> Self {
        Self { backend, key, waiting: VecDeque::new(), waiting_bytes: 0, multipart: None, parts: 0, under_way: JoinSet::new() }
    }

    /// Appends bytes; waits while the store is slower than the caller.
    pub async fn write(&mut self, bytes: impl Into<Bytes>) -> Result<(), BackendError> {
        let bytes = bytes.into();
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(bytes);
        while self.waiting_bytes >= self.backend.parts.of_part(self.parts) {
            let part = self.take(self.backend.parts.of_part(self.parts));
            self.send(part).await?;
        }
        Ok(())
    }

    /// Makes the object visible, with everything that was written.
    pub async fn finish(mut self) -> Result<(), BackendError> {
        let rest = self.take(self.waiting_bytes);
        if self.multipart.is_none() {
            let put = self.backend.store.put(&self.key, rest).await;
            return put.map(drop).map_err(|cause| store_error("write", &self.key, cause));
        }
        if rest.content_length() > 0 {
            self.send(rest).await?;
        }
        self.wait_for_parts(0).await?;
        let Some(mut multipart) = self.multipart.take() else { return Ok(()) };
        match multipart.complete().await {
            Ok(_) => Ok(()),
            Err(cause) => {
                self.multipart = Some(multipart);
                Err(store_error("complete", &self.key, cause))
            }
        }
    }

    /// Gives the object up and removes its parts from the store.
    pub async fn abort(mut self) -> Result<(), BackendError> {
        self.under_way.shutdown().await;
        let Some(mut multipart) = self.multipart.take() else { return Ok(()) };
        multipart.abort().await.map_err(|cause| store_error("give up", &self.key, cause))
    }

    async fn send(&mut self, part: PutPayload) -> Result<(), BackendError> {
        let PartSizes { bytes, max_parts, in_flight, .. } = self.backend.parts;
        if self.parts >= max_parts {
            return Err(BackendError::TooManyParts { key: self.key.to_string(), max: max_parts, part_size: bytes });
        }
        self.wait_for_parts(in_flight.max(1) - 1).await?;
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => {
                let begun = self.backend.store.put_multipart(&self.key).await;
                self.multipart.insert(begun.map_err(|cause| store_error("begin", &self.key, cause))?)
            }
        };
        self.parts += 1;
        self.under_way.spawn(multipart.put_part(part));
        Ok(())
    }

    /// Waits until at most `left` parts are under way.
    async fn wait_for_parts(&mut self, left: usize) -> Result<(), BackendError> {
        while self.under_way.len() > left {
            let Some(ended) = self.under_way.join_next().await else { break };
            let sent = ended.unwrap_or_else(|cause| Err(object_store::Error::JoinError { source: cause }));
            sent.map_err(|cause| store_error("write a part of", &self.key, cause))?;
        }
        Ok(())
    }

    /// Takes the first `bytes` of what waits, without copying.
    fn take(&mut self, bytes: usize) -> PutPayload {
        let mut taken = Vec::new();
        let mut missing = bytes;
        while missing > 0
            && let Some(mut chunk) = self.waiting.pop_front()
        {
            if chunk.len() > missing {
                self.waiting.push_front(chunk.split_off(missing));
            }
            missing -= chunk.len();
            taken.push(chunk);
        }
        self.waiting_bytes -= bytes - missing;
        taken.into_iter().collect()
    }
}

impl Drop for Upload {
    /// A dropped upload is given up in the background, as far as the store answers; parts that stay are never visible.
    fn drop(&mut self) {
        if let (Some(mut multipart), Ok(runtime)) = (self.multipart.take(), tokio::runtime::Handle::try_current()) {
            let mut under_way = std::mem::take(&mut self.under_way);
            runtime.spawn(async move {
                under_way.shutdown().await;
                let _as_far_as_possible = multipart.abort().await;
            });
        }
    }
}
