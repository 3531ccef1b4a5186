//! What could have been in std. No knowledge of traces.

pub mod byte_budget;
pub mod backoff;
pub mod binary_fuse;
pub mod bitset;
pub mod clock;
pub mod cpu_pool;
pub mod directory_lock;
pub mod error_class;
pub mod duration;
pub mod size;
pub mod secret;
pub mod hostname;
pub mod config_block;
pub mod text_table;
pub mod tls;
pub mod expand_env;
pub mod yaml;
