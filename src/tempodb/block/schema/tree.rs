//! The schema elements of a list of leaves: groups from their dotted paths.

use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Repetition};
use parquet::schema::types::{Type, TypePtr};

use super::Leaf;

/// Name of the root schema element.
const ROOT_NAME: &str = "Trace";

/// Groups that repeat in vParquet5.
const REPEATED_GROUPS: [&str; 7] = ["ServiceStats", "rs", "ss", "Spans", "Attrs", "Events", "Links"];
/// The repeated group inside a LIST, and inside a MAP.
const LIST_ENTRIES: &str = "list";
const MAP_ENTRIES: &str = "key_value";

/// Returns the root element.
pub(super) fn root_of(leaves: &[Leaf]) -> TypePtr {
    Arc::new(Type::group_type_builder(ROOT_NAME).with_fields(fields_of(leaves, 0)).build().expect("the groups have names and fields"))
}

/// Builds the schema elements of `leaves`, whose paths agree in the first `depth` segments. Leaves of one group stand together.
fn fields_of(leaves: &[Leaf], depth: usize) -> Vec<TypePtr> {
    let mut fields = Vec::new();
    for group in leaves.chunk_by(|a, b| segment(a, depth) == segment(b, depth)) {
        let name = segment(&group[0], depth).expect("groups end above their leaves");
        let field = match segment(&group[0], depth + 1) {
            None => primitive(&group[0], name),
            Some(child) => group_of(name, child, fields_of(group, depth + 1)),
        };
        fields.push(Arc::new(field));
    }
    fields
}

fn segment(leaf: &Leaf, depth: usize) -> Option<&str> {
    leaf.path.split('.').nth(depth)
}

/// All groups that are neither lists nor their entries are required and add no level.
fn group_of(name: &str, child: &str, fields: Vec<TypePtr>) -> Type {
    let (repetition, converted, logical) = match (name, child) {
        (LIST_ENTRIES | MAP_ENTRIES, _) => (Repetition::REPEATED, ConvertedType::NONE, None),
        (_, LIST_ENTRIES) => (Repetition::REQUIRED, ConvertedType::LIST, Some(LogicalType::List)),
        (_, MAP_ENTRIES) => (Repetition::REQUIRED, ConvertedType::MAP, Some(LogicalType::Map)),
        _ if REPEATED_GROUPS.contains(&name) => (Repetition::REPEATED, ConvertedType::NONE, None),
        _ => (Repetition::REQUIRED, ConvertedType::NONE, None),
    };
    Type::group_type_builder(name)
        .with_repetition(repetition)
        .with_converted_type(converted)
        .with_logical_type(logical)
        .with_fields(fields)
        .build()
        .expect("the groups have names and fields")
}

fn primitive(leaf: &Leaf, name: &str) -> Type {
    let (converted, logical) = leaf.value.logical();
    Type::primitive_type_builder(name, leaf.value.physical())
        .with_repetition(leaf.repetition.parquet())
        .with_converted_type(converted)
        .with_logical_type(logical)
        .build()
        .expect("type and annotation fit")
}
