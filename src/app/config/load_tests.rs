//! Tests of loading: defaults against the reference, texts of problems, 2.x files, example files.

use std::collections::BTreeSet;

use super::*;
use crate::base::duration::{GoDuration, PromDuration};
use crate::base::hostname::hostname;
use crate::base::size::ByteSize;

fn args(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// Loads a text as file `tempo.yaml` of a temporary folder; the folder's name is cut from the messages.
fn load_text(yaml: &str, flags: &[&str]) -> Result<Loaded, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tempo.yaml");
    std::fs::write(&path, yaml).unwrap();
    let mut all = vec![format!("-config.file={}", path.display())];
    all.extend(args(flags));
    let folder = format!("{}/", dir.path().display());
    let shorten = |text: String| text.replace(&folder, "");
    load(&all)
        .map(|mut loaded| {
            for warning in &mut loaded.warnings {
                warning.message = shorten(warning.message.clone());
            }
            loaded
        })
        .map_err(|problems| problems.iter().map(|problem| shorten(problem.to_string())).collect())
}

fn problems(yaml: &str, flags: &[&str]) -> Vec<String> {
    load_text(yaml, flags).unwrap_err()
}

fn warnings(loaded: &Loaded) -> Vec<&str> {
    loaded.warnings.iter().map(|warning| warning.message.as_str()).collect()
}

/// What a target needs at least.
const LOCAL: &str = "storage: {trace: {backend: local, local: {path: /tmp/blocks}}}\n";

fn with_local(yaml: &str) -> String {
    format!("{LOCAL}{yaml}")
}

/// The same value, whatever its spelling.
fn means_the_same(ours: &Node, reference: &Node) -> bool {
    let text = |node: &Node| match node {
        Node::Text(text) => Some(text.clone()),
        Node::Int(number) => Some(number.to_string()),
        _ => None,
    };
    match (ours, reference) {
        (Node::List(ours), Node::List(reference)) => {
            ours.len() == reference.len() && ours.iter().zip(reference).all(|(ours, reference)| means_the_same(ours, reference))
        }
        (Node::Float(ours), Node::Float(reference)) => (ours - reference).abs() < 1e-9,
        (Node::Float(ours), Node::Int(reference)) => *ours == reference.to_string().parse::<f64>().unwrap(),
        _ if ours == reference => true,
        _ => {
            let (Some(ours), Some(reference)) = (text(ours), text(reference)) else { return false };
            let go = |text: &str| GoDuration::parse(text).ok();
            let prom = |text: &str| PromDuration::parse(text).ok();
            let size = |text: &str| ByteSize::parse(text).ok();
            (go(&ours).is_some() && go(&ours) == go(&reference))
                || (prom(&ours).is_some() && prom(&ours) == prom(&reference))
                || (size(&ours).is_some() && size(&ours) == size(&reference))
        }
    }
}

#[test]
fn defaults_equal_the_reference() {
    let table = include_str!("../../../testdata/config/defaults.txt");
    let defaults = Node::of(&Config::default()).unwrap();
    let (mut wrong, mut known) = (Vec::new(), BTreeSet::new());
    for row in table.lines().filter(|row| !row.starts_with('#')) {
        let (key, value) = row.split_once(' ').unwrap();
        let value = if value == "hostname" { hostname() } else { value.to_owned() };
        let reference = Document::parse(&format!("v: {value}")).unwrap().root.remove("v").unwrap();
        known.insert(key.to_owned());
        match defaults.at(&Path::dotted(key)) {
            Some(ours) if means_the_same(ours, &reference) => {}
            ours => wrong.push(format!("{key}: ours {ours:?}, reference {reference:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // And the other way round: no key of ours that the reference does not know.
    let mut extra = Vec::new();
    defaults.for_each_leaf(&Path::default(), &mut |path, _| {
        let key = path.to_string();
        let is_reserved = crate::app::config::reserved::RESERVED_BLOCKS.iter().any(|block| key.split('.').next() == Some(block));
        if !is_reserved && !known.contains(&key) && !OWN_KEYS.contains(&key.as_str()) {
            extra.push(key);
        }
    });
    assert!(extra.is_empty(), "{}", extra.join("\n"));
}

/// Keys that only tempo-rs has, or that the reference names outside its tables.
const OWN_KEYS: [&str; 3] = ["cluster_name", "overrides.merge_with_defaults", "metrics_generator.instance_availability_zone"];
