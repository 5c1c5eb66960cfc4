//! The XDP program of `lb decap`, for backends behind tunnels. Its packet path is
//! [`lb_common::decap`]; here are its edges: how a frame comes in, and the kernel's maps.
//!
//! Every frame ends in one counted verdict, and passes to the kernel or is dropped.
#![no_std]
#![no_main]

mod bare;
#[expect(dead_code, reason = "the balancer asks frames for more")]
mod frame;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_action};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, LpmTrie};
use aya_ebpf::programs::XdpContext;
use lb_common::abi::{Address, AddressKey, list_word};
use lb_common::decap::{self, DecapMaps, LIST};
use lb_common::verdict::{Kind, ROW, Verdict};

use crate::frame::XdpFrame;

/// What of an [`AddressKey`] is matched: list and address.
#[repr(C)]
struct Listed {
    list: u32,
    address: Address,
}
const _: () = assert!(size_of::<Key<Listed>>() == size_of::<AddressKey>());

/// Sources that may send tunnels. The value says nothing; it is no larger than the key's words,
/// as it lies behind the key, aligned as that is.
#[map]
static SOURCES: LpmTrie<Listed, u32> = LpmTrie::with_max_entries(8, 0);
/// Verdicts; as the balancer's, row = processor × [`ROW`].
#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(ROW, BPF_F_MMAPABLE);

/// UDP port of GUE, host order: a constant to the verifier.
#[unsafe(no_mangle)]
static GUE_PORT: Global<u32> = Global::new(6080);

/// The maps above, as the packet path sees them.
struct KernelMaps;

impl DecapMaps for KernelMaps {
    #[inline(always)]
    fn gue_port(&self) -> u32 {
        GUE_PORT.load()
    }

    #[inline(always)]
    fn allowed(&self, family: u32, source: &Address) -> bool {
        let listed = Listed { list: list_word(LIST, family), address: *source };
        SOURCES.get(Key::new(8 * size_of::<Listed>() as u32, listed)).is_some()
    }
}

/// Runs for every frame an interface receives.
///
/// Inlined into the entry that `#[xdp]` makes around it, whose frame is then the only one.
#[xdp]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the shape that `#[xdp]` calls")]
pub(crate) fn decap(ctx: XdpContext) -> u32 {
    let verdict = decap::run(&KernelMaps, &mut XdpFrame(ctx.ctx));
    count(verdict);
    match verdict.kind() {
        Kind::Pass => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn count(verdict: Verdict) {
    // SAFETY: a plain helper call.
    let processor = unsafe { bpf_get_smp_processor_id() };
    if let Some(count) = COUNTERS.get_ptr_mut(processor * ROW + verdict as u32) {
        // SAFETY: the row is this processor's, and XDP programs do not preempt each other on
        // one, so a plain add loses nothing.
        unsafe { *count += 1 };
    }
}
