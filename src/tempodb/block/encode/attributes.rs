//! Distributes the attributes of a level between dedicated columns and the general list (block-format §4.4).

use crate::model::span_table::{Attrs, Value};

use super::super::dedicated::{DedicatedKind, DedicatedScope, DedicatedSlot};
use super::super::meta::BlockVersion;
use super::super::schema::{BlockSchema, Column};
use super::levels::{Repetition, Structure};
use super::strings::Strings;

/// The attributes of one level, by where they are stored. Numbers are positions in [`Attrs::keys`].
pub(super) struct SplitAttrs<'a> {
    pub(super) attrs: &'a Attrs,
    /// Attributes of the general list, in order.
    pub(super) general: Vec<u32>,
    /// The entries of the general list's keys.
    pub(super) keys: Structure,
    /// By attribute of the general list.
    pub(super) kinds: Vec<ValueKind>,
    /// By entry of `keys`.
    entry_kinds: Vec<ValueKind>,
    /// The entry of each owner; `None`: that of the same number.
    owner_entries: Option<Vec<u32>>,
    /// By slot of the scope, in the order of the slots: owner and attribute, ascending by owner.
    dedicated: Vec<Vec<(u32, u32)>>,
    slots: Vec<Column>,
}

impl<'a> SplitAttrs<'a> {
    /// `scope` is `None` for levels that never have dedicated columns.
    pub(super) fn new(
        attrs: &'a Attrs,
        owners: &Structure,
        scope: Option<DedicatedScope>,
        schema: &BlockSchema,
        strings: &Strings<'_>,
    ) -> Self {
        let slots: Vec<&DedicatedSlot> = schema.slots().iter().filter(|slot| Some(slot.scope) == scope).collect();
        let rules = SlotRules::of(schema.version());
        // 0 for keys without slot, else the position plus one of the last slot with that name: fixed columns come before dedicated ones.
        let slot_of_key: Vec<u8> = strings.table_of(slots.iter().enumerate().map(|(at, slot)| (slot.name.as_str(), at as u8 + 1)));
        let previous_of_name = previous_of_name(&slots);
        let mut general = Vec::with_capacity(attrs.keys.len());
        let mut general_counts = Vec::with_capacity(attrs.of.len());
        let mut dedicated: Vec<Vec<(u32, u32)>> = vec![Vec::new(); slots.len()];
        for owner in 0..attrs.of.len() {
            let before = general.len();
            for attr in attrs.of.range(owner) {
                let Some(first) = (slot_of_key[attrs.keys[attr].index()] as usize).checked_sub(1) else {
                    general.push(attr as u32);
                    continue;
                };
                let mut of_name = std::iter::successors(Some(first), |&slot| previous_of_name[slot]);
                let taker = of_name.find(|&slot| rules.accepts(slots[slot].kind, attrs, attr));
                // One slot holds one attribute: a repeated key replaces it, or clears it when its type does not fit.
                if let Some(slot) = taker.or(rules.misfits_clear.then_some(first)) {
                    dedicated[slot].pop_if(|(last_owner, _)| *last_owner == owner as u32);
                }
                match taker {
                    Some(slot) => dedicated[slot].push((owner as u32, attr as u32)),
                    None => general.push(attr as u32),
                }
            }
            general_counts.push((general.len() - before) as u32);
        }
        let keys = owners.repeated(|owner| general_counts[owner] as usize);
        let kinds: Vec<_> = general.iter().map(|&attr| ValueKind::of(&attrs.values[attr as usize])).collect();
        let entry_kinds = match keys.item_entries() {
            None => kinds.clone(),
            Some(entries) => {
                let mut by_entry = vec![ValueKind::None; keys.def.len()];
                entries.iter().zip(&kinds).for_each(|(entry, kind)| by_entry[*entry as usize] = *kind);
                by_entry
            }
        };
        let owner_entries = if slots.is_empty() { None } else { owners.item_entries() };
        let slots = slots.into_iter().map(Column::of_slot).collect();
        Self { attrs, general, keys, kinds, entry_kinds, owner_entries, dedicated, slots }
    }

    /// Returns (owner, attribute) of a slot, ascending by owner; nothing for one that is not in use.
    pub(super) fn slot(&self, column: Column) -> &[(u32, u32)] {
        self.slots.iter().position(|slot| *slot == column).map_or(&[], |at| &self.dedicated[at])
    }

    /// Returns the entry of an owner.
    pub(super) fn entry_of(&self, owner: u32) -> usize {
        self.owner_entries.as_ref().map_or(owner, |entries| entries[owner as usize]) as usize
    }

    /// Returns levels and values of the general list's values of one kind, none of which is an array.
    pub(super) fn of_kind<T>(&self, kind: ValueKind, repetition: Repetition, pick: impl Fn(&Value) -> Option<T>) -> (Structure, Vec<T>) {
        let count = self.kinds.iter().map(|found| usize::from(*found == kind)).sum();
        if count == 0 {
            return (self.keys.nowhere(repetition), Vec::new());
        }
        let structure = self.keys.at_entries(&self.entry_kinds, repetition, |found| found == kind);
        let mut values = Vec::with_capacity(count);
        let found = self.general.iter().zip(&self.kinds).filter(|(_, found)| **found == kind);
        values.extend(found.filter_map(|(attr, _)| pick(&self.attrs.values[*attr as usize])));
        (structure, values)
    }

    /// Whether the general list has arrays.
    pub(super) fn has_arrays(&self) -> bool {
        self.kinds.contains(&ValueKind::Array)
    }
}

/// What an attribute's value is, in a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ValueKind {
    Str,
    Int,
    Double,
    Bool,
    Json,
    Array,
    /// An entry without attribute.
    None,
}

impl ValueKind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Str(_) => Self::Str,
            Value::Int(_) => Self::Int,
            Value::Double(_) => Self::Double,
            Value::Bool(_) => Self::Bool,
            Value::Json(_) => Self::Json,
            Value::Array { .. } => Self::Array,
        }
    }
}

/// Returns for each slot the one before it with the same name.
fn previous_of_name(slots: &[&DedicatedSlot]) -> Vec<Option<usize>> {
    let previous = |at: usize| slots[..at].iter().rposition(|slot| slot.name == slots[at].name);
    (0..slots.len()).map(previous).collect()
}

/// Which values the slots of a version take.
struct SlotRules {
    arrays: bool,
    /// Whether a value that does not fit takes the place of one that was there for the same key.
    misfits_clear: bool,
}

impl SlotRules {
    fn of(version: BlockVersion) -> Self {
        let is_repeated = version == BlockVersion::VParquet5;
        Self { arrays: is_repeated, misfits_clear: is_repeated }
    }

    fn accepts(&self, kind: DedicatedKind, attrs: &Attrs, attr: usize) -> bool {
        let value = &attrs.values[attr];
        let is_possible = self.arrays || !matches!(value, Value::Array { .. });
        is_possible
            && attrs.elements_of(value).iter().all(|element| match kind {
                DedicatedKind::String => matches!(element, Value::Str(_)),
                DedicatedKind::Int => matches!(element, Value::Int(_)),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::strings::{Interner, StrId};
    use crate::tempodb::block::dedicated::{DedicatedColumn, FixedColumn};

    #[test]
    fn repeated_keys_and_wrong_types() {
        let mut interner = Interner::default();
        let (text, number, other) = (interner.intern(b"text"), interner.intern(b"number"), interner.intern(b"other"));
        let columns = [("text", DedicatedKind::String), ("number", DedicatedKind::Int)];
        let columns = columns.map(|(name, kind)| DedicatedColumn::new(DedicatedScope::Span, name, kind));
        let schema = BlockSchema::new(BlockVersion::VParquet5, &columns);
        let mut attrs = Attrs::default();
        // Owner 0: the second text wins; an int array fits; a key without slot stays general.
        attrs.push(text, Value::Str(StrId::EMPTY));
        attrs.push(other, Value::Bool(true));
        attrs.push(text, Value::Str(text));
        let array = attrs.array([Value::Int(1), Value::Int(2)]);
        attrs.push(number, array);
        attrs.close_owner();
        // Owner 1: a wrong type goes to the general list and clears the slot.
        attrs.push(text, Value::Str(text));
        attrs.push(text, Value::Int(7));
        attrs.close_owner();
        // Owner 2: an empty array fits any slot; a mixed value does not.
        let empty = attrs.array([]);
        attrs.push(text, empty);
        attrs.push(number, Value::Str(text));
        attrs.close_owner();

        let owners = Structure::rows(3);
        let pool = interner.pool();
        let split = SplitAttrs::new(&attrs, &owners, Some(DedicatedScope::Span), &schema, &Strings::new(pool));
        assert_eq!(split.general, [1, 5, 7]);
        assert_eq!(split.slot(Column::Dedicated(DedicatedScope::Span, DedicatedKind::String, 1)), [(0, 2), (2, 6)]);
        assert_eq!(split.slot(Column::Dedicated(DedicatedScope::Span, DedicatedKind::Int, 1)), [(0, 3)]);
        assert_eq!(**split.keys.def, [1, 1, 1]);

        let split = SplitAttrs::new(&attrs, &owners, None, &schema, &Strings::new(pool));
        assert_eq!(split.general.len(), attrs.keys.len());
    }

    #[test]
    fn vparquet4_takes_scalars_and_prefers_fixed_columns() {
        let mut interner = Interner::default();
        let (code, route) = (interner.intern(b"http.status_code"), interner.intern(b"http.route"));
        let columns = ["http.status_code", "http.route"];
        let columns = columns.map(|name| DedicatedColumn::new(DedicatedScope::Span, name, DedicatedKind::String));
        let schema = BlockSchema::new(BlockVersion::VParquet4, &columns);
        let mut attrs = Attrs::default();
        // A number, a text and a truth under one key.
        attrs.push(code, Value::Int(200));
        attrs.push(code, Value::Str(route));
        attrs.push(code, Value::Bool(true));
        // The first text stays: neither an array nor a number takes its place.
        attrs.push(route, Value::Str(route));
        let array = attrs.array([Value::Str(route)]);
        attrs.push(route, array);
        attrs.push(route, Value::Int(1));
        attrs.close_owner();
        let split = SplitAttrs::new(&attrs, &Structure::rows(1), Some(DedicatedScope::Span), &schema, &Strings::new(interner.pool()));
        assert_eq!(split.general, [2, 4, 5]);
        assert_eq!(split.slot(Column::Fixed(FixedColumn::HttpStatusCode)), [(0, 0)]);
        assert_eq!(split.slot(Column::Dedicated(DedicatedScope::Span, DedicatedKind::String, 1)), [(0, 1)]);
        assert_eq!(split.slot(Column::Dedicated(DedicatedScope::Span, DedicatedKind::String, 2)), [(0, 3)]);
        assert_eq!(split.slot(Column::Dedicated(DedicatedScope::Span, DedicatedKind::String, 3)), []);
    }
}
