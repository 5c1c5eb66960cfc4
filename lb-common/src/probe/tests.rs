//! Every mode with both families, at either end; `etherparse` says what was made. A device that
//! sums packets up (`CHECKSUM_COMPLETE`) is played along.

use bytemuck::Zeroable;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::abi::{KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, Server, join_ports};
use crate::encap::overhead;
use crate::frame::HostFrame;
use crate::samples::{Payload, settings, whole_checksum};

const OWN: u16 = 40_000;
const PORT: u16 = 8080;

/// Addresses by family: the balancer's, the server's, the VIP.
fn address(family: u32, last: u8) -> Address {
    let word = u32::from_ne_bytes;
    if family == 4 {
        [word([10, 77, 0, last]), 0, 0, 0]
    } else {
        [word([0xfd, 0x77, 0, 0]), word([1, 2, 3, 4]), 0, word([0, 0, 0xab, last])]
    }
}
const LB: u8 = 2;
const SERVER: u8 = 11;
const VIP: u8 = 200;

fn octets(family: u32, last: u8) -> Vec<u8> {
    let bytes: Vec<u8> = address(family, last).iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes[..if family == 4 { 4 } else { 16 }].to_vec()
}

/// A probe of a VIP of one family at a server of another.
fn entry(kind: u32, server_family: u32, vip_family: u32) -> ProbeEntry {
    let server = Server {
        ethernet: [0x0101_0101, 0x0202_0101, 0x0202_0202],
        address: address(server_family, SERVER),
        source: address(server_family, LB),
        kind,
        mtu: 1500,
        ..Server::zeroed()
    };
    ProbeEntry {
        server,
        vip: address(vip_family, VIP),
        local: address(server_family, LB),
        source: address(vip_family, LB),
        port: PORT.to_be().into(),
        server_family,
        vip_family,
        padding: 0,
    }
}

struct Known(ProbeEntry);

impl ProbeMaps for Known {
    fn probe(&self, key: u32) -> Option<&ProbeEntry> {
        let families = [self.0.server_family, self.0.vip_family];
        let keys = families.map(|f| [TCP, UDP].map(|p| probe_key(f, p, OWN.to_be())));
        keys.as_flattened().contains(&key).then_some(&self.0)
    }

    fn settings(&self) -> Settings {
        settings()
    }
}

/// A packet in memory. As the kernel does, it keeps a device's sum true through its own changes.
struct HostSkb {
    frame: HostFrame,
    sum: Difference,
}

fn sum_of(bytes: &[u8]) -> Difference {
    let words = bytes.chunks(2).map(|w| u16::from_ne_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
    words.fold(Difference::none(), |sum, word| sum.replace(0, word.into()))
}

impl HostSkb {
    fn new(frame: &[u8]) -> Self {
        Self { frame: HostFrame::new(frame), sum: sum_of(&frame[14..]) }
    }

    fn bytes(&self) -> Vec<u8> {
        self.frame.bytes().to_vec()
    }
}

impl Frame for HostSkb {
    fn packet(&mut self) -> Packet<'_> {
        self.frame.packet()
    }

    fn move_head(&mut self, by: i32) -> Option<()> {
        self.frame.move_head(by)
    }

    fn move_tail(&mut self, by: i32) -> Option<()> {
        self.frame.move_tail(by)
    }
}

impl Skb for HostSkb {
    fn mend(&mut self, at: u32, is_udp: bool, addresses: Difference) -> Option<()> {
        let (mut bytes, at) = (self.bytes(), at as usize);
        let old = u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        if is_udp && old == 0 {
            return Some(());
        }
        bytes[at..at + 2].copy_from_slice(&addresses.apply(old).to_ne_bytes());
        self.frame = HostFrame::new(&bytes);
        self.sum = self.sum.join(Difference::none().replace(addresses.word(), 0));
        Some(())
    }

    fn account(&mut self, written: Difference) {
        self.sum = self.sum.join(written);
    }

    fn change_family(&mut self, family: u32) -> Option<()> {
        let mut bytes = self.bytes();
        if family == 6 {
            bytes.splice(14..14, [0; 20]);
        } else {
            let gone: Vec<u8> = bytes.drain(14..34).collect();
            let words = gone.chunks(4).map(|w| u32::from_ne_bytes(w.try_into().unwrap()));
            self.sum = words.fold(self.sum, |sum, word| sum.replace(word, 0));
        }
        self.frame = HostFrame::new(&bytes);
        Some(())
    }
}

/// A packet of this family between two hosts' addresses.
fn packet(family: u32, payload: Payload, ends: [u8; 2], ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
    let [from, to] = ends.map(|last| octets(family, last));
    let builder = if family == 4 {
        builder.ipv4(from.try_into().unwrap(), to.try_into().unwrap(), 64)
    } else {
        builder.ipv6(from.try_into().unwrap(), to.try_into().unwrap(), 64)
    };
    let mut frame = Vec::new();
    match payload {
        Payload::Tcp => builder.tcp(ports.0, ports.1, 7, 1024).write(&mut frame, data).unwrap(),
        _ => builder.udp(ports.0, ports.1).write(&mut frame, data).unwrap(),
    }
    frame
}

/// What is read of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    ends: [Vec<u8>; 2],
    ports: (u16, u16),
    hops: u8,
    data: Vec<u8>,
}

/// Reads a packet, whose checksums must be right.
fn read(ip: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ip(ip).unwrap();
    let (source, destination, hops, protocol) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            assert_eq!(whole_checksum(&[header.slice()]), 0, "IPv4 checksum");
            assert_eq!(usize::from(header.total_len()), ip.len());
            let (s, d) = (header.source().to_vec(), header.destination().to_vec());
            (s, d, header.ttl(), header.protocol().0)
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header();
            assert_eq!(usize::from(header.payload_length()) + 40, ip.len());
            let (s, d) = (header.source().to_vec(), header.destination().to_vec());
            (s, d, header.hop_limit(), header.next_header().0)
        }
        other => panic!("{other:?}"),
    };
    let rest = &ip[if source.len() == 4 { 20 } else { 40 }..];
    let length = u32::try_from(rest.len()).unwrap().to_be_bytes();
    let pseudo: [&[u8]; 4] = [&source, &destination, &length, &[0, protocol]];
    let all: Vec<&[u8]> = pseudo.into_iter().chain([rest]).collect();
    assert_eq!(whole_checksum(&all), 0, "transport checksum");
    let (ports, data) = match sliced.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            ((tcp.source_port(), tcp.destination_port()), tcp.payload().to_vec())
        }
        TransportSlice::Udp(udp) => {
            ((udp.source_port(), udp.destination_port()), udp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    };
    Seen { ends: [source, destination], ports, hops, data }
}

/// Kind, and families of server and VIP.
const WAYS: [(u32, u32, u32); 10] = [
    (KIND_DSR, 4, 4),
    (KIND_DSR, 6, 6),
    (KIND_IPIP4, 4, 4),
    (KIND_IPIP4, 4, 6),
    (KIND_IPIP6, 6, 4),
    (KIND_IPIP6, 6, 6),
    (KIND_GUE4, 4, 4),
    (KIND_GUE4, 4, 6),
    (KIND_GUE6, 6, 4),
    (KIND_GUE6, 6, 6),
];

fn check(way: (u32, u32, u32), payload: Payload, data: &[u8]) {
    let (kind, server, vip) = way;
    let probe = entry(kind, server, vip);
    let maps = Known(probe);

    let mut skb = HostSkb::new(&packet(server, payload, [LB, SERVER], (OWN, PORT), data));
    assert_eq!(leave(&maps, &mut skb), End::Turned, "{way:?}");
    let frame = skb.bytes();
    assert_eq!(frame[..12], *bytemuck::bytes_of(&probe.server.ethernet), "{way:?}");
    let outer = overhead(kind) as usize;
    let family = if outer > 0 { server } else { vip };
    assert_eq!(frame[12..14], if family == 4 { [8, 0] } else { [0x86, 0xdd] }, "{way:?}");
    let hops = if outer > 0 { 63 } else { 64 };
    let ends = [octets(vip, LB), octets(vip, VIP)];
    let wanted = Seen { ends, ports: (OWN, PORT), hops, data: data.to_vec() };
    assert_eq!(read(&frame[14 + outer..]), wanted, "{way:?}");
    if outer > 0 {
        // The very bytes that a client's packet would be given.
        let inner: Vec<u8> = packet(vip, payload, [LB, VIP], (OWN, PORT), data);
        let mut client = HostFrame::new(&inner);
        let ports = join_ports(OWN.to_be(), PORT.to_be());
        let protocol = if payload == Payload::Tcp { TCP } else { UDP };
        let kind = FlowKey::kind_of(vip, protocol);
        let key = FlowKey { source: probe.source, destination: probe.vip, ports, kind };
        let hash = if vip == 4 { V4::hash(0, &key) } else { V6::hash(0, &key) };
        let done = match vip {
            4 => encapsulate::<V4, _>(&mut client, &probe.server, hash, &settings()),
            _ => encapsulate::<V6, _>(&mut client, &probe.server, hash, &settings()),
        };
        done.unwrap();
        let (ours, theirs) = (&frame[14..14 + outer], &client.bytes()[14..14 + outer]);
        // `etherparse` leaves the flag "don't fragment" to its caller; made anew, it is set.
        if server == vip || vip == 6 {
            assert_eq!(ours, theirs, "{way:?}: outer headers");
        }
    }

    let answer = packet(vip, payload, [VIP, LB], (PORT, OWN), data);
    let mut skb = HostSkb::new(&answer);
    assert_eq!(arrive(&maps, &mut skb), End::Turned, "{way:?}");
    let frame = skb.bytes();
    assert_eq!(frame[..12], answer[..12], "{way:?}");
    assert_eq!(frame[12..14], if server == 4 { [8, 0] } else { [0x86, 0xdd] }, "{way:?}");
    let ends = [octets(server, SERVER), octets(server, LB)];
    let wanted = Seen { ends, ports: (PORT, OWN), hops: 64, data: data.to_vec() };
    assert_eq!(read(&frame[14..]), wanted, "{way:?}");
    let zero = |sum: Difference| sum.apply(!0);
    assert_eq!(zero(skb.sum), zero(sum_of(&frame[14..])), "{way:?}: a device's sum");
}

proptest! {
    #[test]
    fn probes_go_a_clients_way_and_answers_come_back(
        way in 0..WAYS.len(), tcp: bool, data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        check(WAYS[way], if tcp { Payload::Tcp } else { Payload::Udp }, &data);
    }
}

#[test]
fn all_else_is_left_alone() {
    for (kind, server, vip) in WAYS {
        let maps = Known(entry(kind, server, vip));
        let rows = [
            ("another port of the server", server, [LB, SERVER], (OWN, PORT + 1)),
            ("another port of ours", server, [LB, SERVER], (OWN + 1, PORT)),
            ("another server", server, [LB, SERVER + 1], (OWN, PORT)),
            ("a packet that is forwarded", server, [LB + 1, SERVER], (OWN, PORT)),
            ("the server's own answer", server, [SERVER, LB], (PORT, OWN)),
            ("a client of another VIP", vip, [VIP + 1, LB], (PORT, OWN)),
        ];
        for (row, family, ends, ports) in rows {
            let frame = packet(family, Payload::Tcp, ends, ports, b"data");
            for step in [leave::<Known, HostSkb>, arrive] {
                let mut skb = HostSkb::new(&frame);
                assert_eq!(step(&maps, &mut skb), End::Other, "{row}, kind {kind}");
                assert_eq!(skb.bytes(), frame, "{row}");
            }
        }
    }
}

#[test]
fn what_no_probe_sends_is_left_alone() {
    let maps = Known(entry(KIND_DSR, 4, 4));
    let whole = packet(4, Payload::Tcp, [LB, SERVER], (OWN, PORT), b"");
    type Edit = fn(&mut Vec<u8>);
    let edits: [(&str, Edit); 6] = [
        ("options", |f| f[14] = 0x46),
        ("a fragment", |f| f[20] |= 0x20),
        ("a later fragment", |f| f[21] = 1),
        ("another protocol", |f| f[23] = 132),
        ("short", |f| f.truncate(37)),
        ("not IP", |f| f[12..14].copy_from_slice(&[8, 6])),
    ];
    for (row, edit) in edits {
        let mut frame = whole.clone();
        edit(&mut frame);
        let mut skb = HostSkb::new(&frame);
        assert_eq!(leave(&maps, &mut skb), End::Other, "{row}");
        assert_eq!(skb.bytes(), frame, "{row}");
    }
}
