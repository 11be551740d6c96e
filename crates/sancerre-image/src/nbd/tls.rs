//! TLS by rustls, with the crypto library that the object stores use.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_platform_verifier::Verifier;

use super::error::Fault;
use super::socket::Socket;
use super::uri::Address;

/// A connection after the handshake.
pub(super) type Encrypted = StreamOwned<ClientConnection, Socket>;

/// Whom to trust, and who we are.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// PEM certificates of authorities; without, those that the system trusts.
    pub authorities: Option<PathBuf>,
    /// PEM files of our certificate (with those between it and an authority) and of its key, for servers that ask.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate, where it is not the host of the address.
    pub server_name: Option<String>,
}

/// What all connections of a disk share.
#[derive(Debug, Clone)]
pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// Reads the files and settles the name.
pub(super) fn client(address: &Address, files: &TlsFiles) -> Result<TlsClient, Fault> {
    let name = match (&files.server_name, address) {
        (Some(name), _) => name.clone(),
        (None, Address::Tcp { host, .. }) => host.clone(),
        (None, Address::Unix(_)) => {
            return Err(Fault::Tls(
                "a unix socket has no name: say which one the certificate has".to_owned(),
            ));
        }
    };
    let name = ServerName::try_from(name.clone())
        .map_err(|_| Fault::Tls(format!("{} is no name that a certificate can have", name.escape_debug())))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = verifier(files.authorities.as_deref(), &provider)?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // The method is called so because the verifier is another than the built-in one; both check everything.
    let builder = builder.map_err(fault)?.dangerous().with_custom_certificate_verifier(verifier);
    let config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(fault)?
        }
    };
    Ok(TlsClient { config: Arc::new(config), name })
}

fn verifier(
    authorities: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Fault> {
    let Some(path) = authorities else {
        return Ok(Arc::new(Verifier::new(Arc::clone(provider)).map_err(fault)?));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unreadable(path, error))?;
    }
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let verifier: Arc<dyn ServerCertVerifier> = builder.build().map_err(|error| unreadable(path, error))?;
    Ok(verifier)
}

/// All certificates of a file; none is an error.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| unreadable(path, error))?;
    if found.is_empty() { Err(unreadable(path, "there is no certificate in it")) } else { Ok(found) }
}

fn unreadable(path: &Path, error: impl Display) -> Fault {
    Fault::Tls(format!("cannot use {}: {error}", path.display()))
}

fn fault(error: impl Display) -> Fault {
    Fault::Tls(error.to_string())
}

impl TlsClient {
    pub(super) fn handshake(&self, socket: Socket) -> Result<Encrypted, Fault> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(fault)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(fault)?;
        }
        Ok(stream)
    }
}
