//! Classic BPF for the packet sockets: only "too big" and "unreachable" messages about tunnels wake
//! the daemon.
//!
//! They run on every packet that the kernel gets, so the most telling test comes first. Offsets
//! are from the IP header on; a load beyond the end refuses the packet.

use libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MSH,
    BPF_RET, BPF_W, SKF_AD_OFF, SKF_AD_PKTTYPE,
};
use socket2::SockFilter;

use super::message::{
    ANY_FRAGMENT, ICMP, ICMP_HEADER, ICMP_UNREACHABLE, ICMPV6, ICMPV6_TOO_BIG, ICMPV6_UNREACHABLE,
    TUNNELS,
};

/// Bytes of a packet that are delivered. A "too big" has at most 576 (IPv4) or 1280 (IPv6).
pub(super) const SNAP: usize = 2048;

/// Protocol in an IPv4 header, fragment word there, next header in an IPv6 header.
const V4_PROTOCOL: u32 = 9;
const V4_FRAGMENT: u32 = 6;
const V6_NEXT_HEADER: u32 = 6;
const V6_HEADER: u32 = 40;

enum Step {
    Load(u32, u32),
    /// Goes on if the loaded value is this.
    Is(u32),
    /// Goes on if the loaded value has none of these bits.
    Lacks(u32),
}

/// Lets through what [`super::message::read`] may take, of IPv4.
pub(super) fn v4() -> Vec<SockFilter> {
    use Step::{Is, Lacks, Load};
    let steps = [
        Load(BPF_LD | BPF_B | BPF_ABS, V4_PROTOCOL),
        Is(u32::from(ICMP)),
        to_this_host(),
        Is(u32::from(libc::PACKET_HOST)),
        Load(BPF_LD | BPF_H | BPF_ABS, V4_FRAGMENT),
        Lacks(u32::from(ANY_FRAGMENT)),
        // The header's length, as the base of the loads that follow.
        Load(BPF_LDX | BPF_B | BPF_MSH, 0),
        Load(BPF_LD | BPF_B | BPF_IND, 0),
        Is(u32::from(ICMP_UNREACHABLE)),
        Load(BPF_LD | BPF_B | BPF_IND, ICMP_HEADER as u32 + V4_PROTOCOL),
    ];
    assemble(&steps)
}

/// Lets through what [`super::message::read`] may take, of IPv6.
pub(super) fn v6() -> Vec<SockFilter> {
    use Step::{Is, Lacks, Load};
    let steps = [
        Load(BPF_LD | BPF_B | BPF_ABS, V6_NEXT_HEADER),
        Is(u32::from(ICMPV6)),
        to_this_host(),
        Is(u32::from(libc::PACKET_HOST)),
        Load(BPF_LD | BPF_B | BPF_ABS, V6_HEADER),
        // And "time exceeded", which is rare enough to be left to the reader.
        Lacks(!u32::from(ICMPV6_UNREACHABLE | ICMPV6_TOO_BIG)),
        Load(BPF_LD | BPF_B | BPF_ABS, V6_HEADER + ICMP_HEADER as u32 + V6_NEXT_HEADER),
    ];
    assemble(&steps)
}

/// Whose frame it was by its MAC address.
const fn to_this_host() -> Step {
    Step::Load(BPF_LD | BPF_W | BPF_ABS, (SKF_AD_OFF + SKF_AD_PKTTYPE) as u32)
}

/// The steps, and then: the value loaded last is a tunnel's protocol.
fn assemble(steps: &[Step]) -> Vec<SockFilter> {
    let refuse = steps.len() + TUNNELS.len();
    let accept = refuse + 1;
    // Jumps count from the next instruction; these programs are far shorter than 255.
    let jump = |from: usize, to: usize| (to - from - 1) as u8;
    let is = BPF_JMP | BPF_JEQ | BPF_K;
    let tests = steps.iter().enumerate().map(|(at, step)| match *step {
        Step::Load(code, k) => SockFilter::new(code as u16, 0, 0, k),
        Step::Is(k) => SockFilter::new(is as u16, 0, jump(at, refuse), k),
        Step::Lacks(k) => {
            SockFilter::new((BPF_JMP | BPF_JSET | BPF_K) as u16, jump(at, refuse), 0, k)
        }
    });
    let tunnels = TUNNELS.iter().zip(steps.len()..).map(|(protocol, at)| {
        SockFilter::new(is as u16, jump(at, accept), 0, u32::from(*protocol))
    });
    let ends = [0, SNAP as u32].map(|bytes| SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, bytes));
    tests.chain(tunnels).chain(ends).collect()
}

#[cfg(test)]
mod tests;
