//! `block_builder:`.

use std::collections::BTreeMap;

use crate::base::config_block::config_block;
use crate::base::duration::GoDuration;
use crate::base::hostname::hostname;
use crate::tempodb::config::WalConfig;

config_block! {
    /// `block_builder:`.
    pub struct BlockBuilderConfig {
        /// The number after the last `-` selects partitions.
        instance_id: String = hostname(),
        /// Partitions per instance id; wins over `partitions_per_instance` when not empty.
        assigned_partitions: BTreeMap<String, Vec<u32>> = BTreeMap::new(),
        /// Instance n owns the partitions from n·k on.
        partitions_per_instance: u32 = 0,
        /// Time from the start of one consume cycle to the next.
        consume_cycle_duration: GoDuration = GoDuration::minutes(5),
        /// Records taken per cycle, in bytes. 0: no limit.
        max_consuming_bytes: u64 = 5_000_000_000,
        /// Size of output blocks.
        block: BlockBuilderBlockConfig = BlockBuilderBlockConfig::default(),
        /// Working directory.
        wal: WalConfig = WalConfig::at("/var/tempo/block-builder/traces"),
    }

    /// `block_builder.block`.
    pub struct BlockBuilderBlockConfig {
        /// Output block size in bytes.
        max_block_bytes: u64 = 20_971_520,
    }
}
