//! TLS to a webhook: its certificate is verified, by the system's authorities or by given ones.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::net::SYSTEM_AUTHORITIES;

/// Talks TLS on a connection to `host`.
pub(super) async fn connect(
    stream: TcpStream,
    host: &str,
    authorities: Option<&str>,
) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("'{host}' can't be a name in a certificate"))?;
    let connector = TlsConnector::from(Arc::new(config(authorities)?));
    connector.connect(name, stream).await.map_err(|error| format!("TLS with {host}: {error}"))
}

fn config(authorities: Option<&str>) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    Ok(config.with_root_certificates(roots(authorities)?).with_no_client_auth())
}

fn roots(authorities: Option<&str>) -> Result<RootCertStore, String> {
    let path = match authorities {
        Some(path) => path,
        None => *SYSTEM_AUTHORITIES.iter().find(|path| Path::new(path).exists()).ok_or_else(|| {
            "this host has no list of certificate authorities: install ca-certificates, or name \
             one with `ca_file`"
                .to_owned()
        })?,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| format!("can't read certificates from {path}: {error}"))?;
    let mut roots = RootCertStore::empty();
    // What is not understood verifies nothing, and takes nothing from the rest.
    let (added, _) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    match added {
        0 => Err(format!("{path} has no certificate")),
        _ => Ok(roots),
    }
}
