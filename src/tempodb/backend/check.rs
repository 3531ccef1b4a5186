//! The start check: asks the store once and says in one line what to correct.

use std::error::Error;
use std::time::Duration;

use futures::StreamExt;

use super::error::{BackendError, innermost};
use super::{Backend, Place};

/// Longest wait for a store at start. Requests that fail at once are repeated within it.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// What the texts of a failed request say about its cause, in the order to look for it: words in the answer, and the advice.
const ADVICE: [(&[&str], Advice); 4] = [
    (&["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist", "\"notFound\""], Advice::Missing),
    (
        &[
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
            "XAdminUserNotFound",
            "AccessDenied",
            "AuthenticationFailed",
            "AuthorizationFailure",
            "ExpiredToken",
            "InvalidToken",
            "403 Forbidden",
            "401 Unauthorized",
        ],
        Advice::Denied,
    ),
    (&["169.254.169.254", "169.254.170.2", "metadata.google.internal", "//sts."], Advice::NoCredentials),
    (&["404 Not Found"], Advice::Missing),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    Missing,
    Denied,
    NoCredentials,
    Unreachable,
}

impl Backend {
    /// Fails with [`BackendError::Check`] when the store cannot be used as configured: wrong credentials, no such bucket, no answer.
    pub async fn check(&self) -> Result<(), BackendError> {
        // One page of a listing needs what polling needs.
        let mut listed = self.store.list(None);
        let outcome = match tokio::time::timeout(CHECK_TIMEOUT, listed.next()).await {
            Ok(None | Some(Ok(_) | Err(object_store::Error::NotFound { .. }))) if !matches!(self.place, Place::Bucket { .. }) => {
                return Ok(());
            }
            Ok(None | Some(Ok(_))) => return Ok(()),
            Ok(Some(Err(error))) => self.problem(&error),
            Err(_elapsed) => self.text(Advice::Unreachable, &format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
        };
        Err(BackendError::Check(outcome))
    }

    fn problem(&self, error: &object_store::Error) -> String {
        let all = chain(error);
        let advice = ADVICE.iter().find(|(words, _)| words.iter().any(|word| all.contains(word)));
        self.text(advice.map_or(Advice::Unreachable, |(_, advice)| *advice), &said(&all).unwrap_or_else(|| innermost(error)))
    }

    fn text(&self, advice: Advice, cause: &str) -> String {
        let (block, name, url) = match &self.place {
            Place::Bucket { block, name, url } => (*block, name, url),
            Place::Folder(path) => return format!("storage.trace.local: cannot list {}: {cause}", path.display()),
            Place::Nowhere => return format!("cannot list the object store: {cause}"),
        };
        let (what, name_key, keys, endpoint_key) = match block {
            "s3" => ("bucket", "bucket", "access_key and secret_key, or the permissions they have", "endpoint and insecure"),
            "gcs" => {
                ("bucket", "bucket_name", "the application default credentials, or the permissions they have", "endpoint and insecure")
            }
            _ => (
                "container",
                "container_name",
                "storage_account_name and storage_account_key, or the permissions they have",
                "endpoint_suffix",
            ),
        };
        let at = format!("storage.trace.{block}: ");
        at + &match advice {
            Advice::Missing => {
                format!("{what} \"{name}\" does not exist at {url} ({cause}); create it, or correct storage.trace.{block}.{name_key}")
            }
            Advice::Denied => {
                format!("access to {what} \"{name}\" at {url} is denied ({cause}); check storage.trace.{block}: {keys}")
            }
            Advice::NoCredentials => {
                format!("no credentials for {what} \"{name}\" at {url} ({cause}); set storage.trace.{block}: {keys}")
            }
            Advice::Unreachable => {
                format!("cannot use {what} \"{name}\" at {url} ({cause}); check storage.trace.{block}: {endpoint_key}")
            }
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        text.push('\n');
        text.push_str(&next.to_string());
        deepest = next;
    }
    text
}

/// Code and message of an answer in XML. Other parts of such answers repeat the request and its signature.
fn said(text: &str) -> Option<String> {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let code = element("Code")?;
    Some(match element("Message").filter(|message| !message.is_empty()) {
        Some(message) => format!("{code}: {}", message.trim_end_matches('.')),
        None => code,
    })
}
