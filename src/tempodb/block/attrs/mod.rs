//! Attribute lists: the leaves of generic attributes and the columns of single attributes, to one [`Attrs`] (block-format §4.3, §4.4, §8).
//!
//! All leaves of a list spell the same structure. `Key` and `IsArray` have one value an attribute, so their levels are not needed; a value
//! leaf tells by its levels which attribute each value belongs to, and its first use also tells the owners of the attributes.
//!
//! Value leaves are decoded in the reverse order of precedence, each overwriting: the first one that is present wins. Which of them a file has
//! depends on its version; those of vParquet3 that hold encoded values (`encoded`) come out as the later versions store them.

mod encoded;
mod scatter;
mod slots;

use std::collections::HashMap;

use foldhash::fast::FixedState;

pub(super) use self::encoded::restricted;
use self::scatter::{ABSENT, Scatter, is_absent};
use self::slots::insert;
use super::assemble::Assembler;
use super::decode::DecodeError;
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

/// Value leaves in the order of decoding, with the kinds of value they may hold.
const VALUE_LEAVES: [(AttrPart, ValueKinds); 8] = [
    (AttrPart::ValueUnsupported, ValueKinds::JSON),
    (AttrPart::ValueKvList, ValueKinds::JSON),
    (AttrPart::ValueArray, ValueKinds::ALL),
    (AttrPart::ValueMessage, ValueKinds::ALL),
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
    columns.extend(wanted_slots(level, selection, file).map(Column::of_slot));
    columns
}

fn all_kinds(keys: &[AttrKey]) -> ValueKinds {
    keys.iter().map(|key| key.kinds).reduce(ValueKinds::union).unwrap_or(ValueKinds::ALL)
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
        Some(slot.scope) == scope && is_wanted && file.leaf(Column::of_slot(slot)).is_some()
    })
}

impl Assembler<'_> {
    /// Decodes the attributes of the `owners` items of `level`.
    pub(super) fn attrs(&mut self, level: Level, selection: &AttrSelection, owners: usize) -> Result<Attrs, BlockReadError> {
        let fetched = self.fetched;
        let (mut slots, mut elements) = (Vec::new(), Vec::new());
        for slot in wanted_slots(level, selection, &fetched.file) {
            let values = self.slot_values(level, slot, owners, &mut elements)?;
            if !values.owners.is_empty() {
                slots.push(values);
            }
        }
        let mut attrs = match selection {
            AttrSelection::None => return Ok(Attrs::default()),
            AttrSelection::All => self.all_generic(level, owners, slots.iter().map(|slot| slot.owners.len()).sum())?,
            AttrSelection::Keys(keys) => self.generic_with_keys(level, keys, owners)?,
        };
        if !slots.is_empty() {
            insert(&mut attrs, &slots, &elements);
        }
        Ok(attrs)
    }

    /// Decodes all generic attributes, with room for others.
    fn all_generic(&mut self, level: Level, owners: usize, room: usize) -> Result<Attrs, BlockReadError> {
        let key_column = Column::Attr(level, AttrPart::Key);
        let Some(keys) = self.decode_strings(key_column, false)? else { return Ok(without_attributes(owners)) };
        let count = keys.codes().len();
        if count == 0 {
            return Ok(without_attributes(owners));
        }
        let mut keys = keys.into_ids(&mut self.pool).map_err(|cause| self.error(key_column, cause))?;
        keys.reserve_exact(room);
        let is_array = self.array_flags(level, count)?;
        let mut values = Vec::with_capacity(count + room);
        values.resize(count, ABSENT);
        let mut target = Scatter { values, elements: Vec::new(), is_array, chosen: None };
        let of = self.scatter_leaves(level, ValueKinds::ALL, count, &mut target, |this, column, _| {
            let bounds = this.levels.bounds(level.depth()).map_err(|cause| this.error(column, cause))?;
            this.expect(column, bounds.len() - 1, owners)?;
            Ok(bounds)
        })?;
        self.fill_absent(&mut target);
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
        let (ordinals, key_at) = wanted_attributes(keys.codes(), &wanted_of);
        if ordinals.is_empty() {
            return Ok(without_attributes(owners));
        }
        let kinds = all_kinds(wanted);
        let is_array = self.array_flags(level, count)?;
        let values = vec![ABSENT; ordinals.len()];
        let mut target = Scatter { values, elements: Vec::new(), is_array, chosen: Some(ordinals) };
        let owner_of = self.scatter_leaves(level, kinds, count, &mut target, |this, column, target| {
            let ordinals = target.chosen.as_deref().unwrap_or_default();
            let (owner_of, found) = this.levels.owners_of(level.depth(), ordinals).map_err(|cause| this.error(column, cause))?;
            this.expect(column, found, owners)?;
            Ok(owner_of)
        })?;
        if kinds == ValueKinds::ALL {
            self.fill_absent(&mut target);
        }
        let ids: Vec<StrId> = wanted.iter().map(|key| self.pool.push(&key.key)).collect();
        let mut attrs = Attrs { elements: target.elements, ..Attrs::default() };
        let mut bounds = Vec::with_capacity(owners + 1);
        for ((value, key), owner) in target.values.into_iter().zip(key_at).zip(owner_of) {
            if !is_absent(&value) {
                bounds.resize(owner as usize + 1, attrs.keys.len() as u32);
                attrs.push(ids[key as usize], value);
            }
        }
        bounds.resize(owners + 1, attrs.keys.len() as u32);
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

    /// Decodes the value leaves of `kinds` into `target` and returns what `structure_of` makes of the levels of one of them.
    fn scatter_leaves<S>(
        &mut self,
        level: Level,
        kinds: ValueKinds,
        count: usize,
        target: &mut Scatter,
        structure_of: impl Fn(&Self, Column, &Scatter) -> Result<S, BlockReadError>,
    ) -> Result<S, BlockReadError> {
        let mut structure = None;
        for (part, _) in VALUE_LEAVES.into_iter().filter(|(_, kind)| kinds.intersects(*kind)) {
            let column = Column::Attr(level, part);
            let Some(leaf) = self.fetched.file.leaf(column) else { continue };
            let is_empty = self.fetched.file.is_all_null(self.fetched.group, leaf)?;
            if is_empty && (structure.is_some() || part != AttrPart::Value) {
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
                AttrPart::ValueKvList | AttrPart::ValueArray | AttrPart::ValueMessage => {
                    let Some(found) = self.scatter_encoded(column, attr_level, max, kinds, target)? else { continue };
                    expect_count(found, count).map_err(|cause| self.error(column, cause))?;
                }
                AttrPart::Key | AttrPart::IsArray => unreachable!("not a value leaf"),
            }
            if structure.is_none() {
                structure = Some(structure_of(self, column, target)?);
            }
        }
        match structure {
            Some(structure) => Ok(structure),
            // Every value leaf of interest is empty: the keys still tell.
            None => {
                let column = Column::Attr(level, AttrPart::Key);
                self.decode_with_levels(column, &mut super::decode::sink::Nothing::default())?;
                structure_of(self, column, target)
            }
        }
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
}

/// Returns the ordinals of the attributes whose key is wanted, by its code, and what `wanted_of` says of each.
fn wanted_attributes(codes: &[u32], wanted_of: &[u32]) -> (Vec<u32>, Vec<u32>) {
    /// Attributes looked at together. Kept ones are collected without a branch, which nobody could predict.
    const RUN: usize = 256;
    let (mut ordinals, mut wanted) = (Vec::new(), Vec::new());
    let (mut kept_ordinals, mut kept_wanted) = ([0; RUN], [0; RUN]);
    let mut ordinal = 0;
    for run in codes.chunks(RUN) {
        let mut kept = 0;
        for code in run {
            let at = wanted_of.get(*code as usize).copied().unwrap_or(u32::MAX);
            (kept_ordinals[kept % RUN], kept_wanted[kept % RUN]) = (ordinal, at);
            kept += usize::from(at != u32::MAX);
            ordinal += 1;
        }
        ordinals.extend_from_slice(&kept_ordinals[..kept]);
        wanted.extend_from_slice(&kept_wanted[..kept]);
    }
    (ordinals, wanted)
}

fn without_attributes(owners: usize) -> Attrs {
    Attrs { of: Offsets::from_bounds(vec![0; owners + 1]), ..Attrs::default() }
}

fn expect_count(found: usize, wanted: usize) -> Result<(), DecodeError> {
    if found == wanted { Ok(()) } else { Err(DecodeError::Corrupt("number of attributes of a value column")) }
}
