//! What a predicate wants of a string, in a form that a whole dictionary can be searched for.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

type Accepts<'a> = dyn Fn(&[u8]) -> bool + Send + Sync + 'a;

/// A test of strings.
#[derive(Clone)]
pub struct TextTest<'a> {
    accepts: Arc<Accepts<'a>>,
    required: Option<Arc<[u8]>>,
}

impl<'a> TextTest<'a> {
    pub fn new(accepts: impl Fn(&[u8]) -> bool + Send + Sync + 'a) -> Self {
        Self { accepts: Arc::new(accepts), required: None }
    }

    /// Says that every string that passes contains `text`. Dictionaries are then searched for it, and the test is asked only where it is.
    pub fn requiring(self, text: &[u8]) -> Self {
        let required = (!text.is_empty()).then(|| text.into());
        Self { required, ..self }
    }

    pub fn passes(&self, text: &[u8]) -> bool {
        (self.accepts)(text)
    }

    pub(super) fn required(&self) -> Option<&[u8]> {
        self.required.as_deref()
    }
}

impl Debug for TextTest<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextTest").field("required", &self.required).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tempodb::block::decode::strings::Dictionary;

    proptest! {
        #[test]
        fn searching_a_dictionary_finds_what_testing_each_entry_finds(
            entries in prop::collection::vec("[ab]{0,4}", 0..12),
            required in "[ab]{1,3}",
            limit in 1_usize..6,
        ) {
            let dictionary = Dictionary::of(&entries);
            let wanted = required.clone();
            let test = TextTest::new(move |text| text.len() < 4 && memchr::memmem::find(text, wanted.as_bytes()).is_some());
            let found = dictionary.passing(&test.clone().requiring(required.as_bytes()), limit);
            prop_assert_eq!(found, dictionary.passing(&test, limit));
        }
    }
}
