//! One change to one backend, as a new configuration: pure, and held to the same rules as a file.

use std::sync::Arc;

use super::model::Config;
use super::suggest::{closest, one_of};
use super::validate;
use crate::control::handle::BackendChange;
use crate::report::{Error, ErrorKind};

/// The configuration after the change. Draining and readying change no configuration, they only
/// need the backend to exist.
pub fn apply_backend_change(
    config: &Config,
    service: &str,
    change: &BackendChange,
) -> Result<Config, Error> {
    let mut new = config.clone();
    match change {
        BackendChange::Add(backend) => {
            let s = find_service(config, service)?;
            Arc::make_mut(&mut new.services[s]).backends.push(Arc::new(backend.clone()));
        }
        BackendChange::Remove { name } => {
            let (s, b) = locate(config, service, name)?;
            if new.services[s].backends.len() == 1 {
                return Err(Error {
                    kind: ErrorKind::Refused,
                    message: format!("{service}/{name} is the last backend of {service}"),
                    hint: Some(
                        "add another first, or remove the service from the file and `lb apply` it"
                            .into(),
                    ),
                });
            }
            Arc::make_mut(&mut new.services[s]).backends.remove(b);
        }
        BackendChange::Weight { name, weight } => {
            let (s, b) = locate(config, service, name)?;
            let service = Arc::make_mut(&mut new.services[s]);
            Arc::make_mut(&mut service.backends[b]).weight = *weight;
        }
        BackendChange::Drain { name, .. } | BackendChange::Ready { name } => {
            locate(config, service, name)?;
        }
    }
    validate(&new)?;
    Ok(new)
}

/// Where a backend is: its service's position and its own.
pub fn locate(config: &Config, service: &str, backend: &str) -> Result<(usize, usize), Error> {
    let s = find_service(config, service)?;
    let backends = &config.services[s].backends;
    match backends.iter().position(|candidate| candidate.name == backend) {
        Some(b) => Ok((s, b)),
        None => {
            let names = || backends.iter().map(|backend| backend.name.as_str());
            let near = closest(backend, names()).map(|near| format!("{service}/{near}"));
            let what = format!("{service} has no backend '{}'", backend.escape_debug());
            Err(not_found(what, near, &format!("its backends: {}", one_of(names()))))
        }
    }
}

/// Where a service is.
pub fn find_service(config: &Config, name: &str) -> Result<usize, Error> {
    let names = || config.services.iter().map(|service| service.name.as_str());
    names().position(|candidate| candidate == name).ok_or_else(|| {
        let near = closest(name, names()).map(ToOwned::to_owned);
        let what = format!("there is no service '{}'", name.escape_debug());
        not_found(what, near, &format!("services: {}", one_of(names())))
    })
}

fn not_found(message: String, near: Option<String>, known: &str) -> Error {
    let hint = match near {
        Some(near) => format!("did you mean {near}? {known}"),
        None => known.to_owned(),
    };
    Error { kind: ErrorKind::NotFound, message, hint: Some(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Address, Backend, Quic, ServerId};
    use crate::config::{diff, parse};

    fn config() -> Config {
        let source = r#"
[node]
interfaces = ["eth0"]
[[service]]
name = "web"
mode = "nat"
listen = ["192.0.2.10:80/tcp"]
backends = [{ name = "web-01", address = "10.0.0.11" }, { name = "web-02", address = "10.0.0.12" }]
[[service]]
name = "api"
mode = "dsr"
listen = ["192.0.2.10:81/tcp"]
backends = [{ name = "api-01", address = "10.0.0.21" }]
"#;
        parse(source, "lb.toml").unwrap()
    }

    fn add(name: &str, address: &str, port: Option<u16>, weight: u16) -> BackendChange {
        let address: Address = address.parse().unwrap();
        BackendChange::Add(Backend { port, weight, ..Backend::new(name, address) })
    }

    /// `web` on QUIC, whose first two backends have the ids 01 and 02.
    fn quic() -> Config {
        let mut config = config();
        let service = Arc::make_mut(&mut config.services[0]);
        service.listen = vec!["192.0.2.10:443/udp".parse().unwrap()];
        service.quic = Some(Quic { config_id: 0, server_id_length: 1 });
        for (backend, id) in service.backends.iter_mut().zip([1, 2]) {
            Arc::make_mut(backend).server_id = ServerId::new(&[id]);
        }
        assert_eq!(validate(&config), Ok(()));
        config
    }

    #[test]
    fn a_new_backend_of_a_quic_service_needs_an_id() {
        let with = |id: Option<&[u8]>| {
            let backend = Backend::new("web-03", Address::Ip([10, 0, 0, 13].into()));
            BackendChange::Add(Backend { server_id: id.and_then(ServerId::new), ..backend })
        };
        let new = apply_backend_change(&quic(), "web", &with(Some(&[3]))).unwrap();
        assert_eq!(diff(&quic(), &new), ["web/web-03: added at 10.0.0.13, weight 1, server id 03"]);
        for (config, id, kind, message) in [
            (quic(), None, ErrorKind::Invalid, "web/web-03: the backend has no server id"),
            (quic(), Some(&[2][..]), ErrorKind::Conflict, "have the server id 02"),
            (quic(), Some(&[1, 2][..]), ErrorKind::Invalid, "has 2 bytes"),
            (config(), Some(&[3][..]), ErrorKind::Invalid, "has no `quic`"),
        ] {
            let error = apply_backend_change(&config, "web", &with(id)).unwrap_err();
            assert_eq!(error.kind, kind, "{error:?}");
            assert!(error.message.contains(message), "{error:?}");
        }
    }

    fn remove(name: &str) -> BackendChange {
        BackendChange::Remove { name: name.into() }
    }

    fn weight(name: &str, weight: u16) -> BackendChange {
        BackendChange::Weight { name: name.into(), weight }
    }

    #[test]
    fn changes_what_was_asked_and_nothing_else() {
        for (service, change, expect) in [
            (
                "web",
                add("web-03", "10.0.0.13", Some(8080), 5),
                "web/web-03: added at 10.0.0.13, weight 5",
            ),
            (
                "web",
                add("web-03", "web-03.example", None, 1),
                "web/web-03: added at web-03.example, weight 1",
            ),
            ("web", remove("web-01"), "web/web-01: removed"),
            ("web", weight("web-02", 2), "web/web-02: weight 1 → 2"),
        ] {
            let new = apply_backend_change(&config(), service, &change).unwrap();
            assert_eq!(diff(&config(), &new), [expect]);
        }
        let ready = BackendChange::Ready { name: "web-01".into() };
        assert_eq!(apply_backend_change(&config(), "web", &ready), Ok(config()));
    }

    #[test]
    fn refuses_with_what_to_do() {
        use ErrorKind::{Conflict, Invalid, NotFound, Refused};
        let name = "web-1".into();
        let drain = BackendChange::Drain { name, reason: None, lasts: None, maintenance: false };
        for (service, change, kind, message, hint) in [
            (
                "wbe",
                weight("web-01", 2),
                NotFound,
                "no service 'wbe'",
                "did you mean web? services: web or api",
            ),
            ("web", drain, NotFound, "no backend 'web-1'", "did you mean web/web-01?"),
            ("web", remove("nope"), NotFound, "no backend 'nope'", "web-01 or web-02"),
            ("api", remove("api-01"), Refused, "last backend of api", "add another first"),
            (
                "web",
                weight("web-01", 0),
                Invalid,
                "web/web-01, weight: the weight must be",
                "lb backend drain",
            ),
            ("web", weight("web-01", 1001), Invalid, "1 to 1000", "relative"),
            (
                "web",
                add("web-01", "10.0.0.9", None, 1),
                Conflict,
                "two backends named",
                "another name",
            ),
            ("web", add("web-9", "10.0.0.11", Some(80), 1), Conflict, "twice", "weight"),
            ("web", add("web-9", "10.0.0.21", None, 1), Conflict, "in mode", "same mode"),
            ("web", add("web-9", "192.0.2.10", None, 1), Conflict, "is a VIP", "own address"),
            ("web", add("web-9", "fd00::1", None, 1), Invalid, "IPv6 backend", "two services"),
            ("web", add("Web 9", "10.0.0.9", None, 1), Invalid, "'Web 9' can't be a name", "a-z"),
            ("web", add("web-9", "127.0.0.1", None, 1), Invalid, "loopback", "unicast"),
            ("web", add("web-9", "10.0.0.9", Some(0), 1), Invalid, "0 is not a port", "65535"),
            (
                "api",
                add("api-9", "10.0.0.9", Some(80), 1),
                Invalid,
                "can't change the port",
                "remove",
            ),
        ] {
            let error = apply_backend_change(&config(), service, &change).unwrap_err();
            let said = error.hint.clone().unwrap_or_default();
            assert_eq!(error.kind, kind, "{error:?}");
            assert!(error.message.contains(message) && said.contains(hint), "{error:?}");
        }
    }
}
