//! The configuration: its tree, and how it is loaded from command line and file.
//!
//! [`load`] does everything up to the point where modules are built: it reads flags and file, decodes strictly, carries 2.x keys over, computes
//! the warnings and checks what the chosen target needs. It opens no socket and writes no file. Not here: applying the log level, memory limit, …
//!
//! Invariants
//! * All problems of a file are reported at once, each with file, line and key.
//! * A key of 2.x never stops a start; it works, or one warning names its replacement.
//! * A key that is set and has no effect is named in a warning or in [`Loaded::notes`].

pub mod server;
pub mod tree;
pub mod targets;
pub mod warnings;
pub mod render;
mod reserved;
mod flags;
mod migrate;
mod validate;
mod not_built;
mod load;

pub use load::{ConfigProblem, Loaded, Mode, exit_code, load};
pub use tree::Config;
