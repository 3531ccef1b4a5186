//! Which server keeps a key.

use std::cmp::Ordering;

use twox_hash::XxHash64;

/// How keys are spread over servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// When a server comes or goes, few keys move (jump hash over naturally sorted servers).
    Consistent,
    /// When a server comes or goes, nearly all keys move.
    Modulo,
}

/// Returns the index of the server for `key`; `None` when there is none.
pub(super) fn server_of(key: &str, servers: usize, spread: Spread) -> Option<usize> {
    match (servers, spread) {
        (0, _) => None,
        (1, _) => Some(0),
        (count, Spread::Consistent) => Some(jump_hash(XxHash64::oneshot(0, key.as_bytes()), count)),
        (count, Spread::Modulo) => Some(crc32fast::hash(key.as_bytes()) as usize % count),
    }
}

/// "A Fast, Minimal Memory, Consistent Hash Algorithm" (Lamping, Veach, 2014): bucket of `key` among `buckets`, at least 1.
fn jump_hash(mut key: u64, buckets: usize) -> usize {
    let (mut bucket, mut next) = (0_usize, 0_usize);
    while next < buckets {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let step = (1_u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * step) as usize;
    }
    bucket
}

/// Compares texts with their numbers as numbers: `m-2` before `m-10`.
pub(super) fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let (left_digits, right_digits) = (digits(left), digits(right));
        let order = if left_digits > 0 && right_digits > 0 {
            let (x, y) = (without_zeros(&left[..left_digits]), without_zeros(&right[..right_digits]));
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            (left, right) = (&left[left_digits..], &right[right_digits..]);
            order
        } else {
            let (Some((x, left_rest)), Some((y, right_rest))) = (left.split_first(), right.split_first()) else {
                // Texts that differ in leading zeros only must have an order, too.
                return left.len().cmp(&right.len()).then_with(|| a.cmp(b));
            };
            (left, right) = (left_rest, right_rest);
            x.cmp(y)
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().take_while(|byte| **byte == b'0').count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = String> {
        (0..3000).map(|number| format!("tenant:block:{number}"))
    }

    #[test]
    fn keys_spread_evenly_and_few_move() {
        for spread in [Spread::Consistent, Spread::Modulo] {
            let mut counts = [0; 3];
            keys().for_each(|key| counts[server_of(&key, 3, spread).unwrap()] += 1);
            assert!(counts.iter().all(|count| (900..1100).contains(count)), "{spread:?} {counts:?}");
        }
        let moved = keys().filter(|key| server_of(key, 3, Spread::Consistent) != server_of(key, 4, Spread::Consistent)).count();
        assert!((650..850).contains(&moved), "{moved}");
        assert_eq!(server_of("k", 0, Spread::Consistent), None);
    }

    #[test]
    fn jump_hash_has_the_published_values() {
        // From the paper's reference code.
        for (key, buckets, bucket) in [(0, 60, 0), (1, 1, 0), (42, 57, 43), (0xDEAD_10CC, 1, 0), (0xDEAD_10CC, 666, 361), (256, 1024, 520)]
        {
            assert_eq!(jump_hash(key, buckets), bucket, "{key} {buckets}");
        }
    }

    #[test]
    fn numbers_sort_as_numbers() {
        let sorted = ["10.0.0.2:11211", "10.0.0.10:11211", "10.0.0.10:11212", "m-02", "m-2", "m-2a", "m-10", "n"];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(natural_order(a, b), i.cmp(&j), "{a} {b}");
            }
        }
    }
}
