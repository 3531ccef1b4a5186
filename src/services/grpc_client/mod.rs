//! Settings of connections to other instances.

pub mod config;
