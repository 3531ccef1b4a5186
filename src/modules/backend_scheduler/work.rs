//! The work cache: every job that is not forgotten yet, in 256 shards that are saved one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::job::{Job, JobFile, Status, null_is_empty};
use crate::model::ids::TenantId;
use crate::services::rpc::backend_scheduler::{JobId, JobType};
use crate::tempodb::block::meta::BlockId;

/// Jobs are spread by the hash of their id, so that saving one writes a small file.
pub(super) const SHARDS: usize = 256;

/// Jobs by shard. What changes is noted, to be saved.
#[derive(Debug)]
pub(super) struct WorkCache {
    shards: Vec<HashMap<JobId, Job>>,
    /// Shards that differ from their file.
    changed: BTreeSet<usize>,
}

impl Default for WorkCache {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| HashMap::new()).collect(), changed: BTreeSet::new() }
    }
}

/// FNV-1a, 32 bits, of the id; the lowest 8 bits.
fn shard_of(id: &JobId) -> usize {
    let hash = id.0.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    (hash & 0xff) as usize
}

impl WorkCache {
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.shards.iter().flat_map(HashMap::values)
    }

    pub(super) fn get(&self, id: &JobId) -> Option<&Job> {
        self.shards[shard_of(id)].get(id)
    }

    /// The job is taken as changed.
    pub(super) fn get_mut(&mut self, id: &JobId) -> Option<&mut Job> {
        let shard = shard_of(id);
        let job = self.shards[shard].get_mut(id)?;
        self.changed.insert(shard);
        Some(job)
    }

    /// For what need not survive a restart.
    pub(super) fn get_mut_unsaved(&mut self, id: &JobId) -> Option<&mut Job> {
        self.shards[shard_of(id)].get_mut(id)
    }

    pub(super) fn insert(&mut self, job: Job) {
        let shard = shard_of(&job.id);
        self.changed.insert(shard);
        self.shards[shard].insert(job.id.clone(), job);
    }

    pub(super) fn remove(&mut self, id: &JobId) {
        let shard = shard_of(id);
        if self.shards[shard].remove(id).is_some() {
            self.changed.insert(shard);
        }
    }

    /// The unfinished job that a worker holds.
    pub(super) fn running_of(&self, worker: &str) -> Option<JobId> {
        self.jobs().find(|job| job.status == Status::Running && job.worker == worker).map(|job| job.id.clone())
    }

    /// Blocks that jobs have: those of unfinished jobs, and those that finished ones replaced, until a poll has surely seen it.
    pub(super) fn busy_blocks(&self) -> HashSet<BlockId> {
        let concerned = self.jobs().filter(|job| job.status != Status::Failed);
        concerned.flat_map(|job| job.work.blocks().iter().copied().filter(|_| !leaves_block(job))).collect()
    }

    pub(super) fn has_unfinished(&self, tenant: &TenantId, job_type: JobType) -> bool {
        self.jobs().any(|job| !job.status.is_finished() && job.tenant == *tenant && job.job_type() == job_type)
    }

    /// Forgets finished jobs that ended before `age` ago.
    pub(super) fn prune(&mut self, now: Timestamp, age: SignedDuration) {
        for (shard, jobs) in self.shards.iter_mut().enumerate() {
            let before = jobs.len();
            jobs.retain(|_, job| !job.status.is_finished() || job.ended.is_none_or(|ended| now.duration_since(ended) < age));
            if jobs.len() != before {
                self.changed.insert(shard);
            }
        }
    }

    /// Returns the shards that changed since the last call, as files.
    pub(super) fn take_changed(&mut self) -> Vec<(usize, Vec<u8>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|shard| (shard, to_json(&self.shard_file(shard)))).collect()
    }

    /// Shards whose files could not be written.
    pub(super) fn mark_changed(&mut self, shards: impl IntoIterator<Item = usize>) {
        self.changed.extend(shards);
    }

    fn shard_file(&self, shard: usize) -> ShardFile {
        let mut file = ShardFile::default();
        for job in self.shards[shard].values() {
            let jobs = if job.status == Status::Pending { &mut file.pending_jobs } else { &mut file.jobs };
            jobs.insert(job.id.0.clone(), job.to_file());
        }
        file
    }

    /// Returns the content of `work.json`. `batches` are carried along for the case that the local files are lost.
    pub(super) fn to_work_json(&self, batches: String) -> Vec<u8> {
        to_json(&WorkFile { shards: (0..SHARDS).map(|shard| self.shard_file(shard)).collect(), batches })
    }

    /// Reads shards back. Jobs that make no sense are left out with a warning.
    pub(super) fn load(&mut self, shards: Vec<ShardFile>, now: Timestamp) {
        for file in shards {
            for (id, job) in file.jobs.into_iter().chain(file.pending_jobs) {
                match Job::from_file(job, now) {
                    Ok(job) => {
                        self.shards[shard_of(&job.id)].insert(job.id.clone(), job);
                    }
                    Err(problem) => warn!(job = %id, problem, "a saved job cannot be read, leaving it out"),
                }
            }
        }
    }
}

/// A redaction that only counts, or found nothing, leaves its block as it is.
fn leaves_block(job: &Job) -> bool {
    job.status == Status::Succeeded && job.job_type() != JobType::Compaction && job.outputs.is_empty()
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("keys are strings")
}

/// A file `shard_NNN.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ShardFile {
    #[serde(default, deserialize_with = "null_is_empty")]
    jobs: BTreeMap<String, JobFile>,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pending_jobs: BTreeMap<String, JobFile>,
}

/// The object `work.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct WorkFile {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) shards: Vec<ShardFile>,
    /// Base64 of `batches.pb`.
    #[serde(default, rename = "tempo_rs_batches", skip_serializing_if = "String::is_empty")]
    pub(super) batches: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::rpc::backend_scheduler::Work;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn shards_are_those_of_the_compatible_system() {
        // FNV-1a of "a" is 0xe40c292c.
        assert_eq!(shard_of(&JobId("a".to_owned())), 0x2c);
        assert_eq!(shard_of(&JobId(String::new())), 0xc5);
    }

    #[test]
    fn only_changed_shards_are_saved_and_all_come_back() {
        let mut cache = WorkCache::default();
        let mut running = Job::new(TenantId::single(), Work::Retention, None, at(5));
        running.assign("w", true, at(6));
        let pending = Job::new(TenantId::single(), Work::Index, None, at(7));
        cache.insert(running.clone());
        cache.insert(pending.clone());
        let files = cache.take_changed();
        assert!(!files.is_empty() && files.len() <= 2);
        assert!(cache.take_changed().is_empty());
        cache.get_mut(&running.id);
        assert_eq!(cache.take_changed().len(), 1);

        let mut again = WorkCache::default();
        let work: WorkFile = serde_json::from_slice(&cache.to_work_json("b64".to_owned())).unwrap();
        assert_eq!((work.shards.len(), work.batches.as_str()), (SHARDS, "b64"));
        again.load(work.shards, at(6));
        assert_eq!(again.get(&running.id), Some(&running));
        assert_eq!(again.get(&pending.id), Some(&pending));
        assert_eq!(again.running_of("w"), Some(running.id));
        assert!(again.take_changed().is_empty());
    }

    #[test]
    fn old_finished_jobs_are_forgotten() {
        let mut cache = WorkCache::default();
        let mut job = Job::new(TenantId::single(), Work::Retention, None, at(0));
        cache.insert(job.clone());
        cache.prune(at(1_000_000), SignedDuration::from_secs(60));
        assert!(cache.get(&job.id).is_some(), "unfinished");
        job.finish(Status::Succeeded, at(100));
        cache.insert(job.clone());
        cache.prune(at(159), SignedDuration::from_secs(60));
        assert!(cache.get(&job.id).is_some());
        cache.take_changed();
        cache.prune(at(160), SignedDuration::from_secs(60));
        assert!(cache.get(&job.id).is_none());
        assert_eq!(cache.take_changed().len(), 1);
    }
}
