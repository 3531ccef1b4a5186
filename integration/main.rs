//! End-to-end tests, one binary; each module is a subject.

mod query_blocks;
mod tidy;
mod written_blocks;
