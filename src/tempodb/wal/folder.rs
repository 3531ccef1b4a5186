//! Names of WAL block folders: `<block id>+<tenant>+<version>`.

use crate::model::ids::TenantId;
use crate::tempodb::block::meta::{BlockId, BlockVersion, is_preview};

/// A folder that is ours by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFolder {
    pub block: BlockId,
    pub tenant: TenantId,
    pub version: FolderVersion,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FolderVersion {
    Known(BlockVersion),
    /// A format that was never final. Its folders are ours, but nobody reads them.
    Preview(String),
}

impl WalFolder {
    pub fn new(block: BlockId, tenant: TenantId, version: BlockVersion) -> Self {
        Self { block, tenant, version: FolderVersion::Known(version) }
    }

    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('+');
        let (Some(block), Some(tenant), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return None;
        };
        let version = match version.parse() {
            Ok(version) => FolderVersion::Known(version),
            Err(_) if is_preview(version) => FolderVersion::Preview(version.to_owned()),
            Err(_) => return None,
        };
        let tenant = TenantId::parse(tenant).ok().filter(|parsed| parsed.as_str() == tenant)?;
        Some(Self { block: BlockId::parse(block)?, tenant, version })
    }

    pub fn name(&self) -> String {
        let version = match &self.version {
            FolderVersion::Known(version) => version.as_str(),
            FolderVersion::Preview(version) => version,
        };
        format!("{}+{}+{version}", self.block, self.tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_ours() {
        let id = "daee1b73-8553-4698-888c-3e28752dc459";
        for name in [format!("{id}+beta+vParquet5"), format!("{id}+a.b_(c)+vParquet3"), format!("{id}+t+vParquet5-preview3")] {
            assert_eq!(WalFolder::parse(&name).unwrap().name(), name);
        }
        for name in [
            "blocks".to_owned(),
            format!("{id}+beta"),
            format!("{id}++vParquet5"),
            format!("{id}+beta+vParquet5+x"),
            format!("{id}+beta+v2"),
            format!("{id}+be ta+vParquet5"),
            format!("{id}+beta:x+vParquet5"),
            "x+beta+vParquet5".to_owned(),
            format!("{id}+..+vParquet5"),
        ] {
            assert_eq!(WalFolder::parse(&name), None, "{name}");
        }
    }
}
