//! Reads back what a WAL block holds after a restart.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use metrics::counter;
use object_store::path::Path;
use tracing::{info, warn};

use super::error::WalError;
use super::file::{Source, WalFile};
use super::folder::{FolderVersion, WalFolder};
use super::view::WalView;
use super::{Wal, blocking, entries, metrics as names};
use crate::tempodb::block::meta::{BlockMeta, META_NAME};

impl Wal {
    /// Lists the rows of a WAL block. `None` when there are none: then the folder is removed.
    ///
    /// # Errors
    /// When the disk fails, or a file needs what is not supported; the folder is left as it is.
    pub async fn replay(&self, folder: &WalFolder) -> Result<Option<WalView>, WalError> {
        let started = Instant::now();
        let name = folder.name();
        info!(block = %folder.block, tenant = %folder.tenant, path = %self.path_of(folder).display(), "beginning replay");
        let meta = match &folder.version {
            FolderVersion::Known(_) => self.read_meta(folder).await?,
            FolderVersion::Preview(_) => Err("preview format"),
        };
        let meta = match meta {
            Ok(meta) => meta,
            Err(reason) => {
                warn!(name, reason, "failed to replay block. removing.");
                return self.give_up(folder, reason).await;
            }
        };
        let files = self.open_files(folder, &meta).await?;
        let rows: usize = files.iter().map(|file| file.rows.len()).sum();
        if rows == 0 {
            info!(name, "replayed block is empty. removing.");
            return self.give_up(folder, "empty").await;
        }
        counter!(names::REPLAYED_BLOCKS).increment(1);
        counter!(names::REPLAYED_ROWS).increment(rows as u64);
        info!(block = %folder.block, tenant = %folder.tenant, files = files.len(), rows, duration = ?started.elapsed(), "replay complete");
        let meta = Arc::new(BlockMeta { total_objects: rows as i64, ..meta.as_ref().clone() });
        Ok(Some(WalView { meta, files, pending: Vec::new(), cpu: self.cpu.clone() }))
    }

    /// The meta of a folder, or why there is none. The folder's name tells whose it is.
    async fn read_meta(&self, folder: &WalFolder) -> Result<Result<Arc<BlockMeta>, &'static str>, WalError> {
        let path = self.path_of(folder).join(META_NAME);
        let bytes = blocking(move || match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(|cause| WalError::io("read", &path, cause)),
        });
        let Some(bytes) = bytes.await? else { return Ok(Err("no meta")) };
        let Ok(mut meta) = BlockMeta::from_json(&bytes) else { return Ok(Err("unreadable meta")) };
        (meta.block_id, meta.tenant_id) = (folder.block, folder.tenant.as_str().to_owned());
        // Sizes are those of a file, of which there are several: each is asked for its own.
        (meta.size_bytes, meta.footer_size_bytes) = (0, 0);
        if let FolderVersion::Known(version) = folder.version {
            meta.format = version.as_str().to_owned();
        }
        Ok(Ok(Arc::new(meta)))
    }

    async fn open_files(&self, folder: &WalFolder, meta: &Arc<BlockMeta>) -> Result<Vec<Arc<WalFile>>, WalError> {
        let name = folder.name();
        let path = self.path_of(folder);
        let listed = blocking(move || {
            let file = |name: String| {
                let length = std::fs::metadata(path.join(&name)).map_err(|cause| WalError::io("look at", &path.join(&name), cause));
                length.map(|file| (name, file.len()))
            };
            let names = entries(&path)?.into_iter();
            // Temporary files are those of an interrupted flush.
            names.filter(|name| name != META_NAME && !name.ends_with(".tmp")).map(file).collect::<Result<Vec<_>, _>>()
        });
        let mut files = Vec::new();
        for (file, bytes) in listed.await? {
            if bytes == 0 {
                info!(name, file, "empty wal file. ignoring.");
                continue;
            }
            let Ok(key) = Path::parse(format!("{name}/{file}")) else { continue };
            let source = Source { backend: self.backend.clone(), tenant: folder.tenant.clone(), meta: Arc::clone(meta), key };
            match WalFile::open(source, bytes, &self.cpu).await {
                Ok(opened) => files.push(Arc::new(opened)),
                Err(WalError::Read { file, cause }) if cause.is_corrupt() => {
                    counter!(names::REPLAY_WARNINGS).increment(1);
                    warn!(file, err = &cause as &dyn std::error::Error, "received warning while replaying block. partial replay likely.");
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(files)
    }

    async fn give_up(&self, folder: &WalFolder, reason: &'static str) -> Result<Option<WalView>, WalError> {
        counter!(names::DROPPED_BLOCKS, "reason" => reason).increment(1);
        let (disk, path) = (Arc::clone(&self.disk), self.path_of(folder));
        blocking(move || disk.remove_folder(&path).map_err(|cause| WalError::io("remove", &path, cause))).await?;
        Ok(None)
    }
}
