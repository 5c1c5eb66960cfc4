//! nginx and certificates to show, in a namespace of their own.

use std::path::Path;
use std::process::{Child, Command};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use super::*;
use crate::net::testbed::Namespace;

/// A running nginx; ended when dropped.
pub(super) struct Nginx {
    pub(super) namespace: Namespace,
    directory: tempfile::TempDir,
    process: Child,
}

impl Nginx {
    /// Serves a site for each `(port, certificate, lines)`; returns when all of them listen.
    pub(super) fn start(sites: &[(u16, Option<&Shown>, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let mut servers = String::new();
        for (port, shown, lines) in sites {
            let ssl = if shown.is_some() { "ssl" } else { "" };
            servers +=
                &format!("server {{ listen 127.0.0.1:{port} {ssl}; listen [::1]:{port} {ssl};\n");
            if let Some(shown) = shown {
                std::fs::write(directory.path().join(format!("{port}.pem")), &shown.pem).unwrap();
                std::fs::write(directory.path().join(format!("{port}.key")), &shown.key).unwrap();
                servers += &format!(
                    "ssl_certificate {path}/{port}.pem; ssl_certificate_key {path}/{port}.key;\n"
                );
            }
            servers += &format!("{lines}\n}}\n");
        }
        let file = directory.path().join("nginx.conf");
        let text = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;\n\
             events {{}}\nhttp {{ access_log {path}/access.log; client_body_temp_path {path}/t;\n\
             proxy_temp_path {path}/t; fastcgi_temp_path {path}/t; uwsgi_temp_path {path}/t;\n\
             scgi_temp_path {path}/t; {servers} }}\n"
        );
        std::fs::write(&file, text).unwrap();
        let namespace = Namespace::new();
        let process = namespace.inside(|| {
            let log = directory.path().join("error.log");
            Command::new("/usr/sbin/nginx").arg("-c").arg(file).arg("-e").arg(log).spawn()
        });
        let nginx = Self { namespace, directory, process: process.expect("nginx") };
        for (port, ..) in sites {
            nginx.await_port(*port);
        }
        nginx
    }

    fn await_port(&self, port: u16) {
        let begun = std::time::Instant::now();
        let open =
            || self.namespace.inside(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        while !open() {
            let log = std::fs::read_to_string(self.directory.path().join("error.log"));
            assert!(begun.elapsed() < PATIENCE, "nginx doesn't listen on {port}: {log:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(super) fn ask(&self, address: &str, probe: &Probe) -> String {
        text(self.namespace.run(ask(address.parse().unwrap(), probe, PATIENCE)))
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("access.log")).unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An authority that signs certificates.
pub(super) struct Authority {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a server shows, and its key; both PEM.
pub(super) struct Shown {
    pem: String,
    key: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(parameters, key) }
    }

    /// Valid from the first year to the last, each on 1 January.
    pub(super) fn sign(&self, names: &[&str], first: i32, last: i32) -> Shown {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_before = date_time_ymd(first, 1, 1);
        parameters.not_after = date_time_ymd(last, 1, 1);
        let key = KeyPair::generate().unwrap();
        let pem = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        Shown { pem, key: key.serialize_pem() }
    }

    /// Writes its certificate where a configuration can name it.
    pub(super) fn write(&self, directory: &Path) -> String {
        let path = directory.join("ca.pem");
        std::fs::write(&path, &self.pem).unwrap();
        path.display().to_string()
    }
}

#[test]
fn a_real_server_is_asked() {
    let site = "location / { return 200 'status: warm'; } location /no { return 503; }\n\
                location /only-head { if ($request_method != HEAD) { return 405; } return 200; }";
    let nginx = Nginx::start(&[(80, None, site)]);
    for (address, shown) in [("127.0.0.1:80", "127.0.0.1"), ("[::1]:80", "[::1]")] {
        for (health, expect) in [
            ("http = \"/\", body = \"warm\"", "ok".to_owned()),
            ("http = \"/only-head\", method = \"HEAD\"", "ok".to_owned()),
            (
                "http = \"/only-head\"",
                format!("status: HTTP 405 from http://{shown}:80/only-head (wanted 200-399)"),
            ),
            ("http = \"/no\", status = 503", "ok".to_owned()),
            (
                "http = \"/\", body = \"cold\"",
                format!("body: \"cold\" is not in \"status: warm\" from http://{shown}:80/"),
            ),
        ] {
            assert_eq!(nginx.ask(address, &read(health)), expect, "{health}");
        }
    }
    assert!(nginx.log().contains("HEAD /only-head HTTP/1.1\" 200"), "{}", nginx.log());
}
