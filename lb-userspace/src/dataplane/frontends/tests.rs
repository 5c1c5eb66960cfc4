//! What the program finds in the planned records is what looking at every frontend gives.

use proptest::prelude::*;

use super::*;
use crate::dataplane::services::ServiceTable;
use crate::dataplane::testbed::{Bed, Packet, addresses, edges, listeners, packets, template};

fn listener(text: &str, service: usize, keeps_fragments: bool) -> Listener {
    Listener { frontend: text.parse().unwrap(), service, keeps_fragments }
}

fn written(listeners: &[Listener]) -> (Plan, Bed) {
    let (plan, bed) = (Plan::of(listeners), Bed::new());
    ServiceTable::new(&bed).sync(&plan.wanted(template)).unwrap();
    (plan, bed)
}

proptest! {
    #[test]
    fn the_most_specific_frontend_has_the_packet(
        listeners in listeners(), others in prop::collection::vec(any::<u16>(), 8),
    ) {
        let (plan, bed) = written(&listeners);
        let memory = bed.memory.borrow();
        prop_assert_eq!(memory.records(), plan.keys().count());
        let strangers = others.iter().flat_map(|port| {
            addresses().into_iter().map(|to| Packet { to, port: *port, protocol: Protocol::Tcp })
        });
        for packet in packets().into_iter().chain(strangers) {
            let owner = packet.owner(&listeners);
            prop_assert_eq!(memory.find(&packet), owner, "{:?}", packet);
            let found = plan.find(packet.to, packet.port, number(packet.protocol));
            prop_assert_eq!(found, owner, "{:?}", packet);
        }
    }

    #[test]
    fn fragments_go_where_every_port_goes(listeners in listeners()) {
        let (_, bed) = written(&listeners);
        let memory = bed.memory.borrow();
        for to in addresses() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let at = |port| Packet { to, port, protocol };
                let found = memory.find_fragment(&at(0)).map(|service| service.number as usize);
                let around = |l: &&Listener| {
                    l.frontend.protocol == protocol
                        && l.frontend.vip.contains(to)
                        && l.frontend.ports.last > 0
                };
                let around: Vec<&Listener> = listeners.iter().filter(around).collect();
                match found {
                    Some(service) => {
                        let mut of = around.iter().filter(|l| l.service == service);
                        prop_assert!(of.all(|l| l.keeps_fragments));
                        for port in edges() {
                            let owner = at(port).owner(&listeners);
                            prop_assert!(owner.is_none_or(|owner| owner == service));
                        }
                    }
                    None => {
                        let one = around.first().map(|l| l.service);
                        let all = one.is_some_and(|one| {
                            around.iter().all(|l| l.service == one && l.keeps_fragments)
                        });
                        prop_assert!(!all, "{to} {protocol}: they could go to {one:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_range_is_at_most_so_many_blocks(a: u16, b: u16) {
        let (first, last) = (a.min(b), a.max(b));
        let blocks = blocks((first, last));
        prop_assert!(blocks.len() <= MOST_BLOCKS);
        let mut next = u32::from(first);
        for (port, bits) in blocks {
            prop_assert_eq!(u32::from(port), next);
            prop_assert_eq!(port & block_mask(bits), port);
            next += 1 << (PORT_EXACT - bits);
        }
        prop_assert_eq!(next, u32::from(last) + 1);
    }
}

#[test]
fn the_worst_range_and_the_best() {
    assert_eq!(blocks((1, 65_534)).len(), MOST_BLOCKS);
    assert_eq!(blocks((0, 65_535)), [(0, 0)]);
    assert_eq!(blocks((80, 80)), [(80, 16)]);
    let count = |text: &str| Plan::of(&[listener(text, 0, false)]).keys().count();
    assert_eq!(count("192.0.2.1:80/tcp"), 2, "the frontend and its VIP");
    assert_eq!(count("192.0.2.1:*/tcp"), 2);
    assert_eq!(count("192.0.2.1:1-65534/tcp"), 1 + 16, "port 0 is nobody's");
    assert_eq!(count("192.0.2.1:2-65534/tcp"), 1 + 29);
}

#[test]
fn a_range_within_another_needs_no_hole() {
    let wide = listener("192.0.2.1:8000-8999/tcp", 0, false);
    let narrow = listener("192.0.2.1:8100/tcp", 1, false);
    let before = Plan::of(&[wide]);
    let after = Plan::of(&[wide, narrow]);
    assert_eq!(after.keys().count(), before.keys().count() + 1);
    assert!(before.records().all(|(key, role)| after.records().any(|r| r == (key, role))));
}

#[test]
fn a_prefix_inherits_the_ports_it_does_not_define() {
    let plan = Plan::of(&[
        listener("10.0.0.0/8:80/tcp", 0, true),
        listener("10.0.0.0/8:53/udp", 0, true),
        listener("10.1.0.0/16:80/tcp", 1, false),
        listener("10.1.0.0/16:443/tcp", 1, false),
        listener("10.1.2.3:22/tcp", 0, true),
    ]);
    let find = |to: [u8; 4], port, protocol| plan.find(to.into(), port, protocol);
    assert_eq!(find([10, 1, 0, 1], 80, TCP), Some(1));
    assert_eq!(find([10, 1, 0, 1], 53, UDP), Some(0), "inherited");
    assert_eq!(find([10, 1, 2, 3], 80, TCP), Some(1), "an address inherits by missing");
    assert_eq!(find([10, 2, 0, 1], 443, TCP), None);
    let inner = Prefix::around([10, 1, 0, 0].into(), 16);
    assert!(plan.keys().any(|key| key == Key::range(inner, 53, PORT_EXACT, UDP)));
    let fragments = |vip, protocol| {
        plan.records().find(|(key, _)| *key == Key::fragments(vip, protocol)).map(|(_, role)| role)
    };
    let outer = Prefix::around([10, 0, 0, 0].into(), 8);
    assert_eq!(fragments(outer, TCP), Some(Role::Service(0)));
    assert_eq!(fragments(inner, TCP), None, "of a service that looks at ports");
    assert_eq!(fragments(inner, UDP), Some(Role::Service(0)));
}

#[test]
fn an_address_of_others_has_none_of_its_prefixs_fragments() {
    let plan = Plan::of(&[
        listener("10.0.0.0/8:*/udp", 0, true),
        listener("10.1.2.3:53/udp", 1, false),
        listener("10.1.2.4:53/udp", 0, true),
    ]);
    let of = |host: [u8; 4]| {
        let key = Key::fragments(Prefix::host(host.into()), UDP);
        plan.records().find(|(k, _)| *k == key).map(|(_, role)| role)
    };
    assert_eq!(of([10, 1, 2, 3]), Some(Role::NoFragments));
    assert_eq!(of([10, 1, 2, 4]), Some(Role::Service(0)));
}
