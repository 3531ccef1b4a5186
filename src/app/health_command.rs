//! `-health`: asks a running process whether it is ready (config §7.4).

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers are short texts; more is not read.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Asks `url` once: exit code 0 when the answer is 200.
pub(super) fn run(url: &str) -> ExitCode {
    match get(url) {
        Ok((200, _)) => super::print("Tempo is healthy"),
        Ok((status, body)) => {
            super::complain(&format!("Tempo is unhealthy: status {status}: {}", body.trim_end()));
            ExitCode::FAILURE
        }
        Err(failure) => {
            super::complain(&format!("Health check failed: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn get(url: &str) -> std::io::Result<(u16, String)> {
    let invalid = |text: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, text.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(|| invalid("only http:// URLs can be asked"))?;
    let (host, path) = rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, path.to_owned()));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let address = address.to_socket_addrs()?.next().ok_or_else(|| invalid("the host has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| invalid("the answer is not HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
