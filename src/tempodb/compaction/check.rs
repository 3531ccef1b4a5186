//! Checks a written block before its meta makes it visible (block-format §10, checks 1 to 4): what is wrong afterwards costs the inputs.

use std::sync::Arc;

use super::error::CompactionError;
use crate::base::cpu_pool::CpuPool;
use crate::model::ids::{TenantId, TraceId};
use crate::tempodb::backend::Backend;
use crate::tempodb::block::bloom::{BloomShard, shard_of};
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::index::RowGroupIndex;
use crate::tempodb::block::meta::{BlockId, BlockMeta};
use crate::tempodb::block::read::{BlockReader, ReadMeter, ReadOptions};
use crate::tempodb::block::write::SealedBlock;
use crate::tempodb::keys::{DATA_NAME, block_object, bloom_name};

/// Bytes behind the footer: its length, and the magic.
const TAIL_BYTES: u64 = 8;

/// Reads back what can be read cheaply: sizes, footer, and the column of trace ids, which is compared with meta, index and bloom filter.
pub(super) async fn check_output(backend: &Backend, cpu: &CpuPool, tenant: &TenantId, block: &SealedBlock) -> Result<(), CompactionError> {
    let meta = Arc::new(block.meta().clone());
    let id = meta.block_id;
    check_sizes(backend, tenant, &meta).await?;
    let (options, meter) = (ReadOptions::default(), ReadMeter::default());
    let read = |cause: BlockReadError| bad(id, format!("it cannot be read back: {cause}"));
    let reader = BlockReader::open(backend, tenant, Arc::clone(&meta), options, &meter).await.map_err(read)?;
    if let Some(problem) = reader.column_problem() {
        return Err(bad(id, problem));
    }
    let index = RowGroupIndex::from_json(block.index()).map_err(|cause| bad(id, cause.to_string()))?;
    let blooms: Result<Vec<_>, _> = block.blooms().iter().map(|bytes| BloomShard::decode(bytes)).collect();
    let blooms = Arc::new(blooms.map_err(|cause| bad(id, cause.to_string()))?);
    if index.last_ids.len() != reader.row_groups() {
        return Err(bad(id, format!("the index has {} row groups, data.parquet {}", index.last_ids.len(), reader.row_groups())));
    }
    let (mut traces, mut previous) = (0_i64, None);
    for (group, &last) in index.last_ids.iter().enumerate() {
        let ids = reader.trace_ids(group, &meter).await.map_err(read)?;
        traces += ids.len() as i64;
        let blooms = Arc::clone(&blooms);
        let problem = cpu.run("check_trace_ids", move || problem_of_ids(&ids, previous, last, &blooms)).await?;
        if let Some(problem) = problem {
            return Err(bad(id, problem));
        }
        previous = Some(last);
    }
    if traces != meta.total_objects {
        return Err(bad(id, format!("meta says {} traces, data.parquet has {traces}", meta.total_objects)));
    }
    Ok(())
}

async fn check_sizes(backend: &Backend, tenant: &TenantId, meta: &BlockMeta) -> Result<(), CompactionError> {
    let id = meta.block_id;
    let key = block_object(tenant, id, DATA_NAME);
    let read = |cause: crate::tempodb::backend::BackendError| bad(id, format!("it cannot be read back: {cause}"));
    let size = backend.head(&key).await.map_err(read)?.size_bytes;
    if size != meta.size_bytes {
        return Err(bad(id, format!("meta says {} bytes, data.parquet has {size}", meta.size_bytes)));
    }
    let end = size.saturating_sub(TAIL_BYTES)..size;
    let (tail, _) = backend.read_ranges(&key, std::slice::from_ref(&end)).await.map_err(read)?;
    let expected = [&meta.footer_size_bytes.to_le_bytes()[..], b"PAR1"].concat();
    if tail.first().is_none_or(|tail| tail[..] != expected) {
        return Err(bad(id, "data.parquet does not end with its footer's length and PAR1".to_owned()));
    }
    for shard in 0..meta.bloom_shards {
        backend.head(&block_object(tenant, id, &bloom_name(shard))).await.map_err(read)?;
    }
    Ok(())
}

fn problem_of_ids(ids: &[TraceId], previous: Option<TraceId>, last: TraceId, blooms: &[BloomShard]) -> Option<String> {
    let all = previous.iter().chain(ids);
    if let Some((a, b)) = all.clone().zip(all.skip(1)).find(|(a, b)| a >= b) {
        return Some(format!("trace {b} follows {a}"));
    }
    if ids.last() != Some(&last) {
        return Some("the index does not hold the last trace id of each row group".to_owned());
    }
    let is_listed = |id: &&TraceId| {
        let shard = blooms.get(shard_of(**id, blooms.len() as u32) as usize);
        shard.is_some_and(|shard| shard.may_contain(**id))
    };
    ids.iter().find(|id| !is_listed(id)).map(|missing| format!("the bloom filter lacks trace {missing}"))
}

fn bad(block: BlockId, problem: String) -> CompactionError {
    CompactionError::BadOutput { block, problem }
}
