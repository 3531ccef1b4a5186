//! Reading ranges of an object.

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::error::{BackendError, store_error};
use super::{Backend, Kind};

/// Requests under way for one call. Calls are bounded by who makes them: jobs of the querier, inputs of a compaction.
const PARALLEL_REQUESTS: usize = 8;

/// What reading cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadCost {
    /// Requests to the store.
    pub requests: u64,
    /// Bytes requested.
    pub bytes: u64,
}

impl std::ops::AddAssign for ReadCost {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }
}

impl Backend {
    /// Reads `ranges` of an object, in their order; close ones share a request. Returns the buffers and what it cost.
    pub async fn read_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<(Vec<Bytes>, ReadCost), BackendError> {
        let requests = coalesce(ranges, self.gap.bytes());
        let buffers = self.request(key, &requests).await?;
        let mut cost = ReadCost::default();
        for (request, buffer) in requests.iter().zip(&buffers) {
            let (wanted, read) = (request.end - request.start, buffer.len() as u64);
            if wanted != read {
                return Err(BackendError::ShortRead { key: key.to_string(), wanted, read });
            }
            cost.requests += 1;
            cost.bytes += read;
        }
        let slices = ranges.iter().map(|range| {
            let at = requests.partition_point(|request| request.end < range.end).min(requests.len().saturating_sub(1));
            match (requests.get(at), buffers.get(at)) {
                (Some(request), Some(buffer)) if !range.is_empty() => {
                    buffer.slice((range.start - request.start) as usize..(range.end - request.start) as usize)
                }
                _ => Bytes::new(),
            }
        });
        Ok((slices.collect(), cost))
    }

    async fn request(&self, key: &Path, requests: &[Range<u64>]) -> Result<Vec<Bytes>, BackendError> {
        let read = match self.kind {
            // One system call after the other on one blocking thread.
            Kind::Local | Kind::Other => self.store.get_ranges(key, requests).await,
            Kind::S3 | Kind::Gcs | Kind::Azure => {
                let requests = requests.to_vec();
                let reads = requests.into_iter().map(|range| self.timed_request(key, range));
                futures::stream::iter(reads).buffered(PARALLEL_REQUESTS).try_collect().await
            }
        };
        read.map_err(|cause| store_error("read", key, cause))
    }

    async fn timed_request(&self, key: &Path, range: Range<u64>) -> object_store::Result<Bytes> {
        let started = Instant::now();
        let buffer = self.store.get_range(key, range).await?;
        self.gap.observe(buffer.len() as u64, started.elapsed());
        Ok(buffer)
    }
}

/// Joins ranges that overlap or are at most `gap` apart; ascending.
fn coalesce(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_ranges_share_a_request() {
        let (gap, far) = (100, 300);
        assert_eq!(coalesce(&[far..far + 5, 10..20, 15..18, 30..40, 7..7], gap), [10..40, far..far + 5]);
    }
}
