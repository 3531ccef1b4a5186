//! OTLP as bytes: a push request is walked on the wire, grouped by trace and spliced into records, without building an object per span.
//!
//! Not here: decoding OTLP into columns, which needs every field and is done by the consumers of the records.

pub mod attributes;
pub mod json;
pub mod regroup;
pub mod splice;

#[cfg(test)]
pub(crate) mod testing;
