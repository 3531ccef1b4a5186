//! Retry timing as it appears in configuration files.

use crate::base::config_block::config_block;
use crate::base::duration::GoDuration;

config_block! {
    /// Exponential back-off between attempts.
    pub struct BackoffConfig {
        /// First pause.
        min_period: GoDuration = GoDuration::millis(100),
        /// Longest pause.
        max_period: GoDuration = GoDuration::seconds(10),
        /// Attempts; 0: unlimited.
        max_retries: u32 = 10,
    }
}

impl BackoffConfig {
    /// A back-off with other defaults than the usual ones.
    pub fn with(min_period: GoDuration, max_period: GoDuration, max_retries: u32) -> Self {
        Self { min_period, max_period, max_retries }
    }
}
