//! Makes the side objects of a block while its row groups are encoded.

use super::pruning::{self, BuiltGroup};
use super::survey::Survey;
use super::tags::TagsBuilder;
use super::{PRUNING_NAME, TAGS_NAME};
use crate::model::span_table::SpanTable;

/// Collects row groups in file order. Memory: the filters, about a byte a span, and bounded lists.
#[derive(Debug, Default)]
pub struct SideBuilder {
    groups: Vec<BuiltGroup>,
    tags: TagsBuilder,
}

impl SideBuilder {
    /// Adds a row group. CPU-bound: some 100 to 300 nanoseconds a span.
    pub fn add(&mut self, table: &SpanTable) {
        let survey = Survey::of(table);
        self.groups.push(BuiltGroup::new(table, &survey));
        self.tags.add(table, &survey);
    }

    /// Returns the names and contents of the objects, in the order in which to write them: who finds the last finds all.
    pub fn finish(self, data_bytes: u64) -> Vec<(&'static str, Vec<u8>)> {
        // An object that cannot be made is absent, which readers bear.
        let tags = self.tags.finish(data_bytes).ok().flatten().map(|object| (TAGS_NAME, object));
        let pruning = pruning::encode_object(self.groups, data_bytes).map(|object| (PRUNING_NAME, object));
        tags.into_iter().chain(pruning).collect()
    }
}
