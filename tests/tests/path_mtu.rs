//! Bulk through paths that are narrower than both ends believe: by path MTU discovery, whose
//! messages go to a VIP, or are the balancer's own where a tunnel's headers leave too little room.
//!
//! Each case has its control: the same transfer fails once routers swallow ICMP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use lb_tests::{Balancer, Decap, Family, Lab, Mode, ServiceConfig, Topology, download, upload};

/// For what should work: retransmissions of the first packets lost are part of it.
const PATIENCE: Duration = Duration::from_secs(15);
/// For what should not.
const IMPATIENCE: Duration = Duration::from_secs(3);
const NARROW: u16 = 1400;

struct Scene {
    /// Of tunnels; before the lab, which takes its namespaces away.
    _decaps: Vec<Decap>,
    lab: Lab,
    balancer: Balancer,
}

impl Scene {
    /// A far client, and a service for each family of VIPs.
    fn start(mode: Mode, servers: impl Fn(Family) -> Family, link: u16, more: &str) -> Self {
        Self::of(Topology::new(mode, 2).far(link), servers, more)
    }

    fn of(topology: Topology, servers: impl Fn(Family) -> Family, more: &str) -> Self {
        let mode = topology.mode;
        let lab = Lab::build(topology).unwrap();
        let decaps = Decap::if_needed(&lab).unwrap();
        let services = ServiceConfig::both(mode).map(|service| ServiceConfig {
            servers: servers(service.family),
            // Bulk of several clients, and a disk that others use: slow, but not down.
            health: "http = \"/healthz\", port = 80, interval = \"500ms\", timeout = \"5s\"".into(),
            more: more.into(),
            ..service
        });
        let balancer = Balancer::serving(&lab, &services).unwrap();
        Self { _decaps: decaps, lab, balancer }
    }

    fn forbid_icmp(&self) {
        self.lab.forbid_icmp().unwrap();
        self.lab.forget_path_mtus().unwrap();
    }

    /// What comes through of bulk in both directions and families at once: all of it, or nothing.
    fn all_at_once(&self, limit: Duration) -> bool {
        let whole = thread::scope(|scope| {
            let transfers = Family::ALL.map(|family| {
                let down = scope.spawn(move || self.download(family, limit));
                [down, scope.spawn(move || self.upload(family, limit))]
            });
            transfers.map(|both| both.map(|transfer| transfer.join().unwrap()))
        });
        println!("[download, upload] by family: {whole:?}");
        let whole = whole.as_flattened();
        assert!(whole.iter().all(|one| *one == whole[0]), "{whole:?}: {}", self.balancer.log());
        whole[0]
    }

    fn download(&self, family: Family, limit: Duration) -> bool {
        download(&self.lab, SocketAddr::new(family.vip(), 80), limit).unwrap()
    }

    fn upload(&self, family: Family, limit: Duration) -> bool {
        upload(&self.lab, SocketAddr::new(family.vip(), 80), limit).unwrap()
    }

    /// How often a router's word about the way of a tunnel was new to the balancer.
    fn ways_learned(&self) -> usize {
        self.balancer.log().lines().filter(|line| line.contains("smaller MTU")).count()
    }

    fn count(&self, name: &str) -> u64 {
        self.balancer.count().unwrap().of(name).unwrap()
    }
}

/// A link of 1,400 bytes between two routers, somewhere on the way to the client.
fn narrow(mode: Mode, servers: impl Fn(Family) -> Family) {
    let scene = Scene::start(mode, servers, NARROW, "");
    for family in Family::ALL {
        let quoted = scene.count("quoted");
        assert!(scene.download(family, PATIENCE), "{mode} {family}: {}", scene.balancer.log());
        let errors = scene.count("quoted") - quoted;
        println!("{mode} {family}: {errors} ICMP errors followed to a backend");
        assert!(errors > 0, "the backend learned of the narrow link by none");
        assert!(scene.upload(family, PATIENCE), "{mode} {family}");
    }
    assert_eq!(scene.count("drop-icmp-no-flow"), 0);
    assert_eq!(scene.count("too-big-sent"), 0, "1,400 bytes and a tunnel's headers fit 1,500");
    scene.forbid_icmp();
    for family in Family::ALL {
        assert!(!scene.download(family, IMPATIENCE), "{mode} {family}: without ICMP, too");
        assert!(!scene.upload(family, IMPATIENCE), "{mode} {family}: without ICMP, too");
    }
    scene.balancer.stop().unwrap();
}

#[test]
fn narrow_nat() {
    narrow(Mode::Nat, |family| family);
}

#[test]
fn narrow_dsr() {
    narrow(Mode::Dsr, |_| Family::V4);
}

#[test]
fn narrow_ipip() {
    narrow(Mode::Ipip, |_| Family::V6);
}

#[test]
fn narrow_gue() {
    narrow(Mode::Gue, |_| Family::V4);
}

/// The same link between the balancer and its backends. What is told of a tunnel's packet comes to
/// the balancer, which tells the clients; of a VIP's, that a backend sent, goes to that backend; and
/// `nat` translates what is told of its packets.
fn narrow_behind(mode: Mode, servers: impl Fn(Family) -> Family) {
    let scene = Scene::of(Topology::new(mode, 2).behind(NARROW), servers, "");
    // First, as later all have learned how narrow it is.
    scene.lab.forbid_icmp().unwrap();
    assert!(!scene.all_at_once(IMPATIENCE), "{mode}: without ICMP, too");
    assert_eq!((scene.count("quoted"), scene.ways_learned()), (0, 0));
    // That their packets do not fit 1,500 bytes in a tunnel, clients are told by the balancer.
    let before = scene.count("too-big-sent");
    scene.lab.allow_icmp().unwrap();
    assert!(scene.all_at_once(PATIENCE), "{mode}: {}", scene.balancer.log());
    let (quoted, learned) = (scene.count("quoted"), scene.ways_learned());
    let told = scene.count("too-big-sent") - before;
    println!(
        "{mode}: {quoted} ICMP errors followed, {learned} ways learned, {told} packets too big"
    );
    assert!(quoted > 0);
    let tunnel = mode.is_tunnel();
    assert_eq!((told > 0, learned > 0), (tunnel, tunnel), "{}", scene.balancer.log());
    for name in ["drop-internal", "drop-too-big", "drop-no-next-hop"] {
        assert_eq!(scene.count(name), 0, "{name}");
    }
    scene.balancer.stop().unwrap();
}

#[test]
fn narrow_behind_nat() {
    narrow_behind(Mode::Nat, |family| family);
}

#[test]
fn narrow_behind_ipip_over_ipv4() {
    narrow_behind(Mode::Ipip, |_| Family::V4);
}

#[test]
fn narrow_behind_ipip_over_ipv6() {
    narrow_behind(Mode::Ipip, |_| Family::V6);
}

#[test]
fn narrow_behind_gue_over_ipv4() {
    narrow_behind(Mode::Gue, |_| Family::V4);
}

#[test]
fn narrow_behind_gue_over_ipv6() {
    narrow_behind(Mode::Gue, |_| Family::V6);
}

/// 1,500 bytes everywhere: clients' full packets do not fit once they have a tunnel's headers.
fn overhead(mode: Mode, servers: Family) {
    let scene = Scene::start(mode, |_| servers, 1500, "");
    for family in Family::ALL {
        let told = scene.count("too-big-sent");
        assert!(scene.upload(family, PATIENCE), "{mode} {family} over {servers}");
        let told = scene.count("too-big-sent") - told;
        println!("{mode} {family} over {servers}: {told} packets too big, their sender told");
        assert!(told > 0);
        assert!(scene.download(family, PATIENCE), "{mode} {family} over {servers}");
    }
    scene.forbid_icmp();
    for family in Family::ALL {
        assert!(!scene.upload(family, IMPATIENCE), "{mode} {family} over {servers}: untold, too");
        assert!(scene.download(family, PATIENCE), "replies go by no tunnel");
    }
    scene.balancer.stop().unwrap();
}

#[test]
fn overhead_of_ipip_over_ipv4() {
    overhead(Mode::Ipip, Family::V4);
}

#[test]
fn overhead_of_ipip_over_ipv6() {
    overhead(Mode::Ipip, Family::V6);
}

#[test]
fn overhead_of_gue_over_ipv4() {
    overhead(Mode::Gue, Family::V4);
}

#[test]
fn overhead_of_gue_over_ipv6() {
    overhead(Mode::Gue, Family::V6);
}

/// What `mss` is for: no packet is too big in the first place. In `nat` both handshakes' packets
/// pass the balancer.
#[test]
fn a_lowered_mss_needs_no_icmp_in_nat() {
    let scene = Scene::start(Mode::Nat, |family| family, NARROW, "mss = 1340\n");
    scene.forbid_icmp();
    for family in Family::ALL {
        assert!(scene.upload(family, PATIENCE) && scene.download(family, PATIENCE), "{family}");
    }
    assert!(scene.count("mss-clamped") >= 2 * 4, "SYN and SYN-ACK of four connections");
    scene.balancer.stop().unwrap();
}

/// Elsewhere the SYN alone passes, which bounds what backends send. What clients send is for the
/// backends' own routes to bound.
#[test]
fn a_lowered_mss_bounds_replies_that_do_not_pass() {
    let scene = Scene::start(Mode::Gue, |_| Family::V6, NARROW, "mss = 1340\n");
    scene.forbid_icmp();
    for family in Family::ALL {
        assert!(scene.download(family, PATIENCE), "{family}");
        assert!(!scene.upload(family, IMPATIENCE), "{family}");
    }
    scene.lab.announce_mss(1340).unwrap();
    for family in Family::ALL {
        assert!(scene.upload(family, PATIENCE), "{family}");
    }
    assert_eq!(scene.count("too-big-sent"), 0);
    scene.balancer.stop().unwrap();
}
