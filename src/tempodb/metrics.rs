//! Names of the storage engine's metrics. Those without `tempo_rs_` are known to dashboards of the compatible system.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const POLL_ERRORS: &str = "tempodb_blocklist_poll_errors_total";
pub const POLL_DURATION: &str = "tempodb_blocklist_poll_duration_seconds";
pub const BLOCKLIST_LENGTH: &str = "tempodb_blocklist_length";
pub const INDEX_ERRORS: &str = "tempodb_blocklist_tenant_index_errors_total";
pub const INDEX_BUILDER: &str = "tempodb_blocklist_tenant_index_builder";
pub const INDEX_AGE: &str = "tempodb_blocklist_tenant_index_age_seconds";
pub const BACKEND_OBJECTS: &str = "tempodb_backend_objects_total";
pub const BACKEND_BYTES: &str = "tempodb_backend_bytes_total";
pub const FOREIGN_OBJECTS: &str = "tempo_rs_tempodb_foreign_objects";
pub const CORRUPT_METAS: &str = "tempo_rs_tempodb_corrupt_metas_total";
pub const CORRUPT_READS: &str = "tempo_rs_tempodb_corrupt_reads_total";
pub const QUARANTINED_BLOCKS: &str = "tempo_rs_tempodb_quarantined_blocks_total";
pub const OPEN_READERS: &str = "tempo_rs_tempodb_open_readers";

/// Registers help texts, and the series that alerts need from the start.
pub fn describe() {
    describe_counter!(POLL_ERRORS, "Failed polls of the block list, per tenant");
    describe_histogram!(POLL_DURATION, Unit::Seconds, "Duration of a poll of all tenants");
    describe_gauge!(BLOCKLIST_LENGTH, "Live blocks per tenant");
    describe_counter!(INDEX_ERRORS, "Tenant indexes that could not be read or written, per tenant");
    describe_gauge!(INDEX_BUILDER, "1 while this process builds the tenant's index");
    describe_gauge!(INDEX_AGE, Unit::Seconds, "Age of the tenant index that was last used, per tenant");
    describe_gauge!(BACKEND_OBJECTS, "Traces in blocks, per tenant and status");
    describe_gauge!(BACKEND_BYTES, Unit::Bytes, "Bytes in blocks, per tenant and status");
    describe_gauge!(FOREIGN_OBJECTS, "Objects in a tenant's folder that belong to no block, as last listed");
    describe_counter!(CORRUPT_METAS, "Block metas that could not be read and whose block was left out, per tenant");
    describe_counter!(CORRUPT_READS, "Reads that found a block corrupt, per tenant");
    describe_counter!(QUARANTINED_BLOCKS, "Blocks found corrupt so often that they are not read any more, per tenant");
    describe_gauge!(OPEN_READERS, "Blocks whose footer is kept in memory");
    metrics::counter!(CORRUPT_READS).absolute(0);
    metrics::counter!(QUARANTINED_BLOCKS).absolute(0);
}
