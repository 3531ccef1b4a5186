//! Quoted texts: strings, raw strings, characters, and quoted parts of attribute names.

use super::Lexer;

const NOT_TERMINATED: &str = "literal not terminated";
const BAD_ESCAPE: &str = "invalid char escape";

/// Reads `"…"` with Go's escapes. Bytes written by `\x` and octal escapes that are no UTF-8 become replacement characters.
pub(super) fn string(lexer: &mut Lexer<'_>) -> Result<String, String> {
    let mut bytes = Vec::new();
    until_quote(lexer, '"', |content| match content {
        Content::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        Content::Byte(byte) => bytes.push(byte),
    })?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|err| String::from_utf8_lossy(err.as_bytes()).into_owned()))
}

/// Reads `` `…` ``; carriage returns are dropped.
pub(super) fn raw_string(lexer: &mut Lexer<'_>) -> Result<String, String> {
    let content = &lexer.rest()[1..];
    let length = content.find('`').ok_or(NOT_TERMINATED)?;
    lexer.skip(length + 2);
    Ok(content[..length].replace('\r', ""))
}

/// Reads `'c'`, which is a word including its quotes.
pub(super) fn character(lexer: &mut Lexer<'_>) -> Result<String, String> {
    let start = lexer.rest();
    let mut count = 0;
    until_quote(lexer, '\'', |_| count += 1)?;
    if count != 1 {
        return Err("invalid char literal".to_owned());
    }
    Ok(start[..start.len() - lexer.rest().len()].to_owned())
}

enum Content {
    Char(char),
    Byte(u8),
}

/// Reads from an opening quote to the closing one.
fn until_quote(lexer: &mut Lexer<'_>, quote: char, mut found: impl FnMut(Content)) -> Result<(), String> {
    lexer.bump();
    loop {
        match lexer.bump() {
            None | Some('\n') => return Err(NOT_TERMINATED.to_owned()),
            Some(c) if c == quote => return Ok(()),
            Some('\\') => found(escape(lexer, quote)?),
            Some(c) => found(Content::Char(c)),
        }
    }
}

fn escape(lexer: &mut Lexer<'_>, quote: char) -> Result<Content, String> {
    let c = lexer.peek().ok_or(BAD_ESCAPE)?;
    let (radix, digits) = match c {
        '0'..='7' => (8, 3),
        'x' => (16, 2),
        'u' => (16, 4),
        'U' => (16, 8),
        _ => {
            lexer.bump();
            let plain = match c {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                '\\' => '\\',
                _ if c == quote => quote,
                _ => return Err(BAD_ESCAPE.to_owned()),
            };
            return Ok(Content::Char(plain));
        }
    };
    if radix == 16 {
        lexer.bump();
    }
    let text = lexer.rest().get(..digits).filter(|text| text.chars().all(|c| c.is_digit(radix))).ok_or(BAD_ESCAPE)?;
    let code = u32::from_str_radix(text, radix).map_err(|_| BAD_ESCAPE)?;
    lexer.skip(digits);
    if digits <= 3 {
        return u8::try_from(code).map(Content::Byte).map_err(|_| "invalid syntax".to_owned());
    }
    char::from_u32(code).map(Content::Char).ok_or_else(|| "invalid syntax".to_owned())
}

/// Reads a quoted part of an attribute name into `name`; the next character is its opening quote.
pub(super) fn name_part(lexer: &mut Lexer<'_>, name: &mut String) -> Result<(), String> {
    lexer.bump();
    loop {
        match lexer.bump() {
            None => return Err("unexpected EOF, expecting \"".to_owned()),
            Some('"') => return Ok(()),
            Some('\\') => match lexer.bump() {
                Some(c @ ('"' | '\\')) => name.push(c),
                None => return Err("unexpected EOF, expecting \"".to_owned()),
                Some(_) => return Err("invalid escape sequence".to_owned()),
            },
            Some(c) => name.push(c),
        }
    }
}
