//! Where a repository is: a path or a URL, turned into a store.

use std::path::{Path, PathBuf};

use object_store::ObjectStoreScheme;
use object_store::local::LocalFileSystem;
use url::Url;

use crate::error::{Error, Result, told};
use crate::store::{Store, StoreOptions, cloud};

/// Opens the store at `location`: a path, or a `file://`, `s3://`, `gs://` or `az://` URL.
///
/// `environment` holds the provider's own variables (`AWS_ACCESS_KEY_ID` …). With `create` a missing local folder is made.
pub fn open(
    location: &str,
    environment: impl IntoIterator<Item = (String, String)>,
    create: bool,
    options: &StoreOptions,
) -> Result<Store> {
    let bad = |reason: String| Error::Location { location: location.to_owned(), reason };
    if !location.contains("://") {
        return open_folder(location, Path::new(location), create, options);
    }
    let url = Url::parse(location).map_err(|error| bad(error.to_string()))?;
    match ObjectStoreScheme::parse(&url) {
        Ok((ObjectStoreScheme::Local, _)) => {
            let path = url.to_file_path().map_err(|()| bad("not a local path".into()))?;
            open_folder(location, &path, create, options)
        }
        Ok((
            scheme @ (ObjectStoreScheme::AmazonS3
            | ObjectStoreScheme::GoogleCloudStorage
            | ObjectStoreScheme::MicrosoftAzure),
            prefix,
        )) => {
            let cloud = cloud::open(&scheme, &url, prefix, environment, options);
            Ok(Store::of_cloud(cloud.map_err(|error| bad(told(&error)))?, location))
        }
        _ => Err(bad("give a path, or a file://, s3://, gs:// or az:// URL".into())),
    }
}

fn open_folder(location: &str, path: &Path, create: bool, options: &StoreOptions) -> Result<Store> {
    let failed = |operation, source| Error::File { operation, path: path.display().to_string(), source };
    if create {
        std::fs::create_dir_all(path).map_err(|source| failed("create the folder", source))?;
    } else if !path.is_dir() {
        return Err(Error::NoRepository { location: location.to_owned() });
    }
    let path: PathBuf = std::path::absolute(path).map_err(|source| failed("find", source))?;
    // Without fsync an acknowledged pack may be gone after a power cut; without clean-up gc and probes leave empty folders.
    let store = LocalFileSystem::new_with_prefix(&path)
        .map(|store| store.with_fsync(true).with_automatic_cleanup(true));
    let store =
        store.map_err(|source| Error::Store { operation: "open", key: location.to_owned(), source })?;
    Ok(Store::of_folder(store, path, location, options))
}
