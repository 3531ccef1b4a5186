//! What is known of a block without opening it: `meta.json`, and the same in protobuf inside the tenant index (block-format §2).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use prost_types::Timestamp as ProtoTimestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::dedicated::{self, DedicatedColumn};

/// Name of the object that makes a block visible.
pub const META_NAME: &str = "meta.json";
/// Name of the object that replaces [`META_NAME`] when a block was compacted or is past its retention.
pub const COMPACTED_META_NAME: &str = "meta.compacted.json";

/// The block formats we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockVersion {
    VParquet3,
    VParquet4,
    VParquet5,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a valid block version")]
pub struct UnknownVersion(pub String);

/// Why a version cannot be that of new blocks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWritable {
    #[error(transparent)]
    Unknown(#[from] UnknownVersion),
    #[error("{0} is not a valid block version for creating blocks")]
    ReadOnly(BlockVersion),
}

impl BlockVersion {
    pub const ALL: [Self; 3] = [Self::VParquet3, Self::VParquet4, Self::VParquet5];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::VParquet3 => "vParquet3",
            Self::VParquet4 => "vParquet4",
            Self::VParquet5 => "vParquet5",
        }
    }

    /// Returns the version that `text` names if blocks of it can be made.
    pub fn for_writing(text: &str) -> Result<Self, NotWritable> {
        let version: Self = text.parse()?;
        if version.is_writable() { Ok(version) } else { Err(NotWritable::ReadOnly(version)) }
    }

    pub fn is_writable(self) -> bool {
        match self {
            Self::VParquet3 => false,
            Self::VParquet4 | Self::VParquet5 => true,
        }
    }
}

impl FromStr for BlockVersion {
    type Err = UnknownVersion;

    /// Case-sensitive.
    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| UnknownVersion(text.to_owned()))
    }
}

impl fmt::Display for BlockVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a format text names a preview: such blocks are opened as empty and never compacted.
pub fn is_preview(format: &str) -> bool {
    format.contains("preview")
}

/// Identifies a block within its tenant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub Uuid);

impl BlockId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads the lower-case canonical text; other spellings of a UUID are not block ids.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(Uuid::try_parse(text).ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_hyphenated())
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BlockId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlockId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Uuid::try_parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    #[error("block meta is not valid JSON")]
    Json(#[from] serde_json::Error),
    #[error("block meta is not valid protobuf")]
    Proto(#[from] prost::DecodeError),
    #[error("block meta lacks its {0}")]
    Missing(&'static str),
    #[error("block meta holds an invalid {0}")]
    Invalid(&'static str),
}

/// The time of a meta field that was never set: `0001-01-01T00:00:00Z`.
pub fn unset_time() -> Timestamp {
    Timestamp::constant(-62_135_596_800, 0)
}

/// The content of `meta.json`, keys in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockMeta {
    /// A [`BlockVersion`], a preview, or something we cannot read; see [`BlockMeta::version`].
    pub format: String,
    #[serde(rename = "blockID")]
    pub block_id: BlockId,
    #[serde(rename = "tenantID")]
    pub tenant_id: String,
    /// Earliest span start, whole seconds. May lie after `end_time` in blocks of late data.
    #[serde(rename = "startTime", default = "unset_time", with = "rfc3339")]
    pub start_time: Timestamp,
    /// Latest span end, whole seconds.
    #[serde(rename = "endTime", default = "unset_time", with = "rfc3339")]
    pub end_time: Timestamp,
    /// Traces.
    #[serde(rename = "totalObjects", default)]
    pub total_objects: i64,
    /// Bytes of `data.parquet`.
    #[serde(rename = "size", default, skip_serializing_if = "is_zero_u64")]
    pub size_bytes: u64,
    #[serde(rename = "compactionLevel", default)]
    pub compaction_level: u32,
    #[serde(rename = "indexPageSize", default)]
    pub index_page_size: u32,
    /// Row groups; files of other writers may say one too many. The file itself decides.
    #[serde(rename = "totalRecords", default)]
    pub total_records: u32,
    /// 0 stands for 10.
    #[serde(rename = "bloomShards", default)]
    pub bloom_shards: u32,
    /// Length of the Parquet footer without the 8 bytes after it.
    #[serde(rename = "footerSize", default)]
    pub footer_size_bytes: u32,
    #[serde(rename = "dedicatedColumns", default, skip_serializing_if = "is_empty", with = "dedicated::meta_json")]
    pub dedicated_columns: Arc<[DedicatedColumn]>,
    #[serde(rename = "replicationFactor", default, skip_serializing_if = "is_zero_u32")]
    pub replication_factor: u32,
}

fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

fn is_empty(columns: &[DedicatedColumn]) -> bool {
    columns.is_empty()
}

/// Lists of dedicated columns that were seen: equal ones become one. The blocks of a tenant have few different lists, and a list takes up more
/// than the rest of its meta.
#[derive(Debug, Default)]
pub struct ColumnLists {
    lists: HashSet<Arc<[DedicatedColumn]>>,
    /// The same by their JSON, so that it is read once.
    by_json: HashMap<Bytes, Arc<[DedicatedColumn]>>,
}

/// Lists remembered. Full: all are forgotten and found again, which costs memory of blocks that come later, not correctness.
const MAX_COLUMN_LISTS: usize = 1024;

impl ColumnLists {
    /// Returns the list to keep for `columns`.
    pub fn share(&mut self, columns: Arc<[DedicatedColumn]>) -> Arc<[DedicatedColumn]> {
        if let Some(known) = self.lists.get(&columns) {
            return Arc::clone(known);
        }
        if self.lists.len() >= MAX_COLUMN_LISTS {
            self.lists.clear();
        }
        self.lists.insert(Arc::clone(&columns));
        columns
    }

    fn of_json(&mut self, json: &Bytes) -> Result<Arc<[DedicatedColumn]>, MetaError> {
        if let Some(known) = self.by_json.get(json) {
            return Ok(Arc::clone(known));
        }
        let columns = self.share(dedicated_from_json(json)?);
        if self.by_json.len() >= MAX_COLUMN_LISTS {
            self.by_json.clear();
        }
        // A copy, because the bytes are a part of the whole index.
        self.by_json.insert(Bytes::copy_from_slice(json), Arc::clone(&columns));
        Ok(columns)
    }
}

impl BlockMeta {
    /// Returns the format if we can read it.
    pub fn version(&self) -> Result<BlockVersion, UnknownVersion> {
        self.format.parse()
    }

    pub fn from_json(bytes: &[u8]) -> Result<Self, MetaError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Returns the bytes of `meta.json`.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a meta has only string keys")
    }

    /// `columns_json` is what [`dedicated_to_json`] gives for the columns.
    pub(crate) fn to_proto(&self, columns_json: Bytes) -> ProtoBlockMeta {
        ProtoBlockMeta {
            format: self.format.clone(),
            block_id: self.block_id.0.as_bytes().to_vec(),
            tenant_id: self.tenant_id.clone(),
            start_time: Some(to_proto_time(self.start_time)),
            end_time: Some(to_proto_time(self.end_time)),
            total_objects: self.total_objects,
            size: self.size_bytes,
            compaction_level: self.compaction_level,
            index_page_size: self.index_page_size,
            total_records: self.total_records,
            bloom_shards: self.bloom_shards,
            footer_size: self.footer_size_bytes,
            dedicated_columns: columns_json,
            replication_factor: self.replication_factor,
        }
    }

    pub(crate) fn from_proto(proto: ProtoBlockMeta, lists: &mut ColumnLists) -> Result<Self, MetaError> {
        Ok(Self {
            format: proto.format,
            block_id: BlockId(Uuid::from_slice(&proto.block_id).map_err(|_| MetaError::Invalid("block id"))?),
            tenant_id: proto.tenant_id,
            start_time: from_proto_time(proto.start_time)?,
            end_time: from_proto_time(proto.end_time)?,
            total_objects: proto.total_objects,
            size_bytes: proto.size,
            compaction_level: proto.compaction_level,
            index_page_size: proto.index_page_size,
            total_records: proto.total_records,
            bloom_shards: proto.bloom_shards,
            footer_size_bytes: proto.footer_size,
            dedicated_columns: lists.of_json(&proto.dedicated_columns)?,
            replication_factor: proto.replication_factor,
        })
    }
}

/// A block that was replaced or is past retention: it stays readable for a while. In JSON the meta's keys stand beside `compactedTime`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactedBlockMeta {
    #[serde(flatten)]
    pub meta: BlockMeta,
    #[serde(rename = "compactedTime", default = "unset_time", with = "rfc3339")]
    pub compacted_time: Timestamp,
}

impl CompactedBlockMeta {
    pub(crate) fn to_proto(&self, columns_json: Bytes) -> ProtoCompactedBlockMeta {
        ProtoCompactedBlockMeta { meta: Some(self.meta.to_proto(columns_json)), compacted_time: Some(to_proto_time(self.compacted_time)) }
    }

    pub(crate) fn from_proto(proto: ProtoCompactedBlockMeta, lists: &mut ColumnLists) -> Result<Self, MetaError> {
        let meta = proto.meta.ok_or(MetaError::Missing("block meta"))?;
        Ok(Self { meta: BlockMeta::from_proto(meta, lists)?, compacted_time: from_proto_time(proto.compacted_time)? })
    }
}

/// Returns the array of `meta.json`; nothing for an empty list.
pub(crate) fn dedicated_to_json(columns: &[DedicatedColumn]) -> Bytes {
    if columns.is_empty() {
        return Bytes::new();
    }
    let mut json = Vec::new();
    dedicated::meta_json::serialize(columns, &mut serde_json::Serializer::new(&mut json)).expect("writing to memory succeeds");
    json.into()
}

fn dedicated_from_json(json: &[u8]) -> Result<Arc<[DedicatedColumn]>, MetaError> {
    if json.is_empty() {
        return Ok(Arc::default());
    }
    Ok(dedicated::meta_json::deserialize(&mut serde_json::Deserializer::from_slice(json))?)
}

pub(crate) fn to_proto_time(time: Timestamp) -> ProtoTimestamp {
    // jiff gives both parts the sign of the time; protobuf wants the nanoseconds counted forward.
    let nanos = time.as_nanosecond();
    ProtoTimestamp { seconds: nanos.div_euclid(1_000_000_000) as i64, nanos: nanos.rem_euclid(1_000_000_000) as i32 }
}

pub(crate) fn from_proto_time(time: Option<ProtoTimestamp>) -> Result<Timestamp, MetaError> {
    let Some(time) = time else { return Ok(unset_time()) };
    Timestamp::new(time.seconds, time.nanos).map_err(|_| MetaError::Invalid("time"))
}

/// RFC 3339 with as many fraction digits as needed; any zone offset is read.
pub(crate) mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ProtoBlockMeta {
    #[prost(string, tag = "1")]
    format: String,
    #[prost(bytes = "vec", tag = "2")]
    block_id: Vec<u8>,
    #[prost(string, tag = "5")]
    tenant_id: String,
    #[prost(message, optional, tag = "6")]
    start_time: Option<ProtoTimestamp>,
    #[prost(message, optional, tag = "7")]
    end_time: Option<ProtoTimestamp>,
    #[prost(int64, tag = "8")]
    total_objects: i64,
    #[prost(uint64, tag = "9")]
    size: u64,
    #[prost(uint32, tag = "10")]
    compaction_level: u32,
    #[prost(uint32, tag = "12")]
    index_page_size: u32,
    #[prost(uint32, tag = "13")]
    total_records: u32,
    #[prost(uint32, tag = "15")]
    bloom_shards: u32,
    #[prost(uint32, tag = "16")]
    footer_size: u32,
    /// The JSON array of `meta.json`.
    #[prost(bytes = "bytes", tag = "17")]
    dedicated_columns: Bytes,
    #[prost(uint32, tag = "18")]
    replication_factor: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ProtoCompactedBlockMeta {
    #[prost(message, optional, tag = "1")]
    meta: Option<ProtoBlockMeta>,
    #[prost(message, optional, tag = "2")]
    compacted_time: Option<ProtoTimestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"{"format":"vParquet5","blockID":"346f9850-f0e5-42c3-af24-3adaedc7be98","tenantID":"alpha","startTime":"2026-11-22T00:59:17Z","endTime":"2026-11-22T00:59:37Z","totalObjects":26,"size":53244,"compactionLevel":0,"indexPageSize":0,"totalRecords":1,"bloomShards":1,"footerSize":14150,"dedicatedColumns":[{"s":"resource","n":"k8s.cluster.name"},{"n":"http.status_code","t":"int"},{"n":"a","o":["array","blob"]}],"replicationFactor":1}"#;

    #[test]
    fn json_keeps_order_and_leaves_defaults_out() {
        let meta = BlockMeta::from_json(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(meta.to_json()).unwrap(), EXAMPLE);
        let bare = BlockMeta { size_bytes: 0, replication_factor: 0, dedicated_columns: Arc::default(), start_time: unset_time(), ..meta };
        assert_eq!(
            String::from_utf8(bare.to_json()).unwrap(),
            r#"{"format":"vParquet5","blockID":"346f9850-f0e5-42c3-af24-3adaedc7be98","tenantID":"alpha","startTime":"0001-01-01T00:00:00Z","endTime":"2026-11-22T00:59:37Z","totalObjects":26,"compactionLevel":0,"indexPageSize":0,"totalRecords":1,"bloomShards":1,"footerSize":14150}"#
        );
    }

    #[test]
    fn protobuf_round_trips() {
        let meta = BlockMeta::from_json(EXAMPLE.as_bytes()).unwrap();
        let (json, mut lists) = (dedicated_to_json(&meta.dedicated_columns), ColumnLists::default());
        for _known_before in [false, true] {
            assert_eq!(BlockMeta::from_proto(meta.to_proto(json.clone()), &mut lists).unwrap(), meta);
        }
        let compacted = CompactedBlockMeta { meta, compacted_time: "1969-12-31T23:59:58.25+00:00".parse().unwrap() };
        assert_eq!(CompactedBlockMeta::from_proto(compacted.to_proto(json), &mut lists).unwrap(), compacted);
    }

    #[test]
    fn metas_of_old_writers_are_read() {
        let text = r#"{"format":"vParquet4","blockID":"346F9850-F0E5-42C3-AF24-3ADAEDC7BE98","minID":"AA==","maxID":"AA==","tenantID":"t","startTime":"2026-11-22T01:59:17.5+01:00","endTime":"2026-11-22T00:59:37Z","totalObjects":1,"encoding":"none","dataEncoding":"","dedicatedColumns":null}"#;
        let meta = BlockMeta::from_json(text.as_bytes()).unwrap();
        assert_eq!(meta.version(), Ok(BlockVersion::VParquet4));
        assert_eq!(meta.start_time.to_string(), "2026-11-22T00:59:17.5Z");
        assert_eq!((meta.size_bytes, meta.replication_factor, meta.dedicated_columns), (0, 0, Arc::default()));
    }

    #[test]
    fn unknown_versions_are_named() {
        assert_eq!("v2".parse::<BlockVersion>().unwrap_err().to_string(), "v2 is not a valid block version");
        assert_eq!("vparquet5".parse::<BlockVersion>(), Err(UnknownVersion("vparquet5".to_owned())));
        assert!(is_preview("vParquet5-preview3"));
    }

    #[test]
    fn some_versions_are_only_read() {
        for (text, refusal) in [
            ("vParquet3", "vParquet3 is not a valid block version for creating blocks"),
            ("v2", "v2 is not a valid block version"),
            ("vParquet2", "vParquet2 is not a valid block version"),
            ("vParquet5-preview7", "vParquet5-preview7 is not a valid block version"),
        ] {
            assert_eq!(BlockVersion::for_writing(text).unwrap_err().to_string(), refusal);
        }
        assert_eq!(BlockVersion::for_writing("vParquet4"), Ok(BlockVersion::VParquet4));
    }

    #[test]
    fn block_ids_are_canonical_lower_case() {
        assert_eq!(BlockId::parse("346F9850-F0E5-42C3-AF24-3ADAEDC7BE98"), None);
        assert_eq!(BlockId::parse("346f9850-f0e5-42c3-af24-3adaedc7be98").unwrap().to_string(), "346f9850-f0e5-42c3-af24-3adaedc7be98");
    }
}
