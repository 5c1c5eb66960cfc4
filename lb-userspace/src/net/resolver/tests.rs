//! The resolver against real kernels' tables: a balancer and a server namespace, joined by veth.

use std::net::UdpSocket;

use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, VlanProtocol};

use super::super::hop::Remote;
use super::super::messages::{bond, member, plain, read, vlan, with};
use super::super::testbed::Namespace;
use super::*;

const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const SERVER_V4: &str = "10.0.0.11";
const SERVER_V6: &str = "fd00::11";

/// Balancer `10.0.0.1`, `fd00::1` on `eth0`; the server beyond it; `eth1` leads nowhere.
struct Lab {
    balancer: Namespace,
    server: Namespace,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { balancer: Namespace::new(), server: Namespace::new() };
        let (balancer, server) = (&lab.balancer, &lab.server);
        balancer.ip(&format!(
            "link add eth0 address 02:00:00:00:00:01 type veth \
             peer name eth0 address 02:00:00:00:00:11 netns {}",
            server.path()
        ));
        balancer.ip(&format!("link add eth1 type veth peer name eth1 netns {}", server.path()));
        for (end, host) in [(balancer, "1"), (server, "11")] {
            // The kernel does not look for IPv6 neighbours while its link-local address is tentative.
            end.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0")).unwrap();
            end.ip("link set eth0 up");
            end.ip("link set eth1 up");
            end.ip(&format!("addr add 10.0.0.{host}/24 dev eth0"));
            end.ip(&format!("addr add fd00::{host}/64 dev eth0 nodad"));
        }
        balancer.ip("addr add 10.1.0.1/24 dev eth1");
        lab
    }

    /// Follows `servers` from the balancer while `story` changes things.
    fn follow<F>(&self, servers: &[&str], story: impl FnOnce(Watch) -> F + Send)
    where
        F: Future<Output = ()>,
    {
        let servers: Vec<IpAddr> = servers.iter().map(|server| server.parse().unwrap()).collect();
        self.balancer.inside(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(async {
                let (resolver, events) = Resolver::start(["eth0".to_owned()]).unwrap();
                servers.iter().for_each(|server| resolver.add(*server));
                story(Watch { resolver, events }).await;
            });
        });
    }
}

struct Watch {
    resolver: Resolver,
    events: mpsc::Receiver<NextHopEvent>,
}

impl Watch {
    async fn next(&mut self) -> NextHopEvent {
        let event = tokio::time::timeout(Duration::from_secs(15), self.events.recv());
        event.await.expect("an event in time").expect("a running resolver")
    }

    /// Skips what comes on the way to a hop.
    async fn hop(&mut self) -> Remote {
        loop {
            if let Ok(NextHop::Remote(hop)) = self.next().await.hop {
                return hop;
            }
        }
    }

    async fn local(&mut self) {
        while self.next().await.hop != Ok(NextHop::Local) {}
    }

    async fn problem(&mut self) -> HopProblem {
        loop {
            if let Err(problem) = self.next().await.hop {
                return problem;
            }
        }
    }

    async fn quiet_for(&mut self, time: Duration) {
        let event = tokio::time::timeout(time, self.events.recv()).await;
        assert!(event.is_err(), "unexpected {event:?}");
    }
}

fn name(name: &str) -> String {
    name.to_owned()
}

#[test]
fn on_link_servers_resolve_without_a_false_alarm() {
    let lab = Lab::new();
    lab.follow(&[SERVER_V4, SERVER_V6], async |mut watch: Watch| {
        let mut events = [watch.next().await, watch.next().await];
        events.sort_by_key(|event| event.server);
        for (event, source) in events.into_iter().zip(["10.0.0.1", "fd00::1"]) {
            let hop = event.hop.unwrap().remote().unwrap().clone();
            assert_eq!(hop.source, source.parse::<IpAddr>().unwrap());
            assert_eq!((hop.source_mac, hop.destination_mac), ([2, 0, 0, 0, 0, 1], SERVER_MAC));
            assert_eq!((hop.interface.as_str(), hop.via, hop.mtu), ("eth0", None, 1500));
        }
        watch.quiet_for(Duration::from_millis(300)).await;
    });
}

#[test]
fn through_a_gateway_of_either_family() {
    let lab = Lab::new();
    lab.balancer.ip("route add 172.16.0.0/24 via 10.0.0.11 mtu 1400");
    lab.balancer.ip("route add 172.17.0.0/24 via inet6 fd00::11");
    lab.balancer.ip("route add fd11::/64 via fd00::11 mtu 1420");
    // As BGP without addresses on the links makes them (RFC 5549).
    lab.server.ip("addr add fe80::11/64 dev eth0 nodad");
    lab.balancer.ip("route add 172.18.0.0/24 via inet6 fe80::11 dev eth0 mtu 1380");
    for (server, gateway, mtu) in [
        ("172.16.0.5", SERVER_V4, 1400),
        ("172.17.0.5", SERVER_V6, 1500),
        ("fd11::5", SERVER_V6, 1420),
        ("172.18.0.5", "fe80::11", 1380),
    ] {
        lab.follow(&[server], async move |mut watch: Watch| {
            let hop = watch.hop().await;
            assert_eq!(hop.via, Some(gateway.parse().unwrap()), "{server}");
            assert_eq!((hop.destination_mac, hop.mtu), (SERVER_MAC, mtu), "{server}");
            assert_eq!(hop.source, source_of(server), "{server}");
        });
    }
}

/// The balancer's address of the same family: a gateway's family changes nothing of it.
fn source_of(server: &str) -> IpAddr {
    if server.contains(':') { "fd00::1" } else { "10.0.0.1" }.parse().unwrap()
}

#[test]
fn a_gateway_of_the_other_family_is_looked_for_and_kept_warm() {
    let lab = Lab::new();
    lab.balancer.ip("route add 172.17.0.0/24 via inet6 fd00::12");
    lab.follow(&["172.17.0.5"], async |mut watch: Watch| {
        let missing = HopProblem::NoNeighbour {
            address: "fd00::12".parse().unwrap(),
            interface: name("eth0"),
        };
        assert_eq!(watch.problem().await, missing);
        assert!(missing.to_string().contains("neighbour discovery"), "{missing}");
        lab.server.ip("addr add fd00::12/64 dev eth0 nodad");
        assert_eq!(watch.hop().await.destination_mac, SERVER_MAC);
        lab.balancer.ip("neigh flush dev eth0");
        watch.quiet_for(Duration::from_millis(1500)).await;
        lab.balancer.ip("route change 172.17.0.0/24 via inet6 fd00::11");
        assert_eq!(watch.hop().await.via, Some(SERVER_V6.parse().unwrap()));
    });
}

#[test]
fn changes_of_the_mtu_are_told() {
    let lab = Lab::new();
    lab.balancer.ip("route add 172.16.0.0/24 via 10.0.0.11 mtu 1400");
    lab.follow(&["172.16.0.5"], async |mut watch: Watch| {
        let steps = [
            ("link show eth0", 1400),
            ("route change 172.16.0.0/24 via 10.0.0.11 mtu 1300", 1300),
            ("link set eth0 mtu 1280", 1280),
            ("link set eth0 mtu 1350", 1300),
            ("route change 172.16.0.0/24 via 10.0.0.11", 1350),
            ("link set eth0 mtu 1500", 1500),
        ];
        for (change, mtu) in steps {
            lab.balancer.ip(change);
            assert_eq!(watch.hop().await.mtu, mtu, "{change}");
        }
    });
    lab.follow(&[SERVER_V6], async |mut watch: Watch| {
        assert_eq!(watch.hop().await.mtu, 1500);
        lab.balancer.ip("link set eth0 mtu 1400");
        assert_eq!(watch.hop().await.mtu, 1400);
    });
}

#[test]
fn a_missing_route_is_told_and_its_coming_noticed() {
    let lab = Lab::new();
    lab.follow(&["172.16.0.5"], async |mut watch: Watch| {
        assert_eq!(watch.problem().await, HopProblem::NoRoute);
        lab.balancer.ip("route add 172.16.0.0/24 via 10.0.0.11");
        assert_eq!(watch.hop().await.via, Some(SERVER_V4.parse().unwrap()));
        lab.balancer.ip("route del 172.16.0.0/24");
        assert_eq!(watch.problem().await, HopProblem::NoRoute);
    });
}

#[test]
fn a_link_goes_down_and_comes_back() {
    let lab = Lab::new();
    lab.follow(&[SERVER_V4], async |mut watch: Watch| {
        watch.hop().await;
        for end in [&lab.balancer, &lab.server] {
            end.ip("link set eth0 down");
            assert_eq!(watch.problem().await, HopProblem::LinkDown { name: name("eth0") });
            end.ip("link set eth0 up");
            assert_eq!(watch.hop().await.destination_mac, SERVER_MAC);
        }
    });
}

#[test]
fn the_address_moves_to_another_mac() {
    let lab = Lab::new();
    lab.follow(&[SERVER_V4], async |mut watch: Watch| {
        assert_eq!(watch.hop().await.destination_mac, SERVER_MAC);
        // The kernel believes a new MAC only a second (`locktime`) after the last one.
        watch.quiet_for(Duration::from_millis(1200)).await;
        lab.server.ip("link set dev eth0 address 02:00:00:00:00:22");
        lab.server.ip("neigh flush dev eth0");
        // The server speaks, so it asks for the balancer's MAC and so shows its own.
        lab.server.inside(|| {
            let socket = UdpSocket::bind((SERVER_V4, 0)).unwrap();
            socket.send_to(b"hello", "10.0.0.1:9").unwrap();
        });
        let hop = watch.next().await.hop.unwrap();
        assert_eq!(hop.remote().unwrap().destination_mac, [2, 0, 0, 0, 0, 0x22]);
    });
}

#[test]
fn a_flushed_neighbour_is_found_again_without_an_event() {
    let lab = Lab::new();
    lab.follow(&[SERVER_V4], async |mut watch: Watch| {
        watch.hop().await;
        lab.balancer.ip("neigh flush dev eth0");
        watch.quiet_for(Duration::from_millis(1500)).await;
    });
}

#[test]
fn a_silent_neighbour_is_reported_and_found_when_it_comes() {
    let lab = Lab::new();
    lab.follow(&["10.0.0.12"], async |mut watch: Watch| {
        let address = "10.0.0.12".parse().unwrap();
        let missing = HopProblem::NoNeighbour { address, interface: name("eth0") };
        assert_eq!(watch.problem().await, missing);
        lab.server.ip("addr add 10.0.0.12/24 dev eth0");
        assert_eq!(watch.hop().await.destination_mac, SERVER_MAC);
        assert_eq!(watch.resolver.commands.strong_count(), 1);
    });
}

#[test]
fn a_route_by_another_interface_is_told_until_it_is_allowed() {
    let lab = Lab::new();
    lab.server.ip("addr add 10.1.0.5/24 dev eth1");
    lab.follow(&["10.1.0.5"], async |mut watch: Watch| {
        assert_eq!(watch.problem().await, HopProblem::WrongInterface { name: name("eth1") });
        watch.resolver.set_interfaces([name("eth0"), name("eth1")]);
        assert_eq!(watch.hop().await.interface, "eth1");
    });
}

#[test]
fn own_addresses_are_local() {
    let lab = Lab::new();
    for own in ["10.0.0.1", "127.0.0.9", "fd00::1"] {
        lab.follow(&[own], async |mut watch: Watch| {
            assert_eq!(watch.next().await.hop, Ok(NextHop::Local), "{own}");
            watch.quiet_for(Duration::from_millis(100)).await;
        });
    }
}

#[test]
fn a_server_moves_here_and_away() {
    let lab = Lab::new();
    for (server, bits) in [(SERVER_V4, 24), (SERVER_V6, 64)] {
        lab.follow(&[server], async |mut watch: Watch| {
            watch.hop().await;
            lab.balancer.ip(&format!("addr add {server}/{bits} dev eth1 nodad"));
            watch.local().await;
            lab.balancer.ip(&format!("addr del {server}/{bits} dev eth1"));
            assert_eq!(watch.hop().await.destination_mac, SERVER_MAC, "{server}");
        });
    }
}

#[test]
fn a_removed_server_is_followed_no_more() {
    let lab = Lab::new();
    lab.follow(&[SERVER_V4], async |mut watch: Watch| {
        watch.hop().await;
        watch.resolver.remove(SERVER_V4.parse().unwrap());
        lab.balancer.ip("link set eth0 down");
        watch.quiet_for(Duration::from_millis(300)).await;
    });
}

/// A worker that read `links` and has nothing to do.
fn idle(links: impl IntoIterator<Item = LinkMessage>) -> (Worker, mpsc::Receiver<NextHopEvent>) {
    let (events, receiver) = mpsc::channel(1);
    let links = links.into_iter().map(read).map(|link| (link.ifindex, link));
    let worker = Worker {
        notices: None,
        netlink: Netlink::open().unwrap(),
        allowed: BTreeSet::new(),
        links: links.collect(),
        attached: BTreeSet::new(),
        servers: BTreeMap::from([(SERVER_V4.parse().unwrap(), Server::default())]),
        work: Work::default(),
        refresh_at: Instant::now() + REFRESH,
        events,
    };
    (worker, receiver)
}

/// Whether the worker reads everything again, which all of these end in.
fn reads_all(worker: &Worker) -> bool {
    let address: IpAddr = SERVER_V4.parse().unwrap();
    let all = worker.work.links && worker.work.servers.contains(&address);
    assert_eq!(all, worker.due() <= Instant::now() + GATHER);
    all
}

#[test]
fn lost_notifications_make_everything_be_read_again() {
    let lab = Lab::new();
    lab.balancer.run(async {
        let (mut worker, _receiver) = idle([]);
        worker.note(Some(NetlinkPayload::Overrun(Vec::new())));
        assert!(reads_all(&worker));
    });
}

#[test]
fn links_are_read_again_if_a_fact_changed() {
    let lab = Lab::new();
    let tagged = || vlan(11, "eth0.5", 1, 5, VlanProtocol::Ieee8021Q);
    let known = || [plain(1, "eth0"), tagged(), bond(20, "bond0"), member(3, "eth2", 20)];
    let mtu = LinkAttribute::Mtu(1400);
    let mut down = bond(20, "bond0");
    down.header.flags = LinkFlags::Up;
    let mut port_state = plain(1, "eth0");
    port_state.header.interface_family = AddressFamily::Bridge;
    port_state.attributes.clear();
    lab.balancer.run(async {
        for (what, message, news) in [
            ("the same", plain(1, "eth0"), false),
            ("the same VLAN", tagged(), false),
            ("a bridge's message", port_state, false),
            ("a VLAN's MTU", with(tagged(), mtu.clone()), true),
            ("its parent's", with(plain(1, "eth0"), mtu), true),
            ("another tag", vlan(11, "eth0.5", 1, 6, VlanProtocol::Ieee8021Q), true),
            ("a member leaves", plain(3, "eth2"), true),
            ("a bond goes down", down, true),
            ("a new one", plain(9, "eth9"), true),
        ] {
            let (mut worker, _receiver) = idle(known());
            let message = RouteNetlinkMessage::NewLink(message);
            worker.note(Some(NetlinkPayload::InnerMessage(message)));
            assert_eq!(reads_all(&worker), news, "{what}");
        }
        let (mut worker, _receiver) = idle(known());
        let gone = RouteNetlinkMessage::DelLink(plain(3, "eth2"));
        worker.note(Some(NetlinkPayload::InnerMessage(gone)));
        assert!(reads_all(&worker));
    });
}
