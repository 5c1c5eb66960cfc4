//! Probes of every kind that the lab's servers answer or refuse, as the daemon reports them.

use std::time::Duration;

use lb_tests::{Balancer, Family, Lab, Mode, ServiceConfig, Topology};

const PATIENCE: Duration = Duration::from_secs(20);
const TIMES: &str = "interval = \"200ms\", fast_interval = \"50ms\", timeout = \"2s\"";

/// A name, the probe, and for each of two backends the layer and a part of the text; empty is up.
type Row = (&'static str, &'static str, [(&'static str, &'static str); 2]);

const UP: (&str, &str) = ("", "");

const ROWS: [Row; 8] = [
    ("icmp", "icmp = true", [UP, UP]),
    (
        "body",
        "http = \"/\", body = \"web-01\", status = \"200-299,301\"",
        [UP, ("body", "\"web-01\" is not in \"web-02")],
    ),
    (
        "exec",
        "exec = ['/bin/sh', '-c', 'echo $HOLDFAST_SERVICE/$HOLDFAST_BACKEND; test $HOLDFAST_BACKEND = web-01']",
        [UP, ("exec", "/bin/sh exited with status 1: exec/web-02")],
    ),
    ("head", "http = \"/\", method = \"HEAD\"", [UP, UP]),
    ("closed", "tcp = true, port = 9", [("refused", "connection refused"); 2]),
    ("dns", "dns = \"example.org\", port = 53", [("refused", "port unreachable"); 2]),
    ("tls", "https = \"/\", port = 80", [("tls", "doesn't answer in TLS"); 2]),
    ("grpc", "grpc = \"\", port = 80", [("protocol", "no gRPC answer"); 2]),
];

#[test]
fn every_kind_is_reported_by_its_layer() {
    for family in Family::ALL {
        let lab = Lab::build(Topology::new(Mode::Nat, 2)).unwrap();
        let service = |(n, (name, probe, _)): (usize, &Row)| ServiceConfig {
            name: (*name).to_owned(),
            listen: vec![format!(
                "{}/tcp",
                std::net::SocketAddr::new(family.vip(), 1000 + n as u16)
            )],
            health: match probe.contains("port =") || *name == "icmp" || *name == "exec" {
                true => format!("{probe}, {TIMES}"),
                false => format!("{probe}, port = 80, {TIMES}"),
            },
            ..ServiceConfig::quick(Mode::Nat, family)
        };
        let services: Vec<_> = ROWS.iter().enumerate().map(service).collect();
        let config = lab.config(&services);
        let balancer = Balancer::start(&lab, &Balancer::binary().unwrap(), &config).unwrap();
        for (name, _, backends) in ROWS {
            for (backend, (layer, part)) in ["web-01", "web-02"].iter().zip(backends) {
                let state = if layer.is_empty() { "up" } else { "down" };
                balancer.wait_for_health(name, backend, state, PATIENCE).unwrap();
                let health = balancer.backend(name, backend).unwrap()["health"].clone();
                if layer.is_empty() {
                    assert!(health["outage"].is_null(), "{name}/{backend}: {health}");
                    continue;
                }
                for end in ["first", "last"] {
                    let failed = &health["outage"][end];
                    assert_eq!(failed["kind"], layer, "{name}/{backend}: {health}");
                    assert!(failed["text"].as_str().unwrap().contains(part), "{failed}");
                    assert!(failed["latency_ms"].as_f64().is_some(), "{failed}");
                }
                let age = |end: &str| health["outage"][end]["ago_ms"].as_u64().unwrap();
                assert!(age("first") > age("last"), "{health}");
            }
        }
        balancer.stop().unwrap();
    }
}
