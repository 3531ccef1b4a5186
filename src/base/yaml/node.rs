//! The tree of a YAML document.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

/// A step from a node to one of its children.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// The way from the root to a node; prints as `storage.trace.block` or `cache.caches[0].roles`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// Parses a dotted path of plain keys.
    pub fn dotted(text: &str) -> Self {
        Self(text.split('.').filter(|key| !key.is_empty()).map(|key| Step::Key(key.to_owned())).collect())
    }

    pub fn child(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    pub fn key(&self, key: &str) -> Self {
        self.child(Step::Key(key.to_owned()))
    }

    /// True for the path itself and everything below it.
    pub fn starts_with(&self, prefix: &Self) -> bool {
        self.0.starts_with(&prefix.0)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A node. Scalars keep the type YAML gives them; the decoder converts.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the text; each key once.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Serialises a value into a tree.
    pub fn of(value: &impl serde::Serialize) -> Result<Self, serde_norway::Error> {
        Self::deserialize(serde_norway::to_value(value)?)
    }

    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub fn at(&self, path: &Path) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, step| match (step, node) {
            (Step::Key(key), _) => node.get(key),
            (Step::Index(index), Self::List(items)) => items.get(*index),
            (Step::Index(_), _) => None,
        })
    }

    /// Takes a key out of this mapping.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        match self {
            Self::Map(entries) => entries.iter().position(|(name, _)| name == key).map(|index| entries.remove(index).1),
            _ => None,
        }
    }

    /// Takes the node at a path of keys out of the tree.
    pub fn remove_at(&mut self, path: &Path) -> Option<Self> {
        let (Step::Key(last), parents) = path.0.split_last()? else { return None };
        let parent = parents.iter().try_fold(self, |node, step| match (step, node) {
            (Step::Key(key), Self::Map(entries)) => entries.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        })?;
        parent.remove(last)
    }

    /// Puts a value at a path of keys, making the mappings on the way.
    pub fn set(&mut self, path: &Path, value: Self) {
        let mut node = self;
        for step in &path.0 {
            let Step::Key(key) = step else { return };
            if !matches!(node, Self::Map(_)) {
                *node = Self::Map(Vec::new());
            }
            let Self::Map(entries) = node else { return };
            let index = entries.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
                entries.push((key.clone(), Self::Null));
                entries.len() - 1
            });
            node = &mut entries[index].1;
        }
        *node = value;
    }

    /// Lays `over` on this tree: mappings merge, null keeps what is there, anything else replaces.
    pub fn overlay(&mut self, over: Self) {
        match (self, over) {
            (Self::Map(entries), Self::Map(over)) => {
                for (key, value) in over {
                    match entries.iter_mut().find(|(name, _)| *name == key) {
                        Some((_, existing)) => existing.overlay(value),
                        None => entries.push((key, value)),
                    }
                }
            }
            (_, Self::Null) => {}
            (node, over) => *node = over,
        }
    }

    /// Calls `visit` with every leaf: scalars, lists and empty mappings.
    pub fn for_each_leaf(&self, path: &Path, visit: &mut impl FnMut(&Path, &Self)) {
        match self {
            Self::Map(entries) if !entries.is_empty() => {
                for (key, node) in entries {
                    node.for_each_leaf(&path.key(key), visit);
                }
            }
            _ => visit(path, self),
        }
    }

    /// Returns what differs from `base`, nested; `None` when nothing does. Keys that only `base` has are not shown.
    pub fn difference(&self, base: &Self) -> Option<Self> {
        match (self, base) {
            (Self::Map(entries), Self::Map(_)) => {
                let changed: Vec<_> = entries
                    .iter()
                    .filter_map(|(key, node)| match base.get(key) {
                        Some(base) => node.difference(base).map(|node| (key.clone(), node)),
                        None => Some((key.clone(), node.clone())),
                    })
                    .collect();
                (!changed.is_empty()).then_some(Self::Map(changed))
            }
            _ => (self != base).then(|| self.clone()),
        }
    }
}

impl serde::Serialize for Node {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::UInt(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => serializer.collect_map(entries.iter().map(|(key, node)| (key, node))),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    /// The tree without a report of duplicates; of two equal keys the first one stays.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Builder { path: Path::default(), duplicates: &mut Vec::new() }.deserialize(deserializer)
    }
}

/// Parses the first document of a text. Returns the tree, merge keys resolved, and the paths of keys that were given twice.
pub(super) fn parse(text: &str) -> Result<(Node, Vec<Path>), serde_norway::Error> {
    let mut duplicates = Vec::new();
    let Some(document) = serde_norway::Deserializer::from_str(text).next() else { return Ok((Node::Null, duplicates)) };
    let root = Builder { path: Path::default(), duplicates: &mut duplicates }.deserialize(document)?;
    Ok((root, duplicates))
}

/// Builds a [`Node`] from any self-describing deserializer.
struct Builder<'a> {
    path: Path,
    duplicates: &'a mut Vec<Path>,
}

impl<'de> DeserializeSeed<'de> for Builder<'_> {
    type Value = Node;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Builder<'_> {
    type Value = Node;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(i64::try_from(value).map_or(Node::UInt(value), Node::Int))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) =
            access.next_element_seed(Builder { path: self.path.child(Step::Index(items.len())), duplicates: &mut *self.duplicates })?
        {
            items.push(item);
        }
        Ok(Node::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut merged = Vec::new();
        while let Some(Key(key)) = access.next_key()? {
            let path = self.path.key(&key);
            let value = access.next_value_seed(Builder { path: path.clone(), duplicates: &mut *self.duplicates })?;
            if key == "<<" {
                match value {
                    Node::List(maps) => merged.extend(maps),
                    map => merged.push(map),
                }
            } else if entries.iter().any(|(name, _)| *name == key) {
                self.duplicates.push(path);
            } else {
                entries.push((key, value));
            }
        }
        // Own keys win over merged ones, earlier merged mappings over later ones.
        for map in merged {
            let Node::Map(map) = map else { return Err(serde::de::Error::custom("merge key << needs a mapping")) };
            for (key, value) in map {
                if !entries.iter().any(|(name, _)| *name == key) {
                    entries.push((key, value));
                }
            }
        }
        Ok(Node::Map(entries))
    }
    /// A tagged value; tags of our own do not exist, so the tag is dropped.
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Node, A::Error> {
        let (Key(_tag), content) = access.variant()?;
        content.newtype_variant_seed(self)
    }
}

/// A mapping key; numbers and booleans count as their text.
pub(super) struct Key(pub(super) String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(Key(key.to_owned()))
            }
        }
        // Asked for a string, the YAML parser hands out any plain scalar as it is written.
        deserializer.deserialize_str(KeyVisitor)
    }
}
