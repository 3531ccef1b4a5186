//! One folder per role. Two roles never name each other; they meet through the ports of [`crate::services::rpc`].

pub mod distributor;
pub mod ingester;
pub mod block_builder;
pub mod live_store;
pub mod metrics_generator;
pub mod query_frontend;
pub mod querier;
pub mod backend_scheduler;
pub mod backend_worker;
pub mod compactor;
