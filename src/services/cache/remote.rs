//! A cache on other machines: reads go there at once, writes in the background.
//!
//! Invariants
//! * A write never waits: it is queued, or dropped and counted when too many values or bytes are waiting.
//! * Only whole values are stored, and none above the configured size.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use metrics::{counter, gauge};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::metrics as names;
use crate::tempodb::cache::Cache;

/// Values that one writer takes from the queue at a time.
const BATCH: usize = 100;
/// Bytes waiting in one queue. Full: further values are dropped and counted.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// A client of cache servers. Failures are counted and answered as misses; every call ends within the client's time limits.
#[async_trait]
pub(super) trait Remote: Send + Sync + 'static {
    async fn get_many(&self, keys: &[String]) -> Vec<Option<Bytes>>;

    async fn set(&self, key: &str, value: Bytes);

    /// Whether the servers can keep such an entry.
    fn takes(&self, key: &str, value: &[u8]) -> bool;

    /// Prepares connections and keeps the list of servers up to date until `stop`.
    async fn run(&self, stop: CancellationToken);

    /// The counter of entries that [`Remote::takes`] refuses.
    fn skipped_metric(&self) -> &'static str;
}

/// A remote cache as blocks and queries see it.
pub(super) struct RemoteCache {
    remote: Arc<dyn Remote>,
    queue: mpsc::Sender<(String, Bytes)>,
    shared: Arc<Waiting>,
}

struct Waiting {
    name: String,
    values: AtomicUsize,
    bytes: AtomicUsize,
}

/// What writes to a remote cache in the background.
pub(super) struct Writers {
    remote: Arc<dyn Remote>,
    queue: Mutex<mpsc::Receiver<(String, Bytes)>>,
    shared: Arc<Waiting>,
    count: usize,
}

impl RemoteCache {
    /// `buffer` values may wait for `writers` tasks; both at least 1.
    pub(super) fn new(name: String, remote: Arc<dyn Remote>, writers: usize, buffer: usize) -> (Self, Writers) {
        let (queue, receiver) = mpsc::channel(buffer.max(1));
        counter!(names::DROPPED_WRITES, "name" => name.clone()).absolute(0);
        let shared = Arc::new(Waiting { name, values: AtomicUsize::new(0), bytes: AtomicUsize::new(0) });
        let tasks =
            Writers { remote: Arc::clone(&remote), queue: Mutex::new(receiver), shared: Arc::clone(&shared), count: writers.max(1) };
        (Self { remote, queue, shared }, tasks)
    }
}

impl Waiting {
    /// Takes room for `bytes`; `false` when there is none.
    fn reserve(&self, bytes: usize) -> bool {
        let reserved = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            waiting.checked_add(bytes).filter(|sum| *sum <= MAX_WAITING_BYTES)
        });
        if reserved.is_ok() {
            self.publish(self.values.fetch_add(1, Ordering::Relaxed) + 1);
        }
        reserved.is_ok()
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.publish(self.values.fetch_sub(1, Ordering::Relaxed) - 1);
    }

    fn publish(&self, values: usize) {
        gauge!(names::QUEUE_LENGTH, "name" => self.name.clone()).set(values as f64);
    }
}

#[async_trait]
impl Cache for RemoteCache {
    async fn get_many(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        self.remote.get_many(keys).await
    }

    fn put(&self, key: String, value: Bytes) {
        let name = || self.shared.name.clone();
        if !self.remote.takes(&key, &value) {
            counter!(self.remote.skipped_metric(), "name" => name()).increment(1);
            return;
        }
        let bytes = key.len() + value.len();
        if !self.shared.reserve(bytes) {
            counter!(names::DROPPED_WRITES, "name" => name()).increment(1);
        } else if self.queue.try_send((key, value)).is_err() {
            self.shared.release(bytes);
            counter!(names::DROPPED_WRITES, "name" => name()).increment(1);
        }
    }
}

impl Writers {
    /// Writes what is queued until `stop`; what waits then is lost, which costs a miss later.
    pub(super) async fn run(self, stop: CancellationToken) {
        let writers = futures::future::join_all((0..self.count).map(|_| self.write_until(&stop)));
        futures::future::join(self.remote.run(stop.clone()), writers).await;
    }

    async fn write_until(&self, stop: &CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Writers take turns at the queue; whoever holds it waits for the next value.
                taken = async { self.queue.lock().await.recv_many(&mut batch, BATCH).await } => {
                    if taken == 0 {
                        return;
                    }
                }
            }
            for (key, value) in batch.drain(..) {
                let bytes = key.len() + value.len();
                if !stop.is_cancelled() {
                    self.remote.set(&key, value).await;
                }
                self.shared.release(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Keeps everything shorter than 100 bytes, once it is let go.
    #[derive(Default)]
    struct Held {
        entries: parking_lot::Mutex<HashMap<String, Bytes>>,
        changed: tokio::sync::Notify,
    }

    #[async_trait]
    impl Remote for Held {
        async fn get_many(&self, keys: &[String]) -> Vec<Option<Bytes>> {
            keys.iter().map(|key| self.entries.lock().get(key).cloned()).collect()
        }

        async fn set(&self, key: &str, value: Bytes) {
            self.entries.lock().insert(key.to_owned(), value);
            self.changed.notify_one();
        }

        fn takes(&self, _key: &str, value: &[u8]) -> bool {
            value.len() != 99
        }

        async fn run(&self, stop: CancellationToken) {
            stop.cancelled().await;
        }

        fn skipped_metric(&self) -> &'static str {
            names::MEMCACHE_SKIPPED
        }
    }

    fn cache(buffer: usize) -> (RemoteCache, Writers, Arc<Held>) {
        let held = Arc::new(Held::default());
        let (cache, writers) = RemoteCache::new("test".to_owned(), held.clone(), 2, buffer);
        (cache, writers, held)
    }

    #[tokio::test]
    async fn values_are_written_behind() {
        let (cache, writers, held) = cache(1000);
        for number in 0..300 {
            cache.put(format!("k{number}"), Bytes::from_static(b"v"));
        }
        cache.put("skipped".to_owned(), Bytes::from(vec![0; 99]));
        assert_eq!(held.entries.lock().len(), 0);
        let stop = CancellationToken::new();
        let until_written = async {
            while held.entries.lock().len() < 300 {
                held.changed.notified().await;
            }
            stop.cancel();
        };
        futures::future::join(writers.run(stop.clone()), until_written).await;
        assert_eq!((cache.shared.values.load(Ordering::Relaxed), cache.shared.bytes.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(cache.get_many(&["k7".to_owned(), "skipped".to_owned()]).await, [Some(Bytes::from_static(b"v")), None]);
    }

    #[tokio::test]
    async fn a_full_queue_drops() {
        let (cache, _writers, _) = cache(2);
        for number in 0..5 {
            cache.put(format!("k{number}"), Bytes::from_static(b"v"));
        }
        assert_eq!(cache.shared.values.load(Ordering::Relaxed), 2);
        let (cache, _writers, _) = self::cache(1000);
        for number in 0..100 {
            cache.put(format!("k{number}"), Bytes::from(vec![0; 1 << 20]));
        }
        assert_eq!(cache.shared.values.load(Ordering::Relaxed), 63);
    }
}
