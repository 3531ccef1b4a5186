//! `usage_report:`.

use crate::base::backoff::BackoffConfig;
use crate::base::config_block::config_block;
use crate::base::duration::GoDuration;

config_block! {
    /// `usage_report:`. Accepted for compatibility: nothing is ever sent, whatever is set here.
    pub struct UsageReportConfig {
        /// Accepted, no effect.
        reporting_enabled: bool = true,
        /// Accepted, no effect.
        backoff: BackoffConfig = BackoffConfig::with(GoDuration::millis(100), GoDuration::seconds(10), 0),
    }
}
