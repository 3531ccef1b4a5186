//! Byte counts with binary units: `size` and `bytesunit` of the reference.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid size {0:?} (use bytes, or a number with B, KiB, MiB, GiB or TiB)")]
pub struct SizeError(String);

/// Units from large to small.
const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes. Reads plain bytes or terms with binary units (`63KiB1023B`), prints the latter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Parses bytes (`1024`) or integer terms with units (`1MiB`, `63KiB1023B`).
    pub fn parse(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.to_owned());
        if text.is_empty() {
            return Err(error());
        }
        let (mut rest, mut total) = (text, 0_u64);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let (unit, next) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
            let scale = match unit {
                "" if digits == text.len() => 1,
                _ => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?.1,
            };
            let term = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).ok_or_else(error)?;
            total = total.checked_add(term).ok_or_else(error)?;
            rest = next;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0B");
        }
        let mut rest = self.0;
        for (name, scale) in UNITS {
            if rest >= scale {
                write!(f, "{}{name}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 1048576 or \"1MiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                ByteSize::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom(SizeError(bytes.to_string())))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_prints_composite_units() {
        assert_eq!(ByteSize::parse("63KiB1023B").unwrap(), ByteSize(65_535));
        assert_eq!(ByteSize(65_535).to_string(), "63KiB1023B");
        assert_eq!(ByteSize::parse("1024").unwrap().to_string(), "1KiB");
        for wrong in ["", "1MB", "MiB", "-1", "1KiB5", "99999999999TiB"] {
            assert!(ByteSize::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(bytes: u64) {
            prop_assert_eq!(ByteSize::parse(&ByteSize(bytes).to_string()).unwrap(), ByteSize(bytes));
        }
    }
}
