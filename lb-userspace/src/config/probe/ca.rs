//! Certificates of authorities, taken from a file when the configuration is read.
//!
//! The configuration carries them, not just the file's name: what is in force is the same for
//! whoever reads it, and another content of the file is a change like any other.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::config::malformed::Malformed;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ca {
    /// Absolute path of the file.
    pub path: String,
    /// What the file said when it was read.
    pub pem: Arc<str>,
}

impl Ca {
    /// More than all the authorities that systems come with.
    const LARGEST: usize = 1 << 20;

    /// Reads the file; it may not have certificates in it yet.
    pub fn read(path: &str) -> Result<Self, Malformed> {
        if !Path::new(path).is_absolute() {
            let message = format!("'{path}' is not an absolute path");
            return Err(Malformed::new(message, "write all of it, such as \"/etc/ssl/my-ca.pem\""));
        }
        let unreadable = |error: &dyn std::fmt::Display| {
            let hint = "name a PEM file with the certificates of the CA that signs the servers'";
            Malformed::new(format!("{path} cannot be read: {error}"), hint)
        };
        // A pipe would keep us waiting for a writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(|error| unreadable(&error))?;
        if !file.metadata().is_ok_and(|data| data.is_file()) {
            return Err(unreadable(&"it is not a file"));
        }
        let mut pem = String::new();
        let limit = Self::LARGEST as u64 + 1;
        file.take(limit).read_to_string(&mut pem).map_err(|error| unreadable(&error))?;
        if pem.len() > Self::LARGEST {
            return Err(unreadable(&"it has more than 1 MiB"));
        }
        Ok(Self { path: path.to_owned(), pem: pem.into() })
    }

    /// The authorities in it: at least one.
    pub fn authorities(&self) -> Result<RootCertStore, Malformed> {
        let hint = "it should hold certificates in PEM, each between -----BEGIN CERTIFICATE----- and \
                    -----END CERTIFICATE-----";
        let bad = |what: String| Malformed::new(format!("{}: {what}", self.path), hint);
        let mut store = RootCertStore::empty();
        for (i, certificate) in CertificateDer::pem_slice_iter(self.pem.as_bytes()).enumerate() {
            let certificate = certificate.map_err(|error| bad(format!("not PEM: {error}")))?;
            store
                .add(certificate)
                .map_err(|_| bad(format!("certificate {} in it can't be read", i + 1)))?;
        }
        match store.is_empty() {
            true => Err(bad("there is no certificate in it".into())),
            false => Ok(store),
        }
    }
}
