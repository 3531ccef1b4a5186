//! Reads protobuf messages field by field from a byte slice, without building objects.
//!
//! Hardened against foreign bytes: every length is checked, unknown fields are skipped, groups are refused.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

/// Why bytes are not a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("protobuf: unexpected end of message")]
    Truncated,
    #[error("protobuf: varint is longer than 64 bits")]
    VarintTooLong,
    #[error("protobuf: field number 0 or too large")]
    BadFieldNumber,
    #[error("protobuf: wire type {0} is not supported")]
    BadWireType(u8),
    #[error("protobuf: field {field} has an unexpected wire type")]
    WrongType { field: u32 },
    #[error("protobuf: message is nested too deeply")]
    TooDeep,
}

/// One field of a message: its number and its undecoded value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field<'a> {
    pub number: u32,
    pub value: FieldValue<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FieldValue<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Field<'a> {
    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            FieldValue::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_type()),
        }
    }

    pub fn varint(&self) -> Result<u64, WireError> {
        match self.value {
            FieldValue::Varint(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    pub fn fixed64(&self) -> Result<u64, WireError> {
        match self.value {
            FieldValue::Fixed64(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    fn wrong_type(&self) -> WireError {
        WireError::WrongType { field: self.number }
    }
}

/// Walks the fields of one message in wire order.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The bytes not yet walked.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Returns the next field; `Ok(None)` at the end of the message.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.take_varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number != 0).ok_or(WireError::BadFieldNumber)?;
        let value = match tag & 7 {
            0 => FieldValue::Varint(self.take_varint()?),
            1 => FieldValue::Fixed64(u64::from_le_bytes(self.take_array()?)),
            2 => {
                let len = usize::try_from(self.take_varint()?).map_err(|_| WireError::Truncated)?;
                FieldValue::Bytes(self.take(len)?)
            }
            5 => FieldValue::Fixed32(u32::from_le_bytes(self.take_array()?)),
            other => return Err(WireError::BadWireType(other as u8)),
        };
        Ok(Some(Field { number, value }))
    }

    #[inline]
    fn take_varint(&mut self) -> Result<u64, WireError> {
        if let Some((&first, rest)) = self.rest.split_first()
            && first < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(first));
        }
        self.take_long_varint()
    }

    fn take_long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (count, &byte) in (0u32..10).zip(self.rest) {
            let shift = count.saturating_mul(7);
            let bits = u64::from(byte & 0x7f);
            if count == 9 && bits > 1 {
                return Err(WireError::VarintTooLong);
            }
            value |= bits << shift;
            if byte < 0x80 {
                self.take(count as usize)?;
                self.take(1)?;
                return Ok(value);
            }
        }
        Err(if self.rest.len() >= 10 { WireError::VarintTooLong } else { WireError::Truncated })
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// Appends `value` as a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the tag of field `number` with `wire_type`.
pub fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

/// Appends a length-delimited field.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes a varint takes.
pub fn varint_len(value: u64) -> usize {
    (70u32.saturating_sub((value | 1).leading_zeros()) / 7) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut bytes = Vec::new();
            put_tag(&mut bytes, 3, 0);
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), 1 + varint_len(value));
            let mut fields = Fields::new(&bytes);
            prop_assert_eq!(fields.next_field(), Ok(Some(Field { number: 3, value: FieldValue::Varint(value) })));
            prop_assert_eq!(fields.next_field(), Ok(None));
        }

        #[test]
        fn any_bytes_are_walked_or_refused(bytes: Vec<u8>) {
            let mut fields = Fields::new(&bytes);
            while let Ok(Some(_)) = fields.next_field() {}
        }
    }

    #[test]
    fn broken_messages_are_refused() {
        assert_eq!(Fields::new(&[0x0a, 5, 1]).next_field(), Err(WireError::Truncated));
        assert_eq!(Fields::new(&[0x0b]).next_field(), Err(WireError::BadWireType(3)));
        assert_eq!(Fields::new(&[0x00]).next_field(), Err(WireError::BadFieldNumber));
        assert_eq!(Fields::new(&[0xff; 11]).next_field(), Err(WireError::VarintTooLong));
        assert_eq!(Fields::new(&[0x80]).next_field(), Err(WireError::Truncated));
    }
}
