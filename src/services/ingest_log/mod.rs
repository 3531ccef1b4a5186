//! The log between distributor and consumers: Kafka or the embedded log.

pub mod config;
