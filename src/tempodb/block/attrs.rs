//! Attribute lists: seven leaves of generic attributes and the dedicated columns, to one [`Attrs`] (block-format §4.3, §4.4, §8).
//!
//! All leaves of a list spell the same structure. `Key` and `IsArray` have one value an attribute, so their levels are not needed; a value
//! leaf tells by its levels which attribute each value belongs to, and its first use also gives the owners' bounds.
//!
//! Value leaves are decoded in the reverse order of precedence, each overwriting: the first one that is present wins.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::assemble::Assembler;
use super::decode::DecodeError;
use super::decode::levels::{Levels, WORD};
use super::decode::sink::{Bools, Doubles, Ints};
use super::dedicated::{DedicatedKind, DedicatedScope, DedicatedSlot};
use super::error::BlockReadError;
use super::file::BlockFile;
use super::projection::{AttrKey, AttrSelection, ValueKinds};
use super::schema::{AttrPart, Column, Level};
use crate::model::span_table::{Attrs, Offsets, Value};
use crate::model::strings::StrId;

/// JSON of a value without content.
const NO_VALUE_JSON: &[u8] = b"{}";

/// A value that no leaf has given yet. No real array has this many elements.
const ABSENT: Value = Value::Array { start: u32::MAX, len: u32::MAX };

fn is_absent(value: &Value) -> bool {
    matches!(value, Value::Array { len: u32::MAX, .. })
}

/// Value leaves in the order of decoding, with their kinds.
const VALUE_LEAVES: [(AttrPart, ValueKinds); 5] = [
    (AttrPart::ValueUnsupported, ValueKinds::JSON),
    (AttrPart::ValueBool, ValueKinds::BOOL),
    (AttrPart::ValueDouble, ValueKinds::DOUBLE),
    (AttrPart::ValueInt, ValueKinds::INT),
    (AttrPart::Value, ValueKinds::STR),
];

/// Returns the leaves that decoding the attributes of a level needs.
pub(super) fn columns_of(level: Level, selection: &AttrSelection, file: &BlockFile) -> Vec<Column> {
    let kinds = match selection {
        AttrSelection::None => return Vec::new(),
        AttrSelection::Keys(keys) => all_kinds(keys),
        AttrSelection::All => ValueKinds::ALL,
    };
    let mut columns = vec![Column::Attr(level, AttrPart::Key), Column::Attr(level, AttrPart::IsArray)];
    columns.extend(VALUE_LEAVES.iter().filter(|(_, kind)| kinds.intersects(*kind)).map(|&(part, _)| Column::Attr(level, part)));
    columns.extend(wanted_slots(level, selection, file).map(slot_column));
    columns
}

fn all_kinds(keys: &[AttrKey]) -> ValueKinds {
    keys.iter().map(|key| key.kinds).reduce(ValueKinds::union).unwrap_or(ValueKinds::ALL)
}

pub(super) fn slot_column(slot: &DedicatedSlot) -> Column {
    Column::Dedicated(slot.scope, slot.kind, slot.number as u8)
}

pub(super) fn dedicated_scope(level: Level) -> Option<DedicatedScope> {
    match level {
        Level::Resource => Some(DedicatedScope::Resource),
        Level::Span => Some(DedicatedScope::Span),
        Level::Event => Some(DedicatedScope::Event),
        Level::Trace | Level::ServiceStats | Level::Scope | Level::Link => None,
    }
}

/// Dedicated columns of a level that hold wanted attributes, in list order.
fn wanted_slots<'a>(level: Level, selection: &'a AttrSelection, file: &'a BlockFile) -> impl Iterator<Item = &'a DedicatedSlot> {
    let scope = dedicated_scope(level);
    file.slots().iter().filter(move |slot| {
        let kind = match slot.kind {
            DedicatedKind::String => ValueKinds::STR,
            DedicatedKind::Int => ValueKinds::INT,
        };
        let is_wanted = match selection {
            AttrSelection::None => false,
            AttrSelection::Keys(keys) => keys.iter().any(|key| key.key == slot.name.as_bytes() && key.kinds.intersects(kind)),
            AttrSelection::All => true,
        };
        Some(slot.scope) == scope && is_wanted && file.leaf(slot_column(slot)).is_some()
    })
}

/// Values of one dedicated column: at most one an owner, ascending.
struct SlotValues {
    key: StrId,
    owners: Vec<u32>,
    values: Vec<Value>,
}

impl Assembler<'_> {
    /// Decodes the attributes of the `owners` items of `level`.
    pub(super) fn attrs(&mut self, level: Level, selection: &AttrSelection, owners: usize) -> Result<Attrs, BlockReadError> {
        let mut attrs = match selection {
            AttrSelection::None => return Ok(Attrs::default()),
            AttrSelection::All => self.all_generic(level, owners)?,
            AttrSelection::Keys(keys) => self.generic_with_keys(level, keys, owners)?,
        };
        let fetched = self.fetched;
        let mut slots = Vec::new();
        for slot in wanted_slots(level, selection, &fetched.file) {
            let values = self.slot_values(level, slot, owners, &mut attrs.elements)?;
            if !values.owners.is_empty() {
                slots.push(values);
            }
        }
        Ok(if slots.is_empty() { attrs } else { merge(attrs, &slots, owners) })
    }

    /// Decodes all generic attributes.
    fn all_generic(&mut self, level: Level, owners: usize) -> Result<Attrs, BlockReadError> {
        let key_column = Column::Attr(level, AttrPart::Key);
        let Some(keys) = self.decode_strings(key_column, false)? else { return Ok(without_attributes(owners)) };
        let count = keys.codes().len();
        if count == 0 {
            return Ok(without_attributes(owners));
        }
        let keys = keys.into_ids(&mut self.pool).map_err(|cause| self.error(key_column, cause))?;
        let is_array = self.array_flags(level, count)?;
        let mut target = Scatter { values: vec![ABSENT; count], elements: Vec::new(), is_array, chosen: None, filled: 0 };
        let of = self.scatter_leaves(level, ValueKinds::ALL, owners, count, &mut target)?;
        if target.filled != count {
            self.fill_absent(&mut target);
        }
        Ok(Attrs { of: Offsets::from_bounds(of), keys, values: target.values, elements: target.elements })
    }

    /// Decodes the generic attributes with one of `keys`.
    fn generic_with_keys(&mut self, level: Level, wanted: &[AttrKey], owners: usize) -> Result<Attrs, BlockReadError> {
        let Some(keys) = self.decode_strings(Column::Attr(level, AttrPart::Key), false)? else { return Ok(without_attributes(owners)) };
        let by_key: HashMap<&[u8], u32, FixedState> = wanted.iter().zip(0..).map(|(key, at)| (key.key.as_slice(), at)).collect();
        // By code: position in `wanted`.
        let wanted_of: Vec<u32> = keys.strings().map(|key| by_key.get(key).copied().unwrap_or(u32::MAX)).collect();
        if wanted_of.iter().all(|&at| at == u32::MAX) {
            return Ok(without_attributes(owners));
        }
        let count = keys.codes().len();
        let (mut ordinals, mut key_at) = (Vec::new(), Vec::new());
        for (ordinal, &code) in keys.codes().iter().enumerate() {
            if let Some(&at) = wanted_of.get(code as usize).filter(|&&at| at != u32::MAX) {
                ordinals.push(ordinal as u32);
                key_at.push(at);
            }
        }
        if ordinals.is_empty() {
            return Ok(without_attributes(owners));
        }
        let kinds = all_kinds(wanted);
        let is_array = self.array_flags(level, count)?;
        let values = vec![ABSENT; ordinals.len()];
        let mut target = Scatter { values, elements: Vec::new(), is_array, chosen: Some(ordinals), filled: 0 };
        let of = self.scatter_leaves(level, kinds, owners, count, &mut target)?;
        if kinds == ValueKinds::ALL {
            self.fill_absent(&mut target);
        }
        let ids: Vec<StrId> = wanted.iter().map(|key| self.pool.push(&key.key)).collect();
        let mut attrs = Attrs { elements: target.elements, ..Attrs::default() };
        let mut bounds = Vec::with_capacity(of.len());
        let mut next = 0;
        let ordinals = target.chosen.unwrap_or_default();
        for end in of {
            while next < ordinals.len() && ordinals[next] < end {
                if !is_absent(&target.values[next]) {
                    attrs.push(ids[key_at[next] as usize], target.values[next]);
                }
                next += 1;
            }
            bounds.push(attrs.keys.len() as u32);
        }
        attrs.of = Offsets::from_bounds(bounds);
        Ok(attrs)
    }

    /// `IsArray` of each attribute; empty when none is.
    fn array_flags(&mut self, level: Level, count: usize) -> Result<Vec<bool>, BlockReadError> {
        let column = Column::Attr(level, AttrPart::IsArray);
        let Some(leaf) = self.fetched.file.leaf(column) else { return Ok(Vec::new()) };
        if self.fetched.file.is_all_false(self.fetched.group, leaf)? {
            return Ok(Vec::new());
        }
        let mut flags = Bools::default();
        self.decode_values(column, &mut flags)?;
        self.expect(column, flags.out.len(), count)?;
        Ok(if flags.out.contains(&true) { flags.out } else { Vec::new() })
    }

    /// Decodes the value leaves of `kinds` into `target` and returns the owners' bounds.
    fn scatter_leaves(
        &mut self,
        level: Level,
        kinds: ValueKinds,
        owners: usize,
        count: usize,
        target: &mut Scatter,
    ) -> Result<Vec<u32>, BlockReadError> {
        let mut bounds = None;
        for (part, _) in VALUE_LEAVES.into_iter().filter(|(_, kind)| kinds.intersects(*kind)) {
            let column = Column::Attr(level, part);
            let Some(leaf) = self.fetched.file.leaf(column) else { continue };
            let is_empty = self.fetched.file.is_all_null(self.fetched.group, leaf)?;
            if is_empty && (bounds.is_some() || part != AttrPart::Value) {
                continue;
            }
            let max = leaf.max_definition;
            let attr_level = level.depth() + 1;
            match part {
                AttrPart::Value => {
                    let Some(strings) = self.decode_strings(column, true)? else { continue };
                    let expected = target.chosen.as_ref().map_or(strings.codes().len(), Vec::len);
                    let mut ids = strings.ids(expected, &mut self.pool).map_err(|cause| self.error(column, cause))?;
                    let (codes, pool) = (strings.codes(), &mut self.pool);
                    // Codes were checked when they were decoded.
                    let found = target.scatter(&self.levels, attr_level, max, |i| Some(Value::Str(ids.of(*codes.get(i)?, pool).ok()?)));
                    found.and_then(|found| expect_count(found, count)).map_err(|cause| self.error(column, cause))?;
                }
                AttrPart::ValueUnsupported => {
                    let Some(strings) = self.decode_strings(column, true)? else { continue };
                    let mut ids = strings.ids(strings.codes().len(), &mut self.pool).map_err(|cause| self.error(column, cause))?;
                    let (codes, pool) = (strings.codes(), &mut self.pool);
                    let found = target.scatter(&self.levels, attr_level, max, |i| Some(Value::Json(ids.of(*codes.get(i)?, pool).ok()?)));
                    found.and_then(|found| expect_count(found, count)).map_err(|cause| self.error(column, cause))?;
                }
                AttrPart::ValueInt => {
                    let mut ints = Ints::<i64>::new(self.int_width(column));
                    self.decode_with_levels(column, &mut ints)?;
                    let found = target.scatter(&self.levels, attr_level, max, |i| ints.out.get(i).map(|&value| Value::Int(value)));
                    found.and_then(|found| expect_count(found, count)).map_err(|cause| self.error(column, cause))?;
                }
                AttrPart::ValueDouble => {
                    let mut doubles = Doubles::default();
                    self.decode_with_levels(column, &mut doubles)?;
                    let found = target.scatter(&self.levels, attr_level, max, |i| doubles.out.get(i).map(|&value| Value::Double(value)));
                    found.and_then(|found| expect_count(found, count)).map_err(|cause| self.error(column, cause))?;
                }
                AttrPart::ValueBool => {
                    let mut bools = Bools::default();
                    self.decode_with_levels(column, &mut bools)?;
                    let found = target.scatter(&self.levels, attr_level, max, |i| bools.out.get(i).map(|&value| Value::Bool(value)));
                    found.and_then(|found| expect_count(found, count)).map_err(|cause| self.error(column, cause))?;
                }
                AttrPart::Key | AttrPart::IsArray => unreachable!("not a value leaf"),
            }
            if bounds.is_none() {
                bounds = Some(self.bounds_of(column, level, owners)?);
            }
        }
        match bounds {
            Some(bounds) => Ok(bounds),
            // Every value leaf of interest is empty: the keys still tell.
            None => {
                let column = Column::Attr(level, AttrPart::Key);
                self.decode_with_levels(column, &mut super::decode::sink::Nothing::default())?;
                self.bounds_of(column, level, owners)
            }
        }
    }

    fn bounds_of(&self, column: Column, level: Level, owners: usize) -> Result<Vec<u32>, BlockReadError> {
        let bounds = self.levels.bounds(level.depth()).map_err(|cause| self.error(column, cause))?;
        self.expect(column, bounds.len() - 1, owners)?;
        Ok(bounds)
    }

    /// Gives attributes that no leaf has a value for what they stand for: an empty array, or a value without content.
    fn fill_absent(&mut self, target: &mut Scatter) {
        let mut no_value = None;
        for at in 0..target.values.len() {
            if !is_absent(&target.values[at]) {
                continue;
            }
            let ordinal = target.chosen.as_ref().map_or(at, |chosen| chosen[at] as usize);
            target.values[at] = if target.is_array.get(ordinal).copied().unwrap_or(false) {
                Value::Array { start: target.elements.len() as u32, len: 0 }
            } else {
                Value::Json(*no_value.get_or_insert_with(|| self.pool.push(NO_VALUE_JSON)))
            };
        }
    }

    /// Decodes a dedicated column: no element is no attribute, one a scalar, more an array.
    fn slot_values(
        &mut self,
        level: Level,
        slot: &DedicatedSlot,
        owners: usize,
        elements: &mut Vec<Value>,
    ) -> Result<SlotValues, BlockReadError> {
        let column = slot_column(slot);
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

fn without_attributes(owners: usize) -> Attrs {
    Attrs { of: Offsets::from_bounds(vec![0; owners + 1]), ..Attrs::default() }
}

fn expect_count(found: usize, wanted: usize) -> Result<(), DecodeError> {
    if found == wanted { Ok(()) } else { Err(DecodeError::Corrupt("number of attributes of a value column")) }
}

/// Where the values of an attribute list go.
struct Scatter {
    /// By attribute, or by chosen attribute.
    values: Vec<Value>,
    elements: Vec<Value>,
    /// By attribute; empty when none is an array.
    is_array: Vec<bool>,
    /// Ordinals of the wanted attributes, ascending; `None`: all are.
    chosen: Option<Vec<u32>>,
    /// Values given, overwritten ones counted again.
    filled: usize,
}

impl Scatter {
    /// Puts the values of a leaf, given by their number, where they belong. Returns the number of attributes its levels spell.
    fn scatter(
        &mut self,
        levels: &Levels,
        attr_level: u8,
        max_definition: u8,
        mut value_at: impl FnMut(usize) -> Option<Value>,
    ) -> Result<usize, DecodeError> {
        let error = DecodeError::Corrupt("number of values of an attribute column");
        let (mut attributes, mut value, mut next) = (0, 0, 0);
        // The array that the values before the current word belong to, if it may go on.
        let mut open = None;
        for word in levels.words() {
            let (starts, values) = (word.items(attr_level), word.values(max_definition));
            let in_word = starts.count_ones() as usize;
            if self.values.len() < attributes + in_word && self.chosen.is_none() {
                return Err(error);
            }
            let has_arrays = !self.is_array.is_empty()
                && (open.is_some() || self.is_array.iter().skip(attributes).take(in_word).any(|&is_array| is_array));
            match &self.chosen {
                None if !has_arrays && starts == u64::MAX => {
                    let slots = &mut self.values[attributes..attributes + WORD];
                    let mut bits = values;
                    while bits != 0 {
                        slots[bits.trailing_zeros() as usize] = value_at(value).ok_or(error)?;
                        value += 1;
                        bits &= bits - 1;
                    }
                    self.filled += values.count_ones() as usize;
                }
                None if !has_arrays => {
                    // A further element of what is no array does not count, but its value is to be skipped.
                    let mut bits = values;
                    while bits != 0 {
                        let bit = bits & bits.wrapping_neg();
                        if starts & bit != 0 {
                            self.values[attributes + (starts & (bit - 1)).count_ones() as usize] = value_at(value).ok_or(error)?;
                            self.filled += 1;
                        }
                        value += 1;
                        bits &= bits - 1;
                    }
                }
                Some(chosen) if !has_arrays => {
                    while let Some(&ordinal) = chosen.get(next).filter(|&&ordinal| (ordinal as usize) < attributes + in_word) {
                        let bit = 1_u64 << nth_one(starts, ordinal as usize - attributes);
                        if values & bit != 0 {
                            let number = value + (values & (bit - 1)).count_ones() as usize;
                            self.values[next] = value_at(number).ok_or(error)?;
                            self.filled += 1;
                        }
                        next += 1;
                    }
                    value += values.count_ones() as usize;
                }
                Some(_) | None => {
                    let mut ordinal = attributes;
                    let mut bits = starts | values;
                    while bits != 0 {
                        let bit = bits & bits.wrapping_neg();
                        bits &= bits - 1;
                        if starts & bit != 0 {
                            open = None;
                            ordinal += 1;
                        }
                        if values & bit == 0 {
                            continue;
                        }
                        let at = if starts & bit != 0 { self.position(ordinal - 1, &mut next) } else { open };
                        if let Some(at) = at {
                            let first = starts & bit != 0;
                            let element = value_at(value).ok_or(error)?;
                            open = self.put(at, ordinal.saturating_sub(1), first, element);
                        }
                        value += 1;
                    }
                    let chosen = self.chosen.as_deref().unwrap_or_default();
                    while chosen.get(next).is_some_and(|&ordinal| (ordinal as usize) < attributes + in_word) {
                        next += 1;
                    }
                }
            }
            attributes += in_word;
        }
        Ok(attributes)
    }

    /// Returns where the value of attribute `ordinal` goes, if it is wanted. `next` is a cursor into the chosen ones.
    fn position(&self, ordinal: usize, next: &mut usize) -> Option<usize> {
        let Some(chosen) = &self.chosen else { return Some(ordinal) };
        while chosen.get(*next).is_some_and(|&candidate| (candidate as usize) < ordinal) {
            *next += 1;
        }
        (chosen.get(*next) == Some(&(ordinal as u32))).then_some(*next)
    }

    /// Stores the first or a further element of an attribute. Returns `at` if more elements may follow.
    fn put(&mut self, at: usize, ordinal: usize, is_first: bool, element: Value) -> Option<usize> {
        if !self.is_array.get(ordinal).copied().unwrap_or(false) {
            if is_first {
                self.values[at] = element;
                self.filled += 1;
            }
            return None;
        }
        if is_first {
            self.values[at] = Value::Array { start: self.elements.len() as u32, len: 0 };
            self.filled += 1;
        }
        if let Value::Array { len, .. } = &mut self.values[at] {
            self.elements.push(element);
            *len += 1;
        }
        Some(at)
    }
}

/// Position of the `n`-th set bit, which exists.
fn nth_one(mut bits: u64, n: usize) -> u32 {
    if bits == u64::MAX {
        return n as u32;
    }
    for _ in 0..n {
        bits &= bits - 1;
    }
    bits.trailing_zeros().min(WORD as u32 - 1)
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
fn merge(generic: Attrs, slots: &[SlotValues], owners: usize) -> Attrs {
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
