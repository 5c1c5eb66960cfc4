//! The command that asks a backend what its probe asks, or the DNS where it is, for a person to paste
//! into a shell.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::config::model::{
    Backend, Dns, Exec, Family, Grpc, HostName, Http, Location, Method, Payload, Probe, Service,
    Tls, Udp,
};

pub(super) fn probe_by_hand(service: &Service, backend: &Backend) -> Option<String> {
    if let Location::Named(host, family) = service.location(backend) {
        return Some(look_up(host, family));
    }
    let target = service.probed_at(backend);
    let (ip, port) = (target.ip(), target.port());
    Some(match &service.health.probe {
        Probe::None => return None,
        Probe::Tcp => format!("nc -vz -w 5 {ip} {port}"),
        Probe::Http(http) => curl(target, http),
        Probe::Grpc(grpc) => grpc_health_probe(target, grpc),
        Probe::Dns(Dns { name, record, .. }) => {
            format!("dig @{ip} -p {port} {} {record}", shell_word(name))
        }
        Probe::Udp(Udp { payload, .. }) => {
            format!("printf {} | nc -u -w 1 {ip} {port}", shell_word(&printf_format(payload)))
        }
        Probe::Icmp => format!("ping -c 3 {ip}"),
        Probe::Exec(Exec { program, arguments }) => {
            let words = std::iter::once(program).chain(arguments).map(|word| shell_word(word));
            format!(
                "HOLDFAST_SERVICE={} HOLDFAST_BACKEND={} HOLDFAST_ADDRESS={ip} HOLDFAST_PORT={port} {}",
                service.name,
                backend.name,
                words.collect::<Vec<_>>().join(" ")
            )
        }
    })
}

/// The command that asks for a name's addresses.
pub(super) fn look_up(host: &HostName, family: Family) -> String {
    let database = match family {
        Family::Ipv4 => "ahostsv4",
        Family::Ipv6 => "ahostsv6",
    };
    format!("getent {database} {host}")
}

fn curl(target: SocketAddr, http: &Http) -> String {
    let mut command = "curl -v -m 5".to_owned();
    // Writing to a String doesn't fail.
    match http.method {
        Method::Get => {}
        Method::Head => command.push_str(" --head"),
        method => drop(write!(command, " -X {method}")),
    }
    if let Some(host) = &http.host {
        let _ = write!(command, " -H {}", shell_word(&format!("Host: {host}")));
    }
    let Some(tls) = &http.tls else {
        return format!("{command} {}", shell_word(&format!("http://{target}{}", http.path)));
    };
    command.push_str(&trust(tls, "-k", "--cacert"));
    let name = tls.sni.as_ref().map(|name| {
        let _ = write!(command, " --connect-to {}", shell_word(&format!("::{target}")));
        format!("{name}:{}", target.port())
    });
    let authority = name.unwrap_or_else(|| target.to_string());
    format!("{command} {}", shell_word(&format!("https://{authority}{}", http.path)))
}

fn grpc_health_probe(target: SocketAddr, grpc: &Grpc) -> String {
    let mut command = format!("grpc_health_probe -addr={}", shell_word(&target.to_string()));
    if !grpc.service.is_empty() {
        let _ = write!(command, " -service={}", shell_word(&grpc.service));
    }
    if let Some(tls) = &grpc.tls {
        command.push_str(" -tls");
        command.push_str(&trust(tls, "-tls-no-verify", "-tls-ca-cert"));
        if let Some(name) = &tls.sni {
            let _ = write!(command, " -tls-server-name {}", shell_word(name));
        }
    }
    command
}

fn trust(tls: &Tls, anyone: &str, ca: &str) -> String {
    match &tls.ca {
        _ if tls.insecure => format!(" {anyone}"),
        Some(file) => format!(" {ca} {}", shell_word(&file.path)),
        None => String::new(),
    }
}

/// As printf(1) of every shell takes it.
fn printf_format(payload: &Payload) -> String {
    let mut format = String::new();
    for byte in payload.bytes() {
        match byte {
            b'%' => format.push_str("%%"),
            b'\\' => format.push_str("\\\\"),
            0x20..=0x7e => format.push(char::from(*byte)),
            byte => drop(write!(format, "\\{byte:03o}")),
        }
    }
    format
}

/// As one word to a shell.
fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:._-%+,@".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn a_probe_can_be_asked_by_hand() {
        let http = "http = \"/healthz\"";
        for (listen, health, address, expect) in [
            ("192.0.2.10:80", http, "10.0.0.11", Some("curl -v -m 5 http://10.0.0.11:80/healthz")),
            (
                "[2001:db8::10]:80",
                http,
                "fd00::11",
                Some("curl -v -m 5 'http://[fd00::11]:80/healthz'"),
            ),
            (
                "192.0.2.10:80",
                "http = \"/a?b='&c\", host = \"example.org\", port = 81",
                "10.0.0.11",
                Some("curl -v -m 5 -H 'Host: example.org' 'http://10.0.0.11:81/a?b='\\''&c'"),
            ),
            (
                "192.0.2.10:443",
                "https = \"/x\", sni = \"a.example\", insecure = true, method = \"HEAD\"",
                "10.0.0.11",
                Some("curl -v -m 5 --head -k --connect-to ::10.0.0.11:443 https://a.example:443/x"),
            ),
            (
                "192.0.2.10:50051",
                "grpc = \"a.B\", tls = true, sni = \"c\"",
                "10.0.0.11",
                Some(
                    "grpc_health_probe -addr=10.0.0.11:50051 -service=a.B -tls -tls-server-name c",
                ),
            ),
            (
                "192.0.2.10:53",
                "dns = \"example.org\", type = \"MX\"",
                "10.0.0.11",
                Some("dig @10.0.0.11 -p 53 example.org MX"),
            ),
            (
                "192.0.2.10:53",
                r"udp = '50%\xff\\'",
                "10.0.0.11",
                Some(r"printf '50%%\377\\' | nc -u -w 1 10.0.0.11 53"),
            ),
            ("[2001:db8::10]:80", "icmp = true", "fd00::11", Some("ping -c 3 fd00::11")),
            (
                "192.0.2.10:80",
                "exec = [\"/bin/x\", \"a b\"]",
                "10.0.0.11",
                Some(
                    "HOLDFAST_SERVICE=web HOLDFAST_BACKEND=a HOLDFAST_ADDRESS=10.0.0.11 \
                     HOLDFAST_PORT=80 /bin/x 'a b'",
                ),
            ),
            ("192.0.2.10:443", "tcp = true", "10.0.0.11", Some("nc -vz -w 5 10.0.0.11 443")),
            ("[2001:db8::10]:443", "tcp = true", "fd00::11", Some("nc -vz -w 5 fd00::11 443")),
            ("192.0.2.10:80", "none = true", "10.0.0.11", None),
        ] {
            let source = format!(
                "[node]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nmode = \"nat\"\n\
                 listen = [\"{listen}/tcp\"]\nhealth = {{ {health} }}\n\
                 backends = [{{ name = \"a\", address = \"{address}\" }}]\n"
            );
            let service = parse(&source, "lb.toml").unwrap().services.remove(0);
            let asked = probe_by_hand(&service, &service.backends[0]);
            assert_eq!(asked.as_deref(), expect);
        }
    }
}
