//! TLS towards a backend: whom to trust, the handshake, and what its failures mean.

mod any;
mod explain;
mod system;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

pub(super) use explain::failure;

use super::{Failure, FailureKind, Limit};
use crate::config::model::{Probe, Tls};

/// What handshakes need beside the target, made once: every probe of a backend uses it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    config: Arc<ClientConfig>,
    /// `None` is the address.
    name: Option<ServerName<'static>>,
}

/// Configurations that probes of several backends share.
#[derive(Debug, Default)]
pub struct Configs(HashMap<Key, Weak<ClientConfig>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    trust: Trust,
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Trust {
    Anyone,
    Pem(Arc<str>),
    System,
}

impl Client {
    /// What `probe` needs; `None` where it uses no TLS, an error in words where it can't be had.
    pub(super) fn of(probe: &Probe, configs: &mut Configs) -> Option<Result<Self, String>> {
        let tls = probe.tls()?;
        let (protocol, host) = match probe {
            Probe::Http(http) => ("http/1.1", http.host.as_deref()),
            _ => ("h2", None),
        };
        Some(configs.of(tls, protocol).map(|config| Self { config, name: server_name(tls, host) }))
    }

    #[cfg(test)]
    pub(super) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }

    /// Shakes hands; the stream's TCP connection still is reset when dropped.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        target: SocketAddr,
        limit: Limit,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(target.ip()));
        let shaken = TlsConnector::from(self.config.clone()).connect(name, stream);
        let silence = || format!("connected, but no end of the TLS handshake with {target}");
        limit.wait(shaken, silence).await?.map_err(|error| failure(&error, target))
    }
}

impl Configs {
    fn of(&mut self, tls: &Tls, protocol: &'static str) -> Result<Arc<ClientConfig>, String> {
        let trust = match &tls.ca {
            _ if tls.insecure => Trust::Anyone,
            Some(ca) => Trust::Pem(ca.pem.clone()),
            None => Trust::System,
        };
        let key = Key { trust, protocol };
        if let Some(config) = self.0.get(&key).and_then(Weak::upgrade) {
            return Ok(config);
        }
        let config = Arc::new(config(tls, protocol)?);
        self.0.retain(|_, config| config.strong_count() > 0);
        self.0.insert(key, Arc::downgrade(&config));
        Ok(config)
    }
}

fn config(tls: &Tls, protocol: &'static str) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = match &tls.ca {
        _ if tls.insecure => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(any::Any(provider)))
            .with_no_client_auth(),
        Some(ca) => {
            let roots: RootCertStore = ca.authorities().map_err(|error| error.to_string())?;
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => builder.with_root_certificates(system::authorities()?).with_no_client_auth(),
    };
    // A resumed session shows no certificate: one that has expired since would pass.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Ok(config)
}

/// `sni`, else the host without its port, if it is a name.
fn server_name(tls: &Tls, host: Option<&str>) -> Option<ServerName<'static>> {
    let host = host.map(|host| match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    });
    let name = tls.sni.as_deref().or(host)?;
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(name.to_owned()).ok()
}

/// A failure of our own: the certificates to check against can't be had.
pub(super) fn unready(error: &str) -> Failure {
    Failure::new(FailureKind::Local, error)
}
