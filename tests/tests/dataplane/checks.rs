//! One check for every packet: what is expected of it, against what the program made of it, as
//! an independent decoder reads it.

use std::net::{IpAddr, SocketAddr};

use etherparse::Ipv4Header;
use lb_common::abi::{Address, IFINDEX_INGRESS, IFINDEX_LOCAL, Server};
use lb_common::verdict::{Event, Kind, Verdict};
use lb_userspace::dataplane::services::address;

use crate::decode::{Decoded, Message, Tunnel, packet_and_trailer, tag, untagged};
use crate::frames::{ACK, Outside, SYN, frame, mss_option, tagged, tcp_with_options};
use crate::places::MSS;
use crate::rig::{Action, End, GUE_PORT, INGRESS, Outcome};
use crate::world::{Feature, OUR_MAC, TCP, Way, World, nat_address};

/// What a packet comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// This verdict, and no byte changed.
    Untouched(Verdict),
    /// To a backend, in this way; by NAT: and the backend's answer back to the client.
    Sent(Way),
    /// Answered: the ping.
    EchoReply,
    /// Answered: no hops left.
    TimeExceeded,
    /// Answered: no more than this.
    TooBig(u32),
}

/// One packet and what it comes to.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) expect: Expect,
    /// What a backend gets if not the packet as it came.
    pub(crate) becomes: Option<Vec<u8>>,
    /// Which of its group's backends it goes to, if it does not take the hash's.
    pub(crate) backend: Option<usize>,
    /// What is counted on its way, look-ups of NAT connections and the like apart.
    pub(crate) events: Vec<Event>,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, frame: Vec<u8>, expect: Expect) -> Self {
        let (becomes, backend, events) = (None, None, Vec::new());
        Self { what: what.into(), frame, expect, becomes, backend, events }
    }
}

/// What every packet of a `nat` service may count.
const OF_NAT: [Event; 5] =
    [Event::NatLookup, Event::NatInsert, Event::NatPortTaken, Event::NatVoid, Event::NatHopLearned];

impl World {
    /// Runs a row's packet and checks all that can be told of it.
    pub(crate) fn check(&mut self, row: &Row) -> Outcome {
        let out = self.rig.run(&row.frame);
        let what = &row.what;
        match row.expect {
            Expect::Untouched(verdict) => assert_untouched(row, &out, verdict),
            Expect::Sent(way) => self.assert_sent(row, &out, way),
            Expect::EchoReply => assert_echo(row, &out),
            Expect::TimeExceeded => assert_told(row, &out, Verdict::TimeExceededSent, 0),
            Expect::TooBig(mtu) => assert_told(row, &out, Verdict::TooBigSent, mtu),
        }
        let events: Vec<Event> =
            out.events.iter().filter(|event| !OF_NAT.contains(event)).copied().collect();
        assert_eq!(events, row.events, "{what}: events");
        out
    }

    /// The server a packet went to; asserts that it left as the server's record says.
    fn server(&self, row: &Row, out: &Outcome, way: Way) -> (Server, usize) {
        let what = &row.what;
        let End::Backend(number) = out.end else { panic!("{what}: ended as {:?}", out.end) };
        let (group, index) = self.backend(number);
        assert_eq!(group.way, way, "{what}");
        let server = group.servers[index];
        let (action, vlan) = match server.ifindex {
            INGRESS | IFINDEX_INGRESS => (Action::Transmit, vlan_tag(server.vlan)),
            IFINDEX_LOCAL => (Action::Pass, tag(&row.frame)),
            _ => (Action::Redirect, vlan_tag(server.vlan)),
        };
        assert_eq!(out.action, action, "{what}");
        assert_eq!(tag(&out.frame), vlan, "{what}: VLAN tag");
        (server, index)
    }

    fn assert_sent(&mut self, row: &Row, out: &Outcome, way: Way) {
        let what = &row.what;
        let (server, index) = self.server(row, out, way);
        assert!(row.backend.is_none_or(|expected| expected == index), "{what}: backend {index}");
        let input = untagged(row.becomes.as_ref().unwrap_or(&row.frame));
        let output = untagged(&out.frame);
        if way == Way::Local {
            assert_eq!(output, input, "{what}: bytes changed");
            return;
        }
        assert_eq!(output[..12], *bytemuck::bytes_of(&server.ethernet), "{what}: MACs");
        match way {
            Way::Nat => self.assert_translated(row, &server, index, &input, &output),
            _ if way.is_tunnel() => assert_tunnelled(what, &server, way, &input, &output),
            _ => assert_eq!(output[12..], input[12..], "{what}: more than the MACs changed"),
        }
    }

    fn assert_translated(
        &mut self,
        row: &Row,
        server: &Server,
        index: usize,
        input: &[u8],
        output: &[u8],
    ) {
        let what = &row.what;
        let (before, after) = (Decoded::of(input), Decoded::of(output));
        assert_nat_of(what, &before, &after, input, output);
        let six = before.source().is_ipv6();
        assert_eq!(after.source().ip(), nat_address(six), "{what}: source");
        let ports = self.rig.maps.settings();
        let taken = u32::from(after.source().port()) - ports.nat_port_first;
        assert!(taken < ports.nat_port_count, "{what}: source port");
        let port = if index == 1 { before.destination().port() } else { 8000 };
        assert_eq!(ends(after.destination()), (server.address, port), "{what}: destination");
        self.assert_answered(row, &before, &after, server);
    }

    /// The backend answers what it got; the client gets it from the VIP.
    fn assert_answered(&mut self, row: &Row, asked: &Decoded, got: &Decoded, server: &Server) {
        let what = &row.what;
        let answer = answer_to(got, server, ANNOUNCED);
        let out = self.rig.run(&answer);
        assert_eq!(out.end, End::Verdict(Verdict::NatReply), "{what}: answer");
        assert_eq!(out.action, Action::Transmit, "{what}: answer");
        let is_clamped = asked.flags() & SYN != 0 && self.clamps(asked.destination());
        let (events, answer): (&[Event], _) = if is_clamped {
            (&[Event::NatLookup, Event::MssClamped], answer_to(got, server, MSS))
        } else {
            (&[Event::NatLookup], answer)
        };
        assert_eq!(out.events, events, "{what}: answer");
        let vlan = tag(&row.frame).map_or(0, |[.., a, b]| u32::from_be_bytes([0, 0, a & 15, b]));
        assert_eq!(tag(&out.frame), vlan_tag(vlan), "{what}: the answer's VLAN tag");
        let (answer, output) = (untagged(&answer), untagged(&out.frame));
        let after = Decoded::of(&output);
        assert_nat_of(what, &Decoded::of(&answer), &after, &answer, &output);
        assert_eq!(after.source(), asked.destination(), "{what}: the answer comes from the VIP");
        assert_eq!(after.destination(), asked.source(), "{what}: the answer's destination");
        assert_eq!(
            (after.destination_mac, after.source_mac),
            (asked.source_mac, asked.destination_mac),
            "{what}: the answer goes back the way the question came"
        );
    }

    fn clamps(&self, to: SocketAddr) -> bool {
        self.services.iter().any(|service| service.vip == to && service.feature == Feature::Mss)
    }
}

/// The segment size that SYNs announce.
pub(crate) const ANNOUNCED: u16 = 1460;

/// What a backend answers to a translated packet.
pub(crate) fn answer_to(got: &Decoded, server: &Server, mss: u16) -> Vec<u8> {
    let outside = Outside { source_mac: got.destination_mac, destination_mac: OUR_MAC, hops: 61 };
    let flags = if got.flags() & SYN != 0 { SYN | ACK } else { ACK };
    let flags = if got.protocol() == TCP { flags } else { 0 };
    let (ends, payload) = ((got.destination(), got.source()), b"200 OK, from a backend");
    let answer = if flags & SYN != 0 {
        tcp_with_options(&outside, ends, flags, &mss_option(mss), payload)
    } else {
        frame(&outside, ends.0, ends.1, got.protocol(), flags, payload)
    };
    if server.vlan == 0 { answer } else { tagged(answer, 0x8100, server.vlan as u16) }
}

fn vlan_tag(id: u32) -> Option<[u8; 4]> {
    let [high, low] = (id as u16).to_be_bytes();
    (id != 0).then_some([0x81, 0, high, low])
}

fn ends(of: SocketAddr) -> (Address, u16) {
    (address(of.ip()), of.port())
}

/// A dropped frame has lost its tag: nobody sees it.
fn assert_untouched(row: &Row, out: &Outcome, verdict: Verdict) {
    let what = &row.what;
    assert_eq!(out.end, End::Verdict(verdict), "{what}");
    let (action, frame) = match verdict.kind() {
        Kind::Pass => (Action::Pass, row.frame.clone()),
        _ => (Action::Drop, untagged(&row.frame)),
    };
    assert_eq!(out.frame, frame, "{what}: bytes changed");
    assert_eq!(out.action, action, "{what}");
}

/// All that both directions of a translation have in common.
fn assert_nat_of(what: &str, before: &Decoded, after: &Decoded, input: &[u8], output: &[u8]) {
    assert_eq!(after.hops() + 1, before.hops(), "{what}: one hop");
    assert_eq!(after.unchanged_by_nat(), before.unchanged_by_nat(), "{what}: headers, payload");
    // A wrong checksum stays wrong: the receiver must see that bytes were damaged.
    assert_eq!(after.checksums(), before.checksums(), "{what}: checksums");
    let trailer = packet_and_trailer(input).1;
    assert_eq!(packet_and_trailer(output).1, trailer, "{what}: the Ethernet trailer");
}

fn assert_tunnelled(what: &str, server: &Server, way: Way, input: &[u8], output: &[u8]) {
    let outer = Tunnel::of(output);
    let (packet, trailer) = packet_and_trailer(input);
    assert_eq!(outer.trailer, trailer, "{what}: the Ethernet trailer");
    assert_one_hop(what, packet, &outer.inner);
    let four = packet[0] >> 4 == 4;
    let class = if four { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    assert_eq!(outer.traffic_class, class, "{what}: DSCP and ECN");
    assert_eq!(outer.hops, 64, "{what}: the outer TTL");
    assert_eq!(outer.is_v4, matches!(way, Way::Ipip4 | Way::Gue4), "{what}: the outer family");
    assert_eq!(address(outer.destination), server.address, "{what}: outer destination");
    assert_within(what, outer.source, server);
    if outer.is_v4 {
        let fixed = !four || packet[6] & 0x40 != 0;
        assert_eq!(outer.dont_fragment, fixed, "{what}: outer DF");
        assert!(!fixed || outer.identification == 0, "{what}: an identification for nothing");
    }
    let Some(udp) = outer.udp else {
        assert!(matches!(way, Way::Ipip4 | Way::Ipip6), "{what}: no UDP");
        assert_eq!(outer.protocol, if four { 4 } else { 41 }, "{what}: what is inside");
        return;
    };
    assert!(matches!(way, Way::Gue4 | Way::Gue6), "{what}: UDP");
    assert_eq!(udp.destination_port, GUE_PORT, "{what}");
    assert!(udp.source_port >= 0xc000, "{what}: source port {}", udp.source_port);
    let promised = if outer.is_v4 { None } else { promise(input) };
    assert_eq!(udp.right_checksum, promised, "{what}: outer UDP checksum");
}

/// The tunnel's source is the server's, but for the bits that the flow's hash fills.
fn assert_within(what: &str, source: IpAddr, server: &Server) {
    let (got, base) = (address(source), server.source);
    let last = if source.is_ipv4() { 0 } else { 3 };
    for word in 0..4 {
        let free = if word == last { server.entropy } else { 0 };
        assert_eq!((got[word] ^ base[word]) & !free, 0, "{what}: outer source {source}");
    }
}

/// What an outer checksum can rely on: whether the packet's own are right; `None` if it has none.
fn promise(frame: &[u8]) -> Option<bool> {
    let icmp = if frame[14] >> 4 == 4 { frame[23] == 1 } else { frame[20] == 58 };
    if icmp {
        Message::of(frame);
        return Some(true);
    }
    let checksums = Decoded::try_of(frame)?.checksums();
    (!checksums.absent).then_some(checksums.header && checksums.transport)
}

/// A packet one hop on: nothing else differs but IPv4's checksum, as right as before.
fn assert_one_hop(what: &str, before: &[u8], after: &[u8]) {
    let four = before[0] >> 4 == 4;
    let mut expected = before.to_vec();
    if four {
        expected[8] -= 1;
        let header = |packet: &[u8]| Ipv4Header::from_slice(packet).expect("a header").0;
        let old = header(before);
        let checksum = if old.calc_header_checksum() == old.header_checksum {
            header(&expected).calc_header_checksum()
        } else {
            // As wrong as before: one hop less is one more in the complement of the sum.
            let sum = u32::from(old.header_checksum) + 0x100;
            (sum + (sum >> 16)) as u16
        };
        expected[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        expected[7] -= 1;
    }
    assert_eq!(after, expected, "{what}: the packet inside");
}

fn assert_answer(row: &Row, out: &Outcome, verdict: Verdict) -> Message {
    let what = &row.what;
    assert_eq!(out.end, End::Verdict(verdict), "{what}");
    assert_eq!(out.action, Action::Transmit, "{what}");
    assert_eq!(tag(&out.frame), tag(&row.frame), "{what}: VLAN tag");
    let message = Message::of(&untagged(&out.frame));
    let (packet, mac) = (untagged(&row.frame), |at: usize| row.frame[at..at + 6].to_vec());
    let (source, destination) = addresses(&packet);
    assert_eq!(message.source_mac[..], mac(0), "{what}: source MAC");
    assert_eq!(message.destination_mac[..], mac(6), "{what}: destination MAC");
    assert_eq!((message.source, message.destination), (destination, source), "{what}");
    assert_eq!(message.hops, 64, "{what}");
    message
}

fn addresses(frame: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap().into();
    let v6 = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into();
    if frame[12..14] == [8, 0] { (v4(26), v4(30)) } else { (v6(22), v6(38)) }
}

fn assert_echo(row: &Row, out: &Outcome) {
    let what = &row.what;
    let message = assert_answer(row, out, Verdict::EchoReply);
    let asked = Message::of(&untagged(&row.frame));
    let kind = if asked.destination.is_ipv4() { (0, 0) } else { (129, 0) };
    assert_eq!(message.kind, kind, "{what}");
    assert_eq!((message.word, message.rest), (asked.word, asked.rest), "{what}: identity, data");
    assert_eq!(out.frame.len(), row.frame.len(), "{what}");
}

/// An ICMP error: it quotes 128 bytes of the packet, of a shorter one the header and 8 bytes.
fn assert_told(row: &Row, out: &Outcome, verdict: Verdict, mtu: u32) {
    let what = &row.what;
    let message = assert_answer(row, out, verdict);
    let kind = match (verdict, message.destination.is_ipv4()) {
        (Verdict::TimeExceededSent, true) => (11, 0),
        (Verdict::TimeExceededSent, false) => (3, 0),
        (_, true) => (3, 4),
        (_, false) => (2, 0),
    };
    assert_eq!((message.kind, message.word), (kind, mtu), "{what}: type, MTU");
    let input = untagged(&row.frame);
    let (packet, _) = packet_and_trailer(&input);
    let header = if message.destination.is_ipv4() { 20 } else { 40 };
    let quoted = if packet.len() < 128 { header + 8 } else { 128 };
    assert_eq!(message.rest, packet[..quoted], "{what}: the quote");
    assert_eq!(untagged(&out.frame).len(), 14 + header + 8 + quoted, "{what}: no more than that");
}
