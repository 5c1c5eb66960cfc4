//! Clients served through tunnels: IPv4 and IPv6 in both, nginx behind `lb decap`; what one side
//! sends the other takes out, and flows are spread over what routers and network cards hash.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use lb_tests::{
    Balancer, Capture, Decap, Family, IPERF_PORT, Iperf, Lab, Limit, Load, Mode, ServiceConfig,
    Stream, Topology, stream,
};

const REQUESTS: u64 = 200;
const BACKENDS: u8 = 2;

/// A service for each family of VIPs, over backends with addresses of one. What is counted in tunnels
/// are clients' packets alone.
fn services(mode: Mode, servers: Family) -> [ServiceConfig; 2] {
    ServiceConfig::both(mode).map(|service| service.over(servers).probed_at_own_addresses())
}

/// As many requests as `REQUESTS` to each VIP, and a big file by curl.
fn ask(lab: &Lab) {
    for family in Family::ALL {
        let target = SocketAddr::new(family.vip(), 80);
        let load = Load::new(target, Limit::Requests(REQUESTS)).threads(8);
        let report = load.run(lab.client()).unwrap();
        assert_eq!(report.failures(), 0, "{family}: {:?}", report.failure_kinds());
        assert_eq!(report.served_by().len(), usize::from(BACKENDS), "{:?}", report.served_by());

        let mut curl = lab.client().command("curl");
        curl.args(["--silent", "--fail", "--max-time", "5", "--output", "/dev/null"]);
        curl.args(["--write-out", "%{size_download}", "--globoff"]);
        let output = curl.arg(format!("http://{target}/big")).output().unwrap();
        assert!(output.status.success(), "{family}: curl ended with {}", output.status);
        assert_eq!(output.stdout, (100 * 1024).to_string().as_bytes());
    }
    // Clients' last acknowledgements.
    sleep(Duration::from_millis(100));
}

fn check(mode: Mode, servers: Family) {
    let lab = Lab::build(Topology::new(mode, BACKENDS)).unwrap();
    let decaps = Decap::everywhere(&lab).unwrap();
    let balancer = Balancer::serving(&lab, &services(mode, servers)).unwrap();
    ask(&lab);
    let sent = balancer.count().unwrap();
    let taken: Vec<_> = decaps.into_iter().map(|decap| decap.stop().unwrap()).collect();
    let out: u64 = taken.iter().map(|counts| counts.of("pass-decapsulated").unwrap()).sum();
    println!("{mode} over {servers}: {} packets sent in tunnels, {out} taken out", sent.packets());
    assert!(out > 2 * 4 * REQUESTS, "a connection takes more than {out} packets");
    assert_eq!(sent.packets(), out);
    for name in ["drop-tunnel-source", "drop-tunnel-inner", "drop-tunnel-ecn", "drop-internal"] {
        assert!(taken.iter().all(|counts| counts.of(name).unwrap() == 0), "{name}");
    }
    for name in ["drop-internal", "drop-too-big", "too-big-sent", "drop-no-next-hop"] {
        assert_eq!(sent.of(name).unwrap(), 0, "{name}");
    }
    balancer.stop().unwrap();
}

#[test]
fn ipip_over_ipv4() {
    check(Mode::Ipip, Family::V4);
}

#[test]
fn ipip_over_ipv6() {
    check(Mode::Ipip, Family::V6);
}

#[test]
fn gue_over_ipv4() {
    check(Mode::Gue, Family::V4);
}

#[test]
fn gue_over_ipv6() {
    check(Mode::Gue, Family::V6);
}

/// Frames lost between balancer and backends: a cable takes 256 at a time, drops what comes faster, and counts it.
fn lost_on_cables(lab: &Lab) -> u64 {
    let by_program = lab.balancer().frames_not_transmitted("eth0").unwrap();
    let at_ports = (1..=BACKENDS).map(|backend| {
        let port = lab.switch().link(&format!("b{backend}"));
        port["stats64"]["tx"]["dropped"].as_u64().expect("counters of a link")
    });
    by_program + at_ports.sum::<u64>()
}

/// Streams of iperf3 through the tunnel: full packets as fast as both ends can, and datagrams.
fn check_streams(mode: Mode, servers: Family) {
    let lab = Lab::build(Topology::new(mode, BACKENDS)).unwrap();
    let decaps = Decap::everywhere(&lab).unwrap();
    let _servers = Iperf::everywhere(&lab).unwrap();
    let services = services(mode, servers).map(|service| {
        let vip = SocketAddr::new(service.family.vip(), IPERF_PORT);
        // A client's two connections are for the same backend.
        let more = "hash = \"source\"\n".into();
        ServiceConfig { listen: vec![format!("{vip}/tcp"), format!("{vip}/udp")], more, ..service }
    });
    let balancer = Balancer::serving(&lab, &services).unwrap();
    let mut least = 0;
    for family in Family::ALL {
        for kind in Stream::ALL {
            let to = SocketAddr::new(family.vip(), IPERF_PORT);
            let streamed = stream(&lab, to, kind).unwrap_or_else(|why| {
                panic!("{mode} over {servers}, {family} {kind:?}: {why:#}\n{}", balancer.log())
            });
            println!("{mode} over {servers}, {family} {kind:?}: {streamed:?}");
            // A tenth of what datagrams should be; streams without that limit are many times as fast.
            assert!(streamed.received > 125_000, "{streamed:?}");
            assert!(streamed.received <= streamed.sent);
            if kind != Stream::Down {
                least += streamed.received;
            }
        }
    }
    sleep(Duration::from_millis(100));
    let sent = balancer.count().unwrap();
    let lost = lost_on_cables(&lab);
    println!("{mode} over {servers}: {:?}, {lost} lost on the cable", sent.non_zero());
    let taken: Vec<_> = decaps.into_iter().map(|decap| decap.stop().unwrap()).collect();
    let out: u64 = taken.iter().map(|counts| counts.of("pass-decapsulated").unwrap()).sum();
    let ways = out..=out + lost;
    assert!(ways.contains(&sent.packets()), "{} into tunnels, {ways:?} out", sent.packets());
    assert!(out * 1500 > least, "{out} packets for {least} bytes");
    // Clients believe in 1,500 bytes until they are told; nothing else is not sent on.
    assert!(sent.of("too-big-sent").unwrap() > 0);
    let dropped = |counted: Vec<String>| counted.iter().any(|name| name.starts_with("drop-"));
    assert!(!dropped(sent.non_zero()), "{:?}", sent.non_zero());
    for counts in taken {
        assert!(!dropped(counts.non_zero()), "lb decap: {:?}", counts.non_zero());
    }
    balancer.stop().unwrap();
}

#[test]
fn streams_of_ipip_over_ipv4() {
    check_streams(Mode::Ipip, Family::V4);
}

#[test]
fn streams_of_ipip_over_ipv6() {
    check_streams(Mode::Ipip, Family::V6);
}

#[test]
fn streams_of_gue_over_ipv4() {
    check_streams(Mode::Gue, Family::V4);
}

#[test]
fn streams_of_gue_over_ipv6() {
    check_streams(Mode::Gue, Family::V6);
}

/// The headers of one packet in a tunnel.
#[derive(Debug)]
struct Tunnelled {
    /// Outer source address.
    source: Vec<u8>,
    /// Outer source port; 0 without UDP.
    port: u16,
    /// Both addresses and ports of the packet inside.
    flow: Vec<u8>,
}

impl Tunnelled {
    /// Of a frame; `None` if it is no tunnel's.
    fn of(frame: &[u8]) -> Option<Self> {
        let (source, protocol, rest) = match frame.get(12..14)? {
            [8, 0] => (frame.get(26..30)?, *frame.get(23)?, frame.get(34..)?),
            [0x86, 0xdd] => (frame.get(22..38)?, *frame.get(20)?, frame.get(54..)?),
            _ => return None,
        };
        let (port, inner) = match protocol {
            4 | 41 => (0, rest),
            17 if rest.get(2..4)? == 6080u16.to_be_bytes() => {
                (u16::from_be_bytes([rest[0], rest[1]]), rest.get(8..)?)
            }
            _ => return None,
        };
        // Addresses and ports lie side by side in both families.
        let flow = if inner.first()? >> 4 == 4 { inner.get(12..24)? } else { inner.get(8..44)? };
        Some(Self { source: source.to_vec(), port, flow: flow.to_vec() })
    }
}

/// What the client's flows look like on the backend's cable, with this line in `[node]`.
fn on_the_wire(mode: Mode, servers: Family, node: &str, from: &str) -> Vec<Tunnelled> {
    let lab = Lab::build(Topology::new(mode, BACKENDS)).unwrap();
    let _decaps = Decap::everywhere_from(&lab, from).unwrap();
    let config = lab.config(&services(mode, servers));
    let config = config.replacen("[node]\n", &format!("[node]\n{node}\n"), 1);
    let balancer = Balancer::start(&lab, &Balancer::binary().unwrap(), &config).unwrap();
    balancer.wait_until_up(Duration::from_secs(10)).unwrap();
    // The other end of the first backend's cable: there, no program has opened the tunnels yet.
    let capture = Capture::start(lab.switch(), "b1").unwrap();
    ask(&lab);
    let frames = capture.stop();
    balancer.stop().unwrap();
    frames.iter().filter_map(|frame| Tunnelled::of(frame)).collect()
}

/// How many values flows have, of which each has one.
fn values<T: Ord + Clone>(packets: &[Tunnelled], of: impl Fn(&Tunnelled) -> T) -> (usize, usize) {
    let mut flows: BTreeMap<&[u8], BTreeSet<T>> = BTreeMap::new();
    for packet in packets {
        flows.entry(&packet.flow).or_default().insert(of(packet));
    }
    assert!(flows.len() > REQUESTS as usize / 2, "{} flows", flows.len());
    assert!(flows.values().all(|values| values.len() == 1), "a flow was sent in two ways");
    (flows.len(), flows.into_values().flatten().collect::<BTreeSet<_>>().len())
}

#[test]
fn source_ports_of_gue_differ_between_flows() {
    for servers in Family::ALL {
        let packets = on_the_wire(Mode::Gue, servers, "", "10.77.0.2,fd77::2");
        let (flows, ports) = values(&packets, |packet| packet.port);
        println!("gue over {servers}: {flows} flows, {ports} source ports");
        // Of 16,384: some 1 % of so few flows meet another.
        assert!(ports * 100 > flows * 90, "{flows} flows have {ports} source ports");
        assert_eq!(values(&packets, |packet| packet.source.clone()).1, 1, "one source address");
    }
}

#[test]
fn sources_of_tunnels_fill_their_prefix() {
    let node = r#"tunnel_sources = ["10.99.0.0/16", "fd99::/64"]"#;
    for (mode, servers) in [(Mode::Ipip, Family::V4), (Mode::Gue, Family::V6)] {
        let packets = on_the_wire(mode, servers, node, "10.99.0.0/16,fd99::/64");
        let (flows, sources) = values(&packets, |packet| packet.source.clone());
        println!("{mode} over {servers}: {flows} flows, {sources} outer sources");
        assert!(sources * 100 > flows * 90, "{flows} flows have {sources} sources");
        let prefix: &[u8] =
            if servers == Family::V4 { &[10, 99] } else { &[0xfd, 0x99, 0, 0, 0, 0, 0, 0] };
        assert!(packets.iter().all(|packet| packet.source.starts_with(prefix)));
    }
}
