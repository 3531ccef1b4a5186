//! TLS towards servers: from the `tls_*` keys of a configuration block to a client's settings.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ALL_VERSIONS, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, SupportedProtocolVersion, version,
};

use crate::base::tls::ClientTls;

static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// Why TLS settings are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the PEM file {path}")]
    Pem {
        path: String,
        #[source]
        cause: tokio_rustls::rustls::pki_types::pem::Error,
    },
    #[error("{0} holds no certificate")]
    NoCertificate(String),
    #[error("tls_cert_path and tls_key_path must be set both or neither")]
    HalfAPair,
    #[error("unknown or unsupported cipher suite {0}")]
    CipherSuite(String),
    #[error("unknown TLS version {0:?} (VersionTLS10 to VersionTLS13; versions below 1.2 are not supported)")]
    Version(String),
    #[error("TLS settings do not fit together")]
    Settings(#[from] Error),
}

/// Builds the settings of a client. Without a CA bundle the system's certificates are trusted.
pub fn client_config(tls: &ClientTls) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(provider(&tls.cipher_suites)?);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions(&tls.min_version)?)?;
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(&tls.ca_path)?)
    };
    let config = match (tls.cert_path.as_str(), tls.key_path.as_str()) {
        ("", "") => builder.with_no_client_auth(),
        ("", _) | (_, "") => return Err(TlsError::HalfAPair),
        (cert, key) => {
            let key = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|cause| TlsError::Pem { path: key.to_owned(), cause })?;
            builder.with_client_auth_cert(certificates(cert)?, key)?
        }
    };
    Ok(Arc::new(config))
}

/// Makes our cryptography that of libraries which do not take settings of ours.
pub fn install_provider() {
    // Somebody was first: as good.
    let _installed = aws_lc_rs::default_provider().install_default();
}

fn provider(cipher_suites: &str) -> Result<CryptoProvider, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    if !cipher_suites.is_empty() {
        let mut chosen = Vec::new();
        for name in cipher_suites.split(',').map(str::trim) {
            // Suites of TLS 1.3 are named TLS13_… in the library.
            let known = provider.cipher_suites.iter().find(|suite| {
                suite.suite().as_str().is_some_and(|known| known == name || known.strip_prefix("TLS13_") == name.strip_prefix("TLS_"))
            });
            chosen.push(*known.ok_or_else(|| TlsError::CipherSuite(name.to_owned()))?);
        }
        provider.cipher_suites = chosen;
    }
    Ok(provider)
}

fn versions(min_version: &str) -> Result<&'static [&'static SupportedProtocolVersion], TlsError> {
    match min_version {
        // Older versions are not spoken: the least that is.
        "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => Ok(ALL_VERSIONS),
        "VersionTLS13" => Ok(ONLY_TLS13),
        other => Err(TlsError::Version(other.to_owned())),
    }
}

fn roots(ca_path: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if ca_path.is_empty() {
        // What cannot be read of the system's store is not trusted; a server that needs it is refused then.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        for certificate in certificates(ca_path)? {
            roots.add(certificate)?;
        }
    }
    Ok(roots)
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(Path::new(path)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|cause| TlsError::Pem { path: path.to_owned(), cause })?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

/// `tls_insecure_skip_verify`: whoever answers is trusted, but must own the key of the certificate shown.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let tls = |change: fn(&mut ClientTls)| {
            let mut tls = ClientTls { insecure_skip_verify: true, ..ClientTls::default() };
            change(&mut tls);
            client_config(&tls)
        };
        assert!(tls(|_| {}).is_ok());
        assert!(tls(|tls| tls.cipher_suites = "TLS_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()).is_ok());
        assert!(tls(|tls| tls.min_version = "VersionTLS13".to_owned()).is_ok());
        assert!(matches!(tls(|tls| tls.cipher_suites = "TLS_RSA_WITH_RC4_128_SHA".to_owned()), Err(TlsError::CipherSuite(_))));
        assert!(matches!(tls(|tls| tls.min_version = "TLS1.2".to_owned()), Err(TlsError::Version(_))));
        assert!(matches!(tls(|tls| tls.cert_path = "c.pem".to_owned()), Err(TlsError::HalfAPair)));
        let missing = |tls: &mut ClientTls| {
            tls.insecure_skip_verify = false;
            tls.ca_path = "/no/such/file.pem".to_owned();
        };
        assert!(matches!(tls(missing), Err(TlsError::Pem { .. })));
    }
}
