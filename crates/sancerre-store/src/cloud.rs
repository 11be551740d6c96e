//! The stores of the providers, made from a URL and the provider's own variables.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use crate::StoreOptions;
use crate::retry::RetryPolicy;
use crate::s3::S3;
use crate::strange::Strange;
use crate::traffic::Traffic;
use crate::transport::Connector;

/// The settings that [`Connector`] heeds.
const CLIENT_KEYS: [ClientConfigKey; 5] = [
    ClientConfigKey::AllowHttp,
    ClientConfigKey::AllowInvalidCertificates,
    ClientConfigKey::ProxyUrl,
    ClientConfigKey::ProxyExcludes,
    ClientConfigKey::ProxyCaCertificate,
];

/// A provider's store, and what comes with it.
pub(crate) struct Cloud {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) patience: Arc<RetryPolicy>,
    pub(crate) s3: Option<S3>,
    pub(crate) settings: Vec<String>,
    pub(crate) strange: Arc<Strange>,
    /// What the keys of the bucket begin with, and ours do not.
    pub(crate) root: String,
}

/// A builder of `object_store` with those of the variables that it understands, our transport, and no retries of its own.
macro_rules! builder {
    ($builder:ty, $key:ty, $url:expr, $variables:expr, $connector:expr) => {{
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let builder = <$builder>::new().with_url($url.to_string()).with_retry(retry);
        let start = (builder.with_http_connector($connector), Vec::new());
        $variables.into_iter().fold(start, |(builder, mut understood), (name, value)| {
            match name.to_ascii_lowercase().parse::<$key>() {
                Ok(key) => {
                    understood.push(name);
                    (builder.with_config(key, value), understood)
                }
                Err(_) => (builder, understood),
            }
        })
    }};
}

/// Opens the bucket or container of a URL whose scheme is a provider's.
pub(crate) fn open(
    scheme: &ObjectStoreScheme,
    url: &Url,
    prefix: Path,
    environment: impl IntoIterator<Item = (String, String)>,
    options: &StoreOptions,
) -> object_store::Result<Cloud> {
    let traffic = Arc::new(Traffic::default());
    let patience = Arc::new(RetryPolicy::new(options));
    let strange = Arc::<Strange>::default();
    let connector = Connector::new(options, traffic.clone(), strange.clone());
    let variables: Vec<(String, String)> = environment.into_iter().collect();
    let plain = variables.iter().any(|(name, value)| is_plain_endpoint(name, value));
    let allowed = plain.then(|| ("allow_http".to_owned(), "true".to_owned()));
    let variables = allowed.into_iter().chain(variables);
    let mut s3 = None;
    let (store, settings): (Arc<dyn ObjectStore>, Vec<String>) = match scheme {
        ObjectStoreScheme::GoogleCloudStorage => {
            let (builder, settings) =
                builder!(GoogleCloudStorageBuilder, GoogleConfigKey, url, variables, connector);
            (Arc::new(builder.build()?), settings)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let (builder, settings) =
                builder!(MicrosoftAzureBuilder, AzureConfigKey, url, variables, connector);
            (Arc::new(builder.build()?), settings)
        }
        _ => {
            // Buckets with a lock refuse a PUT without a checksum; a variable that says otherwise comes later, and wins.
            let checksum = [("aws_checksum_algorithm".to_owned(), "sha256".to_owned())];
            let variables = checksum.into_iter().chain(variables);
            let (builder, settings) =
                builder!(AmazonS3Builder, AmazonS3ConfigKey, url, variables, connector.clone());
            let client = connector.connect(&client_options(&builder))?;
            // Without credentials only plain object requests work, so there is no S3 interface.
            let signs =
                builder.get_config_value(&AmazonS3ConfigKey::SkipSignature).as_deref() != Some("true");
            let store = Arc::new(builder.build()?);
            s3 = signs.then(|| S3::new(store.clone(), client, prefix.clone(), patience.clone()));
            (store, settings)
        }
    };
    let at_root = prefix.as_ref().is_empty();
    let root = if at_root { String::new() } else { format!("{prefix}/") };
    let store = if at_root { store } else { Arc::new(PrefixStore::new(store, prefix)) };
    // Ours are in lower case.
    let settings = settings.into_iter().filter(|name| name.starts_with(char::is_uppercase)).collect();
    Ok(Cloud { store, traffic, patience, s3, settings, strange, root })
}

/// What our transport reads of the settings that the store's own client has.
fn client_options(builder: &AmazonS3Builder) -> ClientOptions {
    CLIENT_KEYS.into_iter().fold(ClientOptions::new(), |options, key| {
        match builder.get_config_value(&AmazonS3ConfigKey::Client(key)) {
            Some(value) => options.with_config(key, value),
            None => options,
        }
    })
}

/// An endpoint is plain http only when somebody wrote so.
fn is_plain_endpoint(name: &str, value: &str) -> bool {
    is_endpoint(name) && value.starts_with("http://")
}

/// Whether a variable names a server.
fn is_endpoint(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("endpoint") || name.ends_with("base_url")
}

/// Looks at the variables that name a server: libraries say of a wrong one what nobody understands, or nothing.
///
/// Errors: what is wrong with one.
pub(crate) fn check_endpoints(variables: &[(String, String)], bucket: &str) -> Result<(), String> {
    let is_virtual = variables.iter().any(|(name, value)| {
        name.to_ascii_lowercase().ends_with("virtual_hosted_style_request")
            && value.eq_ignore_ascii_case("true")
    });
    let named = variables.iter().filter(|(name, value)| is_endpoint(name) && !value.is_empty());
    named.into_iter().try_for_each(|(name, value)| check_endpoint(name, value, bucket, is_virtual))
}

fn check_endpoint(name: &str, value: &str, bucket: &str, is_virtual: bool) -> Result<(), String> {
    let url = match Url::parse(value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => {
            let server = value.trim_start_matches('/');
            return Err(format!(
                "{name} is {value:?}, which is no URL: write https://{server}, or http://{server} if the server speaks no TLS"
            ));
        }
    };
    let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let is_in_host = url
        .host_str()
        .is_some_and(|host| host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.')));
    if !bucket.is_empty()
        && (last == bucket || is_in_host && !is_virtual)
        && name.to_ascii_uppercase().starts_with("AWS")
    {
        return Err(format!("{name} is {value:?}, which names the bucket {bucket} too: leave it out there"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_the_url_of_a_server() {
        let check = |value: &str| {
            check_endpoints(
                &[("AWS_ENDPOINT".into(), value.into()), ("AWS_REGION".into(), "x".into())],
                "box",
            )
        };
        for good in
            ["", "http://minio:9000", "https://s3.example.org/", "https://x.example.org/storage/v1/s3"]
        {
            check(good).unwrap();
        }
        for (bad, word) in [
            ("minio:9000", "http://minio:9000"),
            ("s3.example.org", "https://s3.example.org"),
            ("//minio", "https://minio"),
            ("http://minio:9000/box", "names the bucket"),
            ("https://box.s3.amazonaws.com", "names the bucket"),
        ] {
            let refused = check(bad).unwrap_err();
            assert!(refused.contains(word) && refused.starts_with("AWS_ENDPOINT"), "{bad}: {refused}");
        }
    }
}
