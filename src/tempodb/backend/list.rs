//! Which tenants and blocks there are.

use std::collections::HashMap;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;

use super::error::{BackendError, store_error};
use super::{Backend, to_timestamp};
use crate::model::ids::TenantId;
use crate::tempodb::block::meta::{BlockId, COMPACTED_META_NAME, META_NAME};
use crate::tempodb::keys;
use crate::tempodb::tenant_index::{JSON_NAME, PROTO_NAME};

/// Objects directly under the prefix that are not tenants.
const NOT_TENANTS: [&str; 2] = ["tempo_cluster_seed.json", "work.json"];

/// The ids of a tenant's blocks, from one listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIds {
    pub live: Vec<BlockId>,
    /// With the time their meta was replaced, which is the object's modification time.
    pub compacted: Vec<(BlockId, Timestamp)>,
    /// Blocks with a flag that forbids to compact them.
    pub no_compact: Vec<BlockId>,
    /// Names and times of objects of ours that stand directly below the tenant.
    pub own_objects: Vec<(String, Timestamp)>,
    /// Whether there is a tenant index.
    pub has_index: bool,
    /// When the youngest of all objects was written.
    pub youngest: Option<Timestamp>,
    /// Objects in folders that are not named like a block; nothing else makes us look at them.
    pub foreign_objects: usize,
}

impl BlockIds {
    fn merge(&mut self, part: Self) {
        self.live.extend(part.live);
        self.compacted.extend(part.compacted);
        self.no_compact.extend(part.no_compact);
        self.own_objects.extend(part.own_objects);
        self.has_index |= part.has_index;
        self.youngest = self.youngest.max(part.youngest);
        self.foreign_objects += part.foreign_objects;
    }
}

impl Backend {
    /// Lists the tenants: the folders under the prefix that have a valid tenant name. Others are left out.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, BackendError> {
        let listed = self.store.list_with_delimiter(None).await;
        let listed = listed.map_err(|cause| store_error("list", &Path::default(), cause))?;
        let names = listed.common_prefixes.iter().filter_map(|folder| folder.filename());
        Ok(names.filter(|name| !NOT_TENANTS.contains(name)).filter_map(parse_tenant).collect())
    }

    /// Lists the blocks of a tenant by their metas. Objects that belong to no block are counted and otherwise ignored.
    ///
    /// A store that answers a page at a time is asked for several parts of the keys at once. Memory: the ids, and a page for each part.
    pub async fn block_ids(&self, tenant: &TenantId) -> Result<BlockIds, BackendError> {
        let shards = shards(self.list_shards).into_iter();
        let mut listings: FuturesUnordered<_> = shards.map(|shard| self.block_ids_of_shard(tenant, shard)).collect();
        let mut ids = BlockIds::default();
        while let Some(part) = listings.next().await {
            ids.merge(part?);
        }
        Ok(ids)
    }

    async fn block_ids_of_shard(&self, tenant: &TenantId, shard: Shard) -> Result<BlockIds, BackendError> {
        let folder = keys::tenant_folder(tenant);
        let depth = folder.parts().count();
        let mut listed = match &shard.from {
            Some(from) => self.store.list_with_offset(Some(&folder), &keys::tenant_object(tenant, from)),
            None => self.store.list(Some(&folder)),
        };
        let mut ids = BlockIds::default();
        while let Some(object) = listed.next().await {
            let object = match object {
                Ok(object) => object,
                // A file that is deleted while a folder is walked.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(cause) => return Err(store_error("list", &folder, cause)),
            };
            let mut parts = object.location.parts().skip(depth);
            let Some(first) = parts.next() else { continue };
            match shard.position(first.as_ref()) {
                Position::Inside => {}
                // Some stores do not know where to begin.
                Position::Before => continue,
                Position::Behind => break,
            }
            let at = to_timestamp(&object);
            ids.youngest = ids.youngest.max(Some(at));
            match (first, parts.next(), parts.next()) {
                (block, Some(name), None) => match BlockId::parse(block.as_ref()) {
                    Some(id) if name.as_ref() == META_NAME => ids.live.push(id),
                    Some(id) if name.as_ref() == COMPACTED_META_NAME => ids.compacted.push((id, at)),
                    Some(id) if name.as_ref() == keys::NO_COMPACT_NAME => ids.no_compact.push(id),
                    Some(_) => {}
                    None => ids.foreign_objects += 1,
                },
                (name, None, None) if name.as_ref().starts_with(keys::OWN_PREFIX) => {
                    ids.own_objects.push((name.as_ref().to_owned(), at));
                }
                (name, None, None) => ids.has_index |= [PROTO_NAME, JSON_NAME].contains(&name.as_ref()),
                _ => ids.foreign_objects += 1,
            }
        }
        Ok(ids)
    }

    /// Returns the blocks of a tenant that have objects, but no meta, and whose newest object is older than `age`: what crashed writers left.
    pub async fn orphans(&self, tenant: &TenantId, now: Timestamp, age: SignedDuration) -> Result<Vec<BlockId>, BackendError> {
        let folder = keys::tenant_folder(tenant);
        let depth = folder.parts().count();
        let mut listed = self.store.list(Some(&folder));
        // `None`: the block has a meta.
        let mut newest: HashMap<BlockId, Option<Timestamp>> = HashMap::new();
        while let Some(object) = listed.next().await {
            let object = match object {
                Ok(object) => object,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(cause) => return Err(store_error("list", &folder, cause)),
            };
            let mut parts = object.location.parts().skip(depth);
            let (Some(block), Some(name), None) = (parts.next(), parts.next(), parts.next()) else { continue };
            let Some(block) = BlockId::parse(block.as_ref()) else { continue };
            let is_meta = [META_NAME, COMPACTED_META_NAME].contains(&name.as_ref());
            let entry = newest.entry(block).or_insert(Some(Timestamp::MIN));
            *entry = if is_meta { None } else { entry.map(|time| time.max(to_timestamp(&object))) };
        }
        let orphans = newest.into_iter().filter(|(_, newest)| newest.is_some_and(|newest| now.duration_since(newest) > age));
        Ok(orphans.map(|(block, _)| block).collect())
    }
}

/// A folder name is a tenant only in exactly the form we would write.
fn parse_tenant(name: &str) -> Option<TenantId> {
    TenantId::parse(name).ok().filter(|tenant| tenant.as_str() == name)
}

/// A part of the names below a tenant: from `from` on, up to `until` exclusively. Together the shards have every name once.
#[derive(Debug, PartialEq, Eq)]
struct Shard {
    from: Option<String>,
    until: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Position {
    Before,
    Inside,
    Behind,
}

impl Shard {
    fn position(&self, name: &str) -> Position {
        if self.from.as_deref().is_some_and(|from| name < from) {
            Position::Before
        } else if self.until.as_deref().is_some_and(|until| name >= until) {
            Position::Behind
        } else {
            Position::Inside
        }
    }
}

/// Splits block ids into `count` parts of equal width by their first 8 bytes, the first ones a little wider where that does not come out even
/// (tempodb, uuid sharding).
fn shards(count: usize) -> Vec<Shard> {
    let count = count.max(1) as u64;
    let (width, rest) = (u64::MAX / count, u64::MAX % count);
    let bound = |number: u64| {
        let first = number * width + number.min(rest);
        let uuid = uuid::Uuid::from_u64_pair(first, 0);
        (1..count).contains(&number).then(|| uuid.to_string())
    };
    (0..count).map(|number| Shard { from: bound(number), until: bound(number + 1) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_have_every_name_once() {
        assert_eq!(shards(1), [Shard { from: None, until: None }]);
        for count in [2, 3, 7, 64] {
            let shards = shards(count);
            for name in ["!", "00000000-0000-0000-0000-000000000000", "55555555-5555-5555-8000-000000000000", "ffffffff", "index.pb.zst"] {
                assert_eq!(shards.iter().filter(|shard| shard.position(name) == Position::Inside).count(), 1, "{name} of {count}");
            }
        }
        assert_eq!(shards(3)[1].from.as_deref(), Some("55555555-5555-5555-0000-000000000000"));
        assert_eq!(shards(3)[2].from.as_deref(), Some("aaaaaaaa-aaaa-aaaa-0000-000000000000"));
    }
}
