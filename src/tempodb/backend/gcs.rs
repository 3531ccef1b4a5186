//! Google Cloud Storage.

use std::sync::Arc;
use std::time::Duration;

use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{Attribute, TagSet};

use super::error::BackendError;
use super::http::Connector;
use super::open::{Environment, Opened, client_options, hedging, metadata_attributes, retry_config, unusable};
use super::upload::PartSizes;
use super::{Backend, Kind, Place};
use crate::base::tls::ClientTls;
use crate::tempodb::config::GcsBackendConfig;

const DEFAULT_URL: &str = "https://storage.googleapis.com";
/// Path of the JSON API in an endpoint; the XML API, which is used here, is at the root.
const JSON_API_PATH: &str = "/storage/v1";
/// Smaller parts are refused by the store, all but the last.
const MIN_PART_BYTES: u64 = 5 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) fn problems(config: &GcsBackendConfig) -> Vec<String> {
    let mut problems = Vec::new();
    if config.bucket_name.is_empty() {
        problems.push("bucket_name is empty".to_owned());
    }
    if config.chunk_buffer_size > 1 << 30 {
        problems.push("chunk_buffer_size must be at most 1073741824 (1 GiB)".to_owned());
    }
    problems
}

pub(super) fn open(config: &GcsBackendConfig, environment: Environment<'_>) -> Result<Opened, BackendError> {
    let emulator = environment("STORAGE_EMULATOR_HOST").filter(|_| config.endpoint.is_empty());
    let is_open = config.insecure || emulator.is_some();
    let url = base_url(emulator.as_deref().unwrap_or(&config.endpoint), emulator.is_some());
    let connector = Connector::new(ClientTls { insecure_skip_verify: config.insecure, ..ClientTls::default() }, None)?;
    let builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&config.bucket_name)
        .with_base_url(&url)
        .with_retry(retry_config(config.max_retries.saturating_add(1), FIRST_PAUSE, LONGEST_PAUSE))
        .with_client_options(client_options(url.starts_with("http://")))
        .with_http_connector(connector);
    let builder = if is_open {
        // A service account without a key keeps the client from looking for credentials.
        let account = r#"{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#;
        builder.with_service_account_key(account).with_skip_signature(true)
    } else if let Some(path) = environment("GOOGLE_APPLICATION_CREDENTIALS") {
        builder.with_application_credentials(path)
    } else {
        builder
    };
    let store = builder.build().map_err(|error| unusable("gcs", &error))?;
    let mut backend = Backend::of_kind(Kind::Gcs, Arc::new(store));
    backend.place = Place::Bucket { block: "gcs", name: config.bucket_name.clone(), url };
    backend.list_shards = config.list_blocks_concurrency.max(1);
    backend.parts = PartSizes { bytes: config.chunk_buffer_size.max(MIN_PART_BYTES) as usize, ..PartSizes::default() };
    let mut attributes = metadata_attributes(&config.object_metadata);
    if !config.object_cache_control.is_empty() {
        attributes.insert(Attribute::CacheControl, config.object_cache_control.clone().into());
    }
    let hedging = hedging(config.hedge_requests_at, config.hedge_requests_up_to);
    Ok(Opened { backend, attributes, tags: TagSet::default(), hedging, prefix: config.prefix.clone() })
}

/// The root of an endpoint, as configured for the JSON API or named without a scheme.
fn base_url(endpoint: &str, is_emulator: bool) -> String {
    if endpoint.is_empty() {
        return DEFAULT_URL.to_owned();
    }
    let root = endpoint.trim_end_matches('/');
    let root = root.strip_suffix(JSON_API_PATH).unwrap_or(root).trim_end_matches('/');
    let scheme = if is_emulator { "http" } else { "https" };
    if root.contains("://") { root.to_owned() } else { format!("{scheme}://{root}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_the_json_api_lead_to_the_root() {
        assert_eq!(base_url("", false), DEFAULT_URL);
        assert_eq!(base_url("http://127.0.0.1:4443/storage/v1/", false), "http://127.0.0.1:4443");
        assert_eq!(base_url("https://storage.googleapis.com/storage/v1", false), DEFAULT_URL);
        assert_eq!(base_url("private.googleapis.com", false), "https://private.googleapis.com");
        assert_eq!(base_url("127.0.0.1:4443", true), "http://127.0.0.1:4443");
    }
}
