//! From configuration to a backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::{Attribute, Attributes, BackoffConfig, ClientOptions, RetryConfig, TagSet};

use super::client::{ClientStore, Hedging};
use super::error::{BackendError, innermost};
use super::{Backend, azure, gcs, s3};
use crate::base::duration::GoDuration;
use crate::tempodb::config::TraceStorageConfig;

/// Longest time over all attempts of a request. Signatures of requests are valid for a quarter of an hour.
const RETRY_TIMEOUT: Duration = Duration::from_secs(180);

/// Looks up environment variables; tests bring their own.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a store's own file makes of its configuration.
pub(super) struct Opened {
    pub(super) backend: Backend,
    pub(super) attributes: Attributes,
    pub(super) tags: TagSet,
    pub(super) hedging: Option<Hedging>,
    pub(super) prefix: String,
}

impl Backend {
    /// Opens the configured store. Makes no request; see [`Backend::check`].
    pub fn from_config(config: &TraceStorageConfig) -> Result<Self, BackendError> {
        let problems = problems(config);
        if !problems.is_empty() {
            return Err(BackendError::Config(problems));
        }
        let environment: Environment<'_> = &|name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match config.backend.as_str() {
            "local" => Self::local(&config.local.path),
            "s3" => s3::open(&config.s3, environment).map(Opened::into_backend),
            "gcs" => gcs::open(&config.gcs, environment).map(Opened::into_backend),
            "azure" => azure::open(&config.azure, environment).map(Opened::into_backend),
            other => Err(BackendError::Config(vec![format!("unknown backend {other}")])),
        }
    }
}

/// What is wrong with the configuration of the chosen backend, found without reading files or asking anybody.
pub fn problems(config: &TraceStorageConfig) -> Vec<String> {
    match config.backend.as_str() {
        "local" if config.local.path.is_empty() => vec!["storage.trace.local.path is empty".to_owned()],
        "local" => Vec::new(),
        "s3" => in_block("s3", s3::problems(&config.s3)),
        "gcs" => in_block("gcs", gcs::problems(&config.gcs)),
        "azure" => in_block("azure", azure::problems(&config.azure)),
        other => vec![format!("unknown backend {other} (storage.trace.backend must be local, gcs, s3 or azure)")],
    }
}

fn in_block(block: &str, problems: Vec<String>) -> Vec<String> {
    problems.into_iter().map(|problem| format!("storage.trace.{block}.{problem}")).collect()
}

impl Opened {
    fn into_backend(self) -> Backend {
        let Self { mut backend, attributes, tags, hedging, prefix } = self;
        if !attributes.is_empty() || !tags.is_empty() || hedging.is_some() {
            backend.store = Arc::new(ClientStore { inner: backend.store, attributes, tags, hedging });
        }
        backend.below(&prefix)
    }
}

/// The bounds of repeating one request.
pub(super) fn retry_config(attempts: u32, first_pause: Duration, longest_pause: Duration) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: first_pause, max_backoff: longest_pause.max(first_pause), base: 2.0 },
        max_retries: attempts.saturating_sub(1) as usize,
        retry_timeout: RETRY_TIMEOUT,
    }
}

/// Options of the stores' own clients; what concerns connections is set in [`super::http`].
pub(super) fn client_options(is_plain_http: bool) -> ClientOptions {
    ClientOptions::new().with_allow_http(is_plain_http)
}

pub(super) fn metadata_attributes(metadata: &BTreeMap<String, String>) -> Attributes {
    metadata.iter().map(|(key, value)| (Attribute::Metadata(key.clone().into()), value.clone())).collect()
}

pub(super) fn hedging(after: GoDuration, up_to: u32) -> Option<Hedging> {
    Hedging::new(after.to_std(), up_to)
}

/// A store that could not be built from its configuration.
pub(super) fn unusable(block: &str, error: &object_store::Error) -> BackendError {
    BackendError::Config(vec![format!("storage.trace.{block}: {}", innermost(error))])
}
