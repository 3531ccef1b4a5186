//! The name of this machine, the default identity in rings and logs.

use std::sync::LazyLock;

static HOSTNAME: LazyLock<String> = LazyLock::new(|| {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .chain(std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
});

/// Returns the host name as of process start; `localhost` when the system does not tell.
pub fn hostname() -> String {
    HOSTNAME.clone()
}
