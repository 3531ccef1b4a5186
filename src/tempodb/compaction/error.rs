//! Why a job failed, and which block is to blame.

use crate::base::cpu_pool::CpuPoolError;
use crate::base::error_class::ErrorClass;
use crate::tempodb::backend::BackendError;
use crate::tempodb::block::error::BlockReadError;
use crate::tempodb::block::meta::{BlockId, MetaError};
use crate::tempodb::block::write::WriteError;

use super::CompactionOutcome;

#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    #[error("a compaction needs at least one block")]
    NoInputs,
    /// The text that the compatible system has for an input that another job or retention has taken.
    #[error("does not exist")]
    Gone { block: BlockId },
    #[error("block {block} is held back from compaction by whoever wrote it")]
    Held { block: BlockId },
    #[error("cannot read the meta of block {block}")]
    Meta {
        block: BlockId,
        #[source]
        cause: BackendError,
    },
    #[error("meta of block {block} is corrupt")]
    CorruptMeta {
        block: BlockId,
        #[source]
        cause: MetaError,
    },
    #[error("cannot read block {block}")]
    Read {
        block: BlockId,
        #[source]
        cause: BlockReadError,
    },
    /// One trace alone needs more memory than the job may use.
    #[error("a trace of block {block} needs about {needed} bytes, the job has {limit}")]
    TraceTooLarge { block: BlockId, needed: u64, limit: u64 },
    #[error("cannot write the compacted block")]
    Write(#[from] WriteError),
    #[error("compacted block {block} fails its checks: {problem}")]
    BadOutput { block: BlockId, problem: String },
    /// The output is visible and complete, but these inputs still are, too: their spans show up twice until marking is repeated
    /// ([`super::Compactor::mark_compacted`]) or they are compacted again.
    #[error("unable to mark {} blocks compacted", unmarked.len())]
    Unmarked {
        unmarked: Vec<BlockId>,
        outcome: Box<CompactionOutcome>,
        #[source]
        cause: BackendError,
    },
    #[error("cannot search block {block} for traces to redact")]
    Filter {
        block: BlockId,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot merge on the CPU pool")]
    Cpu(#[from] CpuPoolError),
}

impl CompactionError {
    /// Returns the input that makes this job fail however often it is repeated, so that the scheduler can leave it out.
    pub fn corrupt_block(&self) -> Option<BlockId> {
        match self {
            Self::CorruptMeta { block, .. } | Self::TraceTooLarge { block, .. } => Some(*block),
            Self::Read { block, cause } => cause.is_corrupt().then_some(*block),
            Self::NoInputs
            | Self::Gone { .. }
            | Self::Held { .. }
            | Self::Meta { .. }
            | Self::Write(_)
            | Self::BadOutput { .. }
            | Self::Unmarked { .. }
            | Self::Filter { .. }
            | Self::Cpu(_) => None,
        }
    }

    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoInputs => ErrorClass::Invalid,
            Self::Gone { .. } => ErrorClass::NotFound,
            Self::Meta { cause, .. } | Self::Unmarked { cause, .. } => cause.class(),
            Self::Read { cause, .. } => cause.class(),
            Self::Held { .. } | Self::Write(_) => ErrorClass::Unavailable,
            Self::CorruptMeta { .. } | Self::TraceTooLarge { .. } | Self::BadOutput { .. } | Self::Filter { .. } | Self::Cpu(_) => {
                ErrorClass::Internal
            }
        }
    }
}
