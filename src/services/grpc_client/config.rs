//! `grpc_client_config` blocks.

use crate::base::backoff::BackoffConfig;
use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::base::size::ByteSize;
use crate::base::tls::impl_client_tls;

config_block! {
    /// How this process talks gRPC to another one.
    pub struct GrpcClientConfig {
        /// Largest message accepted, in bytes.
        max_recv_msg_size: usize = 104_857_600,
        /// Largest message sent, in bytes.
        max_send_msg_size: usize = 104_857_600,
        /// "", `gzip` or `snappy`.
        grpc_compression: String = text("snappy"),
        /// Calls per second; 0: off.
        rate_limit: f64 = 0.0,
        /// Burst of `rate_limit`.
        rate_limit_burst: usize = 0,
        /// Retry when rate limited.
        backoff_on_ratelimits: bool = false,
        /// Retry timing.
        backoff_config: BackoffConfig = BackoffConfig::default(),
        /// HTTP/2 stream window.
        initial_stream_window_size: ByteSize = ByteSize(65_535),
        /// HTTP/2 connection window.
        initial_connection_window_size: ByteSize = ByteSize(65_535),
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
        /// Limit for establishing a connection.
        connect_timeout: GoDuration = GoDuration::seconds(5),
        /// First reconnect delay.
        connect_backoff_base_delay: GoDuration = GoDuration::seconds(1),
        /// Largest reconnect delay.
        connect_backoff_max_delay: GoDuration = GoDuration::seconds(5),
        /// Label sent to servers for cluster validation.
        cluster_validation: ClusterLabelConfig = ClusterLabelConfig::default(),
    }

    /// `cluster_validation` of a client.
    pub struct ClusterLabelConfig {
        /// The label; empty: none is sent.
        label: String = String::new(),
    }
}

impl_client_tls!(GrpcClientConfig);
