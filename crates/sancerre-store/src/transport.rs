//! HTTP below `object_store`: counts, keeps to the limits of speed, and gives up on lack of progress, never on total
//! time. A branch office that uploads 1 MB/s takes half a minute for a pack, and must not be cut off.

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use reqwest::{Method, StatusCode, header};
use tokio::time::Sleep;

use crate::StoreOptions;
use crate::causes::{NoTls, Refusal, Untrusted, with_root_cause};
use crate::clock::monotonic;
use crate::messages::{INSTANCES, without_markup};
use crate::rate_limit::{RateLimits, TokenBucket, piece_bytes};
use crate::strange::{Strange, sieve};
use crate::traffic::{RequestKind, Traffic};

const CONNECT: Duration = Duration::from_secs(30);
/// Uploads from this size on may be under way long after their last byte was handed to the system.
const LARGE_BYTES: u64 = 1 << 20;
/// The answer to a large upload may take so many times the usual wait.
const ANSWER_FACTOR: u32 = 3;
/// How much of an error's body is read for a message, and how much of that is kept.
const BODY_BYTES: usize = 8 << 10;
const MESSAGE_CHARACTERS: usize = 300;
/// What the TLS library says of a certificate that does not verify, and of a machine that can verify none.
const UNTRUSTED: &str = "invalid peer certificate";
const NO_AUTHORITIES: &str = "No CA certificates";
/// What it says of an answer that is none of TLS.
const NO_TLS: &str = "InvalidContentType";
/// Where a provider hands out credentials, it does so at once.
const INSTANCE_STALL: Duration = Duration::from_secs(5);

/// No byte moved for too long.
#[derive(Debug, thiserror::Error)]
#[error("no progress for {} s", .0.as_secs_f32())]
struct Stalled(Duration);

/// Makes clients that share counters and limits.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pace: RateLimits,
    stall: Duration,
    traffic: Arc<Traffic>,
    strange: Arc<Strange>,
}

impl Connector {
    pub(crate) fn new(options: &StoreOptions, traffic: Arc<Traffic>, strange: Arc<Strange>) -> Self {
        let shared = Shared { pace: RateLimits::new(options), stall: options.stall, traffic, strange };
        Self { shared: Arc::new(shared) }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = client(options).map_err(|error| object_store::Error::Generic {
            store: "HTTP client",
            source: match with_root_cause(&error).contains(NO_AUTHORITIES) {
                true => "this machine knows no certificate authorities: install Debian's package ca-certificates, or \
                         name a file with their certificates in SSL_CERT_FILE"
                    .into(),
                false => error.into(),
            },
        })?;
        Ok(HttpClient::new(Service { client, shared: self.shared.clone() }))
    }
}

/// A client as `object_store` would make it, but without its time-outs.
fn client(options: &ClientOptions) -> reqwest::Result<reqwest::Client> {
    let made = builder(options)?.build();
    let plain = options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() == Some("true");
    // Where nothing is encrypted it does not matter that there are no authorities.
    if made.is_err() && plain { builder(options)?.tls_certs_only([]).build() } else { made }
}

fn builder(options: &ClientOptions) -> reqwest::Result<reqwest::ClientBuilder> {
    let value = |key| options.get_config_value(&key).filter(|value| !value.is_empty());
    let is_set = |key| value(key).is_some_and(|value| value == "true");
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("sancerre/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .http1_only()
        .https_only(!is_set(ClientConfigKey::AllowHttp));
    if is_set(ClientConfigKey::AllowInvalidCertificates) {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if let Some(url) = value(ClientConfigKey::ProxyUrl) {
        let excluded = value(ClientConfigKey::ProxyExcludes);
        let excluded = excluded.and_then(|names| reqwest::NoProxy::from_string(&names));
        builder = builder.proxy(reqwest::Proxy::all(url)?.no_proxy(excluded));
    }
    if let Some(pem) = value(ClientConfigKey::ProxyCaCertificate) {
        builder = builder.tls_certs_merge([reqwest::Certificate::from_pem(pem.as_bytes())?]);
    }
    Ok(builder)
}

#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    shared: Arc<Shared>,
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let kind = kind(&parts.method, parts.uri.query().unwrap_or_default());
        let is_instance = parts.uri.host().is_some_and(|host| INSTANCES.contains(&host));
        self.shared.traffic.request(kind);
        let url = parts.uri.to_string().parse::<url::Url>();
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut sent = reqwest::Request::new(parts.method, url);
        *sent.headers_mut() = parts.headers;
        let progress = Arc::new(Progress::default());
        *sent.body_mut() = Some(self.upload(body, &progress));
        let stall = if is_instance { INSTANCE_STALL.min(self.shared.stall) } else { self.shared.stall };
        let answer = until_stalled(self.client.execute(sent), &progress, stall).await?;
        let answer = answer.map_err(failed)?;
        match later(answer.status()) {
            true => Err(refusal(answer, self.shared.stall).await),
            false if kind == RequestKind::List => self.listed(self.download(answer).await?).await,
            false => self.download(answer).await,
        }
    }
}

impl Service {
    fn upload(&self, body: HttpRequestBody, progress: &Arc<Progress>) -> reqwest::Body {
        if let Some(bytes) = body.as_bytes() {
            self.shared.traffic.sent(bytes.len());
            return bytes.clone().into();
        }
        let bucket = self.shared.pace.up.clone();
        progress.is_large.store(body.size_hint().lower() >= LARGE_BYTES, Ordering::Relaxed);
        reqwest::Body::wrap(Upload {
            body,
            rest: Bytes::new(),
            piece_bytes: piece_bytes(bucket.as_ref()),
            bucket,
            pause: None,
            progress: progress.clone(),
            traffic: self.shared.traffic.clone(),
        })
    }

    /// A page of a listing, without the keys on which whoever reads it would give up.
    async fn listed(&self, answer: HttpResponse) -> Result<HttpResponse, HttpError> {
        let (parts, body) = answer.into_parts();
        let page = body.bytes().await?;
        let sieved = match std::str::from_utf8(&page) {
            Ok(text) => match sieve(text, |key, why| self.shared.strange.leave_out(key, why)) {
                Cow::Owned(sieved) => Bytes::from(sieved),
                Cow::Borrowed(_) => page,
            },
            Err(_) => page,
        };
        Ok(HttpResponse::from_parts(parts, sieved.into()))
    }

    async fn download(&self, answer: reqwest::Response) -> Result<HttpResponse, HttpError> {
        let status = answer.status();
        let answer: http::Response<reqwest::Body> = answer.into();
        let (parts, body) = answer.into_parts();
        let body = HttpResponseBody::new(Download {
            body,
            bucket: self.shared.pace.down.clone(),
            pause: None,
            stall: self.shared.stall,
            alarm: Box::pin(tokio::time::sleep(self.shared.stall)),
            traffic: self.shared.traffic.clone(),
        });
        if status != StatusCode::BAD_REQUEST {
            return Ok(HttpResponse::from_parts(parts, body));
        }
        // S3 calls a connection on which it waited too long a bad request.
        let text = body.bytes().await?;
        if text.windows(14).any(|word| word == b"RequestTimeout") {
            let message = message(&text);
            return Err(HttpError::new(
                HttpErrorKind::Interrupted,
                Refusal { status, message, retry_after: None },
            ));
        }
        Ok(HttpResponse::from_parts(parts, text.into()))
    }
}

fn kind(method: &Method, query: &str) -> RequestKind {
    let is_listing = || {
        query
            .split('&')
            .any(|pair| pair.starts_with("list-type=") || pair == "comp=list" || pair.starts_with("versions"))
    };
    match *method {
        Method::PUT => RequestKind::Put,
        Method::GET if is_listing() => RequestKind::List,
        Method::GET | Method::HEAD => RequestKind::Get,
        Method::DELETE => RequestKind::Delete,
        _ => RequestKind::Other,
    }
}

/// Whether the same request may get another answer later.
fn later(status: StatusCode) -> bool {
    let is_passing =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    let is_final = [StatusCode::NOT_IMPLEMENTED, StatusCode::HTTP_VERSION_NOT_SUPPORTED].contains(&status);
    is_passing || (status.is_server_error() && !is_final)
}

async fn refusal(answer: reqwest::Response, stall: Duration) -> HttpError {
    let status = answer.status();
    let asked = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = asked.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let body = tokio::time::timeout(stall, answer.bytes()).await;
    let message = body.ok().and_then(Result::ok).map(|body| message(&body)).unwrap_or_default();
    HttpError::new(HttpErrorKind::Interrupted, Refusal { status, message, retry_after })
}

fn message(body: &[u8]) -> String {
    let start = body.get(..BODY_BYTES).unwrap_or(body);
    without_markup(&String::from_utf8_lossy(start)).chars().take(MESSAGE_CHARACTERS).collect()
}

fn failed(error: reqwest::Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
    let error = error.without_url();
    let text = with_root_cause(&error);
    match text.split_once(UNTRUSTED) {
        Some((_, reason)) => HttpError::new(kind, Untrusted(reason.trim_matches([':', ' ']).to_owned())),
        None if text.contains(NO_TLS) => HttpError::new(kind, NoTls),
        None => HttpError::new(kind, error),
    }
}

/// How far an upload is.
#[derive(Debug, Default)]
struct Progress {
    pieces: AtomicU64,
    is_large: AtomicBool,
    is_handed_over: AtomicBool,
}

/// Fails when `work` is not done and no piece went for a while.
async fn until_stalled<T>(
    work: impl Future<Output = T>,
    progress: &Progress,
    stall: Duration,
) -> Result<T, HttpError> {
    let mut work = pin!(work);
    let mut seen = 0;
    loop {
        let waits_for_answer =
            progress.is_large.load(Ordering::Relaxed) && progress.is_handed_over.load(Ordering::Relaxed);
        let patience = if waits_for_answer { stall.saturating_mul(ANSWER_FACTOR) } else { stall };
        tokio::select! {
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(patience) => {}
        }
        let now = progress.pieces.load(Ordering::Relaxed);
        if now == std::mem::replace(&mut seen, now) {
            return Err(HttpError::new(HttpErrorKind::Timeout, Stalled(patience)));
        }
    }
}

/// A body on its way out, in pieces that are paid for.
struct Upload {
    body: HttpRequestBody,
    rest: Bytes,
    piece_bytes: usize,
    bucket: Option<Arc<TokenBucket>>,
    pause: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
    traffic: Arc<Traffic>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => this.rest = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.progress.is_handed_over.store(true, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
            }
        }
        let length = this.rest.len().min(this.piece_bytes);
        if let Some(bucket) = &this.bucket {
            let pause = this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(bucket.take(length))));
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let piece = this.rest.split_to(length);
        this.progress.pieces.fetch_add(1, Ordering::Relaxed);
        this.progress.is_handed_over.store(this.is_end_stream(), Ordering::Relaxed);
        this.traffic.sent(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        SizeHint::with_exact(self.body.size_hint().lower().saturating_add(rest))
    }
}

/// A body on its way in: paid for, and watched.
struct Download {
    body: reqwest::Body,
    bucket: Option<Arc<TokenBucket>>,
    pause: Option<Pin<Box<Sleep>>>,
    stall: Duration,
    alarm: Pin<Box<Sleep>>,
    traffic: Arc<Traffic>,
}

impl Body for Download {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
            this.alarm.as_mut().reset(monotonic() + this.stall);
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                this.traffic.received(length);
                this.pause =
                    this.bucket.as_ref().map(|bucket| Box::pin(tokio::time::sleep(bucket.take(length))));
                this.alarm.as_mut().reset(monotonic() + this.stall);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(failed(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(this.alarm.as_mut().poll(cx));
                Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, Stalled(this.stall)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
