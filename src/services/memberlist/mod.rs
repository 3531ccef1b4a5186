//! Gossip between instances.

pub mod config;
