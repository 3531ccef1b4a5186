//! Splits a query text into tokens (traceql, lexical grammar).
//!
//! Scanning follows Go's text scanner, on which the language was defined: which texts are numbers, comments and strings, and which
//! messages bad ones give. On top of that come the language's own tokens: operators and scope prefixes, durations, attribute names.
//!
//! Invariants
//! * The token list ends with [`TokenKind::End`] or with [`TokenKind::Bad`], after which nothing was read.
//! * Positions are those the compatible system reports, also where it gives line 0.

use super::error::Position;

mod duration;
mod number;
mod quoted;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) position: Position,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// A keyword, an operator or a scope prefix of [`KEYWORDS`] or [`SYMBOLS`].
    Fixed(&'static str),
    /// A word that is no keyword, an attribute name, or a character without meaning.
    Identifier(String),
    String(String),
    Integer(i64),
    Float(f64),
    /// Nanoseconds.
    Duration(i64),
    /// Follows every attribute name.
    EndAttribute,
    End,
    /// Text that is no token; carries the message.
    Bad(String),
}

impl TokenKind {
    /// Returns the name of the token in `syntax error: unexpected …`.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Fixed(text) => text,
            Self::Identifier(_) => "IDENTIFIER",
            Self::String(_) => "STRING",
            Self::Integer(_) => "INTEGER",
            Self::Float(_) => "FLOAT",
            Self::Duration(_) => "DURATION",
            Self::EndAttribute => "END_ATTRIBUTE",
            Self::End => "$end",
            Self::Bad(message) => message,
        }
    }
}

pub(super) const SYMBOLS: &[&str] = &[
    ",",
    ".",
    "{",
    "}",
    "(",
    ")",
    "=",
    "!=",
    "=~",
    "!~",
    ">",
    ">=",
    "<",
    "<=",
    "+",
    "-",
    "/",
    "%",
    "*",
    "^",
    "&&",
    "||",
    "!",
    "|",
    ">>",
    "<<",
    "~",
    "!>",
    "!<",
    "!>>",
    "!<<",
    "&~",
    "&>",
    "&<",
    "&>>",
    "&<<",
    "parent.",
    "root.",
    "resource.",
    "span.",
    "event.",
    "link.",
    "instrumentation.",
    "trace:",
    "span:",
    "event:",
    "link:",
    "instrumentation:",
];

pub(super) const KEYWORDS: &[&str] = &[
    "true",
    "false",
    "nil",
    "ok",
    "error",
    "unset",
    "unspecified",
    "internal",
    "server",
    "client",
    "producer",
    "consumer",
    "duration",
    "childCount",
    "name",
    "status",
    "statusMessage",
    "kind",
    "rootName",
    "rootServiceName",
    "rootService",
    "traceDuration",
    "nestedSetLeft",
    "nestedSetRight",
    "nestedSetParent",
    "id",
    "traceID",
    "spanID",
    "parentID",
    "timeSinceStart",
    "version",
    "parent",
    "count",
    "avg",
    "max",
    "min",
    "sum",
    "by",
    "coalesce",
    "select",
    "rate",
    "count_over_time",
    "min_over_time",
    "max_over_time",
    "avg_over_time",
    "sum_over_time",
    "quantile_over_time",
    "histogram_over_time",
    "compare",
    "topk",
    "bottomk",
    "with",
];

/// Tokens after which an attribute name is read.
const NAME_PREFIXES: &[&str] = &[".", "resource.", "span.", "parent.", "root.", "event.", "link.", "instrumentation."];

fn fixed(text: &str) -> Option<&'static str> {
    SYMBOLS.iter().chain(KEYWORDS).copied().find(|known| *known == text)
}

/// Whether `c` may stand in an attribute name without quotes.
pub(super) fn is_attribute_char(c: char) -> bool {
    !c.is_whitespace() && !"{}()=~!<>&|^,".contains(c)
}

/// Returns the tokens of `text`.
pub(super) fn tokenize(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, line: 1, column: 0, scan: Position::default(), has_consumed: false, tokens: Vec::new() };
    lexer.run();
    lexer.tokens
}

struct Lexer<'a> {
    text: &'a str,
    /// Byte offset of the next character.
    at: usize,
    /// Line and column of the character before `at`.
    line: u32,
    column: u32,
    /// Where the last scanned token began.
    scan: Position,
    /// Whether characters were consumed one by one since then.
    has_consumed: bool,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) {
        loop {
            self.skip_blanks();
            let kind = self.next_kind().unwrap_or_else(TokenKind::Bad);
            let is_last = matches!(kind, TokenKind::End | TokenKind::Bad(_));
            let prefix = match kind {
                TokenKind::Fixed(text) if NAME_PREFIXES.contains(&text) => Some(text),
                _ => None,
            };
            self.push(kind);
            if is_last {
                return;
            }
            if let Some(prefix) = prefix
                && let Err(message) = self.attribute(prefix)
            {
                return self.push(TokenKind::Bad(message));
            }
        }
    }

    fn push(&mut self, kind: TokenKind) {
        let line = if self.has_consumed { 0 } else { self.scan.line };
        self.tokens.push(Token { kind, position: Position { line, column: self.scan.column } });
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        if c == '\n' {
            self.line += 1;
            self.column = 0;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    /// Consumes `length` bytes, a whole number of characters.
    fn skip(&mut self, length: usize) -> &'a str {
        let end = self.at + length;
        let skipped = &self.text[self.at..end];
        while self.at < end {
            self.bump();
        }
        skipped
    }

    /// Consumes the characters that fulfil `accept`.
    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let length = self.rest().find(|c| !accept(c)).unwrap_or(self.rest().len());
        self.skip(length)
    }

    /// Skips blanks and comments. An unterminated comment is left for [`Self::next_kind`].
    fn skip_blanks(&mut self) {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
            let rest = self.rest();
            if rest.starts_with("//") {
                self.take_while(|c| c != '\n');
                continue;
            }
            let Some(length) = rest.strip_prefix("/*").and_then(|body| body.find("*/")) else {
                return;
            };
            self.skip(length + 4);
        }
    }

    fn next_kind(&mut self) -> Result<TokenKind, String> {
        self.has_consumed = false;
        self.scan = Position { line: self.line, column: self.column + 1 };
        let Some(c) = self.peek() else {
            if self.text.is_empty() {
                self.scan = Position::default();
            }
            return Ok(TokenKind::End);
        };
        if self.rest().starts_with("/*") {
            return Err("comment not terminated".to_owned());
        }
        let is_fraction = c == '.' && self.rest()[1..].starts_with(|c: char| c.is_ascii_digit());
        match c {
            '"' => quoted::string(self).map(TokenKind::String),
            '`' => quoted::raw_string(self).map(TokenKind::String),
            '\'' => quoted::character(self).map(TokenKind::Identifier),
            '\0' => Err("invalid character NUL".to_owned()),
            _ if c.is_ascii_digit() || is_fraction => self.number_or_duration(),
            _ if c == '_' || c.is_alphabetic() => {
                let word = self.take_while(|c| c == '_' || c.is_alphanumeric());
                Ok(self.extended(word))
            }
            _ => {
                self.bump();
                Ok(self.extended(&self.text[self.at - c.len_utf8()..self.at]))
            }
        }
    }

    /// Extends the scanned text by following characters while the longer text is a token too.
    fn extended(&mut self, scanned: &str) -> TokenKind {
        let start = self.at - scanned.len();
        let mut found = fixed(scanned);
        while let Some(next) = self.peek() {
            let Some(longer) = fixed(&self.text[start..self.at + next.len_utf8()]) else {
                break;
            };
            self.bump();
            self.has_consumed = true;
            found = Some(longer);
        }
        found.map_or_else(|| TokenKind::Identifier(scanned.to_owned()), TokenKind::Fixed)
    }

    fn number_or_duration(&mut self) -> Result<TokenKind, String> {
        let number = number::scan(self.rest())?;
        let text = self.skip(number.length);
        let units = self.rest();
        let units = &units[..units.find(|c: char| !(c.is_ascii_digit() || ".nsumhµdwy".contains(c))).unwrap_or(units.len())];
        if !units.is_empty()
            && let Some(nanos) = duration::parse(&format!("{text}{units}"))
        {
            self.skip(units.len());
            self.has_consumed = true;
            return Ok(TokenKind::Duration(nanos));
        }
        if number.is_float { number::float(text).map(TokenKind::Float) } else { number::integer(text).map(TokenKind::Integer) }
    }

    /// Reads what follows a scope: further scope, name, end marker.
    fn attribute(&mut self, prefix: &'static str) -> Result<(), String> {
        if matches!(prefix, "parent." | "root.") {
            for scope in ["span.", "resource."] {
                if self.rest().starts_with(scope) {
                    self.skip(scope.len());
                    self.has_consumed = true;
                    self.push(TokenKind::Fixed(scope));
                    break;
                }
            }
        }
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|c| is_attribute_char(*c)) {
            self.has_consumed = true;
            if c == '"' {
                quoted::name_part(self, &mut name)?;
            } else {
                self.bump();
                name.push(c);
            }
        }
        if !name.is_empty() {
            self.push(TokenKind::Identifier(name));
        }
        self.push(TokenKind::EndAttribute);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(text: &str) -> String {
        tokenize(text).iter().map(|token| token.kind.name().to_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn splits_operators_greedily() {
        assert_eq!(names("!>> !<<&>>&~ == ~="), "!>> !<< &>> &~ = = ~ = $end");
        assert_eq!(
            names("span:id span.id parent.span.x"),
            "span: id span. IDENTIFIER END_ATTRIBUTE parent. span. IDENTIFIER END_ATTRIBUTE $end"
        );
        assert_eq!(names(".5xx .a//b\n// c\n/* d */ 1x"), "FLOAT IDENTIFIER . IDENTIFIER END_ATTRIBUTE INTEGER IDENTIFIER $end");
    }

    #[test]
    fn positions_count_characters() {
        let tokens = tokenize("{ .ä =\n \"ö\" }");
        let position = |at: usize| (tokens[at].position.line, tokens[at].position.column);
        assert_eq!((position(0), position(1), position(2)), ((1, 1), (1, 3), (0, 3)));
        assert_eq!((position(4), position(5), position(6)), ((1, 6), (2, 2), (2, 6)));
    }

    #[test]
    fn bad_text_ends_the_list() {
        for (text, message) in [
            ("\"a", "literal not terminated"),
            ("\"\\q\"", "invalid char escape"),
            ("'ab'", "invalid char literal"),
            ("/* a", "comment not terminated"),
            ("0x", "hexadecimal literal has no digits"),
            ("1e", "exponent has no digits"),
            ("1__0", "'_' must separate successive digits"),
            ("1e999", "strconv.ParseFloat: parsing \"1e999\": value out of range"),
        ] {
            assert_eq!(names(text), message);
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ -~µ\n\"'`\\\\ä]{0,60}") {
            prop_assert!(!tokenize(&text).is_empty());
        }
    }
}
