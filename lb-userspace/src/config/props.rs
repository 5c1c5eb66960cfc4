//! Properties: no text panics the parser, every error lies inside its source, and every valid
//! configuration survives being written and read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::model::*;
use super::{diff, parse, parse_bytes, to_toml, validate};

const SAMPLE: &str = r#"[node]
interfaces = ["eth0"]
nat_ports = "1024-32767"
nat_addresses = ["10.0.0.2"]
limits = { frontends = 16, table_bytes = "1MiB" }
[[service]]
name = "web"
listen = ["192.0.2.10:80/tcp", "192.0.2.10:443/tcp"]
mode = "nat"
idle_timeout = "5m"
health = { http = "/healthz", host = "example.org", status = "200-299", interval = "1s", rise = 2 }
backends = [
  { name = "web-01", address = "10.0.0.11", port = 8080, weight = 2 }, # é
  { name = "web-02", address = "10.0.0.12" },
]
[[service]]
name = "dns"
listen = ["[2001:db8::53]:53/udp"]
mode = "dsr"
backends = [{ name = "dns-01", address = "fd00::53" }]
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
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
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
    (node(), prop::collection::vec(service(), 0..4)).prop_map(|(node, mut services)| {
        // Numbers make unique what must be: names, VIPs, and servers per mode.
        for (s, service) in services.iter_mut().enumerate() {
            service.name = format!("{}{s}", service.name);
            let v4 = service.mode == Mode::Nat && service.backends[0].address.is_ipv4();
            for (l, frontend) in service.listen.iter_mut().enumerate() {
                let (s, l) = (s as u16, l as u16);
                frontend.vip = match v4 {
                    true => Prefix::host(Ipv4Addr::new(192, 0, 2, s as u8).into()),
                    false => Prefix::host(Ipv6Addr::new(0x2001, 0xdb8, s, 0, 0, 0, 0, 1).into()),
                };
                frontend.ports = Ports::single(80 + l);
            }
            let v4 = service.backends[0].address.is_ipv4();
            for (b, backend) in service.backends.iter_mut().enumerate() {
                backend.name = format!("{}{b}", backend.name);
                backend.address = match v4 {
                    true => Ipv4Addr::new(10, 0, s as u8, b as u8).into(),
                    false => Ipv6Addr::new(0xfd00, s as u16, b as u16, 0, 0, 0, 0, 1).into(),
                };
                backend.port = backend.port.filter(|_| service.mode == Mode::Nat);
            }
        }
        Config { node, services }
    })
}

fn node() -> impl Strategy<Value = Node> {
    let policy = select(vec![XdpPolicy::Native, XdpPolicy::Auto, XdpPolicy::Generic]);
    let addresses = select(vec![vec![], vec![IpAddr::from([10, 9, 9, 9])]]);
    ("[a-z]{1,12}", policy, 1024..40_000u16, 256..20_000u16, addresses, 1024..65_536u32).prop_map(
        |(interface, xdp, first, count, nat_addresses, size)| Node {
            interfaces: vec![interface],
            xdp,
            nat_ports: first..=first + count,
            nat_addresses,
            limits: Limits { flows: size, table_bytes: size * 100, ..Limits::default() },
            ..Node::default()
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let frontend = select(vec![Protocol::Tcp, Protocol::Udp]).prop_map(|protocol| Frontend {
        vip: Prefix::host([192, 0, 2, 1].into()),
        ports: Ports::single(1),
        protocol,
    });
    (
        "[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?",
        prop::collection::vec(frontend, 1..4),
        select(vec![Mode::Nat, Mode::Dsr]),
        health(),
        (1_000..86_400_000u64).prop_map(Duration::from_millis),
        (0..3_600_000u64).prop_map(Duration::from_millis),
        prop::collection::vec(backend(), 1..5),
    )
        .prop_map(|(name, listen, mode, health, idle_timeout, slow_start, backends)| Service {
            listen,
            health,
            idle_timeout,
            slow_start,
            backends,
            ..Service::new(name, mode)
        })
}

fn backend() -> impl Strategy<Value = Backend> {
    let address =
        select(vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])]);
    let port = prop::option::of(1..=u16::MAX);
    ("[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", address, port, 1..=1000u16).prop_map(
        |(name, address, port, weight)| Backend { port, weight, ..Backend::new(name, address) },
    )
}

fn health() -> impl Strategy<Value = Health> {
    let http =
        ("/[!-~]{0,20}", prop::option::of("[a-z0-9.:-]{1,20}"), 100..=300u16, 0..=299u16).prop_map(
            |(path, host, start, more)| Probe::Http { path, host, status: start..=start + more },
        );
    let probe = prop_oneof![Just(Probe::None), Just(Probe::Tcp), http];
    let ms = |range: std::ops::RangeInclusive<u64>| range.prop_map(Duration::from_millis);
    let port = prop::option::of(1..=u16::MAX);
    (probe, port, ms(100..=3_600_000), ms(10..=100), ms(10..=60_000), 1..=100u32, 1..=100u32)
        .prop_map(|(probe, port, interval, fast_interval, timeout, rise, fall)| Health {
            probe,
            port,
            interval,
            fast_interval,
            timeout,
            rise,
            fall,
        })
}
