//! Number literals as Go's scanner finds them, with its messages.

/// A number at the start of a text.
pub(super) struct Scanned {
    /// Bytes.
    pub(super) length: usize,
    pub(super) is_float: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    Zero,
    Hex,
    Octal,
    Binary,
}

impl Prefix {
    fn literal_name(self) -> &'static str {
        match self {
            Self::None => "decimal literal",
            Self::Zero | Self::Octal => "octal literal",
            Self::Hex => "hexadecimal literal",
            Self::Binary => "binary literal",
        }
    }
}

/// Reads the number at the start of `text`, which begins with a digit or with a point and a digit.
pub(super) fn scan(text: &str) -> Result<Scanned, String> {
    let bytes = text.as_bytes();
    let prefix = match bytes {
        [b'0', b'x' | b'X', ..] => Prefix::Hex,
        [b'0', b'o' | b'O', ..] => Prefix::Octal,
        [b'0', b'b' | b'B', ..] => Prefix::Binary,
        [b'0', ..] => Prefix::Zero,
        _ => Prefix::None,
    };
    let mut at = if matches!(prefix, Prefix::None | Prefix::Zero) { 0 } else { 2 };
    let whole = digits(bytes, at, prefix == Prefix::Hex);
    let mut digit_count = whole.count;
    at = whole.end;
    let mut is_float = bytes.get(at) == Some(&b'.');
    if is_float {
        if matches!(prefix, Prefix::Octal | Prefix::Binary) {
            return Err(format!("invalid radix point in {}", prefix.literal_name()));
        }
        let fraction = digits(bytes, at + 1, prefix == Prefix::Hex);
        digit_count += fraction.count;
        at = fraction.end;
    }
    if digit_count == 0 {
        return Err(format!("{} has no digits", prefix.literal_name()));
    }
    match bytes.get(at).map(u8::to_ascii_lowercase) {
        Some(letter @ (b'e' | b'p')) => {
            if letter == b'e' && !matches!(prefix, Prefix::None | Prefix::Zero) {
                return Err(format!("'{}' exponent requires decimal mantissa", char::from(bytes[at])));
            }
            if letter == b'p' && prefix != Prefix::Hex {
                return Err(format!("'{}' exponent requires hexadecimal mantissa", char::from(bytes[at])));
            }
            is_float = true;
            at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let exponent = digits(bytes, at, false);
            if exponent.count == 0 {
                return Err("exponent has no digits".to_owned());
            }
            at = exponent.end;
        }
        _ if prefix == Prefix::Hex && is_float => return Err("hexadecimal mantissa requires a 'p' exponent".to_owned()),
        _ => {}
    }
    let highest = match prefix {
        Prefix::Zero | Prefix::Octal => b'7',
        Prefix::Binary => b'1',
        Prefix::None | Prefix::Hex => b'f',
    };
    let invalid = bytes[..whole.end]
        .iter()
        .skip(2 * usize::from(matches!(prefix, Prefix::Octal | Prefix::Binary)))
        .find(|b| b.is_ascii_digit() && **b > highest);
    if let Some(digit) = invalid.filter(|_| !is_float) {
        return Err(format!("invalid digit '{}' in {}", char::from(*digit), prefix.literal_name()));
    }
    if has_loose_separator(&text[..at]) {
        return Err("'_' must separate successive digits".to_owned());
    }
    Ok(Scanned { length: at, is_float })
}

struct Digits {
    end: usize,
    count: usize,
}

fn digits(bytes: &[u8], start: usize, is_hex: bool) -> Digits {
    let is_digit = |b: &u8| if is_hex { b.is_ascii_hexdigit() } else { b.is_ascii_digit() };
    let run = bytes.get(start..).unwrap_or(&[]).iter().take_while(|b| is_digit(b) || **b == b'_');
    let (mut length, mut count) = (0, 0);
    for byte in run {
        length += 1;
        count += usize::from(*byte != b'_');
    }
    Digits { end: start + length, count }
}

/// Whether some `_` does not stand between digits (or between a base prefix and a digit).
fn has_loose_separator(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let follows_prefix = |at: usize| at == 2 && bytes[0] == b'0' && !bytes[1].is_ascii_digit();
    (0..bytes.len()).any(|at| bytes[at] == b'_' && !(at > 0 && (is_digit(at - 1) || follows_prefix(at)) && is_digit(at + 1)))
}

/// Converts an integer literal; only plain decimal text converts, so hexadecimal literals and separators are refused.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit());
    let reason = if is_decimal { "value out of range" } else { "invalid syntax" };
    text.parse().map_err(|_| format!("strconv.Atoi: parsing \"{text}\": {reason}"))
}

/// Converts a float literal.
pub(super) fn float(text: &str) -> Result<f64, String> {
    let plain = text.replace('_', "").to_ascii_lowercase();
    let value = match plain.strip_prefix("0x") {
        Some(hex) => hex_float(hex),
        None => plain.parse().ok(),
    };
    match value {
        Some(value) if value.is_finite() => Ok(value),
        Some(_) => Err(format!("strconv.ParseFloat: parsing \"{text}\": value out of range")),
        None => Err(format!("strconv.ParseFloat: parsing \"{text}\": invalid syntax")),
    }
}

/// Converts `1.8p3` (without `0x`). Mantissas beyond 53 bits are rounded digit by digit.
fn hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once('p')?;
    // Exponents beyond this overflow or underflow any mantissa that fits a query.
    let exponent = exponent.parse::<i64>().ok()?.clamp(-1_000_000, 1_000_000);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut value = 0_f64;
    for digit in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
    }
    let scale = exponent - 4 * i64::try_from(fraction.len()).ok()?;
    Some(value * 2_f64.powi(i32::try_from(scale).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_floats() {
        for (text, value) in
            [("1.", 1.0), (".5", 0.5), ("1e3", 1000.0), ("1.5e-3", 0.0015), ("0x1p3", 8.0), ("0x1.8p1", 3.0), ("1_0.5", 10.5)]
        {
            let scanned = scan(text).unwrap();
            assert!(scanned.is_float && scanned.length == text.len(), "{text}");
            assert_eq!(float(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn finds_where_a_number_ends() {
        for (text, length, is_float) in [("010}", 3, false), ("1x", 1, false), ("1.5.2", 3, true), ("08.5", 4, true), ("0b11 ", 4, false)] {
            let scanned = scan(text).unwrap();
            assert_eq!((scanned.length, scanned.is_float), (length, is_float), "{text}");
        }
    }
}
