//! Whoever holds a large buffer of a job holds its account and its place: both are given back on drop.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::progress::CompactionProgress;

/// A buffer with its account.
pub(super) struct Held<T> {
    value: T,
    _account: Account,
    _place: Option<OwnedSemaphorePermit>,
}

impl<T> Held<T> {
    pub(super) fn new(value: T, bytes: usize, progress: &Arc<CompactionProgress>, place: OwnedSemaphorePermit) -> Self {
        let mut account = Account::new(progress);
        account.set(bytes as u64);
        Self { value, _account: account, _place: Some(place) }
    }

    /// Holds something small, which takes no place.
    pub(super) fn free(value: T) -> Self {
        Self { value, _account: Account { bytes: 0, progress: None }, _place: None }
    }

    pub(super) fn get(&self) -> &T {
        &self.value
    }

    /// Returns the buffer, and what is to be dropped when it is.
    pub(super) fn into_parts(self) -> (T, impl Sized) {
        (self.value, (self._account, self._place))
    }
}

/// Bytes of a buffer whose size changes.
pub(super) struct Account {
    bytes: u64,
    progress: Option<Arc<CompactionProgress>>,
}

impl Account {
    pub(super) fn new(progress: &Arc<CompactionProgress>) -> Self {
        Self { bytes: 0, progress: Some(Arc::clone(progress)) }
    }

    pub(super) fn set(&mut self, bytes: u64) {
        if let Some(progress) = &self.progress {
            progress.take_memory(bytes);
            progress.give_memory(self.bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(progress) = &self.progress {
            progress.give_memory(self.bytes);
        }
    }
}
