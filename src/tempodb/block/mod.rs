//! One block: an immutable run of traces, sorted by trace id, as a few objects under `<tenant>/<block id>/` (block-format).
//!
//! | object | file |
//! |--|--|
//! | `meta.json` | [`meta`] |
//! | `data.parquet` | [`schema`] says which columns; [`encode`] makes a row group; [`write`] the file |
//! | `bloom-N` | [`bloom`] |
//! | `index` | [`index`] |
//! | `tempo-rs.*` | [`side`]: our own, which other readers ignore |
//!
//! Invariants
//! * `meta.json` is written last: a block without it does not exist for anybody.
//! * The columns of `data.parquet` are exactly those of [`schema::BlockSchema`], in that order: other readers address them by position.

mod assemble;
mod attrs;
mod decode;
mod derive;
pub mod dictionary_cache;
pub mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::tempodb) mod fuzz;
mod objects;
pub mod projection;
pub mod prune;
pub mod candidates;
pub mod read;
#[cfg(test)]
mod read_tests;
pub mod scan;
pub mod selection;
pub mod text_test;

pub mod bloom;
pub mod dedicated;
pub mod encode;
pub mod estimate;
pub mod index;
pub mod meta;
pub mod schema;
pub mod side;
pub mod validate;
pub mod write;
