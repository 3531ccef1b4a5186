//! What could have been in std. No knowledge of traces.

pub mod backoff;
pub mod bitset;
pub mod clock;
pub mod config_block;
pub mod cpu_pool;
pub mod duration;
pub mod error_class;
pub mod expand_env;
pub mod hostname;
pub mod secret;
pub mod size;
pub mod tls;
pub mod yaml;
