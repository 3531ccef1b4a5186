//! The list of a tenant's blocks as one object: `index.pb.zst` and `index.json.gz` (tempodb, tenant index).
