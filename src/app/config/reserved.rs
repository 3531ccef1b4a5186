//! Blocks whose features do not exist yet: their keys and defaults, so that files that carry them are checked and load.

use std::sync::LazyLock;

use crate::base::yaml::node::{Node, Path, Step};
use crate::base::yaml::{Document, FreeForm, Problem};

/// Keys and defaults of the reserved blocks.
const RESERVED_YAML: &str = include_str!("reserved.yaml");

static RESERVED: LazyLock<Node> = LazyLock::new(|| Document::parse(RESERVED_YAML).map_or(Node::Map(Vec::new()), |document| document.root));

/// Names of the reserved blocks.
pub(super) const RESERVED_BLOCKS: [&str; 12] = [
    "auth",
    "gateway",
    "lbac",
    "admin_api",
    "admin_client",
    "tokengen",
    "audit",
    "usage",
    "license",
    "otlp_gateway",
    "adaptive_traces",
    "ui",
];

/// Returns the defaults of a block.
pub(super) fn block(name: &str) -> FreeForm {
    FreeForm(RESERVED.get(name).cloned().unwrap_or(Node::Null))
}

/// Reports keys of reserved blocks that do not exist, and values of another shape than the default's.
pub(super) fn check(document: &Document) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in RESERVED_BLOCKS {
        if let (Some(given), Some(known)) = (document.root.get(name), RESERVED.get(name)) {
            compare(given, known, &Path::default().key(name), &mut problems);
        }
    }
    for problem in &mut problems {
        problem.line = document.line_of(&problem.path);
    }
    problems
}

fn compare(given: &Node, known: &Node, path: &Path, problems: &mut Vec<Problem>) {
    let mut report = |path: Path, message: String, is_unknown_key| problems.push(Problem { path, line: None, message, is_unknown_key });
    match (given, known) {
        // An empty mapping as default takes any keys: its schema comes with the feature.
        (Node::Map(_), Node::Map(known)) if known.is_empty() => {}
        (Node::Map(given), Node::Map(known)) => {
            let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
            for (key, value) in given {
                let path = path.child(Step::Key(key.clone()));
                match known.iter().find(|(name, _)| name == key) {
                    Some((_, known)) => compare(value, known, &path, problems),
                    None => {
                        let suggestion = crate::base::yaml::decode::nearest(key, &names)
                            .map_or(String::new(), |name| format!(", did you mean {name:?}?"));
                        problems.push(Problem {
                            path,
                            line: None,
                            message: format!("unknown key {key:?}{suggestion}"),
                            is_unknown_key: true,
                        });
                    }
                }
            }
        }
        (Node::Null, _) | (_, Node::Null) => {}
        (Node::Map(_), _) => report(path.clone(), "expected a single value, found a mapping".to_owned(), false),
        (_, Node::Map(_)) => report(path.clone(), "expected a mapping".to_owned(), false),
        (Node::List(_), Node::List(_)) => {}
        (Node::List(_), _) => report(path.clone(), "expected a single value, found a list".to_owned(), false),
        (_, Node::List(_)) => report(path.clone(), "expected a list".to_owned(), false),
        (_, Node::Bool(_)) if !matches!(given, Node::Bool(_)) => report(path.clone(), "expected true or false".to_owned(), false),
        _ => {}
    }
}
