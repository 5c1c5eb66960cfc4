//! The program in this machine's kernel does what the library does on the host, frame by frame
//! (`BPF_PROG_TEST_RUN`; no interface is touched).

use aya::programs::{TestRun, TestRunOptions};
use lb_common::abi::{Address, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, Server};
use lb_common::decap::{self, DecapMaps, VERDICTS};
use lb_common::frame::HostFrame;
use lb_common::hash::fmix64;
use lb_common::verdict::{Kind, Verdict};
use lb_userspace::dataplane::decap::Decapsulator;

use crate::sender::tunnelled;

/// Far below the kernel's limit of one million.
const MOST: u32 = 20_000;

/// What the kernel is told by `--from 10.9.0.0/16,fd00::/16`.
struct Sources;

impl DecapMaps for Sources {
    fn gue_port(&self) -> u32 {
        6080
    }

    fn allowed(&self, family: u32, source: &Address) -> bool {
        let bytes = source[0].to_ne_bytes();
        (family == 4 && bytes[..2] == [10, 9]) || (family == 6 && bytes[..2] == [0xfd, 0])
    }
}

fn load() -> Decapsulator {
    let from = ["10.9.0.0/16".parse().unwrap(), "fd00::/16".parse().unwrap()];
    Decapsulator::load(&from, 6080).expect("the program loads; run these tests as root")
}

/// What the kernel makes of a frame: the action, the frame, and the verdict counted.
fn kernel(program: &mut Decapsulator, frame: &[u8]) -> (u32, Vec<u8>, Verdict) {
    let read = |program: &Decapsulator| VERDICTS.iter().map(|v| program.verdicts(*v)).collect();
    let before: Vec<u64> = read(program);
    let mut out = vec![0xaa; frame.len() + 64];
    let result = program
        .program()
        .unwrap()
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })
        .unwrap_or_else(|e| panic!("the kernel does not run {} bytes: {e}", frame.len()));
    out.truncate(result.data_size_out as usize);
    let after: Vec<u64> = read(program);
    let grown = |at: &usize| after[*at] != before[*at];
    let ends: Vec<usize> = (0..VERDICTS.len()).filter(grown).collect();
    let [end] = ends[..] else { panic!("one packet was counted as {ends:?}") };
    assert_eq!(after[end], before[end] + 1);
    (result.return_value, out, VERDICTS[end])
}

fn compare(program: &mut Decapsulator, bytes: &[u8]) -> Verdict {
    let mut frame = HostFrame::new(bytes);
    let wanted = decap::run(&Sources, &mut frame);
    let (action, out, verdict) = kernel(program, bytes);
    assert_eq!(verdict, wanted, "{bytes:x?}");
    match wanted.kind() {
        Kind::Pass => assert_eq!((action, &out[..]), (2, frame.bytes()), "{bytes:x?}"),
        _ => assert_eq!(action, 1, "{bytes:x?}"),
    }
    wanted
}

/// An IPv4 or IPv6 datagram to a VIP, in an Ethernet frame.
fn plain(six: bool, class: u8) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = if six {
        let (source, destination) = ([0x20; 16], [0x21; 16]);
        builder.ip(etherparse::IpHeaders::Ipv6(
            etherparse::Ipv6Header {
                traffic_class: class,
                hop_limit: 9,
                source,
                destination,
                ..Default::default()
            },
            Default::default(),
        ))
    } else {
        let mut ip = etherparse::Ipv4Header::new(
            0,
            9,
            etherparse::IpNumber::UDP,
            [198, 51, 100, 7],
            [192, 0, 2, 10],
        )
        .unwrap();
        ip.ecn = (class & 3).try_into().unwrap();
        builder.ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
    };
    let mut frame = Vec::new();
    builder.udp(40_000, 443).write(&mut frame, b"what the client sent").unwrap();
    frame
}

fn server(kind: u32) -> Server {
    let is_v4 = kind == KIND_IPIP4 || kind == KIND_GUE4;
    let source = u32::from_ne_bytes(if is_v4 { [10, 9, 1, 1] } else { [0xfd, 0, 0, 0] });
    Server {
        ethernet: [1, 2, 3],
        ifindex: 1,
        address: [source; 4],
        source: [source, 0, 0, 0],
        kind,
        mtu: 1500,
        vlan: 0,
        entropy: 0,
    }
}

#[test]
fn the_kernel_does_what_the_library_does() {
    let mut program = load();
    let mut seen = Vec::new();
    for round in 0..4_000u64 {
        let random = |of: u64| fmix64(round.wrapping_mul(31).wrapping_add(of)) as usize;
        let kind = [KIND_IPIP4, KIND_IPIP6, KIND_GUE4, KIND_GUE6][random(0) % 4];
        let mut frame =
            tunnelled(&plain(random(1) % 2 == 0, random(2) as u8), &server(kind)).bytes().to_vec();
        if random(3) % 4 == 0 {
            // GUE of variant 0, if it is GUE at all: four bytes behind the UDP header.
            let at = if kind == KIND_GUE4 { 42 } else { 62 };
            let number = if frame[at] >> 4 == 4 { 4 } else { 41 };
            frame.splice(at..at, [0, number, 0, 0]);
            let length = if kind == KIND_GUE4 { [17, 39] } else { [19, 59] };
            length.iter().for_each(|at| frame[*at] += 4);
        }
        // Outer congestion, in either family's place.
        if random(4) % 2 == 0 {
            frame[15] ^= 0x33 & random(5) as u8;
        }
        if random(6) % 4 == 0 {
            frame.splice(12..12, [0x81, 0, 0x60, 7]);
        }
        for change in 0..random(7) % 4 {
            let at = random(8 + change as u64) % frame.len().min(90);
            frame[at] = random(20 + change as u64) as u8;
        }
        if random(30) % 8 == 0 {
            frame.truncate((random(31) % frame.len()).max(14));
        }
        let verdict = compare(&mut program, &frame);
        if !seen.contains(&verdict) {
            seen.push(verdict);
        }
    }
    println!("{seen:?}");
    let all = VERDICTS.iter().filter(|v| **v != Verdict::DropInternal && **v != Verdict::PassVlan);
    for verdict in all {
        assert!(seen.contains(verdict), "no frame ended in {verdict:?}");
    }
}

#[test]
fn two_tags_are_the_kernels() {
    let mut frame = plain(false, 0);
    frame.splice(12..12, [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]);
    assert_eq!(compare(&mut load(), &frame), Verdict::PassVlan);
}

#[test]
fn the_program_is_verified_with_room_to_spare() {
    let count = load().verified_instructions.expect("kernels since 5.16 tell");
    println!("verified instructions: {count} (limit of the kernel 1,000,000, of this test {MOST})");
    assert!(count < MOST, "{count} instructions");
}
