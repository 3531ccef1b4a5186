//! The values of a leaf to the attributes they belong to.

use super::super::decode::DecodeError;
use super::super::decode::levels::{Levels, WORD, nth_one};
use crate::model::span_table::Value;

/// A value that no leaf has given yet. No real array has this many elements.
pub(super) const ABSENT: Value = Value::Array { start: u32::MAX, len: u32::MAX };

pub(super) fn is_absent(value: &Value) -> bool {
    matches!(value, Value::Array { len: u32::MAX, .. })
}

/// Where the values of an attribute list go.
pub(super) struct Scatter {
    /// By attribute, or by chosen attribute.
    pub(super) values: Vec<Value>,
    pub(super) elements: Vec<Value>,
    /// By attribute; empty when none is an array.
    pub(super) is_array: Vec<bool>,
    /// Ordinals of the wanted attributes, ascending; `None`: all are.
    pub(super) chosen: Option<Vec<u32>>,
}

impl Scatter {
    /// Puts the values of a leaf, given by their number, where they belong. Returns the number of attributes its levels spell.
    pub(super) fn scatter(
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
                }
                None if !has_arrays => {
                    // A further element of what is no array does not count, but its value is to be skipped.
                    let mut bits = values;
                    while bits != 0 {
                        let bit = bits & bits.wrapping_neg();
                        if starts & bit != 0 {
                            self.values[attributes + (starts & (bit - 1)).count_ones() as usize] = value_at(value).ok_or(error)?;
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
    pub(super) fn position(&self, ordinal: usize, next: &mut usize) -> Option<usize> {
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
            }
            return None;
        }
        if is_first {
            self.values[at] = Value::Array { start: self.elements.len() as u32, len: 0 };
        }
        if let Value::Array { len, .. } = &mut self.values[at] {
            self.elements.push(element);
            *len += 1;
        }
        Some(at)
    }
}
