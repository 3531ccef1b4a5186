//! Every store does the same: one suite over a folder, S3, Google Cloud Storage and Azure, then the real process over each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::path::Path;
use serde_json::Value;
use tempo_rs::base::secret::Secret;
use tempo_rs::model::ids::TenantId;
use tempo_rs::tempodb::backend::{Backend, BackendError, Version};
use tempo_rs::tempodb::block::meta::BlockId;
use tempo_rs::tempodb::config::TraceStorageConfig;
use tempo_rs::tempodb::keys;

use crate::faults::{Fault, FaultyFront};
use crate::otlp;
use crate::process::{Place, free_port};
use crate::stores::{BUCKET, StoreKind, s3_with_tls, tls_file};
use crate::wait::SOON;

const MIB: usize = 1 << 20;

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Bytes that depend on their position only.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position * 31 % 251) as u8).collect()
}

async fn names(backend: &Backend) -> BTreeSet<String> {
    backend.store().list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap()
}

#[test]
fn a_folder_does_what_a_backend_must() {
    suite(StoreKind::Local);
}

#[test]
fn s3_does_what_a_backend_must() {
    suite(StoreKind::S3);
}

#[test]
fn gcs_does_what_a_backend_must() {
    suite(StoreKind::Gcs);
}

#[test]
fn azure_does_what_a_backend_must() {
    suite(StoreKind::Azure);
}

fn suite(kind: StoreKind) {
    let store = kind.start();
    block_on(async {
        // A folder has no prefix; its subfolders would be tenants of each other.
        let open = |name: &str| {
            let mut config = store.config(name);
            config.local.path = format!("{}/{name}", config.local.path);
            Backend::from_config(&config).unwrap()
        };
        open("ranges").check().await.unwrap();
        reads_and_writes(&open("ranges")).await;
        lists(&open("some/lists")).await;
        marks_and_clears(&open("marks")).await;
        uploads(&open("uploads")).await;
        conditions(&open("conditions")).await;
        for backend in ["ranges", "some/lists", "marks", "uploads", "conditions"] {
            open(backend).check().await.unwrap();
        }
    });
}

async fn reads_and_writes(backend: &Backend) {
    let key = keys::block_object(&tenant("t'!*()"), BlockId::random(), "object");
    let written = content(3 * MIB);
    assert!(backend.read(&key).await.unwrap_err().is_not_found());
    assert_eq!(backend.read(&key).await.unwrap_err().to_string(), "does not exist");
    assert!(backend.head(&key).await.unwrap_err().is_not_found());
    backend.write(&key, written.clone()).await.unwrap();
    assert_eq!(backend.read(&key).await.unwrap(), written);
    let head = backend.head(&key).await.unwrap();
    assert_eq!(head.size_bytes, 3 * MIB as u64);
    assert!(head.last_modified.duration_since(Timestamp::now()).abs().as_secs() < 60);

    let end = written.len() as u64;
    let ranges = [end - 5..end, 0..10, 8..1000, 700_000..700_000, MIB as u64..MIB as u64 + 70_000, 1..2, 0..end];
    let (buffers, cost) = backend.read_ranges(&key, &ranges[..6]).await.unwrap();
    for (range, buffer) in ranges.iter().zip(&buffers) {
        assert_eq!(buffer, &written[range.start as usize..range.end as usize], "{range:?}");
    }
    assert!((1..=4).contains(&cost.requests), "{cost:?}");
    let (whole, _) = backend.read_ranges(&key, &ranges[6..]).await.unwrap();
    assert_eq!(whole[0], written);
    // Exactly what was asked for, or an error.
    assert!(backend.read_ranges(&key, std::slice::from_ref(&(end - 5..end + 5))).await.is_err());
    assert!(backend.read_ranges(&key, std::slice::from_ref(&(end + 5..end + 9))).await.is_err());

    backend.write(&key, "other").await.unwrap();
    assert_eq!(backend.read(&key).await.unwrap(), "other");
    for _repeated in 0..2 {
        backend.delete(&key).await.unwrap();
        assert!(backend.read(&key).await.unwrap_err().is_not_found());
    }
}

async fn lists(backend: &Backend) {
    assert_eq!(backend.tenants().await.unwrap(), []);
    assert_eq!(backend.block_ids(&tenant("a")).await.unwrap().live, []);
    let mut live = BTreeSet::new();
    for _block in 0..12 {
        let id = BlockId::random();
        live.insert(id);
        backend.write(&keys::block_object(&tenant("a"), id, "meta.json"), "{}").await.unwrap();
        backend.write(&keys::block_object(&tenant("a"), id, "bloom-0"), "").await.unwrap();
    }
    let compacted = BlockId::random();
    backend.write(&keys::block_object(&tenant("b"), compacted, "meta.compacted.json"), "{}").await.unwrap();
    for foreign in ["work.json", "a/index.pb.zst", "a/not-a-block/meta.json", "a/x/y/z", "tempo_cluster_seed.json", "a/%20 ü/meta.json"] {
        backend.write(&Path::parse(foreign).unwrap(), "x").await.unwrap();
    }
    assert_eq!(BTreeSet::from_iter(backend.tenants().await.unwrap()), BTreeSet::from([tenant("a"), tenant("b")]));
    let a = backend.block_ids(&tenant("a")).await.unwrap();
    assert_eq!((BTreeSet::from_iter(a.live), a.compacted.len(), a.foreign_objects), (live, 0, 3));
    let b = backend.block_ids(&tenant("b")).await.unwrap();
    assert_eq!((b.live.len(), b.compacted[0].0, b.foreign_objects), (0, compacted, 0));
}

async fn marks_and_clears(backend: &Backend) {
    let (tenant, id, other) = (tenant("a"), BlockId::random(), BlockId::random());
    for block in [id, other] {
        for object in ["data.parquet", "bloom-0", "bloom-1", "index", "meta.json"] {
            backend.write(&keys::block_object(&tenant, block, object), object.to_owned()).await.unwrap();
        }
    }
    let before = Timestamp::now();
    for _repeated in 0..2 {
        backend.mark_compacted(&tenant, id).await.unwrap();
        let ids = backend.block_ids(&tenant).await.unwrap();
        assert_eq!(ids.live, [other]);
        assert_eq!(ids.compacted[0].0, id);
        assert!(ids.compacted[0].1.duration_since(before).as_secs() >= -2, "the time is that of marking");
    }
    assert_eq!(backend.read(&keys::block_object(&tenant, id, "meta.compacted.json")).await.unwrap(), "meta.json");
    assert!(backend.mark_compacted(&tenant, BlockId::random()).await.unwrap_err().is_not_found());
    for _repeated in 0..2 {
        backend.clear_block(&tenant, id).await.unwrap();
        let left = names(backend).await;
        assert!(left.len() == 5 && left.iter().all(|name| name.contains(&other.to_string())), "{left:?}");
    }
}

async fn uploads(backend: &Backend) {
    let key = |name: &str| keys::tenant_object(&tenant("t"), name);
    // 21 MiB are several parts for every store; pieces end anywhere.
    let written = content(21 * MIB);
    let mut upload = backend.upload(key("large"));
    for piece in written.chunks(700_001) {
        upload.write(piece.to_vec()).await.unwrap();
    }
    assert!(backend.head(&key("large")).await.unwrap_err().is_not_found());
    upload.finish().await.unwrap();
    assert_eq!(backend.read(&key("large")).await.unwrap(), written);
    let mut small = backend.upload(key("small"));
    small.write("a").await.unwrap();
    small.write("b").await.unwrap();
    small.finish().await.unwrap();
    assert_eq!(backend.read(&key("small")).await.unwrap(), "ab");

    for is_dropped in [false, true] {
        let mut given_up = backend.upload(key("given-up"));
        given_up.write(written.clone()).await.unwrap();
        if is_dropped { drop(given_up) } else { given_up.abort().await.unwrap() }
    }
    assert_eq!(names(backend).await, BTreeSet::from(["t/large".to_owned(), "t/small".to_owned()]));
}

async fn conditions(backend: &Backend) {
    let key = keys::tenant_object(&tenant("t"), "object");
    for _repeated in 0..2 {
        backend.create(&key, "first").await.unwrap();
    }
    let refused = backend.create(&key, "other").await.unwrap_err();
    assert!(matches!(refused, BackendError::AlreadyExists { .. }), "{refused:?}");
    let (bytes, first) = backend.read_versioned(&key).await.unwrap();
    assert_eq!(bytes, "first");
    let second = backend.write_versioned(&key, "second", &first).await.unwrap();
    assert_eq!(backend.read_versioned(&key).await.unwrap(), ("second".into(), second.clone()));
    for late in [&first, &Version::absent()] {
        assert_eq!(backend.write_versioned(&key, "late", late).await.unwrap_err().to_string(), "version does not match");
    }
    assert_eq!(backend.read(&key).await.unwrap(), "second");
    backend.delete(&key).await.unwrap();
    assert_eq!(backend.write_versioned(&key, "gone", &second).await.unwrap_err().to_string(), "version does not match");
    backend.write_versioned(&key, "new", &Version::absent()).await.unwrap();

    // Of many who create at once, one does.
    let race = keys::tenant_object(&tenant("t"), "race");
    let attempts = (0..8).map(|number| {
        let (backend, race) = (backend.clone(), race.clone());
        async move { backend.write_versioned(&race, format!("writer {number}"), &Version::absent()).await.is_ok() }
    });
    let won = futures::future::join_all(attempts).await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
}

/// Bytes that count themselves while they are held.
struct Piece {
    bytes: Vec<u8>,
    held: Arc<AtomicUsize>,
}

impl Piece {
    fn new(bytes: Vec<u8>, held: &Arc<AtomicUsize>) -> Self {
        held.fetch_add(bytes.len(), Ordering::SeqCst);
        Self { bytes, held: Arc::clone(held) }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

#[test]
fn a_large_object_is_streamed_with_few_parts_in_memory() {
    let (piece, total) = (content(MIB), 128 * MIB);
    for kind in StoreKind::ALL {
        let store = kind.start();
        block_on(async {
            let backend = Backend::from_config(&store.config("")).unwrap();
            let key = keys::tenant_object(&tenant("t"), "large");
            let mut upload = backend.upload(key.clone());
            let held = Arc::new(AtomicUsize::new(0));
            let mut most = 0;
            for _piece in 0..total / MIB {
                upload.write(Bytes::from_owner(Piece::new(piece.clone(), &held))).await.unwrap();
                most = most.max(held.load(Ordering::SeqCst));
            }
            upload.finish().await.unwrap();
            assert_eq!(backend.head(&key).await.unwrap().size_bytes, total as u64);
            // Four parts under way, and one being filled; Google's are the largest with 10 MiB.
            assert!(most <= 5 * 11 * MIB, "{kind:?}: {} MiB", most / MIB);
        });
    }
}

#[test]
fn requests_carry_what_the_configuration_asks_for() {
    let store = StoreKind::S3.start();
    let front = FaultyFront::start(store.port);
    let mut config = store.config_at(front.port, "p");
    config.s3.tags = [("team".to_owned(), "traces".to_owned())].into();
    config.s3.metadata = [("origin".to_owned(), "here".to_owned())].into();
    config.s3.storage_class = "STANDARD".to_owned();
    config.s3.sse.r#type = "SSE-KMS".to_owned();
    config.s3.sse.kms_key_id = "the-key".to_owned();
    config.s3.sse.kms_encryption_context = r#"{"a":"b"}"#.to_owned();
    // The store does not encrypt; what is asked of it is looked at here, and its signature check sees that the added header is signed.
    front.rule(|_| None);
    let (t, id) = (tenant("t"), BlockId::random());
    block_on(async {
        let backend = Backend::from_config(&config).unwrap();
        backend.write(&keys::block_object(&t, id, "meta.json"), "{}").await.unwrap();
        let mut upload = backend.upload(keys::block_object(&t, id, "data.parquet"));
        upload.write(content(9 * MIB)).await.unwrap();
        upload.finish().await.unwrap();
        backend.mark_compacted(&t, id).await.unwrap();
    });
    let seen = front.seen();
    let header = |method: &str, part: &str, name: &str| {
        let request = seen.iter().find(|seen| seen.method == method && seen.target.contains(part));
        let request = request.unwrap_or_else(|| panic!("no {method} {part} in {seen:?}"));
        request.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    for (method, part) in [("PUT", "meta.json"), ("POST", "uploads"), ("PUT", "meta.compacted.json")] {
        assert_eq!(header(method, part, "x-amz-server-side-encryption").as_deref(), Some("aws:kms"), "{part}");
        assert_eq!(header(method, part, "x-amz-server-side-encryption-aws-kms-key-id").as_deref(), Some("the-key"), "{part}");
        assert_eq!(header(method, part, "x-amz-server-side-encryption-context").as_deref(), Some("eyJhIjoiYiJ9"), "{part}");
        let signed = header(method, part, "authorization").unwrap();
        assert!(signed.contains("x-amz-server-side-encryption-context"), "{signed}");
    }
    for (method, part) in [("PUT", "meta.json"), ("POST", "uploads")] {
        assert_eq!(header(method, part, "x-amz-tagging").as_deref(), Some("team=traces"));
        assert_eq!(header(method, part, "x-amz-meta-origin").as_deref(), Some("here"));
        assert_eq!(header(method, part, "x-amz-storage-class").as_deref(), Some("STANDARD"));
    }
    assert!(header("PUT", "meta.compacted.json", "x-amz-copy-source").unwrap().ends_with("/meta.json"));
    assert_eq!(header("PUT", "partNumber=1", "x-amz-server-side-encryption-context"), None);
}

/// The error of the start check.
fn check(config: &TraceStorageConfig) -> String {
    let outcome = block_on(async { Backend::from_config(config)?.check().await });
    let text = outcome.expect_err("the check fails").to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
}

#[test]
fn the_check_names_what_to_correct() {
    for kind in StoreKind::REMOTE {
        let store = kind.start();
        let at = format!("127.0.0.1:{}", store.port);
        let mut missing = store.config("");
        missing.s3.bucket = "nowhere".to_owned();
        missing.gcs.bucket_name = "nowhere".to_owned();
        missing.azure.container_name = "nowhere".to_owned();
        assert_says(&check(&missing), &["nowhere", "does not exist", &at, "storage.trace."]);

        let mut dead = store.config_at(free_port(), "");
        dead.s3.retry_max_attempts = 2;
        dead.gcs.max_retries = 1;
        assert_says(&check(&dead), &[BUCKET, "cannot use", "refused", "endpoint"]);

        let mut wrong = store.config("");
        wrong.s3.secret_key = Secret::new("wrong-secret".to_owned());
        wrong.azure.storage_account_key = Secret::new("d3Jvbmctc2VjcmV0".to_owned());
        if kind != StoreKind::Gcs {
            let text = check(&wrong);
            assert_says(&text, &[BUCKET, "is denied", &at, "key"]);
            assert!(!text.contains("wrong-secret") && !text.contains("d3Jvbmctc2VjcmV0"), "{text}");
        }
        let mut unknown = store.config("");
        unknown.s3.access_key = "nobody".to_owned();
        if kind == StoreKind::S3 {
            assert_says(&check(&unknown), &["is denied", "access_key"]);
        }
    }
}

#[test]
fn certificates_are_checked_against_authority_and_name() {
    let store = s3_with_tls();
    let mut config = store.config("");
    config.s3.insecure = false;
    config.s3.retry_max_attempts = 1;
    assert_says(&check(&config), &["certificate"]);
    config.s3.tls_ca_path = tls_file("ca.pem").display().to_string();
    assert_says(&check(&config), &["certificate"]);
    config.s3.tls_server_name = "store.test".to_owned();
    let is_usable = |config: &TraceStorageConfig| block_on(async { Backend::from_config(config).unwrap().check().await.is_ok() });
    assert!(is_usable(&config));
    config.s3.tls_min_version = "VersionTLS13".to_owned();
    assert!(is_usable(&config));
    config.s3.tls_server_name.clear();
    config.s3.tls_ca_path.clear();
    config.s3.tls_insecure_skip_verify = true;
    assert!(is_usable(&config));
    config.s3.tls_ca_path = "/nonexistent/ca.pem".to_owned();
    assert_says(&check(&config), &["tls_ca_path", "/nonexistent/ca.pem"]);
}

#[test]
fn a_process_that_cannot_use_its_store_ends_with_the_reason() {
    let store = StoreKind::S3.start();
    let good = store.yaml(store.port, "retry_max_attempts: 2");
    for (backend, reason) in [
        (good.replace("secret_key: a-secret", "secret_key: no-secret"), "is denied"),
        (good.replace("bucket: tempo", "bucket: nowhere"), "does not exist"),
        (store.yaml(free_port(), "retry_max_attempts: 2"), "cannot use"),
        (good.replace("insecure: true", "insecure: true, signature_v2: true"), "signature_v2 is not supported"),
        ("backend: tape".to_owned(), "unknown backend tape"),
    ] {
        let place = Place::with(|wishes| wishes.backend = Some(backend));
        let mut tempo = place.launch();
        assert_eq!(tempo.wait(SOON * 2).code(), Some(1), "{reason}");
        let log = tempo.log();
        assert!(log.lines().last().unwrap().contains(reason), "{reason:?} in {log}");
        assert!(!log.contains("no-secret") && !log.contains("a-secret-that"), "{log}");
    }
}

#[test]
fn traces_outlive_the_process_in_every_store() {
    for kind in StoreKind::REMOTE {
        let store = kind.start();
        let place = Place::with(|wishes| wishes.backend = Some(store.yaml(store.port, "hedge_requests_at: 200ms")));
        let id = otlp::id::<16>(7);
        let pushed = otlp::rich_trace(&id, "stored");
        let expected = otlp::canonical_messages(&pushed);
        let query = [("q", "{ span.test.case = \"stored\" }")];

        let tempo = place.start();
        tempo.client().push(&pushed);
        tempo.flush();
        assert_eq!(tempo.client().trace(&id), expected, "{kind:?}");
        assert_eq!(tempo.client().search(&query), [otlp::hex(&id)], "{kind:?}");
        let metrics = tempo.client().get("/metrics").text();
        assert!(metrics.contains("tempodb_backend_request_duration_seconds_bucket{operation=\"PUT\""), "{kind:?}: {metrics}");
        tempo.kill();

        // The log has nothing that is not in the block: what is found now is found in the store.
        std::fs::remove_dir_all(place.log_dir()).unwrap();
        let tempo = place.start();
        let client = tempo.client();
        assert_eq!(client.trace(&id), expected, "{kind:?}");
        assert_eq!(client.search(&query), [otlp::hex(&id)], "{kind:?}");
        let tags: Value = client.ask("/api/v2/search/tags", &[("limit", "500")]).json();
        assert!(tags.to_string().contains("test.case"), "{kind:?}: {tags}");
    }
}

#[test]
fn a_read_that_is_cut_off_or_not_answered_is_sent_again() {
    let store = StoreKind::S3.start();
    let front = FaultyFront::start(store.port);
    let written = content(2 * MIB);
    block_on(async {
        let backend = Backend::from_config(&store.config_at(front.port, "")).unwrap();
        let key = Path::from("t/object");
        backend.write(&key, written.clone()).await.unwrap();
        for (fault, faults) in [(Fault::Truncated, 1), (Fault::Silence, 2)] {
            let first = AtomicBool::new(true);
            front.rule(move |seen| {
                let is_read = seen.method == "GET" && seen.target.contains("object");
                (is_read && first.swap(false, Ordering::SeqCst)).then_some(fault)
            });
            let (read, _) = backend.read_ranges(&key, std::slice::from_ref(&(100..MIB as u64))).await.unwrap();
            assert_eq!(read[0], written[100..MIB]);
            assert_eq!(front.faults(), faults);
        }
    });
}
