//! One walk over a row group's table: which attribute keys and values there are, and how often.
//!
//! Works on interned ids, so that a string is looked at once however often it occurs. In a table that was decoded from a block equal strings may
//! have several ids; users of the survey must not mind.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{AttrScope, TextColumn};
use crate::model::span_table::{Attrs, SpanTable, Value};
use crate::model::strings::StrId;
use crate::tempodb::block::projection::ValueKinds;

/// Fractional numbers remembered per key; further ones only count as "more".
const MAX_FRACTIONS: u32 = 4_096;
const NOBODY: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Survey {
    /// By scope, in the order of [`AttrScope::ALL`].
    pub(super) scopes: [Vec<KeySurvey>; AttrScope::ALL.len()],
    /// By column, in the order of [`TextColumn::ALL`]: distinct strings, and how often each occurs.
    pub(super) columns: [Vec<(StrId, u32)>; TextColumn::ALL.len()],
}

/// An attribute key of one scope.
#[derive(Debug)]
pub(super) struct KeySurvey {
    pub(super) key: StrId,
    pub(super) kinds: ValueKinds,
    pub(super) strings: Vec<(StrId, u32)>,
    pub(super) numbers: Vec<(Number, u32)>,
    /// Whether there are fractional numbers that are not listed.
    pub(super) has_more_numbers: bool,
    fractions: u32,
}

/// A value that is no string; floats by their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Number {
    Bool(bool),
    Int(i64),
    Double(u64),
}

impl Survey {
    pub(super) fn of(table: &SpanTable) -> Self {
        let mut walk = Walk::new(table.strings.len());
        let scopes = AttrScope::ALL.map(|scope| walk.attributes(scope.attrs_of(table)));
        let columns = TextColumn::ALL.map(|column| walk.column(column.of(table)));
        Self { scopes, columns }
    }
}

/// Tables by string id, allocated once for all scopes; between walks they are in their first state.
struct Walk {
    /// The key (its position in the survey) under which a value was first seen, and how often it was seen under that key.
    values: Vec<(u32, u32)>,
    /// The values with an entry in `values`.
    seen: Vec<StrId>,
    /// The position of a key in the survey.
    position_of_key: Vec<u32>,
    /// Strings under further keys.
    others: HashMap<(u32, StrId), u32, FixedState>,
    numbers: HashMap<(u32, Number), u32, FixedState>,
}

impl Walk {
    fn new(strings: usize) -> Self {
        Self {
            values: vec![(NOBODY, 0); strings],
            seen: Vec::new(),
            position_of_key: vec![NOBODY; strings],
            others: HashMap::default(),
            numbers: HashMap::default(),
        }
    }

    fn attributes(&mut self, attrs: &Attrs) -> Vec<KeySurvey> {
        let mut keys = Vec::new();
        for (key, value) in attrs.keys.iter().zip(&attrs.values) {
            let position = self.position(*key, &mut keys);
            let survey = &mut keys[position as usize];
            match value {
                Value::Json(_) => survey.kinds = survey.kinds.union(ValueKinds::JSON),
                Value::Array { .. } => {
                    for element in attrs.elements_of(value) {
                        self.value(position, *element, survey);
                    }
                }
                scalar => self.value(position, *scalar, survey),
            }
        }
        self.hand_over(&mut keys);
        keys
    }

    fn position(&mut self, key: StrId, keys: &mut Vec<KeySurvey>) -> u32 {
        let position = &mut self.position_of_key[key.index()];
        if *position == NOBODY {
            *position = keys.len() as u32;
            keys.push(KeySurvey {
                key,
                kinds: ValueKinds::NONE,
                strings: Vec::new(),
                numbers: Vec::new(),
                has_more_numbers: false,
                fractions: 0,
            });
        }
        *position
    }

    fn value(&mut self, position: u32, value: Value, survey: &mut KeySurvey) {
        let (kind, number) = match value {
            Value::Str(id) => {
                survey.kinds = survey.kinds.union(ValueKinds::STR);
                return self.string(position, id);
            }
            Value::Int(number) => (ValueKinds::INT, Number::Int(number)),
            Value::Bool(is_true) => (ValueKinds::BOOL, Number::Bool(is_true)),
            Value::Double(number) => {
                if number.fract() != 0.0 {
                    if survey.fractions >= MAX_FRACTIONS {
                        survey.has_more_numbers = true;
                        return;
                    }
                    survey.fractions += 1;
                }
                (ValueKinds::DOUBLE, Number::Double(number.to_bits()))
            }
            Value::Json(_) => (ValueKinds::JSON, Number::Bool(false)),
            Value::Array { .. } => return,
        };
        survey.kinds = survey.kinds.union(kind);
        if kind != ValueKinds::JSON {
            *self.numbers.entry((position, number)).or_default() += 1;
        }
    }

    fn string(&mut self, position: u32, id: StrId) {
        let (owner, count) = &mut self.values[id.index()];
        if *owner == NOBODY {
            *owner = position;
            self.seen.push(id);
        }
        if *owner == position {
            *count += 1;
        } else {
            *self.others.entry((position, id)).or_default() += 1;
        }
    }

    /// Moves what was found to its keys, and cleans up.
    fn hand_over(&mut self, keys: &mut [KeySurvey]) {
        for id in self.seen.drain(..) {
            let (owner, count) = std::mem::replace(&mut self.values[id.index()], (NOBODY, 0));
            keys[owner as usize].strings.push((id, count));
        }
        for ((position, id), count) in self.others.drain() {
            keys[position as usize].strings.push((id, count));
        }
        for ((position, number), count) in self.numbers.drain() {
            keys[position as usize].numbers.push((number, count));
        }
        for key in keys {
            self.position_of_key[key.key.index()] = NOBODY;
        }
    }

    fn column(&mut self, values: &[StrId]) -> Vec<(StrId, u32)> {
        for id in values {
            let (_, count) = &mut self.values[id.index()];
            if *count == 0 {
                self.seen.push(*id);
            }
            *count += 1;
        }
        self.seen.drain(..).map(|id| (id, std::mem::take(&mut self.values[id.index()].1))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::testing::arb_span_table;

    proptest! {
        #[test]
        fn every_value_is_counted(table in arb_span_table(5)) {
            let survey = Survey::of(&table);
            for (scope, found) in AttrScope::ALL.into_iter().zip(&survey.scopes) {
                let attrs = scope.attrs_of(&table);
                let mut expected: BTreeMap<(StrId, StrId), u32> = BTreeMap::new();
                let mut numbers: BTreeMap<(StrId, Number), u32> = BTreeMap::new();
                for (key, value) in attrs.keys.iter().zip(&attrs.values) {
                    for element in attrs.elements_of(value) {
                        match element {
                            Value::Str(id) => *expected.entry((*key, *id)).or_default() += 1,
                            Value::Int(number) => *numbers.entry((*key, Number::Int(*number))).or_default() += 1,
                            Value::Double(number) => *numbers.entry((*key, Number::Double(number.to_bits()))).or_default() += 1,
                            Value::Bool(is_true) => *numbers.entry((*key, Number::Bool(*is_true))).or_default() += 1,
                            Value::Json(_) | Value::Array { .. } => {}
                        }
                    }
                }
                let strings = found.iter().flat_map(|key| key.strings.iter().map(move |(id, count)| ((key.key, *id), *count)));
                prop_assert_eq!(strings.collect::<BTreeMap<_, _>>(), expected);
                let found = found.iter().flat_map(|key| key.numbers.iter().map(move |(number, count)| ((key.key, *number), *count)));
                prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), numbers);
            }
            for (column, found) in TextColumn::ALL.into_iter().zip(&survey.columns) {
                let total: u32 = found.iter().map(|(_, count)| count).sum();
                prop_assert_eq!(total as usize, column.of(&table).len());
            }
        }
    }
}
