//! What can go wrong with a store, and how it is said.

use std::error::Error;
use std::path::PathBuf;

use object_store::path::Path;

use crate::base::error_class::ErrorClass;

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Clients of the compatible system match on this text.
    #[error("does not exist")]
    NotFound { key: String },
    #[error("cannot {operation} {key}")]
    Store {
        operation: &'static str,
        key: String,
        #[source]
        cause: object_store::Error,
    },
    #[error("read of {key} returned {read} bytes instead of {wanted}")]
    ShortRead { key: String, wanted: u64, read: u64 },
    #[error("{key} exists with another content")]
    AlreadyExists { key: String },
    /// Clients of the compatible system match on this text.
    #[error("version does not match")]
    VersionMismatch { key: String },
    /// Clients of the compatible system match on this text.
    #[error("version is not valid")]
    InvalidVersion { key: String },
    #[error("{key} has more than {max} upload parts of {part_size} bytes; set a larger part size")]
    TooManyParts { key: String, max: usize, part_size: usize },
    #[error("cannot open the local backend at {path}")]
    Open {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{}", .0.join("; "))]
    Config(Vec<String>),
    /// The start check: one line that says what to correct.
    #[error("{0}")]
    Check(String),
}

impl BackendError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Store { .. } | Self::ShortRead { .. } | Self::Check(_) => ErrorClass::Unavailable,
            Self::VersionMismatch { .. } | Self::InvalidVersion { .. } | Self::Config(_) => ErrorClass::Invalid,
            Self::AlreadyExists { .. } | Self::TooManyParts { .. } | Self::Open { .. } => ErrorClass::Internal,
        }
    }
}

pub(super) fn store_error(operation: &'static str, key: &Path, cause: object_store::Error) -> BackendError {
    match cause {
        object_store::Error::NotFound { .. } => BackendError::NotFound { key: key.to_string() },
        cause => BackendError::Store { operation, key: key.to_string(), cause },
    }
}

/// Returns the innermost cause: the layers above it repeat it with more words.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut deepest: &dyn Error = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    one_line(&deepest.to_string())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
