//! Answers the query API.

mod params;
mod request;
mod respond;
mod shared_span_ids;
mod span_filter;
mod tags_param;
mod tenancy;
