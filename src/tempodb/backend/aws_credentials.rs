//! Where the credentials of S3 come from: configuration, environment, credentials file, web identity (IRSA), container (ECS, EKS), instance.

use std::path::PathBuf;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use tracing::info;

use super::error::BackendError;
use super::open::Environment;
use crate::tempodb::config::S3BackendConfig;

/// Pairs of variables, in the order they are looked at.
const KEY_VARIABLES: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ("AWS_ACCESS_KEY", "AWS_SECRET_KEY"),
    ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
    ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
];

/// Variables that name where tokens are fetched, and what the store's client calls them.
const TOKEN_VARIABLES: [(&str, AmazonS3ConfigKey); 7] = [
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
];

/// Fixed keys.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Keys {
    id: String,
    secret: String,
    token: Option<String>,
}

/// Gives the builder the first credentials there are.
pub(super) fn apply(
    builder: AmazonS3Builder,
    config: &S3BackendConfig,
    environment: Environment<'_>,
) -> Result<AmazonS3Builder, BackendError> {
    let (keys, source) = if !config.access_key.is_empty() {
        let token = Some(config.session_token.reveal().clone()).filter(|token| !token.is_empty());
        (Some(Keys { id: config.access_key.clone(), secret: config.secret_key.reveal().clone(), token }), "configuration")
    } else if let Some(keys) = keys_of_environment(environment) {
        (Some(keys), "environment")
    } else if environment("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
        (None, "web identity")
    } else if let Some(keys) = keys_of_file(environment)? {
        (Some(keys), "credentials file")
    } else {
        (None, "container or instance")
    };
    info!(source, "credentials of the object store");
    if let Some(Keys { id, secret, token }) = keys {
        let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        return Ok(match token {
            Some(token) => builder.with_token(token),
            None => builder,
        });
    }
    let found = TOKEN_VARIABLES.into_iter().filter_map(|(name, key)| Some((key, environment(name)?)));
    Ok(found.fold(builder, |builder, (key, value)| builder.with_config(key, value)))
}

fn keys_of_environment(environment: Environment<'_>) -> Option<Keys> {
    KEY_VARIABLES
        .iter()
        .find_map(|(id, secret)| Some(Keys { id: environment(id)?, secret: environment(secret)?, token: environment("AWS_SESSION_TOKEN") }))
}

/// The profile of `~/.aws/credentials`, or what the usual variables say instead. `None` without such a file.
fn keys_of_file(environment: Environment<'_>) -> Result<Option<Keys>, BackendError> {
    let named = environment("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let usual = environment("HOME").map(|home| PathBuf::from(home).join(".aws/credentials"));
    let Some(path) = named.or(usual) else { return Ok(None) };
    let profile = environment("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(keys_of_profile(&text, &profile)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BackendError::Config(vec![format!("cannot read the credentials file {}: {error}", path.display())])),
    }
}

fn keys_of_profile(text: &str, profile: &str) -> Option<Keys> {
    let mut is_inside = false;
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_inside = name.trim() == profile;
        } else if is_inside && let Some((key, value)) = line.split_once('=') {
            let value = Some(value.trim().to_owned());
            match key.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(Keys { id: id?, secret: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[default]\naws_access_key_id = a\naws_secret_access_key=b=\n\n[other]\naws_access_key_id=c\n\
        aws_secret_access_key=d\naws_session_token=e\n[half]\naws_access_key_id=f\n";

    fn keys(id: &str, secret: &str, token: Option<&str>) -> Option<Keys> {
        Some(Keys { id: id.to_owned(), secret: secret.to_owned(), token: token.map(str::to_owned) })
    }

    #[test]
    fn profiles_are_read_from_the_file() {
        assert_eq!(keys_of_profile(FILE, "default"), keys("a", "b=", None));
        assert_eq!(keys_of_profile(FILE, "other"), keys("c", "d", Some("e")));
        assert_eq!(keys_of_profile(FILE, "half"), None);
        assert_eq!(keys_of_profile(FILE, "none"), None);
    }

    #[test]
    fn the_environment_names_keys_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        std::fs::write(&file, FILE).unwrap();
        let named = move |name: &str| match name {
            "AWS_SHARED_CREDENTIALS_FILE" => Some(file.display().to_string()),
            "AWS_PROFILE" => Some("other".to_owned()),
            _ => None,
        };
        assert_eq!(keys_of_file(&named).unwrap(), keys("c", "d", Some("e")));
        assert_eq!(keys_of_file(&|name| (name == "HOME").then(|| "/nonexistent".to_owned())).unwrap(), None);
        let minio =
            |name: &str| name.starts_with("MINIO_ACCESS").then(|| "m".to_owned()).or((name == "MINIO_SECRET_KEY").then(|| "n".to_owned()));
        assert_eq!(keys_of_environment(&minio), keys("m", "n", None));
        assert_eq!(keys_of_environment(&|name| (name == "AWS_ACCESS_KEY_ID").then(|| "half".to_owned())), None);
    }
}
