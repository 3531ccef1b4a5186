//! What a span is: ids, attribute values, the OTLP wire view, the columnar [`span_table::SpanTable`]. No I/O.

pub mod any_value;
pub mod combine;
mod definition;
pub mod ids;
mod kept_rows;
pub mod link;
pub mod otlp;
pub mod otlp_table;
mod same_rows;
pub mod span_table;
pub mod strings;
pub mod trace_numbers;
pub mod wire;

#[cfg(test)]
pub(crate) mod testing;
