//! What happens to a block after it was written.

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::error::{BackendError, store_error};
use super::{Backend, Kind, Place};
use crate::model::ids::TenantId;
use crate::tempodb::block::meta::{BlockId, COMPACTED_META_NAME, META_NAME};
use crate::tempodb::keys;

impl Backend {
    /// Makes a live block compacted: its meta gets the other name. A block that already is stays so.
    pub async fn mark_compacted(&self, tenant: &TenantId, block: BlockId) -> Result<(), BackendError> {
        let from = keys::block_object(tenant, block, META_NAME);
        let to = keys::block_object(tenant, block, COMPACTED_META_NAME);
        // Copy, then delete: in between the block is in both lists, which readers expect. The copy has a time of its own.
        match self.copy(&from, &to).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {
                self.head(&to).await?;
            }
            Err(error) => return Err(error),
        }
        self.delete(&from).await
    }

    /// Copies an object within the store where that is one request, which keeps its tags and metadata and applies the configured encryption.
    async fn copy(&self, from: &Path, to: &Path) -> Result<(), BackendError> {
        match self.kind {
            Kind::S3 | Kind::Gcs => self.store.copy(from, to).await.map_err(|cause| store_error("copy", from, cause)),
            // A copied file would keep its time, and a copy on Azure may still be under way when it is answered.
            Kind::Local | Kind::Azure | Kind::Other => {
                let bytes = self.read(from).await?;
                self.write(to, bytes).await
            }
        }
    }

    /// Deletes every object of a block, its metas last, so that an interrupted deletion can be repeated.
    pub async fn clear_block(&self, tenant: &TenantId, block: BlockId) -> Result<(), BackendError> {
        let folder = keys::block_folder(tenant, block);
        let mut listed = self.store.list(Some(&folder));
        let (mut metas, mut others) = (Vec::new(), Vec::new());
        while let Some(object) = listed.next().await {
            let key = match object {
                Ok(object) => object.location,
                // A file that somebody else deletes meanwhile.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(cause) => return Err(store_error("list", &folder, cause)),
            };
            let is_meta = [META_NAME, COMPACTED_META_NAME].contains(&key.filename().unwrap_or_default());
            if is_meta { metas.push(key) } else { others.push(key) }
        }
        for keys in [others, metas] {
            self.delete_all(keys).await?;
        }
        self.remove_folder(&folder).await
    }

    /// Deletes every object of a tenant.
    pub async fn clear_tenant(&self, tenant: &TenantId) -> Result<(), BackendError> {
        let folder = keys::tenant_folder(tenant);
        let mut listed = self.store.list(Some(&folder));
        while let Some(object) = listed.next().await {
            let key = object.map_err(|cause| store_error("list", &folder, cause))?.location;
            self.delete(&key).await?;
        }
        Ok(())
    }

    /// Deletes objects, several at once; those that do not exist are fine.
    async fn delete_all(&self, keys: Vec<Path>) -> Result<(), BackendError> {
        let deletions = keys.into_iter().map(|key| async move { self.delete(&key).await });
        futures::stream::iter(deletions).buffer_unordered(DELETIONS_AT_ONCE).try_collect::<()>().await
    }

    /// On a disk: removes what a listing does not show, such as the files of uploads that a crash cut off.
    async fn remove_folder(&self, folder: &Path) -> Result<(), BackendError> {
        let Place::Folder(root) = &self.place else { return Ok(()) };
        let path = root.join(folder.as_ref());
        let removed = tokio::task::spawn_blocking({
            let path = path.clone();
            move || std::fs::remove_dir_all(path)
        });
        match removed.await {
            Ok(Err(cause)) if cause.kind() != std::io::ErrorKind::NotFound => Err(BackendError::Open { path, cause }),
            _ => Ok(()),
        }
    }
}

const DELETIONS_AT_ONCE: usize = 8;
