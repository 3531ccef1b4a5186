//! The list of a tenant's runs: the object `tempo-rs.ids.manifest`, JSON.
//!
//! Last write wins. A run that a manifest lacks covers nothing, and one that it names but is gone covers nothing either: whichever of two
//! processes wrote last, the filter answers less than it could, never wrongly.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::run::{MAGIC, MAX_HEADER_BYTES};

/// All objects of the filter begin with this.
pub(super) const PREFIX: &str = "tempo-rs.ids.";
pub(super) const MANIFEST_NAME: &str = "tempo-rs.ids.manifest";

const VERSION: u32 = 1;
/// Runs of a tenant. A year of days has some thousand.
const MAX_RUNS: usize = 20_000;

/// A run as its manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunInfo {
    /// Name of the object below the tenant; never written twice.
    pub(super) name: String,
    /// The day since the epoch in which its blocks end.
    pub(super) day: i64,
    pub(super) size_bytes: u64,
    pub(super) header_bytes: u64,
    pub(super) entries: u64,
    /// No block of the run holds data before, in seconds.
    pub(super) start: i64,
    /// No block of the run ends later, in seconds.
    pub(super) end: i64,
}

impl RunInfo {
    /// Returns a name for a new run.
    pub(super) fn new_name(day: i64) -> String {
        format!("{PREFIX}{day}.{}", Uuid::new_v4())
    }

    pub(super) fn overlaps(&self, from: i64, to: i64) -> bool {
        self.end >= from && self.start <= to
    }

    fn is_valid(&self) -> bool {
        let is_ours = self.name.strip_prefix(PREFIX).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
        let fits = self.size_bytes.checked_sub(self.header_bytes).is_some_and(|behind| behind >= MAGIC.len() as u64);
        is_ours && fits && self.header_bytes <= MAX_HEADER_BYTES
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    pub(super) runs: Vec<RunInfo>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { version: VERSION, runs: Vec::new() }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("manifest of a trace filter is not valid JSON")]
    Json(#[from] serde_json::Error),
    #[error("manifest of a trace filter has version {0}")]
    Version(u32),
    #[error("manifest of a trace filter names an impossible run")]
    Run,
}

impl Manifest {
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has only string keys")
    }

    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.version != VERSION {
            return Err(ManifestError::Version(manifest.version));
        }
        if manifest.runs.len() > MAX_RUNS || !manifest.runs.iter().all(RunInfo::is_valid) {
            return Err(ManifestError::Run);
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_come_back_and_impossible_ones_are_refused() {
        let run = RunInfo { name: RunInfo::new_name(3), day: 3, size_bytes: 1000, header_bytes: 100, entries: 7, start: -1, end: 5 };
        let manifest = Manifest { runs: vec![run.clone()], ..Manifest::default() };
        assert_eq!(Manifest::from_json(&manifest.to_json()).unwrap(), manifest);
        let refused = [
            RunInfo { name: "meta.json".to_owned(), ..run.clone() },
            RunInfo { name: format!("{PREFIX}a/b"), ..run.clone() },
            RunInfo { header_bytes: 995, ..run.clone() },
            RunInfo { header_bytes: u64::MAX, size_bytes: u64::MAX, ..run },
        ];
        for run in refused {
            let manifest = Manifest { runs: vec![run], ..Manifest::default() };
            assert!(matches!(Manifest::from_json(&manifest.to_json()), Err(ManifestError::Run)));
        }
        assert!(matches!(Manifest::from_json(br#"{"version":2,"runs":[]}"#), Err(ManifestError::Version(2))));
        assert!(matches!(Manifest::from_json(b"{"), Err(ManifestError::Json(_))));
    }
}
