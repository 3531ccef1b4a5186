//! Why an operation on the ingest log could not be done.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Offset, PartitionId};
use crate::base::error_class::ErrorClass;

/// An error of the ingest log. Cloneable, because one failed write answers a whole group of appends.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    #[error("ingest log directory {} is in use by another process{}", path.display(), holder.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked { path: PathBuf, holder: Option<String> },
    #[error("ingest log {} has {stored} partitions and is not empty: `partitions` cannot become {wanted}", path.display())]
    PartitionsChanged { path: PathBuf, stored: u32, wanted: u32 },
    #[error("ingest log option {option}: {problem}")]
    InvalidOption { option: &'static str, problem: &'static str },
    #[error("partition {partition} does not exist")]
    UnknownPartition { partition: PartitionId },
    #[error("offset {offset} of partition {partition} is outside {start}..{end}")]
    OffsetOutOfRange { partition: PartitionId, offset: Offset, start: Offset, end: Offset },
    #[error("record of {bytes} bytes exceeds the maximum of {limit}")]
    RecordTooLarge { bytes: usize, limit: usize },
    #[error("ingest log is full: consumers have not committed the oldest of its {limit} bytes")]
    Full { limit: u64 },
    #[error("no space left on device for {}", path.display())]
    DiskFull {
        path: PathBuf,
        #[source]
        cause: Arc<io::Error>,
    },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: Arc<io::Error>,
    },
    #[error("{} is damaged: {problem}", path.display())]
    Corrupt { path: PathBuf, problem: String },
    #[error("ingest log is closed")]
    Closed,
}

impl LogError {
    /// The single place where this error meets status codes and retry advice.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::RecordTooLarge { .. } | Self::UnknownPartition { .. } | Self::OffsetOutOfRange { .. } | Self::InvalidOption { .. } => {
                ErrorClass::Invalid
            }
            Self::Full { .. } | Self::DiskFull { .. } | Self::Io { .. } | Self::Closed => ErrorClass::Unavailable,
            Self::Locked { .. } | Self::PartitionsChanged { .. } | Self::Corrupt { .. } => ErrorClass::Internal,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.class().is_retryable()
    }

    /// The `reason` label under which failures are counted.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::RecordTooLarge { .. } => "record_too_large",
            Self::Full { .. } => "log_full",
            Self::DiskFull { .. } => "disk_full",
            Self::Io { .. } => "io",
            Self::Closed => "closed",
            Self::Locked { .. }
            | Self::PartitionsChanged { .. }
            | Self::InvalidOption { .. }
            | Self::UnknownPartition { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::Corrupt { .. } => "other",
        }
    }

    pub(super) fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    /// Wraps an I/O error; a full disk or quota becomes [`LogError::DiskFull`].
    pub(super) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, cause: Arc::new(cause) },
            _ => Self::Io { action, path, cause: Arc::new(cause) },
        }
    }
}
