//! Ports: the only way from one role to another. One file per port holds its trait, its types and its error.
//!
//! Beside the ports: the generated messages ([`proto`]), the status table ([`status`]) and the outgoing forms of traces and answers
//! ([`message`], [`trace_output`]).

pub mod any_value;
pub mod backend_scheduler;
pub mod block_list;
pub mod message;
pub mod metrics_query;
pub mod querier;
pub mod search;
pub mod snappy_requests;
pub mod span_reader;
pub mod status;
pub mod trace_output;
