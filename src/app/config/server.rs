//! `server:` and `internal_server:`.

use crate::base::config_block::{config_block, text};
use crate::base::duration::GoDuration;
use crate::base::tls::ServerTlsConfig;

config_block! {
    /// `server:`; `internal_server:` has the same keys and `enable`.
    pub struct ServerConfig {
        /// `internal_server` only: serve `/ready` without authentication on its own port.
        #[serde(skip_serializing_if = "Option::is_none")]
        enable: Option<bool> = None,
        /// `tcp`, `tcp4` or `tcp6`.
        http_listen_network: String = text("tcp"),
        /// Empty: all addresses.
        http_listen_address: String = String::new(),
        /// 0: any free port.
        http_listen_port: u16 = 3200,
        /// Connections at once; 0 or less: unlimited.
        http_listen_conn_limit: i64 = 0,
        /// `tcp`, `tcp4` or `tcp6`.
        grpc_listen_network: String = text("tcp"),
        /// Empty: all addresses.
        grpc_listen_address: String = String::new(),
        /// 0: any free port.
        grpc_listen_port: u16 = 9095,
        /// Connections at once; 0 or less: unlimited.
        grpc_listen_conn_limit: i64 = 0,
        /// Gauge of streams per connection.
        grpc_collect_max_streams_by_conn: bool = true,
        /// Accept the PROXY protocol.
        proxy_protocol_enabled: bool = false,
        /// For both listeners, comma-separated IANA names.
        tls_cipher_suites: String = String::new(),
        /// For both listeners, `VersionTLS10` … `VersionTLS13`.
        tls_min_version: String = String::new(),
        /// TLS of the HTTP listener.
        http_tls_config: ServerTlsConfig = ServerTlsConfig::default(),
        /// TLS of the gRPC listener.
        grpc_tls_config: ServerTlsConfig = ServerTlsConfig::default(),
        /// Serve `/metrics` and `/debug/pprof`.
        register_instrumentation: bool = true,
        /// Names of gRPC codes in metric labels.
        report_grpc_codes_in_instrumentation_label_enabled: bool = false,
        /// Time running requests get on stop.
        graceful_shutdown_timeout: GoDuration = GoDuration::seconds(30),
        /// Limit for reading a whole request.
        http_server_read_timeout: GoDuration = GoDuration::seconds(30),
        /// Limit for reading the headers; 0: the read timeout.
        http_server_read_header_timeout: GoDuration = GoDuration::ZERO,
        /// Limit for writing an answer.
        http_server_write_timeout: GoDuration = GoDuration::seconds(30),
        /// Limit of an idle connection.
        http_server_idle_timeout: GoDuration = GoDuration::minutes(2),
        /// Log connections closed without an answer.
        http_log_closed_connections_without_response_enabled: bool = false,
        /// Largest gRPC message accepted, in bytes.
        grpc_server_max_recv_msg_size: usize = 16_777_216,
        /// Largest gRPC message sent, in bytes.
        grpc_server_max_send_msg_size: usize = 16_777_216,
        /// Streams per connection; 0: unlimited.
        grpc_server_max_concurrent_streams: u32 = 100,
        /// Idle connections are closed after this.
        grpc_server_max_connection_idle: GoDuration = GoDuration::INFINITY,
        /// Connections are closed after this.
        grpc_server_max_connection_age: GoDuration = GoDuration::INFINITY,
        /// Time running calls get then.
        grpc_server_max_connection_age_grace: GoDuration = GoDuration::INFINITY,
        /// Silence until a client is pinged.
        grpc_server_keepalive_time: GoDuration = GoDuration::hours(2),
        /// Time to answer a ping.
        grpc_server_keepalive_timeout: GoDuration = GoDuration::seconds(20),
        /// Clients that ping more often are sent away.
        grpc_server_min_time_between_pings: GoDuration = GoDuration::seconds(10),
        /// Clients may ping without calls.
        grpc_server_ping_without_stream_allowed: bool = true,
        /// Fixed number of workers; 0: one per request.
        grpc_server_num_workers: usize = 0,
        /// Metrics of message sizes and of calls in flight.
        grpc_server_stats_tracking_enabled: bool = true,
        /// Accepted, no effect.
        grpc_server_recv_buffer_pools_enabled: bool = false,
        /// Bytes of a read buffer.
        grpc_server_read_buffer_size: usize = 32_768,
        /// Bytes of a write buffer.
        grpc_server_write_buffer_size: usize = 32_768,
        /// `logfmt` or `json`.
        log_format: String = text("logfmt"),
        /// `debug`, `info`, `warn` or `error`.
        log_level: String = text("info"),
        /// Client addresses in logs.
        log_source_ips_enabled: bool = false,
        /// All addresses of the forwarding headers.
        log_source_ips_full: bool = false,
        /// Header that holds them.
        log_source_ips_header: String = String::new(),
        /// Regular expression that finds them in the header.
        log_source_ips_regex: String = String::new(),
        /// Request headers in logs.
        log_request_headers: bool = false,
        /// Log requests at info instead of debug.
        log_request_at_info_level_enabled: bool = false,
        /// Headers left out, comma-separated.
        log_request_exclude_headers_list: String = String::new(),
        /// Request headers as span attributes.
        trace_request_headers: bool = false,
        /// Headers left out, comma-separated.
        trace_request_exclude_headers_list: String = String::new(),
        /// Prefix of every route.
        http_path_prefix: String = String::new(),
        /// Refusing calls meant for another cluster.
        cluster_validation: ServerClusterValidationConfig = ServerClusterValidationConfig::default(),
        /// Link incoming traces instead of continuing them.
        create_new_traces: bool = false,
    }

    /// `server.cluster_validation`.
    pub struct ServerClusterValidationConfig {
        /// Own label.
        label: String = String::new(),
        /// Further accepted labels, comma-separated.
        additional_labels: String = String::new(),
        /// Of gRPC calls.
        grpc: GrpcClusterValidationConfig = GrpcClusterValidationConfig::default(),
        /// Of HTTP requests.
        http: HttpClusterValidationConfig = HttpClusterValidationConfig::default(),
    }

    /// `server.cluster_validation.grpc`.
    pub struct GrpcClusterValidationConfig {
        /// Switches it on.
        enabled: bool = false,
        /// Only count, do not refuse.
        soft_validation: bool = false,
    }

    /// `server.cluster_validation.http`.
    pub struct HttpClusterValidationConfig {
        /// Switches it on.
        enabled: bool = false,
        /// Only count, do not refuse.
        soft_validation: bool = false,
        /// Paths not checked, comma-separated.
        excluded_paths: String = String::new(),
        /// User agents not checked, comma-separated.
        excluded_user_agents: String = String::new(),
    }
}

impl ServerConfig {
    /// Defaults of `internal_server`.
    pub fn internal() -> Self {
        Self {
            enable: Some(false),
            http_listen_port: 3101,
            register_instrumentation: false,
            grpc_listen_network: String::new(),
            grpc_listen_port: 0,
            grpc_collect_max_streams_by_conn: false,
            grpc_server_max_recv_msg_size: 0,
            grpc_server_max_send_msg_size: 0,
            grpc_server_max_concurrent_streams: 0,
            grpc_server_max_connection_idle: GoDuration::ZERO,
            grpc_server_max_connection_age: GoDuration::ZERO,
            grpc_server_max_connection_age_grace: GoDuration::ZERO,
            grpc_server_keepalive_time: GoDuration::ZERO,
            grpc_server_keepalive_timeout: GoDuration::ZERO,
            grpc_server_min_time_between_pings: GoDuration::ZERO,
            grpc_server_ping_without_stream_allowed: false,
            grpc_server_stats_tracking_enabled: false,
            grpc_server_read_buffer_size: 0,
            grpc_server_write_buffer_size: 0,
            ..Self::default()
        }
    }

    /// Returns the start errors of this block.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !["debug", "info", "warn", "error"].contains(&self.log_level.as_str()) {
            problems.push(format!("unrecognized log level {:?}", self.log_level));
        }
        if !["logfmt", "json"].contains(&self.log_format.as_str()) {
            problems.push(format!("unrecognized log format {:?}", self.log_format));
        }
        problems
    }
}
