//! The storage engine: backends, blocks, block list. Usable without any role.

pub mod block;
pub mod keys;
pub mod tenant_index;
