//! How a rewritten frame leaves: back out of its interface, or out of another.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::XdpContext;
use lb_common::path::Sent;
use lb_common::verdict::Verdict;

use crate::maps;

/// Index of the interface the frame came by.
#[inline(always)]
pub(crate) fn ingress(ctx: &XdpContext) -> u32 {
    // SAFETY: the kernel passes a valid `xdp_md` for the program's run.
    unsafe { (*ctx.ctx).ingress_ifindex }
}

/// Sends the frame. Its backend was counted on the way; a reply is counted here.
#[inline(always)]
pub(crate) fn send(sent: Sent, ingress: u32) -> u32 {
    if sent.row == Sent::TO_CLIENT {
        maps::count_verdict(Verdict::NatReply);
    }
    if sent.ifindex == ingress {
        return xdp_action::XDP_TX;
    }
    // SAFETY: a plain helper call. The daemon attaches the program to every interface it names
    // as a next hop, so the driver can transmit; `XDP_REDIRECT` is the helper's own answer.
    unsafe { bpf_redirect(sent.ifindex, 0) as u32 }
}
