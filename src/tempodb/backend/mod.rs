//! Objects of tenants and blocks in an object store (tempodb, backend layout).
//!
//! ```text
//! [<prefix>/]<tenant>/<block id>/<object>      meta.json, data.parquet, bloom-N, index, …
//! [<prefix>/]<tenant>/index.pb.zst             tenant index, and index.json.gz
//! ```
//!
//! [`Backend::from_config`] opens a store (`open`, `s3`, `gcs`, `azure`, `aws_credentials`), [`Backend::check`] asks it once (`check`).
//! Beneath every request lie `http` (TLS, measuring, `retry_budget`) and `client` (hedging, attributes).
//!
//! Not here: what is in the objects. Writing order and atomicity of blocks are the writer's matter.
//!
//! Invariants
//! * A range read returns exactly the bytes asked for, or fails.
//! * Objects that are not ours are counted and otherwise change nothing.
//! * Requests of one read at once: [`read`]'s bound. Repeats: bounded per request, and over all requests by the retry budget.

mod aws_credentials;
mod azure;
mod check;
mod client;
mod error;
mod gap;
mod gcs;
mod http;
mod lifecycle;
mod list;
mod listing_filter;
mod open;
mod read;
mod retry_budget;
mod s3;
mod upload;
mod versioned;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

pub use self::error::BackendError;
pub use self::list::BlockIds;
pub use self::open::problems;
pub use self::read::ReadCost;
pub use self::upload::Upload;
pub use self::versioned::Version;

use self::error::store_error;
use self::gap::{CoalesceGap, GapBounds};
use self::upload::PartSizes;

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub size_bytes: u64,
    pub last_modified: Timestamp,
}

/// Stores differ in what they can do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Local,
    S3,
    Gcs,
    Azure,
    /// Handed in as it is, by tests.
    Other,
}

/// Where a store is, for messages and for what only a folder allows.
#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    /// Block of the configuration, bucket or container, and address.
    Bucket {
        block: &'static str,
        name: String,
        url: String,
    },
    Nowhere,
}

/// An object store with the keys of the block format. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    store: Arc<dyn ObjectStore>,
    kind: Kind,
    place: Place,
    gap: Arc<CoalesceGap>,
    parts: PartSizes,
    /// Parts of the key space that are listed at the same time.
    list_shards: usize,
    versioned_writes: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({})", self.store)
    }
}

impl Backend {
    /// `prefix` may hold slashes; empty for none.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self::of_kind(Kind::Other, store).below(prefix)
    }

    fn of_kind(kind: Kind, store: Arc<dyn ObjectStore>) -> Self {
        let bounds = match kind {
            Kind::Local | Kind::Other => GapBounds::LOCAL,
            Kind::S3 | Kind::Gcs | Kind::Azure => GapBounds::OBJECT_STORE,
        };
        Self {
            store,
            kind,
            place: Place::Nowhere,
            gap: Arc::new(CoalesceGap::new(bounds)),
            parts: PartSizes::default(),
            list_shards: 1,
            versioned_writes: Arc::default(),
        }
    }

    fn below(mut self, prefix: &str) -> Self {
        let prefix = Path::from(prefix);
        if !prefix.is_root() {
            self.store = Arc::new(PrefixStore::new(self.store, prefix));
        }
        self
    }

    /// Opens a folder as backend and creates it when it is missing.
    pub fn local(path: impl Into<PathBuf>) -> Result<Self, BackendError> {
        let path = path.into();
        std::fs::create_dir_all(&path).map_err(|cause| BackendError::Open { path: path.clone(), cause })?;
        let store = LocalFileSystem::new_with_prefix(&path)
            .map_err(|cause| BackendError::Open { path: path.clone(), cause: std::io::Error::other(cause) })?
            // What a block replaces, such as the ingest log, is deleted once the block is written: it must be on disk by then.
            .with_fsync(true)
            .with_automatic_cleanup(true);
        let mut backend = Self::of_kind(Kind::Local, Arc::new(store));
        backend.place = Place::Folder(path);
        Ok(backend)
    }

    /// The store, keys of which begin with the tenant.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Reads a whole object.
    pub async fn read(&self, key: &Path) -> Result<Bytes, BackendError> {
        let got = self.store.get(key).await.map_err(|cause| store_error("read", key, cause))?;
        got.bytes().await.map_err(|cause| store_error("read", key, cause))
    }

    pub async fn write(&self, key: &Path, bytes: impl Into<Bytes>) -> Result<(), BackendError> {
        let payload = PutPayload::from_bytes(bytes.into());
        self.store.put(key, payload).await.map(drop).map_err(|cause| store_error("write", key, cause))
    }

    /// Begins an object that is written bit by bit and becomes visible as a whole.
    pub fn upload(&self, key: Path) -> Upload {
        Upload::new(self.clone(), key)
    }

    /// Deletes an object; one that does not exist is fine.
    pub async fn delete(&self, key: &Path) -> Result<(), BackendError> {
        match self.store.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(store_error("delete", key, cause)),
        }
    }

    /// Returns size and time of an object.
    pub async fn head(&self, key: &Path) -> Result<ObjectInfo, BackendError> {
        let meta = self.store.head(key).await.map_err(|cause| store_error("look at", key, cause))?;
        Ok(ObjectInfo { size_bytes: meta.size, last_modified: to_timestamp(&meta) })
    }
}

fn to_timestamp(meta: &object_store::ObjectMeta) -> Timestamp {
    let time = meta.last_modified;
    Timestamp::new(time.timestamp(), time.timestamp_subsec_nanos() as i32).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
