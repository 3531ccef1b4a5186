//! Reads the sources and checks what the compiler does not: which way layers point, that roles do not name each other, that every file
//! says what it is, and that nothing is left unwritten.

use std::path::{Path, PathBuf};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// Each layer may name itself and those before it.
const LAYERS: [&str; 8] = ["proto", "base", "model", "traceql", "tempodb", "services", "modules", "app"];

/// The layer whose folders are roles.
const ROLES: &str = "modules";

/// Macros that stand for code to come. Spelled so that this file does not hold them.
const UNWRITTEN: [&str; 2] = [concat!("todo", "!("), concat!("unimplemented", "!(")];

#[test]
fn layers_point_down_and_roles_do_not_name_each_other() {
    expect_nothing(&of_all_sources(wrong_arrows));
}

#[test]
fn every_file_begins_with_what_it_is() {
    expect_nothing(&of_all_sources(missing_doc));
}

#[test]
fn nothing_is_left_unwritten() {
    expect_nothing(&of_all_sources(unwritten_code));
}

#[test]
fn violations_are_found() {
    let arrows = |path: &str, text: &str| wrong_arrows(Path::new(path), text);
    let none = Vec::<String>::new();
    assert_eq!(arrows("tempodb/db.rs", "use crate::model::ids::TraceId;\nuse crate::base::size::ByteSize;"), none);
    assert_eq!(arrows("tempodb/db.rs", "use crate::services::rpc;"), ["tempodb/db.rs:1: tempodb must not name services"]);
    assert_eq!(arrows("base/size.rs", "//! x\nfn f() { crate::app::main() }"), ["base/size.rs:2: base must not name app"]);
    assert_eq!(arrows("base/size.rs", "// as crate::app::main does"), none);
    assert_eq!(arrows("model/otlp/testing.rs", "use crate::proto;"), none);
    assert_eq!(arrows("model/otlp/testing.rs", "use crate::services::rpc;"), ["model/otlp/testing.rs:1: model must not name services"]);
    assert_eq!(
        arrows("modules/a/mod.rs", "use crate::modules::a::x;\nuse crate::modules::b;"),
        ["modules/a/mod.rs:2: role a must not name role b"]
    );
    assert_eq!(arrows("modules/mod.rs", "use crate::modules::b;"), none);
    assert_eq!(arrows("app/mod.rs", "use crate::modules::b; use crate::modules::c;"), none);
    assert_eq!(arrows("model/ids.rs", "use crate::{base, app};"), ["model/ids.rs:1: one path per use, so that this test can read it"]);
    assert_eq!(arrows("model/ids.rs", "use crate::nix::x;"), ["model/ids.rs:1: nix is not a layer"]);
    assert_eq!(
        arrows("model/ids.rs", "mod m { use super::super::super::app::x; }"),
        ["model/ids.rs:1: name what is far away from crate:: on"]
    );

    assert_eq!(missing_doc(Path::new("a.rs"), "//! Text.\n"), none);
    assert_eq!(missing_doc(Path::new("a.rs"), "use std::fmt;\n//! Late."), ["a.rs:1: the file does not begin with //!"]);
    let unwritten = format!("fn f() {{\n    {}) }}", UNWRITTEN[0]);
    assert_eq!(unwritten_code(Path::new("a.rs"), &unwritten), ["a.rs:2: code is missing"]);
}

/// Collects what `check` says of each source file, by its path under the source folder.
fn of_all_sources(check: fn(&Path, &str) -> Vec<String>) -> Vec<String> {
    let mut files = Vec::new();
    list_sources(Path::new(SOURCES), &mut files);
    assert!(files.len() > 100, "sources are found");
    files.sort();
    let of_file = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).expect("sources can be read");
        check(file.strip_prefix(SOURCES).expect("listed under the folder"), &text)
    };
    files.into_iter().flat_map(of_file).collect()
}

fn list_sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("source folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            list_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn expect_nothing(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// Finds `crate::…` paths that point up or sideways.
fn wrong_arrows(path: &Path, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).map(|part| part.trim_end_matches(".rs")).collect();
    let Some(layer) = LAYERS.iter().position(|name| *name == parts[0]) else { return Vec::new() };
    let role = (parts[0] == ROLES && parts.len() > 2).then(|| parts[1]);
    let mut wrong = Vec::new();
    for (number, line) in code_lines(text) {
        let mut report = |problem: String| wrong.push(format!("{}:{number}: {problem}", path.display()));
        if line.contains("super::super::super::") {
            report("name what is far away from crate:: on".to_owned());
        }
        for named in line.split("crate::").skip(1) {
            let segments: Vec<&str> = named.split("::").map(first_word).take(2).collect();
            match (LAYERS.iter().position(|name| *name == segments[0]), segments.get(1), role) {
                (None, ..) if named.starts_with('{') => report("one path per use, so that this test can read it".to_owned()),
                (None, ..) => report(format!("{} is not a layer", segments[0])),
                (Some(target), ..) if target > layer => report(format!("{} must not name {}", LAYERS[layer], LAYERS[target])),
                (Some(_), Some(other), Some(role)) if segments[0] == ROLES && *other != role => {
                    report(format!("role {role} must not name role {other}"));
                }
                (Some(_), ..) => {}
            }
        }
    }
    wrong
}

fn missing_doc(path: &Path, text: &str) -> Vec<String> {
    let problem = format!("{}:1: the file does not begin with //!", path.display());
    if text.starts_with("//!") { Vec::new() } else { vec![problem] }
}

fn unwritten_code(path: &Path, text: &str) -> Vec<String> {
    let unwritten = code_lines(text).filter(|(_, line)| UNWRITTEN.iter().any(|name| line.contains(name)));
    unwritten.map(|(number, _)| format!("{}:{number}: code is missing", path.display())).collect()
}

/// Lines that are not comments, with their numbers from 1.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}
