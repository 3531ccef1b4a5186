//! Values that vParquet3 stores as messages or JSON: arrays, everything of events and links (block-format §3.6).

use super::super::assemble::Assembler;
use super::super::decode::DecodeError;
use super::super::error::BlockReadError;
use super::super::projection::{AttrSelection, ValueKinds};
use super::super::schema::Column;
use super::scatter::Scatter;
use crate::model::any_value::{MAX_GROWTH, stored_value};
use crate::model::span_table::{Attrs, Value};
use crate::model::strings::StringPool;

impl Assembler<'_> {
    /// Decodes a leaf of encoded values, at most one an attribute, into `target`. Returns the number of attributes its levels spell; `None` when the
    /// file lacks the leaf. An empty text in an optional leaf says nothing: writers leave them beside values of other kinds.
    pub(super) fn scatter_encoded(
        &mut self,
        column: Column,
        attr_level: u8,
        max_definition: u8,
        kinds: ValueKinds,
        target: &mut Scatter,
    ) -> Result<Option<usize>, BlockReadError> {
        let Some(encoded) = self.decode_strings(column, true)? else { return Ok(None) };
        self.expect_room(column, encoded.strings().map(<[u8]>::len).sum())?;
        let is_optional = max_definition > attr_level;
        let mut codes = encoded.codes().iter();
        let (mut attributes, mut next, mut failure) = (0, 0, None);
        for word in self.levels.words() {
            let (mut starts, values) = (word.items(attr_level), word.values(max_definition));
            while starts != 0 {
                let bit = starts & starts.wrapping_neg();
                starts &= starts - 1;
                attributes += 1;
                let Some(stored) = (values & bit != 0).then(|| codes.next()).flatten().map(|&code| encoded.get(code)) else { continue };
                let Some(at) = target.position(attributes - 1, &mut next) else { continue };
                if stored.is_empty() && is_optional {
                    continue;
                }
                match stored_value(stored, &mut self.pool, &mut target.elements) {
                    Ok(value) if admits(kinds, &value, &target.elements) => match target.values.get_mut(at) {
                        Some(slot) => *slot = value,
                        None => failure = Some("number of attributes of a value column"),
                    },
                    Ok(_of_another_kind) => {}
                    Err(_) => failure = Some("attribute value"),
                }
            }
        }
        match failure {
            Some(what) => Err(self.error(column, DecodeError::Corrupt(what))),
            None => Ok(Some(attributes)),
        }
    }

    /// Checks that what `bytes` of encoded values decode to fits the string pool.
    pub(in crate::tempodb::block) fn expect_room(&self, column: Column, bytes: usize) -> Result<(), BlockReadError> {
        let decoded = bytes.saturating_mul(MAX_GROWTH).saturating_add(self.pool.byte_len());
        let fits = decoded <= u32::MAX as usize;
        if fits { Ok(()) } else { Err(self.error(column, DecodeError::TooLarge("string pool of a row group"))) }
    }
}

fn admits(kinds: ValueKinds, value: &Value, elements: &[Value]) -> bool {
    match value {
        Value::Str(_) => kinds.intersects(ValueKinds::STR),
        Value::Int(_) => kinds.intersects(ValueKinds::INT),
        Value::Double(_) => kinds.intersects(ValueKinds::DOUBLE),
        Value::Bool(_) => kinds.intersects(ValueKinds::BOOL),
        Value::Json(_) => kinds.intersects(ValueKinds::JSON),
        Value::Array { start, .. } if kinds != ValueKinds::ALL => {
            elements.get(*start as usize).is_some_and(|first| admits(kinds, first, &[]))
        }
        Value::Array { .. } => true,
    }
}

/// Keeps the attributes that `selection` asks for.
pub(in crate::tempodb::block) fn restricted(attrs: Attrs, selection: &AttrSelection, pool: &StringPool) -> Attrs {
    let keys = match selection {
        AttrSelection::All => return attrs,
        AttrSelection::None => return Attrs::default(),
        AttrSelection::Keys(keys) => keys,
    };
    let mut kept = Attrs::default();
    for owner in 0..attrs.of.len() {
        for (id, value) in attrs.of_owner(owner) {
            if keys.iter().any(|wanted| wanted.key == pool.get(id) && admits(wanted.kinds, &value, &attrs.elements)) {
                kept.push(id, value);
            }
        }
        kept.close_owner();
    }
    kept.elements = attrs.elements;
    kept
}
