//! Committed offsets of the consumer groups, kept in one small file that is replaced as a whole.
//!
//! Commits that arrive while the file is being written share the next write.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::files::Files;
use super::{ConsumerGroup, LogError, Offset, PartitionId};

const FILE_VERSION: u32 = 1;

/// `commit.json`: group → partition → first offset not processed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitFile {
    version: u32,
    groups: BTreeMap<String, BTreeMap<u32, u64>>,
}

pub(super) struct Commits {
    path: PathBuf,
    current: Mutex<Current>,
    /// Version of `current` that the file has. Held while the file is written.
    durable_version: Mutex<u64>,
}

#[derive(Default)]
struct Current {
    version: u64,
    groups: BTreeMap<ConsumerGroup, Group>,
}

#[derive(Default)]
struct Group {
    offsets: BTreeMap<PartitionId, Offset>,
    /// Whether this process consumes for the group, as opposed to a process before it.
    is_registered: bool,
}

/// Which groups keep records from being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holders {
    /// Those registered since the log was opened.
    Registered,
    /// Also those that an earlier process committed for: they may not have registered yet.
    All,
}

impl Commits {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when the file is not readable as commits: taking it for empty would silently deliver everything again.
    pub(super) fn open(path: PathBuf) -> Result<Self, LogError> {
        let mut current = Current::default();
        match std::fs::read(&path) {
            Ok(bytes) => {
                let file: CommitFile =
                    serde_json::from_slice(&bytes).map_err(|cause| LogError::Corrupt { path: path.clone(), problem: cause.to_string() })?;
                if file.version != FILE_VERSION {
                    return Err(LogError::Corrupt { path, problem: format!("version {} is not known", file.version) });
                }
                for (name, offsets) in file.groups {
                    let offsets = offsets.into_iter().map(|(partition, offset)| (PartitionId(partition), Offset(offset))).collect();
                    current.groups.insert(ConsumerGroup::new(&name), Group { offsets, is_registered: false });
                }
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(LogError::io("read", &path, cause)),
        }
        Ok(Self { path, current: Mutex::new(current), durable_version: Mutex::new(0) })
    }

    pub(super) fn register(&self, group: &ConsumerGroup) {
        self.current.lock().groups.entry(group.clone()).or_default().is_registered = true;
    }

    /// Stores an offset and returns when it is on disk. Blocks.
    pub(super) fn commit(&self, files: &dyn Files, group: &ConsumerGroup, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        let version = {
            let mut current = self.current.lock();
            let group = current.groups.entry(group.clone()).or_default();
            group.is_registered = true;
            group.offsets.insert(partition, next);
            current.version += 1;
            current.version
        };
        self.write_version(files, version)
    }

    /// Writes the file unless it already has `version` or a later one. Blocks.
    fn write_version(&self, files: &dyn Files, version: u64) -> Result<(), LogError> {
        let mut durable_version = self.durable_version.lock();
        if *durable_version >= version {
            return Ok(());
        }
        let (version, file) = {
            let current = self.current.lock();
            (current.version, CommitFile { version: FILE_VERSION, groups: current.groups.iter().filter_map(Self::to_file).collect() })
        };
        let content = serde_json::to_vec(&file).expect("a map of numbers is always serializable");
        files.replace(&self.path, &content).map_err(|cause| LogError::io("write", &self.path, cause))?;
        *durable_version = version;
        Ok(())
    }

    fn to_file((name, group): (&ConsumerGroup, &Group)) -> Option<(String, BTreeMap<u32, u64>)> {
        let offsets: BTreeMap<_, _> = group.offsets.iter().map(|(partition, offset)| (partition.0, offset.0)).collect();
        (!offsets.is_empty()).then(|| (name.to_string(), offsets))
    }

    pub(super) fn committed(&self, group: &ConsumerGroup, partition: PartitionId) -> Option<Offset> {
        self.current.lock().groups.get(group)?.offsets.get(&partition).copied()
    }

    /// Returns the highest offset that any group has committed.
    pub(super) fn highest(&self, partition: PartitionId) -> Option<Offset> {
        self.current.lock().groups.values().filter_map(|group| group.offsets.get(&partition)).max().copied()
    }

    /// Returns the offset below which all holders are done; `None` while one has not committed, or there is none.
    pub(super) fn floor(&self, partition: PartitionId, holders: Holders) -> Option<Offset> {
        let current = self.current.lock();
        let mut floor = None;
        for group in current.groups.values() {
            match (group.offsets.get(&partition), group.is_registered, holders) {
                (Some(offset), true, _) | (Some(offset), false, Holders::All) => {
                    floor = Some(floor.map_or(*offset, |lowest: Offset| lowest.min(*offset)));
                }
                (None, true, _) => return None,
                (Some(_), false, Holders::Registered) | (None, false, _) => {}
            }
        }
        floor
    }

    /// The groups that this process consumes for.
    pub(super) fn registered(&self) -> Vec<ConsumerGroup> {
        let current = self.current.lock();
        current.groups.iter().filter(|(_, group)| group.is_registered).map(|(name, _)| name.clone()).collect()
    }
}
