//! Why the live-store cannot go on.

use crate::base::cpu_pool::CpuPoolError;
use crate::services::ingest_log::LogError;
use crate::tempodb::wal::error::WalError;

#[derive(Debug, thiserror::Error)]
pub enum LiveStoreError {
    #[error("ingest log")]
    Log(#[from] LogError),
    #[error("live_store.wal")]
    Wal(#[from] WalError),
    #[error("computation on live traces")]
    Cpu(#[from] CpuPoolError),
    #[error("a task of the live-store panicked")]
    Panicked(#[from] tokio::task::JoinError),
}
