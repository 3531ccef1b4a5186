//! From arguments and file to a checked configuration.

use std::fmt;

use crate::app::config::flags::{self, CommandLine, Setting};
use crate::app::config::migrate::{self, MainOverrides};
use crate::app::config::targets::Targets;
use crate::app::config::warnings::{self, Warning};
use crate::app::config::{Config, not_built, render, reserved, validate};
use crate::base::expand_env;
use crate::base::yaml::decode::{Decoded, decode};
use crate::base::yaml::node::{Node, Path, Step};
use crate::base::yaml::{Document, Problem};

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// What `target` means.
    pub targets: Targets,
    /// `${…}` is expanded, also in the per-tenant overrides file.
    pub expand_env: bool,
    pub warnings: Vec<Warning>,
    /// For the log at info level: keys without effect.
    pub notes: Vec<String>,
    pub mode: Mode,
}

impl Loaded {
    /// Returns the exit code of [`Mode::Verify`]: warnings count as failure, scripts rely on it.
    pub fn verify_exit_code(&self) -> u8 {
        u8::from(!self.warnings.is_empty())
    }
}

/// What the process is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Run,
    /// End with 0 when there are no warnings, else with 1.
    Verify,
    /// Print the version and end with 0.
    PrintVersion,
    /// Print this usage text and end with 0.
    Help(String),
    /// Ask this URL and end.
    Health(String),
    /// Print this YAML and end with 0.
    PrintConfig(String),
}

/// Why a configuration cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigProblem {
    /// The command line itself; exit code 2.
    Usage(String),
    /// The file cannot be read or expanded.
    File(String),
    /// A key of the file.
    Key { file: String, line: Option<usize>, key: String, message: String },
    /// The value of a flag.
    Flag { flag: String, message: String },
    /// The target cannot start with this configuration.
    Start { module: &'static str, message: String },
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(message),
            Self::File(message) => write!(f, "failed parsing config: {message}"),
            Self::Key { file, line, key, message } => {
                f.write_str(file)?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                let separator = if key.is_empty() { "" } else { ": " };
                write!(f, ": {key}{separator}{message}")
            }
            Self::Flag { flag, message } => write!(f, "invalid value for flag -{flag}: {message}"),
            Self::Start { module: "", message } => f.write_str(message),
            Self::Start { module, message } => {
                write!(f, "failed to init module services: error initialising module: {module}: {message}")
            }
        }
    }
}

impl std::error::Error for ConfigProblem {}

/// Returns the exit code that goes with problems: 2 for a wrong command line, else 1.
pub fn exit_code(problems: &[ConfigProblem]) -> u8 {
    if problems.iter().any(|problem| matches!(problem, ConfigProblem::Usage(_))) { 2 } else { 1 }
}

/// Loads the configuration. `args` are the arguments after the program's name.
///
/// Reads the configuration file and the environment; nothing else is opened. Returns every problem there is, never an empty list.
pub fn load(args: &[String]) -> Result<Loaded, Vec<ConfigProblem>> {
    let defaults = Node::of(&Config::default()).map_err(|error| vec![ConfigProblem::File(error.to_string())])?;
    let line = flags::read(args, &defaults);
    if let Some(mode) = early_mode(&line) {
        return Ok(Loaded {
            config: Config::default(),
            targets: Targets::default(),
            expand_env: line.expand_env,
            warnings: Vec::new(),
            notes: Vec::new(),
            mode,
        });
    }
    if !line.errors.is_empty() {
        return Err(line.errors.into_iter().map(ConfigProblem::Usage).collect());
    }
    let text = read_file(&line).map_err(|problem| vec![problem])?;
    let document = Document::parse(&text).map_err(|problems| in_file(&line, problems))?;
    Loader { defaults, line, document }.load()
}

/// What can be done without a configuration: a broken file must not keep anybody from asking for the version.
fn early_mode(line: &CommandLine) -> Option<Mode> {
    if line.help {
        Some(Mode::Help(flags::USAGE.to_owned()))
    } else if line.version {
        Some(Mode::PrintVersion)
    } else if line.health {
        Some(Mode::Health(line.health_url.clone()))
    } else {
        None
    }
}

/// Returns the text of the file, expanded; empty without a file.
fn read_file(line: &CommandLine) -> Result<String, ConfigProblem> {
    let path = &line.file;
    if path.is_empty() {
        return Ok(String::new());
    }
    let bytes = std::fs::read(path).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
            std::io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
            std::io::ErrorKind::IsADirectory => format!("read {path}: is a directory"),
            _ => format!("open {path}: {error}"),
        };
        ConfigProblem::File(format!("failed to read configFile {path}: {reason}"))
    })?;
    let text = String::from_utf8(bytes).map_err(|_| ConfigProblem::File(format!("failed to parse configFile {path}: not UTF-8")))?;
    if !line.expand_env {
        return Ok(text);
    }
    expand_env::expand_from_environment(&text)
        .map_err(|error| ConfigProblem::File(format!("failed to expand env vars from configFile {path}: {error}")))
}

fn in_file(line: &CommandLine, problems: Vec<Problem>) -> Vec<ConfigProblem> {
    problems
        .into_iter()
        .map(|problem| ConfigProblem::Key {
            file: line.file.clone(),
            line: problem.line,
            key: problem.path.to_string(),
            message: problem.message,
        })
        .collect()
}

struct Loader {
    defaults: Node,
    line: CommandLine,
    document: Document,
}

impl Loader {
    fn load(self) -> Result<Loaded, Vec<ConfigProblem>> {
        let mut root = self.document.root.clone();
        if !matches!(root, Node::Map(_)) {
            let problem =
                Problem { path: Path::default(), line: Some(1), message: "expected a mapping of blocks".to_owned(), is_unknown_key: false };
            return Err(in_file(&self.line, vec![problem]));
        }
        let mut migrations = migrate::drop_removed(&mut root, &self.document, &self.line.file);
        let overrides = migrate::scope_overrides(&mut root);
        for Setting { path, value, .. } in &self.line.settings {
            root.set(path, value.clone());
        }
        let target = match root.get("target") {
            Some(Node::Text(target)) => target.clone(),
            _ => "all".to_owned(),
        };
        let targets = Targets::parse(&target);
        if !targets.as_ref().is_ok_and(Targets::is_classic) {
            migrations.extend(migrate::carry_over_compaction(&mut root, &self.document, &self.line.file));
        }
        let is_cutoff_set = root.at(&Path::dotted("query_frontend.query_end_cutoff")).is_some_and(|node| *node != Node::Null);

        let mut tree = self.defaults.clone();
        tree.overlay(root);
        let decoded = decode::<Config>(&tree, Some(&self.document));
        let mut problems = self.problems(&decoded, &overrides);
        if decoded.value.as_ref().is_some_and(|config| config.server.enable.is_some()) {
            problems
                .push(self.key_problem(&Path::dotted("server.enable"), "unknown key \"enable\", it belongs to internal_server".to_owned()));
        }
        let (Some(mut config), true) = (decoded.value, problems.is_empty()) else { return Err(problems) };
        config.query_frontend.is_query_end_cutoff_set = is_cutoff_set;
        let targets = targets.map_err(|text| vec![ConfigProblem::Start { module: "", message: text }])?;

        let effective = Node::of(&config).unwrap_or(Node::Null);
        let mut warnings: Vec<Warning> = migrations.into_iter().map(|text| Warning::new(text, "")).collect();
        warnings.extend(warnings::collect(&config, &targets, overrides.is_legacy));
        for oddity in decoded.oddities {
            let place = oddity.line.map_or(String::new(), |line| format!("{}:{line}: ", self.line.file));
            warnings.push(Warning::new(format!("{place}{}: {}", oddity.path, oddity.message), ""));
        }
        warnings.extend(not_built::unbuilt_in_use(&effective, &self.defaults).into_iter().map(|text| Warning::new(text, "")));
        let mut notes = Vec::new();
        let inert = not_built::inert_in_use(&effective, &self.defaults);
        if !inert.is_empty() {
            notes.push(format!("keys without effect: {}", inert.join(", ")));
        }
        if !self.line.ignored.is_empty() {
            notes.push(format!("flags without effect: -{}", self.line.ignored.join(", -")));
        }
        force_single_process_settings(&mut config, &targets);
        let mode = self.mode(&config)?;
        if !matches!(mode, Mode::PrintConfig(_)) {
            let errors = validate::start_errors(&config, &targets, overrides.is_legacy, self.line.verify);
            if !errors.is_empty() {
                return Err(errors.into_iter().map(|(module, message)| ConfigProblem::Start { module, message }).collect());
            }
        }
        Ok(Loaded { config, targets, expand_env: self.line.expand_env, warnings, notes, mode })
    }

    fn mode(&self, config: &Config) -> Result<Mode, Vec<ConfigProblem>> {
        let rendered = |mode| render::render(config, mode).map(Mode::PrintConfig).map_err(|text| vec![ConfigProblem::File(text)]);
        match self.line.print.as_deref() {
            Some("defaults") => rendered(Some("defaults")),
            Some("diff") => rendered(Some("diff")),
            Some("effective") => rendered(None),
            Some(other) => {
                Err(vec![ConfigProblem::Usage(format!("invalid value {other:?} for -config.print: use defaults, diff or effective"))])
            }
            None if self.line.verify => Ok(Mode::Verify),
            None => Ok(Mode::Run),
        }
    }

    /// Gives every problem its place: the flag that set the value, or file and line.
    fn problems(&self, decoded: &Decoded<Config>, overrides: &MainOverrides) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        if let Some(path) = &overrides.mixed_at {
            problems.push(
                self.key_problem(path, "the legacy (flat) and the scoped format are mixed: move the flat keys below defaults".to_owned()),
            );
            return problems;
        }
        for problem in decoded.problems.iter().cloned().chain(reserved::check(&self.document)) {
            let mut problem = problem;
            overrides.scoped.relocate(&mut problem, &Path::dotted("overrides.defaults"), &Path::dotted("overrides"));
            if let Some(setting) = self.line.settings.iter().find(|setting| problem.path.starts_with(&setting.path)) {
                problems.push(ConfigProblem::Flag { flag: setting.flag.clone(), message: problem.message });
                continue;
            }
            if problem.is_unknown_key && !problem.message.contains("did you mean") {
                problem.message.push_str(&self.same_key_elsewhere(&problem.path));
            }
            problems.push(self.key_problem(&problem.path, problem.message));
        }
        problems
    }

    fn key_problem(&self, path: &Path, message: String) -> ConfigProblem {
        ConfigProblem::Key { file: self.line.file.clone(), line: self.document.line_of(path), key: path.to_string(), message }
    }

    /// A key that stands in the wrong block: says where it belongs, when that is one place.
    fn same_key_elsewhere(&self, path: &Path) -> String {
        let Some(Step::Key(wanted)) = path.0.last() else { return String::new() };
        let mut places = Vec::new();
        collect_keys(&self.defaults, &Path::default(), &mut |found, key| {
            if key == wanted {
                places.push(found.to_string());
            }
        });
        match places.as_slice() {
            [place] => format!(", did you mean {place:?}?"),
            _ => String::new(),
        }
    }
}

fn collect_keys(node: &Node, path: &Path, visit: &mut impl FnMut(&Path, &str)) {
    if let Node::Map(entries) = node {
        for (key, child) in entries {
            let path = path.key(key);
            visit(&path, key);
            collect_keys(child, &path, visit);
        }
    }
}

/// What the targets decide, whatever the file says (config, "what `all` changes").
fn force_single_process_settings(config: &mut Config, targets: &Targets) {
    const LOOPBACK: &str = "127.0.0.1";
    if targets.is_all() {
        for ring in [&mut config.metrics_generator.ring, &mut config.live_store.ring] {
            ring.kvstore.store = "inmemory".to_owned();
            ring.instance_addr = LOOPBACK.to_owned();
        }
        config.live_store.partition_ring.kvstore.store = "inmemory".to_owned();
        config.backend_worker.ring.kvstore.store = String::new();
    }
    let runs = |name: &str| targets.names.iter().any(|target| target == name);
    if runs("scalable-single-binary") && config.compactor.ring.kvstore.store.is_empty() {
        config.compactor.ring.kvstore.store = "memberlist".to_owned();
    }
    if runs("metrics-generator-no-local-blocks") {
        config.metrics_generator.ring_mode = "generator".to_owned();
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
