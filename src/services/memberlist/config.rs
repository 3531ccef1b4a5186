//! `memberlist:`.

use crate::base::config_block::{config_block, csv_or_list, text};
use crate::base::duration::GoDuration;
use crate::base::hostname::hostname;
use crate::base::tls::impl_client_tls;

config_block! {
    /// `memberlist:`.
    pub struct MemberlistConfig {
        /// Name in the cluster.
        node_name: String = hostname(),
        /// Add a random suffix to the name.
        randomize_node_name: bool = true,
        /// Limit of a stream.
        stream_timeout: GoDuration = GoDuration::seconds(2),
        /// Retransmissions: this times log(n + 1).
        retransmit_factor: u32 = 2,
        /// Interval of full state exchanges.
        pull_push_interval: GoDuration = GoDuration::seconds(30),
        /// Interval of gossip.
        gossip_interval: GoDuration = GoDuration::seconds(1),
        /// Members addressed per interval.
        gossip_nodes: u32 = 2,
        /// Time dead members are still addressed.
        gossip_to_dead_nodes_time: GoDuration = GoDuration::seconds(30),
        /// Time after which a dead member's name may be reused.
        dead_node_reclaim_time: GoDuration = GoDuration::ZERO,
        /// Compress messages.
        compression_enabled: bool = false,
        /// How messages are compressed.
        compression_algorithm: String = text("lzw"),
        /// Batches watch notifications.
        notify_interval: GoDuration = GoDuration::ZERO,
        /// Received messages waiting per key.
        received_messages_queue_size: usize = 1024,
        /// Processed messages waiting to be passed on.
        processed_messages_queue_size: usize = 1024,
        /// Advertised address.
        advertise_addr: String = String::new(),
        /// Advertised port.
        advertise_port: u16 = 7946,
        /// Separates clusters.
        cluster_label: String = String::new(),
        /// Accept messages with another label.
        cluster_label_verification_disabled: bool = false,
        /// Seeds: `host:port`, `dns+…`, `dnssrv+…`, `dnssrvnoa+…`.
        #[serde(deserialize_with = "csv_or_list::deserialize")]
        join_members: Vec<String> = Vec::new(),
        /// First pause between join attempts.
        min_join_backoff: GoDuration = GoDuration::seconds(1),
        /// Longest pause between join attempts.
        max_join_backoff: GoDuration = GoDuration::minutes(1),
        /// Join attempts.
        max_join_retries: u32 = 10,
        /// End the process when the first quick join fails.
        abort_if_cluster_fast_join_fails: bool = false,
        /// Members a quick join must reach.
        abort_if_cluster_fast_join_fails_min_nodes: u32 = 1,
        /// End the process when joining fails.
        abort_if_cluster_join_fails: bool = false,
        /// Interval of repeated joins; 0: never.
        rejoin_interval: GoDuration = GoDuration::ZERO,
        /// Seeds of repeated joins; empty: `join_members`.
        #[serde(deserialize_with = "csv_or_list::deserialize")]
        rejoin_seed_nodes: Vec<String> = Vec::new(),
        /// Lifetime of tombstones.
        left_ingesters_timeout: GoDuration = GoDuration::minutes(5),
        /// Lifetime of obsolete entries.
        obsolete_entries_timeout: GoDuration = GoDuration::seconds(30),
        /// Limit for leaving.
        leave_timeout: GoDuration = GoDuration::seconds(20),
        /// Limit for sending local changes at shutdown.
        broadcast_timeout_for_local_updates_on_shutdown: GoDuration = GoDuration::seconds(10),
        /// Bytes of message history kept for debugging.
        message_history_buffer_bytes: usize = 0,
        /// Changes waiting per watcher.
        watch_prefix_buffer_size: usize = 128,
        /// Addresses to listen on; empty: all.
        bind_addr: Vec<String> = Vec::new(),
        /// Port to listen on.
        bind_port: u16 = 7946,
        /// Limit for connecting to send a packet.
        packet_dial_timeout: GoDuration = GoDuration::seconds(2),
        /// Limit for writing a packet.
        packet_write_timeout: GoDuration = GoDuration::seconds(5),
        /// Packets written at once.
        max_concurrent_writes: usize = 3,
        /// Wait for a free writer.
        acquire_writer_timeout: GoDuration = GoDuration::millis(250),
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
        /// Gossip that stays within zones.
        zone_aware_routing: ZoneAwareRoutingConfig = ZoneAwareRoutingConfig::default(),
        /// Measures how long changes travel.
        propagation_delay_tracker: PropagationDelayConfig = PropagationDelayConfig::default(),
    }

    /// `memberlist.zone_aware_routing`.
    pub struct ZoneAwareRoutingConfig {
        /// Switches it on.
        enabled: bool = false,
        /// Zone of this instance.
        instance_availability_zone: String = String::new(),
        /// `member` or `bridge`.
        role: String = text("member"),
    }

    /// `memberlist.propagation_delay_tracker`.
    pub struct PropagationDelayConfig {
        /// Switches it on.
        enabled: bool = false,
        /// Interval of beacons.
        beacon_interval: GoDuration = GoDuration::minutes(1),
        /// Lifetime of a beacon.
        beacon_lifetime: GoDuration = GoDuration::minutes(10),
        /// Slower beacons are logged; 0: never.
        log_beacons_latency_longer_than: GoDuration = GoDuration::ZERO,
    }
}

impl_client_tls!(MemberlistConfig);
