//! Query strings: decoding and the number, time and flag notations of the API with the texts of their errors (http-api §4, §6).
//!
//! Texts follow the number parsers of the compatible system, since clients show and match them.

use std::fmt::Display;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Why a parameter is refused; the text is the body of the 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct ParamError(pub(super) String);

impl ParamError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Names the parameter in front of a reason.
    pub(super) fn of(name: &str, reason: impl Display) -> Self {
        Self(format!("invalid {name}: {reason}"))
    }
}

/// Decoded parameters in the order of the URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Decodes a query string; pairs with broken escapes are left out, as the compatible system does.
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        Self(
            pairs
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decode(key)?, decode(value)?))
                })
                .collect(),
        )
    }

    /// Returns the first value of `name`; blank values count as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.trim().is_empty())
    }

    /// Returns all pairs.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Returns an unsigned number of 32 bits.
    pub(super) fn u32(&self, name: &str) -> Result<Option<u32>, ParamError> {
        self.get(name).map(|text| parse_u32(text).map_err(|reason| ParamError::of(name, reason))).transpose()
    }

    /// Returns a flag in one of the spellings of the compatible system (`1 t T TRUE true True` and their opposites).
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ParamError> {
        let parse = |text: &str| match text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            _ => Err(ParamError(format!("invalid value for {name}: strconv.ParseBool: parsing {text:?}: invalid syntax"))),
        };
        self.get(name).map(parse).transpose()
    }

    /// Returns a duration with units.
    pub(super) fn duration_nanos(&self, name: &str) -> Result<Option<u64>, ParamError> {
        self.get(name).map(|text| parse_go_duration(text).map_err(|reason| ParamError::of(name, reason))).transpose()
    }
}

fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let broken = |at: usize| !bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if bytes.iter().enumerate().any(|(at, &byte)| byte == b'%' && broken(at)) {
        return None;
    }
    let spaced = text.replace('+', " ");
    Some(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

pub(super) fn parse_u32(text: &str) -> Result<u32, String> {
    parse_digits(text, "ParseUint", text)
}

pub(super) fn parse_i64(text: &str) -> Result<i64, String> {
    parse_digits(text, "ParseInt", text.strip_prefix(['-', '+']).unwrap_or(text))
}

fn parse_digits<T: FromStr>(text: &str, function: &str, digits: &str) -> Result<T, String> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("strconv.{function}: parsing {text:?}: invalid syntax"));
    }
    text.parse().map_err(|_| format!("strconv.{function}: parsing {text:?}: value out of range"))
}

/// Parses a non-negative duration such as `1h2m` or `1.5s` into nanoseconds.
pub(super) fn parse_go_duration(text: &str) -> Result<u64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = &rest[..rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len())];
        let nanos = match unit {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total += number * nanos;
        rest = &rest[unit.len()..];
    }
    if total > i64::MAX as f64 { Err(invalid()) } else { Ok(total.round() as u64) }
}

/// Parses `1w2d3h` with whole numbers into seconds (fractions of a second are dropped); the units of monitoring systems.
pub(super) fn parse_prom_duration(text: &str) -> Result<u64, String> {
    let invalid = || format!("not a valid duration string: {text:?}");
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text;
    let mut millis = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = &rest[..rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len())];
        let unit_millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return Err(invalid()),
        };
        millis = number.checked_mul(unit_millis).and_then(|part| millis.checked_add(part)).ok_or_else(invalid)?;
        rest = &rest[unit.len()..];
    }
    if text.is_empty() { Err("empty duration string".to_owned()) } else { Ok(millis / 1_000) }
}

/// Parses a point in time into whole seconds; see [`parse_time_nanos`].
pub(super) fn parse_time_seconds(text: &str) -> Result<u64, String> {
    parse_time_nanos(text).map(|nanos| nanos / NANOS_PER_SECOND)
}

/// Parses a point in time: an integer (up to 10 digits seconds, 13 milliseconds, else nanoseconds), seconds with a fraction, of which
/// milliseconds count, or RFC 3339.
pub(super) fn parse_time_nanos(text: &str) -> Result<u64, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        let number: u64 = parse_digits(text, "ParseInt", text)?;
        return Ok(match text.len() {
            ..=10 => number * NANOS_PER_SECOND,
            13 => number * 1_000_000,
            _ => number,
        });
    }
    if text.contains('.') && !text.contains(':') {
        return match text.parse::<f64>() {
            Ok(seconds) if seconds.is_finite() && (0.0..1e10).contains(&seconds) => Ok((seconds * 1e3).round() as u64 * 1_000_000),
            _ => Err(format!("strconv.ParseFloat: parsing {text:?}: invalid syntax")),
        };
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| format!("parsing time {text:?} as RFC 3339: invalid syntax"))?;
    u64::try_from(time.as_nanosecond()).map_err(|_| format!("parsing time {text:?}: not between 1970 and 2554"))
}

/// Prints whole seconds as the compatible system prints durations: `168h0m0s`, `15m0s`, `30s`.
pub(super) fn go_duration_text(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_strings_are_decoded() {
        let params = Params::parse(Some("q=%7B+a+%7D&x=%zz&y=1;2&empty=&q=second&blank=%20"));
        assert_eq!(params.get("q"), Some("{ a }"));
        assert_eq!(params.get("x"), None);
        assert_eq!(params.get("y"), None);
        assert_eq!((params.get("empty"), params.get("blank")), (None, None));
        assert_eq!(Params::parse(None), Params::default());
    }

    #[test]
    fn numbers_fail_with_known_texts() {
        assert_eq!(parse_u32("x"), Err("strconv.ParseUint: parsing \"x\": invalid syntax".into()));
        assert_eq!(parse_u32("-1"), Err("strconv.ParseUint: parsing \"-1\": invalid syntax".into()));
        assert_eq!(parse_u32("4294967296"), Err("strconv.ParseUint: parsing \"4294967296\": value out of range".into()));
        assert_eq!(parse_i64("-5"), Ok(-5));
        assert_eq!(parse_go_duration("5"), Err("time: missing unit in duration \"5\"".into()));
        assert_eq!(parse_go_duration("5x"), Err("time: unknown unit \"x\" in duration \"5x\"".into()));
        assert_eq!(parse_go_duration("abc"), Err("time: invalid duration \"abc\"".into()));
    }

    #[test]
    fn durations_and_times() {
        assert_eq!(parse_go_duration("1h2m"), Ok(3_720_000_000_000));
        assert_eq!(parse_go_duration("1.5s"), Ok(1_500_000_000));
        assert_eq!(parse_prom_duration("1d2h"), Ok(93_600));
        assert!(parse_prom_duration("1.5h").is_err());
        assert_eq!(parse_time_seconds("1795308858"), Ok(1_795_308_858));
        assert_eq!(parse_time_seconds("1795308858123"), Ok(1_795_308_858));
        assert_eq!(parse_time_seconds("1795308858123456789"), Ok(1_795_308_858));
        assert_eq!(parse_time_seconds("1795308858.123"), Ok(1_795_308_858));
        assert_eq!(parse_time_nanos("1795308858.1236"), Ok(1_795_308_858_124_000_000));
        assert_eq!(parse_time_nanos("1795308858123456789"), Ok(1_795_308_858_123_456_789));
        assert_eq!(parse_time_nanos("2026-11-22T03:14:27.5Z"), Ok(1_795_317_267_500_000_000));
        assert_eq!(parse_time_seconds("2026-11-22T03:14:27.5Z"), Ok(1_795_317_267));
        assert!(parse_time_seconds("yesterday").is_err());
        assert_eq!(go_duration_text(168 * 3600), "168h0m0s");
        assert_eq!(go_duration_text(900), "15m0s");
    }
}
