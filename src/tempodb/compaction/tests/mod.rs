//! Jobs over real blocks in memory. `faults` stops them anywhere.

mod faults;
mod jobs;
mod support;
