//! Answers the query API.

pub mod config;
pub mod limits;
mod metrics;
mod params;
mod request;
mod respond;
mod shared_span_ids;
mod span_filter;
mod tags_param;
mod tenancy;
