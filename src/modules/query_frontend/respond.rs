//! Answers: format by `Accept`, compression, plain-text errors (http-api §1, §3.1, §4).

use std::io::Write as _;

use axum::body::Body;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::base::error_class::ErrorClass;
use crate::services::rpc::message::{JsonWriter, MessageWriter, ProtoWriter};
use crate::services::rpc::status::{CallError, http_status};

/// Shorter bodies are not worth compressing; clients of the compatible system see the same bound.
const MIN_COMPRESSED_BYTES: usize = 1024;

/// The encoding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Protobuf,
}

impl Format {
    const TYPES: [(&str, Self); 2] = [("application/protobuf", Self::Protobuf), ("application/json", Self::Json)];

    /// Chooses by `Accept`: known types are looked for anywhere in each element, the highest q-value wins, then the order of the table.
    /// Nothing known: JSON.
    pub(super) fn of_request(headers: &HeaderMap) -> Self {
        let mut best: Option<(f32, usize)> = None;
        for value in headers.get_all(header::ACCEPT) {
            for element in String::from_utf8_lossy(value.as_bytes()).split(',') {
                let Some(rank) = Self::TYPES.iter().position(|(name, _)| element.contains(name)) else { continue };
                let quality = quality_of(element);
                if quality > 0.0 && best.is_none_or(|(known, known_rank)| quality > known || (quality == known && rank < known_rank)) {
                    best = Some((quality, rank));
                }
            }
        }
        best.map_or(Self::Json, |(_, rank)| Self::TYPES[rank].1)
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/protobuf",
        }
    }

    /// Encodes what `message` writes.
    pub(super) fn encode(self, message: &impl WriteMessage) -> Vec<u8> {
        match self {
            Self::Json => JsonWriter::encode(|out| message.write(out)),
            Self::Protobuf => ProtoWriter::encode(|out| message.write(out)),
        }
    }
}

/// A message of the API that can be written in either format.
pub(super) trait WriteMessage {
    fn write(&self, out: &mut impl MessageWriter);
}

fn quality_of(element: &str) -> f32 {
    let parameter = element.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("q="));
    parameter.map_or(1.0, |quality| quality.trim().parse().unwrap_or(1.0))
}

/// An answer before it becomes an HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: Option<&'static str>,
    pub(super) body: Vec<u8>,
    /// Set when a limit cut the result although the status says success.
    pub(super) truncated: bool,
}

const TEXT: &str = "text/plain; charset=utf-8";

impl Answer {
    pub(super) fn ok(format: Format, body: Vec<u8>) -> Self {
        Self { status: StatusCode::OK, content_type: Some(format.content_type()), body, truncated: false }
    }

    pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, content_type: Some(TEXT), body: text.into().into_bytes(), truncated: false }
    }

    /// A status without body and content type.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, content_type: None, body: Vec::new(), truncated: false }
    }

    /// The answer to a request that failed. Errors of the tenant check end in a line break, as clients know them.
    pub(super) fn error(error: &CallError) -> Self {
        let end = if error.class == ErrorClass::Unauthenticated { "\n" } else { "" };
        Self::text(http_status(error.class), format!("{}{end}", error.message))
    }

    /// Compresses the body if the client takes gzip and it is long enough. CPU work of about 10 ms a megabyte.
    pub(super) fn into_encoded(self, accepts_gzip: bool) -> EncodedAnswer {
        let compressed = (accepts_gzip && self.body.len() >= MIN_COMPRESSED_BYTES).then(|| gzip(&self.body)).flatten();
        EncodedAnswer {
            is_gzip: compressed.is_some(),
            body: compressed.unwrap_or(self.body),
            ..EncodedAnswer::headers_of(self.status, self.content_type, self.truncated)
        }
    }

    pub(super) fn needs_compression(&self, accepts_gzip: bool) -> bool {
        accepts_gzip && self.body.len() >= MIN_COMPRESSED_BYTES
    }
}

/// An answer whose body has its final bytes.
#[derive(Debug)]
pub(super) struct EncodedAnswer {
    status: StatusCode,
    content_type: Option<&'static str>,
    truncated: bool,
    is_gzip: bool,
    body: Vec<u8>,
}

impl EncodedAnswer {
    fn headers_of(status: StatusCode, content_type: Option<&'static str>, truncated: bool) -> Self {
        Self { status, content_type, truncated, is_gzip: false, body: Vec::new() }
    }

    pub(super) fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if let Some(content_type) = self.content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if self.is_gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if self.truncated {
            headers.insert("x-tempo-truncated", HeaderValue::from_static("true"));
        }
        response
    }
}

/// Whether `Accept-Encoding` names gzip and does not refuse it.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().any(|value| {
        String::from_utf8_lossy(value.as_bytes())
            .split(',')
            .any(|coding| coding.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("gzip")) && quality_of(coding) > 0.0)
    })
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn format_follows_accept() {
        for (accept, format) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("application/protobuf", Format::Protobuf),
            ("application/json, application/protobuf", Format::Protobuf),
            ("application/json, application/protobuf;q=0.5", Format::Json),
            ("text/application/protobuf+x", Format::Protobuf),
        ] {
            assert_eq!(Format::of_request(&headers(header::ACCEPT, accept)), format, "{accept}");
        }
    }

    #[test]
    fn gzip_is_negotiated_and_only_used_for_long_bodies() {
        for (value, accepted) in [("gzip", true), ("br, GZIP;q=0.5", true), ("gzip;q=0", false), ("identity", false)] {
            assert_eq!(accepts_gzip(&headers(header::ACCEPT_ENCODING, value)), accepted, "{value}");
        }
        let short = Answer::ok(Format::Json, vec![b'x'; 1023]).into_encoded(true).into_response();
        assert_eq!(short.headers().get("vary").unwrap(), "Accept-Encoding");
        assert_eq!(short.headers().get("content-encoding"), None);
        let long = Answer::ok(Format::Json, vec![b'x'; 1024]).into_encoded(true);
        let mut body = Vec::new();
        flate2::read::GzDecoder::new(&long.body[..]).read_to_end(&mut body).unwrap();
        assert_eq!(body, vec![b'x'; 1024]);
        assert_eq!(long.into_response().headers().get("content-encoding").unwrap(), "gzip");
    }
}
