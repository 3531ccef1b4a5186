//! OTLP over gRPC: one unary method whose message stays bytes.
//!
//! ```text
//! request body = flag (1 byte: 0 plain, 1 compressed) ‖ length (4 bytes, big endian) ‖ message
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use prost::Message;
use tonic::Code;

use super::answer::{Failure, success};
use super::body::{ReceiveError, Received, receive};
use super::decompress::{DecompressError, Encoding, decompress};
use super::server::{Answer, ServerSettings};
use super::{SKIP_METRICS_HEADER, tenant_of};
use crate::model::otlp::regroup::Rejected;
use crate::modules::distributor::error::PushError;
use crate::modules::distributor::options::GrpcOptions;
use crate::modules::distributor::push::{Push, Pusher, Source};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const SOURCE: Source = Source { receiver: "otlp/otlp_receiver", transport: "grpc" };
/// Bytes before the message.
const PREFIX_BYTES: usize = 5;
/// Compressed messages up to this size are decompressed where they are received, larger ones on the CPU pool.
const INLINE_COMPRESSED_BYTES: usize = 8 << 10;
const ACCEPTED_ENCODINGS: HeaderValue = HeaderValue::from_static("identity,gzip,zstd,snappy,deflate");
const READ_HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// The service behind an OTLP/gRPC listener.
#[derive(Clone)]
pub(super) struct OtlpGrpc {
    options: Arc<GrpcOptions>,
    pusher: Arc<Pusher>,
}

impl OtlpGrpc {
    pub(super) fn new(options: GrpcOptions, pusher: Arc<Pusher>) -> Self {
        Self { options: Arc::new(options), pusher }
    }

    pub(super) fn server_settings(&self) -> ServerSettings {
        ServerSettings { max_concurrent_streams: self.options.max_concurrent_streams, read_header_timeout: READ_HEADER_TIMEOUT }
    }

    pub(super) async fn handle(self, request: Request<Incoming>) -> Answer {
        let is_grpc =
            request.headers().get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if request.method() != Method::POST || !is_grpc {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        match self.export(request).await {
            Ok(rejected) => answer(&rejected),
            Err(failure) => {
                let mut response: Answer = failure.grpc_status().into_http::<Full<Bytes>>().map(|body| body.boxed_unsync());
                response.headers_mut().insert("grpc-accept-encoding", ACCEPTED_ENCODINGS);
                response
            }
        }
    }

    async fn export(&self, request: Request<Incoming>) -> Result<Rejected, Failure> {
        let (head, body) = request.into_parts();
        if head.uri.path() != EXPORT {
            return Err(Failure::new(Code::Unimplemented, format!("unknown method {}", head.uri.path())));
        }
        let refuse = |error: PushError| {
            self.pusher.log_refusal(None, &error);
            Failure::from(&error)
        };
        let tenant = tenant_of(&head.headers, self.pusher.multitenancy()).map_err(refuse)?;
        let encoding = encoding_of(&head.headers)?;
        let memory = self.pusher.budget().try_reserve(0).map_err(|error| refuse(error.into()))?;
        let limit = self.options.max_message_bytes;
        let announced = |start: &[u8]| message_length(start).map(|length| length.saturating_add(PREFIX_BYTES));
        let received = match receive(body, limit.saturating_add(PREFIX_BYTES), memory, announced).await {
            Ok(received) => received,
            Err(ReceiveError::TooLarge { announced }) => return Err(too_large(announced.map(|length| length - PREFIX_BYTES), limit)),
            Err(ReceiveError::Refused(error)) => return Err(refuse(error)),
        };
        let Received { bytes: message, memory } = self.message(received, encoding).await?;
        let skip_metrics_generation = head.headers.contains_key(SKIP_METRICS_HEADER);
        let push = Push { tenant, body: message, skip_metrics_generation, source: SOURCE, memory };
        self.pusher.push(push).await.map_err(|error| Failure::from(&error))
    }

    /// Takes the message out of its frame and decompresses it.
    async fn message(&self, received: Received, encoding: Encoding) -> Result<Received, Failure> {
        let Received { bytes, memory } = received;
        let complete = message_length(&bytes).filter(|length| bytes.len() == length.saturating_add(PREFIX_BYTES));
        if complete.is_none() {
            return Err(Failure::new(Code::Internal, "protocol error: the request is not exactly one message"));
        }
        let message = bytes.slice(PREFIX_BYTES..);
        match (bytes.first(), encoding) {
            (Some(0), _) => Ok(Received { bytes: message, memory }),
            (Some(1), Encoding::Identity) => {
                Err(Failure::new(Code::Internal, "protocol error: message is compressed but no grpc-encoding was specified"))
            }
            (Some(1), encoding) => {
                let limit = self.options.max_message_bytes;
                let mut memory = memory;
                let inline = message.len() <= INLINE_COMPRESSED_BYTES;
                let work = move || (decompress(encoding, &message, limit, &mut memory), memory);
                let (outcome, memory) = if inline {
                    work()
                } else {
                    self.pusher.cpu().run("decompress_push", work).await.map_err(|error| Failure::from(&PushError::from(error)))?
                };
                match outcome {
                    Ok(message) => Ok(Received { bytes: message.into(), memory }),
                    Err(DecompressError::TooLarge { .. }) => Err(too_large(None, limit)),
                    Err(error) => Err(Failure::from(&PushError::from(error))),
                }
            }
            _ => Err(Failure::new(Code::Internal, "protocol error: invalid compression flag")),
        }
    }
}

fn encoding_of(headers: &HeaderMap) -> Result<Encoding, Failure> {
    let name = headers.get("grpc-encoding").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let name = name.unwrap_or_default();
    Encoding::parse(&name)
        .ok_or_else(|| Failure::new(Code::Unimplemented, format!("grpc: Decompressor is not installed for grpc-encoding \"{name}\"")))
}

/// The message length that a frame announces, once its prefix is there.
fn message_length(start: &[u8]) -> Option<usize> {
    let [_flag, a, b, c, d, ..] = start else { return None };
    usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()
}

fn too_large(length: Option<usize>, limit: usize) -> Failure {
    let message = match length {
        Some(length) => format!("grpc: received message larger than max ({length} vs. {limit})"),
        None => format!("grpc: received message after decompression larger than max {limit}"),
    };
    Failure::new(Code::ResourceExhausted, message)
}

fn answer(rejected: &Rejected) -> Answer {
    let message = success(rejected);
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    frame.put_slice(&message.encode_to_vec());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(frame.freeze()).with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) });
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-accept-encoding", ACCEPTED_ENCODINGS);
    response
}

fn plain(status: StatusCode) -> Answer {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = status;
    response
}
