//! A process that is killed, or a job that is dropped, at every single operation of the object store.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, future};
use jiff::{SignedDuration, Timestamp};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::super::*;
use super::support::*;
use crate::model::testing::arb_span_table;

/// What happens to operations once the allowed number is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// They fail, and nothing happens any more: the process is dead.
    Dies,
    /// They never end.
    Hangs,
}

#[derive(Debug)]
struct Fuse {
    left: AtomicUsize,
    fault: Fault,
    is_out: AtomicBool,
    is_healed: AtomicBool,
}

impl Fuse {
    fn new(operations: usize, fault: Fault) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(operations), fault, is_out: AtomicBool::new(false), is_healed: AtomicBool::new(false) })
    }

    async fn take(&self) -> Result<()> {
        if self.is_healed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if taken.is_ok() {
            return Ok(());
        }
        self.is_out.store(true, Ordering::SeqCst);
        match self.fault {
            Fault::Dies => Err(object_store::Error::Generic { store: "fuse", source: "blown".into() }),
            Fault::Hangs => future::pending().await,
        }
    }
}

#[derive(Debug)]
struct Fused {
    inner: Arc<InMemory>,
    fuse: Arc<Fuse>,
}

impl fmt::Display for Fused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fused")
    }
}

#[async_trait]
impl ObjectStore for Fused {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.fuse.take().await?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.fuse.take().await?;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(FusedUpload { inner, fuse: Arc::clone(&self.fuse) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.fuse.take().await?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.fuse.take().await?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (fuse, inner) = (Arc::clone(&self.fuse), Arc::clone(&self.inner));
        let allowed = locations.then(move |location| {
            let fuse = Arc::clone(&fuse);
            async move {
                fuse.take().await?;
                location
            }
        });
        inner.delete_stream(allowed.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.fuse.take().await?;
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FusedUpload {
    inner: Box<dyn MultipartUpload>,
    fuse: Arc<Fuse>,
}

#[async_trait]
impl MultipartUpload for FusedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (fuse, part) = (Arc::clone(&self.fuse), self.inner.put_part(data));
        Box::pin(async move {
            fuse.take().await?;
            part.await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.fuse.take().await?;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.fuse.take().await?;
        self.inner.abort().await
    }
}

/// Two blocks that share a trace, in a store of their own.
async fn prepared() -> (Arc<InMemory>, Vec<Arc<BlockMeta>>, Spans) {
    let mut runner = TestRunner::deterministic();
    // Tables may be empty but for their trace ids.
    let mut table = || loop {
        let table = arb_span_table(6).new_tree(&mut runner).unwrap().current();
        if table.span_count() > 3 {
            break table;
        }
    };
    let (table, other) = (table(), table());
    let store = Arc::new(InMemory::new());
    let world = World::over(store.clone());
    let both = crate::model::combine::merge_tables(&[&table, &other]);
    let metas = vec![world.write(&[table]).await, world.write(&[both]).await];
    let (spans, repeated) = world.spans(&metas).await;
    assert!(repeated > 0, "the blocks share a trace");
    (store, metas, spans)
}

/// Whether a job got through, and what is wrong afterwards counts.
async fn healthy_again(store: Arc<InMemory>, before: &Spans) {
    let world = World::over(store);
    let live = world.live().await;
    assert_eq!(&world.spans(&live).await.0, before, "nothing is lost before anything is done about it");
    let inputs: Vec<_> = live.iter().map(|meta| meta.block_id).collect();
    let outcome = world.compactor.compact(&tenant(), &inputs, &CompactSettings::default()).await.unwrap();
    let (after, repeated) = world.spans(&world.live().await).await;
    assert_eq!((&after == before, repeated, outcome.outputs.len()), (true, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_operation_loses_and_repeats_nothing() {
    let mut operations = 0;
    loop {
        let (store, metas, before) = prepared().await;
        let fuse = Fuse::new(operations, Fault::Dies);
        let world = World::over(Arc::new(Fused { inner: Arc::clone(&store), fuse: Arc::clone(&fuse) }));
        let inputs: Vec<_> = metas.iter().map(|meta| meta.block_id).collect();
        let outcome = world.compactor.compact(&tenant(), &inputs, &CompactSettings::default()).await;
        assert_eq!(outcome.is_err(), fuse.is_out.load(Ordering::SeqCst), "after {operations} operations");
        healthy_again(store, &before).await;
        if outcome.is_ok() {
            break;
        }
        operations += 1;
    }
    assert!(operations > 15, "every operation was met: {operations}");
}

#[tokio::test]
async fn a_job_dropped_at_any_operation_leaves_no_half_block() {
    /// Turns of the runtime that the removal of a few objects takes at most.
    const TURNS: usize = 10_000;
    let (mut operations, mut left_behind) = (0, 0);
    loop {
        let (store, metas, before) = prepared().await;
        let fuse = Fuse::new(operations, Fault::Hangs);
        let world = World::over(Arc::new(Fused { inner: Arc::clone(&store), fuse: Arc::clone(&fuse) }));
        let inputs: Vec<_> = metas.iter().map(|meta| meta.block_id).collect();
        let (tenant, settings) = (tenant(), CompactSettings::default());
        let job = world.compactor.compact(&tenant, &inputs, &settings);
        let stuck = async {
            while !fuse.is_out.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
        };
        let is_done = tokio::select! {
            outcome = job => outcome.is_ok(),
            () = stuck => false,
        };
        fuse.is_healed.store(true, Ordering::SeqCst);
        // What the drop set going runs on by itself.
        let mut turns = 0..TURNS;
        let is_clean = loop {
            let backend = Backend::new(store.clone(), "");
            if backend.orphans(&tenant, Timestamp::MAX, SignedDuration::ZERO).await.unwrap().is_empty() {
                break true;
            }
            if turns.next().is_none() {
                break false;
            }
            tokio::task::yield_now().await;
        };
        left_behind += usize::from(!is_clean);
        healthy_again(store, &before).await;
        if is_done {
            break;
        }
        operations += 1;
    }
    assert!(operations > 15, "every operation was met: {operations}");
    assert_eq!(left_behind, 1, "only while the meta is written nothing is removed");
}

#[tokio::test(start_paused = true)]
async fn marks_that_fail_are_reported_and_can_be_repeated() {
    let (store, metas, before) = prepared().await;
    // As many operations as a whole job takes, but for the last mark.
    let all = {
        let (store, metas, _) = prepared().await;
        let fuse = Fuse::new(usize::MAX, Fault::Dies);
        let world = World::over(Arc::new(Fused { inner: store, fuse: Arc::clone(&fuse) }));
        let inputs: Vec<_> = metas.iter().map(|meta| meta.block_id).collect();
        world.compactor.compact(&tenant(), &inputs, &CompactSettings::default()).await.unwrap();
        usize::MAX - fuse.left.load(Ordering::SeqCst)
    };
    let fuse = Fuse::new(all - 1, Fault::Dies);
    let world = World::over(Arc::new(Fused { inner: Arc::clone(&store), fuse: Arc::clone(&fuse) }));
    let inputs: Vec<_> = metas.iter().map(|meta| meta.block_id).collect();
    let error = world.compactor.compact(&tenant(), &inputs, &CompactSettings::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "unable to mark 1 blocks compacted");
    let CompactionError::Unmarked { unmarked, outcome, .. } = error else { panic!("{error}") };
    assert_eq!((unmarked.len(), outcome.outputs.len()), (1, 1));
    fuse.is_healed.store(true, Ordering::SeqCst);
    world.compactor.mark_compacted(&tenant(), &unmarked).await.unwrap();
    assert_eq!(world.live().await, outcome.outputs);
    assert_eq!(world.spans(&outcome.outputs).await.0, before);
}
