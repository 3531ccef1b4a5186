//! Waiting for conditions with a deadline.

use std::time::{Duration, Instant};

/// An acknowledged span must be found within this time.
pub(crate) const VISIBLE: Duration = Duration::from_secs(1);
/// For anything that should happen soon, also on a slow machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Returns the first `Some` of `look`, asked again and again until `limit` has passed; then fails naming `what`.
pub(crate) fn until_some<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        let looked_at = Instant::now();
        if let Some(found) = look() {
            return found;
        }
        assert!(looked_at.duration_since(start) < limit, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until `condition` holds, at most `limit`.
pub(crate) fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, limit, || condition().then_some(()));
}
