//! Where the balancer's own addresses, other services, routers and other interfaces are on the way;
//! and when the programs come and go.

use lb_tests::{Balancer, Decap, Family, Lab, Mode, ServiceConfig, Topology};

use crate::{LIMIT, down, give_vip, service, take_vip, up, vip_on_lo};

/// A backend without the VIP is found, and with it is well again.
fn check_vip(lab: &Lab, balancer: &Balancer, vip: Family) {
    let first = lab.backend(0).unwrap();
    take_vip(first, vip);
    let reason = down(balancer);
    assert!(reason.starts_with("path broken: "), "{reason}\n{}", balancer.log());
    give_vip(first, vip);
    up(balancer);
}

#[test]
fn the_vip_may_be_an_address_of_the_balancer() {
    for vip in Family::ALL {
        let lab = Lab::build(Topology::new(Mode::Dsr, 2)).unwrap();
        vip_on_lo(lab.balancer(), "add", vip);
        let balancer = Balancer::serving(&lab, &[service(Mode::Dsr, vip, vip)]).unwrap();
        check_vip(&lab, &balancer, vip);
        balancer.stop().unwrap();
    }
}

#[test]
fn the_balancers_address_may_be_a_vip_and_nats() {
    for family in Family::ALL {
        let lab = Lab::build(Topology::new(Mode::Dsr, 3)).unwrap();
        let own = std::net::SocketAddr::new(lab.topology().balancer(family), 80);
        // Answers to probes come in at this address, which is a VIP, and where `nat` gets its replies.
        let with_backends = |service: ServiceConfig, servers: &[u8]| ServiceConfig {
            backends: Some(
                servers
                    .iter()
                    .map(|server| lb_tests::BackendConfig {
                        name: format!("web-0{}", server + 1),
                        server: *server,
                        weight: 1,
                    })
                    .collect(),
            ),
            ..service
        };
        let nat = ServiceConfig {
            name: "nat".into(),
            listen: vec![format!("{own}/tcp")],
            ..ServiceConfig::quick(Mode::Nat, family)
        };
        let services =
            [with_backends(service(Mode::Dsr, family, family), &[0, 1]), with_backends(nat, &[2])];
        let balancer = Balancer::serving(&lab, &services).unwrap();
        check_vip(&lab, &balancer, family);
        balancer.stop().unwrap();
    }
}

#[test]
fn the_way_may_leave_by_another_interface_or_through_routers() {
    let topologies = [
        (Mode::Dsr, Topology::new(Mode::Dsr, 2).two_armed()),
        (Mode::Gue, Topology::new(Mode::Gue, 2).two_armed()),
        (Mode::Ipip, Topology::new(Mode::Ipip, 2).behind(1400)),
    ];
    for (mode, topology) in topologies {
        for vip in Family::ALL {
            let lab = Lab::build(topology.clone()).unwrap();
            let _decaps = Decap::if_needed(&lab).unwrap();
            let balancer = Balancer::serving(&lab, &[service(mode, vip, vip)]).unwrap();
            check_vip(&lab, &balancer, vip);
            balancer.stop().unwrap();
        }
    }
}

#[test]
fn a_request_of_several_segments_fits_into_a_tunnel() {
    for mode in [Mode::Ipip, Mode::Gue] {
        for servers in Family::ALL {
            for vip in Family::ALL {
                let lab = Lab::build(Topology::new(mode, 1)).unwrap();
                let _decaps = Decap::if_needed(&lab).unwrap();
                let (path, host) = ("p".repeat(1000), "h".repeat(1000));
                let health =
                    format!("http = \"/healthz?{path}\", host = \"{host}\", interval = \"300ms\"");
                let service = ServiceConfig { health, ..service(mode, servers, vip) };
                let balancer = Balancer::serving(&lab, &[service]).unwrap();
                take_vip(lab.backend(0).unwrap(), vip);
                assert!(down(&balancer).starts_with("path broken: "), "{mode} {servers} {vip}");
                balancer.stop().unwrap();
            }
        }
    }
}

#[test]
fn the_programs_come_with_the_first_service_that_needs_them() {
    let lab = Lab::build(Topology::new(Mode::Dsr, 2)).unwrap();
    let family = Family::V4;
    let plain = ServiceConfig {
        health: "tcp = true, via = \"address\"".into(),
        ..service(Mode::Dsr, family, family)
    };
    let balancer = Balancer::serving(&lab, std::slice::from_ref(&plain)).unwrap();
    assert!(!balancer.log().contains("probes take the way"), "{}", balancer.log());
    take_vip(lab.backend(0).unwrap(), family);

    balancer.apply(&lab, &[service(Mode::Dsr, family, family)]).unwrap();
    assert!(balancer.log().contains("probes take the way"), "{}", balancer.log());
    assert!(down(&balancer).starts_with("path broken: "));
    balancer.apply(&lab, std::slice::from_ref(&plain)).unwrap();
    up(&balancer);

    // Whatever a killed daemon leaves behind, the next one takes its place.
    balancer.apply(&lab, &[service(Mode::Dsr, family, family)]).unwrap();
    balancer.wait_for_health("web", "web-01", "down", LIMIT).unwrap();
    drop(balancer);
    let balancer = Balancer::run(&lab, &Balancer::binary().unwrap()).unwrap();
    assert!(down(&balancer).starts_with("path broken: "));
    give_vip(lab.backend(0).unwrap(), family);
    up(&balancer);
    balancer.stop().unwrap();
}
