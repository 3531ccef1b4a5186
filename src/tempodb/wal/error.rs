//! Why an operation on the write-ahead log could not be done.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::cpu_pool::CpuPoolError;
use crate::base::directory_lock::LockFailure;
use crate::base::error_class::ErrorClass;
use crate::tempodb::backend::BackendError;
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::write::WriteError;

#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error("WAL directory {} is in use by another process{}", path.display(), holder.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked { path: PathBuf, holder: Option<String> },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot read WAL file {file}")]
    Read {
        file: String,
        #[source]
        cause: Box<BlockReadError>,
    },
    #[error("cannot write the block")]
    Write(#[source] Box<WriteError>),
    #[error("object storage")]
    Backend(#[from] BackendError),
    #[error("computation on WAL rows")]
    Cpu(#[from] CpuPoolError),
    #[error("the runtime is shutting down")]
    ShuttingDown,
    #[error("{0} is not a valid block: {1}")]
    InvalidBlock(String, String),
}

impl WalError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io { .. } | Self::Write(_) | Self::ShuttingDown => ErrorClass::Unavailable,
            Self::Read { cause, .. } => cause.class(),
            Self::Backend(cause) => cause.class(),
            Self::Locked { .. } | Self::Cpu(_) | Self::InvalidBlock(..) => ErrorClass::Internal,
        }
    }

    pub(super) fn read(file: String, cause: BlockReadError) -> Self {
        Self::Read { file, cause: Box::new(cause) }
    }

    pub(super) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), cause }
    }

    pub(super) fn lock(path: &Path, failure: LockFailure) -> Self {
        match failure {
            LockFailure::Held(holder) => Self::Locked { path: path.to_owned(), holder },
            LockFailure::Io(cause) => Self::io("lock", path, cause),
        }
    }
}

impl From<WriteError> for WalError {
    fn from(cause: WriteError) -> Self {
        Self::Write(Box::new(cause))
    }
}
