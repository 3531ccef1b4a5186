//! Completion of a query that is being typed: what may stand at a position, and what is wrong with the text.
//!
//! There is no second grammar here: every word and sign of the language is put at the position, and those that the parser would go on behind are
//! offered. A literal must also pass the type rules, so that a status is not compared with a kind.

use super::ast::Attribute;
use super::autocomplete::parse_tag;
use super::error::{QueryError, QueryErrorKind};
use super::lexer::{KEYWORDS, SYMBOLS, is_attribute_char};
use super::parser::{is_intrinsic, parse};
use super::validate;

/// Longer texts are only checked: each of some 150 candidates is a parse.
const MAX_COMPLETED_BYTES: usize = 8 << 10;

/// What may stand at a position.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Completion {
    /// The bytes of the text that a suggestion takes the place of: the word that is being typed.
    pub from: usize,
    pub to: usize,
    /// Words and signs of the language, in the order of the language's lists.
    pub words: Vec<(&'static str, WordKind)>,
    /// Scopes whose attribute names may stand here, as in a query (`span.`, `.`, …). Which names there are is not known here.
    pub names_of: Option<String>,
    /// Literals may stand here that are no words.
    pub literals: Vec<LiteralKind>,
    /// The attribute with which a literal is compared here.
    pub values_of: Option<Attribute>,
    /// Why the whole text is no query.
    pub error: Option<QueryError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordKind {
    Intrinsic,
    /// Something follows: a name, or an intrinsic.
    Scope,
    Function,
    Literal,
    /// An operator or a bracket.
    Sign,
}

impl WordKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intrinsic => "intrinsic",
            Self::Scope => "scope",
            Self::Function => "function",
            Self::Literal => "literal",
            Self::Sign => "sign",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiteralKind {
    String,
    Integer,
    Float,
    Duration,
}

impl LiteralKind {
    const ALL: [(Self, &'static str); 4] = [(Self::String, "\"x\""), (Self::Integer, "1"), (Self::Float, "0.5"), (Self::Duration, "1s")];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "int",
            Self::Float => "float",
            Self::Duration => "duration",
        }
    }
}

const LITERALS: [&str; 12] =
    ["true", "false", "nil", "ok", "error", "unset", "unspecified", "internal", "server", "client", "producer", "consumer"];

/// Scopes behind which attribute names stand.
const NAME_SCOPES: [&str; 9] =
    ["parent.span.", "parent.resource.", "parent.", "resource.", "span.", "event.", "link.", "instrumentation.", "."];

/// Returns what may stand at byte `position` of `text`, or at the last character before it.
pub fn complete(text: &str, position: usize) -> Completion {
    let error = parse(text).and_then(|query| validate(&query)).err();
    let at = (0..=position.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if text.len() > MAX_COMPLETED_BYTES {
        return Completion { from: at, to: at, error, ..Completion::default() };
    }
    let begin = word_begin(&text[..at]);
    let (before, word) = (&text[..begin], &text[begin..at]);
    let mut found = Completion { from: begin, to: at + word_rest(&text[at..], word), error, ..Completion::default() };
    if word.starts_with('"') {
        found.values_of = compared_attribute(before);
        return found;
    }
    if let Some(scope) = NAME_SCOPES.into_iter().find(|scope| word.starts_with(scope)) {
        found.from += scope.len();
        found.names_of = may_stand(before, &format!("{scope}x")).then(|| scope.to_owned());
        return found;
    }
    let (scope, typed) = word.split_once(':').map_or(("", word), |(scope, typed)| (&word[..=scope.len()], typed));
    found.from += scope.len();
    let before = &text[..found.from];
    let all = KEYWORDS.iter().chain(SYMBOLS).copied();
    found.words = all.filter(|word| word.starts_with(typed)).filter_map(|word| Some((word, word_kind(before, scope, word)?))).collect();
    if typed.is_empty() && scope.is_empty() {
        let literals = LiteralKind::ALL.into_iter().filter(|(_, example)| may_stand(before, example) && has_type(before, example));
        found.literals = literals.map(|(kind, _)| kind).collect();
        if !found.literals.is_empty() || found.words.iter().any(|(_, kind)| *kind == WordKind::Literal) {
            found.values_of = compared_attribute(before);
        }
        found.names_of = may_stand(before, ".x").then(|| ".".to_owned());
    }
    found
}

/// Returns where the word begins that ends with `text`: a text in quotes that is not closed, a run of signs, or a run of letters, digits and
/// what may stand in names.
fn word_begin(text: &str) -> usize {
    if let Some(quote) = open_quote(text) {
        return quote;
    }
    let is_sign = |c: char| "=!<>~&|".contains(c);
    let is_part = |c: char| is_attribute_char(c) && !"+*/%-\"".contains(c);
    let run = |of: &dyn Fn(char) -> bool| text.trim_end_matches(of).len();
    match text.chars().next_back() {
        Some(c) if is_sign(c) => run(&is_sign),
        Some(c) if is_part(c) => run(&is_part),
        _ => text.len(),
    }
}

/// Returns the bytes at the begin of `rest` that belong to the same word.
fn word_rest(rest: &str, word: &str) -> usize {
    let is_name = word.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.' || c == ':');
    let is_part = |c: char| is_attribute_char(c) && !"+*/%-\"".contains(c);
    if is_name { rest.len() - rest.trim_start_matches(is_part).len() } else { 0 }
}

fn open_quote(text: &str) -> Option<usize> {
    let (mut open, mut is_escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match (open, c) {
            _ if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(_), '"') => open = None,
            (None, '"') => open = Some(at),
            _ => {}
        }
    }
    open
}

/// Returns the kind of `word` behind `before`, which ends in `scope`; `None` when it may not stand there.
fn word_kind(before: &str, scope: &str, word: &'static str) -> Option<WordKind> {
    let is_scope = word.ends_with(['.', ':']);
    // What follows is part of the same word to the parser.
    let is_allowed = match word.chars().next_back()? {
        '.' => may_stand(before, &format!("{word}x")),
        ':' => ["id", "name", "duration", "version"].iter().any(|rest| may_stand(before, &format!("{word}{rest}"))),
        _ => may_stand(before, word),
    };
    let kind = if is_scope {
        WordKind::Scope
    } else if LITERALS.contains(&word) {
        WordKind::Literal
    } else if !scope.is_empty() || is_intrinsic(word) {
        WordKind::Intrinsic
    } else if word.starts_with(|c: char| c.is_ascii_alphabetic()) {
        WordKind::Function
    } else {
        WordKind::Sign
    };
    (is_allowed && (kind != WordKind::Literal || has_type(before, word))).then_some(kind)
}

/// Whether the parser goes on behind `word`.
fn may_stand(before: &str, word: &str) -> bool {
    match parse(&format!("{before}{word}")) {
        Ok(_) => true,
        Err(error) => matches!(error.kind, QueryErrorKind::Syntax(_)) && error.text.starts_with("syntax error: unexpected $end"),
    }
}

/// Whether the types agree when the query is closed behind `literal`; also when it cannot be closed there.
fn has_type(before: &str, literal: &str) -> bool {
    let closed = format!("{before}{literal}{}", closing_brackets(before));
    parse(&closed).map_or(true, |query| validate(&query).is_ok())
}

/// Returns the brackets that are missing behind `text`.
fn closing_brackets(text: &str) -> String {
    let (mut missing, mut is_quoted, mut is_escaped) = (Vec::new(), false, false);
    for c in text.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '{' if !is_quoted => missing.push('}'),
            '(' if !is_quoted => missing.push(')'),
            '}' | ')' if !is_quoted => drop(missing.pop()),
            _ => {}
        }
    }
    missing.iter().rev().collect()
}

/// Returns the attribute of a comparison that `text` ends with, up to its operator.
fn compared_attribute(text: &str) -> Option<Attribute> {
    let operand = text.trim_end();
    let left = operand.trim_end_matches(['=', '!', '<', '>', '~']);
    if left.len() == operand.len() {
        return None;
    }
    let left = left.trim_end();
    let name = &left[left.trim_end_matches(is_attribute_char).len()..];
    parse_tag(name).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Completes at the mark, which is taken out.
    fn at_mark(marked: &str) -> Completion {
        let at = marked.find('§').unwrap();
        complete(&marked.replace('§', ""), at)
    }

    fn words(marked: &str) -> Vec<&'static str> {
        at_mark(marked).words.into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn offers_what_the_grammar_allows() {
        assert!(words("§").contains(&"{") && !words("§").contains(&"}"));
        assert_eq!(words("{ stat§"), ["status", "statusMessage"]);
        assert!(words("{ status = §").contains(&"error") && !words("{ status = §").contains(&"server"));
        assert!(words("{ kind = s§").contains(&"server"));
        for word in [">>", "&&", "|", "!<", "&>>"] {
            assert!(words("{} §").contains(&word), "{word}");
        }
        let stages = words("{} | §");
        for word in ["count", "rate", "select", "by", "coalesce", "quantile_over_time", "{"] {
            assert!(stages.contains(&word), "{word} in {stages:?}");
        }
        assert!(!stages.contains(&"topk") && words("{} | rate() | §").contains(&"topk"));
        assert_eq!(words("{} | rate() b§"), ["by"]);
        for word in ["duration", "rootName", "rootService", "id"] {
            assert!(words("{ trace:§ }").contains(&word), "{word}");
        }
        assert!(!words("{ trace:§ }").contains(&"status"));
        assert!(words("{ span:st§ }").starts_with(&["status"]));
    }

    #[test]
    fn tells_where_names_and_values_of_attributes_stand() {
        let names = at_mark("{ resource.serv§ice.name = \"a\" }");
        assert_eq!((names.names_of.as_deref(), names.from, names.to, names.error), (Some("resource."), 11, 23, None));
        assert_eq!(at_mark("{ §").names_of.as_deref(), Some("."));
        assert_eq!(at_mark("{} | rate() by (span.ht§").names_of.as_deref(), Some("span."));
        assert_eq!(at_mark("{} | span.ht§").names_of, None);
        let values = at_mark("{ span.http.method = §");
        assert_eq!(values.values_of.map(|attribute| attribute.to_string()).as_deref(), Some("span.http.method"));
        assert_eq!(values.literals, [LiteralKind::String, LiteralKind::Integer, LiteralKind::Float, LiteralKind::Duration]);
        let typed = at_mark("{ name=\"GE§T\" }");
        assert_eq!((typed.from, typed.values_of.map(|attribute| attribute.to_string()).as_deref()), (7, Some("name")));
        assert_eq!(at_mark("{ duration > §").literals.last(), Some(&LiteralKind::Duration));
    }

    #[test]
    fn reports_the_error_of_the_whole_text() {
        assert_eq!(at_mark("{ status = ok } | rate()§").error, None);
        let error = at_mark("{ status = § } | rate()").error.unwrap();
        assert!(error.to_string().starts_with("parse error at line 1, col 13: syntax error: unexpected }"), "{error}");
        assert!(at_mark("{} | quantile_over_time(duration, 2)§").error.is_some());
        let long = format!("{{ .a = \"{}\" }}", "x".repeat(MAX_COMPLETED_BYTES));
        assert_eq!(complete(&long, 2), Completion { from: 2, to: 2, ..Completion::default() });
    }

    proptest! {
        #[test]
        fn any_text_and_position_is_completed(text in "[{}()|&=\"a-z.:>~ ü]{0,24}", position in 0..30_usize) {
            let found = complete(&text, position);
            prop_assert!(found.from <= found.to && found.to <= text.len());
            prop_assert!(text.is_char_boundary(found.from) && text.is_char_boundary(found.to));
        }
    }
}
