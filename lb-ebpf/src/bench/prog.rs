//! What `cargo xtask bench prog` runs in a test run of many packets, in which the kernel hands every
//! program what the last one left: this one takes off what was put in front, writes the next flow's
//! headers and calls the program under test in its place.
//!
//! Beside it are the floors that figures are compared with: programs that do as little as can be
//! done to send a packet.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[path = "../bare.rs"]
mod bare;

use core::arch::asm;
use core::ptr::read_volatile;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_action, xdp_md};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;

/// 32-bit words of a template behind the Ethernet header.
const WORDS: usize = 32;
/// Words that differ between flows.
const PATCHES: usize = 4;

/// The program under test, in place 0.
#[map]
static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Packets written so far.
#[map]
static NEXT: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// When every [`WINDOW`]th packet was written, in nanoseconds: a ring.
#[map]
static TIMES: Array<u64> = Array::with_max_entries(TIMES_KEPT, BPF_F_MMAPABLE);

/// Packets between two times; a power of two.
const WINDOW: u64 = 1 << 12;
const TIMES_KEPT: u32 = 256;

/// A word that differs between flows: `base + (flow >> shift & mask) << up`, big-endian.
#[repr(C)]
struct Patch {
    /// Its place, as an offset in the frame; 0 for none.
    at: u32,
    base: u32,
    shift: u32,
    mask: u32,
    up: u32,
}

/// All that a case has of its own. Constants to the verifier, as they are frozen before the load.
#[repr(C)]
struct Shape {
    /// Bytes of a frame.
    length: u32,
    /// Bytes in front of a frame when it was sent on.
    undo: u32,
    /// Flows less one, a power of two less one.
    flows: u32,
    /// Half of the bits that `flows` has.
    fold: u32,
    /// Ethernet type as it lies in memory.
    ether_type: u32,
    /// Words that are written anew, a bit for each: what no program changed is still there.
    words: u32,
    template: [u32; WORDS],
    patches: [Patch; PATCHES],
}

#[unsafe(no_mangle)]
static SHAPE: Shape = Shape {
    length: 64,
    undo: 0,
    flows: 0,
    fold: 0,
    ether_type: 0x0008,
    words: 0,
    template: [0; WORDS],
    patches: [const { Patch { at: 0, base: 0, shift: 0, mask: 0, up: 0 } }; PATCHES],
};

macro_rules! shape {
    ($($field:tt)+) => {
        // SAFETY: a part of a static; volatile, as it is not what the compiler sees here.
        unsafe { read_volatile(&raw const SHAPE.$($field)+) }
    };
}

/// Writes the next packet and hands it to the program under test.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
pub(crate) fn bench(ctx: XdpContext) -> u32 {
    if prepare(ctx.ctx).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: place 0 holds an XDP program or none. The call does not return, unless there is none.
    unsafe { UNDER_TEST.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn prepare(ctx: *mut xdp_md) -> Option<()> {
    let length = shape!(length);
    let undo = shape!(undo);
    if undo != 0 {
        let now = frame_length(ctx);
        if now != length {
            // SAFETY: a plain helper call on a valid context.
            (unsafe { bpf_xdp_adjust_head(ctx, undo as i32) } == 0).then_some(())?;
            let now = frame_length(ctx);
            if now != length {
                // SAFETY: as above.
                let moved = unsafe { bpf_xdp_adjust_tail(ctx, length.wrapping_sub(now) as i32) };
                (moved == 0).then_some(())?;
            }
        }
    }
    let flow = next_flow()?;
    let start = head::<64>(ctx)?;
    store32::<0>(start, 0x0000_0002);
    store32::<4>(start, 0x0002_bb00);
    store32::<8>(start, 0xcc00_0000);
    store16::<12>(start, shape!(ether_type));
    write_template(ctx, start)?;
    macro_rules! patch {
        ($($n:literal)*) => {$(
            let at = shape!(patches[$n].at);
            if at != 0 {
                let field = flow >> (shape!(patches[$n].shift) & 31) & shape!(patches[$n].mask);
                let value = shape!(patches[$n].base).wrapping_add(field << (shape!(patches[$n].up) & 31));
                store_at(ctx, at, value.to_be())?;
            }
        )*};
    }
    patch!(0 1 2 3);
    Some(())
}

/// The number of the next flow: all are met, in an order that looks like none.
#[inline(always)]
fn next_flow() -> Option<u32> {
    let counter = NEXT.get_ptr_mut(0)?;
    // SAFETY: an array element is valid for the program's run, and nobody else writes it.
    let next = unsafe {
        *counter += 1;
        *counter
    };
    if next & (WINDOW - 1) == 0
        && let Some(time) = TIMES.get_ptr_mut((next / WINDOW) as u32 & (TIMES_KEPT - 1))
    {
        // SAFETY: as above, and a plain helper call.
        unsafe { *time = bpf_ktime_get_ns() };
    }
    let mixed = (next as u32).wrapping_mul(0x9e37_79b1) & shape!(flows);
    Some(mixed ^ mixed >> (shape!(fold) & 31))
}

#[inline(always)]
fn frame_length(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the context is valid for the program's run.
    unsafe { read_volatile(&raw const (*ctx).data_end) - read_volatile(&raw const (*ctx).data) }
}

/// The start of a frame that has `N` bytes.
#[inline(always)]
fn head<const N: usize>(ctx: *mut xdp_md) -> Option<*mut u8> {
    // SAFETY: as above.
    let (start, end) = unsafe {
        (
            read_volatile(&raw const (*ctx).data) as usize,
            read_volatile(&raw const (*ctx).data_end) as usize,
        )
    };
    (start + N <= end).then_some(start as *mut u8)
}

#[inline(always)]
fn store32<const AT: usize>(start: *mut u8, value: u32) {
    // SAFETY: within the bytes that `head` has compared; the verifier checks it again.
    unsafe {
        asm!("*(u32 *)({start} + {at}) = {value}", start = in(reg) start, at = const AT, value = in(reg) u64::from(value), options(nostack));
    }
}

#[inline(always)]
fn store16<const AT: usize>(start: *mut u8, value: u32) {
    // SAFETY: as above.
    unsafe {
        asm!("*(u16 *)({start} + {at}) = {value}", start = in(reg) start, at = const AT, value = in(reg) u64::from(value), options(nostack));
    }
}

/// Stores a word at an offset that is a constant to the verifier.
#[inline(always)]
fn store_at(ctx: *mut xdp_md, at: u32, value: u32) -> Option<()> {
    // SAFETY: as in `head`.
    let (start, end) = unsafe {
        (
            read_volatile(&raw const (*ctx).data) as usize,
            read_volatile(&raw const (*ctx).data_end) as usize,
        )
    };
    let mut place = start;
    // SAFETY: arithmetic of two registers.
    unsafe {
        asm!("{place} += {at}", place = inout(reg) place, at = in(reg) u64::from(at & 0xff),
            options(nostack, nomem));
    };
    if place + 4 > end {
        return None;
    }
    store32::<0>(place as *mut u8, value);
    Some(())
}

#[inline(always)]
fn write_template(ctx: *mut xdp_md, start: *mut u8) -> Option<()> {
    let words = shape!(words);
    macro_rules! near {
        ($($n:literal)*) => {$(
            if words >> $n & 1 != 0 {
                store32::<{ 14 + 4 * $n }>(start, shape!(template[$n]));
            }
        )*};
    }
    // Within the bytes that every frame has.
    near!(0 1 2 3 4 5 6 7 8 9 10 11);
    macro_rules! word {
        ($($n:literal)*) => {$(
            if words >> $n & 1 != 0 {
                let start = head::<{ 14 + 4 * $n + 4 }>(ctx)?;
                store32::<{ 14 + 4 * $n }>(start, shape!(template[$n]));
            }
        )*};
    }
    word!(12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    Some(())
}

/// The least a program can do with a packet that leaves where it came.
#[xdp]
pub(crate) fn floor_tx(_: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// The least with one that gets another header: room for it.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
pub(crate) fn floor_head(ctx: XdpContext) -> u32 {
    // SAFETY: a plain helper call on a valid context.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -20) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    xdp_action::XDP_TX
}

/// And the header, always the same.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
pub(crate) fn floor_encapsulate(ctx: XdpContext) -> u32 {
    // SAFETY: a plain helper call on a valid context.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -20) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    let Some(start) = head::<34>(ctx.ctx) else { return xdp_action::XDP_ABORTED };
    store32::<0>(start, 0x0100_0002);
    store32::<4>(start, 0x0002_0100);
    store32::<8>(start, 0xbb00_0000);
    store16::<12>(start, 0x0008);
    store32::<14>(start, 0x4a00_0045);
    store32::<18>(start, 0x0040_0000);
    store32::<22>(start, 0x1234_0440);
    store32::<26>(start, 0x0100_080a);
    store32::<30>(start, 0x0100_070a);
    xdp_action::XDP_TX
}
