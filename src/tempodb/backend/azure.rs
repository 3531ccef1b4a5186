//! Azure Blob Storage.

use std::sync::Arc;
use std::time::Duration;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::{Attributes, TagSet};

use super::error::BackendError;
use super::http::Connector;
use super::open::{Environment, Opened, client_options, hedging, retry_config, unusable};
use super::upload::PartSizes;
use super::{Backend, Kind, Place};
use crate::base::tls::ClientTls;
use crate::tempodb::config::AzureBackendConfig;

const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Blocks a blob may have.
const MAX_PARTS: usize = 50_000;
const MAX_BUFFER_BYTES: u64 = 1 << 30;

pub(super) fn problems(config: &AzureBackendConfig) -> Vec<String> {
    let mut problems = Vec::new();
    if config.container_name.is_empty() {
        problems.push("container_name is empty".to_owned());
    }
    if !(1..=MAX_BUFFER_BYTES).contains(&config.buffer_size) {
        problems.push("buffer_size must be between 1 and 1073741824 (1 GiB)".to_owned());
    }
    if config.use_managed_identity && config.use_federated_token {
        problems.push("use_managed_identity and use_federated_token exclude each other".to_owned());
    }
    if config.endpoint_suffix.is_empty() || config.endpoint_suffix.contains("://") {
        problems.push("endpoint_suffix is a domain such as blob.core.windows.net, or host:port of an emulator".to_owned());
    }
    problems
}

pub(super) fn open(config: &AzureBackendConfig, environment: Environment<'_>) -> Result<Opened, BackendError> {
    let missing = |text: &str| BackendError::Config(vec![format!("storage.trace.azure.{text}")]);
    let account = Some(config.storage_account_name.clone()).filter(|name| !name.is_empty());
    let account = account.or_else(|| environment("AZURE_STORAGE_ACCOUNT"));
    let account = account.ok_or_else(|| missing("storage_account_name is empty, and so is AZURE_STORAGE_ACCOUNT"))?;
    let url = account_url(&account, &config.endpoint_suffix);
    let builder = MicrosoftAzureBuilder::new()
        .with_account(&account)
        .with_container_name(&config.container_name)
        .with_endpoint(url.clone())
        .with_retry(retry_config(ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE))
        .with_client_options(client_options(url.starts_with("http://")))
        .with_http_connector(Connector::new(ClientTls::default(), None)?);
    let builder = with_credentials(builder, config, environment).ok_or_else(|| {
        missing(
            "storage_account_key is empty; set it, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, use_managed_identity or use_federated_token",
        )
    })?;
    let store = builder.build().map_err(|error| unusable("azure", &error))?;
    let mut backend = Backend::of_kind(Kind::Azure, Arc::new(store));
    backend.place = Place::Bucket { block: "azure", name: config.container_name.clone(), url };
    backend.parts =
        PartSizes { bytes: config.buffer_size as usize, in_flight: config.max_buffers.max(1), is_growing: false, max_parts: MAX_PARTS };
    let hedging = hedging(config.hedge_requests_at, config.hedge_requests_up_to);
    Ok(Opened { backend, attributes: Attributes::default(), tags: TagSet::default(), hedging, prefix: config.prefix.clone() })
}

/// `None` when there are no credentials of any kind.
fn with_credentials(
    builder: MicrosoftAzureBuilder,
    config: &AzureBackendConfig,
    environment: Environment<'_>,
) -> Option<MicrosoftAzureBuilder> {
    if config.use_federated_token {
        let variables = [
            ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
            ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
            ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
            ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
        ];
        let found = variables.into_iter().filter_map(|(name, key)| Some((key, environment(name)?)));
        let builder = found.fold(builder, |builder, (key, value)| builder.with_config(key, value));
        return Some(builder.with_credential_type("workload_identity"));
    }
    if config.use_managed_identity {
        let id = &config.user_assigned_id;
        let builder = if id.is_empty() { builder } else { builder.with_client_id(id) };
        return Some(builder.with_credential_type("managed_identity"));
    }
    let key = Some(config.storage_account_key.reveal().clone()).filter(|key| !key.is_empty());
    if let Some(key) = key.or_else(|| environment("AZURE_STORAGE_KEY")) {
        return Some(builder.with_access_key(key));
    }
    let token = environment("AZURE_STORAGE_SAS_TOKEN")?;
    Some(builder.with_config(AzureConfigKey::SasKey, token))
}

/// A suffix that is no `blob.…` domain is the address of an emulator, which has the account in the path.
fn account_url(account: &str, suffix: &str) -> String {
    if suffix.starts_with("blob.") { format!("https://{account}.{suffix}") } else { format!("http://{suffix}/{account}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_tells_the_service_from_an_emulator() {
        assert_eq!(account_url("a", "blob.core.windows.net"), "https://a.blob.core.windows.net");
        assert_eq!(account_url("a", "127.0.0.1:10000"), "http://127.0.0.1:10000/a");
    }

    #[test]
    fn missing_credentials_are_named() {
        let config = AzureBackendConfig { container_name: "c".to_owned(), ..AzureBackendConfig::default() };
        let text = |environment: Environment<'_>| open(&config, environment).err().unwrap().to_string();
        assert!(text(&|_| None).contains("storage_account_name is empty"));
        let named = |name: &str| (name == "AZURE_STORAGE_ACCOUNT").then(|| "a".to_owned());
        assert!(text(&named).contains("storage_account_key is empty"));
        let keyed = |name: &str| named(name).or((name == "AZURE_STORAGE_KEY").then(|| "a2V5".to_owned()));
        assert!(open(&config, &keyed).is_ok());
    }
}
