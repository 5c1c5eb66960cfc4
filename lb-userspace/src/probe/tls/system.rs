//! The authorities that the system trusts.

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::net::SYSTEM_AUTHORITIES;

/// All that can be read of the first file there is.
pub(super) fn authorities() -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    if let Some(pem) = SYSTEM_AUTHORITIES.iter().find_map(|file| std::fs::read(file).ok()) {
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    }
    match store.is_empty() {
        true => {
            let next = "name some with `ca`, or install ca-certificates and restart `lb run`";
            Err(format!("this system has no CA certificates: {next}"))
        }
        false => Ok(store),
    }
}
