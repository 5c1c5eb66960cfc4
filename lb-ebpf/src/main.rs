//! The XDP program. Its packet path is [`lb_common::path`], ten lines that run on a laptop too;
//! here are its edges: how a frame comes in, how it leaves, and the kernel's maps.
//!
//! Every frame ends in one counted verdict. Nothing here can panic or loop without bound.
#![no_std]
#![no_main]

mod maps;
mod send;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::packet::Packet;
use lb_common::path;
use lb_common::verdict::Verdict;

use crate::maps::KernelMaps;

/// Runs for every frame an interface receives.
///
/// Inlined into the entry that `#[xdp]` makes around it. Verifier: kernel 6.1 counts each frame as
/// a multiple of 32 bytes, an empty one as 32: with the entry's own, "combined stack size of 4
/// calls is 544. Too large".
#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
pub(crate) fn holdfast(ctx: XdpContext) -> u32 {
    let ingress = send::ingress(&ctx);
    // SAFETY: the frame lies between `data` and `data_end` for as long as the program runs.
    let packet = unsafe { Packet::from_range(ctx.data(), ctx.data_end()) };
    match path::run(&KernelMaps, packet, ingress) {
        Ok(sent) => send::send(sent, ingress),
        Err(verdict) => {
            maps::count_verdict(verdict);
            action(&ctx, verdict)
        }
    }
}

/// What the kernel does with a frame that was not sent.
#[inline(always)]
fn action(ctx: &XdpContext, verdict: Verdict) -> u32 {
    use lb_common::verdict::Kind;
    match verdict.kind() {
        Kind::Pass => xdp_action::XDP_PASS,
        _ => {
            maps::log_drop(ctx, verdict);
            xdp_action::XDP_DROP
        }
    }
}

/// Never called: the program has no panic path, or it would not load.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// `bpf_redirect` and a few others are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
