//! Polls of a store in memory and of real blocks.

use std::path::Path;

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use super::*;
use crate::base::clock::{Clock as _, ManualClock, SystemClock};

const NOW_NANOS: u64 = 1_800_000_000_000_000_000;

fn settings() -> PollerSettings {
    PollerSettings {
        interval: Duration::from_secs(300),
        concurrency: 4,
        tenant_concurrency: 2,
        fallback: true,
        index_builders: 2,
        stale_index: None,
        jitter: Duration::ZERO,
        tolerate_consecutive_errors: 1,
        tolerate_tenant_failures: 1,
        empty_tenant_deletion_age: None,
    }
}

fn poller(backend: &Backend, settings: PollerSettings, owns: bool) -> (Poller, Arc<BlockList>) {
    let list = Arc::new(BlockList::default());
    let clock = Arc::new(ManualClock::at(NOW_NANOS));
    let cpu = CpuPool::new("test", 1).unwrap();
    (Poller::new(backend.clone(), settings, Arc::new(OwnsAll(owns)), clock, Arc::clone(&list), cpu), list)
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn memory() -> Backend {
    Backend::new(Arc::new(InMemory::new()), "")
}

/// Copies the fixture blocks into memory, so that writing indexes does not touch the repository.
async fn load(folder: &str, with_indexes: bool) -> Backend {
    let backend = memory();
    let root = Path::new("testdata/blocks").join(folder);
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let is_index = path.file_name().unwrap().to_str().unwrap().starts_with("index.");
            if with_indexes || !is_index {
                let key = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                backend.store().put(&key.into(), std::fs::read(path).unwrap().into()).await.unwrap();
            }
        }
    }
    backend
}

fn ids(blocks: &TenantBlocks) -> (Vec<String>, Vec<String>) {
    let mut live: Vec<String> = blocks.live.iter().map(|meta| meta.block_id.to_string()).collect();
    let mut compacted: Vec<String> = blocks.compacted.iter().map(|compacted| compacted.meta.block_id.to_string()).collect();
    live.sort();
    compacted.sort();
    (live, compacted)
}

async fn put_meta(backend: &Backend, tenant: &TenantId, id: BlockId, name: &str) {
    let json = format!(r#"{{"format":"vParquet5","blockID":"{id}","tenantID":"{tenant}","totalObjects":3,"size":7}}"#);
    backend.write(&keys::block_object(tenant, id, name), json).await.unwrap();
}

#[tokio::test]
async fn the_index_gives_the_same_list_as_the_backend() {
    for folder in ["vParquet5", "vParquet5-compacted"] {
        let indexed = load(folder, true).await;
        let (reading, from_index) = poller(&indexed, settings(), false);
        reading.poll().await.unwrap();
        let bare = load(folder, false).await;
        let (listing, from_backend) = poller(&bare, settings(), true);
        listing.poll().await.unwrap();
        let mut tenants = from_index.tenants();
        tenants.sort();
        assert_eq!(tenants, [tenant("alpha"), tenant("beta")], "{folder}");
        for tenant in tenants {
            let (indexed, listed) = (from_index.blocks(&tenant), from_backend.blocks(&tenant));
            assert_eq!(ids(&indexed), ids(&listed), "{folder}");
            assert!(!indexed.live.is_empty());
            // The builder wrote both forms; another process reads them.
            for forgotten in [None, Some(PROTO_NAME)] {
                if let Some(name) = forgotten {
                    bare.delete(&keys::tenant_object(&tenant, name)).await.unwrap();
                }
                let (second, from_written) =
                    poller(&bare, PollerSettings { fallback: false, tolerate_tenant_failures: 9, ..settings() }, false);
                second.poll().await.unwrap();
                assert_eq!(ids(&from_written.blocks(&tenant)), ids(&listed));
            }
        }
    }
}

#[tokio::test]
async fn broken_and_foreign_metas_do_not_disturb_the_others() {
    let backend = memory();
    let t = tenant("t");
    let [good, broken, misplaced, both] = std::array::from_fn(|_| BlockId::random());
    put_meta(&backend, &t, good, META_NAME).await;
    backend.write(&keys::block_object(&t, broken, META_NAME), "{").await.unwrap();
    put_meta(&backend, &t, good, "elsewhere").await;
    let other = backend.read(&keys::block_object(&t, good, META_NAME)).await.unwrap();
    backend.write(&keys::block_object(&t, misplaced, META_NAME), other).await.unwrap();
    backend.store().put(&"t/some-folder/meta.json".into(), "x".into()).await.unwrap();
    // During the switch both metas exist: the block counts as compacted.
    put_meta(&backend, &t, both, META_NAME).await;
    put_meta(&backend, &t, both, COMPACTED_META_NAME).await;
    let (poller, list) = poller(&backend, settings(), true);
    poller.poll().await.unwrap();
    assert_eq!(ids(&list.blocks(&t)), (vec![good.to_string()], vec![both.to_string()]));
}

#[tokio::test]
async fn a_block_that_was_live_becomes_compacted_now() {
    let backend = memory();
    let (t, id) = (tenant("t"), BlockId::random());
    put_meta(&backend, &t, id, META_NAME).await;
    let (poller, list) = poller(&backend, settings(), true);
    poller.poll().await.unwrap();
    backend.mark_compacted(&t, id).await.unwrap();
    poller.poll().await.unwrap();
    let blocks = list.blocks(&t);
    assert_eq!(blocks.live.len(), 0);
    assert_eq!(blocks.compacted[0].compacted_time.as_nanosecond(), i128::from(NOW_NANOS));
    // And is forgotten, index included, when its objects are gone.
    backend.clear_block(&t, id).await.unwrap();
    poller.poll().await.unwrap();
    assert!(list.tenants().is_empty());
    assert!(backend.tenants().await.unwrap().is_empty());
}

#[tokio::test]
async fn flags_are_remembered_from_the_listing_and_not_from_the_index() {
    let backend = memory();
    let (t, [flagged, free]) = (tenant("t"), std::array::from_fn(|_| BlockId::random()));
    for id in [flagged, free] {
        put_meta(&backend, &t, id, META_NAME).await;
    }
    let flag = keys::block_object(&t, flagged, keys::NO_COMPACT_NAME);
    backend.write(&flag, "").await.unwrap();
    let (listing, listed) = poller(&backend, settings(), true);
    listing.poll().await.unwrap();
    let blocks = listed.blocks(&t);
    assert_eq!([flagged, free].map(|id| blocks.no_compact(id)), [Some(true), Some(false)]);
    assert_eq!(blocks.live.len(), 2, "a flag does not hide a block");
    backend.delete(&flag).await.unwrap();
    listing.poll().await.unwrap();
    assert_eq!(listed.blocks(&t).no_compact(flagged), Some(false));
    let (reading, indexed) = poller(&backend, settings(), false);
    reading.poll().await.unwrap();
    assert_eq!(indexed.blocks(&t).no_compact(free), None);
}

#[tokio::test]
async fn what_is_left_of_an_empty_tenant_is_deleted_when_it_is_old() {
    let age = |seconds| PollerSettings { empty_tenant_deletion_age: Some(Duration::from_secs(seconds)), ..settings() };
    // Objects in memory bear the time of the system: the poller's clock runs 1000 seconds ahead of it.
    let clock = Arc::new(ManualClock::at(SystemClock.now_unix_nanos() + 1_000_000_000_000));
    let cases = [
        (PollerSettings { empty_tenant_deletion_age: None, ..settings() }, true, None, true),
        (age(2000), true, None, true),
        (age(500), false, None, true),
        (age(500), true, Some("index.json.gz"), true),
        (age(500), true, Some("b1a76807-e24a-4b98-bcfd-0e2a55737f75/meta.json"), true),
        (age(500), true, None, false),
    ];
    for (settings, owns, also, stays) in cases {
        let backend = memory();
        for name in ["some-folder/x", "b1a76807-e24a-4b98-bcfd-0e2a55737f75/data.parquet"].into_iter().chain(also) {
            backend.store().put(&format!("t/{name}").into(), "{}".into()).await.unwrap();
        }
        let (list, cpu) = (Arc::new(BlockList::default()), CpuPool::new("test", 1).unwrap());
        let poller = Poller::new(backend.clone(), settings.clone(), Arc::new(OwnsAll(owns)), clock.clone(), list, cpu);
        poller.poll().await.unwrap();
        let left = backend.block_ids(&tenant("t")).await.unwrap();
        assert_eq!(left.youngest.is_some(), stays, "{settings:?} {also:?}");
    }
}

#[tokio::test]
async fn own_objects_go_with_the_last_block() {
    let backend = memory();
    let (t, id) = (tenant("t"), BlockId::random());
    let own = keys::tenant_object(&t, "tempo-rs.ids.example");
    backend.write(&own, "x").await.unwrap();
    put_meta(&backend, &t, id, META_NAME).await;
    let (poller, list) = poller(&backend, settings(), true);
    poller.poll().await.unwrap();
    assert_eq!(list.blocks(&t).listing.as_ref().unwrap().own_objects.len(), 1);
    backend.clear_block(&t, id).await.unwrap();
    poller.poll().await.unwrap();
    assert!(backend.tenants().await.unwrap().is_empty());
}

#[tokio::test]
async fn stale_or_broken_indexes_fall_back_or_fail() {
    let backend = memory();
    let (t, id) = (tenant("t"), BlockId::random());
    put_meta(&backend, &t, id, META_NAME).await;
    let created_at = Timestamp::from_nanosecond(i128::from(NOW_NANOS) - 60_000_000_000).unwrap();
    let index = TenantIndex { created_at, metas: Vec::new(), compacted: Vec::new() };
    let strict = PollerSettings { fallback: false, tolerate_tenant_failures: 0, ..settings() };
    let stale = |bound| PollerSettings { stale_index: Some(Duration::from_secs(bound)), ..strict.clone() };
    let write = async |bytes: Vec<u8>| backend.write(&keys::tenant_object(&t, PROTO_NAME), bytes).await.unwrap();

    write(index.to_proto_zstd()).await;
    assert!(poller(&backend, stale(61), false).0.poll().await.is_ok());
    assert!(matches!(poller(&backend, stale(59), false).0.poll().await, Err(PollError::TooManyFailures)));
    let (falling_back, list) = poller(&backend, PollerSettings { fallback: true, ..stale(59) }, false);
    falling_back.poll().await.unwrap();
    assert_eq!(list.blocks(&t).live.len(), 1);

    write(b"broken".to_vec()).await;
    assert!(poller(&backend, strict.clone(), false).0.poll().await.is_err());
    let (tolerant, list) = poller(&backend, PollerSettings { tolerate_tenant_failures: 1, ..strict }, false);
    list.add(&t, Arc::new(BlockMeta::from_json(&backend.read(&keys::block_object(&t, id, META_NAME)).await.unwrap()).unwrap()));
    tolerant.poll().await.unwrap();
    assert_eq!(list.blocks(&t).live.len(), 1, "the previous list stays");
}

#[test]
fn index_jobs_are_hashed_like_the_ring_does() {
    // FNV-1a of the empty string and of "a": the published test vectors.
    assert_eq!((fnv1a_32(b""), fnv1a_32(b"a"), fnv1a_32(b"foobar")), (0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968));
    assert_ne!(index_job_hash(0, &tenant("t")), index_job_hash(1, &tenant("t")));
}
