//! Clock readings in the form that block metas use.

use jiff::Timestamp;

use crate::base::clock::SharedClock;

/// Returns the time of `clock`.
pub(super) fn timestamp(clock: &SharedClock) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(clock.now_unix_nanos())).unwrap_or(Timestamp::MAX)
}
