//! Properties: no text panics the parser, every error lies inside its source, and every valid
//! configuration survives being written and read.

mod probes;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::model::*;
use super::{diff, parse, parse_bytes, pieces, read_whole, to_toml, validate, warnings};
use crate::alert::{Kind, Severity, Template};

const SAMPLE: &str = r#"[node]
interfaces = ["eth0"]
nat_ports = "1024-32767"
nat_addresses = ["10.0.0.2"]
tunnel_sources = ["172.16.0.0/16"]
limits = { frontends = 16, table_bytes = "1MiB" }
[[alert]]
webhook = "https://hooks.example.org/lb?a=b"
headers_file = "/etc/holdfast/headers"
events = ["backend-down", "panic"]
template = '{"text": "{{message}}"}'
[[alert]]
exec = ["/usr/local/bin/page", "--now"]
min_severity = "critical"
timeout = "10s"
[[service]]
name = "web"
listen = ["192.0.2.10:80/tcp", "192.0.2.10:443/tcp"]
mode = "nat"
idle_timeout = "5m"
health = { https = "/healthz", sni = "example.org", status = "200-299,301", insecure = true, body_regex = "^ok", jitter = "20%", interval = "1s", rise = 2 }
backends = [
  { name = "web-01", address = "10.0.0.11", port = 8080, weight = 2 }, # é
  { name = "web-02", address = "10.0.0.12" },
]
[[service]]
name = "dns"
listen = ["[2001:db8::53]:53/udp", "192.0.2.0/24:8000-8999/tcp", "[2001:db8::/64]:*/udp"]
mode = "gue"
health = { dns = "example.org", type = "SOA", rcode = "NOERROR", source = "fd00::1", port = 53 }
hash = "source"
quic = { config_id = 0, server_id_length = 4 }
mss = 1400
allow = ["10.0.0.0/8", "fd00::/8"]
rate_limit = { per_second = 100, burst = 200 }
capacity_warning = "75%"
backends = [{ name = "dns-01", address = "fd00::53", server_id = "0a0b0c0d" }]
"#;

/// Scraps that make a mutated file go wrong in interesting places.
const SCRAPS: [&str; 24] = [
    "\"",
    "'''",
    "[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    "\n",
    "\r",
    "\0",
    "\u{1b}[31m",
    "é",
    "\u{202e}",
    "0",
    "-1",
    "99999999999999999999",
    "true",
    "::",
    "\u{feff}",
    "[[service]]\n",
    "backends = [{}]\n",
    "1979-05-27T07:32:00Z",
    "nan",
];

fn holds(source: &str) {
    if let Some(config) = pieces::read(source) {
        // What is checked afterwards is the same, too.
        let whole = read_whole(source, "lb.toml").map_err(|error| error.to_string());
        match validate(&config) {
            Ok(()) => assert_eq!(whole, Ok(config), "{source}"),
            Err(_) => assert!(whole.is_err(), "{source}"),
        }
    }
    let Err(error) = parse(source, "lb.toml") else { return };
    let lines: Vec<&str> = source.split('\n').collect();
    for item in error.items() {
        let line = lines.get(item.line - 1);
        let line = line.unwrap_or_else(|| panic!("line {} of {}", item.line, lines.len()));
        assert!((1..=line.chars().count() + 1).contains(&item.column), "{item:?} in {line:?}");
        assert!(!item.message.is_empty() && !item.hint.is_empty());
    }
    assert!(!error.items().is_empty());
    assert!(!error.render(false).is_empty() && !error.render(true).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_read_or_refused(source in "\\PC*") {
        holds(&source);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = parse_bytes(&bytes, "lb.toml") {
            prop_assert!(!error.render(false).is_empty());
        }
    }

    #[test]
    fn a_mutated_file_is_read_or_refused(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..12usize, select(&SCRAPS[..])), 1..6)
    ) {
        let mut source = SAMPLE.to_owned();
        for (at, length, scrap) in cuts {
            let start = source.floor_char_boundary(at.index(source.len() + 1));
            let end = source.ceil_char_boundary((start + length).min(source.len()));
            source.replace_range(start..end, scrap);
        }
        holds(&source);
    }

    #[test]
    fn a_valid_configuration_is_written_and_read_back(config in config()) {
        prop_assert_eq!(validate(&config), Ok(()));
        let text = to_toml(&config);
        match parse(&text, "lb.toml") {
            Ok(read) => {
                prop_assert_eq!(&read, &config);
                prop_assert_eq!(to_toml(&read), text);
                prop_assert!(diff(&config, &read).is_empty());
                prop_assert_eq!(warnings(&config), warnings(&read));
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }

    #[test]
    fn a_valid_configuration_is_stored_and_read_back(config in config()) {
        let json = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
    }

    #[test]
    fn a_difference_is_told((old, new) in (config(), config())) {
        prop_assert_eq!(diff(&old, &new).is_empty(), old == new);
    }
}

#[test]
fn the_sample_is_valid() {
    assert!(parse(SAMPLE, "lb.toml").is_ok());
}

fn config() -> impl Strategy<Value = Config> {
    let alerts = prop::collection::vec(alert(), 0..4);
    (node(), alerts, prop::collection::vec(service(), 0..4)).prop_map(
        |(node, mut alerts, mut services)| {
            for (a, alert) in alerts.iter_mut().enumerate() {
                // Each is another target.
                match &mut alert.target {
                    Target::Webhook { url, .. } => *url = format!("{url}{a}").parse().unwrap(),
                    Target::Exec { command } => command.push(a.to_string()),
                }
            }
            for (s, service) in services.iter_mut().enumerate() {
                service.name = format!("{}{s}", service.name);
                fit_frontends(s as u16, service);
                fit_backends(s as u16, service);
                fit_features(service);
            }
            let services = services.into_iter().map(Arc::new).collect();
            Config { node, alerts, services }
        },
    )
}

/// Numbers make unique what must be; what was drawn chooses between one and many.
fn fit_frontends(s: u16, service: &mut Service) {
    let v4 = match service.mode {
        Mode::Nat => service.backends[0].address.is_ipv4(),
        _ => service.listen[0].vip.is_ipv4(),
    };
    for (l, frontend) in service.listen.iter_mut().enumerate() {
        let base = 1000 * (l as u16 + 1);
        frontend.ports = match frontend.ports {
            Ports { first: 0, .. } if l == 0 => Ports::ALL,
            ports if ports.is_single() => Ports::single(base),
            ports => Ports { first: base, last: base + ports.last % 900 + 1 },
        };
        let host = frontend.vip.is_host();
        frontend.vip = match v4 {
            true => Prefix::around([198, 18, s as u8, 1].into(), if host { 32 } else { 24 }),
            false => {
                let address = Ipv6Addr::new(0x2001, 0xdb8, s, 0, 0, 0, 0, 1);
                Prefix::around(address.into(), if host { 128 } else { 64 })
            }
        };
    }
    if service.listen[0].ports.is_all() && service.health.probe.has_port() {
        service.health.port.get_or_insert(80);
    }
}

fn fit_backends(s: u16, service: &mut Service) {
    let v4 = service.backends[0].address.is_ipv4();
    if !v4 && service.health.source.is_some() {
        service.health.source = Some(Ipv6Addr::new(0xfdfe, 0, 0, 0, 0, 0, 0, 1).into());
    }
    for (b, backend) in service.backends.iter_mut().enumerate() {
        let backend = Arc::make_mut(backend);
        backend.name = format!("{}{b}", backend.name);
        backend.address = match v4 {
            true => Ipv4Addr::new(10, 0, s as u8, b as u8).into(),
            false => Ipv6Addr::new(0xfd00, s, b as u16, 0, 0, 0, 0, 1).into(),
        };
        if b % 3 == 2 {
            backend.family = Some(Family::of(backend.address));
            backend.host = format!("h{b}.s{s}.example").parse().ok();
            backend.address = Ipv4Addr::UNSPECIFIED.into();
        }
        backend.port = backend.port.filter(|_| service.mode == Mode::Nat);
    }
}

fn fit_features(service: &mut Service) {
    if !service.speaks(Protocol::Udp) {
        service.udp = UdpPolicy::Packet;
        service.quic = None;
    }
    if !service.speaks(Protocol::Tcp) {
        service.mss = None;
    }
    for (b, backend) in service.backends.iter_mut().enumerate() {
        let backend = Arc::make_mut(backend);
        backend.backup &= b > 0;
        backend.server_id = service
            .quic
            .and_then(|quic| ServerId::new(&vec![b as u8; usize::from(quic.server_id_length)]));
    }
}

fn alert() -> impl Strategy<Value = Alert> {
    let url = select(vec!["http://10.0.0.9:8080/a", "https://h.example/a?b=", "http://[fd00::1]/"]);
    let file = || prop::option::of("/[!-~]{1,20}");
    let webhook = (url, file(), file()).prop_map(|(url, headers_file, ca_file)| Target::Webhook {
        ca_file: ca_file.filter(|_| url.starts_with("https")),
        url: url.parse().unwrap(),
        headers_file,
    });
    let exec = prop::collection::vec("[^\0]{0,10}", 0..3)
        .prop_map(|rest| Target::Exec { command: [vec!["/bin/true".into()], rest].concat() });
    let ms = |range: std::ops::RangeInclusive<u64>| range.prop_map(Duration::from_millis);
    let kinds = prop::sample::subsequence(Kind::ALL.to_vec(), 0..4);
    let template = select(vec![None, Some("{\"a\": \"{{message}} \\n {{ node }}\"}")]);
    let severity = select(Severity::ALL.map(|(_, severity)| severity).to_vec());
    let times = (ms(10..=20_000), ms(60_000..=604_800_000), ms(0..=60_000));
    (prop_oneof![webhook, exec], kinds, severity, times, 0..=10u32, template).prop_map(
        |(target, events, min_severity, (timeout, repeat, batch), retries, template)| Alert {
            target,
            events,
            min_severity,
            timeout,
            retries,
            repeat,
            batch,
            template: template.map(|text| Template::read(text).unwrap()),
        },
    )
}

fn node() -> impl Strategy<Value = Node> {
    let policy = select(vec![XdpPolicy::Native, XdpPolicy::Auto, XdpPolicy::Generic]);
    let addresses = select(vec![vec![], vec![IpAddr::from([10, 9, 9, 9])]]);
    let v4 = Prefix::around([172, 16, 0, 0].into(), 16);
    let v6 = Prefix::around(Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0, 0).into(), 64);
    let sources = select(vec![vec![], vec![v4], vec![v6, v4]]);
    let rates = (1..=u16::MAX, 1..=10_000_000u32, 1..=1_000_000u32);
    let ports = (1024..40_000u16, 256..20_000u16);
    ("[a-z]{1,12}", policy, ports, addresses, sources, rates, 1024..65_536u32).prop_map(
        |(interface, xdp, (first, count), nat_addresses, tunnel_sources, rates, size)| Node {
            interfaces: vec![interface],
            xdp,
            nat_ports: first..=first + count,
            nat_addresses,
            tunnel_sources,
            gue_port: rates.0,
            flow_inserts: rates.1,
            icmp_rate: rates.2,
            limits: Limits {
                flows: size,
                table_bytes: size * 100,
                sources: size,
                rates: size,
                server_ids: size,
                prefixes: size,
                ..Limits::default()
            },
        },
    )
}

/// What `fit_frontends` makes a valid frontend of.
fn frontend() -> impl Strategy<Value = Frontend> {
    let vip = select(vec!["10.0.0.0", "10.0.0.0/24", "fd00::", "fd00::/64"]);
    let ports = (select(vec![0, 1]), 1..=u16::MAX).prop_map(|(first, last)| Ports { first, last });
    (vip, ports, select(vec![Protocol::Tcp, Protocol::Udp]))
        .prop_map(|(vip, ports, protocol)| Frontend { vip: vip.parse().unwrap(), ports, protocol })
}

fn service() -> impl Strategy<Value = Service> {
    (
        "[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?",
        prop::collection::vec(frontend(), 1..4),
        select(vec![Mode::Nat, Mode::Dsr, Mode::Ipip, Mode::Gue]),
        probes::health(),
        (1_000..86_400_000u64, 1_000..3_600_000u64, 0..3_600_000u64),
        features(),
        prop::collection::vec(backend().prop_map(Arc::new), 1..5),
    )
        .prop_map(|(name, listen, mode, health, times, features, backends)| Service {
            name,
            listen,
            mode,
            health,
            idle_timeout: Duration::from_millis(times.0),
            udp_timeout: Duration::from_millis(times.1),
            slow_start: Duration::from_millis(times.2),
            backends,
            ..features
        })
}

/// A service with nothing but its features.
fn features() -> impl Strategy<Value = Service> {
    let allow = (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| {
        let v6 = Ipv6Addr::from_bits(u128::from(bits) << 64 | 0x2001 << 112);
        match length % 2 == 0 {
            true => Prefix::around(Ipv4Addr::from(bits).into(), length),
            false => Prefix::around(v6.into(), length + 32),
        }
    });
    let quic = (0..=6u8, 1..=8u8)
        .prop_map(|(config_id, server_id_length)| Quic { config_id, server_id_length });
    let most = RateLimit::MOST;
    let limit =
        (1..=most, 1..=most).prop_map(|(per_second, burst)| RateLimit { per_second, burst });
    (
        select(vec![HashPolicy::Flow, HashPolicy::Source, HashPolicy::Addresses]),
        select(vec![Track::Exceptions, Track::Always]),
        select(vec![UdpPolicy::Packet, UdpPolicy::Flow]),
        prop::option::of(quic),
        prop::option::of(88..=65_495u16),
        prop::collection::vec(allow, 0..4),
        prop::option::of(limit),
        (select(vec![Ramp::Linear, Ramp::Exponential]), failover(), 1..=100u8),
    )
        .prop_map(
            |(hash, track, udp, quic, mss, allow, rate_limit, (curve, failover, warn))| Service {
                slow_start_curve: curve,
                failover,
                capacity_warning: (warn % 2 == 0).then_some(warn),
                hash,
                track,
                udp,
                quic,
                mss,
                allow,
                rate_limit,
                ..Service::new("", Mode::Nat)
            },
        )
}

fn failover() -> impl Strategy<Value = Failover> {
    let share = || (0..=100u8).prop_map(|percent| Percent::new(percent).unwrap());
    let time = || (1_000..=86_400_000u64).prop_map(Duration::from_millis);
    let on_down = select(vec![OnDown::Rehash, OnDown::Keep, OnDown::Reset]);
    (share(), share(), time(), on_down, share(), time()).prop_map(
        |(max_removed, max_removed_in_window, window, on_down, backup_below, backup_return)| {
            Failover {
                max_removed,
                max_removed_in_window,
                window,
                on_down,
                backup_below,
                backup_return,
            }
        },
    )
}

fn backend() -> impl Strategy<Value = Backend> {
    let address =
        select(vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])]);
    let port = prop::option::of(1..=u16::MAX);
    ("[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", address, port, 1..=1000u16).prop_map(
        |(name, address, port, weight)| Backend {
            port,
            weight,
            backup: weight % 3 == 0,
            ..Backend::new(name, address)
        },
    )
}
