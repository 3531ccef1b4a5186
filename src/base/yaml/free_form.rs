//! Parts of a configuration whose keys we do not know.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::node::Node;

/// Any YAML. Prints values of keys that look like secrets as `<secret>`.
#[derive(Debug, Clone, PartialEq)]
pub struct FreeForm(pub Node);

/// Key names, or their ends, whose values are not printed.
const SECRET_KEYS: [&str; 8] = ["password", "credentials", "secret", "secret_key", "bearer_token", "token", "authorization", "access_key"];

impl FreeForm {
    fn masked(node: &Node) -> Node {
        match node {
            Node::Map(entries) => Node::Map(
                entries
                    .iter()
                    .map(|(key, value)| {
                        let lower = key.to_ascii_lowercase();
                        let is_secret = SECRET_KEYS.iter().any(|name| lower.ends_with(name));
                        let value = if is_secret && matches!(value, Node::Text(_)) {
                            Node::Text("<secret>".to_owned())
                        } else {
                            Self::masked(value)
                        };
                        (key.clone(), value)
                    })
                    .collect(),
            ),
            Node::List(items) => Node::List(items.iter().map(Self::masked).collect()),
            Node::Null | Node::Bool(_) | Node::Int(_) | Node::UInt(_) | Node::Float(_) | Node::Text(_) => node.clone(),
        }
    }
}

impl Serialize for FreeForm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::masked(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FreeForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node::deserialize(deserializer).map(Self)
    }
}
