//! Which servers there are: fixed addresses, and names that DNS resolves.

use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

use super::selector::natural_order;

/// Servers taken from one DNS answer. Further ones are left out.
const MAX_SERVERS: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub(in crate::services::cache) enum DiscoveryError {
    #[error("cannot resolve {name}")]
    Resolve {
        name: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("memcached address {0:?} has no port")]
    NoPort(String),
    #[error("no memcached servers: set addresses, or host and service")]
    NoAddress,
    #[error("cannot read the DNS settings of the system")]
    Settings(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// `host:port`: one server, resolved whenever a connection is made.
    Fixed(String),
    /// `dns+host:port`: a server per address of the host.
    Addresses { host: String, port: u16 },
    /// `dnssrv+name`: a server per address of each target.
    ServicesResolved(String),
    /// `dnssrvnoa+name`: a server per target.
    Services(String),
}

/// The sources of a cache.
pub(super) struct Discovery {
    sources: Vec<Source>,
    /// Only names of services need it.
    resolver: Option<Arc<TokioResolver>>,
}

impl Discovery {
    /// `addresses` is a comma-separated list; when it is empty, `service` of `host` is looked up.
    pub(super) fn new(addresses: &str, host: &str, service: &str) -> Result<Self, DiscoveryError> {
        let sources = parse(addresses, host, service)?;
        let needs_resolver = sources.iter().any(|source| matches!(source, Source::ServicesResolved(_) | Source::Services(_)));
        let resolver = if needs_resolver {
            let build = || TokioResolver::builder_tokio()?.build();
            Some(Arc::new(build().map_err(|cause| DiscoveryError::Settings(cause.into()))?))
        } else {
            None
        };
        Ok(Self { sources, resolver })
    }

    /// Whether the answer may change.
    pub(super) fn is_fixed(&self) -> bool {
        self.sources.iter().all(|source| matches!(source, Source::Fixed(_)))
    }

    /// Returns the addresses, naturally sorted, each once.
    pub(super) async fn resolve(&self) -> Result<Vec<String>, DiscoveryError> {
        let mut servers = Vec::new();
        for source in &self.sources {
            match source {
                Source::Fixed(address) => servers.push(address.clone()),
                Source::Addresses { host, port } => servers.extend(addresses_of(host, *port).await?),
                Source::Services(name) => {
                    servers.extend(self.services(name).await?.into_iter().map(|(target, port)| format!("{target}:{port}")));
                }
                Source::ServicesResolved(name) => {
                    for (target, port) in self.services(name).await? {
                        servers.extend(addresses_of(&target, port).await?);
                    }
                }
            }
        }
        servers.sort_by(|a, b| natural_order(a, b));
        servers.dedup();
        servers.truncate(MAX_SERVERS);
        Ok(servers)
    }

    async fn services(&self, name: &str) -> Result<Vec<(String, u16)>, DiscoveryError> {
        let Some(resolver) = &self.resolver else { return Ok(Vec::new()) };
        let answer = resolver.srv_lookup(name).await;
        let answer = answer.map_err(|cause| DiscoveryError::Resolve { name: name.to_owned(), cause: cause.into() })?;
        let services = answer.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(service) => Some((service.target.to_utf8().trim_end_matches('.').to_owned(), service.port)),
            _ => None,
        });
        Ok(services.take(MAX_SERVERS).collect())
    }
}

async fn addresses_of(host: &str, port: u16) -> Result<Vec<String>, DiscoveryError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|cause| DiscoveryError::Resolve { name: host.to_owned(), cause: cause.into() })?;
    Ok(found.map(|address| address.to_string()).take(MAX_SERVERS).collect())
}

fn parse(addresses: &str, host: &str, service: &str) -> Result<Vec<Source>, DiscoveryError> {
    let mut sources = Vec::new();
    for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
        sources.push(if let Some(name) = address.strip_prefix("dnssrvnoa+") {
            Source::Services(name.to_owned())
        } else if let Some(name) = address.strip_prefix("dnssrv+") {
            Source::ServicesResolved(name.to_owned())
        } else if let Some(address) = address.strip_prefix("dns+") {
            let (host, port) = host_and_port(address)?;
            Source::Addresses { host: host.to_owned(), port }
        } else {
            host_and_port(address)?;
            Source::Fixed(address.to_owned())
        });
    }
    if sources.is_empty() && !host.is_empty() {
        let service = if service.is_empty() { "memcached" } else { service };
        sources.push(Source::Services(format!("_{service}._tcp.{host}")));
    }
    if sources.is_empty() { Err(DiscoveryError::NoAddress) } else { Ok(sources) }
}

fn host_and_port(address: &str) -> Result<(&str, u16), DiscoveryError> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.filter(|(host, _)| !host.is_empty()).ok_or_else(|| DiscoveryError::NoPort(address.to_owned()))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;

    use super::*;

    #[test]
    fn reads_all_forms() {
        let sources = parse("a:1, dns+b:2,dnssrv+_m._tcp.c,dnssrvnoa+_m._tcp.d", "ignored", "").unwrap();
        assert_eq!(
            sources,
            [
                Source::Fixed("a:1".to_owned()),
                Source::Addresses { host: "b".to_owned(), port: 2 },
                Source::ServicesResolved("_m._tcp.c".to_owned()),
                Source::Services("_m._tcp.d".to_owned()),
            ]
        );
        assert_eq!(parse("", "h", "memcached").unwrap(), [Source::Services("_memcached._tcp.h".to_owned())]);
        assert!(matches!(parse("", "", "x"), Err(DiscoveryError::NoAddress)));
        for wrong in ["host", "host:", "host:x", ":11211", "dns+host"] {
            assert!(matches!(parse(wrong, "", ""), Err(DiscoveryError::NoPort(_))), "{wrong}");
        }
    }

    #[tokio::test]
    async fn names_become_sorted_addresses() {
        let discovery = Discovery::new("m-10:1,m-9:1,dns+localhost:7,m-9:1", "", "").unwrap();
        assert!(!discovery.is_fixed());
        let servers = discovery.resolve().await.unwrap();
        assert!(servers.contains(&"127.0.0.1:7".to_owned()), "{servers:?}");
        assert_eq!(servers[servers.len() - 2..], ["m-9:1", "m-10:1"]);
        let failed = Discovery::new("dns+name.invalid:7", "", "").unwrap().resolve().await;
        assert!(matches!(failed, Err(DiscoveryError::Resolve { .. })), "{failed:?}");
    }

    /// A DNS server that knows `_m._tcp.test.`: two services on `localhost`.
    async fn name_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                // The question ends with its name's zero byte, type and class.
                let name_end = query[12..length].iter().position(|byte| *byte == 0).unwrap() + 13;
                let mut answer = query[..2].to_vec();
                answer.extend([0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
                answer.extend(&query[12..name_end + 4]);
                for port in [11_211_u16, 11_212] {
                    let mut data = vec![0, 0, 0, 5];
                    data.extend(port.to_be_bytes());
                    data.extend(b"\x09localhost\0");
                    answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
                    answer.extend(data);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn services_are_looked_up() {
        let server = name_server().await;
        let mut connection = ConnectionConfig::udp();
        connection.port = server.port();
        let name_server = NameServerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap();
        let resolver = Some(Arc::new(resolver));
        let sources = parse("dnssrvnoa+_m._tcp.test.", "", "").unwrap();
        let discovery = Discovery { sources, resolver: resolver.clone() };
        assert_eq!(discovery.resolve().await.unwrap(), ["localhost:11211", "localhost:11212"]);
        let discovery = Discovery { sources: parse("dnssrv+_m._tcp.test.", "", "").unwrap(), resolver };
        let servers = discovery.resolve().await.unwrap();
        assert!(servers.contains(&"127.0.0.1:11211".to_owned()) && servers.contains(&"127.0.0.1:11212".to_owned()), "{servers:?}");
    }
}
