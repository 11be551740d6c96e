//! Signed S3 requests (Signature Version 4), for what tests do behind the product's back.

use crate::http::{self, Response};
use crate::mac::{hex, hmac, sha256};
use crate::seaweedfs::Credentials;
use anyhow::Result;
use jiff::Timestamp;

const REGION: &str = "us-east-1";

/// Sends a signed request. `path` is `/bucket/key` and `query` is `a=b&c=` with its names in ascending order, both encoded.
pub(crate) fn request(
    port: u16,
    who: &Credentials,
    (method, path, query): (&str, &str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut signed: Vec<(String, String)> =
        headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect();
    signed.push(("host".into(), format!("127.0.0.1:{port}")));
    signed.push(("x-amz-content-sha256".into(), hex(&sha256(body))));
    signed.push(("x-amz-date".into(), time.clone()));
    signed.sort();
    let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{}", hex(&sha256(body)));
    let signature = signature(who, &time, &canonical);
    let scope = scope(&time);
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        who.access_key
    );
    signed.retain(|(name, _)| name != "host");
    signed.push(("authorization".into(), authorization));
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    http::request(port, method, &target, &signed, body)
}

fn scope(time: &str) -> String {
    format!("{}/{REGION}/s3/aws4_request", &time[..8])
}

fn signature(who: &Credentials, time: &str, canonical: &str) -> String {
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{}\n{}", scope(time), hex(&sha256(canonical.as_bytes())));
    let mut key = hmac(format!("AWS4{}", who.secret_key).as_bytes(), &time.as_bytes()[..8]);
    for step in [REGION, "s3", "aws4_request"] {
        key = hmac(&key, step.as_bytes());
    }
    hex(&hmac(&key, text.as_bytes()))
}
