//! The tc programs that lead health probes along a client's way, and their answers back. What they do
//! with a packet is [`lb_common::probe`]; here are its edges: the kernel's packets and the map.
//!
//! A packet that is no probe's is left to whatever else there is, untouched.
#![no_std]
#![no_main]

mod bare;

use core::ptr::read_volatile;

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_MARK_MANGLED_0, BPF_F_NO_PREALLOC, BPF_F_PSEUDO_HDR,
    TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_proto,
};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::TcContext;
use lb_common::abi::{
    FEATURE_TUNNEL4, FEATURE_TUNNEL6, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, ProbeEntry,
    Settings,
};
use lb_common::checksum::Difference;
use lb_common::encap::overhead;
use lb_common::frame::Frame;
use lb_common::ip::{Ip, V6, ether_type};
use lb_common::packet::Packet;
use lb_common::probe::{self, End, ProbeMaps, Skb};

/// Probes in flight. Allocated when they are made: there are far fewer than there may be.
#[map]
static PROBES: HashMap<u32, ProbeEntry> = HashMap::with_max_entries(8, BPF_F_NO_PREALLOC);

/// Seed of the balancer's hashes: a probe's flow is spread as a client's with its ports.
#[unsafe(no_mangle)]
static SEED: Global<u64> = Global::new(0);
/// UDP port of GUE, host order.
#[unsafe(no_mangle)]
static GUE_PORT: Global<u32> = Global::new(6080);

/// The map and the constants above, as the path sees them.
struct KernelMaps;

impl ProbeMaps for KernelMaps {
    #[inline(always)]
    fn probe(&self, key: u32) -> Option<&ProbeEntry> {
        // SAFETY: the daemon writes an entry before the probe's first packet and removes it after
        // the last; one that is reused under a late packet is another probe's, which it does not match.
        unsafe { PROBES.get(key) }
    }

    #[inline(always)]
    fn settings(&self) -> Settings {
        Settings {
            seed: SEED.load(),
            gue_port: GUE_PORT.load(),
            features: FEATURE_TUNNEL4 | FEATURE_TUNNEL6,
            service_mask: 0,
            backend_rows: 0,
            nat_port_first: 0,
            nat_port_count: 0,
            flow_inserts: 0,
            icmp_rate: 0,
            client_mtu: 0,
            padding: 0,
        }
    }
}

/// A packet by its context, which is valid for the program's run.
struct KernelSkb(*mut __sk_buff);

impl Frame for KernelSkb {
    #[inline(always)]
    fn packet(&mut self) -> Packet<'_> {
        // Verifier: volatile, as in `XdpFrame`.
        // SAFETY: the context is valid, and what is between the two is the packet's until a helper
        // changes it, which takes `&mut self`.
        unsafe {
            let start = read_volatile(&raw const (*self.0).data) as usize;
            let end = read_volatile(&raw const (*self.0).data_end) as usize;
            Packet::from_range(start, end)
        }
    }

    /// Makes room for a tunnel's headers, behind the Ethernet header, which moves: in front of the
    /// frame, as for XDP, there is none to be had. The kernel notes what is inside of what, so that
    /// a checksum or a segmentation left to the device is done in the right place.
    #[inline(always)]
    fn move_head(&mut self, by: i32) -> Option<()> {
        const IPIP4: u32 = overhead(KIND_IPIP4);
        const IPIP6: u32 = overhead(KIND_IPIP6);
        const GUE4: u32 = overhead(KIND_GUE4);
        const GUE6: u32 = overhead(KIND_GUE6);
        let room = by.unsigned_abs();
        let inside = match room {
            IPIP4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
            IPIP6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
            GUE4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
            GUE6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
            _ => return None,
        };
        // SAFETY: a plain helper call on a valid context.
        let done =
            unsafe { bpf_skb_adjust_room(self.0, room as i32, BPF_ADJ_ROOM_MAC, inside.into()) };
        (done == 0).then_some(())
    }

    /// Nobody cuts probes.
    #[inline(always)]
    fn move_tail(&mut self, _: i32) -> Option<()> {
        None
    }
}

impl Skb for KernelSkb {
    #[inline(always)]
    fn mend(&mut self, at: u32, is_udp: bool, addresses: Difference) -> Option<()> {
        let zero_stays = if is_udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        let flags = u64::from(BPF_F_PSEUDO_HDR | zero_stays);
        // Size 0: the difference itself (`inet_proto_csum_replace_by_diff`).
        // SAFETY: a plain helper call on a valid context.
        let done = unsafe { bpf_l4_csum_replace(self.0, at, 0, addresses.word().into(), flags) };
        (done == 0).then_some(())
    }

    #[inline(always)]
    fn account(&mut self, written: Difference) {
        // Refused where no device has summed the packet up, and nothing is to be done then.
        // SAFETY: a plain helper call on a valid context.
        unsafe { bpf_csum_update(self.0, written.word()) };
    }

    #[inline(always)]
    fn change_family(&mut self, family: u32) -> Option<()> {
        let protocol = if family == V6::FAMILY { ether_type::IPV6 } else { ether_type::IPV4 };
        // SAFETY: a plain helper call on a valid context.
        let done = unsafe { bpf_skb_change_proto(self.0, protocol.to_be(), 0) };
        (done == 0).then_some(())
    }
}

/// Runs for every packet that leaves by an interface.
#[classifier]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[classifier]` calls")]
pub(crate) fn probe_leave(ctx: TcContext) -> i32 {
    action(probe::leave(&KernelMaps, &mut KernelSkb(ctx.skb.skb)))
}

/// Runs for every packet that comes by an interface to the kernel, after XDP.
#[classifier]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[classifier]` calls")]
pub(crate) fn probe_arrive(ctx: TcContext) -> i32 {
    action(probe::arrive(&KernelMaps, &mut KernelSkb(ctx.skb.skb)))
}

/// What is not spoilt goes on to the next program, or to where it goes without one (`TCX_NEXT` has
/// the same number).
#[inline(always)]
fn action(end: End) -> i32 {
    match end {
        End::Other | End::Turned => TC_ACT_UNSPEC,
        End::Spoilt => TC_ACT_SHOT,
    }
}
