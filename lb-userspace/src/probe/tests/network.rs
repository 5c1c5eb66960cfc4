//! What a network says on the way: a host, a router behind it, and places that can't be reached.

use super::*;
use crate::net::testbed::Namespace;

struct Site {
    host: Namespace,
    router: Namespace,
}

impl Site {
    /// The host is 10.0.0.1 and fd00::1, the router 10.0.0.254 and fd00::fe. Behind it are nothing
    /// but 172.16.0.0/24, where nobody answers, and routes that refuse.
    fn new() -> Self {
        let (host, router) = (Namespace::new(), Namespace::new());
        host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", router.path()));
        router.ip("link add far0 type veth peer name far1");
        router.inside(|| {
            // Every error is sent, as many as there are.
            for (file, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv4/icmp_ratemask", "0"),
                ("ipv6/icmp/ratemask", ""),
            ] {
                std::fs::write(format!("/proc/sys/net/{file}"), format!("{value}\n")).unwrap();
            }
        });
        for (side, v4, v6) in
            [(&host, "10.0.0.1/24", "fd00::1/64"), (&router, "10.0.0.254/24", "fd00::fe/64")]
        {
            side.ip(&format!("addr add {v4} dev eth0"));
            side.ip(&format!("addr add {v6} dev eth0 nodad"));
            side.ip("link set eth0 up");
        }
        router.ip("addr add 172.16.0.1/24 dev far0");
        router.ip("link set far1 up");
        router.ip("link set far0 up");
        for (kind, v4, v6) in [
            ("unreachable", "203.0.113.1", "2001:db8::1"),
            ("prohibit", "203.0.113.2", "2001:db8::2"),
            ("blackhole", "203.0.113.4", "2001:db8::4"),
        ] {
            router.ip(&format!("route add {kind} {v4}"));
            router.ip(&format!("-6 route add {kind} {v6}"));
        }
        host.ip("route add default via 10.0.0.254");
        host.ip("-6 route add default via fd00::fe");
        Self { host, router }
    }

    /// From a source of its own: a router tells each source about five dead ends at once, and then
    /// one a second (`net.ipv4.route.error_burst`, not settable in a namespace).
    fn ask(&self, address: &str, probe: &Probe, timeout: Duration, source: u8) -> String {
        let address: SocketAddr = address.parse().unwrap();
        let source = match address {
            SocketAddr::V4(_) => IpAddr::from([10, 0, 0, source]),
            SocketAddr::V6(_) => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(source)]),
        };
        let (prefix, nodad) = if source.is_ipv4() { (24, "") } else { (64, "nodad") };
        self.host.ip(&format!("addr add {source}/{prefix} dev eth0 {nodad}"));
        let target = Target { source: Some(source), ..target(address) };
        let asked = Asked::new(probe, &mut Configs::default());
        text(self.host.run(async { super::super::probe(&target, &asked, timeout).await }))
    }
}

#[test]
fn each_layer_says_what_it_is() {
    let site = Site::new();
    let (tcp, udp, icmp) = (Probe::Tcp, read("udp = 'x'"), Probe::Icmp);
    let rows = [
        (&tcp, "203.0.113.1:80", "unreachable: host unreachable for {}, says 10.0.0.254 by ICMP"),
        (&udp, "203.0.113.1:80", "unreachable: host unreachable for {}, says 10.0.0.254 by ICMP"),
        (&icmp, "203.0.113.1:0", "unreachable: host unreachable for {}, says 10.0.0.254 by ICMP"),
        (
            &tcp,
            "203.0.113.2:80",
            "unreachable: administratively prohibited for {}, says 10.0.0.254 by ICMP",
        ),
        (
            &udp,
            "203.0.113.2:80",
            "unreachable: administratively prohibited for {}, says 10.0.0.254 by ICMP",
        ),
        (
            &icmp,
            "203.0.113.2:0",
            "unreachable: administratively prohibited for {}, says 10.0.0.254 by ICMP",
        ),
        (
            &tcp,
            "203.0.113.3:80",
            "unreachable: network unreachable for {}, says 10.0.0.254 by ICMP",
        ),
        (
            &udp,
            "203.0.113.3:80",
            "unreachable: network unreachable for {}, says 10.0.0.254 by ICMP",
        ),
        (&tcp, "172.16.0.9:80", "unreachable: host unreachable for {}, says 10.0.0.254 by ICMP"),
        (&tcp, "10.0.0.254:9", "refused: connection refused on {}"),
        (&udp, "10.0.0.254:9", "refused: port unreachable for {}, says 10.0.0.254 by ICMP"),
        (&icmp, "10.0.0.254:0", "ok"),
        (
            &tcp,
            "10.0.0.12:80",
            "no neighbour: 10.0.0.12 or the router towards it does not answer ARP",
        ),
        (
            &udp,
            "10.0.0.12:80",
            "no neighbour: 10.0.0.12 or the router towards it does not answer ARP",
        ),
        (
            &icmp,
            "10.0.0.12:0",
            "no neighbour: 10.0.0.12 or the router towards it does not answer ARP",
        ),
        (
            &tcp,
            "[2001:db8::1]:80",
            "unreachable: network unreachable for {}, says fd00::fe by ICMP",
        ),
        (
            &udp,
            "[2001:db8::1]:80",
            "unreachable: network unreachable for {}, says fd00::fe by ICMP",
        ),
        (
            &tcp,
            "[2001:db8::2]:80",
            "unreachable: administratively prohibited for {}, says fd00::fe by ICMP",
        ),
        (
            &tcp,
            "[2001:db8::3]:80",
            "unreachable: network unreachable for {}, says fd00::fe by ICMP",
        ),
        (
            &icmp,
            "[2001:db8::3]:0",
            "unreachable: network unreachable for {}, says fd00::fe by ICMP",
        ),
        (&tcp, "[fd00::fe]:9", "refused: connection refused on {}"),
        (&udp, "[fd00::fe]:9", "refused: port unreachable for {}, says fd00::fe by ICMP"),
        (&icmp, "[fd00::fe]:0", "ok"),
        (
            &tcp,
            "[fd00::12]:80",
            "no neighbour: fd00::12 or the router towards it does not answer neighbour discovery",
        ),
    ];
    for (source, (probe, address, expect)) in (100..).zip(rows) {
        let said = site.ask(address, probe, PATIENCE, source);
        assert_eq!(said, expect.replace("{}", address), "{probe:?}");
    }
    let rows = [
        (&tcp, "203.0.113.4:80", "timeout: no answer from {} while connecting within 300 ms"),
        (&udp, "203.0.113.4:80", "timeout: no UDP answer from {} within 300 ms"),
        (&icmp, "203.0.113.4:0", "timeout: no echo reply from 203.0.113.4 within 300 ms"),
        (&icmp, "[2001:db8::4]:0", "timeout: no echo reply from 2001:db8::4 within 300 ms"),
    ];
    for (source, (probe, address, expect)) in (200..).zip(rows) {
        let said = site.ask(address, probe, TIMEOUT, source);
        assert_eq!(said, expect.replace("{}", address), "{probe:?}");
    }
}

#[test]
fn a_mark_chooses_the_route() {
    let site = Site::new();
    site.host.ip("rule add fwmark 7 table 7");
    site.host.ip("route add default via 10.0.0.254 table 7");
    site.router.ip("addr add 198.51.100.1/32 dev lo");
    // Without the mark there is no way.
    site.host.ip("route add unreachable 198.51.100.1");
    for probe in [Probe::Icmp, read("udp = 'x'"), Probe::Tcp] {
        let ask = |mark| {
            let asked = Asked::new(&probe, &mut Configs::default());
            let target = Target { mark, ..target("198.51.100.1:9".parse().unwrap()) };
            let ask = async move { super::super::probe(&target, &asked, PATIENCE).await };
            site.host.run(ask).map_or_else(|failure| failure.kind.name(), |_| "ok")
        };
        let through = if probe == Probe::Icmp { "ok" } else { "refused" };
        assert_eq!((ask(Some(7)), ask(None)), (through, "no neighbour"), "{probe:?}");
    }
}

#[test]
fn a_host_without_routes_says_so() {
    let host = Namespace::new();
    host.ip("link add eth0 type veth peer name eth1");
    host.ip("link set eth1 up");
    host.ip("link set eth0 up");
    host.ip("addr add 10.0.0.1/24 dev eth0");
    for target in ["192.0.2.1:80", "[2001:db8::1]:80"] {
        for probe in [Probe::Tcp, Probe::Icmp, read("udp = 'x'")] {
            let result = host.run(ask(target.parse().unwrap(), &probe, PATIENCE));
            assert_eq!(result.unwrap_err().kind, FailureKind::Unreachable, "{target} {probe:?}");
        }
    }
}
