//! `${NAME}` expressions in configuration text (config, environment expansion).
//!
//! Only braces trigger expansion; `$NAME` stays as it is, `$${` is a literal `${`. An undefined variable is empty. Shell semantics beyond the
//! documented forms are deliberately absent: `:-`, `:=`, `=`, `:?` and `:+` all mean "this word when empty".

/// Deepest nesting of `${A:-${B:-…}}`. Files nest two or three levels; the expander recurses.
const MAX_NESTING: usize = 64;

/// Why a text cannot be expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    #[error("missing closing brace")]
    MissingClosingBrace,
    #[error("bad substitution")]
    BadSubstitution,
    #[error("unable to parse variable name")]
    BadName,
    #[error("unable to parse substitution within function")]
    BadFunctionArgument,
    #[error("unable to parse default function")]
    BadDefault,
}

/// Expands every expression of `text`. `lookup` returns the value of a variable.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    let mut expander = Expander { rest: text, lookup, depth: 0 };
    let mut out = String::with_capacity(text.len());
    while let Some(c) = expander.next() {
        match c {
            '\\' if expander.rest.starts_with(['/', '\\']) => out.extend(expander.next()),
            '$' if expander.rest.starts_with("${") => {
                expander.rest = &expander.rest[2..];
                out.push_str("${");
            }
            '$' if expander.rest.starts_with('{') => {
                expander.rest = &expander.rest[1..];
                out.push_str(&expander.expression()?);
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Expands with the variables of this process.
pub fn expand_from_environment(text: &str) -> Result<String, ExpandError> {
    expand(text, &|name| std::env::var(name).ok())
}

struct Expander<'a> {
    rest: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
}

impl Expander<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(prefix) else { return false };
        self.rest = rest;
        true
    }

    fn close(&mut self) -> Result<(), ExpandError> {
        if self.eat("}") { Ok(()) } else { Err(ExpandError::MissingClosingBrace) }
    }

    /// What follows `${`, up to and with its closing brace.
    fn expression(&mut self) -> Result<String, ExpandError> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(ExpandError::BadSubstitution);
        }
        if self.rest.is_empty() {
            return Err(ExpandError::MissingClosingBrace);
        }
        let wants_length = self.eat("#");
        let name = self.name()?;
        let value = (self.lookup)(&name).unwrap_or_default();
        let result = if wants_length {
            self.close()?;
            value.len().to_string()
        } else {
            self.operator(value)?
        };
        self.depth -= 1;
        Ok(result)
    }

    fn name(&mut self) -> Result<String, ExpandError> {
        let end = self.rest.find(|c: char| !c.is_alphabetic() && !c.is_numeric() && c != '_').unwrap_or(self.rest.len());
        if end == 0 {
            return Err(ExpandError::BadName);
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(name.to_owned())
    }

    fn operator(&mut self, value: String) -> Result<String, ExpandError> {
        for (operator, change) in
            [(",,", CaseChange::LowerAll), (",", CaseChange::LowerFirst), ("^^", CaseChange::UpperAll), ("^", CaseChange::UpperFirst)]
        {
            if self.eat(operator) {
                self.close()?;
                return Ok(change.apply(&value));
            }
        }
        for operator in [":-", ":=", ":?", ":+", "="] {
            if self.eat(operator) {
                let word = self.word(&['}']).map_err(|error| match error {
                    ExpandError::MissingClosingBrace => error,
                    _ => ExpandError::BadDefault,
                })?;
                self.close()?;
                return Ok(if value.is_empty() { word } else { value });
            }
        }
        if self.eat(":") {
            return self.substring(&value);
        }
        for (operator, trim) in
            [("##", Trim::LongestPrefix), ("#", Trim::ShortestPrefix), ("%%", Trim::LongestSuffix), ("%", Trim::ShortestSuffix)]
        {
            if self.eat(operator) {
                let pattern = self.word(&['}'])?;
                self.close()?;
                return Ok(trim.apply(&value, &pattern).to_owned());
            }
        }
        if self.eat("/") {
            return self.replacement(&value);
        }
        self.close()?;
        Ok(value)
    }

    /// Literal text and nested expressions up to one of `ends`, which stays.
    fn word(&mut self, ends: &[char]) -> Result<String, ExpandError> {
        let mut word = String::new();
        loop {
            if self.rest.starts_with(ends) {
                return Ok(word);
            }
            if self.eat("$${") {
                word.push_str("${");
                continue;
            }
            if self.eat("${") {
                word.push_str(&self.expression()?);
                continue;
            }
            word.push(self.next().ok_or(ExpandError::MissingClosingBrace)?);
        }
    }

    /// `pos` or `pos:len`, in bytes.
    fn substring(&mut self, value: &str) -> Result<String, ExpandError> {
        let position = self.word(&[':', '}'])?;
        let length = if self.eat(":") { Some(self.word(&['}'])?) } else { None };
        self.close()?;
        let (Ok(position), Ok(length)) = (position.trim().parse::<i64>(), length.map(|length| length.trim().parse::<usize>()).transpose())
        else {
            return Ok(value.to_owned());
        };
        let start = match usize::try_from(position) {
            Ok(start) => start,
            Err(_) => value.len().saturating_sub(usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX)),
        };
        let Some(tail) = value.as_bytes().get(start..) else { return Ok(String::new()) };
        let kept = &tail[..length.map_or(tail.len(), |length| length.min(tail.len()))];
        Ok(String::from_utf8_lossy(kept).into_owned())
    }

    fn replacement(&mut self, value: &str) -> Result<String, ExpandError> {
        let where_to = if self.eat("/") {
            '/'
        } else if self.eat("#") {
            '#'
        } else if self.eat("%") {
            '%'
        } else {
            ' '
        };
        let from = self.word(&['/', '}'])?;
        if !self.eat("/") {
            return Err(ExpandError::BadFunctionArgument);
        }
        let to = self.word(&['}'])?;
        self.close()?;
        if from.is_empty() {
            return Ok(value.to_owned());
        }
        Ok(match where_to {
            '/' => value.replace(&from, &to),
            '#' => value.strip_prefix(&from).map_or_else(|| value.to_owned(), |rest| format!("{to}{rest}")),
            '%' => value.strip_suffix(&from).map_or_else(|| value.to_owned(), |rest| format!("{rest}{to}")),
            _ => value.replacen(&from, &to, 1),
        })
    }
}

#[derive(Clone, Copy)]
enum CaseChange {
    LowerFirst,
    LowerAll,
    UpperFirst,
    UpperAll,
}

impl CaseChange {
    fn apply(self, value: &str) -> String {
        let mut chars = value.chars();
        match self {
            Self::LowerAll => value.to_lowercase(),
            Self::UpperAll => value.to_uppercase(),
            Self::LowerFirst => chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect()),
            Self::UpperFirst => chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect()),
        }
    }
}

#[derive(Clone, Copy)]
enum Trim {
    ShortestPrefix,
    LongestPrefix,
    ShortestSuffix,
    LongestSuffix,
}

impl Trim {
    fn apply<'v>(self, value: &'v str, pattern: &str) -> &'v str {
        let cuts: Vec<usize> = value.char_indices().map(|(index, _)| index).chain([value.len()]).collect();
        let prefix = |cut: &&usize| glob_matches(pattern, &value[..**cut]);
        let suffix = |cut: &&usize| glob_matches(pattern, &value[**cut..]);
        match self {
            Self::ShortestPrefix => cuts.iter().find(prefix).map_or(value, |cut| &value[*cut..]),
            Self::LongestPrefix => cuts.iter().rev().find(prefix).map_or(value, |cut| &value[*cut..]),
            Self::ShortestSuffix => cuts.iter().rev().find(suffix).map_or(value, |cut| &value[..*cut]),
            Self::LongestSuffix => cuts.iter().find(suffix).map_or(value, |cut| &value[..*cut]),
        }
    }
}

/// `*` any text, `?` one character, `[a-z]`/`[!a-z]` a class, `\x` a literal.
fn glob_matches(pattern: &str, text: &str) -> bool {
    let mut expression = String::from("(?s)^");
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' => {
                expression.push('[');
                if chars.next_if(|c| ['!', '^'].contains(c)).is_some() {
                    expression.push('^');
                }
                for c in chars.by_ref().take_while(|c| *c != ']') {
                    if ['[', '\\', '&', '~'].contains(&c) {
                        expression.push('\\');
                    }
                    expression.push(c);
                }
                expression.push(']');
            }
            '\\' => expression.push_str(&regex::escape(&chars.next().unwrap_or('\\').to_string())),
            c => expression.push_str(&regex::escape(&c.to_string())),
        }
    }
    expression.push('$');
    // A malformed class matches nothing, as in the compatible system.
    regex::Regex::new(&expression).is_ok_and(|expression| expression.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, ExpandError> {
        expand(text, &|name| {
            let value = match name {
                "N" => "value",
                "PATH_LIKE" => "/usr/local/bin",
                "MIXED" => "aBC",
                "EMPTY" => "",
                _ => return None,
            };
            Some(value.to_owned())
        })
    }

    #[test]
    fn every_form() {
        for (text, result) in [
            ("a ${N} $N $$ z", "a value $N $$ z"),
            ("${UNSET}", ""),
            ("${EMPTY:-word}|${N:-word}", "word|value"),
            ("${UNSET:=w}${UNSET=x}${UNSET:?y}${UNSET:+z}", "wxyz"),
            ("${D:-${E:-7q}}", "7q"),
            ("${D:-a${N}b}", "avalueb"),
            ("${#N}", "5"),
            ("${MIXED,}${MIXED,,}${N^}${N^^}", "aBCabcValueVALUE"),
            ("${N:1}|${N:1:3}|${N:-9}|${N:9}|${N:x}", "alue|alu|value||value"),
            ("${N: -3}|${N:0:-1}", "lue|value"),
            ("${PATH_LIKE#*/}|${PATH_LIKE##*/}", "usr/local/bin|bin"),
            ("${PATH_LIKE%/*}|${PATH_LIKE%%/*}", "/usr/local|"),
            ("${N/a/X}${PATH_LIKE//l/L}", "vXlue/usr/LocaL/bin"),
            ("${N/#va/X}${N/%ue/X}", "XluevalX"),
            ("$${N}", "${N}"),
            (r"a\/b\\c\d", r"a/b\c\d"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(result), "{text}");
        }
    }

    #[test]
    fn errors() {
        for (text, error) in [
            ("${N-word}", "missing closing brace"),
            ("${N.x}", "missing closing brace"),
            ("${N", "missing closing brace"),
            ("${N:-x", "missing closing brace"),
            ("${", "missing closing brace"),
            ("${}", "unable to parse variable name"),
            ("${N/a}", "unable to parse substitution within function"),
            ("${N:-${}}", "unable to parse default function"),
        ] {
            assert_eq!(expanded(text).unwrap_err().to_string(), error, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert_eq!(expanded(&"${A:-".repeat(100_000)).unwrap_err(), ExpandError::BadDefault);
    }
}
