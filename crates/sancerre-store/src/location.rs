//! Where a repository is: a path or a URL, turned into a store.

mod mistakes;

use std::path::PathBuf;

use object_store::ObjectStoreScheme;
use url::Url;

use crate::causes::with_root_cause;
use crate::error::{Result, StoreError};
use crate::{Store, StoreOptions, cloud};

pub use mistakes::of_folder;

/// Opens the store at `location`: a path, or a `file://`, `s3://`, `gs://` or `az://` URL.
///
/// Errors: [`StoreError::Location`], also for what would be a folder here and was surely meant otherwise.
///
/// `environment` holds the provider's own variables (`AWS_ACCESS_KEY_ID` …). With `create` a missing local folder is made.
pub fn open(
    location: &str,
    environment: impl IntoIterator<Item = (String, String)>,
    create: bool,
    options: &StoreOptions,
) -> Result<Store> {
    let bad = |reason: String| bad(location, reason);
    if let Some(path) = local(location)? {
        return Store::open_folder(location, &path, create, options);
    }
    let url = Url::parse(location).map_err(|error| bad(error.to_string()))?;
    match ObjectStoreScheme::parse(&url) {
        Ok((
            scheme @ (ObjectStoreScheme::AmazonS3
            | ObjectStoreScheme::GoogleCloudStorage
            | ObjectStoreScheme::MicrosoftAzure),
            prefix,
        )) => {
            let environment: Vec<(String, String)> = environment.into_iter().collect();
            cloud::check_endpoints(&environment, url.host_str().unwrap_or_default()).map_err(bad)?;
            let cloud = cloud::open(&scheme, &url, prefix, environment, options);
            Ok(Store::of_cloud(cloud.map_err(|error| bad(with_root_cause(&error)))?, location))
        }
        _ => Err(bad("give a path, or a file://, s3://, gs:// or az:// URL".into())),
    }
}

/// The folder at `location`.
///
/// Errors: [`StoreError::Location`], also for one that is not a folder of this machine.
pub fn folder(location: &str) -> Result<PathBuf> {
    let path = local(location)?.ok_or_else(|| bad(location, "it is no folder of this machine".into()))?;
    std::path::absolute(&path).map_err(|source| StoreError::File {
        operation: "find",
        path: path.display().to_string(),
        source,
    })
}

/// The path of a location on this machine; none for one elsewhere.
fn local(location: &str) -> Result<Option<PathBuf>> {
    if let Some(reason) = mistakes::find(location) {
        return Err(bad(location, reason));
    }
    if !location.contains("://") {
        return Ok(Some(PathBuf::from(location)));
    }
    let url = Url::parse(location).map_err(|error| bad(location, error.to_string()))?;
    if url.scheme() != "file" {
        return Ok(None);
    }
    url.to_file_path().map(Some).map_err(|()| bad(location, "it is no path of this machine".into()))
}

fn bad(location: &str, reason: String) -> StoreError {
    StoreError::Location { location: mistakes::shown(location).into_owned(), reason }
}
