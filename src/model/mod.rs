//! What a span is: ids, attribute values, the OTLP wire view, the columnar [`span_table::SpanTable`]. No I/O.

pub mod ids;
pub mod otlp;
pub mod span_table;
pub mod strings;
pub mod wire;
