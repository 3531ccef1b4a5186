//! Takes snappy off gRPC requests. Clients of the compatible system compress with it by default, and our server library does not know it.
//!
//! ```text
//! body = message …,  message = flag (1 byte: 0 plain, 1 compressed) ‖ length (4 bytes, big endian) ‖ content
//! ```
//!
//! Only for services whose requests are small and whole (not streamed): a body is read to its end first. Answers go out uncompressed.

use std::convert::Infallible;
use std::io::Read as _;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// Largest request, compressed and not: what the compatible system's server accepts.
const MAX_REQUEST_BYTES: usize = 16 << 20;
const ENCODING: &str = "grpc-encoding";
/// Bytes before the content of a message.
const PREFIX_BYTES: usize = 5;

/// A service that also understands requests compressed with snappy.
#[derive(Debug, Clone)]
pub struct SnappyRequests<S>(pub S);

impl<S: NamedService> NamedService for SnappyRequests<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for SnappyRequests<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let clone = self.0.clone();
        // The one that is ready answers this request.
        let mut service = std::mem::replace(&mut self.0, clone);
        Box::pin(async move {
            if request.headers().get(ENCODING).is_none_or(|encoding| encoding != "snappy") {
                return service.call(request).await;
            }
            let (mut head, body) = request.into_parts();
            let plain = match Limited::new(body, MAX_REQUEST_BYTES).collect().await {
                Ok(body) => unpack(&body.to_bytes()),
                Err(error) => Err(format!("cannot read the request: {error}")),
            };
            match plain {
                Ok(plain) => {
                    head.headers.insert(ENCODING, HeaderValue::from_static("identity"));
                    head.headers.remove(header::CONTENT_LENGTH);
                    service.call(Request::from_parts(head, Body::new(Full::new(plain)))).await
                }
                Err(problem) => Ok(Status::invalid_argument(problem).into_http()),
            }
        })
    }
}

/// Replaces compressed messages by plain ones.
fn unpack(body: &[u8]) -> Result<Bytes, String> {
    let mut plain = BytesMut::new();
    let mut rest = body;
    while !rest.is_empty() {
        let cut_short = || "request is cut short".to_owned();
        let (prefix, after) = rest.split_first_chunk::<PREFIX_BYTES>().ok_or_else(cut_short)?;
        let [flag, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| cut_short())?;
        let (content, after) = after.split_at_checked(length).ok_or_else(cut_short)?;
        rest = after;
        let left = MAX_REQUEST_BYTES.saturating_sub(plain.len());
        let mut message = Vec::new();
        match flag {
            0 => message.extend_from_slice(content),
            1 => {
                let mut decoder = snap::read::FrameDecoder::new(content).take(left as u64 + 1);
                decoder.read_to_end(&mut message).map_err(|error| format!("request is not valid snappy: {error}"))?;
            }
            _ => return Err(format!("unknown message flag {flag}")),
        }
        if message.len() > left {
            return Err(format!("request exceeds {MAX_REQUEST_BYTES} bytes"));
        }
        plain.put_u8(0);
        plain.put_u32(u32::try_from(message.len()).map_err(|_| cut_short())?);
        plain.put_slice(&message);
    }
    Ok(plain.freeze())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn message(flag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        bytes.extend(content);
        bytes
    }

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut encoder = snap::write::FrameEncoder::new(Vec::new());
        encoder.write_all(content).unwrap();
        encoder.into_inner().unwrap()
    }

    #[test]
    fn compressed_messages_become_plain_ones() {
        let body = [message(1, &packed(b"first")), message(0, b"second"), message(1, &packed(b""))].concat();
        let plain = [message(0, b"first"), message(0, b"second"), message(0, b"")].concat();
        assert_eq!(unpack(&body).unwrap(), plain);
    }

    #[test]
    fn nonsense_and_bombs_are_refused() {
        assert_eq!(unpack(&[1, 0, 0]).unwrap_err(), "request is cut short");
        assert_eq!(unpack(&[1, 0, 0, 0, 9, 1]).unwrap_err(), "request is cut short");
        assert_eq!(unpack(&message(7, b"x")).unwrap_err(), "unknown message flag 7");
        assert!(unpack(&message(1, b"xxxxxxxxxxxx")).unwrap_err().starts_with("request is not valid snappy"));
        let bomb = message(1, &packed(&vec![0; MAX_REQUEST_BYTES + 1]));
        assert_eq!(unpack(&bomb).unwrap_err(), "request exceeds 16777216 bytes");
    }

    #[tokio::test]
    async fn the_service_gets_what_the_client_meant() {
        use tonic::codegen::http::HeaderMap;

        #[derive(Clone)]
        struct Echo;
        impl Service<Request<Body>> for Echo {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;
            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }
            fn call(&mut self, request: Request<Body>) -> Self::Future {
                let (head, body) = request.into_parts();
                Box::pin(async move {
                    let mut response = Response::new(body);
                    *response.headers_mut() = head.headers;
                    Ok(response)
                })
            }
        }
        let ask = async |encoding: &'static str, body: Vec<u8>| {
            let request = Request::builder().header(ENCODING, encoding).body(Body::new(Full::new(Bytes::from(body)))).unwrap();
            let response = SnappyRequests(Echo).call(request).await.unwrap();
            let (head, body) = response.into_parts();
            let headers: HeaderMap = head.headers;
            (headers, body.collect().await.unwrap().to_bytes())
        };
        let (headers, body) = ask("snappy", message(1, &packed(b"hello"))).await;
        assert_eq!((headers[ENCODING].to_str().unwrap(), &body[..]), ("identity", &message(0, b"hello")[..]));
        let (headers, body) = ask("gzip", message(1, b"left alone")).await;
        assert_eq!((headers[ENCODING].to_str().unwrap(), &body[..]), ("gzip", &message(1, b"left alone")[..]));
        let (headers, _) = ask("snappy", vec![1]).await;
        assert_eq!(headers["grpc-status"], "3");
    }
}
