//! The two duration notations of configuration files.
//!
//! [`GoDuration`] is a signed count of nanoseconds written as numbers with units (`1h30m`, `1.5h`, `250ms`); as a superset of Go's form
//! it also takes `d` (24 h) and `w` (7 d). A bare integer means nanoseconds. [`PromDuration`] is a non-negative count of milliseconds written
//! as integers with units from large to small (`1w2d`). Both print what they read in the canonical form of their family.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("invalid duration {0:?}")]
    Invalid(String),
    #[error("missing unit in duration {0:?} (use for example \"30s\" or \"5m\")")]
    MissingUnit(String),
    #[error("unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
    #[error("not a valid duration string: {0:?}")]
    NotProm(String),
    #[error("duration {0:?} is out of range")]
    OutOfRange(String),
}

const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A duration in Go's notation; `dur` in the reference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GoDuration(i64);

impl GoDuration {
    pub const ZERO: Self = Self(0);
    /// The largest value; several gRPC settings use it as "never".
    pub const INFINITY: Self = Self(i64::MAX);

    pub const fn nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    pub const fn millis(millis: i64) -> Self {
        Self(millis * MILLISECOND)
    }

    pub const fn seconds(seconds: i64) -> Self {
        Self(seconds * SECOND)
    }

    pub const fn minutes(minutes: i64) -> Self {
        Self(minutes * MINUTE)
    }

    pub const fn hours(hours: i64) -> Self {
        Self(hours * HOUR)
    }

    pub const fn days(days: i64) -> Self {
        Self(days * DAY)
    }

    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Returns the std form; negative durations become zero.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Returns `None` for zero and negative values, which mean "off" in most keys.
    pub fn positive(self) -> Option<Duration> {
        (self.0 > 0).then(|| self.to_std())
    }

    /// Parses `[-+]?(number unit)+` or `0`.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(number_len);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(invalid());
            }
            let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_len);
            let unit_nanos = i128::from(match unit {
                "" => return Err(DurationError::MissingUnit(text.to_owned())),
                "ns" => 1,
                "us" | "µs" | "μs" => MICROSECOND,
                "ms" => MILLISECOND,
                "s" => SECOND,
                "m" => MINUTE,
                "h" => HOUR,
                "d" => DAY,
                "w" => 7 * DAY,
                _ => return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
            });
            let out_of_range = || DurationError::OutOfRange(text.to_owned());
            let whole: i128 = if whole.is_empty() { 0 } else { i128::from(whole.parse::<u64>().map_err(|_| out_of_range())?) };
            // Digits beyond the 18th change nothing at nanosecond resolution of the units we know.
            let fraction = &fraction[..fraction.len().min(18)];
            let fraction_nanos = match fraction.parse::<i128>() {
                Ok(digits) => digits * unit_nanos / 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(18)),
                Err(_) => 0,
            };
            total = total
                .checked_add(whole * unit_nanos + fraction_nanos)
                .filter(|sum| *sum <= i128::from(i64::MAX))
                .ok_or_else(out_of_range)?;
            rest = next;
        }
        let total = if negative { -total } else { total };
        i64::try_from(total).map(Self).map_err(|_| DurationError::OutOfRange(text.to_owned()))
    }
}

impl fmt::Display for GoDuration {
    /// Go's form with trailing zero units: `5m0s`, `336h0m0s`, `1.5s`, `250ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        let (unit, name) = match nanos {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            1_000_000..1_000_000_000 => (1_000_000, "ms"),
            _ => (1_000_000_000, "s"),
        };
        let (mut whole, fraction) = (nanos / unit, nanos % unit);
        if name == "s" {
            let (hours, minutes) = (whole / 3600, whole / 60 % 60);
            if hours > 0 {
                write!(f, "{hours}h")?;
            }
            if whole >= 60 {
                write!(f, "{minutes}m")?;
            }
            whole %= 60;
        }
        write!(f, "{whole}")?;
        if fraction > 0 {
            let width = unit.ilog10() as usize;
            let digits = format!("{fraction:0width$}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str(name)
    }
}

impl fmt::Debug for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The name by which the YAML decoder recognises a Go duration, so that it can warn about bare integers.
pub(crate) const GO_DURATION_TYPE: &str = "GoDuration";

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct GoVisitor;
        impl<'de> Visitor<'de> for GoVisitor {
            type Value = GoDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"30s\" or \"1h30m\"")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<GoDuration, D::Error> {
                deserializer.deserialize_any(self)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                GoDuration::parse(text).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, nanos: i64) -> Result<GoDuration, E> {
                Ok(GoDuration(nanos))
            }
            fn visit_u64<E: de::Error>(self, nanos: u64) -> Result<GoDuration, E> {
                i64::try_from(nanos).map(GoDuration).map_err(|_| E::custom(DurationError::OutOfRange(nanos.to_string())))
            }
        }
        deserializer.deserialize_newtype_struct(GO_DURATION_TYPE, GoVisitor)
    }
}

/// Units of [`PromDuration`] from large to small, in milliseconds.
const PROM_UNITS: [(&str, u64); 7] =
    [("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration in Prometheus' notation; `pdur` in the reference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PromDuration(u64);

impl PromDuration {
    pub const ZERO: Self = Self(0);

    pub const fn millis(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1_000)
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub fn to_std(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Returns `None` for zero, which means "not set" in every key of this type.
    pub fn positive(self) -> Option<Duration> {
        (self.0 > 0).then(|| self.to_std())
    }

    /// Parses integers with units `y w d h m s ms`, large to small, each at most once; `0` needs no unit.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let not_prom = || DurationError::NotProm(text.to_owned());
        if text == "0" {
            return Ok(Self::ZERO);
        }
        if text.is_empty() {
            return Err(DurationError::Invalid(text.to_owned()));
        }
        let (mut rest, mut next_unit, mut total) = (text, 0, 0_u64);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(not_prom)?;
            if digits == 0 {
                return Err(not_prom());
            }
            let (number, tail) = rest.split_at(digits);
            let (unit, next) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
            let Some(position) = PROM_UNITS.iter().position(|(name, _)| *name == unit) else {
                return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
            };
            if position < next_unit {
                return Err(not_prom());
            }
            next_unit = position + 1;
            total = number
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(PROM_UNITS[position].1))
                .and_then(|millis| total.checked_add(millis))
                // The same range as a Go duration: about 292 years.
                .filter(|total| *total <= i64::MAX.unsigned_abs() / 1_000_000)
                .ok_or_else(|| DurationError::OutOfRange(text.to_owned()))?;
            rest = next;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for PromDuration {
    /// Prometheus' form: the largest exact units, `1y`, `2w`, and `d` only where a multiple of it; `0s` for zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (index, (name, millis)) in PROM_UNITS.into_iter().enumerate() {
            // Years, weeks and days only when nothing smaller follows.
            let is_exact_only = index < 3;
            if is_exact_only && !rest.is_multiple_of(millis) {
                continue;
            }
            let count = rest / millis;
            if count > 0 {
                write!(f, "{count}{name}")?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PromDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PromDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PromDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromVisitor;
        impl Visitor<'_> for PromVisitor {
            type Value = PromDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"10s\", \"7d\" or \"2w\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PromDuration, E> {
                PromDuration::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PromDuration, E> {
                PromDuration::parse(&number.to_string()).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PromDuration, E> {
                PromDuration::parse(&number.to_string()).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(PromVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn go_form() {
        for (text, printed) in [
            ("1h30m", "1h30m0s"),
            ("1.5h", "1h30m0s"),
            ("250ms", "250ms"),
            ("0", "0s"),
            ("336h", "336h0m0s"),
            ("1d", "24h0m0s"),
            ("2w", "336h0m0s"),
            ("-1.5s", "-1.5s"),
            ("1us", "1µs"),
            (".5s", "500ms"),
            ("1.000000001s", "1.000000001s"),
            ("2562047h47m16.854775807s", "2562047h47m16.854775807s"),
        ] {
            assert_eq!(GoDuration::parse(text).unwrap().to_string(), printed, "{text}");
        }
        assert_eq!(GoDuration::INFINITY.to_string(), "2562047h47m16.854775807s");
    }

    #[test]
    fn go_errors() {
        for (text, message) in [
            ("", "invalid duration \"\""),
            ("abc", "invalid duration \"abc\""),
            ("10", "missing unit in duration \"10\" (use for example \"30s\" or \"5m\")"),
            ("5 m", "unknown unit \" m\" in duration \"5 m\""),
            ("1y", "unknown unit \"y\" in duration \"1y\""),
            ("9999999h", "duration \"9999999h\" is out of range"),
            ("1.2.3s", "invalid duration \"1.2.3s\""),
        ] {
            assert_eq!(GoDuration::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn prometheus_form() {
        for (text, printed) in
            [("1h30m", "1h30m"), ("14d", "2w"), ("1y", "1y"), ("8d", "8d"), ("25h", "25h"), ("0", "0s"), ("10s", "10s"), ("1s5ms", "1s5ms")]
        {
            assert_eq!(PromDuration::parse(text).unwrap().to_string(), printed, "{text}");
        }
        for (text, message) in [
            ("1.5h", "unknown unit \".\" in duration \"1.5h\""),
            ("100", "not a valid duration string: \"100\""),
            ("1m1h", "not a valid duration string: \"1m1h\""),
            ("-1h", "not a valid duration string: \"-1h\""),
        ] {
            assert_eq!(PromDuration::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn bare_integers_are_nanoseconds() {
        assert_eq!(serde_json::from_str::<GoDuration>("10").unwrap(), GoDuration::nanos(10));
        assert!(serde_json::from_str::<PromDuration>("10").is_err());
    }

    proptest! {
        #[test]
        fn go_round_trip(nanos in (i64::MIN + 1)..) {
            let duration = GoDuration::nanos(nanos);
            prop_assert_eq!(GoDuration::parse(&duration.to_string()).unwrap(), duration);
        }

        #[test]
        fn prometheus_round_trip(millis in 0_u64..9_000_000_000_000) {
            let duration = PromDuration::millis(millis);
            prop_assert_eq!(PromDuration::parse(&duration.to_string()).unwrap(), duration);
        }
    }
}
