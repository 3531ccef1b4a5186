//! The storage engine: backends, blocks, block list. Usable without any role.

pub mod backend;
pub mod block;
pub mod config;
pub mod keys;
pub mod tenant_index;
pub mod db;
