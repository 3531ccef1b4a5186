//! What the distributor needs to know, with defaults filled in.

use std::time::Duration;

use super::config::DistributorConfig;
use super::receiver_config::{OtlpGrpcConfig, OtlpHttpConfig};
use crate::services::ingest_log::config::KafkaConfig;

/// Settings of the role.
#[derive(Debug, Clone, PartialEq)]
pub struct DistributorOptions {
    /// Absent: no OTLP over gRPC.
    pub otlp_grpc: Option<GrpcOptions>,
    /// Absent: no OTLP over HTTP.
    pub otlp_http: Option<HttpOptions>,
    pub push: PushOptions,
    /// Bytes of bodies and records in flight, all requests together. Full: refuse, retryable.
    pub max_in_flight_bytes: u64,
}

/// An OTLP/gRPC listener.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcOptions {
    pub endpoint: String,
    /// Largest message, before and after decompression.
    pub max_message_bytes: usize,
    /// Streams per connection; 0: unlimited.
    pub max_concurrent_streams: u32,
}

/// An OTLP/HTTP listener.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpOptions {
    pub endpoint: String,
    pub traces_url_path: String,
    /// Largest body, before and after decompression.
    pub max_body_bytes: usize,
    pub read_header_timeout: Duration,
}

/// Settings of the push path.
#[derive(Debug, Clone, PartialEq)]
pub struct PushOptions {
    /// Off: everything belongs to one tenant.
    pub multitenancy: bool,
    /// Longer attribute keys and string values are cut; 0: no limit. A tenant's own limit wins.
    pub max_attribute_bytes: usize,
    /// Retry hint on rate limiting; zero: none.
    pub retry_after: Duration,
    /// Requests are padded to this latency; zero: off. A tenant's own value wins.
    pub artificial_delay: Duration,
    /// Largest value of a record (`producer_max_record_size_bytes`).
    pub max_record_bytes: u64,
    /// Longest wait for the log's acknowledgement (`write_timeout`).
    pub write_timeout: Duration,
}

impl DistributorOptions {
    /// Reads the configuration. Returns the options and warnings about keys that have no effect yet.
    ///
    /// # Errors
    /// Everything that cannot be done as configured, one line each.
    pub fn from_config(config: &DistributorConfig, ingest: &KafkaConfig, multitenancy: bool) -> Result<(Self, Vec<String>), Vec<String>> {
        let mut problems = config.validate();
        let mut warnings = Vec::new();
        let receivers = config.receivers.or_default();
        let protocols = receivers.otlp.map(|otlp| otlp.protocols).unwrap_or_default();
        let others = [
            ("jaeger", receivers.jaeger.is_some() && !config.receivers.is_empty()),
            ("zipkin", receivers.zipkin.is_some()),
            ("kafka", receivers.kafka.is_some()),
        ];
        for (name, _) in others.into_iter().filter(|(_, configured)| *configured) {
            let text = format!("distributor.receivers.{name}: not supported yet, nothing listens there");
            if protocols.grpc.is_none() && protocols.http.is_none() { problems.push(text) } else { warnings.push(text) }
        }
        let off = [
            ("log_received_spans", config.log_received_spans.enabled),
            ("log_discarded_spans", config.log_discarded_spans.enabled),
            ("metric_received_spans", config.metric_received_spans.enabled),
            ("usage.cost_attribution", config.usage.cost_attribution.enabled),
        ];
        warnings.extend(off.into_iter().filter(|(_, on)| *on).map(|(key, _)| format!("distributor.{key}: not supported yet, ignored")));
        if !config.forwarders.is_empty() {
            problems.push("distributor.forwarders: not supported yet".to_owned());
        }
        let otlp_grpc = protocols.grpc.map(|grpc| GrpcOptions::from_config(&grpc, &mut problems));
        let otlp_http = protocols.http.map(|http| HttpOptions::from_config(&http, &mut problems, &mut warnings));
        if !problems.is_empty() {
            return Err(problems);
        }
        let push = PushOptions {
            multitenancy,
            max_attribute_bytes: config.max_attribute_bytes,
            retry_after: config.retry_after_on_resource_exhausted.to_std(),
            artificial_delay: config.artificial_delay.to_std(),
            max_record_bytes: ingest.producer_max_record_size_bytes,
            write_timeout: ingest.write_timeout.to_std(),
        };
        Ok((Self { otlp_grpc, otlp_http, push, ..Self::default() }, warnings))
    }
}

/// Keys of the collector that would change what a listener does, and are not built.
fn unsupported(at: &str, given: &[(&str, bool)], problems: &mut Vec<String>) {
    problems.extend(given.iter().filter(|(_, given)| *given).map(|(key, _)| format!("{at}.{key}: not supported yet")));
}

fn is_tcp(transport: &str) -> bool {
    matches!(transport, "" | "tcp" | "tcp4" | "tcp6")
}

impl GrpcOptions {
    fn from_config(config: &OtlpGrpcConfig, problems: &mut Vec<String>) -> Self {
        let given = [
            ("tls", config.tls.is_some()),
            ("auth", config.auth.is_some()),
            ("middlewares", !config.middlewares.is_empty()),
            ("transport", !is_tcp(&config.transport)),
        ];
        unsupported("distributor.receivers.otlp.protocols.grpc", &given, problems);
        let max_message_bytes = match config.max_recv_msg_size_mib {
            0 => Self::default().max_message_bytes,
            mib => usize::try_from(mib.saturating_mul(1 << 20)).unwrap_or(usize::MAX),
        };
        Self { endpoint: config.endpoint.clone(), max_message_bytes, max_concurrent_streams: config.max_concurrent_streams }
    }
}

impl HttpOptions {
    fn from_config(config: &OtlpHttpConfig, problems: &mut Vec<String>, warnings: &mut Vec<String>) -> Self {
        let at = "distributor.receivers.otlp.protocols.http";
        let given = [
            ("tls", config.tls.is_some()),
            ("auth", config.auth.is_some()),
            ("middlewares", !config.middlewares.is_empty()),
            ("transport", !is_tcp(&config.transport)),
        ];
        unsupported(at, &given, problems);
        let ignored = [
            ("cors", config.cors.is_some()),
            ("response_headers", !config.response_headers.is_empty()),
            ("keep_alives_enabled", !config.keep_alives_enabled),
        ];
        unsupported(at, &ignored, warnings);
        let defaults = Self::default();
        let max_body_bytes = match config.max_request_body_size {
            0 => defaults.max_body_bytes,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        };
        Self {
            endpoint: config.endpoint.clone(),
            traces_url_path: config.traces_url_path.clone(),
            max_body_bytes,
            read_header_timeout: config.read_header_timeout.positive().unwrap_or(defaults.read_header_timeout),
        }
    }
}

impl Default for DistributorOptions {
    fn default() -> Self {
        Self { otlp_grpc: None, otlp_http: None, push: PushOptions::default(), max_in_flight_bytes: 128 << 20 }
    }
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self { endpoint: "localhost:4317".to_owned(), max_message_bytes: 4 << 20, max_concurrent_streams: 0 }
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            endpoint: "localhost:4318".to_owned(),
            traces_url_path: "/v1/traces".to_owned(),
            max_body_bytes: 20 << 20,
            read_header_timeout: Duration::from_secs(60),
        }
    }
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            multitenancy: false,
            max_attribute_bytes: 2048,
            retry_after: Duration::from_secs(5),
            artificial_delay: Duration::ZERO,
            max_record_bytes: 15_983_616,
            write_timeout: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::distributor::receiver_config::{
        JaegerReceiverConfig, OtlpProtocolsConfig, OtlpReceiverConfig, ReceiverTlsConfig, ReceiversConfig,
    };

    fn read(receivers: ReceiversConfig) -> Result<(DistributorOptions, Vec<String>), Vec<String>> {
        DistributorOptions::from_config(&DistributorConfig { receivers, ..Default::default() }, &KafkaConfig::default(), false)
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let (options, warnings) = read(ReceiversConfig::default()).unwrap();
        assert_eq!(options, DistributorOptions { otlp_grpc: Some(GrpcOptions::default()), ..DistributorOptions::default() });
        assert!(warnings.is_empty());
    }

    #[test]
    fn what_is_not_built_is_named() {
        let jaeger = Some(JaegerReceiverConfig::default());
        assert_eq!(
            read(ReceiversConfig { jaeger: jaeger.clone(), ..Default::default() }).unwrap_err(),
            ["distributor.receivers.jaeger: not supported yet, nothing listens there"]
        );
        let grpc = OtlpGrpcConfig { max_recv_msg_size_mib: 16, ..Default::default() };
        let otlp = |grpc| Some(OtlpReceiverConfig { protocols: OtlpProtocolsConfig { grpc: Some(grpc), http: None } });
        let (options, warnings) = read(ReceiversConfig { jaeger, otlp: otlp(grpc.clone()), ..Default::default() }).unwrap();
        assert_eq!(options.otlp_grpc.unwrap().max_message_bytes, 16 << 20);
        assert_eq!(warnings.len(), 1);
        let with_tls = OtlpGrpcConfig { tls: Some(ReceiverTlsConfig::default()), ..grpc };
        let problems = read(ReceiversConfig { otlp: otlp(with_tls), ..Default::default() }).unwrap_err();
        assert_eq!(problems, ["distributor.receivers.otlp.protocols.grpc.tls: not supported yet"]);
    }
}
