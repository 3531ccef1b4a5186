//! Regular expressions of `=~`: RE2 syntax as Go reads it, matched against the whole text, `.` matching newlines.
//!
//! The pattern is checked and translated for the `regex` crate, whose dialect differs in small things: ASCII classes `\d \w \s`, `\Q…\E`,
//! literal braces, class set operations, word-start assertions, and Go's bound on repetition counts.

use std::fmt::Write;
use std::sync::Arc;

use memchr::memmem::Finder;
use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};

/// Greatest count in `x{n}`; larger ones are refused as in RE2.
const MAX_REPEAT: u32 = 1000;

/// Compiled size in bytes. A longer pattern is refused; keeps hostile patterns like `((a{100}){100})` from taking memory.
const MAX_COMPILED_BYTES: usize = 4 << 20;

/// A compiled pattern, anchored at both ends.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
    /// Finds a text that is part of every match.
    required: Option<Arc<Finder<'static>>>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

/// The pattern is no regular expression, or compiles to more than [`MAX_COMPILED_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid regex")]
pub struct InvalidPattern;

impl Pattern {
    pub fn compile(pattern: &str) -> Result<Self, InvalidPattern> {
        let translated = translate(pattern)?;
        // The bare text must compile by itself, so that `a)(b` is refused.
        regex_syntax_ok(&translated)?;
        let (start, searched, end) = unanchored(&translated);
        let regex = build(&format!("{start}(?s:{searched}){end}"))?;
        let required = required_literal(regex.as_str()).map(|literal| Arc::new(Finder::new(&literal).into_owned()));
        Ok(Self { regex, required })
    }

    /// Returns a text that every matching text contains, if there is one.
    pub fn required(&self) -> Option<&[u8]> {
        self.required.as_ref().map(|finder| finder.needle())
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// Whether `text`, with invalid UTF-8 replaced, matches.
    pub fn is_match_lossy(&self, text: &[u8]) -> bool {
        if self.required.as_ref().is_some_and(|finder| finder.find(text).is_none()) {
            return false;
        }
        // The check alone is much faster than finding out what to replace.
        match std::str::from_utf8(text) {
            Ok(text) => self.regex.is_match(text),
            Err(_) => self.regex.is_match(&String::from_utf8_lossy(text)),
        }
    }
}

/// Returns the longest literal that is part of whatever `pattern` matches, if it has one that invalid UTF-8 cannot become.
fn required_literal(pattern: &str) -> Option<Vec<u8>> {
    fn literal_of(hir: &Hir) -> Option<&[u8]> {
        match hir.kind() {
            HirKind::Literal(literal) => Some(&literal.0),
            HirKind::Capture(capture) => literal_of(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min > 0 => literal_of(&repetition.sub),
            HirKind::Concat(parts) => parts.iter().filter_map(literal_of).max_by_key(|literal| literal.len()),
            HirKind::Repetition(_) | HirKind::Alternation(_) | HirKind::Class(_) | HirKind::Look(_) | HirKind::Empty => None,
        }
    }
    let hir = regex_syntax::parse(pattern).ok()?;
    let literal = std::str::from_utf8(literal_of(&hir)?).ok()?;
    (!literal.is_empty() && !literal.contains(char::REPLACEMENT_CHARACTER)).then(|| literal.as_bytes().to_vec())
}

/// Takes `.*` off both ends of a translated pattern, each with its anchor: what is left is searched anywhere, most often by its literals alone.
/// Returns the anchors around it.
fn unanchored(translated: &str) -> (&'static str, &str, &'static str) {
    // Alternatives reach to the ends, and flags change what `.` means, unless they are those of a group.
    let is_flag = |at: usize| translated[at..].find([':', ')']).is_none_or(|end| translated[at + end..].starts_with(')'));
    let has_flags = translated.match_indices("(?").any(|(at, _)| is_flag(at));
    if has_flags || has_alternatives(translated) {
        return ("^", translated, "$");
    }
    let (start, rest) = match translated.strip_prefix(".*") {
        Some(rest) if !rest.starts_with('?') => ("", rest),
        _ => ("^", translated),
    };
    match rest.strip_suffix(".*") {
        Some(searched) if !searched.ends_with('\\') => (start, searched, ""),
        _ => (start, rest, "$"),
    }
}

/// Whether a translated pattern has a `|` outside of groups. In classes, such characters are escaped by now.
fn has_alternatives(translated: &str) -> bool {
    let mut depth = 0_usize;
    let mut bytes = translated.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

fn build(pattern: &str) -> Result<Regex, InvalidPattern> {
    RegexBuilder::new(pattern).size_limit(MAX_COMPILED_BYTES).build().map_err(|_| InvalidPattern)
}

fn regex_syntax_ok(translated: &str) -> Result<(), InvalidPattern> {
    let has_group_syntax = translated.contains(')');
    if has_group_syntax { build(translated).map(|_| ()) } else { Ok(()) }
}

/// What the last translated item was, to find `a**` and `a{2}{3}`, which Go refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Start of an expression, alternative or group.
    Nothing,
    Item,
    Repetition,
}

fn translate(pattern: &str) -> Result<String, InvalidPattern> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut last = Last::Nothing;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '\\' if after.starts_with('Q') => {
                let quoted = &after[1..];
                let end = quoted.find("\\E").unwrap_or(quoted.len());
                out.push_str(&regex::escape(&quoted[..end]));
                rest = quoted.get(end + 2..).unwrap_or("");
                last = Last::Item;
                continue;
            }
            '\\' => {
                rest = escape(after, &mut out, false)?;
                last = Last::Item;
                continue;
            }
            '[' => {
                rest = class(after, &mut out)?;
                last = Last::Item;
                continue;
            }
            '(' => {
                rest = group(after, &mut out)?;
                last = Last::Nothing;
                continue;
            }
            '*' | '+' | '?' => {
                rest = repetition(&rest[..1], after, last, &mut out)?;
                last = Last::Repetition;
                continue;
            }
            '{' => match counted(after)? {
                Some(length) => {
                    rest = repetition(&rest[..=length], &after[length..], last, &mut out)?;
                    last = Last::Repetition;
                    continue;
                }
                None => {
                    out.push_str("\\{");
                    last = Last::Item;
                }
            },
            '|' => {
                out.push('|');
                last = Last::Nothing;
            }
            '}' | ']' | '#' | '&' | '~' | '-' => {
                out.push('\\');
                out.push(c);
                last = Last::Item;
            }
            _ => {
                out.push(c);
                last = Last::Item;
            }
        }
        rest = after;
    }
    Ok(out)
}

/// Writes a repetition operator with its `?`; refuses one that repeats nothing or a repetition.
fn repetition<'a>(operator: &str, after: &'a str, last: Last, out: &mut String) -> Result<&'a str, InvalidPattern> {
    if last != Last::Item {
        return Err(InvalidPattern);
    }
    out.push_str(operator);
    match after.strip_prefix('?') {
        Some(after) => {
            out.push('?');
            Ok(after)
        }
        None => Ok(after),
    }
}

/// Returns the length of `n}`, `n,}` or `n,m}` at the start of `text`; `None` when the brace before it is a literal.
fn counted(text: &str) -> Result<Option<usize>, InvalidPattern> {
    let Some((body, _)) = text.split_once('}') else {
        return Ok(None);
    };
    let (low, high) = body.split_once(',').unwrap_or((body, body));
    let is_count = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_count(low) || !(high.is_empty() || is_count(high)) {
        return Ok(None);
    }
    let low: u32 = low.parse().map_err(|_| InvalidPattern)?;
    let high: u32 = if high.is_empty() { low } else { high.parse().map_err(|_| InvalidPattern)? };
    if high > MAX_REPEAT || low > high {
        return Err(InvalidPattern);
    }
    Ok(Some(body.len() + 1))
}

/// Writes what follows `(`; only Go's flags pass.
fn group<'a>(after: &'a str, out: &mut String) -> Result<&'a str, InvalidPattern> {
    let Some(special) = after.strip_prefix('?') else {
        out.push('(');
        return Ok(after);
    };
    if let Some(named) = special.strip_prefix("P<").or_else(|| special.strip_prefix('<')) {
        let (name, body) = named.split_once('>').ok_or(InvalidPattern)?;
        let is_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
        if name.is_empty() || !name.chars().all(is_word) {
            return Err(InvalidPattern);
        }
        // Captures are never read: the name may start with a digit in Go and not here, so it is dropped.
        out.push('(');
        return Ok(body);
    }
    let end = special.find([':', ')']).ok_or(InvalidPattern)?;
    let flags = &special[..end];
    if !flags.chars().all(|c| "imsU-".contains(c)) || (flags.is_empty() && special[end..].starts_with(')')) {
        return Err(InvalidPattern);
    }
    let _ = write!(out, "(?{}", &special[..=end]);
    Ok(&special[end + 1..])
}

/// Writes the escape whose text after the backslash is `after`; returns what follows it.
fn escape<'a>(after: &'a str, out: &mut String, in_class: bool) -> Result<&'a str, InvalidPattern> {
    let c = after.chars().next().ok_or(InvalidPattern)?;
    let rest = &after[c.len_utf8()..];
    match c {
        'd' => out.push_str(if in_class { "0-9" } else { "[0-9]" }),
        'D' => out.push_str("[^0-9]"),
        'w' => out.push_str(if in_class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        's' => out.push_str(if in_class { "\\t\\n\\f\\r " } else { "[\\t\\n\\f\\r ]" }),
        'S' => out.push_str("[^\\t\\n\\f\\r ]"),
        'a' | 'f' | 'n' | 'r' | 't' | 'v' => {
            out.push('\\');
            out.push(c);
        }
        'b' if !in_class => out.push_str("(?-u:\\b)"),
        'B' | 'A' | 'z' if !in_class => {
            out.push('\\');
            out.push(c);
        }
        'p' | 'P' => {
            let end = if rest.starts_with('{') {
                rest.find('}').ok_or(InvalidPattern)? + 1
            } else {
                rest.chars().next().ok_or(InvalidPattern)?.len_utf8()
            };
            let _ = write!(out, "\\{c}{}", &rest[..end]);
            return Ok(&rest[end..]);
        }
        'x' => {
            let (digits, rest) = match rest.strip_prefix('{') {
                Some(braced) => braced.split_once('}').ok_or(InvalidPattern)?,
                None => rest.split_at_checked(2).ok_or(InvalidPattern)?,
            };
            return code_point(digits, 16, out).map(|()| rest);
        }
        // Octal: `\0`, `\012`, `\123`; a lone `\1` would be a backreference.
        '0'..='7' => {
            let digits = after.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
            if c != '0' && digits < 2 {
                return Err(InvalidPattern);
            }
            return code_point(&after[..digits], 8, out).map(|()| &after[digits..]);
        }
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => literal(c, out),
        _ => return Err(InvalidPattern),
    }
    Ok(rest)
}

fn code_point(digits: &str, radix: u32, out: &mut String) -> Result<(), InvalidPattern> {
    let code = u32::from_str_radix(digits, radix).map_err(|_| InvalidPattern)?;
    literal(char::from_u32(code).ok_or(InvalidPattern)?, out);
    Ok(())
}

/// Writes `c` so that it stands for itself, in a class or outside.
fn literal(c: char, out: &mut String) {
    let _ = write!(out, "\\x{{{:x}}}", u32::from(c));
}

/// Writes the class whose text after `[` is `after`; returns what follows its `]`.
fn class<'a>(after: &'a str, out: &mut String) -> Result<&'a str, InvalidPattern> {
    out.push('[');
    let mut rest = after;
    if let Some(negated) = rest.strip_prefix('^') {
        out.push('^');
        rest = negated;
    }
    let mut is_first = true;
    loop {
        let c = rest.chars().next().ok_or(InvalidPattern)?;
        let after = &rest[c.len_utf8()..];
        match c {
            ']' if !is_first => {
                out.push(']');
                return Ok(after);
            }
            '\\' => rest = escape(after, out, true)?,
            '[' if after.starts_with(':') && after[1..].contains(":]") => {
                let end = after.find(":]").map_or(after.len(), |at| at + 2);
                let _ = write!(out, "[{}", &after[..end]);
                rest = &after[end..];
            }
            // A hyphen is a range unless it stands first or last; the crate's rules agree except for `--`.
            '-' if !is_first && !after.starts_with(']') && !after.starts_with('-') => {
                out.push('-');
                rest = after;
            }
            _ if c.is_alphanumeric() => {
                out.push(c);
                rest = after;
            }
            _ => {
                literal(c, out);
                rest = after;
            }
        }
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_the_whole_text_as_in_go() {
        let cases: &[(&str, &str, bool)] = &[
            ("s", "s", true),
            ("s", "xs", false),
            ("s.*", "s\nx", true),
            ("a|b", "ab", false),
            (r"\d+", "٣", false),
            (r"\w+", "é", false),
            (r"\Qa.b\E+", "a.bb", true),
            (r"a{", "a{", true),
            (r"a{,2}", "a{,2}", true),
            (r"[[]", "[", true),
            (r"[a&&b]", "&", true),
            (r"[]a]", "]", true),
            (r"[a-]", "-", true),
            (r"[^a-c]", "b", false),
            (r"[[:alpha:]]+", "ab", true),
            (r"\<a\>", "<a>", true),
            (r"\x41\x{42}\103", "ABC", true),
            (r"(?i)get.*", "GET /x", true),
            (r"(?P<1a>x)", "x", true),
            (r"\pL\p{Greek}", "aα", true),
            (r"a{2,}?", "aaa", true),
            (r"\bfoo\b", "foo", true),
            (r"#~-&", "#~-&", true),
            ("", "", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Pattern::compile(pattern).map(|p| p.is_match(text)), Ok(*expected), "{pattern} on {text}");
        }
    }

    #[test]
    fn open_ends_are_searched_without_anchors() {
        let cases = [
            (".*a.*", ("", "a", "")),
            ("a.*", ("^", "a", "")),
            (".*a", ("", "a", "$")),
            (".*", ("", "", "$")),
            (".*(a|b).*", ("", "(a|b)", "")),
            (".*(?:a|b).*", ("", "(?:a|b)", "")),
            (".*[|(].*", ("", r"[\x{7c}\x{28}]", "")),
            (".*a|b.*", ("^", ".*a|b.*", "$")),
            (".*?a", ("^", ".*?a", "$")),
            (r"a\.*", ("^", r"a\x{2e}*", "$")),
            (".*(?i:a).*", ("", "(?i:a)", "")),
            ("(?-s)a.*", ("^", "(?-s)a.*", "$")),
        ];
        for (pattern, expected) in cases {
            assert_eq!(unanchored(&translate(pattern).unwrap()), expected, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn taking_off_open_ends_changes_nothing(pattern in r"(\.\*|a|b|\||\(a\|b\)|\[ab\]|\\|\?|\^|\$){1,8}", text in "[ab\n.\\\\]{0,6}") {
            if let (Ok(pattern), Ok(translated)) = (Pattern::compile(&pattern), translate(&pattern)) {
                let anchored = build(&format!("^(?s:{translated})$")).unwrap();
                prop_assert_eq!(pattern.is_match(&text), anchored.is_match(&text));
            }
        }
    }

    #[test]
    fn literals_that_every_match_contains() {
        let cases = [
            (".*id = 4242.*", Some("id = 4242")),
            ("(GET|POST) /cart/.+", Some(" /cart/")),
            ("(?:abc)+[0-9]d", Some("abc")),
            ("(?:abc)*d", Some("d")),
            ("(?i)abc", None),
            ("a|b", None),
            (".*", None),
            ("x\u{fffd}y", None),
        ];
        for (pattern, expected) in cases {
            assert_eq!(Pattern::compile(pattern).unwrap().required(), expected.map(str::as_bytes), "{pattern}");
        }
        assert!(Pattern::compile("a.b").unwrap().is_match_lossy(b"a\xffb"));
    }

    proptest! {
        #[test]
        fn what_matches_contains_what_is_required(pattern in r"(a|b|ab|\(a\|b\)|\(ab\)[*+?]|\[ab\]|\.|\.\*|a\{0,2\}){1,6}", text in "[ab]{0,8}") {
            let pattern = Pattern::compile(&pattern).unwrap();
            if pattern.is_match(&text) {
                prop_assert!(pattern.required().is_none_or(|required| memchr::memmem::find(text.as_bytes(), required).is_some()));
                prop_assert!(pattern.is_match_lossy(text.as_bytes()));
            }
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for pattern in [
            "(ab",
            "a)(b",
            "a**",
            "a{2}{3}",
            "*a",
            "x{1001}",
            "x{3,2}",
            r"\C",
            r"\1",
            "(?=a)",
            "(?x)a",
            "(?<!a)b",
            "[a",
            r"\",
            "a|*",
            "((a{1000}){1000}){9}",
        ] {
            assert_eq!(Pattern::compile(pattern).map(|_| ()), Err(InvalidPattern), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_literals_match_themselves(text in ".{0,30}") {
            let _ = Pattern::compile(&text);
            let quoted = regex::escape(&text);
            if let Ok(pattern) = Pattern::compile(&quoted) {
                prop_assert!(pattern.is_match(&text), "{quoted}");
            }
        }
    }
}
