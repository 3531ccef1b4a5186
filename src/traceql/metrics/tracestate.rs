//! What a span stands for when a share of its kind was sampled away: 1/p after the W3C `tracestate` (metrics, extrapolation).

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::model::span_table::SpanTable;
use crate::model::strings::StrId;

/// Number of values of the 56-bit randomness that thresholds are about.
const RANGE: u64 = 1 << 56;

/// Multipliers of one table, worked out once per distinct state.
pub(super) struct Multipliers<'t> {
    table: &'t SpanTable,
    known: HashMap<StrId, f64, FixedState>,
}

impl<'t> Multipliers<'t> {
    pub(super) fn new(table: &'t SpanTable) -> Self {
        Self { table, known: HashMap::default() }
    }

    pub(super) fn of_spans(&mut self, spans: &[u32]) -> Vec<f64> {
        let (pool, states) = (&self.table.strings, &self.table.spans.trace_state);
        let mut of_state = |id: StrId| match id {
            StrId::EMPTY => 1.0,
            id => *self.known.entry(id).or_insert_with(|| multiplier(pool.get(id))),
        };
        spans.iter().map(|span| states.get(*span as usize).map_or(1.0, |id| of_state(*id))).collect()
    }
}

/// Returns 1/p of the rejection threshold in `state`, 1 without a valid one. With an explicit randomness it is a whole number that is right on
/// average: the randomness of a kept span is evenly spread between the threshold and the end of the range, so its place there decides about
/// the fraction.
pub(super) fn multiplier(state: &[u8]) -> f64 {
    let Some(fields) = state.split(|byte| *byte == b',').find_map(|member| member.trim_ascii().strip_prefix(b"ot=")) else {
        return 1.0;
    };
    let field = |name: &[u8]| fields.split(|byte| *byte == b';').find_map(|field| field.trim_ascii().strip_prefix(name));
    let Some(threshold) = field(b"th:").filter(|digits| digits.len() <= 14).and_then(padded_hex) else {
        return 1.0;
    };
    let multiplier = RANGE as f64 / (RANGE - threshold) as f64;
    let randomness = field(b"rv:").filter(|digits| digits.len() == 14).and_then(padded_hex);
    match randomness {
        Some(randomness) if randomness >= threshold && multiplier.fract() != 0.0 => {
            let place = (randomness - threshold) as f64 / (RANGE - threshold) as f64;
            multiplier.floor() + f64::from(u8::from(place < multiplier.fract()))
        }
        _ => multiplier,
    }
}

/// Reads 1 to 14 hex digits as the first of 14.
fn padded_hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 14 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let value = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some(value << (4 * (14 - digits.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_give_multipliers() {
        for (state, expected) in [
            ("", 1.0),
            ("ot=th:0", 1.0),
            ("ot=th:8", 2.0),
            ("a=b, ot=rv:x;th:c ,c=d", 4.0),
            ("ot=th:", 1.0),
            ("ot=th:g", 1.0),
            ("ot=th:000000000000001", 1.0),
            ("ot=rv:00000000000000", 1.0),
            ("ot=th:ffffffffffffff", RANGE as f64),
            // p = 1/4 + 1/8, multiplier 2.66…; a randomness below the threshold is not believed
            ("ot=th:a;rv:00000000000000", 8.0 / 3.0),
            ("ot=th:a;rv:a0000000000000", 3.0),
            ("ot=th:a;rv:ffffffffffffff", 2.0),
        ] {
            assert_eq!(multiplier(state.as_bytes()), expected, "{state}");
        }
    }

    #[test]
    fn rounding_is_right_on_average() {
        for threshold in [0x26_u64 << 48, 0x99 << 48, 0xd9 << 48] {
            let steps = 100_000;
            let place = |step: u64| threshold + (RANGE - threshold) / steps * step;
            let state = |step: u64| format!("ot=th:{:014x};rv:{:014x}", threshold, place(step));
            let sum: f64 = (0..steps).map(|step| multiplier(state(step).as_bytes())).sum();
            let expected = RANGE as f64 / (RANGE - threshold) as f64;
            assert!((sum / steps as f64 / expected - 1.0).abs() < 1e-3, "threshold {threshold:x}");
        }
    }
}
