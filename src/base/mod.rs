//! What could have been in std. No knowledge of traces.

pub mod clock;
pub mod cpu_pool;
pub mod error_class;
