//! The configuration: its tree, and how it is loaded from command line and file.

mod reserved;
pub mod server;
pub mod tree;

pub use tree::Config;
