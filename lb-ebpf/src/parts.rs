//! The parts of the path as global functions: the verifier checks each by itself, once, whoever
//! calls it, and none adds to another's stack but the one that calls it. All of it in one function
//! is "BPF program is too large. Processed 1000001 insn".

use aya_ebpf::bindings::{xdp_action, xdp_md};
use lb_common::abi::Address;
use lb_common::find_service;
use lb_common::ip::{V4, V6};
use lb_common::path;
use lb_common::verdict::Kind;
use lb_common::{pick, straight};

use crate::frame::XdpFrame;
use crate::maps::{self, KernelMaps};
use crate::send;

/// The straight way, to its end: the action, or `straight::NOT_STRAIGHT`. Not in the entry: its
/// stack would be added to that of every part ("combined stack size of 4 calls is 560. Too large").
#[unsafe(export_name = "holdfast_straight")]
#[inline(never)]
pub(crate) extern "C" fn go_straight(ctx: *mut xdp_md) -> u64 {
    let mut frame = XdpFrame(ctx);
    let ingress = frame.ingress();
    straight::run(&KernelMaps, &mut frame, ingress, |end| {
        u64::from(match end {
            Ok(sent) => send::send(sent, ingress),
            Err(verdict) => {
                maps::count_verdict(verdict);
                if verdict.kind() == Kind::Pass {
                    xdp_action::XDP_PASS
                } else {
                    xdp_action::XDP_DROP
                }
            }
        })
    })
}

macro_rules! parts {
    ($($name:ident = $symbol:literal: $part:ident::<$family:ident>($($argument:ident)?);)*) => {$(
        #[unsafe(export_name = $symbol)]
        #[inline(never)]
        pub(crate) extern "C" fn $name(ctx: *mut xdp_md $(, $argument: u64)?) -> u64 {
            path::$part::<$family, _, _>(&KernelMaps, &mut XdpFrame(ctx) $(, $argument)?)
        }
    )*};
}

parts! {
    balance4 = "holdfast_balance4": balance::<V4>(arrival);
    balance6 = "holdfast_balance6": balance::<V6>(arrival);
    ping4 = "holdfast_ping4": ping::<V4>();
    ping6 = "holdfast_ping6": ping::<V6>();
    quoted4 = "holdfast_quoted4": quoted::<V4>();
    quoted6 = "holdfast_quoted6": quoted::<V6>();
    tell4 = "holdfast_tell4": tell::<V4>(end);
    tell6 = "holdfast_tell6": tell::<V6>(end);
}

macro_rules! look_ups {
    ($($name:ident = $symbol:literal: $look_up:ident::<$family:ident>($($key:ident)?), $none:expr;)*) => {$(
        #[unsafe(export_name = $symbol)]
        #[inline(never)]
        pub(crate) extern "C" fn $name(address: *const Address $(, $key: u32)?) -> u32 {
            // Verifier: a global function's pointers may be null.
            // SAFETY: else it is a caller's reference.
            match unsafe { address.as_ref() } {
                Some(address) => {
                    find_service::$look_up::<$family, _>(&KernelMaps, address $(, $key)?)
                }
                None => $none,
            }
        }
    )*};
}

look_ups! {
    wider4 = "holdfast_wider4": wider::<V4>(key), find_service::NOWHERE;
    wider6 = "holdfast_wider6": wider::<V6>(key), find_service::NOWHERE;
    address4 = "holdfast_address4": find_address::<V4>(), 0;
    address6 = "holdfast_address6": find_address::<V6>(), 0;
}

/// [`pick::walk`], for all that need it.
#[unsafe(export_name = "holdfast_walk")]
#[inline(never)]
pub(crate) extern "C" fn walk(table: u64, service: u32, hash: u64) -> u64 {
    pick::walk(&KernelMaps, table, service, hash).0
}
