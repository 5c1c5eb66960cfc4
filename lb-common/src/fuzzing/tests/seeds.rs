//! Real packets, made by `etherparse`, as inputs of the targets.

use etherparse::{PacketBuilder, TcpOptionElement::*};

use crate::abi::{Address, KIND_GUE6, KIND_IPIP4, Server};
use crate::encap::encapsulate;
use crate::frame::HostFrame;
use crate::host::{NAT4, NAT6};
use crate::ip::{V4, V6};
use crate::samples::{PAYLOADS, Sample, settings};

/// Per target.
pub(super) fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let frames = frames();
    let with = |head: &[u8], frame: &[u8]| [head, frame].concat();
    let parse = frames.iter().map(|frame| with(&[0], frame));
    let decap = tunnels().into_iter().chain(frames.clone());
    let words: Vec<u8> = (1..=52).collect();
    let icmp = errors().into_iter().chain(frames.clone()).flat_map(|frame| {
        (0..2).map(move |what| [&[what], &[10; 52][..], &[0], &frame[..]].concat())
    });
    let rewrite = frames.iter().flat_map(|frame| {
        let words = &words[..44];
        (0..4).map(move |what| [&[what], words, &[0], &frame[..]].concat())
    });
    vec![
        ("parse", parse.collect()),
        ("decap", decap.map(|frame| with(&[0, 0], &frame)).collect()),
        ("icmp", icmp.collect()),
        ("rewrite", rewrite.collect()),
        ("path", paths(&frames)),
    ]
}

/// In each world: a frame, its reply, an error about that; then the frame again, after a change.
fn paths(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for world in 0..6 {
        for frame in frames.iter().chain(&errors()) {
            let literal = [&[0, 0], &(frame.len() as u16).to_le_bytes()[..], frame].concat();
            let steps = [&literal[..], &[4, 0x12, 5, 0x41, 7, 0x31, 6, 3], &literal].concat();
            inputs.push([&[world, 0, 0, 0], &steps[..]].concat());
        }
    }
    inputs
}

fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for family in [4, 6] {
        frames.extend(PAYLOADS.map(|payload| Sample::new(family, payload).frame()));
        for port in [80, 81, 82, 83, 84, 85, 86, 87, 88, 2005, 0x2345] {
            frames.push(syn(family, port));
        }
        for port in [53, 54, 443, 444, 2006] {
            frames.push(udp(family, port, &[0x40, 0x28, 0, 3, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 9, 9]));
        }
        for kind in 0..4 {
            let id = [0xc0 | kind << 4, 0, 0, 0, 1, 8, 0x28, 0, 3, 4, 5, 6, 7, 8, 0, 0, 0];
            frames.push(udp(family, 443, &id));
        }
        let plain = syn(family, 80);
        for tag in [[0x81, 0, 0, 5], [0x88, 0xa8, 0x20, 6]] {
            frames.push([&plain[..12], &tag, &plain[12..]].concat());
        }
    }
    frames
}

fn addressed(family: u32) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let (client, vip): (_, Address) = if family == 4 {
        ([198, 51, 100, 7], crate::host::VIP4)
    } else {
        ([0; 4], crate::host::VIP6)
    };
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
    let vip = vip.map(u32::to_ne_bytes).concat();
    if family == 4 {
        return ethernet.ipv4(client, vip[..4].try_into().unwrap(), 57);
    }
    let mut client = [0; 16];
    client[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    client[15] = 7;
    ethernet.ipv6(client, vip.try_into().unwrap(), 57)
}

fn syn(family: u32, port: u16) -> Vec<u8> {
    let options =
        [Noop, MaximumSegmentSize(1460), WindowScale(7), SelectiveAcknowledgementPermitted];
    let tcp = addressed(family).tcp(40_000, port, 7, 1024).syn().options(&options).unwrap();
    let mut frame = Vec::new();
    tcp.write(&mut frame, b"").unwrap();
    frame
}

fn udp(family: u32, port: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    addressed(family).udp(40_000, port).write(&mut frame, data).unwrap();
    frame
}

/// What a balancer sends a backend.
fn tunnels() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for kind in KIND_IPIP4..=KIND_GUE6 {
        let source = if kind & 1 == 0 { NAT4 } else { NAT6 };
        let server = Server {
            ethernet: [2, 2, 2],
            ifindex: 1,
            address: source,
            source,
            kind,
            mtu: 1500,
            vlan: 0,
            entropy: 0,
        };
        for family in [4, 6] {
            for payload in PAYLOADS {
                let sample = Sample { traffic_class: 2, ..Sample::new(family, payload) };
                let mut frame = HostFrame::new(&sample.frame());
                match family {
                    4 => encapsulate::<V4, _>(&mut frame, &server, 7, &settings()).unwrap(),
                    _ => encapsulate::<V6, _>(&mut frame, &server, 7, &settings()).unwrap(),
                }
                frames.push(frame.bytes().to_vec());
            }
        }
    }
    frames
}

/// Errors about what a VIP sent a client.
fn errors() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for mut quoted in [syn(4, 80), udp(4, 53, b"12345678")] {
        quoted[26..34].rotate_left(4);
        quoted[34..38].rotate_left(2);
        let mut frame = Vec::new();
        let router = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]).ipv4(
            [203, 0, 113, 1],
            [192, 0, 2, 10],
            60,
        );
        router.icmpv4_raw(11, 0, [0; 4]).write(&mut frame, &quoted[14..]).unwrap();
        frames.push(frame);
    }
    for mut quoted in [syn(6, 80), udp(6, 53, b"12345678")] {
        quoted[22..54].rotate_left(16);
        quoted[54..58].rotate_left(2);
        let vip = quoted[22..38].try_into().unwrap();
        let mut frame = Vec::new();
        let router = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
            .ipv6([0x20; 16], vip, 60);
        router.icmpv6_raw(3, 0, [0; 4]).write(&mut frame, &quoted[14..]).unwrap();
        frames.push(frame);
    }
    frames
}
