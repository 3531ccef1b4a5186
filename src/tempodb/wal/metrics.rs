//! Names and help texts of the write-ahead log's metrics.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(super) const FLUSHED_BYTES: &str = "tempo_rs_wal_flushed_bytes_total";
pub(super) const FLUSH_DURATION: &str = "tempo_rs_wal_flush_duration_seconds";
pub(super) const REPLAYED_BLOCKS: &str = "tempo_rs_wal_replayed_blocks_total";
pub(super) const REPLAYED_ROWS: &str = "tempo_rs_wal_replayed_rows_total";
pub(super) const REPLAY_WARNINGS: &str = "tempo_rs_wal_replay_warnings_total";
pub(super) const DROPPED_BLOCKS: &str = "tempo_rs_wal_dropped_blocks_total";
pub(super) const COMPLETED_BLOCKS: &str = "tempo_rs_wal_completed_blocks_total";
pub(super) const COMPLETION_TABLE_BYTES: &str = "tempo_rs_wal_completion_table_bytes";
pub(super) const TOMBSTONES: &str = "tempo_rs_wal_tombstones";

pub(super) fn describe() {
    describe_counter!(FLUSHED_BYTES, Unit::Bytes, "Bytes of WAL files that were made durable");
    describe_histogram!(FLUSH_DURATION, Unit::Seconds, "Time to encode a WAL file and make it durable");
    describe_counter!(REPLAYED_BLOCKS, "WAL blocks read back at start");
    describe_counter!(REPLAYED_ROWS, "Rows of WAL blocks read back at start");
    describe_counter!(REPLAY_WARNINGS, "WAL files that could not be read back and whose rows are lost");
    describe_counter!(DROPPED_BLOCKS, "WAL blocks removed at start because nothing could be read back, by reason");
    describe_counter!(COMPLETED_BLOCKS, "Blocks written from WAL blocks");
    describe_gauge!(COMPLETION_TABLE_BYTES, Unit::Bytes, "Most memory that tables held while the last WAL block was completed");
    describe_gauge!(TOMBSTONES, "Dropped folders that still wait to be removed");
}
