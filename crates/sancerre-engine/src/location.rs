//! Where a repository is: a path or a URL, turned into a store by `object_store`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

use crate::error::{Error, Result};
use crate::store::Store;

/// Opens the store at `location`: a path, or a `file://`, `s3://`, `gs://` or `az://` URL.
///
/// `environment` holds the provider's own variables (`AWS_ACCESS_KEY_ID` …). With `create` a missing local folder is made.
pub fn open(
    location: &str,
    environment: impl IntoIterator<Item = (String, String)>,
    create: bool,
) -> Result<Store> {
    let bad = |reason: String| Error::Location { location: location.to_owned(), reason };
    if !location.contains("://") {
        return open_folder(location, Path::new(location), create);
    }
    let url = Url::parse(location).map_err(|error| bad(error.to_string()))?;
    match ObjectStoreScheme::parse(&url) {
        Ok((ObjectStoreScheme::Local, _)) => {
            let path = url.to_file_path().map_err(|()| bad("not a local path".into()))?;
            open_folder(location, &path, create)
        }
        Ok((
            ObjectStoreScheme::AmazonS3
            | ObjectStoreScheme::GoogleCloudStorage
            | ObjectStoreScheme::MicrosoftAzure,
            _,
        )) => {
            let options = cloud_options(environment);
            let (store, prefix) =
                object_store::parse_url_opts(&url, options).map_err(|error| bad(error.to_string()))?;
            let store: Arc<dyn ObjectStore> = Arc::from(store);
            let at_root = prefix.as_ref().is_empty();
            let store = if at_root { store } else { Arc::new(PrefixStore::new(store, prefix)) };
            Ok(Store::new(store, location))
        }
        _ => Err(bad("give a path, or a file://, s3://, gs:// or az:// URL".into())),
    }
}

fn open_folder(location: &str, path: &Path, create: bool) -> Result<Store> {
    let failed = |operation, source| Error::File { operation, path: path.display().to_string(), source };
    if create {
        std::fs::create_dir_all(path).map_err(|source| failed("create the folder", source))?;
    } else if !path.is_dir() {
        return Err(Error::NoRepository { location: location.to_owned() });
    }
    let path: PathBuf = std::path::absolute(path).map_err(|source| failed("find", source))?;
    // Without fsync an acknowledged pack may be gone after a power cut.
    let store = LocalFileSystem::new_with_prefix(&path).map(|store| store.with_fsync(true));
    let store =
        store.map_err(|source| Error::Store { operation: "open", key: location.to_owned(), source })?;
    Ok(Store::new(Arc::new(store), location))
}

/// The caller's variables after our defaults, so that they win.
fn cloud_options(environment: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let defaults = [
        // Buckets with a lock refuse a PUT without a checksum.
        ("aws_checksum_algorithm", "sha256"),
        // A slow link is not a broken one: give up on lack of progress, not on total time.
        ("timeout", "1 hour"),
        ("read_timeout", "30 seconds"),
    ];
    let mut options: Vec<_> = defaults.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    for (key, value) in environment {
        // An endpoint is plain http only when somebody wrote so.
        if key.to_ascii_lowercase().contains("endpoint") && value.starts_with("http://") {
            options.push(("allow_http".into(), "true".into()));
        }
        options.push((key, value));
    }
    options
}
