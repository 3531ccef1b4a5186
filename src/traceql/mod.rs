//! The TraceQL language: text and spans in, results out. No I/O.
