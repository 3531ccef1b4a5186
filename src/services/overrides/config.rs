//! `overrides:`.

use crate::base::config_block::config_block;
use crate::base::duration::{GoDuration, PromDuration};
use crate::services::overrides::limits::Limits;
use crate::tempodb::config::{AzureBackendConfig, GcsBackendConfig, LocalBackendConfig, S3BackendConfig};

config_block! {
    /// `overrides:`.
    pub struct OverridesConfig {
        /// Limits of tenants without an entry in the runtime file.
        defaults: Limits = Limits::builtin(),
        /// Path or `http(s)://` address of the runtime file; empty: none.
        per_tenant_override_config: String = String::new(),
        /// Interval of looking at the runtime file.
        per_tenant_override_period: PromDuration = PromDuration::seconds(10),
        /// Accept the flat format of 1.x and 2.x.
        enable_legacy_overrides: bool = false,
        /// Entries inherit unset keys from `"*"` and the defaults. tempo-rs only; off: an unset key has its zero value.
        merge_with_defaults: bool = false,
        /// Limits that tenants set themselves.
        user_configurable_overrides: UserConfigurableConfig = UserConfigurableConfig::default(),
    }

    /// `user_configurable_overrides:`.
    pub struct UserConfigurableConfig {
        /// Switches it on.
        enabled: bool = false,
        /// Interval of reading the store.
        poll_interval: GoDuration = GoDuration::minutes(1),
        /// Where they are kept.
        client: UserConfigurableClientConfig = UserConfigurableClientConfig::default(),
        /// The HTTP API.
        api: UserConfigurableApiConfig = UserConfigurableApiConfig::default(),
    }

    /// `user_configurable_overrides.client:`.
    pub struct UserConfigurableClientConfig {
        /// `local`, `gcs`, `s3` or `azure`.
        backend: String = String::new(),
        /// GCS: the bucket must have versioning.
        confirm_versioning: bool = true,
        /// Backend `local`.
        local: LocalBackendConfig = LocalBackendConfig::default(),
        /// Backend `gcs`.
        gcs: GcsBackendConfig = GcsBackendConfig::default(),
        /// Backend `s3`.
        s3: S3BackendConfig = S3BackendConfig::default(),
        /// Backend `azure`.
        azure: AzureBackendConfig = AzureBackendConfig::default(),
    }

    /// `user_configurable_overrides.api:`.
    pub struct UserConfigurableApiConfig {
        /// Refuse a first document while the runtime file sets the same keys.
        check_for_conflicting_runtime_overrides: bool = false,
    }
}
