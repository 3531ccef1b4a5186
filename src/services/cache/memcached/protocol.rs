//! The text protocol of memcached: `get` of many keys and `set`, over any stream.
//!
//! A stream is out of step after an error and must be closed.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest line of an answer: a key, three numbers, or an error text.
const MAX_LINE_BYTES: u64 = 2048;
/// Largest value taken from a server. Ours are far smaller.
const MAX_VALUE_BYTES: u64 = 64 << 20;
/// Longest key that memcached takes.
const MAX_KEY_BYTES: usize = 250;
/// Expiry times above this are seconds since the epoch.
const MAX_RELATIVE_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub(super) enum ProtocolError {
    #[error("connection failed")]
    Io(#[from] std::io::Error),
    #[error("server answered {0:?}")]
    Unexpected(String),
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetOutcome {
    Stored,
    /// Too large, or no memory.
    Refused,
}

/// Whether memcached takes the key at all.
pub(super) fn is_valid_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

/// Returns the values of `keys` in their order.
pub(super) async fn get<S>(stream: &mut S, keys: &[&str]) -> Result<Vec<Option<Bytes>>, ProtocolError>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let mut request = Vec::from(&b"get"[..]);
    for key in keys {
        request.push(b' ');
        request.extend_from_slice(key.as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut values: Vec<Option<Bytes>> = vec![None; keys.len()];
    loop {
        let line = read_line(stream).await?;
        if line == "END" {
            return Ok(values);
        }
        let unexpected = || ProtocolError::Unexpected(line.clone());
        let mut words = line.split(' ');
        let (Some("VALUE"), Some(key), Some(_flags), Some(length)) = (words.next(), words.next(), words.next(), words.next()) else {
            return Err(unexpected());
        };
        let length = length.parse::<u64>().ok().filter(|length| *length <= MAX_VALUE_BYTES).ok_or_else(unexpected)?;
        let value = read_value(stream, length).await?;
        let mut is_wanted = false;
        for (_, slot) in keys.iter().zip(&mut values).filter(|(wanted, _)| **wanted == key) {
            *slot = Some(value.clone());
            is_wanted = true;
        }
        if !is_wanted {
            return Err(unexpected());
        }
    }
}

/// Stores a value. `now_unix_seconds` turns long expiry times into points in time; a `ttl` of zero is none.
pub(super) async fn set<S>(
    stream: &mut S,
    key: &str,
    value: &[u8],
    ttl: Duration,
    now_unix_seconds: u64,
) -> Result<SetOutcome, ProtocolError>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let header = format!("set {key} 0 {} {}\r\n", expiry(ttl, now_unix_seconds), value.len());
    stream.write_all(header.as_bytes()).await?;
    stream.write_all(value).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await?;
    let line = read_line(stream).await?;
    match line.as_str() {
        "STORED" => Ok(SetOutcome::Stored),
        "NOT_STORED" => Ok(SetOutcome::Refused),
        // The server has read and thrown away the value: the stream is in step.
        "SERVER_ERROR object too large for cache" | "SERVER_ERROR out of memory storing object" => Ok(SetOutcome::Refused),
        _ => Err(ProtocolError::Unexpected(line)),
    }
}

fn expiry(ttl: Duration, now_unix_seconds: u64) -> u64 {
    // Less than a second would be none at all.
    let seconds = if ttl.is_zero() { 0 } else { ttl.as_secs().max(1) };
    if ttl > MAX_RELATIVE_TTL { now_unix_seconds.saturating_add(seconds) } else { seconds }
}

async fn read_line<S: AsyncBufRead + Unpin>(stream: &mut S) -> Result<String, ProtocolError> {
    let mut line = Vec::new();
    (&mut *stream).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None if line.is_empty() => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        None => Err(ProtocolError::Unexpected(String::from_utf8_lossy(&line).into_owned())),
    }
}

/// Reads a value and the line end behind it.
async fn read_value<S: AsyncBufRead + Unpin>(stream: &mut S, length: u64) -> Result<Bytes, ProtocolError> {
    let mut value = Vec::new();
    (&mut *stream).take(length).read_to_end(&mut value).await?;
    let mut end = [0; 2];
    stream.read_exact(&mut end).await?;
    if end != *b"\r\n" {
        return Err(ProtocolError::Unexpected(String::from_utf8_lossy(&end).into_owned()));
    }
    Ok(Bytes::from(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::BufReader;

    use super::*;

    /// Runs a call against a server that answers `answer`; returns what the server was sent, too.
    async fn call<T>(answer: &[u8], call: impl AsyncFnOnce(&mut BufReader<tokio::io::DuplexStream>) -> T) -> (T, String) {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        server.write_all(answer).await.unwrap();
        let mut client = BufReader::new(client);
        let result = call(&mut client).await;
        drop(client);
        let mut sent = String::new();
        server.read_to_string(&mut sent).await.unwrap();
        (result, sent)
    }

    #[tokio::test]
    async fn gets_many() {
        let answer = b"VALUE a 0 3\r\nx\r\n\r\nVALUE c 5 0 77\r\n\r\nEND\r\n";
        let (values, sent) = call(answer, async |stream| get(stream, &["a", "b", "c"]).await).await;
        assert_eq!(values.unwrap(), [Some(Bytes::from_static(b"x\r\n")), None, Some(Bytes::new())]);
        assert_eq!(sent, "get a b c\r\n");
    }

    #[tokio::test]
    async fn sets() {
        let day = Duration::from_secs(24 * 3600);
        for (ttl, answer, expected_sent, expected) in [
            (Duration::ZERO, "STORED", "set k 0 0 2\r\nab\r\n", Some(SetOutcome::Stored)),
            (day, "NOT_STORED", "set k 0 86400 2\r\nab\r\n", Some(SetOutcome::Refused)),
            (day * 31, "SERVER_ERROR object too large for cache", "set k 0 2679400 2\r\nab\r\n", Some(SetOutcome::Refused)),
            (Duration::from_millis(5), "ERROR", "set k 0 1 2\r\nab\r\n", None),
        ] {
            let answer = format!("{answer}\r\n");
            let (outcome, sent) = call(answer.as_bytes(), async |stream| set(stream, "k", b"ab", ttl, 1000).await).await;
            assert_eq!((sent.as_str(), outcome.ok()), (expected_sent, expected));
        }
    }

    #[tokio::test]
    async fn wrong_answers_are_errors() {
        for answer in [
            "SERVER_ERROR busy\r\n",
            "VALUE other 0 1\r\nx\r\nEND\r\n",
            "VALUE a 0 99999999999\r\n",
            "VALUE a 0 1\r\nxyz\r\nEND\r\n",
            "VALUE a\r\n",
            "END\n",
        ] {
            let (values, _) = call(answer.as_bytes(), async |stream| get(stream, &["a"]).await).await;
            assert!(matches!(values, Err(ProtocolError::Unexpected(_))), "{answer}");
        }
        let endless = vec![b'x'; 5000];
        let (values, _) = call(&endless, async |stream| get(stream, &["a"]).await).await;
        assert!(matches!(values, Err(ProtocolError::Unexpected(_))));
    }

    #[test]
    fn keys_have_rules() {
        let longest = "k".repeat(250);
        assert!(is_valid_key("a!-_.*'():b:data.parquet:7:5") && is_valid_key(&longest));
        for wrong in ["", "a b", "a\n", "\u{7f}", &format!("{longest}k")] {
            assert!(!is_valid_key(wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_value_or_an_error(answer: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut stream = tokio::io::join(BufReader::new(&answer[..]), tokio::io::sink());
                let _either = get(&mut stream, &["a"]).await;
            });
        }
    }
}
