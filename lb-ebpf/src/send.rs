//! How a rewritten frame leaves: back out of its interface, out of another, or not at all.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use lb_common::abi::{IFINDEX_INGRESS, IFINDEX_LOCAL};
use lb_common::path::Sent;
use lb_common::verdict::Verdict;

use crate::maps;

/// Sends the frame. Its backend was counted on the way; a reply is counted here.
#[inline(always)]
pub(crate) fn send(sent: Sent, ingress: u32) -> u32 {
    if sent.row == Sent::TO_CLIENT {
        maps::count_verdict(Verdict::NatReply);
    }
    if sent.ifindex == ingress || sent.ifindex == IFINDEX_INGRESS {
        return xdp_action::XDP_TX;
    }
    if sent.ifindex == IFINDEX_LOCAL {
        return xdp_action::XDP_PASS;
    }
    // By the map of devices, so that frames of one poll leave in bulk on every kernel. An interface
    // that is not listed yet, at start, takes frames one by one.
    maps::redirect(sent.ifindex).unwrap_or_else(|| {
        // SAFETY: a plain helper call. The daemon attaches the program to every interface it names
        // as a next hop, so the driver can transmit; `XDP_REDIRECT` is the helper's own answer.
        unsafe { bpf_redirect(sent.ifindex, 0) as u32 }
    })
}
