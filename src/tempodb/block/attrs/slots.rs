//! The columns of single attributes, dedicated and fixed ones.

use super::super::assemble::Assembler;
use super::super::decode::DecodeError;
use super::super::decode::levels::Levels;
use super::super::decode::sink::Ints;
use super::super::dedicated::{DedicatedKind, DedicatedSlot};
use super::super::error::BlockReadError;
use super::super::schema::{Column, Level};
use super::scatter::ABSENT;
use crate::model::span_table::{Attrs, Offsets, Value};
use crate::model::strings::StrId;

/// Values of one dedicated column: at most one an owner, ascending.
pub(super) struct SlotValues {
    key: StrId,
    pub(super) owners: Vec<u32>,
    values: Vec<Value>,
}

impl Assembler<'_> {
    /// Decodes a dedicated column: no element is no attribute, one a scalar, more an array.
    pub(super) fn slot_values(
        &mut self,
        level: Level,
        slot: &DedicatedSlot,
        owners: usize,
        elements: &mut Vec<Value>,
    ) -> Result<SlotValues, BlockReadError> {
        let column = Column::of_slot(slot);
        let depth = level.depth();
        let mut found = SlotValues { key: StrId::EMPTY, owners: Vec::new(), values: Vec::new() };
        let owner_count = match slot.kind {
            DedicatedKind::String => {
                let Some(strings) = self.decode_strings(column, true)? else { return Ok(found) };
                let mut ids = strings.ids(strings.codes().len(), &mut self.pool).map_err(|cause| self.error(column, cause))?;
                let (codes, pool) = (strings.codes(), &mut self.pool);
                slot_entries(&self.levels, depth, elements, &mut found, |i| Some(Value::Str(ids.of(*codes.get(i)?, pool).ok()?)))
            }
            DedicatedKind::Int => {
                let mut ints = Ints::<i64>::new(self.int_width(column));
                self.decode_with_levels(column, &mut ints)?;
                slot_entries(&self.levels, depth, elements, &mut found, |i| ints.out.get(i).map(|&value| Value::Int(value)))
            }
        };
        let owner_count = owner_count.map_err(|cause| self.error(column, cause))?;
        self.expect(column, owner_count, owners)?;
        if !found.owners.is_empty() {
            found.key = self.pool.push(slot.name.as_bytes());
        }
        Ok(found)
    }
}

/// Collects the values of a dedicated column by owner. Returns the number of owners its levels spell.
fn slot_entries(
    levels: &Levels,
    depth: u8,
    elements: &mut Vec<Value>,
    found: &mut SlotValues,
    mut value_at: impl FnMut(usize) -> Option<Value>,
) -> Result<usize, DecodeError> {
    let (mut owners, mut value) = (0_usize, 0);
    for word in levels.words() {
        let (starts, values) = (word.items(depth), word.values(depth + 1));
        let mut bits = values;
        while bits != 0 {
            let bit = bits & bits.wrapping_neg();
            bits &= bits - 1;
            let element = value_at(value).ok_or(DecodeError::Corrupt("number of values of a dedicated column"))?;
            value += 1;
            if starts & bit != 0 {
                found.owners.push((owners + (starts & (bit - 1)).count_ones() as usize) as u32);
                found.values.push(element);
                continue;
            }
            match found.values.last_mut() {
                Some(Value::Array { len, .. }) => *len += 1,
                Some(scalar) => {
                    let start = elements.len() as u32;
                    elements.push(std::mem::replace(scalar, Value::Array { start, len: 2 }));
                }
                None => return Err(DecodeError::Corrupt("repetition levels")),
            }
            elements.push(element);
        }
        owners += starts.count_ones() as usize;
    }
    Ok(owners)
}

/// Puts the values of dedicated columns behind the generic attributes of their owners. What moves does so in place, from the end, as the lists of a
/// row group are large. `elements` are those of the arrays in `slots`.
pub(super) fn insert(attrs: &mut Attrs, slots: &[SlotValues], elements: &[Value]) {
    let first_element = attrs.elements.len() as u32;
    attrs.elements.extend_from_slice(elements);
    let old = std::mem::take(&mut attrs.of);
    let old = old.bounds();
    let bounds = with_slots(old, slots);
    let total = bounds.last().map_or(0, |end| *end as usize);
    attrs.keys.resize(total, StrId::EMPTY);
    attrs.values.resize(total, ABSENT);
    // By slot: how many of its values are still to be put.
    let mut left: Vec<usize> = slots.iter().map(|slot| slot.owners.len()).collect();
    for owner in (0..bounds.len() - 1).rev() {
        let mut at = bounds[owner + 1] as usize;
        for (slot, left) in slots.iter().zip(&mut left).rev() {
            if *left > 0 && slot.owners[*left - 1] == owner as u32 {
                *left -= 1;
                at -= 1;
                attrs.keys[at] = slot.key;
                attrs.values[at] = match slot.values[*left] {
                    Value::Array { start, len } => Value::Array { start: start + first_element, len },
                    scalar => scalar,
                };
            }
        }
        let (from, to) = (old[owner] as usize..old[owner + 1] as usize, bounds[owner] as usize);
        if from.start == to {
            break;
        }
        attrs.keys.copy_within(from.clone(), to);
        attrs.values.copy_within(from, to);
    }
    attrs.of = Offsets::from_bounds(bounds);
}

/// Returns the bounds of the owners' attributes with those of dedicated columns.
fn with_slots(bounds: &[u32], slots: &[SlotValues]) -> Vec<u32> {
    let mut counts = vec![0_u32; bounds.len()];
    for owner in slots.iter().flat_map(|slot| &slot.owners) {
        counts[*owner as usize + 1] += 1;
    }
    let mut extra = 0;
    for (count, bound) in counts.iter_mut().zip(bounds) {
        extra += *count;
        *count = bound + extra;
    }
    counts
}
