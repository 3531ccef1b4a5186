//! The HTTP client beneath the object stores: one TLS set-up, a measure of every round trip, the retry budget, and what the stores' own
//! clients cannot be told.
//!
//! Not here: which requests are made and how often they are repeated (the `object_store` crate), and hedging ([`super::client`]).

use std::net::ToSocketAddrs;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{HOST, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, StatusCode, Uri};
use metrics::histogram;
use object_store::ClientConfigKey;
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::error::BackendError;
use super::listing_filter;
use super::retry_budget::RetryBudget;
use crate::base::tls::ClientTls;
use crate::tempodb::metrics as names;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence of a server, including that while it takes a request body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the head of an answer to a read. A connection that died unnoticed must not cost a query its time.
const READ_ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// Bound of one request. The largest bodies are upload parts of some 30 MB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// As many as the compatible system keeps.
const IDLE_CONNECTIONS: usize = 100;
const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const KMS_CONTEXT: HeaderName = HeaderName::from_static("x-amz-server-side-encryption-context");

/// Makes the HTTP clients of one store: for its requests and for fetching credentials.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tls: ClientTls,
    budget: RetryBudget,
    /// Host of the store, when TLS expects another name.
    renamed_host: Option<(String, Authority)>,
    kms: OnceLock<KmsContext>,
}

/// The encryption context of SSE-KMS, which needs requests to be signed anew.
#[derive(Debug)]
pub(super) struct KmsContext {
    /// JSON.
    pub(super) context: String,
    pub(super) credentials: AwsCredentialProvider,
    pub(super) region: String,
}

impl Connector {
    /// `host` is that of the store; another name in its certificate needs it.
    pub(super) fn new(tls: ClientTls, host: Option<String>) -> Result<Self, BackendError> {
        let problem = |text: String| BackendError::Config(vec![text]);
        let renamed_host = match host.filter(|_| !tls.server_name.is_empty()) {
            Some(host) => {
                let (name, port) = (&tls.server_name, host.rsplit_once(':').map_or("443", |(_, port)| port));
                let authority = format!("{name}:{port}").parse();
                Some((host.clone(), authority.map_err(|_| problem(format!("tls_server_name: {name} is no host name")))?))
            }
            None => None,
        };
        let connector = Self(Arc::new(Shared { tls, budget: RetryBudget::new(), renamed_host, kms: OnceLock::new() }));
        // Files and versions are checked now, not at the first request.
        connector.reqwest(&ClientOptions::new()).map_err(problem)?;
        Ok(connector)
    }

    /// From now on objects are written with this encryption context.
    pub(super) fn set_kms_context(&self, kms: KmsContext) {
        let _already_set = self.0.kms.set(kms);
    }

    fn reqwest(&self, options: &ClientOptions) -> Result<reqwest::Client, String> {
        let tls = &self.0.tls;
        let is_set = |key| options.get_config_value(&key).is_some_and(|value| value == "true");
        let read = |key: &str, path: &str| std::fs::read(path).map_err(|error| format!("{key}: cannot read {path}: {error}"));
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tempo-rs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .https_only(!is_set(ClientConfigKey::AllowHttp))
            .http1_only()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .tls_danger_accept_invalid_certs(tls.insecure_skip_verify);
        // Metadata services are asked by clients with a shorter wait.
        if let Some(Ok(wait)) = options.get_config_value(&ClientConfigKey::ConnectTimeout).map(|text| text.parse::<jiff::SignedDuration>())
            && let Ok(wait) = Duration::try_from(wait)
        {
            builder = builder.connect_timeout(wait);
        }
        if !tls.ca_path.is_empty() {
            let pem = read("tls_ca_path", &tls.ca_path)?;
            let bundle = reqwest::Certificate::from_pem_bundle(&pem);
            builder = builder.tls_certs_only(bundle.map_err(|_| format!("tls_ca_path: {} holds no PEM certificates", tls.ca_path))?);
        }
        if !tls.cert_path.is_empty() {
            let mut pem = read("tls_cert_path", &tls.cert_path)?;
            pem.push(b'\n');
            pem.extend(read("tls_key_path", &tls.key_path)?);
            let identity = reqwest::Identity::from_pem(&pem);
            builder = builder.identity(identity.map_err(|_| "tls_cert_path, tls_key_path: no PEM certificate and key".to_owned())?);
        }
        if tls.min_version == "VersionTLS13" {
            builder = builder.tls_version_min(reqwest::tls::Version::TLS_1_3);
        }
        if let Some((host, name)) = &self.0.renamed_host {
            let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host).to_owned();
            builder = builder.dns_resolver(Arc::new(Renamed { name: name.host().to_owned(), host }));
        }
        builder.build().map_err(|error| format!("TLS settings: {}", super::error::innermost(&error)))
    }
}

/// What is wrong with TLS settings, without reading files.
pub(super) fn tls_problems(tls: &ClientTls) -> Vec<String> {
    let mut problems = Vec::new();
    if tls.cert_path.is_empty() != tls.key_path.is_empty() {
        problems.push("tls_cert_path and tls_key_path must be set together".to_owned());
    }
    if !["", "VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"].contains(&tls.min_version.as_str()) {
        problems.push(format!("tls_min_version: {} is not one of VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13", tls.min_version));
    }
    if !tls.cipher_suites.is_empty() {
        problems.push("tls_cipher_suites is not supported; leave it empty".to_owned());
    }
    problems
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.reqwest(options).map_err(|text| object_store::Error::Generic { store: "HTTP client", source: text.into() })?;
        Ok(HttpClient::new(Service { inner: HttpClient::new(client), shared: Arc::clone(&self.0) }))
    }
}

/// Resolves the name TLS expects to the address of the real host.
struct Renamed {
    name: String,
    host: String,
}

impl Resolve for Renamed {
    fn resolve(&self, asked: Name) -> Resolving {
        let host = if asked.as_str() == self.name { self.host.clone() } else { asked.as_str().to_owned() };
        Box::pin(async move {
            let lookup = tokio::task::spawn_blocking(move || (host, 0_u16).to_socket_addrs());
            Ok(Box::new(lookup.await??) as Addrs)
        })
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    shared: Arc<Shared>,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let operation = operation(request.method());
        let is_listing = request.method() == Method::GET && listing_filter::is_listing(request.uri());
        self.add_kms_context(&mut request).await?;
        self.rename_host(&mut request)?;
        let started = Instant::now();
        let outcome = self.execute(request).await;
        let status = outcome.as_ref().map_or("error".into(), |response| response.status().as_str().to_owned());
        let duration = histogram!(names::BACKEND_REQUEST_DURATION, "operation" => operation, "status_code" => status);
        duration.record(started.elapsed().as_secs_f64());
        let response = self.budgeted(outcome)?;
        if is_listing && response.status().is_success() { listing_filter::without_foreign_keys(response).await } else { Ok(response) }
    }
}

impl Service {
    async fn execute(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return self.inner.execute(request).await;
        }
        let answer = tokio::time::timeout(READ_ANSWER_TIMEOUT, self.inner.execute(request)).await;
        answer.unwrap_or_else(|elapsed| Err(HttpError::new(HttpErrorKind::Timeout, elapsed)))
    }

    /// Turns a failure that would be repeated into a final one when the budget is used up.
    fn budgeted(&self, outcome: Result<HttpResponse, HttpError>) -> Result<HttpResponse, HttpError> {
        let budget = &self.shared.budget;
        match outcome {
            Ok(response) if is_repeated(response.status()) => {
                if budget.may_retry() {
                    return Ok(response);
                }
                Err(HttpError::new(HttpErrorKind::Unknown, NotRepeated::Status(response.status())))
            }
            Ok(response) => {
                budget.succeeded();
                Ok(response)
            }
            Err(error) if budget.may_retry() => Err(error),
            Err(error) => Err(HttpError::new(HttpErrorKind::Unknown, NotRepeated::Transport(error))),
        }
    }

    /// Sends the request to the name that the certificate has; the signed `Host` stays.
    fn rename_host(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let Some((host, name)) = &self.shared.renamed_host else { return Ok(()) };
        if request.uri().authority().is_none_or(|authority| authority.as_str() != host) {
            return Ok(());
        }
        let mut parts = request.uri().clone().into_parts();
        parts.authority = Some(name.clone());
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let host = HeaderValue::from_str(host).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        request.headers_mut().insert(HOST, host);
        Ok(())
    }

    async fn add_kms_context(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let Some(kms) = self.shared.kms.get().filter(|_| begins_object(request)) else { return Ok(()) };
        let failed = |error: object_store::Error| HttpError::new(HttpErrorKind::Unknown, error);
        let context = HeaderValue::from_str(&BASE64_STANDARD.encode(&kms.context));
        request.headers_mut().insert(KMS_CONTEXT, context.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?);
        let digest = request.headers().get(CONTENT_SHA256).and_then(|value| from_hex(value.as_bytes()));
        let credential = kms.credentials.get_credential().await.map_err(failed)?;
        AwsAuthorizer::new(&credential, "s3", &kms.region).try_authorize(request, digest.as_deref()).map_err(failed)
    }
}

/// Whether an S3 request decides how an object is encrypted: a put that is not a part, a copy, the beginning of a multipart upload.
fn begins_object(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    match *request.method() {
        Method::PUT => request.headers().contains_key(COPY_SOURCE) || !query.contains("partNumber="),
        Method::POST => query.split('&').any(|pair| pair == "uploads" || pair.starts_with("uploads=")),
        _ => false,
    }
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// The statuses after which the stores' clients try again.
fn is_repeated(status: StatusCode) -> bool {
    status.is_server_error() || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status)
}

#[derive(Debug, thiserror::Error)]
enum NotRepeated {
    #[error("the store answered {0}; not repeated, because too many requests fail")]
    Status(StatusCode),
    #[error("not repeated, because too many requests fail")]
    Transport(#[source] HttpError),
}

fn operation(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}
