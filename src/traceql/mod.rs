//! The TraceQL language: text and spans in, results out. No I/O.
//!
//! The front end turns text into a checked [`ast::Query`]: [`parse`] accepts the grammar, [`validate`] applies the type rules. Both give the
//! error texts that clients of the compatible system know. What comes after (planning and evaluation) only sees the AST.
//!
//! Invariants
//! * No text makes the front end panic or overflow the stack: length and depth are capped ([`parser::MAX_QUERY_BYTES`], [`parser::MAX_DEPTH`]).
//! * A [`ast::Query`] prints ([`std::fmt::Display`]) as its canonical text, and parsing that text gives the same AST
//!   (except for `compare()` and the smallest integer, whose canonical texts cannot be written as queries).

pub mod ast;
pub mod types;
pub mod regex;
pub mod error;
mod lexer;
pub mod parser;
pub mod check;
pub mod print;
pub mod rewrite;
pub mod autocomplete;
pub mod complete;
pub mod order;
pub mod result;
pub mod tags;
pub mod engine;
pub mod metrics;
#[cfg(test)]
pub(crate) mod testing;

pub use check::validate;
pub use error::QueryError;
pub use parser::parse;

/// Parses and validates `text`.
///
/// # Errors
/// The first problem, with the text the compatible system gives.
pub fn compile(text: &str) -> Result<ast::Query, QueryError> {
    let query = parse(text)?;
    validate(&query)?;
    Ok(query)
}
