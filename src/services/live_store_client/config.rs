//! `live_store_client:`, `ingester_client:`, `metrics_generator_client:`.

use crate::base::config_block::config_block;
use crate::base::duration::GoDuration;
use crate::services::grpc_client::config::GrpcClientConfig;

config_block! {
    /// A pool of clients to the members of a ring.
    pub struct RingClientConfig {
        /// Health checking of pooled connections.
        pool_config: PoolConfig = PoolConfig::default(),
        /// Limit of one remote call.
        remote_timeout: GoDuration = GoDuration::seconds(5),
        /// Connection settings.
        grpc_client_config: GrpcClientConfig = GrpcClientConfig::default(),
    }

    /// `pool_config`: the only block whose keys are written without underscores.
    pub struct PoolConfig {
        /// Interval of the clean-up of stale clients.
        checkinterval: GoDuration = GoDuration::seconds(15),
        /// Probe pooled clients.
        healthcheckenabled: bool = true,
        /// Limit of one probe.
        healthchecktimeout: GoDuration = GoDuration::seconds(1),
        /// Failing time until a client is dropped.
        healthcheckgraceperiod: GoDuration = GoDuration::ZERO,
        /// Probes at once; 0: 16.
        maxconcurrenthealthchecks: usize = 0,
    }
}
