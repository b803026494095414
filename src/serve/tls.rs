//! HTTPS: a certificate and its key.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::options::TlsFiles;
use crate::{Error, Result};

/// The configuration of a server with these files.
///
/// # Errors
/// Files that cannot be read, hold no certificate or key, or do not belong together.
pub(super) fn configuration(files: &TlsFiles) -> Result<Arc<ServerConfig>> {
    let TlsFiles { certificate, key } = files;
    let read = |path| std::fs::read(path).map_err(Error::io(path));
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|e| Error::file(certificate, format!("no certificate in PEM: {e}")))?;
    if chain.is_empty() {
        return Err(Error::file(certificate, "holds no certificate in PEM"));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|e| Error::file(key, format!("no private key in PEM: {e}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut configuration = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::other(format!("TLS: {e}")))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|e| Error::file(certificate, format!("with the key {}: {e}", key.display())))?;
    configuration.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(configuration))
}
