//! Objects that several processes write: create-only, and compare-and-swap by version.

use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use tracing::warn;

use super::error::{BackendError, store_error};
use super::{Backend, Kind};

/// Attempts of a create whose outcome is unknown.
const CREATE_ATTEMPTS: u32 = 4;
const FIRST_CREATE_PAUSE: Duration = Duration::from_millis(200);

/// Identifies what an object holds, as its store sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// That of an object that must not exist yet.
    pub fn absent() -> Self {
        Self("0".to_owned())
    }

    /// Takes what [`Version::as_str`] gave.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_absent(&self) -> bool {
        self.0 == "0"
    }
}

impl Backend {
    /// Writes an object that must not exist. One that exists with the same content is fine: then this or an earlier attempt wrote it.
    ///
    /// Stores that cannot do this atomically get a plain write.
    pub async fn create(&self, key: &Path, bytes: impl Into<Bytes>) -> Result<(), BackendError> {
        let bytes = bytes.into();
        let mut pause = FIRST_CREATE_PAUSE;
        for attempt in 1.. {
            let failure = match self.store.put_opts(key, PutPayload::from(bytes.clone()), PutMode::Create.into()).await {
                Ok(_) => return Ok(()),
                Err(cause) if is_unsupported(&cause) => {
                    warn!(store = %self.store, "the store has no conditional writes, writing without");
                    return self.write(key, bytes).await;
                }
                Err(cause) => cause,
            };
            match (&failure, self.read(key).await) {
                (_, Ok(present)) if present == bytes => return Ok(()),
                (Error::AlreadyExists { .. }, Ok(_)) => return Err(BackendError::AlreadyExists { key: key.to_string() }),
                _ if attempt >= CREATE_ATTEMPTS || is_final(&failure) => return Err(store_error("write", key, failure)),
                _ => {}
            }
            // The request may have got lost or not; it is safe to repeat.
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop ends by returning")
    }

    /// Reads an object and its version.
    pub async fn read_versioned(&self, key: &Path) -> Result<(Bytes, Version), BackendError> {
        let got = self.store.get(key).await.map_err(|cause| store_error("read", key, cause))?;
        let version = self.version(got.meta.e_tag.clone(), got.meta.version.clone(), key)?;
        Ok((got.bytes().await.map_err(|cause| store_error("read", key, cause))?, version))
    }

    /// Replaces an object if it still has the version `expected`, and returns the new one.
    ///
    /// The local backend compares and writes under a lock of this process; other processes on the same folder are not kept out.
    pub async fn write_versioned(&self, key: &Path, bytes: impl Into<Bytes>, expected: &Version) -> Result<Version, BackendError> {
        let mode = if expected.is_absent() { PutMode::Create } else { PutMode::Update(self.update(key, expected)?) };
        let payload = PutPayload::from(bytes.into());
        let put = match (self.kind, &mode) {
            (Kind::Local, PutMode::Update(_)) => {
                let _one_at_a_time = self.versioned_writes.lock().await;
                match self.store.head(key).await {
                    Ok(meta) if meta.e_tag.as_deref() == Some(expected.as_str()) => self.store.put(key, payload).await,
                    Ok(_) => return Err(mismatch(key)),
                    Err(cause) => Err(cause),
                }
            }
            (Kind::Local | Kind::S3 | Kind::Gcs | Kind::Azure | Kind::Other, _) => self.store.put_opts(key, payload, mode.into()).await,
        };
        match put {
            // The local store names no version of what it wrote.
            Ok(_) if self.kind == Kind::Local => {
                let meta = self.store.head(key).await.map_err(|cause| store_error("look at", key, cause))?;
                self.version(meta.e_tag, None, key)
            }
            Ok(put) => self.version(put.e_tag, put.version, key),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. }) => Err(mismatch(key)),
            Err(cause) => Err(store_error("write", key, cause)),
        }
    }

    fn version(&self, e_tag: Option<String>, generation: Option<String>, key: &Path) -> Result<Version, BackendError> {
        let text = if self.kind == Kind::Gcs { generation } else { e_tag };
        text.map(Version).ok_or_else(|| BackendError::InvalidVersion { key: key.to_string() })
    }

    fn update(&self, key: &Path, expected: &Version) -> Result<UpdateVersion, BackendError> {
        let text = &expected.0;
        let is_generation = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match self.kind {
            Kind::Gcs if is_generation => Ok(UpdateVersion { e_tag: None, version: Some(text.clone()) }),
            Kind::Local | Kind::S3 | Kind::Azure | Kind::Other if !text.is_empty() => {
                Ok(UpdateVersion { e_tag: Some(text.clone()), version: None })
            }
            Kind::Local | Kind::S3 | Kind::Gcs | Kind::Azure | Kind::Other => Err(BackendError::InvalidVersion { key: key.to_string() }),
        }
    }
}

fn mismatch(key: &Path) -> BackendError {
    BackendError::VersionMismatch { key: key.to_string() }
}

/// Failures that another attempt would meet again.
fn is_final(failure: &Error) -> bool {
    matches!(failure, Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::NotFound { .. } | Error::InvalidPath { .. })
}

/// Stores answer 501 to a condition they do not know.
fn is_unsupported(failure: &Error) -> bool {
    matches!(failure, Error::NotImplemented { .. } | Error::NotSupported { .. })
        || matches!(failure, Error::Generic { .. } if super::error::innermost(failure).contains("501 Not Implemented"))
}
