//! The backend over memory and a folder; real stores are in `integration/backends.rs`.

use object_store::memory::InMemory;

use super::*;
use crate::model::ids::TenantId;
use crate::tempodb::block::meta::{BlockId, META_NAME};
use crate::tempodb::keys;

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

#[tokio::test]
async fn ranges_come_back_in_the_order_asked_for() {
    let backend = Backend::new(Arc::new(InMemory::new()), "");
    let key = keys::tenant_object(&tenant("t"), "object");
    let content: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    backend.write(&key, content.clone()).await.unwrap();
    let ranges = [150_000..150_010, 5..9, 7..20, 3..3, 0..200_000];
    let (buffers, _) = backend.read_ranges(&key, &ranges).await.unwrap();
    for (range, buffer) in ranges.iter().zip(buffers) {
        assert_eq!(buffer, content[range.start as usize..range.end as usize]);
    }
    let (_, cost) = backend.read_ranges(&key, &[0..10, 190_000..190_010]).await.unwrap();
    assert_eq!(cost, ReadCost { requests: 2, bytes: 20 });
}

#[tokio::test]
async fn foreign_objects_are_neither_tenants_nor_blocks() {
    let store = Arc::new(InMemory::new());
    let backend = Backend::new(store.clone(), "some/prefix");
    let id = BlockId::random();
    let put = async |key: &str| store.put(&Path::from(format!("some/prefix/{key}")), "x".into()).await.unwrap();
    for key in ["work.json", "a/index.pb.zst", "a/not-a-block/meta.json", "a/x/y/z/meta.json", "tempo_cluster_seed.json", "b:c/x/meta.json"]
    {
        put(key).await;
    }
    put(&format!("a/{id}/meta.json")).await;
    put(&format!("a/{id}/data.parquet")).await;
    put(&format!("a/{}/meta.json", id.to_string().to_uppercase())).await;
    assert_eq!(backend.tenants().await.unwrap(), [tenant("a")]);
    let ids = backend.block_ids(&tenant("a")).await.unwrap();
    assert_eq!((ids.live, ids.compacted.len(), ids.foreign_objects), (vec![id], 0, 3));
}

#[tokio::test]
async fn a_block_becomes_compacted_and_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::local(folder.path()).unwrap();
    let (tenant, id) = (tenant("a"), BlockId::random());
    for object in [META_NAME, "data.parquet"] {
        backend.write(&keys::block_object(&tenant, id, object), object.to_owned()).await.unwrap();
    }
    for _repeated in 0..2 {
        backend.mark_compacted(&tenant, id).await.unwrap();
        let ids = backend.block_ids(&tenant).await.unwrap();
        assert_eq!((ids.live.len(), ids.compacted.len()), (0, 1));
    }
    assert!(backend.mark_compacted(&tenant, BlockId::random()).await.unwrap_err().is_not_found());
    backend.clear_block(&tenant, id).await.unwrap();
    assert_eq!(backend.block_ids(&tenant).await.unwrap(), BlockIds::default());
    assert!(!folder.path().join("a").join(id.to_string()).exists());
}

#[tokio::test]
async fn uploads_are_whole_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = Backend::local(folder.path()).unwrap();
    backend.parts = PartSizes { bytes: 10, ..PartSizes::default() };
    let key = |name: &str| keys::tenant_object(&tenant("t"), name);
    let content: Vec<u8> = (0..=255).collect();
    for piece in [1, 9, 10, 11, 64, 256] {
        let mut upload = backend.upload(key("whole"));
        for bytes in content.chunks(piece) {
            upload.write(bytes.to_vec()).await.unwrap();
        }
        assert!(backend.head(&key("whole")).await.unwrap_err().is_not_found());
        upload.finish().await.unwrap();
        assert_eq!(backend.read(&key("whole")).await.unwrap(), content);
        backend.delete(&key("whole")).await.unwrap();
    }
    let mut given_up = backend.upload(key("given-up"));
    given_up.write(content.clone()).await.unwrap();
    given_up.abort().await.unwrap();
    let small = backend.upload(key("empty"));
    small.finish().await.unwrap();
    assert_eq!(backend.read(&key("empty")).await.unwrap(), "");
    let names: Vec<_> = std::fs::read_dir(folder.path().join("t")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["empty"]);
}

#[tokio::test]
async fn an_object_has_a_bounded_number_of_parts() {
    let mut backend = Backend::new(Arc::new(InMemory::new()), "");
    backend.parts = PartSizes { bytes: 1, in_flight: 2, is_growing: false, max_parts: 3 };
    let mut upload = backend.upload(Path::from("t/x"));
    upload.write("abc").await.unwrap();
    let refused = upload.write("d").await.unwrap_err();
    assert_eq!(refused.to_string(), "t/x has more than 3 upload parts of 1 bytes; set a larger part size");
    drop(upload);
    assert!(backend.read(&Path::from("t/x")).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn an_object_is_created_once() {
    let folder = tempfile::tempdir().unwrap();
    for backend in [Backend::local(folder.path()).unwrap(), Backend::new(Arc::new(InMemory::new()), "p")] {
        let key = keys::tenant_object(&tenant("t"), "object");
        for _repeated in 0..2 {
            backend.create(&key, "content").await.unwrap();
        }
        let refused = backend.create(&key, "other").await.unwrap_err();
        assert!(matches!(refused, BackendError::AlreadyExists { .. }), "{refused:?}");
        assert_eq!(backend.read(&key).await.unwrap(), "content");
    }
}

#[tokio::test]
async fn versions_guard_what_others_wrote() {
    let folder = tempfile::tempdir().unwrap();
    for backend in [Backend::local(folder.path()).unwrap(), Backend::new(Arc::new(InMemory::new()), "")] {
        let key = keys::tenant_object(&tenant("t"), "object");
        let mismatch = "version does not match";
        let first = backend.write_versioned(&key, "first", &Version::absent()).await.unwrap();
        assert_eq!(backend.write_versioned(&key, "again", &Version::absent()).await.unwrap_err().to_string(), mismatch);
        assert_eq!(backend.read_versioned(&key).await.unwrap(), ("first".into(), first.clone()));
        let second = backend.write_versioned(&key, "second one", &first).await.unwrap();
        assert_eq!(backend.write_versioned(&key, "late", &first).await.unwrap_err().to_string(), mismatch);
        assert_eq!(backend.read_versioned(&key).await.unwrap(), ("second one".into(), second.clone()));
        backend.delete(&key).await.unwrap();
        assert_eq!(backend.write_versioned(&key, "gone", &second).await.unwrap_err().to_string(), mismatch);
        assert_eq!(backend.write_versioned(&key, "x", &Version::new("")).await.unwrap_err().to_string(), "version is not valid");
    }
}

#[tokio::test]
async fn listings_in_shards_find_what_one_listing_finds() {
    let mut backend = Backend::new(Arc::new(InMemory::new()), "p");
    let tenant = tenant("t");
    for number in 0..200_u32 {
        let name = if number % 3 == 0 { "meta.compacted.json" } else { META_NAME };
        backend.write(&keys::block_object(&tenant, BlockId::random(), name), "x").await.unwrap();
    }
    for foreign in ["!/x", "index.pb.zst", "zzz/x", "4/x/y"] {
        backend.write(&keys::tenant_object(&tenant, foreign), "x").await.unwrap();
    }
    let sorted = |mut ids: BlockIds| {
        ids.live.sort();
        ids.compacted.sort();
        ids
    };
    let whole = sorted(backend.block_ids(&tenant).await.unwrap());
    assert_eq!((whole.live.len(), whole.compacted.len(), whole.foreign_objects), (133, 67, 3));
    for shards in [2, 3, 16] {
        backend.list_shards = shards;
        assert_eq!(sorted(backend.block_ids(&tenant).await.unwrap()), whole);
    }
}

#[tokio::test]
async fn files_of_uploads_that_were_cut_off_go_with_their_block() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::local(folder.path()).unwrap();
    let (tenant, id) = (tenant("a"), BlockId::random());
    backend.write(&keys::block_object(&tenant, id, META_NAME), "x").await.unwrap();
    let block = folder.path().join("a").join(id.to_string());
    std::fs::write(block.join("data.parquet#1"), "half").unwrap();
    for _repeated in 0..2 {
        backend.clear_block(&tenant, id).await.unwrap();
        assert!(!block.exists());
    }
}
