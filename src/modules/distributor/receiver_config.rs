//! `distributor.receivers:`, in the shape of the OpenTelemetry collector's receiver blocks.
//!
//! A protocol is on when its key is present, also with nothing below it. Listening addresses default to `localhost`: remote traffic needs
//! an explicit `endpoint: 0.0.0.0:4317`.

use std::collections::BTreeMap;

use crate::base::config_block::{config_block, present_or_default, text};
use crate::base::duration::GoDuration;
use crate::base::yaml::FreeForm;

config_block! {
    /// `receivers:`.
    pub struct ReceiversConfig {
        /// OTLP over gRPC and HTTP.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present_or_default")]
        otlp: Option<OtlpReceiverConfig> = None,
        /// Jaeger's four protocols.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present_or_default")]
        jaeger: Option<JaegerReceiverConfig> = None,
        /// Zipkin v1 and v2.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present_or_default")]
        zipkin: Option<ZipkinReceiverConfig> = None,
        /// OTLP, Jaeger or Zipkin from a Kafka topic, in the collector's own keys.
        #[serde(skip_serializing_if = "Option::is_none")]
        kafka: Option<FreeForm> = None,
    }

    /// `otlp:`.
    pub struct OtlpReceiverConfig {
        /// Which forms are on.
        protocols: OtlpProtocolsConfig = OtlpProtocolsConfig::default(),
    }

    /// `otlp.protocols:`.
    pub struct OtlpProtocolsConfig {
        /// Default endpoint `localhost:4317`.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present_or_default")]
        grpc: Option<OtlpGrpcConfig> = None,
        /// Default endpoint `localhost:4318`.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present_or_default")]
        http: Option<OtlpHttpConfig> = None,
    }

    /// `otlp.protocols.grpc:`.
    pub struct OtlpGrpcConfig {
        /// Address to listen on.
        endpoint: String = text("localhost:4317"),
        /// `tcp`, `tcp4`, `tcp6`, `unix`.
        transport: String = text("tcp"),
        /// TLS of the listener; absent: plain text.
        #[serde(skip_serializing_if = "Option::is_none")]
        tls: Option<ReceiverTlsConfig> = None,
        /// Largest message in MiB; 0: 4.
        max_recv_msg_size_mib: u64 = 0,
        /// Streams per connection; 0: unlimited.
        max_concurrent_streams: u32 = 0,
        /// Bytes of a read buffer.
        read_buffer_size: usize = 524_288,
        /// Bytes of a write buffer.
        write_buffer_size: usize = 0,
        /// Keep-alive rules.
        #[serde(skip_serializing_if = "Option::is_none")]
        keepalive: Option<FreeForm> = None,
        /// No authenticators exist.
        #[serde(skip_serializing_if = "Option::is_none")]
        auth: Option<FreeForm> = None,
        /// Keep request headers with the data.
        include_metadata: bool = false,
        /// Collector middlewares; none exist.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        middlewares: Vec<FreeForm> = Vec::new(),
    }

    /// `otlp.protocols.http:`.
    pub struct OtlpHttpConfig {
        /// Address to listen on.
        endpoint: String = text("localhost:4318"),
        /// `tcp`, `tcp4`, `tcp6`, `unix`.
        transport: String = text("tcp"),
        /// TLS of the listener; absent: plain text.
        #[serde(skip_serializing_if = "Option::is_none")]
        tls: Option<ReceiverTlsConfig> = None,
        /// Cross-origin rules.
        #[serde(skip_serializing_if = "Option::is_none")]
        cors: Option<CorsConfig> = None,
        /// No authenticators exist.
        #[serde(skip_serializing_if = "Option::is_none")]
        auth: Option<FreeForm> = None,
        /// Largest decompressed body in bytes; 0: 20 MiB.
        max_request_body_size: u64 = 0,
        /// Always true.
        include_metadata: bool = true,
        /// Headers of every answer.
        response_headers: BTreeMap<String, String> = BTreeMap::new(),
        /// Accepted encodings; empty: all known ones.
        compression_algorithms: Vec<String> = Vec::new(),
        /// Limit for reading a request; 0: none.
        read_timeout: GoDuration = GoDuration::ZERO,
        /// Limit for reading the headers.
        read_header_timeout: GoDuration = GoDuration::minutes(1),
        /// Limit for writing an answer.
        write_timeout: GoDuration = GoDuration::seconds(30),
        /// Limit of an idle connection.
        idle_timeout: GoDuration = GoDuration::minutes(1),
        /// Keep connections open.
        keep_alives_enabled: bool = true,
        /// Collector middlewares; none exist.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        middlewares: Vec<FreeForm> = Vec::new(),
        /// Path of trace requests.
        traces_url_path: String = text("/v1/traces"),
        /// Path of metric requests, which are refused.
        metrics_url_path: String = text("/v1/metrics"),
        /// Path of log requests, which are refused.
        logs_url_path: String = text("/v1/logs"),
    }

    /// `jaeger:`.
    pub struct JaegerReceiverConfig {
        /// Which forms are on.
        protocols: JaegerProtocolsConfig = JaegerProtocolsConfig::default(),
        /// Remote sampling of old clients; not served.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote_sampling: Option<FreeForm> = None,
    }

    /// `jaeger.protocols:`.
    pub struct JaegerProtocolsConfig {
        /// Default endpoint `localhost:14250`.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "jaeger_grpc")]
        grpc: Option<OtlpGrpcConfig> = None,
        /// Default endpoint `localhost:14268`.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "jaeger_thrift_http")]
        thrift_http: Option<OtlpHttpConfig> = None,
        /// UDP, default endpoint `localhost:6831`.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "jaeger_thrift_compact")]
        thrift_compact: Option<JaegerUdpConfig> = None,
        /// UDP, default endpoint `localhost:6832`.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "jaeger_thrift_binary")]
        thrift_binary: Option<JaegerUdpConfig> = None,
    }

    /// A Jaeger agent port.
    pub struct JaegerUdpConfig {
        /// Address to listen on; empty until the protocol's default is filled in.
        endpoint: String = String::new(),
        /// Packets waiting.
        queue_size: usize = 1000,
        /// Largest packet in bytes.
        max_packet_size: usize = 65_000,
        /// Readers.
        workers: usize = 10,
        /// Bytes of the socket buffer; 0: the system's.
        socket_buffer_size: usize = 0,
    }

    /// `zipkin:`.
    pub struct ZipkinReceiverConfig {
        /// Address to listen on.
        endpoint: String = text("localhost:9411"),
        /// TLS of the listener; absent: plain text.
        #[serde(skip_serializing_if = "Option::is_none")]
        tls: Option<ReceiverTlsConfig> = None,
        /// Cross-origin rules.
        #[serde(skip_serializing_if = "Option::is_none")]
        cors: Option<CorsConfig> = None,
        /// No authenticators exist.
        #[serde(skip_serializing_if = "Option::is_none")]
        auth: Option<FreeForm> = None,
        /// Largest decompressed body in bytes; 0: 20 MiB.
        max_request_body_size: u64 = 0,
        /// Always true.
        include_metadata: bool = true,
        /// Read numbers and booleans in string tags as such.
        parse_string_tags: bool = false,
        /// Headers of every answer.
        response_headers: BTreeMap<String, String> = BTreeMap::new(),
        /// Accepted encodings; empty: all known ones.
        compression_algorithms: Vec<String> = Vec::new(),
    }

    /// `tls` of a receiver.
    pub struct ReceiverTlsConfig {
        /// Certificate file.
        cert_file: String = String::new(),
        /// Key file.
        key_file: String = String::new(),
        /// CA bundle for client certificates; set: clients must have one.
        client_ca_file: String = String::new(),
        /// CA bundle file.
        ca_file: String = String::new(),
        /// Certificate as PEM text.
        cert_pem: String = String::new(),
        /// Key as PEM text.
        key_pem: crate::base::secret::Secret<String> = crate::base::secret::Secret::default(),
        /// CA bundle as PEM text.
        ca_pem: String = String::new(),
        /// `1.0` … `1.3`.
        min_version: String = String::new(),
        /// `1.0` … `1.3`.
        max_version: String = String::new(),
        /// IANA names.
        cipher_suites: Vec<String> = Vec::new(),
        /// Interval of reading the files again; 0: never.
        reload_interval: GoDuration = GoDuration::ZERO,
        /// Read the client CA again when it changes.
        client_ca_file_reload: bool = false,
        /// Also trust the system roots.
        include_system_ca_certs_pool: bool = false,
    }

    /// `cors` of a receiver.
    pub struct CorsConfig {
        /// Origins; empty: cross-origin requests are refused.
        allowed_origins: Vec<String> = Vec::new(),
        /// Request headers beyond the simple ones.
        allowed_headers: Vec<String> = Vec::new(),
        /// Answer headers browsers may read.
        exposed_headers: Vec<String> = Vec::new(),
        /// Seconds a preflight answer may be cached.
        max_age: u64 = 0,
    }
}

/// A protocol with another default address than its struct's.
macro_rules! with_default_endpoint {
    ($($function:ident: $ty:ty, $struct_default:expr => $endpoint:literal;)+) => {$(
        fn $function<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<$ty>, D::Error> {
            let mut config: Option<$ty> = present_or_default(deserializer)?;
            if let Some(config) = config.as_mut().filter(|config| config.endpoint == $struct_default) {
                config.endpoint = text($endpoint);
            }
            Ok(config)
        }
    )+};
}

// An endpoint that equals OTLP's default means "not set": nobody serves Jaeger on OTLP's port.
with_default_endpoint! {
    jaeger_grpc: OtlpGrpcConfig, "localhost:4317" => "localhost:14250";
    jaeger_thrift_http: OtlpHttpConfig, "localhost:4318" => "localhost:14268";
    jaeger_thrift_compact: JaegerUdpConfig, "" => "localhost:6831";
    jaeger_thrift_binary: JaegerUdpConfig, "" => "localhost:6832";
}

impl ReceiversConfig {
    /// True when no receiver is configured.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the configured receivers; none configured: OTLP over gRPC and Jaeger over gRPC and HTTP, all on `localhost`.
    pub fn or_default(&self) -> Self {
        if !self.is_empty() {
            return self.clone();
        }
        let jaeger_grpc = OtlpGrpcConfig { endpoint: text("localhost:14250"), ..OtlpGrpcConfig::default() };
        let jaeger_http = OtlpHttpConfig { endpoint: text("localhost:14268"), ..OtlpHttpConfig::default() };
        Self {
            otlp: Some(OtlpReceiverConfig { protocols: OtlpProtocolsConfig { grpc: Some(OtlpGrpcConfig::default()), http: None } }),
            jaeger: Some(JaegerReceiverConfig {
                protocols: JaegerProtocolsConfig {
                    grpc: Some(jaeger_grpc),
                    thrift_http: Some(jaeger_http),
                    ..JaegerProtocolsConfig::default()
                },
                remote_sampling: None,
            }),
            ..Self::default()
        }
    }
}
