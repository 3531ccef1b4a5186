//! `ingest:`.

use std::collections::BTreeMap;

use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::base::secret::Secret;
use crate::base::tls::impl_client_tls;

config_block! {
    /// `ingest:`. Without `kafka.topic` the embedded log is used.
    pub struct IngestConfig {
        /// 2.x: produce to Kafka instead of pushing to ingesters. Absent: decided by the target.
        #[serde(skip_serializing_if = "Option::is_none")]
        enabled: Option<bool> = None,
        /// The Kafka log.
        kafka: KafkaConfig = KafkaConfig::default(),
        /// The log on local disk.
        embedded: EmbeddedLogConfig = EmbeddedLogConfig::default(),
    }

    /// `ingest.embedded:`. Segments below the smallest committed offset of all consumers in the process are deleted.
    pub struct EmbeddedLogConfig {
        /// Directory, exclusively locked.
        path: String = text("/var/tempo/ingest"),
        /// Number of partitions; fixed at first start.
        partitions: u32 = 1,
        /// Segment size in bytes.
        segment_bytes: u64 = 67_108_864,
        /// Total size in bytes; when it cannot be met, pushes are refused as unavailable.
        max_bytes: u64 = 21_474_836_480,
        /// Longest wait of a group commit before its fsync.
        sync_interval: GoDuration = GoDuration::millis(10),
    }

    /// `ingest.kafka:`.
    pub struct KafkaConfig {
        /// Bootstrap broker.
        address: String = text("localhost:9092"),
        /// Topic; empty: the embedded log is used.
        topic: String = String::new(),
        /// Client id shown to the brokers.
        client_id: String = String::new(),
        /// Rack or zone, for fetching from the closest replica.
        client_rack: String = String::new(),
        /// Limit for connecting to a broker.
        dial_timeout: GoDuration = GoDuration::seconds(2),
        /// Limit for a produce acknowledgement.
        write_timeout: GoDuration = GoDuration::seconds(10),
        /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER` or `AWS_MSK_IAM`; PLAIN without credentials: no SASL.
        sasl_mechanism: String = text("PLAIN"),
        /// User of PLAIN and SCRAM.
        sasl_username: String = String::new(),
        /// Password of PLAIN and SCRAM.
        sasl_password: Secret<String> = Secret::default(),
        /// Static OAuth token.
        sasl_oauthbearer_token: Secret<String> = Secret::default(),
        /// OAuth authorisation id.
        sasl_oauthbearer_zid: String = String::new(),
        /// OAuth extensions.
        sasl_oauthbearer_extensions: BTreeMap<String, String> = BTreeMap::new(),
        /// JSON file with `token`, `zid`, `extensions`; read again at each authentication.
        sasl_oauthbearer_file_path: String = String::new(),
        /// Unix socket that answers `GET /` with the same JSON.
        sasl_oauthbearer_http_socket_path: String = String::new(),
        /// Limit of a request to that socket.
        sasl_oauthbearer_http_socket_timeout: GoDuration = GoDuration::seconds(10),
        /// Static AWS credentials.
        sasl_msk_iam_access_key: Secret<String> = Secret::default(),
        /// Static AWS credentials.
        sasl_msk_iam_secret_key: Secret<String> = Secret::default(),
        /// Static AWS credentials.
        sasl_msk_iam_session_token: Secret<String> = Secret::default(),
        /// User agent sent with AWS credentials.
        sasl_msk_iam_user_agent: String = String::new(),
        /// JSON file with `AccessKey`, `SecretKey`, `SessionToken`, `UserAgent`.
        sasl_msk_iam_file_path: String = String::new(),
        /// Unix socket that answers `GET /` with the same JSON.
        sasl_msk_iam_http_socket_path: String = String::new(),
        /// Limit of a request to that socket.
        sasl_msk_iam_http_socket_timeout: GoDuration = GoDuration::seconds(10),
        /// Use TLS.
        tls_enabled: bool = false,
        /// Client certificate file; needs the key too.
        tls_cert_path: String = String::new(),
        /// Key file of the client certificate.
        tls_key_path: String = String::new(),
        /// CA bundle; empty: system roots.
        tls_ca_path: String = String::new(),
        /// Expected name in the server certificate.
        tls_server_name: String = String::new(),
        /// Accept any server certificate.
        tls_insecure_skip_verify: bool = false,
        /// Restricts cipher suites, comma-separated IANA names.
        tls_cipher_suites: String = String::new(),
        /// `VersionTLS10` … `VersionTLS13`.
        tls_min_version: String = String::new(),
        /// Empty: the instance id; `<partition>` is replaced by the number.
        consumer_group: String = String::new(),
        /// Accepted, no effect: live-stores use their own `commit_interval`.
        consumer_group_offset_commit_interval: GoDuration = GoDuration::seconds(1),
        /// Retry limit of offset lookups.
        last_produced_offset_retry_timeout: GoDuration = GoDuration::seconds(10),
        /// Create the topic when it is missing.
        auto_create_topic_enabled: bool = true,
        /// Partitions of a created topic; 0: the broker's default.
        auto_create_topic_default_partitions: i64 = 1000,
        /// Largest record; larger writes are split. 1048576 … 15983616.
        producer_max_record_size_bytes: u64 = 15_983_616,
        /// Bytes waiting for the brokers; 0: unlimited.
        producer_max_buffered_bytes: u64 = 1_073_741_824,
        /// `none`, `gzip`, `snappy`, `lz4`, `zstd`; empty: client preference.
        producer_compression: String = String::new(),
        /// Accepted, no effect. Both lags 0 or both positive.
        target_consumer_lag_at_startup: GoDuration = GoDuration::seconds(2),
        /// Accepted, no effect. At least the target.
        max_consumer_lag_at_startup: GoDuration = GoDuration::seconds(15),
        /// Send no client telemetry to the brokers.
        disable_kafka_telemetry: bool = false,
        /// Interval of the lag metric; 0: no lag metric.
        consumer_group_lag_metric_update_interval: GoDuration = GoDuration::minutes(1),
    }
}

impl_client_tls!(KafkaConfig);
