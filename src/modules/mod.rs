//! One folder per role. Two roles never name each other; they meet through the ports of [`crate::services::rpc`].

pub mod query_frontend;
