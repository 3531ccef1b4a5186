//! Identifiers of traces, spans and tenants.

use std::fmt;
use std::sync::Arc;

/// A 16-byte trace id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TraceId(pub [u8; 16]);

impl TraceId {
    /// Takes an id of any length: shorter ids are left-padded with zero bytes, longer ones keep their last 16 (block-format, trace level).
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut id = [0; 16];
        let kept = &bytes[bytes.len().saturating_sub(16)..];
        id[16 - kept.len()..].copy_from_slice(kept);
        Self(id)
    }

    /// Parses up to 32 hex digits; shorter texts are padded with zeros on the left. `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > 32 {
            return None;
        }
        u128::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+')).map(|id| Self(id.to_be_bytes()))
    }

    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }

    /// Returns lower-case hex without leading zero digits; empty for the zero id (block-format, `TraceIDText`).
    pub fn to_short_hex(&self) -> String {
        let id = u128::from_be_bytes(self.0);
        if id == 0 { String::new() } else { format!("{id:x}") }
    }
}

impl fmt::Display for TraceId {
    /// 32 lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An 8-byte span id. The zero id means "none": a root's parent, a missing link target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpanId(pub [u8; 8]);

impl SpanId {
    pub const NONE: Self = Self([0; 8]);

    /// Takes an id of any length: zero-padded at the end, cut after 8 bytes (block-format, nested set key).
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut id = [0; 8];
        let kept = &bytes[..bytes.len().min(8)];
        id[..kept.len()].copy_from_slice(kept);
        Self(id)
    }

    pub fn is_none(&self) -> bool {
        self.0 == [0; 8]
    }

    /// The id as stored and sent: 8 bytes, or nothing for [`SpanId::NONE`].
    pub fn as_bytes(&self) -> &[u8] {
        if self.is_none() { &[] } else { &self.0 }
    }
}

impl fmt::Display for SpanId {
    /// 16 lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a tenant id; the texts are those clients of the compatible system see (http-api, tenancy).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TenantIdError {
    #[error("no org id")]
    Missing,
    #[error("tenant ID is too long: max {MAX_TENANT_ID_BYTES} characters")]
    TooLong,
    #[error("tenant ID '{id}' contains unsupported character '{character}'")]
    UnsupportedCharacter { id: String, character: char },
    #[error("tenant ID is '.' or '..'")]
    Reserved,
}

/// Longest accepted tenant id in bytes.
pub const MAX_TENANT_ID_BYTES: usize = 150;

/// The tenant of every request when multi-tenancy is off.
pub const SINGLE_TENANT: &str = "single-tenant";

/// The name of an isolation unit. Always valid; usable as a path segment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Accepts `A-Z a-z 0-9 ! - _ . * ' ( )`, at most [`MAX_TENANT_ID_BYTES`]; a metadata suffix after the first `:` is stripped.
    pub fn parse(text: &str) -> Result<Self, TenantIdError> {
        let id = text.split_once(':').map_or(text, |(id, _metadata)| id);
        if id.is_empty() {
            return Err(TenantIdError::Missing);
        }
        if let Some(character) = id.chars().find(|c| !c.is_ascii_alphanumeric() && !"!-_.*'()".contains(*c)) {
            return Err(TenantIdError::UnsupportedCharacter { id: id.to_owned(), character });
        }
        if id.len() > MAX_TENANT_ID_BYTES {
            return Err(TenantIdError::TooLong);
        }
        if id == "." || id == ".." {
            return Err(TenantIdError::Reserved);
        }
        Ok(Self(id.into()))
    }

    /// Returns the tenant used while multi-tenancy is off.
    pub fn single() -> Self {
        Self(SINGLE_TENANT.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids_are_padded_and_cut_on_the_left() {
        assert_eq!(TraceId::from_bytes(&[1, 2]).to_string(), "00000000000000000000000000000102");
        assert_eq!(TraceId::from_bytes(&[7; 20]), TraceId([7; 16]));
        assert_eq!(TraceId::from_hex("1f").map(|id| id.to_short_hex()), Some("1f".to_owned()));
        assert_eq!(TraceId::from_hex("+1"), None);
        assert_eq!(TraceId::default().to_short_hex(), "");
    }

    #[test]
    fn tenant_ids_are_checked() {
        assert_eq!(TenantId::parse("a:b=c").unwrap().as_str(), "a");
        assert_eq!(TenantId::parse(""), Err(TenantIdError::Missing));
        assert_eq!(TenantId::parse("a/b").unwrap_err().to_string(), "tenant ID 'a/b' contains unsupported character '/'");
        assert_eq!(TenantId::parse(&"x".repeat(151)), Err(TenantIdError::TooLong));
        assert_eq!(TenantId::parse(".."), Err(TenantIdError::Reserved));
    }
}
