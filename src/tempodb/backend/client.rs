//! What every request through a backend gets besides its own: configured attributes and tags on writes, a second attempt on slow reads.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered};
use metrics::counter;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, Result, TagSet,
};

use crate::tempodb::metrics as names;

/// When a read that takes long is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hedging {
    pub(super) after: Duration,
    /// Requests under way for one read.
    pub(super) up_to: u32,
}

impl Hedging {
    /// `None` when it is off.
    pub(super) fn new(after: Duration, up_to: u32) -> Option<Self> {
        (!after.is_zero() && up_to > 1).then_some(Self { after, up_to })
    }
}

/// An object store with [`Hedging`] and attributes.
#[derive(Debug)]
pub(super) struct ClientStore {
    pub(super) inner: Arc<dyn ObjectStore>,
    /// Of objects that are written without any.
    pub(super) attributes: Attributes,
    pub(super) tags: TagSet,
    pub(super) hedging: Option<Hedging>,
}

impl fmt::Display for ClientStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl ClientStore {
    /// Asks again after each pause, and takes the first answer.
    async fn hedged(&self, hedging: Hedging, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut under_way = FuturesUnordered::new();
        under_way.push(self.inner.get_opts(location, options.clone()));
        let mut sent = 1;
        loop {
            let pause = tokio::time::sleep(hedging.after);
            tokio::select! {
                biased;
                Some(answer) = under_way.next() => match answer {
                    // Another request may fare better than one that failed on its way.
                    Err(object_store::Error::Generic { .. }) if !under_way.is_empty() => {}
                    answer => return answer,
                },
                () = pause, if sent < hedging.up_to => {
                    counter!(names::HEDGED_REQUESTS).increment(1);
                    under_way.push(self.inner.get_opts(location, options.clone()));
                    sent += 1;
                }
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for ClientStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if options.attributes.is_empty() {
            options.attributes = self.attributes.clone();
        }
        if options.tags.is_empty() {
            options.tags = self.tags.clone();
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, mut options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        if options.attributes.is_empty() {
            options.attributes = self.attributes.clone();
        }
        if options.tags.is_empty() {
            options.tags = self.tags.clone();
        }
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.hedging {
            Some(hedging) if !options.head => self.hedged(hedging, location, options).await,
            _ => self.inner.get_opts(location, options).await,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::throttle::{ThrottleConfig, ThrottledStore};
    use object_store::{Attribute, ObjectStoreExt};

    use super::*;

    /// A store whose reads take a second, with hedging after the given time.
    async fn slow_store(hedging: Option<Hedging>) -> ClientStore {
        let config = ThrottleConfig { wait_get_per_call: Duration::from_secs(1), ..ThrottleConfig::default() };
        let inner = Arc::new(ThrottledStore::new(InMemory::new(), config));
        let attributes = Attributes::from_iter([(Attribute::CacheControl, "no-store")]);
        let store = ClientStore { inner, attributes, tags: TagSet::default(), hedging };
        store.put(&Path::from("a"), "content".into()).await.unwrap();
        store
    }

    /// Reads once, and returns how many more requests that took.
    fn extra_requests(hedging: Option<Hedging>) -> f64 {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                let store = slow_store(hedging).await;
                let read = store.get(&Path::from("a")).await.unwrap();
                assert_eq!(read.attributes.get(&Attribute::CacheControl), Some(&"no-store".into()));
                assert_eq!(read.bytes().await.unwrap(), "content");
            });
        });
        let text = recorder.handle().render();
        let line = text.lines().find_map(|line| line.strip_prefix(names::HEDGED_REQUESTS));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    #[test]
    fn slow_reads_are_sent_again_up_to_the_bound() {
        let after = Duration::from_millis(100);
        assert_eq!(extra_requests(Hedging::new(after, 2)), 1.0);
        assert_eq!(extra_requests(Hedging::new(after, 4)), 3.0);
        assert_eq!(extra_requests(Hedging::new(Duration::from_secs(2), 4)), 0.0);
        assert_eq!(extra_requests(Hedging::new(Duration::ZERO, 4)), 0.0);
        assert_eq!(extra_requests(Hedging::new(after, 1)), 0.0);
    }
}
