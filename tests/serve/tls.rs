//! HTTPS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::server::Server;
use crate::common::{golden, root};

/// A file of a certificate for `localhost` that these tests alone trust.
fn file(name: &str) -> String {
    root().join("tests/fixtures/tls").join(name).to_str().unwrap().to_owned()
}

#[test]
fn it_speaks_tls_with_its_certificate() {
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let mut server = Server::begin(&golden("llama-tiny"), &["--tls-cert", &certificate, "--tls-key", &key]);
    let address = server.address.strip_prefix("https://").unwrap().to_owned();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(&address).unwrap());
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("<title>colar-engine</title>"), "{said}");
    // Who speaks HTTP to it is not answered by HTTP, and disturbs nobody.
    let mut plain = TcpStream::connect(&address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP/"));
    assert!(server.runs());
}

#[test]
fn files_that_are_no_good_are_named() {
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    for (certificate, key, says) in [
        (empty, key.as_str(), "empty.pem: holds no certificate"),
        (certificate.as_str(), empty, "empty.pem: no private key in PEM"),
        (certificate.as_str(), "/nowhere/key.pem", "/nowhere/key.pem: No such file"),
    ] {
        let model = golden("llama-tiny");
        let args = [
            "serve",
            "--model",
            model.to_str().unwrap(),
            "--port",
            "0",
            "--tls-cert",
            certificate,
            "--tls-key",
            key,
        ];
        let (code, _, said) = crate::common::cli::run(&args);
        assert_eq!(code, 1, "{said}");
        assert!(said.starts_with("error: ") && said.contains(says) && said.lines().count() == 1, "{said}");
    }
}
