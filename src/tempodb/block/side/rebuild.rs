//! Makes the side objects of blocks that lack them: those of other writers, and older ones.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use tracing::debug;

use super::builder::SideBuilder;
use super::{PRUNING_NAME, TAGS_NAME};
use crate::base::cpu_pool::{CpuPool, CpuPoolError};
use crate::base::error_class::ErrorClass;
use crate::model::ids::TenantId;
use crate::tempodb::backend::{BackendError, ReadCost};
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::meta::{BlockMeta, COMPACTED_META_NAME, META_NAME};
use crate::tempodb::block::projection::{
    AttrSelection, EventColumns, LinkColumns, Projection, ResourceColumns, ScopeColumns, SpanColumns, TraceColumns,
};
use crate::tempodb::block::read::ReadMeter;
use crate::tempodb::db::{DbError, TempoDb};
use crate::tempodb::keys::block_object;

/// Looks at objects at the same time.
const LOOKS_AT_ONCE: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("cannot read the block")]
    Read(#[from] DbError),
    #[error("cannot write a side object")]
    Write(#[from] BackendError),
    #[error("cannot look at the rows on the CPU pool")]
    Cpu(#[from] CpuPoolError),
    #[error("the block was deleted meanwhile")]
    Gone,
}

impl RebuildError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Read(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Cpu(_) => ErrorClass::Internal,
            Self::Gone => ErrorClass::NotFound,
        }
    }
}

/// What making the objects of a block took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub read: ReadCost,
    pub spans: u64,
    /// Bytes of the objects.
    pub written_bytes: u64,
}

/// Reads a block, row group by row group, and writes its side objects. Dropping the future stops it; objects that are there already are replaced.
pub async fn rebuild(db: &TempoDb, cpu: &CpuPool, tenant: &TenantId, meta: &Arc<BlockMeta>) -> Result<Rebuilt, RebuildError> {
    let rebuilt = try_rebuild(db, cpu, tenant, meta).await;
    db.side().note_rebuilt(meta.block_id, rebuilt.is_ok());
    rebuilt
}

async fn try_rebuild(db: &TempoDb, cpu: &CpuPool, tenant: &TenantId, meta: &Arc<BlockMeta>) -> Result<Rebuilt, RebuildError> {
    let meter = ReadMeter::default();
    let reader = db.open(tenant, meta, &meter).await?;
    let failure = |error: BlockReadError| db.failure(tenant, meta.block_id, error);
    let projection = projection();
    let (mut builder, mut rebuilt) = (SideBuilder::default(), Rebuilt::default());
    for group in 0..reader.row_groups() {
        let fetched = reader.fetch_row_group(group, &projection, None, &meter).await.map_err(failure)?;
        let look = move || {
            let table = fetched.decode()?;
            builder.add(&table);
            Ok::<_, BlockReadError>((builder, table.span_count() as u64))
        };
        let (kept, spans) = cpu.run("look_at_row_group", look).await?.map_err(failure)?;
        builder = kept;
        rebuilt.spans += spans;
    }
    let data_bytes = meta.size_bytes;
    let objects = cpu.run("encode_side_objects", move || builder.finish(data_bytes)).await?;
    for (name, bytes) in objects {
        rebuilt.written_bytes += bytes.len() as u64;
        db.backend().write(&block_object(tenant, meta.block_id, name), bytes).await?;
    }
    if is_gone(db, tenant, meta).await? {
        // Nobody would ever delete them.
        for name in [TAGS_NAME, PRUNING_NAME] {
            db.backend().delete(&block_object(tenant, meta.block_id, name)).await?;
        }
        return Err(RebuildError::Gone);
    }
    rebuilt.read = meter.cost();
    Ok(rebuilt)
}

async fn is_gone(db: &TempoDb, tenant: &TenantId, meta: &BlockMeta) -> Result<bool, BackendError> {
    for name in [META_NAME, COMPACTED_META_NAME] {
        match db.backend().head(&block_object(tenant, meta.block_id, name)).await {
            Ok(_) => return Ok(false),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// What [`SideBuilder`] looks at.
fn projection() -> Projection {
    let attrs = AttrSelection::All;
    Projection {
        traces: TraceColumns {
            start: true,
            end: true,
            duration: true,
            root_service_name: true,
            root_span_name: true,
            ..TraceColumns::default()
        },
        resources: ResourceColumns { service_name: true, attrs: attrs.clone(), ..ResourceColumns::default() },
        scopes: ScopeColumns { name: true, version: true, attrs: attrs.clone(), ..ScopeColumns::default() },
        spans: SpanColumns {
            name: true,
            kind: true,
            start: true,
            duration: true,
            status_code: true,
            status_message: true,
            attrs: attrs.clone(),
            ..SpanColumns::default()
        },
        events: EventColumns { offsets: true, time_since_start: true, name: true, attrs: attrs.clone(), ..EventColumns::default() },
        links: LinkColumns { offsets: true, attrs, ..LinkColumns::default() },
    }
}

/// Returns up to `limit` live blocks of a tenant that lack side objects, newest first. Asks the store once a block and remembers what it said.
pub async fn missing(db: &TempoDb, tenant: &TenantId, limit: usize) -> Result<Vec<Arc<BlockMeta>>, BackendError> {
    let side = db.side();
    let blocks = db.blocks(tenant);
    let mut looks = stream::iter(blocks)
        .map(|meta| async move {
            if let Some(is_present) = side.known_presence(meta.block_id) {
                return Ok((meta, is_present));
            }
            let is_present = match db.backend().head(&block_object(tenant, meta.block_id, PRUNING_NAME)).await {
                Ok(_) => true,
                Err(error) if error.is_not_found() => false,
                Err(error) => return Err(error),
            };
            side.note_presence(meta.block_id, is_present);
            Ok((meta, is_present))
        })
        .buffered(LOOKS_AT_ONCE);
    let mut missing = Vec::new();
    while let Some(look) = looks.next().await {
        let (meta, is_present) = look?;
        if !is_present {
            missing.push(meta);
        }
        if missing.len() >= limit {
            break;
        }
    }
    debug!(%tenant, blocks = missing.len(), "blocks without side objects");
    Ok(missing)
}
