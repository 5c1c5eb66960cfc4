//! The frame that the kernel hands to the program.

use core::ptr::read_volatile;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use lb_common::frame::Frame;
use lb_common::packet::Packet;

/// A frame by its context, which is valid for the program's run.
pub(crate) struct XdpFrame(pub(crate) *mut xdp_md);

impl XdpFrame {
    /// Index of the interface the frame came by.
    #[inline(always)]
    pub(crate) fn ingress(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.0).ingress_ifindex }
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn packet(&mut self) -> Packet<'_> {
        // Verifier: volatile, or the compiler passes these fields, not the context, to functions
        // that are not inlined ("arg#0 expects pointer to ctx").
        // SAFETY: the context is valid, and the frame lies between the two for as long as its
        // ends are not moved, which takes `&mut self`.
        unsafe {
            let start = read_volatile(&raw const (*self.0).data) as usize;
            let end = read_volatile(&raw const (*self.0).data_end) as usize;
            Packet::from_range(start, end)
        }
    }

    #[inline(always)]
    fn move_head(&mut self, by: i32) -> Option<()> {
        // SAFETY: a plain helper call on a valid context.
        (unsafe { bpf_xdp_adjust_head(self.0, by) } == 0).then_some(())
    }

    #[inline(always)]
    fn move_tail(&mut self, by: i32) -> Option<()> {
        // SAFETY: as above.
        (unsafe { bpf_xdp_adjust_tail(self.0, by) } == 0).then_some(())
    }
}
