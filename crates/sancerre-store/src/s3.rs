//! The S3 requests that `object_store` has no name for: versions, retention, deletes of a version.
//!
//! It makes no policy: each call is one request with one answer, waited for as `store::retry` says; a listing is as many
//! as it has pages. What the versions of an object mean is for `store::versions` to say.

mod listing;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use futures::FutureExt;
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpRequest};
use object_store::path::Path;
use object_store::signer::{HeaderName, HeaderValue, Method, SignedUrlOptions, Signer};
use sancerre_format::names::Time;
use sha2::{Digest, Sha256};

use crate::error::{Result, StoreError};
use crate::messages;
use crate::retry::RetryPolicy;

pub(crate) use listing::{Page, Version};

/// For how long a signature holds: an upload must begin within.
const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);

/// A bucket's own interface.
pub(crate) struct S3 {
    store: Arc<AmazonS3>,
    client: HttpClient,
    prefix: Path,
    patience: Arc<RetryPolicy>,
}

/// What a request came back with.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Bytes,
    /// When the server sent it, by its clock.
    pub(crate) date: Option<Time>,
}

impl Answer {
    /// Whether it was done.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The text of the first XML element of this name that has no attributes.
    pub(crate) fn element(&self, name: &str) -> Option<String> {
        messages::element(&String::from_utf8_lossy(&self.body), name).map(str::to_owned)
    }

    /// Status, and the provider's word for it.
    pub(crate) fn reason(&self) -> String {
        let code = self.element("Code").unwrap_or_default();
        format!("{} {code}", self.status).trim_end().to_owned()
    }
}

/// A lock on an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectRetention {
    /// `COMPLIANCE` or `GOVERNANCE`.
    pub(crate) mode: String,
    /// Until when, as the store says.
    pub(crate) term: String,
    /// The same, if it can be read.
    pub(crate) until: Option<Time>,
}

/// A bucket's lock on every new object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `COMPLIANCE` or `GOVERNANCE`.
    pub(crate) mode: String,
    /// For how many days.
    pub(crate) days: u32,
}

impl Rule {
    /// The days in seconds.
    pub(crate) fn seconds(&self) -> i64 {
        i64::from(self.days).saturating_mul(86_400)
    }
}

impl S3 {
    pub(crate) fn new(
        store: Arc<AmazonS3>,
        client: HttpClient,
        prefix: Path,
        patience: Arc<RetryPolicy>,
    ) -> Self {
        Self { store, client, prefix, patience }
    }

    /// Sends a request about the object `key` of the repository, or about the bucket when there is none.
    pub(crate) async fn request(
        &self,
        method: Method,
        key: Option<&str>,
        query: &[(&str, &str)],
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        let path = match key {
            None => Path::default(),
            Some(key) => self.path(key)?,
        };
        let attempt = || self.send(&method, &path, query, headers, &body).boxed();
        let answer = self.patience.during(path.as_ref(), attempt).await;
        let about = key.map_or_else(|| "the bucket".to_owned(), |_| path.to_string());
        answer.map_err(|source| StoreError::Failed { operation: "answer about", key: about, source })
    }

    /// Where an object lies in the bucket, in the very characters of its key.
    fn path(&self, key: &str) -> Result<Path> {
        let own = crate::path(key);
        let own =
            own.map_err(|source| StoreError::Failed { operation: "name", key: key.to_owned(), source })?;
        Ok(self.prefix.parts().chain(own.parts()).collect())
    }

    async fn send(
        &self,
        method: &Method,
        path: &Path,
        query: &[(&str, &str)],
        headers: &[(&'static str, &str)],
        body: &Bytes,
    ) -> object_store::Result<Answer> {
        let bad = |error: Box<dyn std::error::Error + Send + Sync>| object_store::Error::NotSupported {
            source: error,
        };
        let mut options = SignedUrlOptions::new().with_query(query.iter().copied());
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|error| bad(error.into()))?;
            options = options.with_signed_header(HeaderName::from_static(name), value);
        }
        let signed = options.signed_headers.clone();
        let url = self.store.signed_url_opts(method.clone(), path, SIGNED_FOR, &options).await?;
        let mut request = HttpRequest::new(body.clone().into());
        *request.method_mut() = method.clone();
        *request.uri_mut() =
            url.as_str().parse().map_err(|error: http::uri::InvalidUri| bad(error.into()))?;
        *request.headers_mut() = signed;
        let failed = |error: object_store::client::HttpError| object_store::Error::Generic {
            store: "S3",
            source: error.into(),
        };
        let (parts, body) = self.client.execute(request).await.map_err(failed)?.into_parts();
        let body = body.bytes().await.map_err(failed)?;
        Ok(Answer { status: parts.status.as_u16(), body, date: date(&parts.headers) })
    }

    pub(crate) async fn get(&self, key: Option<&str>, query: &[(&str, &str)]) -> Result<Answer> {
        self.request(Method::GET, key, query, &[], Bytes::new()).await
    }

    /// Whether the bucket keeps versions: `Enabled`, `Suspended`, or none if it never did.
    ///
    /// Errors: the inner one is the store's refusal to tell.
    pub(crate) async fn versioning(&self) -> Result<std::result::Result<Option<String>, String>> {
        let answer = self.get(None, &[("versioning", "")]).await?;
        Ok(if answer.is_success() { Ok(answer.element("Status")) } else { Err(answer.reason()) })
    }

    /// What the server's clock says; none where its answers have no date.
    pub(crate) async fn time(&self) -> Result<Option<Time>> {
        Ok(self.get(None, &[("versioning", "")]).await?.date)
    }

    /// The lock that the bucket puts on every new object.
    ///
    /// Errors: the inner one is the store's refusal to tell.
    pub(crate) async fn default_retention(&self) -> Result<std::result::Result<Option<Rule>, String>> {
        let answer = self.get(None, &[("object-lock", "")]).await?;
        if answer.status == 404 {
            return Ok(Ok(None));
        }
        if !answer.is_success() {
            return Ok(Err(answer.reason()));
        }
        let number = |name| answer.element(name).and_then(|text| text.parse::<u32>().ok());
        let days = number("Days").or_else(|| Some(number("Years")?.saturating_mul(365)));
        Ok(Ok(answer.element("Mode").zip(days).map(|(mode, days)| Rule { mode, days })))
    }

    /// The lock on one version of an object, or on the current one.
    ///
    /// Errors: the inner one is the store's refusal to tell.
    pub(crate) async fn retention(
        &self,
        key: &str,
        version: Option<&str>,
    ) -> Result<std::result::Result<Option<ObjectRetention>, String>> {
        let answer = self.get(Some(key), &of_version("retention", version)).await?;
        match answer.status {
            200 => {
                let found = answer.element("Mode").zip(answer.element("RetainUntilDate"));
                Ok(Ok(found.map(|(mode, term)| {
                    let until = listing::time(&term).ok();
                    ObjectRetention { mode, term, until }
                })))
            }
            400 | 404 => Ok(Ok(None)),
            _ => Ok(Err(answer.reason())),
        }
    }

    /// Sets the lock on one version of an object, or on the current one.
    pub(crate) async fn set_retention(
        &self,
        key: &str,
        version: Option<&str>,
        body: Bytes,
    ) -> Result<Answer> {
        // Required of requests about locks, and not made by what signs them.
        let checksum = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&body));
        let headers = [("x-amz-checksum-sha256", checksum.as_str())];
        self.request(Method::PUT, Some(key), &of_version("retention", version), &headers, body).await
    }

    /// Lists the versions of all keys that begin with `prefix`, and hands over page after page until one is refused;
    /// with `delimiter` only those directly below it, and the folders.
    ///
    /// One attempt. Errors: the store's; a listing that cannot be read.
    pub(crate) async fn try_versions(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<&str>,
        mut more: impl FnMut(Page) -> bool + Send,
    ) -> object_store::Result<()> {
        let root = if self.prefix.as_ref().is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let whole = format!("{root}{prefix}");
        let mut next = after.map(|after| listing::Next { key: format!("{root}{after}"), version: None });
        loop {
            let mut query = vec![("versions", ""), ("prefix", whole.as_str())];
            query.extend(delimiter.map(|delimiter| ("delimiter", delimiter)));
            if let Some(next) = &next {
                query.push(("key-marker", &next.key));
                query.extend(next.version.as_deref().map(|version| ("version-id-marker", version)));
            }
            let answer = self.send(&Method::GET, &Path::default(), &query, &[], &Bytes::new()).await?;
            let mut page = page(&answer, &whole, &root)?;
            let following = page.next.take();
            if !more(page) || following.is_none() {
                return Ok(());
            }
            if following == next {
                return Err(unreadable("a listing of versions does not come to its end".into()));
            }
            next = following;
        }
    }

    /// Asks to delete one version of an object for good; without a version, what a delete does by default.
    pub(crate) async fn delete(&self, key: &str, version: Option<&str>) -> Result<Answer> {
        let query: Vec<_> = version.iter().map(|version| ("versionId", *version)).collect();
        self.request(Method::DELETE, Some(key), &query, &[], Bytes::new()).await
    }
}

fn date(headers: &http::HeaderMap) -> Option<Time> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Time::from_unix_seconds(i64::try_from(since.as_secs()).ok()?))
}

fn of_version<'a>(what: &'a str, version: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    std::iter::once((what, "")).chain(version.map(|version| ("versionId", version))).collect()
}

/// A page of a listing of versions of keys that begin with `whole`.
fn page(answer: &Answer, whole: &str, root: &str) -> object_store::Result<Page> {
    match answer.status {
        200 => listing::parse(&answer.body, root).map_err(unreadable),
        403 => Err(object_store::Error::PermissionDenied {
            path: whole.to_owned(),
            source: format!(
                "listing versions is answered {}; allow these credentials s3:ListBucketVersions, docs/STORES.md",
                answer.reason()
            )
            .into(),
        }),
        _ => Err(unreadable(format!("listing versions is answered {}", answer.reason()))),
    }
}

/// An answer that the same request would get again.
fn unreadable(reason: String) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: reason.into() }
}
