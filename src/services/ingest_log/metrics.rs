//! Metrics of the ingest log. The lag gauges have the names that dashboards know; they stand for Kafka and the embedded log alike.

use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::{ConsumerGroup, Lag, LogError, PartitionId};

const GROUP_LAG: &str = "tempo_ingest_group_partition_lag";
const GROUP_LAG_SECONDS: &str = "tempo_ingest_group_partition_lag_seconds";
const APPENDED_RECORDS: &str = "tempo_rs_ingest_log_appended_records_total";
const APPENDED_BYTES: &str = "tempo_rs_ingest_log_appended_bytes_total";
const APPEND_FAILURES: &str = "tempo_rs_ingest_log_append_failures_total";
const SYNCS: &str = "tempo_rs_ingest_log_syncs_total";
const SYNC_SECONDS: &str = "tempo_rs_ingest_log_sync_duration_seconds";
const QUEUE_BYTES: &str = "tempo_rs_ingest_log_append_queue_bytes";
const QUEUE_LIMIT_BYTES: &str = "tempo_rs_ingest_log_append_queue_limit_bytes";
const TAIL_BYTES: &str = "tempo_rs_ingest_log_tail_bytes";
const LOG_BYTES: &str = "tempo_rs_ingest_log_bytes";
const LOG_LIMIT_BYTES: &str = "tempo_rs_ingest_log_limit_bytes";
const SEGMENTS: &str = "tempo_rs_ingest_log_segments";
const FETCHES: &str = "tempo_rs_ingest_log_fetches_total";
const DAMAGED_BYTES: &str = "tempo_rs_ingest_log_damaged_bytes_total";
const CUT_BYTES: &str = "tempo_rs_ingest_log_torn_tail_bytes_total";
const SKIPPED_RECORDS: &str = "tempo_rs_ingest_log_skipped_records_total";

/// Tells the recorder units and help texts. Call it once, after the recorder is installed.
pub fn describe() {
    describe_gauge!(GROUP_LAG, "Records between a consumer group's committed offset and the end of the partition");
    describe_gauge!(GROUP_LAG_SECONDS, Unit::Seconds, "Age of the first record that a consumer group has not committed");
    describe_counter!(APPENDED_RECORDS, "Records appended and acknowledged");
    describe_counter!(APPENDED_BYTES, Unit::Bytes, "Bytes of acknowledged records, frames included");
    describe_counter!(APPEND_FAILURES, "Appends answered with an error, by reason");
    describe_counter!(SYNCS, "Group commits: one fsync acknowledges all appends of a group");
    describe_histogram!(SYNC_SECONDS, Unit::Seconds, "Duration of a group commit's fsync");
    describe_gauge!(QUEUE_BYTES, Unit::Bytes, "Bytes of appends that wait for the partition's writer or its fsync");
    describe_gauge!(QUEUE_LIMIT_BYTES, Unit::Bytes, "Bound of the append queue; at the bound appends wait");
    describe_gauge!(TAIL_BYTES, Unit::Bytes, "Recent records held in memory for caught-up consumers");
    describe_gauge!(LOG_BYTES, Unit::Bytes, "Segment files of all partitions");
    describe_gauge!(LOG_LIMIT_BYTES, Unit::Bytes, "Bound of the segment files; at the bound appends are refused");
    describe_gauge!(SEGMENTS, "Segment files of the partition");
    describe_counter!(FETCHES, "Fetches that returned records, by where the records were found: tail or file");
    describe_counter!(DAMAGED_BYTES, Unit::Bytes, "Bytes of segments stepped over because their checksum is wrong");
    describe_counter!(CUT_BYTES, Unit::Bytes, "Bytes of unfinished writes cut off when the log was opened");
    describe_counter!(SKIPPED_RECORDS, "Offsets that consumers asked for and that are no longer held");
}

/// Publishes how far a group is behind.
pub fn publish_lag(group: &ConsumerGroup, partition: PartitionId, lag: Lag) {
    let (group, partition) = (group.to_string(), partition.to_string());
    gauge!(GROUP_LAG, "group" => group.clone(), "partition" => partition.clone()).set(lag.records as f64);
    gauge!(GROUP_LAG_SECONDS, "group" => group, "partition" => partition).set(lag.time.as_secs_f64());
}

/// Handles of the metrics that all partitions share.
pub(super) struct LogMetrics {
    pub(super) bytes: Gauge,
}

impl LogMetrics {
    pub(super) fn new(max_bytes: u64) -> Self {
        gauge!(LOG_LIMIT_BYTES).set(max_bytes as f64);
        Self { bytes: gauge!(LOG_BYTES) }
    }
}

/// Handles of one partition's metrics, resolved once.
pub(super) struct PartitionMetrics {
    label: String,
    pub(super) appended_records: Counter,
    pub(super) appended_bytes: Counter,
    pub(super) syncs: Counter,
    pub(super) sync_seconds: Histogram,
    pub(super) queue_bytes: Gauge,
    pub(super) tail_bytes: Gauge,
    pub(super) segments: Gauge,
    pub(super) tail_fetches: Counter,
    pub(super) file_fetches: Counter,
    pub(super) damaged_bytes: Counter,
    pub(super) cut_bytes: Counter,
    pub(super) skipped_records: Counter,
}

impl PartitionMetrics {
    pub(super) fn new(partition: PartitionId, queue_limit_bytes: usize) -> Self {
        let label = partition.to_string();
        let partition = || ("partition", label.clone());
        gauge!(QUEUE_LIMIT_BYTES, &[partition()]).set(queue_limit_bytes as f64);
        Self {
            appended_records: counter!(APPENDED_RECORDS, &[partition()]),
            appended_bytes: counter!(APPENDED_BYTES, &[partition()]),
            syncs: counter!(SYNCS, &[partition()]),
            sync_seconds: histogram!(SYNC_SECONDS, &[partition()]),
            queue_bytes: gauge!(QUEUE_BYTES, &[partition()]),
            tail_bytes: gauge!(TAIL_BYTES, &[partition()]),
            segments: gauge!(SEGMENTS, &[partition()]),
            tail_fetches: counter!(FETCHES, &[partition(), ("source", "tail".to_owned())]),
            file_fetches: counter!(FETCHES, &[partition(), ("source", "file".to_owned())]),
            damaged_bytes: counter!(DAMAGED_BYTES, &[partition()]),
            cut_bytes: counter!(CUT_BYTES, &[partition()]),
            skipped_records: counter!(SKIPPED_RECORDS, &[partition()]),
            label,
        }
    }

    /// Counts an append that is answered with `error`.
    pub(super) fn append_failed(&self, error: &LogError) {
        counter!(APPEND_FAILURES, "partition" => self.label.clone(), "reason" => error.reason()).increment(1);
    }
}
