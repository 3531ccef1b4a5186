//! What could have been in std. No knowledge of traces.

pub mod bitset;
pub mod clock;
pub mod error_class;
