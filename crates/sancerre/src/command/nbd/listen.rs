//! Where clients come: a socket of this machine, or a port to which only those come who have a certificate.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sancerre_serve::Server;
use tokio::net::TcpListener;

use super::Nbd;
use crate::exit::Failure;
use crate::plain;
use crate::socket::{self, Socket};

/// How clients of other machines come.
#[derive(Debug, Args)]
#[command(next_help_heading = "For clients of other machines")]
pub(super) struct TlsOptions {
    /// Listen on this address and port, with TLS alone, for clients that --tls-clients vouches for
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "socket", requires = "tls_certificate")]
    listen: Option<SocketAddr>,
    /// The certificate of this server, and those between it and its root (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_clients")]
    tls_key: Option<PathBuf>,
    /// The authorities whose certificates clients must show (PEM): whoever has one reads these disks
    #[arg(long, value_name = "FILE", requires = "listen")]
    tls_clients: Option<PathBuf>,
}

/// What is listened on.
pub(super) enum Listening {
    Unix { socket: Socket, path: PathBuf },
    Tls { listener: TcpListener, config: Arc<ServerConfig>, address: SocketAddr },
}

/// Fails where nothing can be listened on, before the repository is opened.
pub(super) fn refuse(options: &Nbd) -> Result<(), Failure> {
    match &options.socket {
        Some(path) => socket::refuse(path),
        None => tls(&options.tls).map(drop),
    }
}

impl Listening {
    /// Listens.
    pub(super) async fn open(options: &Nbd) -> Result<Self, Failure> {
        if let Some(path) = &options.socket {
            return Ok(Self::Unix { socket: Socket::bind(path)?, path: path.clone() });
        }
        let (address, config) = tls(&options.tls)?;
        let failed = |error: io::Error| {
            Failure::failed(format!("cannot listen on {address}: {error}; name another address"))
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self::Tls { listener, config, address })
    }

    /// Serves whoever comes.
    pub(super) async fn serve(&self, server: &Arc<Server>) -> io::Result<Infallible> {
        match self {
            Self::Unix { socket, .. } => server.serve(&socket.listener).await,
            Self::Tls { listener, config, .. } => server.serve_tls(listener, config).await,
        }
    }

    /// The address of an export.
    pub(super) fn uri(&self, export: &str) -> String {
        match self {
            Self::Unix { path, .. } => socket::uri(export, path),
            Self::Tls { address, .. } => socket::tls_uri(export, &address.to_string()),
        }
    }

    /// In words.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Unix { path, .. } => plain::path(path),
            Self::Tls { address, .. } => address.to_string(),
        }
    }
}

/// The address, and who is told what there.
fn tls(options: &TlsOptions) -> Result<(SocketAddr, Arc<ServerConfig>), Failure> {
    let TlsOptions { listen, tls_certificate, tls_key, tls_clients } = options;
    let (Some(address), Some(certificate), Some(key), Some(clients)) =
        (listen, tls_certificate, tls_key, tls_clients)
    else {
        return Err(Failure::usage("--listen needs --tls-certificate, --tls-key and --tls-clients"));
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(clients)? {
        roots.add(root).map_err(|error| unfit(clients, &error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = verifier.build().map_err(|error| unfit(clients, &error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unfit(key, &error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::failed(format!("TLS cannot be used: {error}; report this")))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(certificate)?, secret)
        .map_err(|error| unfit(certificate, &error))?;
    Ok((*address, Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    let all = read.map_err(|error| unfit(path, &error))?;
    if all.is_empty() { Err(unfit(path, &"it has no certificate")) } else { Ok(all) }
}

fn unfit(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{} cannot be used: {why}; it must be readable, in PEM", plain::path(path)))
}
