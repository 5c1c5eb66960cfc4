//! ICMP errors about flows: to the backend that the flow goes to, or through NAT in both
//! directions, with the quoted packet as the receiver knows it.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::Server;
use lb_common::verdict::{Event, Verdict};

use crate::checks::answer_to;
use crate::decode::{Decoded, Message, tag, untagged};
use crate::frames::*;
use crate::rig::{Action, End, Sizes};
use crate::world::{Feature, OUR_MAC, TCP, UDP, VIP4, VIP6, Way, World, nat_address, port};

/// Bytes quoted behind the IP header: what there must be at least; up to a TCP checksum, without
/// and with it; all. (Of half a checksum nothing is changed.)
const QUOTED: [usize; 5] = [8, 16, 18, 20, 40];

/// "Too big", of either family.
fn error(from: IpAddr, to: IpAddr, hops: u8, quote: &[u8]) -> Vec<u8> {
    let kind = if to.is_ipv4() { (3, 4) } else { (2, 0) };
    icmp(&Outside { hops, ..FROM_CLIENT }, from, to, kind, 1400, quote)
}

pub(crate) fn router(six: bool) -> IpAddr {
    if six { "2001:db8:77::1" } else { "198.51.100.254" }.parse().unwrap()
}

/// A connection of NAT as seen on both sides, all frames without tags.
pub(crate) struct Connection {
    pub(crate) row: u32,
    server: Server,
    /// The client's packet, and as its backend gets it.
    asked: Vec<u8>,
    pub(crate) got: Vec<u8>,
    /// The backend's packet, and as the client gets it.
    answer: Vec<u8>,
    pub(crate) answered: Vec<u8>,
}

pub(crate) fn connect(
    world: &mut World,
    six: bool,
    protocol: u8,
    from: u16,
    feature: Feature,
) -> Connection {
    let to = SocketAddr::new(if six { VIP6 } else { VIP4 }, port(feature, Way::Nat));
    let payload = [0x42; 60];
    let asked = frame(&FROM_CLIENT, client(to, from), to, protocol, SYN, &payload);
    let out = world.rig.run(&asked);
    let End::Backend(row) = out.end else { panic!("{out:?}") };
    let (group, index) = world.backend(row);
    let server = group.servers[index];
    let got = untagged(&out.frame);
    let answer = answer_to(&Decoded::of(&got), &server, 1460);
    let answered = untagged(&world.rig.run(&answer).frame);
    Connection { row, server, asked, got, answer: untagged(&answer), answered }
}

/// The quote of a packet as its sender sent it, but for the hops that were taken since.
fn as_sent(sent: &[u8], arrived: &[u8], behind: usize) -> Vec<u8> {
    let hops = arrived[if is_v4(arrived) { 22 } else { 21 }];
    quote(&with_hops(sent.to_vec(), hops), behind)
}

#[test]
fn errors_about_answers_go_to_the_backend_that_nat_chose() {
    let mut world = World::new(Sizes::default());
    for (six, protocol, from) in every_kind() {
        let connection = connect(&mut world, six, protocol, from, Feature::Plain);
        let vip = if six { VIP6 } else { VIP4 };
        for behind in QUOTED.into_iter().filter(|behind| protocol == TCP || *behind <= 30) {
            let text = quote(&connection.answered, behind);
            let packet = tagged(error(router(six), vip, 9, &text), 0x8100, 33);
            let out = world.rig.run(&packet);
            assert_eq!(out.end, End::Backend(connection.row));
            assert_eq!(out.events, [Event::NatLookup, Event::Quoted]);
            let vlan = connection.server.vlan as u8;
            assert_eq!(tag(&out.frame), (vlan != 0).then_some([0x81, 0, 0, vlan]));
            let output = untagged(&out.frame);
            assert_eq!(output[..12], *bytemuck::bytes_of(&connection.server.ethernet));
            let message = Message::of(&output);
            let backend = Decoded::of(&connection.answer).source().ip();
            assert_eq!((message.source, message.destination), (nat_address(six), backend));
            assert_eq!((message.hops, message.word), (8, 1400));
            let expected = as_sent(&connection.answer, &connection.answered, behind);
            assert_eq!(message.rest, expected, "the packet as the backend sent it");
        }
        for hops in [0, 1] {
            let packet = error(router(six), vip, hops, &quote(&connection.answered, 8));
            let out = world.rig.run(&packet);
            assert_eq!((out.end, out.frame), (End::Verdict(Verdict::DropTtl), packet));
        }
    }
    world.rig.assert_conserved();
}

#[test]
fn errors_about_what_backends_get_go_to_the_client() {
    let mut world = World::new(Sizes::default());
    for (six, protocol, from) in every_kind() {
        let connection = connect(&mut world, six, protocol, from, Feature::Plain);
        for behind in QUOTED.into_iter().filter(|behind| protocol == TCP || *behind <= 30) {
            let text = quote(&connection.got, behind);
            let out = world.rig.run(&error(router(six), nat_address(six), 64, &text));
            assert_eq!(out.end, End::Verdict(Verdict::NatReply));
            assert_eq!(out.action, Action::Transmit);
            assert_eq!(out.events, [Event::NatLookup, Event::Quoted]);
            let message = Message::of(&out.frame);
            assert_eq!((message.destination_mac, message.source_mac), (CLIENT_MAC, OUR_MAC));
            let asked = Decoded::of(&connection.asked);
            let ends = (asked.destination().ip(), asked.source().ip());
            assert_eq!((message.source, message.destination), ends, "from the VIP");
            assert_eq!(message.hops, 63);
            let expected = as_sent(&connection.asked, &connection.got, behind);
            assert_eq!(message.rest, expected, "the packet as the client sent it");
        }
        // Another host's error about a packet that is not its addressee's.
        let out =
            world.rig.run(&error(router(six), nat_address(six), 64, &quote(&connection.asked, 8)));
        assert_eq!(out.end, End::Verdict(Verdict::PassNotVip));
    }
    world.rig.assert_conserved();
}

/// Families and protocols, by clients that get different backends.
pub(crate) fn every_kind() -> Vec<(bool, u8, u16)> {
    let kinds = [(false, TCP), (false, UDP), (true, TCP), (true, UDP)];
    let of = |from| kinds.map(|(six, protocol)| (six, protocol, from));
    (51_000..51_008).flat_map(of).collect()
}

/// In all other ways an error goes where the flow's packets go, by whatever hash.
#[test]
fn errors_go_where_their_flows_go() {
    let mut world = World::new(Sizes::default());
    let features = [Feature::Plain, Feature::HashSource, Feature::HashAddresses, Feature::Track];
    for way in Way::ALL.into_iter().filter(|way| *way != Way::Nat) {
        for (six, protocol, from) in every_kind() {
            for feature in features {
                let to = SocketAddr::new(if six { VIP6 } else { VIP4 }, port(feature, way));
                let flow = world.rig.run(&opening(to, from, protocol)).end;
                let answer = frame(&FROM_CLIENT, to, client(to, from), protocol, ACK, &[1; 40]);
                let about = error(router(six), to.ip(), 64, &quote(&answer, 8));
                assert_eq!(world.rig.run(&about).end, flow, "{way:?} {feature:?} to {to}");
            }
        }
    }
}
