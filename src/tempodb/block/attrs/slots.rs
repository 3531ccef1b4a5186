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

/// Puts the values of dedicated columns behind the generic attributes of their owners.
pub(super) fn merge(generic: Attrs, slots: &[SlotValues], owners: usize) -> Attrs {
    let bounds = generic.of.bounds();
    // Ends of the owners' new runs, counted up from the dedicated values; shifted by one, so that filling makes them starts again.
    let mut ends = vec![0_u32; owners + 1];
    for slot in slots {
        for &owner in &slot.owners {
            ends[owner as usize + 1] += 1;
        }
    }
    let mut extra = 0;
    for (end, bound) in ends.iter_mut().zip(bounds) {
        extra += *end;
        *end = extra + bound;
    }
    let total = ends[owners] as usize;
    let mut merged = Attrs { elements: generic.elements, keys: vec![StrId::EMPTY; total], values: vec![ABSENT; total], ..Attrs::default() };
    let mut cursors: Vec<u32> = Vec::with_capacity(owners);
    for owner in 0..owners {
        let (from, to) = (bounds[owner] as usize, bounds[owner + 1] as usize);
        let start = ends[owner] as usize;
        let end = start + (to - from);
        merged.keys[start..end].copy_from_slice(&generic.keys[from..to]);
        merged.values[start..end].copy_from_slice(&generic.values[from..to]);
        cursors.push(end as u32);
    }
    for slot in slots {
        for (&owner, &value) in slot.owners.iter().zip(&slot.values) {
            let at = cursors[owner as usize] as usize;
            cursors[owner as usize] += 1;
            merged.keys[at] = slot.key;
            merged.values[at] = value;
        }
    }
    merged.of = Offsets::from_bounds(ends);
    merged
}
