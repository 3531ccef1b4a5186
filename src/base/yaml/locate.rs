//! Finds the line of a node by walking the text once more.
//!
//! The YAML parser adds the position to any error raised while it hands out a node. So we walk down the path and raise an error on arrival.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::node::{Key, Path, Step};

/// Returns the line (from 1) of the key or list element at `path`; of a key given several times the one after `skip` others.
pub(super) fn line_of_occurrence(text: &str, path: &Path, skip: usize) -> Option<usize> {
    let mut found = None;
    let walk = Walk { steps: &path.0, skip, goal: Goal::Position, found: &mut found };
    let document = serde_norway::Deserializer::from_str(text).next()?;
    let error = walk.deserialize(document).err()?;
    found.and(error.location()).map(|location| location.line())
}

/// Returns the scalar at `path` as it is written.
pub(super) fn raw_scalar(text: &str, path: &Path) -> Option<String> {
    let mut found = None;
    let document = serde_norway::Deserializer::from_str(text).next()?;
    // The result is in `found`; the walk itself ends with an error that stops the parser.
    let _stopped = Walk { steps: &path.0, skip: 0, goal: Goal::Scalar, found: &mut found }.deserialize(document);
    found
}

#[derive(Clone, Copy, PartialEq)]
enum Goal {
    /// Fail at the target, so that the error carries its position.
    Position,
    /// Read the target's scalar.
    Scalar,
}

struct Walk<'a> {
    steps: &'a [Step],
    skip: usize,
    goal: Goal,
    /// Set when the target was reached.
    found: &'a mut Option<String>,
}

/// Raised to stop the parser at the target.
const ARRIVED: &str = "arrived";

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.steps.is_empty() && self.goal == Goal::Scalar {
            let Key(scalar) = serde::Deserialize::deserialize(deserializer)?;
            *self.found = Some(scalar);
            return Err(D::Error::custom(ARRIVED));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path that exists")
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.leaf()
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.leaf()
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.leaf()
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.leaf()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.leaf()
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.leaf()
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Some((Step::Index(index), rest)) = self.steps.split_first() else { return self.leaf() };
        for _ in 0..*index {
            if access.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        access.next_element_seed(Walk { steps: rest, ..self })?;
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.steps.split_first() else { return self.leaf() };
        let stop_at_key = rest.is_empty() && self.goal == Goal::Position;
        loop {
            let seed = KeySeed { wanted, stop: stop_at_key && self.skip == 0, found: &mut *self.found };
            match access.next_key_seed(seed)? {
                None => return Ok(()),
                Some(true) if stop_at_key => self.skip = self.skip.saturating_sub(1),
                Some(true) => return access.next_value_seed(Walk { steps: rest, ..self }),
                Some(false) => {}
            }
            access.next_value::<IgnoredAny>()?;
        }
    }
}

impl Walk<'_> {
    fn leaf<E: Error>(self) -> Result<(), E> {
        if !self.steps.is_empty() {
            return Ok(());
        }
        *self.found = Some(String::new());
        Err(E::custom(ARRIVED))
    }
}

/// Compares a key; raises the stop error while the parser stands at it.
struct KeySeed<'a> {
    wanted: &'a str,
    stop: bool,
    found: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        if key == self.wanted && self.stop {
            *self.found = Some(String::new());
            return Err(E::custom(ARRIVED));
        }
        Ok(key == self.wanted)
    }
}
