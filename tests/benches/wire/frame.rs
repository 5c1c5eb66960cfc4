//! The first frame of a job; the programs make the others of it.

use std::net::IpAddr;

use lb_tests::Family;

use crate::abi::{FRAME4, FRAME6, IPV6, Job, MAC, MAGIC, SEGMENT, STAMP, STAMPED, WORDS};

/// The client's address of flow 0; all flows differ in the last 16 bits.
fn source(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 128, 0, 0].into(),
        Family::V6 => [0xfd80, 0x128, 0, 0, 0, 0, 0, 0].into(),
    }
}

/// The clients as a prefix.
pub(crate) fn sources(family: Family) -> String {
    let length = if family == Family::V4 { 16 } else { 112 };
    format!("{}/{length}", source(family))
}

/// Numbers in MAC addresses that are no backend's: the balancer's, and the generator's.
pub(crate) const BALANCER: u8 = 63;
pub(crate) const GENERATOR: u8 = 62;

pub(crate) fn mac(number: u8) -> [u8; 6] {
    let [a, b, c, d, e] = MAC;
    [a, b, c, d, e, number]
}

/// What kind of segments a job sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment {
    Syn,
    Ack,
    /// As `Ack`, with the time.
    Probe,
}

/// A job, and the frame that the kernel is given for it.
pub(crate) fn job(family: Family, flows: u32, segment: Segment) -> (Job, Vec<u8>) {
    let frame = frame(family, segment);
    let mut job = Job { words: [0; WORDS], flow_mask: flows - 1, flags: 0, gap_ns: 0 };
    for (word, bytes) in job.words.iter_mut().zip(frame.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    if family == Family::V6 {
        job.flags |= IPV6;
    }
    if segment == Segment::Probe {
        job.flags |= STAMP;
    }
    (job, frame)
}

fn frame(family: Family, kind: Segment) -> Vec<u8> {
    let mut frame = [mac(BALANCER), mac(GENERATOR)].concat();
    let (from, to) = (octets(source(family)), octets(family.vip()));
    // What the program puts into each frame adds up to 0xffff twice: address and port, each with
    // its inverse. For checksums it is as if it were these.
    let (address, sequence, port) = (0u16, [0xffffu16, 0xdfff], crate::abi::FIRST_PORT);
    let mut segment = Vec::with_capacity(SEGMENT);
    segment.extend(port.to_be_bytes());
    segment.extend(80u16.to_be_bytes());
    segment.extend(sequence.map(u16::to_be_bytes).concat());
    segment.extend((if kind == Segment::Probe { STAMPED } else { MAGIC }).to_be_bytes());
    segment.extend([5 << 4, if kind == Segment::Syn { 0x02 } else { 0x10 }]);
    segment.extend(0xffffu16.to_be_bytes());
    segment.resize(SEGMENT, 0);
    let pseudo = [&from[..], &to, &[0, 6, 0, SEGMENT as u8]].concat();
    let sum = checksum(&[pseudo, segment.clone()].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    match family {
        Family::V4 => {
            let length = (FRAME4 - 14) as u16;
            let mut ip = vec![0x45, 0];
            ip.extend(length.to_be_bytes());
            ip.extend((!address).to_be_bytes());
            // Don't fragment; a TTL of 64.
            ip.extend([0x40, 0, 64, 6, 0, 0]);
            ip.extend([from, to].concat());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(0x0800u16.to_be_bytes());
            frame.extend(ip);
        }
        Family::V6 => {
            frame.extend(0x86ddu16.to_be_bytes());
            frame.extend([0x60, 0, 0, 0, 0, SEGMENT as u8, 6, 64]);
            frame.extend([from, to].concat());
        }
    }
    frame.extend(segment);
    debug_assert_eq!(frame.len(), if family == Family::V4 { FRAME4 } else { FRAME6 });
    frame
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair[1]);
    let sum: u32 = bytes.chunks_exact(2).map(word).sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    !((sum >> 16) + (sum & 0xffff)) as u16
}
