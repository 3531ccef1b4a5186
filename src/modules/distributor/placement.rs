//! Which partition a trace goes to.

use crate::model::ids::{TenantId, TraceId};
use crate::services::ingest_log::PartitionId;

/// Returns the ring token of a trace: 32-bit FNV-1 over tenant id and trace id (wire, hash functions).
pub(super) fn token(tenant: &TenantId, trace: TraceId) -> u32 {
    let bytes = tenant.as_str().bytes().chain(trace.0);
    bytes.fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte))
}

/// Chooses one of `partitions`; the same trace always gets the same one while the list does not change. `None` for an empty list.
pub(super) fn place(tenant: &TenantId, trace: TraceId, partitions: &[PartitionId]) -> Option<usize> {
    match partitions.len() {
        0 => None,
        1 => Some(0),
        // FNV-1 mixes the last byte into the low bits only, so the high bits decide: they spread ids that differ at their end.
        count => Some(((u64::from(token(tenant, trace).wrapping_mul(0x9e37_79b1)) * count as u64) >> 32) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_the_known_values() {
        let cases = [
            ("4bf92f3577b34da6a3ce929d0e0e4736", "single-tenant", 3_309_007_238),
            ("4bf92f3577b34da6a3ce929d0e0e4736", "tenant-a", 1_242_003_183),
            ("00000000000000004bf92f3577b34da6", "single-tenant", 4_272_205_889),
            ("000102030405060708090a0b0c0d0e0f", "single-tenant", 3_022_890_346),
            ("ffffffffffffffffffffffffffffffff", "tenant-a", 346_357_431),
        ];
        for (trace, tenant, expected) in cases {
            assert_eq!(token(&TenantId::parse(tenant).unwrap(), TraceId::from_hex(trace).unwrap()), expected, "{trace}");
        }
    }

    #[test]
    fn traces_spread_over_all_partitions() {
        let partitions: Vec<_> = (0..4).map(PartitionId).collect();
        let mut counts = [0; 4];
        for id in 0..4000u128 {
            counts[place(&TenantId::single(), TraceId(id.to_be_bytes()), &partitions).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (700..1300).contains(count)), "{counts:?}");
        assert_eq!(place(&TenantId::single(), TraceId::default(), &[]), None);
    }
}
