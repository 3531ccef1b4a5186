//! The `index` object: the last trace id of each row group (block-format §5).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::model::ids::TraceId;

/// Object name.
pub const INDEX_NAME: &str = "index";

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("block index is not valid JSON")]
    Json(#[from] serde_json::Error),
    #[error("block index entry {0} is not a trace id")]
    BadEntry(usize),
}

/// Last trace id of each row group, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowGroupIndex {
    pub last_ids: Vec<TraceId>,
}

#[derive(Serialize, Deserialize)]
struct IndexJson {
    /// Base64, padded.
    #[serde(rename = "rowGroups")]
    row_groups: Vec<String>,
}

impl RowGroupIndex {
    /// Returns the only row group that can hold `id`; `None` when the block cannot.
    pub fn row_group_of(&self, id: TraceId) -> Option<usize> {
        let group = self.last_ids.partition_point(|last| *last < id);
        (group < self.last_ids.len()).then_some(group)
    }

    pub fn to_json(&self) -> Vec<u8> {
        let row_groups = self.last_ids.iter().map(|id| STANDARD.encode(id.0)).collect();
        serde_json::to_vec(&IndexJson { row_groups }).expect("an index has only string keys")
    }

    pub fn from_json(bytes: &[u8]) -> Result<Self, IndexError> {
        let json: IndexJson = serde_json::from_slice(bytes)?;
        let mut last_ids = Vec::with_capacity(json.row_groups.len());
        for (number, text) in json.row_groups.iter().enumerate() {
            let id = STANDARD.decode(text).ok().and_then(|id| <[u8; 16]>::try_from(id).ok()).ok_or(IndexError::BadEntry(number))?;
            last_ids.push(TraceId(id));
        }
        Ok(Self { last_ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &[u8] = br#"{"rowGroups":["qGX4PslwixRxDr87vdJ5oQ==","/tHZaqG6M5dvSeGWA99olA=="]}"#;

    #[test]
    fn reads_and_writes_the_known_form() {
        let index = RowGroupIndex::from_json(EXAMPLE).unwrap();
        assert_eq!(index.last_ids[0].to_string(), "a865f83ec9708b14710ebf3bbdd279a1");
        assert_eq!(index.to_json(), EXAMPLE);
        assert_eq!(
            RowGroupIndex::from_json(br#"{"rowGroups":["AA=="]}"#).unwrap_err().to_string(),
            "block index entry 0 is not a trace id"
        );
    }

    #[test]
    fn finds_the_only_candidate() {
        let id = |first: u8| TraceId([first; 16]);
        let index = RowGroupIndex { last_ids: vec![id(3), id(7)] };
        assert_eq!([0, 3, 4, 7, 8].map(|first| index.row_group_of(id(first))), [Some(0), Some(0), Some(1), Some(1), None]);
    }
}
