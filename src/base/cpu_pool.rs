//! Threads for work that computes: decoding, encoding, merging, evaluating. Async tasks only wait for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use metrics::{gauge, histogram};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot};

/// Jobs that may wait per thread. Beyond that, callers wait for a place, so that work piles up where it came from.
const QUEUED_PER_THREAD: usize = 64;

/// Why a job gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CpuPoolError {
    #[error("job {0} panicked")]
    Panicked(&'static str),
    #[error("the CPU pool is stopped")]
    Stopped,
}

type Job = Box<dyn FnOnce() + Send>;

/// A bounded pool of threads. Clones share it; the threads end when the last clone is gone.
#[derive(Clone)]
pub struct CpuPool {
    queue: Arc<Entrance>,
    places: Arc<Semaphore>,
}

/// Jobs that wait. A job wakes one thread.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    arrived: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

/// Where jobs come in; closes the queue when dropped.
struct Entrance(Arc<Queue>);

impl Drop for Entrance {
    fn drop(&mut self) {
        self.0.state.lock().is_closed = true;
        self.0.arrived.notify_all();
    }
}

impl CpuPool {
    /// Starts `threads` threads called `name`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(name: &'static str, threads: usize) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        for _ in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(name.to_owned()).spawn(move || work(&queue))?;
        }
        Ok(Self { queue: Arc::new(Entrance(queue)), places: Arc::new(Semaphore::new(threads.max(1) * QUEUED_PER_THREAD)) })
    }

    /// Runs `job` on the pool and returns its result. Dropping the future skips a job that has not begun.
    pub async fn run<T: Send + 'static>(&self, name: &'static str, job: impl FnOnce() -> T + Send + 'static) -> Result<T, CpuPoolError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| CpuPoolError::Stopped)?;
        let (answer, result) = oneshot::channel();
        gauge!("tempo_rs_cpu_pool_jobs").increment(1.0);
        let queued = Instant::now();
        let task = move || {
            let _place = place;
            if !answer.is_closed() {
                let started = Instant::now();
                histogram!("tempo_rs_cpu_pool_wait_seconds").record(started.duration_since(queued));
                let outcome = catch_unwind(AssertUnwindSafe(job)).map_err(|_| CpuPoolError::Panicked(name));
                histogram!("tempo_rs_cpu_pool_job_seconds", "job" => name).record(started.elapsed());
                let _caller_left = answer.send(outcome);
            }
            gauge!("tempo_rs_cpu_pool_jobs").decrement(1.0);
        };
        self.queue.0.push(Box::new(task));
        result.await.map_err(|_| CpuPoolError::Stopped)?
    }
}

impl Queue {
    fn push(&self, job: Job) {
        self.state.lock().jobs.push_back(job);
        self.arrived.notify_one();
    }

    /// Waits for a job; `None`: none will come any more.
    fn pop(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.is_closed {
                return None;
            }
            self.arrived.wait(&mut state);
        }
    }
}

fn work(queue: &Queue) {
    while let Some(job) = queue.pop() {
        job();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn returns_results_and_survives_panics() {
        let pool = CpuPool::new("test", 1).unwrap();
        assert_eq!(pool.run("boom", || panic!("as wanted")).await, Err::<(), _>(CpuPoolError::Panicked("boom")));
        assert_eq!(pool.run("add", || 1 + 1).await, Ok(2));
    }

    #[test]
    fn threads_end_with_the_last_clone() {
        let pool = CpuPool::new("test", 2).unwrap();
        let queue = Arc::downgrade(&pool.queue.0);
        let other = pool.clone();
        drop(pool);
        assert!(queue.upgrade().is_some_and(|queue| !queue.state.lock().is_closed));
        drop(other);
        while queue.strong_count() > 0 {
            thread::yield_now();
        }
    }

    #[tokio::test]
    async fn skips_jobs_whose_caller_left() {
        let pool = CpuPool::new("test", 1).unwrap();
        let (release, wait) = channel::<()>();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run("wait", move || wait.recv().is_ok()).await }
        });
        while pool.places.available_permits() == QUEUED_PER_THREAD {
            tokio::task::yield_now().await;
        }
        let (ran, was_run) = channel();
        let mut second = Box::pin(pool.run("skipped", move || ran.send(()).is_ok()));
        assert!(futures::poll!(&mut second).is_pending());
        drop(second);
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(true));
        assert_eq!(pool.run("last", || 3).await, Ok(3));
        assert!(was_run.try_recv().is_err());
    }
}
