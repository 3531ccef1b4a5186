//! Ring blocks: `kvstore` and the ring forms of the roles.

use crate::base::config_block::{config_block, text, texts};
use crate::base::duration::GoDuration;
use crate::base::hostname::hostname;
use crate::base::secret::Secret;
use crate::base::tls::impl_client_tls;

/// Interfaces whose address is advertised unless `instance_addr` is set.
const DEFAULT_INTERFACES: [&str; 2] = ["eth0", "en0"];

config_block! {
    /// `kvstore:`, where the members of a ring meet.
    pub struct KvStoreConfig {
        /// `consul`, `etcd`, `inmemory`, `memberlist` or `multi`; backend-worker: empty means unsharded.
        store: String = text("memberlist"),
        /// Key prefix.
        prefix: String = text("collectors/"),
        /// Consul settings.
        consul: ConsulConfig = ConsulConfig::default(),
        /// etcd settings.
        etcd: EtcdConfig = EtcdConfig::default(),
        /// Migration between two stores.
        multi: MultiStoreConfig = MultiStoreConfig::default(),
    }

    /// `consul:`.
    pub struct ConsulConfig {
        /// Consul address.
        host: String = text("localhost:8500"),
        /// Consul token.
        acl_token: Secret<String> = Secret::default(),
        /// Consul HTTP timeout.
        http_client_timeout: GoDuration = GoDuration::seconds(20),
        /// Strongly consistent reads.
        consistent_reads: bool = false,
        /// Watches per second; 0: unlimited.
        watch_rate_limit: f64 = 1.0,
        /// Burst of the above.
        watch_burst_size: u32 = 1,
        /// Longest wait before a compare-and-swap is repeated.
        cas_retry_delay: GoDuration = GoDuration::seconds(1),
    }

    /// `etcd:`.
    pub struct EtcdConfig {
        /// etcd servers.
        endpoints: Vec<String> = Vec::new(),
        /// Limit for connecting.
        dial_timeout: GoDuration = GoDuration::seconds(10),
        /// Attempts.
        max_retries: u32 = 10,
        /// Use TLS.
        tls_enabled: bool = false,
        /// Client certificate file; needs the key too.
        tls_cert_path: String = String::new(),
        /// Key file of the client certificate.
        tls_key_path: String = String::new(),
        /// CA bundle; empty: system roots.
        tls_ca_path: String = String::new(),
        /// Expected name in the server certificate.
        tls_server_name: String = String::new(),
        /// Accept any server certificate.
        tls_insecure_skip_verify: bool = false,
        /// Restricts cipher suites, comma-separated IANA names.
        tls_cipher_suites: String = String::new(),
        /// `VersionTLS10` … `VersionTLS13`.
        tls_min_version: String = String::new(),
        /// etcd user.
        username: String = String::new(),
        /// etcd password.
        password: Secret<String> = Secret::default(),
    }

    /// `multi:`.
    pub struct MultiStoreConfig {
        /// Store that is read and written.
        primary: String = String::new(),
        /// Store that receives copies.
        secondary: String = String::new(),
        /// Copy writes to the secondary.
        mirror_enabled: bool = false,
        /// Limit of a copy.
        mirror_timeout: GoDuration = GoDuration::seconds(2),
    }

    /// An instance ring (`live_store.ring`, `metrics_generator.ring`).
    pub struct RingConfig {
        /// Where members meet.
        kvstore: KvStoreConfig = KvStoreConfig::default(),
        /// Interval of own heartbeats.
        heartbeat_period: GoDuration = GoDuration::seconds(5),
        /// Silence until a member counts as unhealthy; its entry is forgotten after twice this.
        heartbeat_timeout: GoDuration = GoDuration::minutes(1),
        /// Ring identity; live-store: must end in `-<number>`.
        instance_id: String = hostname(),
        /// Interfaces to take the address from.
        instance_interface_names: Vec<String> = texts(&DEFAULT_INTERFACES),
        /// Advertised address; overrides the interfaces.
        instance_addr: String = String::new(),
        /// Advertised port; 0: gRPC listen port.
        instance_port: u16 = 0,
        /// Allow IPv6 addresses.
        enable_inet6: bool = false,
        /// Availability zone.
        instance_zone: String = String::new(),
    }

    /// `distributor.ring`: presence of distributors, only with rate strategy `global`.
    pub struct PresenceRingConfig {
        /// Where members meet.
        kvstore: KvStoreConfig = KvStoreConfig::default(),
        /// Interval of own heartbeats.
        heartbeat_period: GoDuration = GoDuration::seconds(5),
        /// Silence until a member counts as unhealthy.
        heartbeat_timeout: GoDuration = GoDuration::minutes(5),
        /// Ring identity.
        instance_id: String = hostname(),
        /// Interfaces to take the address from.
        instance_interface_names: Vec<String> = texts(&DEFAULT_INTERFACES),
        /// Advertised port; 0: gRPC listen port.
        instance_port: u16 = 0,
        /// Advertised address.
        instance_addr: String = String::new(),
        /// Allow IPv6 addresses.
        enable_inet6: bool = false,
    }

    /// `backend_worker.ring`, `compactor.ring`: divides tenants among members; an empty store means unsharded.
    pub struct ShardingRingConfig {
        /// Where members meet.
        kvstore: KvStoreConfig = KvStoreConfig { store: String::new(), ..KvStoreConfig::default() },
        /// Interval of own heartbeats.
        heartbeat_period: GoDuration = GoDuration::seconds(5),
        /// Silence until a member counts as unhealthy.
        heartbeat_timeout: GoDuration = GoDuration::minutes(1),
        /// Shortest time the ring must stand still at start.
        wait_stability_min_duration: GoDuration = GoDuration::minutes(1),
        /// Longest wait for that.
        wait_stability_max_duration: GoDuration = GoDuration::minutes(5),
        /// Longest wait until this member is active.
        wait_active_instance_timeout: GoDuration = GoDuration::minutes(10),
        /// Ring identity.
        instance_id: String = hostname(),
        /// Interfaces to take the address from.
        instance_interface_names: Vec<String> = texts(&DEFAULT_INTERFACES),
        /// Advertised port; 0: gRPC listen port.
        instance_port: u16 = 0,
        /// Advertised address.
        instance_addr: String = String::new(),
        /// Allow IPv6 addresses.
        enable_inet6: bool = false,
    }

    /// `partition_ring:` of live-stores (ring key `livestore-partitions`) and of 2.x ingesters.
    pub struct PartitionRingConfig {
        /// Where members meet.
        kvstore: KvStoreConfig = KvStoreConfig::default(),
        /// Owners a partition needs before it becomes active.
        min_partition_owners_count: u32 = 1,
        /// … for at least this long.
        min_partition_owners_duration: GoDuration = GoDuration::seconds(10),
        /// Age of deletion of an inactive partition; 0: never.
        delete_inactive_partition_after: GoDuration = GoDuration::hours(13),
    }

    /// `ingester.lifecycler`.
    pub struct LifecyclerConfig {
        /// The ingester ring.
        ring: ReplicationRingConfig = ReplicationRingConfig::default(),
        /// Tokens of this member.
        num_tokens: u32 = 128,
        /// Interval of own heartbeats.
        heartbeat_period: GoDuration = GoDuration::seconds(5),
        /// Silence until this member counts as unhealthy.
        heartbeat_timeout: GoDuration = GoDuration::minutes(1),
        /// Watching the ring for token conflicts after joining.
        observe_period: GoDuration = GoDuration::ZERO,
        /// Wait before joining.
        join_after: GoDuration = GoDuration::ZERO,
        /// Time the ring must be healthy before this member is ready.
        min_ready_duration: GoDuration = GoDuration::seconds(15),
        /// Interfaces to take the address from.
        interface_names: Vec<String> = texts(&DEFAULT_INTERFACES),
        /// Allow IPv6 addresses.
        enable_inet6: bool = false,
        /// Pause before the process ends, for a last scrape.
        final_sleep: GoDuration = GoDuration::ZERO,
        /// File that keeps the tokens across restarts.
        tokens_file_path: String = String::new(),
        /// Availability zone.
        availability_zone: String = String::new(),
        /// Leave the ring on stop.
        unregister_on_shutdown: bool = true,
        /// Readiness needs all members healthy.
        readiness_check_ring_health: bool = true,
        /// Advertised address.
        address: String = String::new(),
        /// Advertised port; 0: gRPC listen port.
        port: u16 = 0,
        /// Ring identity.
        id: String = hostname(),
    }

    /// `ingester.lifecycler.ring`.
    pub struct ReplicationRingConfig {
        /// Where members meet.
        kvstore: KvStoreConfig = KvStoreConfig::default(),
        /// Silence until a member counts as unhealthy.
        heartbeat_timeout: GoDuration = GoDuration::minutes(5),
        /// Copies per trace.
        replication_factor: u32 = 1,
        /// Place copies in different zones.
        zone_awareness_enabled: bool = false,
        /// Zones that get no data, comma-separated.
        excluded_zones: String = String::new(),
    }
}

impl_client_tls!(EtcdConfig);
