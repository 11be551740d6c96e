//! Azurite: Microsoft's emulator of Azure Blob storage. Writes are conditional; its immutability is not enforced.

use crate::shared::{self, Recipe, Running};
use crate::{Variables, http, install, mac, skip, unique};
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The emulator's one account, which its documentation publishes.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const API_VERSION: &str = "2023-11-03";

/// The container that tests share.
const CONTAINER: &str = "plain";

/// The running server.
pub struct Azurite {
    running: Running,
}

/// The test run's Azure server; none, said loudly, where it is not installed.
///
/// Panics when it is installed and does not start.
pub fn azurite() -> Option<&'static Azurite> {
    static SERVER: OnceLock<Option<Azurite>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let script = install::azurite_script()?;
        let running = shared::running(&Node { script });
        Some(Azurite { running: running.unwrap_or_else(|error| panic!("Azurite does not start: {error:#}")) })
    });
    if server.is_none() {
        skip("no Azure server: `cargo xtask setup` installs Azurite");
    }
    server.as_ref()
}

impl Azurite {
    /// The address of the server's account, without a container.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.running.port)
    }

    /// The variables with which a process uses the server.
    pub fn variables(&self) -> Variables {
        let endpoint = self.endpoint();
        let pairs = [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
            ("AZURE_STORAGE_ENDPOINT", &endpoint),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// A place in a container that no other test uses.
    pub fn location(&self) -> String {
        format!("az://{CONTAINER}/{}", unique())
    }
}

struct Node {
    script: PathBuf,
}

impl Recipe for Node {
    fn name(&self) -> &'static str {
        "azurite"
    }

    fn ports(&self) -> usize {
        1
    }

    fn command(&self, _: &Path, ports: &[u16]) -> Result<Vec<String>> {
        let port = ports.first().context("a port is needed")?.to_string();
        let script = self.script.display().to_string();
        let words = [
            "node",
            &script,
            "--silent",
            "--disableTelemetry",
            "--skipApiVersionCheck",
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            &port,
            "--location",
            ".",
        ];
        Ok(words.map(str::to_owned).into())
    }

    fn is_ready(&self, port: u16) -> bool {
        http::request(port, "GET", "/", &[], &[]).is_ok()
    }

    fn prepare(&self, port: u16) -> Result<()> {
        create_container(port, CONTAINER)
    }
}

/// Makes a container with a request under the account's shared key.
fn create_container(port: u16, name: &str) -> Result<()> {
    let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let path = format!("/{ACCOUNT}/{name}");
    // Twelve standard headers, all absent or empty; then those of x-ms-; then the resource.
    let text = format!(
        "PUT{}x-ms-date:{date}\nx-ms-version:{API_VERSION}\n/{ACCOUNT}{path}\nrestype:container",
        "\n".repeat(12)
    );
    let key = STANDARD.decode(KEY)?;
    let signature = STANDARD.encode(mac::hmac(&key, text.as_bytes()));
    let headers = [
        ("x-ms-date".to_owned(), date),
        ("x-ms-version".to_owned(), API_VERSION.to_owned()),
        ("Authorization".to_owned(), format!("SharedKey {ACCOUNT}:{signature}")),
    ];
    let made = http::request(port, "PUT", &format!("{path}?restype=container"), &headers, &[])?;
    match made.status {
        201 | 409 => Ok(()),
        status => bail!("the server said {status}: {}", made.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_there() {
        let Some(server) = azurite() else { return };
        create_container(server.running.port, CONTAINER).unwrap();
    }
}
