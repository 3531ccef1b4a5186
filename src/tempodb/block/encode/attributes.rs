//! Distributes the attributes of a level between dedicated columns and the general list (block-format §4.4).

use crate::model::span_table::{Attrs, Value};

use super::super::dedicated::{DedicatedKind, DedicatedScope, DedicatedSlot};
use super::levels::Structure;
use super::strings::Strings;

/// The attributes of one level, by where they are stored. Numbers are positions in [`Attrs::keys`].
pub(super) struct SplitAttrs<'a> {
    pub(super) attrs: &'a Attrs,
    /// Attributes of the general list, in order.
    pub(super) general: Vec<u32>,
    /// The entries of the general list's keys.
    pub(super) keys: Structure,
    /// By slot of the scope, in the order of the slots: owner and attribute, ascending by owner.
    dedicated: Vec<Vec<(u32, u32)>>,
    slots: Vec<(DedicatedKind, usize)>,
}

impl<'a> SplitAttrs<'a> {
    /// `scope` is `None` for levels that never have dedicated columns.
    pub(super) fn new(
        attrs: &'a Attrs,
        owners: &Structure,
        scope: Option<DedicatedScope>,
        slots: &[DedicatedSlot],
        strings: &Strings<'_>,
    ) -> Self {
        let slots: Vec<_> = slots.iter().filter(|slot| Some(slot.scope) == scope).collect();
        // 0 for keys without slot, else the slot's position plus one.
        let slot_of_key: Vec<u8> = strings.table_of(slots.iter().enumerate().map(|(at, slot)| (slot.name.as_str(), at as u8 + 1)));
        let kinds: Vec<_> = slots.iter().map(|slot| (slot.kind, slot.number)).collect();
        let mut general = Vec::with_capacity(attrs.keys.len());
        let mut general_counts = Vec::with_capacity(attrs.of.len());
        let mut dedicated: Vec<Vec<(u32, u32)>> = vec![Vec::new(); slots.len()];
        for owner in 0..attrs.of.len() {
            let before = general.len();
            for attr in attrs.of.range(owner) {
                let Some(slot) = (slot_of_key[attrs.keys[attr].index()] as usize).checked_sub(1) else {
                    general.push(attr as u32);
                    continue;
                };
                // One slot holds one attribute: a repeated key replaces it, or clears it when its type does not fit.
                dedicated[slot].pop_if(|(last_owner, _)| *last_owner == owner as u32);
                if accepts(kinds[slot].0, attrs, attr) {
                    dedicated[slot].push((owner as u32, attr as u32));
                } else {
                    general.push(attr as u32);
                }
            }
            general_counts.push((general.len() - before) as u32);
        }
        let keys = owners.repeated(|owner| general_counts[owner] as usize);
        Self { attrs, general, keys, dedicated, slots: kinds }
    }

    /// Returns (owner, attribute) of a slot, ascending by owner.
    pub(super) fn slot(&self, kind: DedicatedKind, number: u8) -> &[(u32, u32)] {
        let at = self.slots.iter().position(|slot| *slot == (kind, usize::from(number))).expect("the schema has only used slots");
        &self.dedicated[at]
    }

    /// Values of the general list.
    pub(super) fn general_values(&self) -> impl Iterator<Item = &'a Value> + '_ {
        self.general.iter().map(|&attr| &self.attrs.values[attr as usize])
    }
}

fn accepts(kind: DedicatedKind, attrs: &Attrs, attr: usize) -> bool {
    attrs.elements_of(&attrs.values[attr]).iter().all(|element| match kind {
        DedicatedKind::String => matches!(element, Value::Str(_)),
        DedicatedKind::Int => matches!(element, Value::Int(_)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::strings::{Interner, StrId};

    #[test]
    fn repeated_keys_and_wrong_types() {
        let mut interner = Interner::default();
        let (text, number, other) = (interner.intern(b"text"), interner.intern(b"number"), interner.intern(b"other"));
        let slot = |name: &str, kind| DedicatedSlot {
            scope: DedicatedScope::Span,
            kind,
            number: 1,
            name: name.to_owned(),
            is_blob: false,
            list_position: 0,
        };
        let slots = [slot("text", DedicatedKind::String), slot("number", DedicatedKind::Int)];
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
        let split = SplitAttrs::new(&attrs, &owners, Some(DedicatedScope::Span), &slots, &Strings::new(pool));
        assert_eq!(split.general, [1, 5, 7]);
        assert_eq!(split.slot(DedicatedKind::String, 1), [(0, 2), (2, 6)]);
        assert_eq!(split.slot(DedicatedKind::Int, 1), [(0, 3)]);
        assert_eq!(split.keys.def, [1, 1, 1]);

        let split = SplitAttrs::new(&attrs, &owners, None, &slots, &Strings::new(pool));
        assert_eq!(split.general.len(), attrs.keys.len());
    }
}
