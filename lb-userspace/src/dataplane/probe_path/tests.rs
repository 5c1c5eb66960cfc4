//! The programs on an interface, and off it again, by either means.

use std::process::Command;

use aya::programs::TcAttachType;
use aya::programs::tc::{NlOptions, TcAttachOptions};
use lb_common::abi::Settings;

use super::*;
use crate::net::testbed::Namespace;

fn settings() -> Settings {
    Settings { gue_port: 6080, ..bytemuck::Zeroable::zeroed() }
}

/// A namespace with an interface.
fn place() -> Namespace {
    let here = Namespace::new();
    here.ip("link add eth0 address 02:00:00:00:00:01 type veth peer name eth1");
    here
}

fn tc(arguments: &str) -> String {
    let output = Command::new("tc").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "tc {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Filters of ours, in both directions.
fn filters() -> usize {
    let all = ["ingress", "egress"].map(|way| tc(&format!("filter show dev eth0 {way}")));
    all.iter().map(|text| text.matches("direct-action").count()).sum()
}

fn clsact() -> bool {
    tc("qdisc show dev eth0").contains("clsact")
}

#[test]
fn filters_come_and_go() {
    let here = place();
    here.run(async {
        let eth0 = net::devices(&["eth0".into()]).await.unwrap();
        let attach = || {
            let mut programs = Programs::load(&settings()).unwrap();
            programs.attach_to(&eth0[0], Means::Filters).unwrap();
            programs
        };
        let programs = attach();
        assert_eq!((filters(), clsact()), (2, true));
        programs.detach().await.unwrap();
        assert!(!clsact());

        // What a killed daemon leaves is taken off by the next; its `clsact` is nobody's, and stays.
        std::mem::forget(attach());
        let next = attach();
        assert_eq!(filters(), 2);
        next.detach().await.unwrap();
        assert_eq!((filters(), clsact()), (0, true));
    });
}

#[test]
fn a_clsact_that_others_use_stays() {
    let here = place();
    here.run(async {
        let eth0 = net::devices(&["eth0".into()]).await.unwrap();
        let mut programs = Programs::load(&settings()).unwrap();
        programs.attach_to(&eth0[0], Means::Filters).unwrap();
        let mut others = Programs::load(&settings()).unwrap();
        let filter = TcAttachOptions::Netlink(NlOptions::default());
        let theirs = others.program(TcAttachType::Ingress).unwrap();
        theirs.attach_with_options("eth0", TcAttachType::Ingress, filter).unwrap();
        programs.detach().await.unwrap();
        assert_eq!((filters(), clsact()), (1, true));
    });
}

#[test]
fn links_leave_nothing_behind() {
    let here = place();
    here.run(async {
        let eth0 = net::devices(&["eth0".into()]).await.unwrap();
        let mut programs = Programs::load(&settings()).unwrap();
        assert_eq!(programs.attach(&eth0).unwrap(), Means::Links);
        assert_eq!((filters(), clsact()), (0, false));
        programs.detach().await.unwrap();
        let mut again = Programs::load(&settings()).unwrap();
        again.attach_to(&eth0[0], Means::Links).unwrap();
    });
}

#[test]
fn sources_of_another_family_are_looked_for_on_our_interfaces() {
    let here = place();
    here.ip("addr add 10.0.0.1/24 dev eth0");
    here.ip("addr add 10.9.0.1/24 dev eth1");
    here.ip("addr add fd00::1/64 dev eth0 nodad");
    here.run(async {
        let maps = LiveMaps::in_memory(
            Settings { service_mask: 63, backend_rows: 16, ..settings() },
            16,
            16,
        );
        let maps = Arc::new(maps.unwrap());
        let source = |interfaces: &[&str], vip: &str| {
            let names = interfaces.iter().map(ToString::to_string).collect();
            ProbePath::new(Arc::clone(&maps), names).source_for(vip.parse().unwrap())
        };
        let own = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(source(&["eth0"], "192.0.2.10"), own("10.0.0.1"));
        assert_eq!(source(&["eth1"], "192.0.2.10"), own("10.9.0.1"));
        assert_eq!(source(&["eth0"], "2001:db8::10"), own("fd00::1"));
        assert_eq!(source(&["eth1"], "2001:db8::10"), None, "its link-local address is no way");
        // The VIP may be one of them.
        assert_eq!(source(&["eth1"], "10.9.0.1"), None);
    });
}

/// The way without a kernel.
impl ProbePath {
    pub(crate) fn open_in_memory(&self) {
        self.probes.set(Entries::in_memory(16, false)).unwrap();
    }

    pub(crate) fn in_memory(&self) -> Vec<(u32, ProbeEntry)> {
        let mut all = Vec::new();
        let probes = self.probes.get().unwrap();
        probes.for_each(|key, entry| all.push((*key, *entry))).unwrap();
        all
    }

    pub(crate) fn set_server_in_memory(&self, number: u32, server: Server) {
        self.maps.servers.set(number, server).unwrap();
    }
}
