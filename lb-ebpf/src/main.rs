//! The XDP program. Its packet path is [`lb_common::path`], ten lines that run on a laptop too;
//! here are its edges: how a frame comes in, how it leaves, and the kernel's maps.
//!
//! Every frame ends in one counted verdict. Nothing here can panic or loop without bound.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod bare;
mod frame;
mod maps;
mod parts;
mod send;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::path::{self, Part};
use lb_common::straight::NOT_STRAIGHT;
use lb_common::verdict::Verdict;

use crate::frame::XdpFrame;

/// Runs for every frame an interface receives.
///
/// Inlined into the entry that `#[xdp]` makes around it. Verifier: kernel 6.1 counts each frame as
/// a multiple of 32 bytes, an empty one as 32: with the entry's own, "combined stack size of 4
/// calls is 544. Too large".
#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
pub(crate) fn holdfast(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame(ctx.ctx);
    let answer = parts::go_straight(ctx.ctx);
    if answer != NOT_STRAIGHT {
        return answer as u32;
    }
    let ingress = frame.ingress();
    let end =
        path::run_by(&maps::KernelMaps, &mut frame, ingress, |part, frame, argument| match part {
            Part::Balance4 => parts::balance4(frame.0, argument),
            Part::Balance6 => parts::balance6(frame.0, argument),
            Part::Ping4 => parts::ping4(frame.0),
            Part::Ping6 => parts::ping6(frame.0),
            Part::Quoted4 => parts::quoted4(frame.0),
            Part::Quoted6 => parts::quoted6(frame.0),
            Part::Tell4 => parts::tell4(frame.0, argument),
            Part::Tell6 => parts::tell6(frame.0, argument),
        });
    match path::from_word(end) {
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
        // An answer to its sender.
        Kind::Send => xdp_action::XDP_TX,
        _ => {
            maps::log_drop(ctx, verdict);
            xdp_action::XDP_DROP
        }
    }
}
