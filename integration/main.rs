//! End-to-end tests: the real binary as a child process, real clients, real files. One module per subject.
//!
//! Shared pieces: [`process`] starts and kills the binary, [`client`] talks to it, [`otlp`] builds traces and brings answers into one
//! comparable form, [`parts`] runs programs from outside, [`stores`] object stores, [`faults`] disturbs what goes to them, [`wait`] waits
//! for conditions.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests fail by panicking and print what helps")]

mod client;
mod otlp;
mod parts;
mod process;
mod stores;
mod faults;
mod wait;

mod backend_faults;
mod backends;
mod caches;
mod cli;
mod compaction;
mod corrupt_blocks;
mod crashes;
mod disk_full;
mod exclusive;
mod foreign_blocks;
mod hostile_input;
mod limits;
mod metrics_queries;
mod operations;
mod outside_clients;
mod own_blocks;
mod push_and_find;
mod query_blocks;
mod start_errors;
mod takeover;
mod tenancy;
mod tidy;
mod trace_filter;
mod written_blocks;
