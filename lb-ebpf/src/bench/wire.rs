//! Programs of the benchmark `wire`; no part of the product.
//!
//! `load` and `probe` make frames, one flow after the other, when the process runs them as live
//! frames. `sink` is the far end: it looks at every frame of theirs and counts it. `bounce` is the
//! least that an XDP program can do to a frame that is to go back, and `pass` lets the kernel have
//! all.
//!
//! Frames are made so that all flows have the same checksums: what varies is there twice, the
//! second time inverted (source address and port, and in the sequence number). So a frame says
//! what its source was, whatever became of it on the way.
#![no_std]
#![no_main]

#[path = "../bare.rs"]
mod bare;
mod wire_abi;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use lb_common::packet::{Head, Packet};

use crate::wire_abi::*;

/// By [`LOAD`] and [`PROBE`].
#[map]
static JOBS: Array<Job> = Array::with_max_entries(2, 0);
#[map]
static STATES: Array<State> = Array::with_max_entries(2, 0);
#[map]
static EXPECT: Array<Expect> = Array::with_max_entries(1, 0);
#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);
#[map]
static LATENCY: PerCpuArray<u64> = PerCpuArray::with_max_entries(BUCKETS, 0);
/// By flow: pass × 256 + backend.
#[map]
static BACKEND_OF: Array<u32> = Array::with_max_entries(FLOWS, 0);

/// How far a job is.
#[repr(C)]
struct State {
    made: u64,
    /// When the next burst may begin.
    due_ns: u64,
}

#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
fn load(ctx: XdpContext) -> u32 {
    make(&ctx, LOAD).unwrap_or(xdp_action::XDP_ABORTED)
}

#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
fn probe(ctx: XdpContext) -> u32 {
    make(&ctx, PROBE).unwrap_or(xdp_action::XDP_ABORTED)
}

#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
fn sink(ctx: XdpContext) -> u32 {
    let Some(counter) = examine(packet(&ctx)) else { return xdp_action::XDP_PASS };
    if let Some(count) = COUNTS.get_ptr_mut(counter) {
        // SAFETY: the row is this processor's, and XDP programs do not preempt each other on one.
        unsafe { *count += 1 };
    }
    xdp_action::XDP_DROP
}

#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
fn bounce(ctx: XdpContext) -> u32 {
    let Some(head) = packet(&ctx).head::<14>() else { return xdp_action::XDP_PASS };
    // Only what can be a packet of ours: the kernel's own traffic would go in circles.
    if head.word16::<12>() != ETHERTYPE4 && head.word16::<12>() != ETHERTYPE6 {
        return xdp_action::XDP_PASS;
    }
    let [a, b, c] = [head.word32::<0>(), head.word32::<4>(), head.word32::<8>()];
    head.set_word32::<0>(b >> 16 | c << 16);
    head.set_word32::<4>(c >> 16 | a << 16);
    head.set_word32::<8>(a >> 16 | b << 16);
    xdp_action::XDP_TX
}

#[xdp]
#[inline(always)]
fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

const ETHERTYPE4: u16 = 0x0800u16.to_be();
const ETHERTYPE6: u16 = 0x86ddu16.to_be();
const TCP: u8 = 6;
const IN_IP4: u8 = 4;
const IN_IP6: u8 = 41;

#[inline(always)]
fn packet(ctx: &XdpContext) -> Packet<'_> {
    // SAFETY: the frame lies between the two, and is this program's for its run.
    unsafe { Packet::from_range(ctx.data(), ctx.data_end()) }
}

/// Makes the next frame of a job.
#[inline(always)]
fn make(ctx: &XdpContext, index: u32) -> Option<u32> {
    let job = JOBS.get(index)?;
    let state = STATES.get_ptr_mut(index)?;
    // SAFETY: one thread runs a job, and this program alone uses its state.
    let state = unsafe { &mut *state };
    let number = state.made;
    state.made += 1;
    if job.gap_ns != 0 && number.is_multiple_of(BURST) {
        wait(job, state);
    }

    let flow = number as u32 & job.flow_mask;
    let address = (flow as u16).to_be();
    let port = (FIRST_PORT + (flow >> 16) as u16).to_be();
    let packet = packet(ctx);
    if job.flags & IPV6 == 0 {
        let head = packet.head::<FRAME4>()?;
        put_headers!(head, job, 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
        // The identification.
        head.set_word16::<18>(!address);
        head.set_word16::<28>(address);
        put_transport(packet.part::<34, 0, SEGMENT>(0)?, address, port, job.flags);
    } else {
        let head = packet.head::<FRAME6>()?;
        put_headers!(head, job, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
        head.set_word16::<36>(address);
        put_transport(packet.part::<54, 0, SEGMENT>(0)?, address, port, job.flags);
    }
    Some(if job.flags & DROP == 0 { xdp_action::XDP_TX } else { xdp_action::XDP_DROP })
}

macro_rules! put_headers {
    ($head:ident, $job:ident, $($word:literal)+) => {
        $($head.set_word32::<{ 4 * $word }>($job.words[$word]);)+
    };
}
use put_headers;

#[inline(always)]
fn put_transport(segment: Head<'_, SEGMENT>, address: u16, port: u16, flags: u32) {
    segment.set_word16::<0>(port);
    segment.set_word16::<4>(!address);
    segment.set_word16::<6>(!port);
    if flags & STAMP != 0 {
        // SAFETY: a plain helper call.
        let now = unsafe { bpf_ktime_get_ns() };
        segment.set_word32::<STAMP_AT>(now as u32);
        segment.set_word32::<{ STAMP_AT + 4 }>((now >> 32) as u32);
    }
}

/// Waits until the next burst may begin; a late one is not caught up with.
#[inline(always)]
fn wait(job: &Job, state: &mut State) {
    // SAFETY: a plain helper call.
    let mut now = unsafe { bpf_ktime_get_ns() };
    // Verifier: it wants a bound. A turn takes some 20 ns.
    for _ in 0..8192 {
        if now >= state.due_ns {
            break;
        }
        // SAFETY: as above.
        now = unsafe { bpf_ktime_get_ns() };
    }
    state.due_ns = now + job.gap_ns;
}

/// Which counter a frame is counted in; `None` if it is none of ours.
#[inline(always)]
fn examine(packet: Packet<'_>) -> Option<u32> {
    let head = packet.head::<34>()?;
    // What is in a tunnel, and its place behind the Ethernet header.
    let (inner, offset) = match head.word16::<12>() {
        ETHERTYPE4 => (head.u8::<23>(), 20),
        ETHERTYPE6 => (head.u8::<20>(), 40),
        _ => return None,
    };
    match inner {
        IN_IP4 => examine4(packet, head, offset),
        IN_IP6 => examine6(packet, head, offset),
        TCP if offset == 20 => examine4(packet, head, 0),
        TCP => examine6(packet, head, 0),
        _ => None,
    }
}

#[inline(always)]
fn examine4(packet: Packet<'_>, ethernet: Head<'_, 34>, offset: u32) -> Option<u32> {
    let ip = packet.part::<14, 63, 50>(offset)?;
    let seen = Seen {
        source: ip.word16::<14>(),
        destination: ip.word16::<18>(),
        port: ip.word16::<20>(),
        sequence: [ip.word16::<24>(), ip.word16::<26>()],
        acknowledgement: ip.word32::<28>(),
        stamp: u64::from(ip.word32::<{ 20 + STAMP_AT }>())
            | u64::from(ip.word32::<{ 24 + STAMP_AT }>()) << 32,
    };
    judge(&seen, ethernet, || {
        let header = sum!(ip, 0 4 8 12 16);
        let segment = sum!(ip, 12 16 20 24 28 32 36 40 44) + u64::from(ip.word16::<48>());
        is_whole(header) && is_whole(segment + PSEUDO)
    })
}

#[inline(always)]
fn examine6(packet: Packet<'_>, ethernet: Head<'_, 34>, offset: u32) -> Option<u32> {
    let ip = packet.part::<14, 63, 70>(offset)?;
    let seen = Seen {
        source: ip.word16::<22>(),
        destination: ip.word16::<38>(),
        port: ip.word16::<40>(),
        sequence: [ip.word16::<44>(), ip.word16::<46>()],
        acknowledgement: ip.word32::<48>(),
        stamp: u64::from(ip.word32::<{ 40 + STAMP_AT }>())
            | u64::from(ip.word32::<{ 44 + STAMP_AT }>()) << 32,
    };
    judge(&seen, ethernet, || {
        let segment = sum!(ip, 8 12 16 20 24 28 32 36 40 44 48 52 56 60 64);
        is_whole(segment + u64::from(ip.word16::<68>()) + PSEUDO)
    })
}

/// Protocol and length of the pseudo header, as they lie in memory.
const PSEUDO: u64 = (TCP as u16).to_be() as u64 + (SEGMENT as u16).to_be() as u64;

macro_rules! sum {
    ($head:ident, $($at:literal)+) => { 0u64 $(+ u64::from($head.word32::<$at>()))+ };
}
use sum;

/// Whether a sum of words that has its checksum in it says that nothing was damaged (RFC 1071).
#[inline(always)]
fn is_whole(sum: u64) -> bool {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum == 0xffff
}

/// Fields of a packet, as they lie in memory; of addresses the last two bytes.
struct Seen {
    source: u16,
    destination: u16,
    port: u16,
    sequence: [u16; 2],
    acknowledgement: u32,
    stamp: u64,
}

#[inline(always)]
fn judge(seen: &Seen, ethernet: Head<'_, 34>, is_whole: impl FnOnce() -> bool) -> Option<u32> {
    match u32::from_be(seen.acknowledgement) {
        MAGIC => {}
        STAMPED => {
            record(seen.stamp);
            return Some(PROBES);
        }
        _ => return None,
    }
    let expect = EXPECT.get(0)?;
    const PREFIX: u32 = u32::from_ne_bytes([MAC[0], MAC[1], MAC[2], MAC[3]]);
    if ethernet.word32::<0>() != PREFIX || ethernet.u8::<4>() != MAC[4] {
        return Some(WRONG_MAC);
    }
    let backend = u32::from(ethernet.u8::<5>()) & 63;
    let same_source = seen.source == !seen.sequence[0] && seen.port == !seen.sequence[1];
    let to = u32::from(u16::from_be(seen.destination) & 0xff);
    if (expect.flags & SAME_SOURCE != 0 && !same_source)
        || (expect.flags & TO_VIP != 0 && u32::from(seen.destination) != expect.vip)
        || (expect.flags & TO_BACKEND != 0 && to != backend + u32::from(FIRST_ADDRESS))
    {
        return Some(WRONG_ADDRESS);
    }
    if expect.flags & DEEP != 0 {
        if !is_whole() {
            return Some(WRONG_CHECKSUM);
        }
        let address = u32::from(u16::from_be(!seen.sequence[0]));
        let port = u32::from(u16::from_be(!seen.sequence[1]).wrapping_sub(FIRST_PORT));
        let before = BACKEND_OF.get_ptr_mut((address | port << 16) & (FLOWS - 1))?;
        // SAFETY: an element of the map, which is there as long as the program.
        let before = unsafe { &mut *before };
        let now = expect.pass << 8 | backend;
        if *before >> 8 == expect.pass && *before != now {
            return Some(WRONG_BACKEND);
        }
        *before = now;
    }
    Some(backend)
}

#[inline(always)]
fn record(sent_ns: u64) {
    // SAFETY: a plain helper call.
    let took = unsafe { bpf_ktime_get_ns() }.wrapping_sub(sent_ns) >> BUCKET_SHIFT;
    if let Some(count) = LATENCY.get_ptr_mut(took.min(u64::from(BUCKETS) - 1) as u32) {
        // SAFETY: the row is this processor's, and XDP programs do not preempt each other on one.
        unsafe { *count += 1 };
    }
}
