//! The table by a made-up clock, and the listener beside a real router with a narrow link.

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use super::super::testbed::Namespace;
use super::packets::Inner::{self, Protocol as Ip, Udp};
use super::packets::packet;
use super::*;

const GUE: u16 = 6080;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_smallest_counts_until_it_is_old() {
    let server = address("10.9.0.5");
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut table = PathMtus::default();
    for (second, mtu, news, known) in [
        (0, 1500, false, None),
        (0, 9000, false, None),
        (0, 1400, true, Some(1400)),
        (10, 1450, false, Some(1400)),
        (20, 1300, true, Some(1300)),
        // Said again, so it lasts until 700.
        (100, 1300, false, Some(1300)),
        (699, 1400, false, Some(1300)),
        (700, 1400, true, Some(1400)),
        (800, 1500, false, Some(1400)),
    ] {
        assert_eq!(table.learn(TooBig { server, mtu }, 1500, at(second)), news, "{second}: {mtu}");
        assert_eq!(table.lookup(server, at(second)), known, "{second}: {mtu}");
    }
    assert_eq!(table.lookup(address("10.9.0.6"), start), None);
    assert_eq!(table.lookup(server, at(1299)), Some(1400));
    assert_eq!(table.lookup(server, at(1300)), None);
}

#[test]
fn what_is_old_is_named_once() {
    let [one, two] = ["10.9.0.5", "fd09::5"].map(address);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut table = PathMtus::default();
    assert_eq!(table.next_expiry(), None);
    table.learn(TooBig { server: one, mtu: 1400 }, 1500, at(0));
    table.learn(TooBig { server: two, mtu: 1400 }, 1500, at(5));
    assert_eq!(table.next_expiry(), Some(at(600)));
    assert!(table.expire(at(599)).is_empty());
    assert_eq!(table.expire(at(600)), [one]);
    assert_eq!(table.next_expiry(), Some(at(605)));
    table.forget(two);
    assert!(table.expire(at(700)).is_empty());
    assert_eq!(table.next_expiry(), None);
}

/// Balancer `10.0.0.1`, `fd00::1`; a router beyond it, which takes 1300 bytes towards `10.9.0.0/24`
/// and `fd09::/64`. It sends what is for tunnels' sources, `10.5.5.5` and `fd05::5`, to the
/// balancer, which does not have these addresses.
struct Lab {
    balancer: Namespace,
    router: Namespace,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { balancer: Namespace::new(), router: Namespace::new() };
        let (balancer, router) = (&lab.balancer, &lab.router);
        balancer.ip(&format!("link add eth0 type veth peer name eth0 netns {}", router.path()));
        router.ip("link add narrow mtu 1300 type veth peer name beyond");
        router.inside(|| {
            for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{name}"), "1").unwrap();
            }
        });
        for (end, v4, v6) in [(balancer, "1", "1"), (router, "254", "fe")] {
            end.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0")).unwrap();
            end.ip("link set eth0 up");
            end.ip(&format!("addr add 10.0.0.{v4}/24 dev eth0"));
            end.ip(&format!("addr add fd00::{v6}/64 dev eth0 nodad"));
        }
        router.ip("link set beyond up");
        router.ip("link set narrow up");
        router.ip("addr add 10.9.0.254/24 dev narrow");
        router.ip("addr add fd09::fe/64 dev narrow nodad");
        router.ip("route add 10.5.5.0/24 via 10.0.0.1");
        router.ip("route add fd05::/64 via fd00::1");
        balancer.ip("route add default via 10.0.0.254");
        balancer.ip("route add default via fd00::fe");
        lab
    }

    /// Hears what comes to the balancer while `story` runs there.
    fn listen<F: Future<Output = ()>>(&self, story: impl FnOnce(Ears) -> F + Send) {
        self.balancer.inside(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(async {
                let (listener, events) = PathMtuListener::start(GUE).unwrap();
                story(Ears { _listener: listener, events }).await;
            });
        });
    }
}

struct Ears {
    _listener: PathMtuListener,
    events: mpsc::Receiver<Said>,
}

impl Ears {
    async fn next(&mut self) -> Said {
        let event = tokio::time::timeout(Duration::from_secs(5), self.events.recv());
        event.await.expect("an event in time").expect("a running listener")
    }

    async fn quiet(&mut self) {
        let event = tokio::time::timeout(Duration::from_millis(300), self.events.recv()).await;
        assert!(event.is_err(), "unexpected {event:?}");
    }
}

/// Sends a tunnel's packet as it is, whoever its source belongs to.
fn send(server: &str, inner: Inner, length: usize) {
    let to = address(server);
    let domain = Domain::for_address((to, 0).into());
    let source = if to.is_ipv4() { "10.5.5.5" } else { "fd05::5" };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).unwrap();
    let to = std::net::SocketAddr::from((to, 0)).into();
    socket.send_to(&packet(source, server, inner, length), &to).unwrap();
}

#[test]
fn a_narrow_link_is_told_of() {
    let lab = Lab::new();
    lab.listen(async |mut ears: Ears| {
        for server in ["10.9.0.5", "fd09::5"] {
            for inner in [Ip(4), Ip(41), Udp(GUE)] {
                send(server, inner, 1400);
                let expected = Said::TooBig(TooBig { server: address(server), mtu: 1300 });
                assert_eq!(ears.next().await, expected, "{inner:?}");
            }
            for (inner, length) in [(Ip(6), 1400), (Udp(443), 1400), (Ip(4), 1300)] {
                send(server, inner, length);
            }
            ears.quiet().await;
        }
    });
}

#[test]
fn a_server_that_cannot_be_reached_is_told_of() {
    let lab = Lab::new();
    // A router tells a host of few such packets in a row (`icmp_ratelimit`).
    lab.router.inside(|| {
        for name in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
            std::fs::write(format!("/proc/sys/net/{name}"), "0").unwrap();
        }
    });
    lab.router.ip("route add unreachable 10.9.0.5/32");
    lab.router.ip("route add unreachable fd09::5/128");
    lab.listen(async |mut ears: Ears| {
        for server in ["10.9.0.5", "fd09::5"] {
            for inner in [Ip(4), Ip(41), Udp(GUE)] {
                send(server, inner, 100);
                assert_eq!(ears.next().await, Said::Unreachable(address(server)), "{inner:?}");
            }
            for inner in [Ip(6), Udp(443)] {
                send(server, inner, 100);
            }
            ears.quiet().await;
        }
    });
}

#[test]
fn frames_for_others_are_not_heard() {
    let lab = Lab::new();
    lab.balancer.ip("link set eth0 promisc on");
    lab.listen(async |mut ears: Ears| {
        lab.router.ip("neigh replace 10.0.0.1 lladdr 02:00:00:00:00:99 dev eth0");
        send("10.9.0.5", Ip(4), 1400);
        ears.quiet().await;
        lab.router.ip("neigh del 10.0.0.1 dev eth0");
        send("10.9.0.5", Ip(4), 1400);
        let expected = TooBig { server: address("10.9.0.5"), mtu: 1300 };
        assert_eq!(ears.next().await, Said::TooBig(expected));
    });
}
