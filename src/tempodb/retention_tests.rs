//! Retention over a store in memory: what is marked, what is deleted, what is left alone.

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;

use super::*;
use crate::base::clock::ManualClock;
use crate::tempodb::backend::Backend;
use crate::tempodb::block::meta::{BlockId, META_NAME, unset_time};
use crate::tempodb::blocklist::BlockList;
use crate::tempodb::db::DbSettings;
use crate::tempodb::keys;

/// 2026-11-27T12:00:00Z.
const NOW: i64 = 1_795_780_800;

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

struct World {
    store: Arc<InMemory>,
    db: TempoDb,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let backend = Backend::new(store.clone(), "");
        let db = TempoDb::new(backend, Arc::new(BlockList::default()), DbSettings::default(), Arc::new(ManualClock::at(0)));
        Self { store, db }
    }

    /// A listed block whose end lies `age` seconds ago.
    async fn block(&self, age: i64) -> BlockId {
        let json = format!(r#"{{"format":"vParquet5","blockID":"{}","tenantID":"t"}}"#, BlockId::random());
        let meta = BlockMeta { end_time: time(-age), start_time: unset_time(), ..BlockMeta::from_json(json.as_bytes()).unwrap() };
        let id = meta.block_id;
        for name in ["data.parquet", "bloom-0", "index", "tempo-rs.tags"] {
            self.put(&keys::block_object(&tenant(), id, name)).await;
        }
        self.db.backend().write(&keys::block_object(&tenant(), id, META_NAME), meta.to_json()).await.unwrap();
        self.db.block_list().add(&tenant(), Arc::new(meta));
        id
    }

    async fn put(&self, key: &Path) {
        self.store.put(key, "x".into()).await.unwrap();
    }

    async fn objects(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.store.list(None).map(|object| object.unwrap().location.to_string()).collect().await;
        keys.sort();
        keys
    }

    async fn run(&self, settings: &RetentionSettings, seconds: i64) -> RetentionOutcome {
        expire(&self.db, &tenant(), settings, time(seconds)).await.unwrap()
    }
}

fn settings() -> RetentionSettings {
    let config = CompactionConfig::default();
    RetentionSettings { block_retention: SignedDuration::from_secs(100), ..RetentionSettings::from(&config) }
}

#[tokio::test]
async fn blocks_are_marked_then_deleted_with_all_objects() {
    let world = World::new();
    let (old, young) = (world.block(101).await, world.block(100).await);
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let listener: DeletedBlockListener = Arc::new(move |tenant, meta| heard.lock().push((tenant.clone(), meta.block_id)));
    let settings = RetentionSettings { on_deleted: Some(listener), ..settings() };
    assert_eq!(world.run(&settings, 0).await, RetentionOutcome { marked: 1, ..RetentionOutcome::default() });
    let ids = world.db.backend().block_ids(&tenant()).await.unwrap();
    assert_eq!((ids.live, ids.compacted.len()), (vec![young], 1));
    let listed = world.db.block_list().blocks(&tenant());
    assert_eq!((listed.live.len(), listed.compacted.len(), listed.compacted[0].compacted_time), (1, 1, time(0)));

    let keep = RetentionSettings { block_retention: SignedDuration::ZERO, ..settings.clone() };
    assert_eq!(world.run(&keep, 3600).await, RetentionOutcome::default(), "readers may still ask it");
    assert!(told.lock().is_empty());
    assert_eq!(world.run(&keep, 3601).await, RetentionOutcome { deleted: 1, ..RetentionOutcome::default() });
    assert_eq!(*told.lock(), [(tenant(), old)]);
    assert!(world.objects().await.iter().all(|key| !key.contains(&old.to_string())));
    assert!(world.db.block_list().blocks(&tenant()).compacted.is_empty());
    assert_eq!(world.objects().await.len(), 5);
}

#[tokio::test]
async fn a_block_that_another_has_taken_is_fine() {
    let world = World::new();
    let gone = world.block(1000).await;
    world.db.backend().clear_block(&tenant(), gone).await.unwrap();
    assert_eq!(world.run(&settings(), 0).await, RetentionOutcome { marked: 1, ..RetentionOutcome::default() });
    assert_eq!(world.run(&settings(), 3601).await, RetentionOutcome { deleted: 1, ..RetentionOutcome::default() });
}

#[tokio::test]
async fn what_crashed_writers_left_goes_and_nothing_else() {
    let world = World::new();
    let live = world.block(0).await;
    let (orphan, compacted) = (BlockId::random(), BlockId::random());
    for key in [
        format!("t/{orphan}/data.parquet"),
        format!("t/{orphan}/bloom-0"),
        format!("t/{compacted}/meta.compacted.json"),
        "t/index.pb.zst".to_owned(),
        "t/tempo-rs.ids.1".to_owned(),
        "t/not-a-block/data.parquet".to_owned(),
        format!("other/{orphan}/data.parquet"),
    ] {
        world.put(&Path::from(key)).await;
    }
    let before = world.objects().await;
    // Objects are as old as the machine's clock says.
    let now = Timestamp::now();
    let never = RetentionSettings { block_retention: SignedDuration::ZERO, ..settings() };
    let run = async |hours: i64| expire(&world.db, &tenant(), &never, now + SignedDuration::from_hours(hours)).await.unwrap();
    assert_eq!(run(23).await, RetentionOutcome::default());
    assert_eq!(world.objects().await, before);
    assert_eq!(run(25).await, RetentionOutcome { orphans_deleted: 1, ..RetentionOutcome::default() });
    let expected: Vec<_> = before.into_iter().filter(|key| !key.starts_with(&format!("t/{orphan}"))).collect();
    assert_eq!(world.objects().await, expected);
    assert!(expected.iter().any(|key| key.contains(&live.to_string())));
}
