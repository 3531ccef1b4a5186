//! The list of a tenant's blocks as one object, in two forms: `index.pb.zst` and `index.json.gz` (tempodb, tenant index).
//!
//! Writers write both; readers prefer the protobuf form. Order of the lists means nothing.

use std::io::{Read, Write};

use jiff::Timestamp;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::block::meta::{
    BlockMeta, CompactedBlockMeta, MetaError, ProtoBlockMeta, ProtoCompactedBlockMeta, from_proto_time, rfc3339, to_proto_time, unset_time,
};

/// Object name of the protobuf form, below the tenant.
pub const PROTO_NAME: &str = "index.pb.zst";
/// Object name of the JSON form, below the tenant.
pub const JSON_NAME: &str = "index.json.gz";
/// File name in the gzip header.
const GZIP_HEADER_NAME: &str = "index.json";

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
    #[serde(rename = "meta", default, deserialize_with = "null_is_empty")]
    pub metas: Vec<BlockMeta>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub compacted: Vec<CompactedBlockMeta>,
}

impl TenantIndex {
    /// Returns the bytes of [`PROTO_NAME`].
    pub fn to_proto_zstd(&self) -> Vec<u8> {
        let proto = ProtoTenantIndex {
            created_at: Some(to_proto_time(self.created_at)),
            metas: self.metas.iter().map(BlockMeta::to_proto).collect(),
            compacted: self.compacted.iter().map(CompactedBlockMeta::to_proto).collect(),
        };
        let level = zstd::DEFAULT_COMPRESSION_LEVEL;
        zstd::bulk::compress(&proto.encode_to_vec(), level).expect("compressing into memory succeeds")
    }

    pub fn from_proto_zstd(bytes: &[u8]) -> Result<Self, TenantIndexError> {
        let unpacked = read_bounded(zstd::Decoder::new(bytes).map_err(TenantIndexError::Unpack)?)?;
        let proto = ProtoTenantIndex::decode(unpacked.as_slice())?;
        let metas = proto.metas.into_iter().map(BlockMeta::from_proto).collect::<Result<_, _>>()?;
        let compacted = proto.compacted.into_iter().map(CompactedBlockMeta::from_proto).collect::<Result<_, _>>()?;
        Ok(Self { created_at: from_proto_time(proto.created_at)?, metas, compacted })
    }

    /// Returns the bytes of [`JSON_NAME`].
    pub fn to_json_gzip(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("an index has only string keys");
        let mut gzip = flate2::GzBuilder::new().filename(GZIP_HEADER_NAME).write(Vec::new(), flate2::Compression::default());
        gzip.write_all(&json).and_then(|()| gzip.finish()).expect("compressing into memory succeeds")
    }

    pub fn from_json_gzip(bytes: &[u8]) -> Result<Self, TenantIndexError> {
        let unpacked = read_bounded(flate2::read::MultiGzDecoder::new(bytes))?;
        Ok(serde_json::from_slice(&unpacked)?)
    }
}

fn read_bounded(reader: impl Read) -> Result<Vec<u8>, TenantIndexError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut bytes).map_err(TenantIndexError::Unpack)?;
    if read as u64 > MAX_UNPACKED_BYTES { Err(TenantIndexError::TooLarge) } else { Ok(bytes) }
}

/// Some writers say `null` for an empty list.
fn null_is_empty<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Clone, PartialEq, Message)]
struct ProtoTenantIndex {
    #[prost(message, optional, tag = "1")]
    created_at: Option<prost_types::Timestamp>,
    #[prost(message, repeated, tag = "2")]
    metas: Vec<ProtoBlockMeta>,
    #[prost(message, repeated, tag = "3")]
    compacted: Vec<ProtoCompactedBlockMeta>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDERS: [&str; 4] = ["vParquet5/alpha", "vParquet5/beta", "vParquet5-compacted/alpha", "vParquet5-compacted/beta"];

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
                assert_eq!(BlockMeta::from_json(&bytes).unwrap(), *meta);
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
