//! The list of a tenant's blocks as one object, in two forms: `index.pb.zst` and `index.json.gz` (tempodb, tenant index).
//!
//! Writers write both; readers prefer the protobuf form. Order of the lists means nothing.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::block::dedicated::DedicatedColumn;
use super::block::meta::{
    BlockMeta, ColumnLists, CompactedBlockMeta, MetaError, ProtoBlockMeta, ProtoCompactedBlockMeta, dedicated_to_json, from_proto_time,
    rfc3339, to_proto_time, unset_time,
};

/// Object name of the protobuf form, below the tenant.
pub const PROTO_NAME: &str = "index.pb.zst";
/// Object name of the JSON form, below the tenant.
pub const JSON_NAME: &str = "index.json.gz";
/// File name in the gzip header.
const GZIP_HEADER_NAME: &str = "index.json";

/// JSON handed to the compressor at once.
const JSON_PIECE_BYTES: usize = 64 << 10;

/// Largest index we unpack: a meta has about 800 bytes of JSON, so this is over a million blocks of one tenant.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum TenantIndexError {
    #[error("tenant index cannot be unpacked")]
    Unpack(#[source] std::io::Error),
    #[error("tenant index exceeds {MAX_UNPACKED_BYTES} bytes unpacked")]
    TooLarge,
    #[error("tenant index is not valid JSON")]
    Json(#[from] serde_json::Error),
    #[error("tenant index is not valid protobuf")]
    Proto(#[from] prost::DecodeError),
    #[error("tenant index holds an invalid block meta")]
    Meta(#[from] MetaError),
}

/// All blocks of a tenant at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantIndex {
    #[serde(default = "unset_time", with = "rfc3339")]
    pub created_at: Timestamp,
    #[serde(rename = "meta", default, with = "shared_metas")]
    pub metas: Vec<Arc<BlockMeta>>,
    #[serde(default, with = "shared_metas")]
    pub compacted: Vec<Arc<CompactedBlockMeta>>,
}

impl TenantIndex {
    /// Returns the bytes of [`PROTO_NAME`]. CPU-bound: some microseconds a block, as are the other forms.
    pub fn to_proto_zstd(&self) -> Vec<u8> {
        self.write_proto_zstd().expect("compressing into memory succeeds")
    }

    fn write_proto_zstd(&self) -> std::io::Result<Vec<u8>> {
        let mut zstd = zstd::Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?;
        let (mut json, mut piece) = (ColumnsJson::default(), Vec::new());
        prost::encoding::message::encode(CREATED_AT, &to_proto_time(self.created_at), &mut piece);
        for meta in &self.metas {
            prost::encoding::message::encode(METAS, &meta.to_proto(json.of(meta)), &mut piece);
            zstd.write_all(&piece)?;
            piece.clear();
        }
        for compacted in &self.compacted {
            prost::encoding::message::encode(COMPACTED, &compacted.to_proto(json.of(&compacted.meta)), &mut piece);
            zstd.write_all(&piece)?;
            piece.clear();
        }
        zstd.write_all(&piece)?;
        zstd.finish()
    }

    pub fn from_proto_zstd(bytes: &[u8]) -> Result<Self, TenantIndexError> {
        let unpacked = read_bounded(zstd::Decoder::new(bytes).map_err(TenantIndexError::Unpack)?)?;
        let proto = ProtoTenantIndex::decode(Bytes::from(unpacked))?;
        let mut lists = ColumnLists::default();
        let mut metas = Vec::with_capacity(proto.metas.len());
        for meta in proto.metas {
            metas.push(Arc::new(BlockMeta::from_proto(ProtoBlockMeta::decode(meta)?, &mut lists)?));
        }
        let mut compacted = Vec::with_capacity(proto.compacted.len());
        for meta in proto.compacted {
            compacted.push(Arc::new(CompactedBlockMeta::from_proto(ProtoCompactedBlockMeta::decode(meta)?, &mut lists)?));
        }
        Ok(Self { created_at: from_proto_time(proto.created_at)?, metas, compacted })
    }

    /// Returns the bytes of [`JSON_NAME`].
    pub fn to_json_gzip(&self) -> Vec<u8> {
        let gzip = flate2::GzBuilder::new().filename(GZIP_HEADER_NAME).write(Vec::new(), flate2::Compression::default());
        let mut gzip = std::io::BufWriter::with_capacity(JSON_PIECE_BYTES, gzip);
        serde_json::to_writer(&mut gzip, self).expect("an index has only string keys, and writing to memory succeeds");
        let gzip = gzip.into_inner().map_err(std::io::IntoInnerError::into_error);
        gzip.and_then(flate2::write::GzEncoder::finish).expect("compressing into memory succeeds")
    }

    pub fn from_json_gzip(bytes: &[u8]) -> Result<Self, TenantIndexError> {
        let unpacked = read_bounded(flate2::read::MultiGzDecoder::new(bytes))?;
        Ok(serde_json::from_slice(&unpacked)?)
    }
}

/// The JSON of the list of dedicated columns last asked for: neighbours mostly share it.
#[derive(Default)]
struct ColumnsJson(Option<(Arc<[DedicatedColumn]>, Bytes)>);

impl ColumnsJson {
    fn of(&mut self, meta: &BlockMeta) -> Bytes {
        match &self.0 {
            Some((columns, json)) if Arc::ptr_eq(columns, &meta.dedicated_columns) => json.clone(),
            _ => {
                let json = dedicated_to_json(&meta.dedicated_columns);
                self.0 = Some((Arc::clone(&meta.dedicated_columns), json.clone()));
                json
            }
        }
    }
}

fn read_bounded(reader: impl Read) -> Result<Vec<u8>, TenantIndexError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut bytes).map_err(TenantIndexError::Unpack)?;
    if read as u64 > MAX_UNPACKED_BYTES { Err(TenantIndexError::TooLarge) } else { Ok(bytes) }
}

/// Lists of shared metas. Some writers say `null` for an empty list; equal lists of dedicated columns are kept once while reading.
mod shared_metas {
    use std::fmt;
    use std::marker::PhantomData;
    use std::sync::Arc;

    use serde::de::{SeqAccess, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{BlockMeta, ColumnLists, CompactedBlockMeta};

    pub(super) trait HasMeta {
        fn meta_mut(&mut self) -> &mut BlockMeta;
    }

    impl HasMeta for BlockMeta {
        fn meta_mut(&mut self) -> &mut BlockMeta {
            self
        }
    }

    impl HasMeta for CompactedBlockMeta {
        fn meta_mut(&mut self) -> &mut BlockMeta {
            &mut self.meta
        }
    }

    pub(super) fn serialize<T: Serialize, S: Serializer>(metas: &[Arc<T>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(metas.iter().map(Arc::as_ref))
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<Arc<T>>, D::Error>
    where
        T: Deserialize<'de> + HasMeta,
        D: Deserializer<'de>,
    {
        deserializer.deserialize_any(Metas(PhantomData))
    }

    struct Metas<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de> + HasMeta> Visitor<'de> for Metas<T> {
        type Value = Vec<Arc<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of block metas or null")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let (mut metas, mut lists) = (Vec::new(), ColumnLists::default());
            while let Some(mut item) = seq.next_element::<T>()? {
                let meta = item.meta_mut();
                meta.dedicated_columns = lists.share(Arc::clone(&meta.dedicated_columns));
                metas.push(Arc::new(item));
            }
            Ok(metas)
        }
    }
}

const CREATED_AT: u32 = 1;
const METAS: u32 = 2;
const COMPACTED: u32 = 3;

/// Metas are left as they stand: decoded one after the other, they need no second copy of the index.
#[derive(Clone, PartialEq, Message)]
struct ProtoTenantIndex {
    #[prost(message, optional, tag = "1")]
    created_at: Option<prost_types::Timestamp>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    metas: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    compacted: Vec<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDERS: [&str; 10] = [
        "vParquet3/alpha",
        "vParquet3/beta",
        "vParquet4/alpha",
        "vParquet4/beta",
        "vParquet4-compacted/alpha",
        "vParquet4-compacted/beta",
        "vParquet5/alpha",
        "vParquet5/beta",
        "vParquet5-compacted/alpha",
        "vParquet5-compacted/beta",
    ];

    fn read(folder: &str, name: &str) -> Vec<u8> {
        std::fs::read(format!("testdata/blocks/{folder}/{name}")).unwrap()
    }

    fn ungzip(bytes: &[u8]) -> String {
        let mut text = String::new();
        flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn both_forms_hold_the_same_and_encode_to_the_same_content() {
        for folder in FOLDERS {
            let (proto, json) = (read(folder, PROTO_NAME), read(folder, JSON_NAME));
            let index = TenantIndex::from_proto_zstd(&proto).unwrap();
            assert_eq!(index, TenantIndex::from_json_gzip(&json).unwrap(), "{folder}");
            assert_eq!(ungzip(&index.to_json_gzip()), ungzip(&json), "{folder}");
            let unpack = |bytes: &[u8]| zstd::decode_all(bytes).unwrap();
            assert_eq!(unpack(&index.to_proto_zstd()), unpack(&proto), "{folder}");
        }
    }

    #[test]
    fn metas_equal_those_in_the_block_folders() {
        for folder in FOLDERS {
            let index = TenantIndex::from_proto_zstd(&read(folder, PROTO_NAME)).unwrap();
            for meta in &index.metas {
                let bytes = read(folder, &format!("{}/meta.json", meta.block_id));
                assert_eq!(BlockMeta::from_json(&bytes).unwrap(), **meta);
                assert_eq!(meta.to_json(), bytes);
            }
            for compacted in &index.compacted {
                assert_eq!(compacted.meta.to_json(), read(folder, &format!("{}/meta.compacted.json", compacted.meta.block_id)));
            }
        }
    }

    #[test]
    fn empty_lists_are_read_as_array_or_null() {
        let index = TenantIndex { created_at: unset_time(), metas: Vec::new(), compacted: Vec::new() };
        assert_eq!(ungzip(&index.to_json_gzip()), r#"{"created_at":"0001-01-01T00:00:00Z","meta":[],"compacted":[]}"#);
        assert_eq!(TenantIndex::from_json_gzip(&index.to_json_gzip()).unwrap(), index);
        assert_eq!(TenantIndex::from_proto_zstd(&index.to_proto_zstd()).unwrap(), index);
        let null: TenantIndex = serde_json::from_str(r#"{"meta":null,"compacted":null}"#).unwrap();
        assert_eq!(null, index);
    }

    #[test]
    fn broken_objects_are_errors() {
        assert!(matches!(TenantIndex::from_json_gzip(b"no"), Err(TenantIndexError::Unpack(_))));
        assert!(matches!(TenantIndex::from_proto_zstd(b"no"), Err(TenantIndexError::Unpack(_))));
    }
}
