//! Duration literals: the Prometheus grammar first, then Go's.

const NANOS_PER_MILLI: u128 = 1_000_000;
const NANOS_PER_SECOND: u128 = 1_000 * NANOS_PER_MILLI;
const NANOS_PER_HOUR: u128 = 3_600 * NANOS_PER_SECOND;
const NANOS_PER_DAY: u128 = 24 * NANOS_PER_HOUR;

/// Returns the nanoseconds of `text`; `None` when it is no duration or exceeds 64 bits.
pub(super) fn parse(text: &str) -> Option<i64> {
    parse_prometheus(text).or_else(|| parse_go(text))
}

/// `[Ny][Nw][Nd][Nh][Nm][Ns][Nms]`: whole numbers, each unit at most once and in this order.
fn parse_prometheus(text: &str) -> Option<i64> {
    let mut units = [
        ("y", 365 * NANOS_PER_DAY),
        ("w", 7 * NANOS_PER_DAY),
        ("d", NANOS_PER_DAY),
        ("h", NANOS_PER_HOUR),
        ("m", 60 * NANOS_PER_SECOND),
        ("s", NANOS_PER_SECOND),
        ("ms", NANOS_PER_MILLI),
    ]
    .into_iter();
    let mut total = 0_u128;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, unit, after) = split_part(rest)?;
        let (_, nanos) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok().map(u128::from)?.checked_mul(nanos)?)?;
        rest = after;
    }
    i64::try_from(total).ok()
}

/// Decimal numbers with units from `ns` to `h`, in any order.
fn parse_go(text: &str) -> Option<i64> {
    let mut total = 0_u128;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, unit, after) = split_part(rest)?;
        let nanos = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => NANOS_PER_MILLI,
            "s" => NANOS_PER_SECOND,
            "m" => 60 * NANOS_PER_SECOND,
            "h" => NANOS_PER_HOUR,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(u128::from(whole).checked_mul(nanos)?)?.checked_add(fraction_of(nanos, fraction)?)?;
        rest = after;
    }
    i64::try_from(total).ok()
}

/// Returns `0.fraction` of `nanos`, rounded down. Digits past the 18th cannot matter.
fn fraction_of(nanos: u128, fraction: &str) -> Option<u128> {
    let digits = fraction.get(..fraction.len().min(18))?;
    if digits.is_empty() {
        return Some(0);
    }
    let value: u128 = digits.parse().ok()?;
    Some(nanos * value / 10_u128.pow(u32::try_from(digits.len()).ok()?))
}

/// Splits off one number with its unit.
fn split_part(text: &str) -> Option<(&str, &str, &str)> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let number_end = text.find(|c| !is_number(c))?;
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest.find(is_number).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    (!number.is_empty()).then_some((number, unit, after))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_both_grammars() {
        let second = 1_000_000_000_i64;
        for (text, nanos) in [
            ("1d12h", Some(36 * 3600 * second)),
            ("1y", Some(365 * 86_400 * second)),
            ("1.5h", Some(5400 * second)),
            ("1m1h", Some(3660 * second)),
            ("1s500ms", Some(1_500_000_000)),
            ("1µs", Some(1000)),
            (".5s", Some(500_000_000)),
            ("0s", Some(0)),
            ("1.5d", None),
            ("1h1d", None),
            ("1", None),
            ("1x", None),
            ("1.2.3s", None),
            ("300y", None),
        ] {
            assert_eq!(parse(text), nanos, "{text}");
        }
    }
}
