//! TLS: whom the client trusts, and who it says it is.

use std::path::Path;
use std::process::Command;

use sancerre_image::Disk;
use sancerre_image::nbd::{NbdDisk, NbdOptions, NbdUri, TlsFiles};

use crate::support::{Server, have, run};

fn certify(folder: &Path) {
    let authority =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority";
    for name in ["ca", "other"] {
        run(&format!("openssl {authority} -keyout {name}-key.pem -out {name}-cert.pem"), folder);
    }
    std::fs::write(folder.join("server.ext"), "subjectAltName=IP:127.0.0.1,DNS:disks.example").unwrap();
    std::fs::write(folder.join("client.ext"), "subjectAltName=DNS:backup.example").unwrap();
    for name in ["server", "client"] {
        let request = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        run(&format!("openssl {request} -subj /CN={name} -keyout {name}-key.pem -out {name}.csr"), folder);
        let sign = "x509 -req -days 2 -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial";
        run(&format!("openssl {sign} -in {name}.csr -extfile {name}.ext -out {name}-cert.pem"), folder);
    }
}

/// A server on a port of 127.0.0.1.
fn serve(folder: &Path, arguments: &[&str]) -> (Server, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let pid = folder.join("pid");
    let _ = std::fs::remove_file(&pid);
    let mut command = Command::new("nbdkit");
    command.args(["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "-P"]).arg(&pid).args(arguments);
    command.arg(format!("--tls-certificates={}", folder.display())).args(["pattern", "size=1000000"]);
    (Server::start(command, pid), format!("nbds://127.0.0.1:{port}"))
}

#[test]
fn a_server_is_believed_by_its_certificate_only_and_sees_ours() {
    if !have(&["nbdkit"]) || Command::new("openssl").arg("version").output().is_err() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certify(folder);
    let identity = Some((folder.join("client-cert.pem"), folder.join("client-key.pem")));
    let files =
        |authority: &str| TlsFiles { authorities: Some(folder.join(authority)), ..TlsFiles::default() };
    let open = |uri: &str, tls: TlsFiles| {
        NbdDisk::open(&NbdUri::parse(uri).unwrap(), &NbdOptions { tls, ..NbdOptions::default() })
    };
    let failed = |uri: &str, tls: TlsFiles| open(uri, tls).unwrap_err().to_string();

    let (server, uri) = serve(folder, &["--tls=require"]);
    let disk = open(&uri, files("ca-cert.pem")).unwrap();
    let mut bytes = vec![0; 1_000_000];
    disk.read_at(0, &mut bytes).unwrap();
    assert!(bytes.chunks_exact(8).enumerate().all(|(at, eight)| eight == (at as u64 * 8).to_be_bytes()));
    open(&uri, TlsFiles { server_name: Some("disks.example".into()), ..files("ca-cert.pem") }).unwrap();
    for (tls, wanted) in [
        (files("other-cert.pem"), "TLS failed"),
        (TlsFiles::default(), "TLS failed"),
        (TlsFiles { server_name: Some("else.example".into()), ..files("ca-cert.pem") }, "TLS failed"),
        (files("missing.pem"), "missing.pem"),
        (files("ca-key.pem"), "no certificate"),
    ] {
        let message = failed(&uri, tls);
        assert!(message.contains(wanted) && message.contains(&uri), "{message}");
    }
    let message = failed(&uri.replace("nbds", "nbd"), TlsFiles::default());
    assert!(message.contains("say nbds:// instead"), "{message}");
    drop((disk, server));

    let (server, uri) = serve(folder, &["--tls=require", "--tls-verify-peer"]);
    open(&uri, TlsFiles { identity, ..files("ca-cert.pem") }).unwrap();
    failed(&uri, files("ca-cert.pem"));
    drop(server);

    let (_server, uri) = serve(folder, &["--tls=off"]);
    let message = failed(&uri, files("ca-cert.pem"));
    assert!(message.contains("the server has no TLS"), "{message}");
}
