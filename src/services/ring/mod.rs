//! Membership of instances and ownership of partitions.

pub mod config;
