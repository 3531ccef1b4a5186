//! Names of objects in the backend: `<tenant>/<block id>/<object>` (tempodb, backend layout).
//!
//! A prefix is not part of these keys: wrap the store (`object_store::prefix::PrefixStore`).

use object_store::path::Path;

use super::block::meta::BlockId;
use crate::model::ids::TenantId;

/// The traces.
pub const DATA_NAME: &str = "data.parquet";
/// Objects of our own begin with this; other readers of the bucket ignore them.
pub const OWN_PREFIX: &str = "tempo-rs.";
/// Empty object: do not compact this block.
pub const NO_COMPACT_NAME: &str = "nocompact.flg";

/// Returns the name of a bloom shard's object.
pub fn bloom_name(shard: u32) -> String {
    format!("bloom-{shard}")
}

/// Returns the key of an object of a block.
pub fn block_object(tenant: &TenantId, block: BlockId, name: &str) -> Path {
    // `parse` takes segments as they are; `from` would escape characters that tenant ids may hold.
    Path::parse(format!("{tenant}/{block}/{name}")).expect("tenant ids and block ids are path segments")
}

/// Returns the key of an object that stands directly below the tenant, such as its index.
pub fn tenant_object(tenant: &TenantId, name: &str) -> Path {
    Path::parse(format!("{tenant}/{name}")).expect("tenant ids are path segments")
}

/// Returns the prefix of all objects of a tenant.
pub fn tenant_folder(tenant: &TenantId) -> Path {
    Path::parse(tenant.as_str()).expect("tenant ids are path segments")
}

/// Returns the prefix of all objects of a block.
pub fn block_folder(tenant: &TenantId, block: BlockId) -> Path {
    Path::parse(format!("{tenant}/{block}")).expect("tenant ids and block ids are path segments")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_ids_are_not_escaped() {
        let tenant = TenantId::parse("a!-_.*'()").unwrap();
        let block = BlockId::parse("346f9850-f0e5-42c3-af24-3adaedc7be98").unwrap();
        assert_eq!(block_object(&tenant, block, &bloom_name(3)).as_ref(), "a!-_.*'()/346f9850-f0e5-42c3-af24-3adaedc7be98/bloom-3");
        assert_eq!(tenant_object(&tenant, "index.pb.zst").as_ref(), "a!-_.*'()/index.pb.zst");
    }
}
