//! The program replaced by one with more features, over the same maps: real packets through the
//! kernel's test runner.

use aya::programs::{TestRun, TestRunOptions};
use etherparse::PacketBuilder;
use lb_common::abi::{
    FEATURE_FILTERS, FEATURE_NAT, FEATURE_PREFIXES, FEATURE_QUIC, FEATURE_TUNNEL4, FEATURE_TUNNEL6,
};
use lb_common::verdict::Verdict;

use super::*;
use crate::config::model::XdpPolicy;
use crate::dataplane::attach::Attached;
use crate::net;

/// What the program answers (`enum xdp_action`).
const DROP: u32 = 1;
const PASS: u32 = 2;

impl World {
    /// A node whose program is loaded with these features.
    fn with_features(features: u32) -> Self {
        Self::load(Limits::default(), features)
    }

    /// The packet through the program in the kernel.
    fn packet(&mut self, from: [u8; 4], to: [u8; 4]) -> u32 {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64);
        builder.tcp(40_000, 80, 1, 1000).syn().write(&mut frame, &[]).unwrap();
        let mut out = vec![0; 2048];
        let run = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        self.loaded.program().unwrap().test_run(run).unwrap().return_value
    }

    /// Packets sent to the first service's backends.
    fn counted(&self) -> u64 {
        let maps = &self.node.arena.maps;
        (0..2).map(|b| maps.traffic(self.running().tables.row(b)).packets).sum()
    }
}

const CLIENT: [u8; 4] = [198, 51, 100, 7];
const VIP: [u8; 4] = [192, 0, 2, 10];
/// In a prefix of VIPs.
const WIDE: [u8; 4] = [192, 0, 3, 77];

#[test]
fn a_program_with_more_features_goes_on_with_the_same_maps() {
    Namespace::new().run(async {
        let mut world = World::with_features(0);
        assert_eq!(world.loaded.features(), 0);
        let web_service = web(Mode::Dsr, Probe::Tcp, backends("b", 0..2));
        world.try_apply(std::slice::from_ref(&web_service), true).unwrap();
        ["b0", "b1"].iter().for_each(|name| world.health(name, true));
        for backend in &web_service.backends {
            world.node.on_next_hop(backend.address, Ok(NextHop::Local)).unwrap();
        }
        assert_eq!(world.packet(CLIENT, VIP), PASS);
        assert_eq!(world.counted(), 1);

        // What the new program needs is not there yet, and it does what the old one did.
        world.loaded.widen(FEATURE_FILTERS | FEATURE_PREFIXES, &[]).await.unwrap();
        assert_eq!(world.loaded.features(), FEATURE_FILTERS | FEATURE_PREFIXES);
        let seen = world.node.arena.maps.settings().features;
        assert_eq!(seen, world.loaded.features(), "lb explain goes by them");
        assert_eq!(world.packet(CLIENT, VIP), PASS);
        assert_eq!(world.counted(), 2, "counted where the first program counted");

        // A word written before the reload and one written after.
        world.health("b0", false);
        world.loaded.widen(FEATURE_NAT, &[]).await.unwrap();
        world.health("b1", false);
        assert_eq!(world.packet(CLIENT, VIP), DROP);
        assert_eq!(world.node.arena.maps.verdicts(Verdict::DropNoBackend), 1);
        world.health("b1", true);
        assert_eq!(world.packet(CLIENT, VIP), PASS);

        // And what takes the features: hash maps filled by system calls.
        let wide = model::Service {
            name: "wide".into(),
            listen: vec!["192.0.3.0/24:80/tcp".parse().unwrap()],
            ..web(Mode::Dsr, Probe::None, backends("w", 0..1))
        };
        world.apply(&[web_service, wide]);
        assert_eq!(world.packet(CLIENT, WIDE), PASS);
        let row = world.node.services[1].tables.row(0);
        assert_eq!(world.node.arena.maps.traffic(row).packets, 1);
        let blocked = BTreeSet::from(["198.51.100.0/24".parse().unwrap()]);
        world.node.set_blocked(blocked).unwrap();
        assert_eq!(world.packet(CLIENT, WIDE), DROP);
        assert_eq!(world.node.arena.maps.verdicts(Verdict::DropBlocked), 1);
    });
}

#[test]
fn without_a_feature_what_needs_it_is_not_there() {
    Namespace::new().run(async {
        let mut world = World::with_features(0);
        world.try_apply(&[web(Mode::Dsr, Probe::None, backends("b", 0..2))], true).unwrap();
        let blocked = BTreeSet::from(["198.51.100.0/24".parse().unwrap()]);
        world.node.set_blocked(blocked).unwrap();
        world.packet(CLIENT, VIP);
        assert_eq!(world.node.arena.maps.verdicts(Verdict::DropBlocked), 0);
        world.loaded.widen(FEATURE_FILTERS, &[]).await.unwrap();
        world.packet(CLIENT, VIP);
        assert_eq!(world.node.arena.maps.verdicts(Verdict::DropBlocked), 1);
    });
}

/// The program that the kernel says an interface runs, and how.
fn program_on(interface: &str) -> (u64, String) {
    let shown = std::process::Command::new("ip")
        .args(["-d", "-j", "link", "show", interface])
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let xdp = &shown[0]["xdp"];
    let id = xdp["attached"][0]["prog"]["id"].as_u64().or(xdp["prog"]["id"].as_u64());
    (id.unwrap_or(0), xdp["mode"].to_string())
}

#[test]
fn interfaces_run_the_new_program_in_the_mode_they_ran_the_old_one() {
    Namespace::new().run(async {
        let ip = |arguments: &str| {
            let mut command = std::process::Command::new("ip");
            assert!(command.args(arguments.split(' ')).status().unwrap().success(), "{arguments}");
        };
        ip("link add one type veth peer name other");
        ip("link add gone type veth peer name far");
        let mut loaded = World::with_features(0).loaded;
        let policies = [("one", XdpPolicy::Native), ("other", XdpPolicy::Generic)];
        let mut attached = Vec::new();
        for (name, policy) in policies.into_iter().chain([("gone", XdpPolicy::Generic)]) {
            let link = net::devices(&[name.to_owned()]).await;
            let index = link.map(|links| links[0].ifindex).unwrap();
            attached.push(Attached::new(loaded.program().unwrap(), name, index, policy).unwrap());
        }
        let before = ["one", "other"].map(program_on);
        assert_ne!(before[0].1, before[1].1, "{before:?}");
        // An interface that is gone keeps nobody from a change.
        ip("link del gone");
        loaded.widen(FEATURE_NAT, &attached).await.unwrap();
        let after = ["one", "other"].map(program_on);
        for (before, after) in before.iter().zip(&after) {
            assert!(before.0 != 0 && after.0 != 0 && before.0 != after.0, "{before:?} {after:?}");
            assert_eq!(before.1, after.1);
        }
        loaded.widen(FEATURE_NAT, &attached).await.unwrap();
        assert_eq!(["one", "other"].map(program_on), after, "nothing is loaded twice");
        drop(attached);
        assert_eq!(["one", "other"].map(|name| program_on(name).0), [0, 0]);
    });
}

#[test]
fn what_is_not_used_is_not_verified() {
    run(|| {
        let sets = [
            ("none", 0),
            ("nat", FEATURE_NAT),
            ("tunnel4", FEATURE_TUNNEL4),
            ("tunnel6", FEATURE_TUNNEL6),
            ("both tunnels", FEATURE_TUNNEL4 | FEATURE_TUNNEL6),
            ("prefixes", FEATURE_PREFIXES),
            ("quic", FEATURE_QUIC),
            ("filters", FEATURE_FILTERS),
            ("all", FEATURES_ALL),
        ];
        let counts = sets.map(|(name, features)| {
            let count = World::with_features(features).loaded.verified_instructions;
            let count = count.expect("kernels since 5.16 tell");
            println!("{name:>12}: {count:>7} instructions followed");
            count
        });
        let (none, all) = (counts[0], counts[sets.len() - 1]);
        assert!(counts[1..].iter().all(|count| *count > none), "{counts:?}");
        assert!(counts[..sets.len() - 1].iter().all(|count| *count < all), "{counts:?}");
    });
}
