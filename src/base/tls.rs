//! TLS settings as they appear in configuration files.

use crate::base::config_block::config_block;
use crate::base::secret::Secret;

config_block! {
    /// Server TLS: `http_tls_config`, `grpc_tls_config`. Empty: plain text.
    pub struct ServerTlsConfig {
        /// Certificate as PEM text.
        cert: String = String::new(),
        /// Key as PEM text.
        key: Secret<String> = Secret::default(),
        /// CA bundle for client certificates as PEM text.
        client_ca: String = String::new(),
        /// Certificate file.
        cert_file: String = String::new(),
        /// Key file.
        key_file: String = String::new(),
        /// CA bundle file for client certificates.
        client_ca_file: String = String::new(),
        /// `NoClientCert`, `RequestClientCert`, `RequireAnyClientCert`, `VerifyClientCertIfGiven` or `RequireAndVerifyClientCert`.
        client_auth_type: String = String::new(),
    }
}

/// Client TLS settings, gathered from the `tls_*` keys that stand inline in several blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientTls {
    pub cert_path: String,
    pub key_path: String,
    /// Empty: system roots.
    pub ca_path: String,
    pub server_name: String,
    pub insecure_skip_verify: bool,
    /// IANA names, comma-separated; empty: no restriction.
    pub cipher_suites: String,
    /// `VersionTLS10` … `VersionTLS13`; empty: library default.
    pub min_version: String,
}

/// Gives a block with inline `tls_*` keys a method that gathers them.
macro_rules! impl_client_tls {
    ($($name:ty),+) => {$(
        impl $name {
            /// Returns the inline `tls_*` keys as one value.
            pub fn client_tls(&self) -> $crate::base::tls::ClientTls {
                $crate::base::tls::ClientTls {
                    cert_path: self.tls_cert_path.clone(),
                    key_path: self.tls_key_path.clone(),
                    ca_path: self.tls_ca_path.clone(),
                    server_name: self.tls_server_name.clone(),
                    insecure_skip_verify: self.tls_insecure_skip_verify,
                    cipher_suites: self.tls_cipher_suites.clone(),
                    min_version: self.tls_min_version.clone(),
                }
            }
        }
    )+};
}

pub(crate) use impl_client_tls;
