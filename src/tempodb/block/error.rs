//! Why a block cannot be read.

use parquet::errors::ParquetError;

use super::bloom::BloomError;
use super::decode::DecodeError;
use super::index::IndexError;
use super::meta::UnknownVersion;
use crate::base::error_class::ErrorClass;
use crate::tempodb::backend::BackendError;

#[derive(Debug, thiserror::Error)]
pub enum BlockReadError {
    #[error(transparent)]
    UnknownVersion(#[from] UnknownVersion),
    #[error("cannot read the block's objects")]
    Backend(#[from] BackendError),
    /// The texts of these two are those of the compatible system.
    #[error("error retrieving bloom {shard}")]
    Bloom {
        shard: u32,
        #[source]
        cause: BackendError,
    },
    #[error("bloom {shard} is corrupt")]
    CorruptBloom {
        shard: u32,
        #[source]
        cause: BloomError,
    },
    #[error("block index is corrupt")]
    CorruptIndex(#[source] IndexError),
    #[error("block footer or page index is corrupt")]
    Footer(#[source] ParquetError),
    #[error("block layout is corrupt: {0}")]
    Layout(&'static str),
    #[error("column {column} of row group {group} cannot be decoded")]
    Column {
        column: String,
        group: usize,
        #[source]
        cause: DecodeError,
    },
}

impl BlockReadError {
    /// Whether the block itself is broken, so that reading it again will not help.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::CorruptBloom { .. } | Self::CorruptIndex(_) | Self::Footer(_) | Self::Layout(_) => true,
            Self::Column { cause, .. } => !matches!(cause, DecodeError::Unsupported(_)),
            Self::UnknownVersion(_) | Self::Backend(_) | Self::Bloom { .. } => false,
        }
    }

    pub fn class(&self) -> ErrorClass {
        match self {
            Self::UnknownVersion(_) => ErrorClass::Invalid,
            Self::Backend(cause) | Self::Bloom { cause, .. } => cause.class(),
            Self::Column { cause: DecodeError::Unsupported(_), .. } => ErrorClass::Unsupported,
            Self::CorruptBloom { .. } | Self::CorruptIndex(_) | Self::Footer(_) | Self::Layout(_) | Self::Column { .. } => {
                ErrorClass::Internal
            }
        }
    }
}
