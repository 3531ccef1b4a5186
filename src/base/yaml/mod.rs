//! Strict decoding of YAML configuration over defaults, with every problem reported at once.
//!
//! The text is read into a plain tree ([`node::Node`]), laid over the tree of the defaults, and decoded by a serde deserializer of our own
//! ([`decode`]) that knows the field names of each struct. An unknown key, a key given twice or a value of the wrong type becomes a
//! [`Problem`] with line and dotted path, and decoding goes on without it. serde_norway parses the text; it stops at the first type error
//! and speaks YAML 1.2, whereas files of the compatible system are YAML 1.1 (`yes`, `0644`, `1_000`), hence the layer in between.
//!
//! Invariants
//! * A null value means "not set": the default stays. A list replaces the default list; a mapping is merged key by key.
//! * Decoding never stops at a problem, and reports at most [`decode::MAX_PROBLEMS`] of them.

pub mod decode;
mod free_form;
mod locate;
pub mod node;

pub use free_form::FreeForm;

use node::{Node, Path};

/// Something wrong (or odd) at one place of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where in the tree.
    pub path: Path,
    /// Line in the text, from 1; `None` when the value does not come from the text.
    pub line: Option<usize>,
    /// What is wrong, without the path.
    pub message: String,
    /// The key in question is not known at this place.
    pub is_unknown_key: bool,
}

/// A parsed text, kept for finding lines.
#[derive(Debug, Clone)]
pub struct Document {
    text: String,
    pub root: Node,
}

impl Document {
    /// Parses the first document of `text`; an empty text is an empty mapping. Problems: a syntax error (one), or keys given twice.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (root, duplicates) = node::parse(text).map_err(|error| {
            let message = error.to_string();
            // The position moves to the front of the line we print.
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_owned();
            let line = error.location().map(|location| location.line());
            vec![Problem { path: Path::default(), line, message, is_unknown_key: false }]
        })?;
        if !duplicates.is_empty() {
            return Err(duplicates
                .into_iter()
                .map(|path| Problem {
                    line: locate::line_of_occurrence(text, &path, 1),
                    message: "key is given twice".to_owned(),
                    path,
                    is_unknown_key: false,
                })
                .collect());
        }
        let root = if root == Node::Null { Node::Map(Vec::new()) } else { root };
        Ok(Self { text: text.to_owned(), root })
    }

    /// Returns the line of a key or list element; of the nearest enclosing one when the path leads through a merge key.
    pub fn line_of(&self, path: &Path) -> Option<usize> {
        (1..=path.0.len()).rev().find_map(|len| locate::line_of_occurrence(&self.text, &Path(path.0[..len].to_vec()), 0))
    }

    /// Returns a scalar as it was written (`1.10`, not 1.1).
    fn raw_scalar(&self, path: &Path) -> Option<String> {
        locate::raw_scalar(&self.text, path)
    }
}
