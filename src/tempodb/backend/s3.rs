//! S3 and stores that speak its API.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::{Attribute, TagSet};

use super::aws_credentials;
use super::error::BackendError;
use super::http::{Connector, KmsContext, tls_problems};
use super::open::{Environment, Opened, client_options, hedging, metadata_attributes, retry_config, unusable};
use super::upload::PartSizes;
use super::{Backend, Kind, Place};
use crate::tempodb::config::S3BackendConfig;

/// Smaller parts are refused by the store, all but the last.
const MIN_PART_BYTES: u64 = 5 << 20;
const MAX_PART_BYTES: u64 = 5 << 30;
/// Attempts when none are configured, as the compatible system's client.
const DEFAULT_ATTEMPTS: u32 = 10;
const DEFAULT_REGION: &str = "us-east-1";
const SSE_C_KEY_BYTES: usize = 32;

/// What is wrong with the block, each text beginning with the key.
pub(super) fn problems(config: &S3BackendConfig) -> Vec<String> {
    let mut problems = tls_problems(&config.client_tls());
    let mut require = |holds: bool, text: &str| {
        if !holds {
            problems.push(text.to_owned());
        }
    };
    require(!config.bucket.is_empty(), "bucket is empty");
    require(!config.endpoint.contains("://"), "endpoint is host:port without a scheme; insecure: true means plain HTTP");
    require(!config.endpoint.contains('/'), "endpoint is host:port without a path; folders in the bucket are a prefix");
    require(!config.signature_v2, "signature_v2 is not supported: requests are signed with version 4");
    require(config.bucket_lookup_type <= 2, "bucket_lookup_type must be 0 (auto), 1 (DNS) or 2 (path)");
    require(config.access_key.is_empty() == config.secret_key.is_empty(), "access_key and secret_key must be set together");
    require(config.session_token.is_empty() || !config.access_key.is_empty(), "session_token needs access_key and secret_key");
    require(
        config.part_size == 0 || (MIN_PART_BYTES..=MAX_PART_BYTES).contains(&config.part_size),
        "part_size must be 0 or between 5242880 (5 MiB) and 5368709120 (5 GiB)",
    );
    let sse = &config.sse;
    require(["", "SSE-KMS", "SSE-S3", "SSE-C"].contains(&sse.r#type.as_str()), "sse.type must be SSE-KMS, SSE-S3 or SSE-C");
    if sse.r#type == "SSE-C" {
        require(sse.encryption_key.reveal().len() == SSE_C_KEY_BYTES, "sse.encryption_key must have 32 bytes");
        require(!config.insecure, "sse.type: SSE-C sends the key with each request and needs TLS");
    }
    require(
        sse.kms_encryption_context.is_empty() || serde_json::from_str::<BTreeMap<String, String>>(&sse.kms_encryption_context).is_ok(),
        "sse.kms_encryption_context must be a JSON object of texts",
    );
    problems
}

pub(super) fn open(config: &S3BackendConfig, environment: Environment<'_>) -> Result<Opened, BackendError> {
    let address = Address::of(config, environment);
    let connector = Connector::new(config.client_tls(), Some(address.host.clone()))?;
    let attempts = if config.retry_max_attempts == 0 { DEFAULT_ATTEMPTS } else { config.retry_max_attempts };
    let retry = retry_config(attempts, config.retry_backoff_initial.to_std(), config.retry_backoff_max.to_std());
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&config.bucket)
        .with_region(&address.region)
        .with_endpoint(&address.url)
        .with_virtual_hosted_style_request(address.is_virtual_hosted)
        .with_retry(retry)
        .with_client_options(client_options(config.insecure))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // The core API, which every compatible store has.
        .with_disable_bulk_delete(true)
        .with_http_connector(connector.clone());
    builder = aws_credentials::apply(builder, config, environment)?;
    builder = encrypted(builder, config);
    let store = builder.build().map_err(|error| unusable("s3", &error))?;
    if config.sse.r#type == "SSE-KMS" && !config.sse.kms_encryption_context.is_empty() {
        connector.set_kms_context(KmsContext {
            context: config.sse.kms_encryption_context.clone(),
            credentials: Arc::clone(store.credentials()),
            region: address.region.clone(),
        });
    }
    let mut backend = Backend::of_kind(Kind::S3, Arc::new(store));
    backend.place = Place::Bucket { block: "s3", name: config.bucket.clone(), url: address.origin };
    backend.list_shards = config.list_blocks_concurrency.max(1);
    if config.part_size > 0 {
        // Asked for by those whose store wants equal parts.
        backend.parts = PartSizes { bytes: config.part_size as usize, is_growing: false, ..PartSizes::default() };
    }
    let mut attributes = metadata_attributes(&config.metadata);
    if !config.storage_class.is_empty() {
        attributes.insert(Attribute::StorageClass, config.storage_class.clone().into());
    }
    let mut tags = TagSet::default();
    config.tags.iter().for_each(|(key, value)| tags.push(key, value));
    let hedging = hedging(config.hedge_requests_at, config.hedge_requests_up_to);
    Ok(Opened { backend, attributes, tags, hedging, prefix: config.prefix.clone() })
}

fn encrypted(builder: AmazonS3Builder, config: &S3BackendConfig) -> AmazonS3Builder {
    let sse = &config.sse;
    let set = |builder: AmazonS3Builder, key: &str, value: &str| match key.parse::<AmazonS3ConfigKey>() {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    };
    match sse.r#type.as_str() {
        "SSE-S3" => set(builder, "aws_server_side_encryption", "AES256"),
        "SSE-KMS" => {
            let builder = set(builder, "aws_server_side_encryption", "aws:kms");
            if sse.kms_key_id.is_empty() { builder } else { set(builder, "aws_sse_kms_key_id", &sse.kms_key_id) }
        }
        "SSE-C" => builder.with_ssec_encryption(BASE64_STANDARD.encode(sse.encryption_key.reveal())),
        _ => builder,
    }
}

/// Where requests go.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    region: String,
    /// Scheme and host of the endpoint, for messages.
    origin: String,
    /// With the bucket in the host name, if it is there.
    url: String,
    /// Host and port of `url`.
    host: String,
    is_virtual_hosted: bool,
}

impl Address {
    fn of(config: &S3BackendConfig, environment: Environment<'_>) -> Self {
        let mut endpoint = config.endpoint.to_ascii_lowercase();
        let region = match (config.region.as_str(), region_of(&endpoint)) {
            ("", Some(region)) => region.to_owned(),
            ("", None) => environment("AWS_REGION").or_else(|| environment("AWS_DEFAULT_REGION")).unwrap_or(DEFAULT_REGION.to_owned()),
            (region, _) => region.to_owned(),
        };
        let is_aws = endpoint.is_empty() || is_aws_host(&endpoint);
        if endpoint.is_empty() || (is_aws && (endpoint == "s3.amazonaws.com" || config.enable_dual_stack)) {
            let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            let dual = if config.enable_dual_stack { "dualstack." } else { "" };
            endpoint = format!("s3.{dual}{region}.{domain}");
        }
        let scheme = if config.insecure { "http" } else { "https" };
        // A certificate for *.domain does not fit a bucket with dots.
        let fits_certificate = config.insecure || !config.bucket.contains('.');
        let is_virtual_hosted = !config.forcepathstyle
            && match config.bucket_lookup_type {
                1 => true,
                2 => false,
                _ => (is_aws || endpoint.ends_with("storage.googleapis.com")) && fits_certificate,
            };
        let host = if is_virtual_hosted { format!("{}.{endpoint}", config.bucket) } else { endpoint.clone() };
        Self { region, origin: format!("{scheme}://{endpoint}"), url: format!("{scheme}://{host}"), host, is_virtual_hosted }
    }
}

fn is_aws_host(endpoint: &str) -> bool {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.starts_with("s3") && (host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn"))
}

/// The region in `s3.<region>.amazonaws.com` and its older and dual-stack forms.
fn region_of(endpoint: &str) -> Option<&str> {
    let rest = endpoint.strip_prefix("s3.").or_else(|| endpoint.strip_prefix("s3-"))?;
    let region = rest.strip_suffix(".amazonaws.com").or_else(|| rest.strip_suffix(".amazonaws.com.cn"))?;
    Some(region.strip_prefix("dualstack.").unwrap_or(region))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;

    fn address(change: impl FnOnce(&mut S3BackendConfig)) -> Address {
        let mut config = S3BackendConfig { bucket: "b".to_owned(), ..S3BackendConfig::default() };
        change(&mut config);
        Address::of(&config, &|name| (name == "AWS_REGION").then(|| "eu-north-1".to_owned()))
    }

    #[test]
    fn addresses_follow_endpoint_region_and_style() {
        let urls = |config: fn(&mut S3BackendConfig)| {
            let address = address(config);
            (address.url, address.region)
        };
        let expected = |url: &str, region: &str| (url.to_owned(), region.to_owned());
        assert_eq!(urls(|_| ()), expected("https://b.s3.eu-north-1.amazonaws.com", "eu-north-1"));
        assert_eq!(
            urls(|config| config.endpoint = "s3.us-west-2.amazonaws.com".to_owned()),
            expected("https://b.s3.us-west-2.amazonaws.com", "us-west-2")
        );
        assert_eq!(
            urls(|config| {
                config.region = "cn-north-1".to_owned();
                config.enable_dual_stack = true;
                config.forcepathstyle = true;
            }),
            expected("https://s3.dualstack.cn-north-1.amazonaws.com.cn", "cn-north-1")
        );
        assert_eq!(
            urls(|config| {
                config.endpoint = "minio:9000".to_owned();
                config.insecure = true;
            }),
            expected("http://minio:9000", "eu-north-1")
        );
        assert_eq!(
            urls(|config| {
                config.endpoint = "store.example".to_owned();
                config.bucket_lookup_type = 1;
            }),
            expected("https://b.store.example", "eu-north-1")
        );
        assert_eq!(urls(|config| config.bucket = "b.c".to_owned()).0, "https://s3.eu-north-1.amazonaws.com");
    }

    #[test]
    fn what_cannot_work_is_named() {
        let texts = |change: fn(&mut S3BackendConfig)| {
            let mut config = S3BackendConfig { bucket: "b".to_owned(), ..S3BackendConfig::default() };
            change(&mut config);
            problems(&config).join("; ")
        };
        assert_eq!(texts(|_| ()), "");
        for (text, expected) in [
            (texts(|config| config.bucket.clear()), "bucket is empty"),
            (texts(|config| config.signature_v2 = true), "signature_v2 is not supported"),
            (texts(|config| config.endpoint = "http://x".to_owned()), "endpoint is host:port without a scheme"),
            (texts(|config| config.access_key = "x".to_owned()), "access_key and secret_key"),
            (texts(|config| config.part_size = 1), "part_size"),
            (texts(|config| config.sse.r#type = "AES".to_owned()), "sse.type"),
            (
                texts(|config| {
                    config.sse.r#type = "SSE-C".to_owned();
                    config.sse.encryption_key = Secret::new("short".to_owned());
                }),
                "sse.encryption_key",
            ),
            (texts(|config| config.sse.kms_encryption_context = "[]".to_owned()), "sse.kms_encryption_context"),
            (texts(|config| config.tls_min_version = "1.2".to_owned()), "tls_min_version"),
            (texts(|config| config.tls_cert_path = "x".to_owned()), "tls_key_path"),
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
