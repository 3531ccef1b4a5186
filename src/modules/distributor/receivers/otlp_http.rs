//! OTLP over HTTP: `POST /v1/traces` with protobuf or JSON bodies.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use prost::Message;

use super::answer::{Failure, success, success_json};
use super::body::{ReceiveError, Received, receive};
use super::decompress::{DecompressError, Encoding, decompress};
use super::server::{Answer, ServerSettings};
use super::{SKIP_METRICS_HEADER, tenant_of};
use crate::base::byte_budget::Reservation;
use crate::model::otlp::json::request_from_json;
use crate::model::otlp::regroup::Rejected;
use crate::modules::distributor::error::PushError;
use crate::modules::distributor::options::HttpOptions;
use crate::modules::distributor::push::{Push, Pusher, Source};

const SOURCE: Source = Source { receiver: "otlp/otlp_receiver", transport: "http" };
/// Bodies up to this size are decompressed and read from JSON where they are received, larger ones on the CPU pool.
const INLINE_BYTES: usize = 8 << 10;

/// Encoding of request and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Protobuf,
    Json,
}

impl Form {
    fn media_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    /// Reads a `Content-Type`; parameters are ignored.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let media_type = value.split(';').next().unwrap_or_default().trim();
        [Self::Protobuf, Self::Json].into_iter().find(|form| form.media_type().eq_ignore_ascii_case(media_type))
    }
}

/// Refused with a status that is not the one of its gRPC code.
struct HttpFailure {
    status: StatusCode,
    failure: Failure,
}

impl From<Failure> for HttpFailure {
    fn from(failure: Failure) -> Self {
        Self { status: failure.http_status(), failure }
    }
}

/// The service behind an OTLP/HTTP listener.
#[derive(Clone)]
pub(super) struct OtlpHttp {
    options: Arc<HttpOptions>,
    pusher: Arc<Pusher>,
}

impl OtlpHttp {
    pub(super) fn new(options: HttpOptions, pusher: Arc<Pusher>) -> Self {
        Self { options: Arc::new(options), pusher }
    }

    pub(super) fn server_settings(&self) -> ServerSettings {
        ServerSettings { max_concurrent_streams: 0, read_header_timeout: self.options.read_header_timeout }
    }

    pub(super) async fn handle(self, request: Request<Incoming>) -> Answer {
        if request.uri().path() != self.options.traces_url_path {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed, supported: [POST]");
        }
        let Some(form) = Form::of(request.headers()) else {
            let supported = "415 unsupported media type, supported: [application/json, application/x-protobuf]";
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, supported);
        };
        match self.export(form, request).await {
            Ok(rejected) => match form {
                Form::Protobuf => answer(form, StatusCode::OK, success(&rejected).encode_to_vec()),
                Form::Json => answer(form, StatusCode::OK, success_json(&rejected).into_bytes()),
            },
            Err(HttpFailure { status, failure }) => {
                let body = match form {
                    Form::Protobuf => failure.status().encode_to_vec(),
                    Form::Json => failure.status_json().into_bytes(),
                };
                let mut response = answer(form, status, body);
                if let Some(delay) = failure.retry_after {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
                }
                response
            }
        }
    }

    async fn export(&self, form: Form, request: Request<Incoming>) -> Result<Rejected, HttpFailure> {
        let (head, body) = request.into_parts();
        let refuse = |error: PushError| {
            self.pusher.log_refusal(None, &error);
            HttpFailure::from(Failure::from(&error))
        };
        let tenant = tenant_of(&head.headers, self.pusher.multitenancy()).map_err(refuse)?;
        let encoding = head.headers.get(header::CONTENT_ENCODING).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let encoding = encoding.unwrap_or_default();
        let encoding = Encoding::parse(&encoding)
            .ok_or_else(|| refuse(PushError::BadBody(format!("unsupported \"Content-Encoding\": {encoding}"))))?;
        let memory = self.pusher.budget().try_reserve(0).map_err(|error| refuse(error.into()))?;
        let limit = self.options.max_body_bytes;
        let length = content_length(&head.headers);
        let received = match receive(body, limit, memory, |_start| length).await {
            Ok(received) => received,
            Err(ReceiveError::TooLarge { .. }) => return Err(too_large(limit)),
            Err(ReceiveError::Refused(error)) => return Err(refuse(error)),
        };
        let Received { bytes, memory } = self.message(form, encoding, received).await.map_err(|error| match error {
            DecodeError::TooLarge => too_large(limit),
            DecodeError::Refused(error) => refuse(error),
        })?;
        let skip_metrics_generation = head.headers.contains_key(SKIP_METRICS_HEADER);
        let push = Push { tenant, body: bytes, skip_metrics_generation, source: SOURCE, memory };
        self.pusher.push(push).await.map_err(|error| Failure::from(&error).into())
    }

    /// Decompresses a body and reads JSON, on the CPU pool if it is large.
    async fn message(&self, form: Form, encoding: Encoding, received: Received) -> Result<Received, DecodeError> {
        if encoding == Encoding::Identity && form == Form::Protobuf {
            return Ok(received);
        }
        let limit = self.options.max_body_bytes;
        if received.bytes.len() <= INLINE_BYTES {
            return decode(form, encoding, received, limit);
        }
        let outcome = self.pusher.cpu().run("decode_push", move || decode(form, encoding, received, limit)).await;
        outcome.map_err(|error| DecodeError::Refused(error.into()))?
    }
}

enum DecodeError {
    TooLarge,
    Refused(PushError),
}

/// Returns the body as a protobuf message.
fn decode(form: Form, encoding: Encoding, received: Received, limit: usize) -> Result<Received, DecodeError> {
    let Received { mut bytes, mut memory } = received;
    if encoding != Encoding::Identity {
        bytes = match decompress(encoding, &bytes, limit, &mut memory) {
            Ok(bytes) => bytes.into(),
            Err(DecompressError::TooLarge { .. }) => return Err(DecodeError::TooLarge),
            Err(error) => return Err(DecodeError::Refused(error.into())),
        };
    }
    if form == Form::Json {
        bytes = from_json(&bytes, &mut memory).map_err(DecodeError::Refused)?;
    }
    Ok(Received { bytes, memory })
}

fn from_json(text: &[u8], memory: &mut Reservation) -> Result<Bytes, PushError> {
    memory.grow(text.len() as u64)?;
    Ok(request_from_json(text)?.into())
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> HttpFailure {
    let failure = Failure::invalid(format!("request body too large: the limit is {limit} bytes"));
    HttpFailure { status: StatusCode::PAYLOAD_TOO_LARGE, failure }
}

fn answer(form: Form, status: StatusCode, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    response
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
