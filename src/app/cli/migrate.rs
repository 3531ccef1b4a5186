//! `migrate tenant`: copies the blocks of a tenant to another tenant, perhaps in another store.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Subcommand;
use futures::StreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart};

use super::output::{Cell, Output, Table};
use super::progress::Progress;
use super::storage::{Storage, parse_tenant};
use crate::model::ids::TenantId;
use crate::tempodb::block::meta::{BlockMeta, COMPACTED_META_NAME, META_NAME};
use crate::tempodb::keys;

/// Parts of an upload in flight.
const UPLOADS_IN_FLIGHT: usize = 4;

#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    /// Copies all live blocks of a tenant. Nothing is deleted; a block that the target has is left as it is.
    Tenant {
        #[arg(value_parser = parse_tenant)]
        source_tenant: TenantId,
        #[arg(value_parser = parse_tenant)]
        destination_tenant: TenantId,
        /// Configuration of the store to read from, if it is another one than that of --config-file.
        #[arg(long)]
        source_config_file: Option<PathBuf>,
    },
}

impl MigrateCommand {
    pub(super) async fn run(self, storage: &Storage, out: &mut Output) -> anyhow::Result<()> {
        let Self::Tenant { source_tenant, destination_tenant, source_config_file } = self;
        let other = source_config_file.map(|path| Storage::of_file(&path)).transpose()?;
        anyhow::ensure!(other.is_some() || source_tenant != destination_tenant, "source and destination are the same");
        let source = other.as_ref().unwrap_or(storage);
        let blocks = source.blocks(&source_tenant, false).await?;
        let progress = Progress::new("blocks", blocks.len());
        let (mut copied, mut present, mut bytes) = (0_usize, 0_usize, 0);
        for block in &blocks {
            let id = block.meta.block_id;
            if storage.backend.head(&keys::block_object(&destination_tenant, id, META_NAME)).await.is_ok() {
                present += 1;
            } else {
                let target = (storage.backend.store(), &destination_tenant);
                bytes += copy_block((source.backend.store(), &source_tenant), target, &block.meta)
                    .await
                    .with_context(|| format!("block {id}"))?;
                copied += 1;
            }
            progress.step();
        }
        drop(progress);
        let mut table = Table::new(&["Blocks", "Copied", "Already there", "Bytes copied"]);
        table.push([blocks.len().into(), copied.into(), present.into(), Cell::Bytes(bytes)]);
        out.record(&table)
    }
}

type Place<'a> = (&'a Arc<dyn ObjectStore>, &'a TenantId);

/// Copies the objects of a block, its meta last and with the new tenant. Returns the bytes.
async fn copy_block((from, source): Place<'_>, (to, destination): Place<'_>, meta: &BlockMeta) -> anyhow::Result<u64> {
    let folder = keys::block_folder(source, meta.block_id);
    let mut listed = from.list(Some(&folder));
    let mut bytes = 0;
    while let Some(object) = listed.next().await {
        let object = object?;
        let name = object.location.filename().unwrap_or_default();
        if [META_NAME, COMPACTED_META_NAME].contains(&name) {
            continue;
        }
        copy_object(from.as_ref(), &object.location, to.as_ref(), &keys::block_object(destination, meta.block_id, name)).await?;
        bytes += object.size;
    }
    let moved = BlockMeta { tenant_id: destination.as_str().to_owned(), ..meta.clone() };
    to.put(&keys::block_object(destination, meta.block_id, META_NAME), moved.to_json().into()).await?;
    Ok(bytes)
}

async fn copy_object(from: &dyn ObjectStore, source: &Path, to: &dyn ObjectStore, target: &Path) -> anyhow::Result<()> {
    let mut content = from.get(source).await?.into_stream();
    let mut upload = WriteMultipart::new(to.put_multipart(target).await?);
    while let Some(chunk) = content.next().await {
        upload.wait_for_capacity(UPLOADS_IN_FLIGHT).await?;
        upload.put(chunk?);
    }
    upload.finish().await?;
    Ok(())
}
