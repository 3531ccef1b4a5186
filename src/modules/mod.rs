//! One folder per role. Two roles never name each other; they meet through the ports of [`crate::services::rpc`].

pub mod backend_scheduler;
pub mod backend_worker;
pub mod block_builder;
pub mod compactor;
pub mod distributor;
pub mod ingester;
pub mod live_store;
pub mod metrics_generator;
pub mod querier;
pub mod query_frontend;
