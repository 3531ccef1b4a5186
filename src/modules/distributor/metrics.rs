//! Names of the distributor's metrics. Those without `tempo_rs_` are known to dashboards of the compatible system.

use metrics::{Unit, describe_counter, describe_histogram};

pub const ACCEPTED_SPANS: &str = "tempo_receiver_accepted_spans";
pub const REFUSED_SPANS: &str = "tempo_receiver_refused_spans";
pub const PUSH_DURATION: &str = "tempo_distributor_push_duration_seconds";
pub const INGRESS_BYTES: &str = "tempo_distributor_ingress_bytes_total";
pub const BYTES_RECEIVED: &str = "tempo_distributor_bytes_received_total";
pub const SPANS_RECEIVED: &str = "tempo_distributor_spans_received_total";
pub const DISCARDED_SPANS: &str = "tempo_discarded_spans_total";
pub const TRACES_PER_BATCH: &str = "tempo_distributor_traces_per_batch";
pub const ATTRIBUTES_TRUNCATED: &str = "tempo_distributor_attributes_truncated_total";
pub const ADDED_LATENCY: &str = "tempo_distributor_added_latency_seconds";
pub const WRITE_LATENCY: &str = "tempo_distributor_kafka_write_latency_seconds";
pub const WRITE_BYTES: &str = "tempo_distributor_kafka_write_bytes_total";
pub const RECORDS_PER_REQUEST: &str = "tempo_distributor_kafka_records_per_request";
pub const PRODUCE_RECORDS: &str = "tempo_distributor_produce_records_total";
pub const PRODUCE_FAILURES: &str = "tempo_distributor_produce_failures_total";
pub const DISTANCE_FUTURE: &str = "tempo_spans_distance_in_future_seconds";
pub const DISTANCE_PAST: &str = "tempo_spans_distance_in_past_seconds";
pub const DROPPED_LOG_LINES: &str = "tempo_dropped_log_lines_total";
pub const TENANTS_REFUSED: &str = "tempo_rs_distributor_tenants_refused_total";
pub const CONNECTIONS_REFUSED: &str = "tempo_rs_distributor_connections_waited_total";

/// Histograms whose buckets are part of their contract, for the exporter.
pub const BUCKETS: &[(&str, &[f64])] = &[
    (TRACES_PER_BATCH, &[2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]),
    (DISTANCE_FUTURE, &[300.0, 1800.0, 3600.0]),
    (DISTANCE_PAST, &[300.0, 1800.0, 3600.0]),
];

/// Registers help texts, and the series that alerts need from the start.
pub(super) fn describe() {
    describe_counter!(ACCEPTED_SPANS, "Spans pushed into the pipeline");
    describe_counter!(REFUSED_SPANS, "Spans that could not be pushed into the pipeline");
    describe_histogram!(PUSH_DURATION, Unit::Seconds, "Duration of a push");
    describe_counter!(INGRESS_BYTES, Unit::Bytes, "Bytes offered per tenant, before limits");
    describe_counter!(BYTES_RECEIVED, Unit::Bytes, "Bytes admitted per tenant, after limits");
    describe_counter!(SPANS_RECEIVED, "Spans admitted per tenant, after limits");
    describe_counter!(DISCARDED_SPANS, "Spans discarded, by reason");
    describe_histogram!(TRACES_PER_BATCH, "Traces in a push");
    describe_counter!(ATTRIBUTES_TRUNCATED, "Attribute keys and values cut, by what they belong to");
    describe_histogram!(ADDED_LATENCY, Unit::Seconds, "Artificial delay added to a push");
    describe_histogram!(WRITE_LATENCY, Unit::Seconds, "Time until the ingest log has acknowledged a push");
    describe_counter!(WRITE_BYTES, Unit::Bytes, "Bytes of records appended, by partition");
    describe_histogram!(RECORDS_PER_REQUEST, "Records a push became");
    describe_counter!(PRODUCE_RECORDS, "Records appended to the ingest log");
    describe_counter!(PRODUCE_FAILURES, "Appends that failed, by reason");
    describe_histogram!(DISTANCE_FUTURE, Unit::Seconds, "How far the ends of traces lie in the future");
    describe_histogram!(DISTANCE_PAST, Unit::Seconds, "How far the starts of traces lie in the past");
    describe_counter!(DROPPED_LOG_LINES, "Log lines not written because of a rate limit");
    describe_counter!(TENANTS_REFUSED, "Pushes refused because too many tenants were active");
    describe_counter!(CONNECTIONS_REFUSED, "Connections that waited for a place");
    ["timeout", "buffer-full", "record-too-large", "canceled", "cancelled-before-producing", "other"]
        .into_iter()
        .for_each(|reason| metrics::counter!(PRODUCE_FAILURES, "reason" => reason).increment(0));
    metrics::counter!(DROPPED_LOG_LINES).increment(0);
}
