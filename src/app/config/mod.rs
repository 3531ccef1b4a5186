//! The configuration: its tree, and how it is loaded from command line and file.

pub mod server;
pub mod tree;
mod reserved;

pub use tree::Config;
